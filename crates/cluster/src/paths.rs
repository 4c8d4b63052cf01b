//! Where a cluster keeps its files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The directory of one cluster, `$XDG_DATA_HOME/dyad/NAME`.
#[derive(Clone, Debug)]
pub struct ClusterDir(PathBuf);

impl ClusterDir {
    /// The directory of the cluster called `name`.
    pub fn of(name: &str) -> Result<Self> {
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
            .filter(|entry| entry.path().is_dir())
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

    /// What a node keeps of its pods.
    pub fn node(&self, node: &str) -> PathBuf {
        self.0.join("nodes").join(node)
    }

    /// The log of one process: `supervisor`, `control-plane`, `outside` or a node's name.
    pub fn log(&self, process: &str) -> PathBuf {
        self.0.join("logs").join(format!("{process}.log"))
    }

    /// What the supervisor says of itself, see [`crate::status::Running`].
    pub fn running(&self) -> PathBuf {
        self.0.join("running.json")
    }

    /// Held while the cluster is changed from outside.
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }

    /// Where the supervisor's mount namespace pins the network namespaces.
    pub fn netns_dir(&self) -> PathBuf {
        self.0.join("netns")
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
    Ok(base.join("dyad"))
}

/// Writes a file so that readers see the old or the new content, never half of it; readable by the owner only.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
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
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write()
        .inspect_err(|_| drop(std::fs::remove_file(&temporary)))
        .with_context(|| format!("can't write {}", path.display()))
}
