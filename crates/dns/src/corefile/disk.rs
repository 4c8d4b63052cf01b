//! The environment and the files of this machine.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::Outside;

/// The environment and the disk, and variables besides.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// Variables that go before those of the environment: `__PILLAR__CLUSTER__DNS__` and the like.
    pub variables: BTreeMap<String, String>,
}

impl Outside for Disk {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned().or_else(|| std::env::var(name).ok())
    }

    fn files(&self, from: &str, pattern: &str) -> io::Result<Vec<(String, String)>> {
        let directory = Path::new(from).parent().unwrap_or(Path::new(""));
        let pattern = directory.join(pattern);
        let last = pattern.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let read = |path: PathBuf| {
            let text = std::fs::read_to_string(&path)?;
            Ok((path.to_string_lossy().into_owned(), text))
        };
        if !last.contains(['*', '?']) {
            return Ok(vec![read(pattern.clone())?]);
        }
        let entries = match std::fs::read_dir(pattern.parent().unwrap_or(Path::new("."))) {
            Ok(entries) => entries,
            // A directory that a volume would bring, if there were one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        let fits = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            path.is_file() && name.is_some_and(|name| matches(name.as_bytes(), last.as_bytes()))
        };
        let mut found: Vec<_> = paths.into_iter().filter(fits).collect();
        found.sort();
        found.into_iter().map(read).collect()
    }
}

/// Whether `name` is what `pattern` says, where `*` is anything and `?` one byte.
fn matches(name: &[u8], pattern: &[u8]) -> bool {
    match (name, pattern) {
        ([], []) => true,
        (_, [b'*', rest @ ..]) => (0..=name.len()).any(|at| matches(&name[at..], rest)),
        ([_, name @ ..], [b'?', rest @ ..]) => matches(name, rest),
        ([a, name @ ..], [b, rest @ ..]) => a == b && matches(name, rest),
        ([], [_, ..]) | ([_, ..], []) => false,
    }
}
