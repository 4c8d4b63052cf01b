//! The cluster's entry in the user's kubeconfig: added by `up`, removed by `down`, nothing else touched.

mod text;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::paths::write_atomically;

/// What a context needs; all PEM text.
#[derive(Clone)]
pub struct Access {
    /// URL of the API server.
    pub server: String,
    /// The cluster's CA certificate.
    pub ca: String,
    /// The client's certificate.
    pub certificate: String,
    /// The client's key.
    pub key: String,
}

impl Access {
    /// Reads the kubeconfig of one context that the control plane wrote.
    pub fn read(text: &str) -> Result<Self> {
        let config: Value = serde_json::from_str(text).context("the cluster's kubeconfig is damaged")?;
        let field = |list: &str, part: &str, key: &str| {
            config[list][0][part][key]
                .as_str()
                .with_context(|| format!("the cluster's kubeconfig lacks {list}[0].{part}.{key}"))
        };
        let pem = |list: &str, part: &str, key: &str| -> Result<String> {
            use base64::Engine;
            let bytes = base64::engine::general_purpose::STANDARD.decode(field(list, part, key)?)?;
            Ok(String::from_utf8(bytes)?)
        };
        Ok(Self {
            server: field("clusters", "cluster", "server")?.to_owned(),
            ca: pem("clusters", "cluster", "certificate-authority-data")?,
            certificate: pem("users", "user", "client-certificate-data")?,
            key: pem("users", "user", "client-key-data")?,
        })
    }

    fn entries(&self, name: &str) -> [(&'static str, Value); 3] {
        use base64_text as b64;
        [
            (
                "clusters",
                json!({"name": name, "cluster": {"server": self.server, "certificate-authority-data": b64(&self.ca)}}),
            ),
            (
                "users",
                json!({"name": name, "user": {
                    "client-certificate-data": b64(&self.certificate), "client-key-data": b64(&self.key)}}),
            ),
            ("contexts", json!({"name": name, "context": {"cluster": name, "user": name}})),
        ]
    }
}

fn base64_text(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// The file that is written to: the first of `$KUBECONFIG` that exists, else its last, else `~/.kube/config`.
pub fn user_file() -> Result<PathBuf> {
    if let Some(list) = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        let files: Vec<PathBuf> =
            std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect();
        let existing = files.iter().find(|path| path.exists()).or(files.last()).cloned();
        if let Some(file) = existing {
            // It is found again from other directories.
            return std::path::absolute(&file).with_context(|| format!("KUBECONFIG: {}", file.display()));
        }
    }
    let home = std::env::var_os("HOME").context("neither KUBECONFIG nor HOME is set")?;
    Ok(PathBuf::from(home).join(".kube/config"))
}

/// Whether a file that kubectl reads besides `file` chooses a context already.
fn chosen_elsewhere(file: &Path) -> bool {
    let list = std::env::var_os("KUBECONFIG").unwrap_or_default();
    std::env::split_paths(&list).filter(|other| other.as_path() != file).any(|other| {
        let text = std::fs::read_to_string(other).unwrap_or_default();
        let config: Value = serde_saphyr::from_str(&text).unwrap_or_default();
        config["current-context"].as_str().is_some_and(|name| !name.is_empty())
    })
}

/// Finds out before anything is started whether `merge` will be able to do its work.
pub fn check(file: &Path) -> Result<()> {
    edit(file, true, |config| {
        for list in ["clusters", "users", "contexts"] {
            items(&mut config.clone(), list)?;
        }
        Ok((Vec::new(), ()))
    })
}

/// Adds or replaces the context `name`. It becomes the current one only if there was none.
/// Says whether it is the current one now.
pub fn merge(file: &Path, name: &str, access: &Access) -> Result<bool> {
    edit(file, true, |config| {
        let mut changes = Vec::new();
        for (list, entry) in access.entries(name) {
            let items = items(config, list)?;
            if items.iter().filter(|item| item["name"] == name).eq([&entry]) {
                continue;
            }
            items.retain(|item| item["name"] != name);
            items.push(entry.clone());
            changes.extend([Change::Remove(list), Change::Add(list, entry)]);
        }
        if config["current-context"].as_str().is_none_or(str::is_empty) && !chosen_elsewhere(file) {
            config["current-context"] = name.into();
            changes.push(Change::Current(name.into()));
        }
        let current = config["current-context"] == name;
        Ok((changes.into_iter().map(|change| (change, name.to_owned())).collect(), current))
    })
}

/// Removes the context `name` with its cluster and user.
pub fn remove(file: &Path, name: &str) -> Result<()> {
    // A file that doesn't have the name, or isn't there, needs no change, and so need not be one that we can change.
    match std::fs::read(file) {
        Ok(bytes) if !String::from_utf8_lossy(&bytes).contains(name) => return Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        _ => {}
    }
    edit(file, false, |config| {
        let mut changes = Vec::new();
        for list in ["clusters", "users", "contexts"] {
            let items = items(config, list)?;
            let before = items.len();
            items.retain(|item| item["name"] != name);
            if items.len() < before {
                changes.push(Change::Remove(list));
            }
        }
        if config["current-context"] == name {
            config["current-context"] = "".into();
            changes.push(Change::Current(String::new()));
        }
        Ok((changes.into_iter().map(|change| (change, name.to_owned())).collect(), ()))
    })
}

fn items<'a>(config: &'a mut Value, list: &str) -> Result<&'a mut Vec<Value>> {
    let value = &mut config[list];
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut().with_context(|| format!("{list}: expected a list"))
}

/// A kubeconfig with nothing in it.
const NEW: &str = "apiVersion: v1\nclusters: []\ncontexts: []\ncurrent-context: \"\"\nkind: Config\npreferences: {}\nusers: []\n";

/// A step that changes the text of a kubeconfig as its value was changed, for the entry of some name.
enum Change {
    /// Entries of the name go from this list.
    Remove(&'static str),
    /// This entry is put at the end of this list.
    Add(&'static str, Value),
    /// This context becomes the current one.
    Current(String),
}

/// The text after `changes`, with every other line as it is; `None` if it is written in a way that needs writing anew.
fn rewrite(text: &str, changes: &[(Change, String)], wanted: &Value) -> Option<String> {
    let mut text = text.to_owned();
    for (change, name) in changes {
        text = match change {
            Change::Remove(list) => text::remove(&text, list, name)?,
            Change::Add(list, entry) => text::add(&text, list, entry)?,
            Change::Current(context) => text::set(&text, "current-context", context),
        };
    }
    let value: Value = serde_saphyr::from_str(&text).ok()?;
    (value == *wanted).then_some(text)
}

/// The file behind links, so that it changes and the links stay; it need not exist.
fn behind_links(file: &Path) -> PathBuf {
    let mut file = file.to_path_buf();
    // As many as the kernel follows.
    for _ in 0..40 {
        match (std::fs::canonicalize(&file), std::fs::read_link(&file)) {
            (Ok(real), _) => return real,
            (Err(_), Ok(target)) => file = file.parent().unwrap_or(Path::new("/")).join(target),
            (Err(_), Err(_)) => break,
        }
    }
    file
}

/// Reads, changes and writes the file under the lock that kubectl uses for it.
fn edit<T>(
    file: &Path,
    create: bool,
    change: impl FnOnce(&mut Value) -> Result<(Vec<(Change, String)>, T)>,
) -> Result<T> {
    let file = behind_links(file);
    if let Some(parent) = file.parent().filter(|_| create) {
        std::fs::create_dir_all(parent).with_context(|| format!("can't create {}", parent.display()))?;
    }
    let _lock = Lock::take(&file)?;
    let text = match std::fs::read_to_string(&file) {
        Ok(text) if text.trim().is_empty() => NEW.to_owned(),
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => NEW.to_owned(),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", file.display())),
    };
    let wrong = || format!("{} is not a kubeconfig: mend it or point KUBECONFIG elsewhere", file.display());
    let mut config: Value = serde_saphyr::from_str(&text).with_context(wrong)?;
    if !config.is_object() {
        bail!(wrong());
    }
    // It is replaced and not written to, but who may not write to it may not do that either.
    if file.exists() {
        std::fs::OpenOptions::new()
            .append(true)
            .open(&file)
            .with_context(|| format!("can't write {}", file.display()))?;
    }
    let (changes, result) = change(&mut config).with_context(|| file.display().to_string())?;
    if !changes.is_empty() {
        let text = match rewrite(&text, &changes, &config) {
            Some(text) => text,
            None => {
                serde_saphyr::to_string(&config).with_context(|| format!("can't write {}", file.display()))?
            }
        };
        write_atomically(&file, text.as_bytes())?;
    }
    Ok(result)
}

/// `FILE.lock`, created exclusively: the protocol of kubectl and every client-go program.
struct Lock(PathBuf);

impl Lock {
    fn take(file: &Path) -> Result<Self> {
        let mut name = file.file_name().unwrap_or_default().to_os_string();
        name.push(".lock");
        let path = file.with_file_name(name);
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match std::fs::OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(_) => return Ok(Self(path)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    bail!(
                        "{} stays locked by another program; if none is running, delete that file",
                        path.display()
                    )
                }
                Err(error) => return Err(error).with_context(|| format!("can't create {}", path.display())),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Nothing to be done about a failure; the next writer says what stands in its way.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREIGN: &str = "apiVersion: v1\nclusters:\n- cluster:\n    server: https://1.2.3.4\n  name: prod\n\
        contexts:\n- context:\n    cluster: prod\n    namespace: on\n    user: me\n  name: prod\n\
        current-context: prod\nkind: Config\npreferences: {}\nusers:\n- name: me\n  user:\n    token: \"0755\"\n    username: \"yes\"\n";

    fn access() -> Access {
        Access {
            server: "https://127.0.0.1:1".into(),
            ca: "ca".into(),
            certificate: "crt".into(),
            key: "key".into(),
        }
    }

    fn read(file: &Path) -> Value {
        serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
    }

    #[test]
    fn merge_then_remove_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, FOREIGN).unwrap();
        let before = read(&file);
        assert!(!merge(&file, "dyad-x", &access()).unwrap(), "a current context stays current");
        let merged = read(&file);
        assert_eq!(merged["contexts"].as_array().unwrap().len(), 2);
        assert_eq!(
            merged["users"][0]["user"]["token"], "0755",
            "a string that looks like a number stays one"
        );
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("    namespace: on\n"), "a string that may be read as something else: {text}");
        merge(&file, "dyad-x", &access()).unwrap();
        assert_eq!(read(&file), merged, "merging twice changes nothing");
        remove(&file, "dyad-x").unwrap();
        assert_eq!(read(&file), before);
        assert!(!dir.path().join("config.lock").exists());
    }

    #[test]
    fn a_new_file_is_private_and_gets_the_context_as_current() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sub/config");
        assert!(merge(&file, "dyad-x", &access()).unwrap());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        remove(&file, "dyad-x").unwrap();
        assert_eq!(read(&file)["current-context"], "");
    }

    #[test]
    fn comments_and_layout_stay_through_merge_and_remove() {
        let commented = "# mine\napiVersion: v1\nkind: Config\nclusters: # all of them\n  - name: prod   # do not touch\n    \
            cluster: {server: 'https://1.2.3.4'}\n\n# who\nusers:\n- name: me\n  user:\n    token: \"0755\"\n# end of users\n\
            contexts: []\ncurrent-context: \"\"\n# the end\n";
        let flow = "{apiVersion: v1, kind: Config, clusters: [], users: [{name: me, user: {token: x}}]}\n";
        for (text, exactly) in [(commented, true), (FOREIGN, true), (flow, false)] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("config");
            std::fs::write(&file, text).unwrap();
            merge(&file, "dyad-x", &access()).unwrap();
            let merged = std::fs::read_to_string(&file).unwrap();
            let entries = read(&file);
            for list in ["clusters", "users", "contexts"] {
                let last = entries[list].as_array().unwrap().last().unwrap();
                assert_eq!(last["name"], "dyad-x", "{merged}");
            }
            merge(&file, "dyad-x", &access()).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), merged, "merging twice changes nothing");
            if exactly {
                let lines: Vec<&str> = merged.lines().collect();
                for line in text.lines().filter(|line| line.contains('#')) {
                    assert!(lines.contains(&line), "{line:?} is gone from {merged}");
                }
            }
            remove(&file, "dyad-x").unwrap();
            if exactly {
                assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
            } else {
                assert_eq!(read(&file)["users"][0]["user"]["token"], "x");
                assert_eq!(read(&file)["users"].as_array().unwrap().len(), 1);
            }
        }
    }

    #[test]
    fn links_modes_and_strangers_stay_as_they_are() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (link, file) = (dir.path().join("link"), dir.path().join("config"));
        symlink("config", &link).unwrap();
        merge(&link, "dyad-x", &access()).unwrap();
        assert!(link.is_symlink() && file.exists(), "a link that leads nowhere yet is filled");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        remove(&link, "dyad-x").unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        std::fs::write(&file, "]] broken").unwrap();
        remove(&file, "dyad-x").unwrap();
        assert!(check(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "]] broken");
    }

    #[test]
    fn what_is_no_kubeconfig_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, "just text").unwrap();
        let error = format!("{:#}", merge(&file, "dyad-x", &access()).unwrap_err());
        assert!(error.contains("config"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "just text");
    }
}
