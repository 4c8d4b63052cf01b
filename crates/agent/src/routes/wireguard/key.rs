//! This node's private key, in a file that only root can read.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dyad_links::wireguard::{KEY_BYTES, PrivateKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// More than a key and the end of its line are no key.
const MAX_BYTES: u64 = 64;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// It can't be read, or not be written.
    #[error("{0}")]
    File(PathBuf, #[source] io::Error),
    /// Others can read it.
    #[error("{} has mode {mode:o}, so others than root can read it: delete it for a new key", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Something else is in the file.
    #[error("{} holds no key (32 bytes in base64): delete it for a new one", .0.display())]
    Damaged(PathBuf),
    /// The kernel has no randomness.
    #[error("no randomness for a key")]
    Random,
}

/// The key in a file; a new one if there is no such file.
pub(super) fn load_or_make(path: &Path) -> Result<PrivateKey, KeyError> {
    let failed = |error| KeyError::File(path.to_owned(), error);
    match load(path) {
        Err(KeyError::File(_, error)) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    SystemRandom::new().fill(&mut *bytes).map_err(|_| KeyError::Random)?;
    let key = PrivateKey::new(bytes);
    let dir = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    let _ = fs::remove_file(&draft);
    // Whole, or not there; and whoever comes second takes the key of the first.
    let linked = write(&draft, &key).and_then(|()| fs::hard_link(&draft, path));
    let _ = fs::remove_file(&draft);
    match linked {
        Ok(()) => {
            fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
            Ok(key)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => load(path),
        Err(error) => Err(failed(error)),
    }
}

fn load(path: &Path) -> Result<PrivateKey, KeyError> {
    let failed = |error| KeyError::File(path.to_owned(), error);
    let file = fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_BYTES as usize));
    file.take(MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
    let mut bytes = Zeroizing::new([0; KEY_BYTES + 1]);
    match STANDARD.decode_slice(text.trim_ascii(), bytes.as_mut_slice()) {
        Ok(KEY_BYTES) => {
            let mut key = Zeroizing::new([0; KEY_BYTES]);
            key.copy_from_slice(&bytes[..KEY_BYTES]);
            Ok(PrivateKey::new(key))
        }
        _ => Err(KeyError::Damaged(path.to_owned())),
    }
}

fn write(path: &Path, key: &PrivateKey) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let text = Zeroizing::new(STANDARD.encode(key.bytes()));
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Deletes it, and the directory it is in if nothing else is there.
pub(super) fn forget(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Others may have files there.
    path.parent().map_or(Ok(()), |dir| fs::remove_dir(dir).or(Ok(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_no_other_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dyad/wireguard.key");
        let key = load_or_make(&path).unwrap();
        assert_eq!(load_or_make(&path).unwrap(), key);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no drafts");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = load_or_make(&path).unwrap_err().to_string();
        assert!(error.contains("has mode 640"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let long = "A".repeat(43) + "=" + &"A".repeat(44);
        for damaged in ["", "\n", "AAAA", "no base64 at all, of about such a length ==", long.as_str()] {
            fs::write(&path, damaged).unwrap();
            let error = load_or_make(&path).unwrap_err().to_string();
            assert!(error.contains("holds no key"), "{damaged}: {error}");
        }
        fs::write(dir.path().join("dyad/other"), "").unwrap();
        forget(&path).unwrap();
        assert!(dir.path().join("dyad/other").exists() && !path.exists());
        fs::remove_file(dir.path().join("dyad/other")).unwrap();
        assert_ne!(load_or_make(&path).unwrap(), key, "rotated");
        forget(&path).unwrap();
        forget(&path).unwrap();
        assert!(!dir.path().join("dyad").exists());
    }
}
