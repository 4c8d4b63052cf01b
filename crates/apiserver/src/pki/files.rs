//! Files that appear whole or not at all.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::PkiError;

fn error(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> PkiError {
    move |source| PkiError::File { what, path: path.to_owned(), source }
}

/// A directory for its owner only. One that is there keeps its mode.
pub(super) fn make_directory(path: &Path) -> Result<(), PkiError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error("create the directory", path))
}

/// The text of a file, `None` if there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        // Not text: as good as damaged, which the reader of the PEM will say.
        Err(source) if source.kind() == ErrorKind::InvalidData => Ok(Some(String::new())),
        Err(source) => Err(error("read", path)(source)),
    }
}

/// The names of the files in a directory, in order.
pub(super) fn list(path: &Path) -> Result<Vec<String>, PkiError> {
    let names = std::fs::read_dir(path).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<_>>()
    });
    let mut names: Vec<String> = names.map_err(error("list", path))?;
    names.sort();
    Ok(names)
}

/// For everyone to read.
pub(super) fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    replace(path, text, 0o644).map_err(error("write", path))
}

/// For the owner only, from the moment it exists.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    replace(path, text, 0o600).map_err(error("write", path))
}

fn replace(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = Path::new(&draft);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(draft)?;
    // Neither the umask nor the mode of a draft that a crash left behind decides.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(draft, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
