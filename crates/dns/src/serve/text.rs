//! Where the Corefile comes from, and what becomes of it later.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config as Selection, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tracing::warn;

use super::{ServeError, Texts};

/// How often a file is looked at. CoreDNS looks every 30 s; an edited ConfigMap takes long enough to become a file.
const LOOK: Duration = Duration::from_secs(2);
/// How soon is tried again to watch a ConfigMap.
const RETRY: Duration = Duration::from_secs(1);

/// Where a Corefile is.
#[derive(Clone, Debug)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// In a ConfigMap, under a key.
    ConfigMap {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// Here, under a name for messages.
    Text(String, String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::ConfigMap { namespace, name, key } => write!(f, "{namespace}/{name}/{key}"),
            Self::Text(name, _) => f.write_str(name),
        }
    }
}

/// The text, and what it becomes later.
pub(super) async fn open(source: &Source, client: Option<&Client>) -> Result<(Texts, String), ServeError> {
    let (to, mut texts) = mpsc::channel(1);
    match source {
        Source::Text(_, text) => Ok((texts, text.clone())),
        Source::File(path) => {
            let read = tokio::fs::read_to_string(path).await;
            let text = read.map_err(|error| ServeError::Read(source.to_string(), error))?;
            tokio::spawn(watch_file(path.clone(), text.clone(), to));
            Ok((texts, text))
        }
        Source::ConfigMap { namespace, name, key } => {
            let maps = Api::<ConfigMap>::namespaced(client.cloned().ok_or(ServeError::NoApi)?, namespace);
            tokio::spawn(watch_map(maps, name.clone(), key.clone(), to));
            // It may be written after this server was started.
            let first = texts.recv().await.ok_or(ServeError::NoApi)?;
            Ok((texts, first))
        }
    }
}

/// Tells of every other text. A file that can't be read is as it was.
async fn watch_file(path: PathBuf, mut known: String, to: mpsc::Sender<String>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let text = match read(&path).await {
            Ok(text) => text,
            Err(error) => {
                warn!(path = %path.display(), %error, "the Corefile can't be read; it stays as it was");
                continue;
            }
        };
        if text != known {
            known.clone_from(&text);
            if to.send(text).await.is_err() {
                return;
            }
        }
    }
}

async fn read(path: &Path) -> std::io::Result<String> {
    tokio::fs::read_to_string(path).await
}

async fn watch_map(maps: Api<ConfigMap>, name: String, key: String, to: mpsc::Sender<String>) {
    let selection =
        Selection { field_selector: Some(format!("metadata.name={name}")), ..Selection::default() };
    let mut known = None;
    loop {
        let stream = watcher(maps.clone(), selection.clone()).applied_objects();
        let mut stream = std::pin::pin!(stream);
        loop {
            match stream.try_next().await {
                Ok(Some(map)) => {
                    let text = map.data.and_then(|data| data.get(&key).cloned());
                    let Some(text) = text.filter(|text| known.as_ref() != Some(text)) else { continue };
                    known = Some(text.clone());
                    if to.send(text).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    warn!(%name, %error, "the ConfigMap can't be watched; it stays as it was");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}
