//! Words for people: progress and errors on standard error, data on standard output.

use std::io::{ErrorKind, IsTerminal, Write};
use std::time::Instant;

use anyhow::{Context, Result};

/// Prints data; a reader that has seen enough and closes its pipe is no error.
pub(crate) fn print(data: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(data.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("can't write to standard output"),
    }
}

/// Says something to whoever is there to read it.
pub(crate) fn say(text: &str) {
    // Where nobody listens, there is nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Prints an error with its causes.
pub(crate) fn error(error: &anyhow::Error) {
    say(&format!("error: {error:#}\n"));
}

/// Prints a warning.
pub(crate) fn warning(text: &str) {
    say(&format!("warning: {text}\n"));
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
            say(&format!("\r\x1b[K   … {text}"));
            self.pending = Some(text.to_owned());
        }
    }

    /// Shows a step that is done.
    pub(crate) fn done(&mut self, text: &str) {
        if self.pending.take().is_some() {
            say("\r\x1b[K");
        }
        say(&format!(" ✓ {text:<34} {:>6.2} s\n", self.begun.elapsed().as_secs_f64()));
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        // An error is about to be printed: not behind a half-written line.
        if self.pending.is_some() {
            say("\n");
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
