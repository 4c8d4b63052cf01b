//! Words for people: progress and errors on standard error, data on standard output.

use std::io::IsTerminal;
use std::time::Instant;

/// Prints an error with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}

/// Prints a warning.
pub(crate) fn warning(text: &str) {
    eprintln!("warning: {text}");
}

/// Steps that are shown while they happen, with the time since the command began.
pub(crate) struct Steps {
    begun: Instant,
    terminal: bool,
    pending: Option<String>,
}

impl Steps {
    /// Starts the clock.
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), terminal: std::io::stderr().is_terminal(), pending: None }
    }

    /// Shows what is being waited for; on a terminal the line is replaced by the next step.
    pub(crate) fn waiting(&mut self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[K   … {text}");
            self.pending = Some(text.to_owned());
        }
    }

    /// Shows a step that is done.
    pub(crate) fn done(&mut self, text: &str) {
        if self.pending.take().is_some() {
            eprint!("\r\x1b[K");
        }
        eprintln!(" ✓ {text:<34} {:>6.2} s", self.begun.elapsed().as_secs_f64());
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        // An error is about to be printed: not behind a half-written line.
        if self.pending.is_some() {
            eprintln!();
        }
    }
}

/// Rows in columns as kubectl prints them: three spaces apart, no trailing blanks.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up_and_lines_do_not_trail() {
        let rows =
            [["NAME", "IP"], ["a", "fd00::1"], ["longer", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(super::table(&rows), "NAME     IP\na        fd00::1\nlonger\n");
    }
}
