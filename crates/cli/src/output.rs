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
    say(&format!("error: {}\n", causes(error)));
}

/// An error with its causes, but for those that it says itself.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    let mut said = String::new();
    for cause in error.chain() {
        let text = cause.downcast_ref().map_or_else(|| cause.to_string(), dyad_install::reason);
        if text.is_empty() || said.contains(&text) {
            continue;
        }
        if !said.is_empty() {
            said.push_str(": ");
        }
        said.push_str(&text);
        if let Some(kube::Error::Api(_)) = cause.downcast_ref() {
            // What follows is the same answer once more.
            break;
        }
    }
    said
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

/// A time for names of files, as `20260131-235959`, in UTC.
pub(crate) fn compact_time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that the day that is not always there is their last (Fliegel and Van Flandern).
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", rest / 3600, rest / 60 % 60, rest % 60)
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
    fn nothing_is_said_twice() {
        use anyhow::Context;
        let inner = std::io::Error::other("no such place");
        let outer = Err::<(), _>(std::io::Error::other(format!("can't read it: {inner}")));
        let error = outer.context("--values a").unwrap_err().context("no such place is known");
        assert_eq!(super::causes(&error), "no such place is known: --values a: can't read it: no such place");
        let status = kube::core::Status::failure("pods is forbidden", "Forbidden").with_code(403);
        let error = anyhow::Error::new(kube::Error::Api(status.boxed())).context("can't look");
        assert_eq!(super::causes(&error), "can't look: pods is forbidden");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, want) in [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_782_400, "20000229-000000"),
            (1_798_675_199, "20261230-235959"),
            (4_107_542_400, "21000301-000000"),
        ] {
            assert_eq!(super::compact_time(seconds), want);
        }
    }

    #[test]
    fn columns_line_up_and_lines_do_not_trail() {
        let rows =
            [["NAME", "IP"], ["a", "fd00::1"], ["longer", ""]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(super::table(&rows), "NAME     IP\na        fd00::1\nlonger\n");
    }
}
