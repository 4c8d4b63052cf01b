//! Where a cluster keeps its files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// The directory of one cluster, `$XDG_DATA_HOME/dyad/NAME`.
#[derive(Clone, Debug)]
pub struct ClusterDir(PathBuf);

impl ClusterDir {
    /// The directory of the cluster called `name`; a name that could lead elsewhere is an error.
    pub fn of(name: &str) -> Result<Self> {
        check_name(name)?;
        Ok(Self(data_home()?.join(name)))
    }

    /// A directory as handed to a process of the cluster.
    pub fn at(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// Every cluster that has a directory, by name.
    pub fn all() -> Result<Vec<(String, Self)>> {
        let home = data_home()?;
        let entries = match std::fs::read_dir(&home) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("can't list {}", home.display())),
        };
        let mut clusters: Vec<_> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.path().is_dir() && check_name(&entry.file_name().to_string_lossy()).is_ok())
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), Self(entry.path())))
            .collect();
        clusters.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(clusters)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The cluster's description, see [`crate::spec::ClusterSpec`].
    pub fn spec(&self) -> PathBuf {
        self.0.join("cluster.json")
    }

    /// Keys and certificates.
    pub fn pki(&self) -> PathBuf {
        self.0.join("pki")
    }

    /// The object store.
    pub fn store(&self) -> PathBuf {
        self.0.join("store.redb")
    }

    /// The administrator's kubeconfig, complete in itself.
    pub fn kubeconfig(&self) -> PathBuf {
        self.0.join("kubeconfig")
    }

    /// The kubeconfig of a node.
    pub fn node_kubeconfig(&self, node: &str) -> PathBuf {
        self.0.join("nodes").join(node).join("kubeconfig")
    }

    /// The kubeconfig of a node's agent, which sees other nodes and their pods.
    pub fn agent_kubeconfig(&self, node: &str) -> PathBuf {
        self.0.join("nodes").join(node).join("agent.kubeconfig")
    }

    /// What a node keeps of its pods.
    pub fn node(&self, node: &str) -> PathBuf {
        self.0.join("nodes").join(node)
    }

    /// The directories that a node without a built-in network has in place of the machine's.
    pub fn node_root(&self, node: &str) -> PathBuf {
        self.node(node).join("root")
    }

    /// The images that all nodes share.
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// The log of one process: `supervisor`, `control-plane`, `outside` or a node's name.
    pub fn log(&self, process: &str) -> PathBuf {
        self.0.join("logs").join(format!("{process}.log"))
    }

    /// There once the cluster DNS was made.
    pub fn dns_is_made(&self) -> PathBuf {
        self.0.join("dns-is-made")
    }

    /// There once what the cluster was asked to have on its nodes was installed.
    pub fn is_installed(&self) -> PathBuf {
        self.0.join("is-installed")
    }

    /// What the supervisor says of itself, see [`crate::status::Running`].
    pub fn running(&self) -> PathBuf {
        self.0.join("running.json")
    }

    /// Where all clusters of this user have their directories.
    pub fn home(&self) -> &Path {
        self.0.parent().unwrap_or(&self.0)
    }

    /// A word that no other cluster on this machine has, whatever its name and data directory.
    pub fn tag(&self) -> String {
        use std::os::unix::ffi::OsStrExt;
        let digest = Sha256::digest(self.0.as_os_str().as_bytes());
        digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Where the supervisor's mount namespace pins the network namespaces.
    pub fn netns_dir(&self) -> PathBuf {
        self.0.join("netns")
    }

    /// The mount namespace of such a node; likewise only in the supervisor's.
    pub fn mounts(&self, node: &str) -> PathBuf {
        self.netns_dir().join(format!("@mounts-{node}"))
    }

    /// One network namespace; exists only in the supervisor's mount namespace.
    pub fn netns(&self, name: &str) -> PathBuf {
        self.netns_dir().join(name)
    }
}

fn data_home() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_DATA_HOME").filter(|dir| Path::new(dir).is_absolute()) {
        Some(dir) => PathBuf::from(dir),
        None => {
            let home = std::env::var_os("HOME").context("neither XDG_DATA_HOME nor HOME is set")?;
            PathBuf::from(home).join(".local/share")
        }
    };
    let home = resolved(&base.join("dyad"));
    if home.to_str().is_none() {
        bail!("{} is not UTF-8: point XDG_DATA_HOME elsewhere", home.display());
    }
    Ok(home)
}

/// The path without symbolic links, also where its end doesn't exist yet: processes are found by it.
fn resolved(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|part| Some((part, std::fs::canonicalize(part).ok()?)));
    match existing {
        Some((part, real)) => match path.strip_prefix(part) {
            Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
            _ => real,
        },
        None => path.to_path_buf(),
    }
}

/// Checks a cluster's name: it becomes a directory, a context and part of an interface's name.
pub fn check_name(name: &str) -> Result<()> {
    let fine = !name.is_empty()
        && name.len() <= 40
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !fine {
        bail!("{name:?} is not a cluster name: use up to 40 of a-z, 0-9 and -, with no - at either end");
    }
    Ok(())
}

/// Removes a directory with all it holds, also what a pod without root has made unreadable.
pub(crate) fn remove_tree(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        result => return result,
    }
    let mut open = vec![path.to_path_buf()];
    while let Some(dir) = open.pop() {
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))?;
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
        }
    }
    std::fs::remove_dir_all(path)
}

/// Writes a file so that readers see the old or the new content, never half of it; readable by the owner only
/// if it is new.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        if let Ok(before) = std::fs::metadata(path) {
            file.set_permissions(before.permissions())?;
            // Only root may give files away, and only root finds one that is somebody else's.
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::fchown(&file, Some(before.uid()), Some(before.gid()))?;
            }
        }
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write()
        .inspect_err(|_| drop(std::fs::remove_file(&temporary)))
        .with_context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["", ".", "..", "a/b", "../x", "-a", "a-", "A", "a_b", "a b", "ä", &"a".repeat(41)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["a", "0", "local", "a-1", &"a".repeat(40)] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn one_directory_has_one_path_whatever_links_lead_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(dir.path()).unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        for path in ["dyad/x", "link/dyad/x", "link/../link/dyad/x"] {
            let base = real.join(path);
            // A part that does not exist can't be followed by `..`.
            assert!(resolved(&base).ends_with("dyad/x"), "{path}");
        }
        assert_eq!(resolved(&real.join("link/dyad")), real.join("dyad"));
    }

    #[test]
    fn directories_without_permissions_are_removed_too() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir_all(top.join("a/b")).unwrap();
        std::fs::write(top.join("a/b/file"), "").unwrap();
        for path in ["a/b", "a"] {
            std::fs::set_permissions(top.join(path), std::fs::Permissions::from_mode(0o000)).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }
}
