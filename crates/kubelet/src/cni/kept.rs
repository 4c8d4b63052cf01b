//! What is written down of a pod's attachment, so that it can be taken back after anything: that there is one, in the
//! pod's directory; and with what it was made, in the cache that libcni keeps (`results/NETWORK-CONTAINER-LINK`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::conf::List;
use super::request::IFNAME;

/// The file in a pod's directory.
const FILE: &str = "network.json";
/// What entries of the cache call themselves.
const KIND: &str = "cniCacheV1";

/// That a pod is attached, or about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kept {
    pub(crate) container_id: String,
    pub(crate) network: String,
    pub(crate) netns: PathBuf,
}

impl Kept {
    /// What a pod's directory says; nothing if the pod is not attached.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(FILE)).ok()?).ok()
    }

    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        replace(&dir.join(FILE), &serde_json::to_vec(self)?)
    }

    pub(crate) fn forget(dir: &Path) {
        // Not there: there was none.
        let _ = fs::remove_file(dir.join(FILE));
    }

    /// Where its entry of the cache is.
    pub(crate) fn entry(&self, cache: &Path) -> PathBuf {
        cache.join("results").join(format!("{}-{}-{IFNAME}", self.network, self.container_id))
    }
}

/// An entry of the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    kind: String,
    container_id: String,
    /// The list, in base64.
    config: String,
    if_name: String,
    network_name: String,
    #[serde(default)]
    pub(crate) cni_args: Vec<(String, String)>,
    #[serde(default)]
    pub(crate) capability_args: Map<String, Value>,
    /// The last plugin's result; nothing until there is one.
    #[serde(default)]
    pub(crate) result: Option<Value>,
}

impl Entry {
    pub(crate) fn new(
        list: &List,
        container_id: &str,
        cni_args: Vec<(String, String)>,
        capability_args: Map<String, Value>,
    ) -> Self {
        Self {
            kind: KIND.into(),
            container_id: container_id.into(),
            config: STANDARD.encode(list.document.to_string()),
            if_name: IFNAME.into(),
            network_name: list.name.clone(),
            cni_args,
            capability_args,
            result: None,
        }
    }

    /// One that was written before; nothing if it is not there, or nothing that can be used.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let entry: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (entry.kind == KIND).then_some(entry)
    }

    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        replace(path, &serde_json::to_vec(self)?)
    }

    /// The list it was made with.
    pub(crate) fn list(&self) -> Result<List, String> {
        let text = STANDARD.decode(&self.config).map_err(|error| error.to_string())?;
        List::parse(&text)
    }
}

/// Writes a file as a whole or not at all.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, content)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_are_those_of_libcni_and_give_the_list_back() {
        let dir = tempfile::tempdir().unwrap();
        let list = List::parse(br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"}]}"#).unwrap();
        let kept = Kept { container_id: "id".into(), network: "n".into(), netns: "/x".into() };
        kept.write(dir.path()).unwrap();
        assert_eq!(Kept::read(dir.path()), Some(kept.clone()));
        let path = kept.entry(dir.path());
        assert!(path.ends_with("results/n-id-eth0"), "{path:?}");
        assert_eq!(Entry::read(&path), None);
        let mut entry = Entry::new(&list, "id", vec![("IgnoreUnknown".into(), "1".into())], Map::new());
        entry.result = Some(json!({"ips": []}));
        entry.write(&path).unwrap();
        let written: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(written["kind"], "cniCacheV1");
        assert_eq!(written["cniArgs"], json!([["IgnoreUnknown", "1"]]));
        assert_eq!(written["ifName"], "eth0");
        let read = Entry::read(&path).unwrap();
        assert_eq!((read.list(), &read), (Ok(list), &entry));
        fs::write(&path, "{}").unwrap();
        assert_eq!(Entry::read(&path), None);
        Kept::forget(dir.path());
        assert_eq!(Kept::read(dir.path()), None);
    }
}
