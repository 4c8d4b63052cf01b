//! What a test found, for people, for programs and for CI.

use std::fmt::Write;

use dyad_net::IpFamily;
use serde::Serialize;

/// One connection in one family.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cell {
    /// The family.
    pub family: IpFamily,
    /// Microseconds from the first packet to the whole answer; absent when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micros: Option<u64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Where the packet was lost, by what else got through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop: Option<String>,
}

/// One kind of connection that could not be tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Untested {
    /// From where to where.
    pub title: String,
    /// What the cluster lacks.
    pub why: String,
}

/// One kind of connection.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// From where to where.
    pub title: String,
    /// Per family.
    pub cells: Vec<Cell>,
}

/// A whole test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Families tested, the cluster's primary first.
    pub families: Vec<IpFamily>,
    /// The connections.
    pub rows: Vec<Row>,
    /// What this cluster could not be asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub untested: Vec<Untested>,
    /// How long the test took.
    pub seconds: f64,
}

impl Report {
    /// All cells with their row's title.
    fn cells(&self) -> impl Iterator<Item = (&str, &Cell)> {
        self.rows.iter().flat_map(|row| row.cells.iter().map(|cell| (row.title.as_str(), cell)))
    }

    /// Connections that worked and that failed.
    pub fn counts(&self) -> (usize, usize) {
        let all = self.cells().count();
        let failed = self.cells().filter(|(_, cell)| cell.micros.is_none()).count();
        (all - failed, failed)
    }

    /// A table with a column per family, then one line for each failure.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.title.chars().count()).max().unwrap_or(0);
        let mut text = format!("{:width$}", "");
        for family in &self.families {
            let _ = write!(text, "   {:>12}", family.as_str());
        }
        text.push('\n');
        for row in &self.rows {
            let _ = write!(text, "{:width$}", row.title);
            for family in &self.families {
                let cell = match row.cells.iter().find(|cell| cell.family == *family) {
                    None => "-".to_owned(),
                    Some(Cell { micros: Some(micros), .. }) => format!("✓ {:.2} ms", *micros as f64 / 1000.0),
                    Some(_) => "✗".to_owned(),
                };
                let _ = write!(text, "   {cell:>12}");
            }
            text.push('\n');
        }
        for (title, cell) in self.cells() {
            if let Some(error) = &cell.error {
                let hop = cell.hop.as_deref().unwrap_or("unknown");
                let _ = write!(text, "\n✗ {title}, {}: {error}\n  lost at: {hop}\n", cell.family);
            }
        }
        for Untested { title, why } in &self.untested {
            let _ = write!(text, "\n- {title}: not tested, {why}\n");
        }
        let (passed, failed) = self.counts();
        let _ = writeln!(text, "\n{passed} connections work, {failed} fail; {:.1} s", self.seconds);
        text
    }

    /// JUnit XML, one test case per connection and family.
    pub fn junit(&self) -> String {
        let (passed, failed) = self.counts();
        let mut text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"dyad connectivity test\" tests=\"{}\" failures=\"{failed}\" skipped=\"{}\" time=\"{:.3}\">\n",
            passed + failed + self.untested.len(),
            self.untested.len(),
            self.seconds
        );
        for (title, cell) in self.cells() {
            let seconds = cell.micros.unwrap_or(0) as f64 / 1e6;
            let _ = write!(
                text,
                "  <testcase classname=\"connectivity.{}\" name=\"{}\" time=\"{seconds:.6}\"",
                cell.family,
                escape(title)
            );
            match &cell.error {
                None => text.push_str("/>\n"),
                Some(error) => {
                    let hop = cell.hop.as_deref().unwrap_or_default();
                    let _ = write!(
                        text,
                        ">\n    <failure message=\"{}\">lost at: {}</failure>\n  </testcase>\n",
                        escape(error),
                        escape(hop)
                    );
                }
            }
        }
        for Untested { title, why } in &self.untested {
            let _ = writeln!(
                text,
                "  <testcase classname=\"connectivity\" name=\"{}\"><skipped message=\"{}\"/></testcase>",
                escape(title),
                escape(why)
            );
        }
        text.push_str("</testsuite>\n");
        text
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Other control characters can't stand in XML 1.0 at all.
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let good = Cell { family: IpFamily::V4, micros: Some(1234), error: None, hop: None };
        let bad = Cell {
            family: IpFamily::V6,
            micros: None,
            error: Some("no <answer>".into()),
            hop: Some("node1".into()),
        };
        let row = |title: &str, cells| Row { title: title.into(), cells };
        Report {
            families: vec![IpFamily::V4, IpFamily::V6],
            rows: vec![row("pod to pod", vec![good.clone(), bad]), row("egress", vec![good])],
            untested: vec![Untested { title: "VIP".into(), why: "<forbidden>".into() }],
            seconds: 1.25,
        }
    }

    #[test]
    fn the_table_shows_both_families_and_the_hop() {
        let expected = "                     IPv4           IPv6\n\
                        pod to pod      ✓ 1.23 ms              ✗\n\
                        egress          ✓ 1.23 ms              -\n\
                        \n✗ pod to pod, IPv6: no <answer>\n  lost at: node1\n\
                        \n- VIP: not tested, <forbidden>\n\
                        \n2 connections work, 1 fail; 1.2 s\n";
        assert_eq!(report().table(), expected);
    }

    #[test]
    fn junit_escapes_what_xml_does_not_take() {
        let text = report().junit();
        assert!(text.contains("tests=\"4\" failures=\"1\" skipped=\"1\""), "{text}");
        assert!(text.contains("<skipped message=\"&lt;forbidden&gt;\"/>"), "{text}");
        assert!(text.contains("message=\"no &lt;answer&gt;\""), "{text}");
    }
}
