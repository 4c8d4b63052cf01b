//! The cluster's entry in the user's kubeconfig: added by `up`, removed by `down`, nothing else touched.

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
            return Ok(file);
        }
    }
    let home = std::env::var_os("HOME").context("neither KUBECONFIG nor HOME is set")?;
    Ok(PathBuf::from(home).join(".kube/config"))
}

/// Adds or replaces the context `name`. It becomes the current one only if there was none.
/// Says whether it is the current one now.
pub fn merge(file: &Path, name: &str, access: &Access) -> Result<bool> {
    edit(file, true, |config| {
        for (list, entry) in access.entries(name) {
            let items = items(config, list)?;
            items.retain(|item| item["name"] != name);
            items.push(entry);
        }
        if config["current-context"].as_str().is_none_or(str::is_empty) {
            config["current-context"] = name.into();
        }
        Ok(config["current-context"] == name)
    })
}

/// Removes the context `name` with its cluster and user.
pub fn remove(file: &Path, name: &str) -> Result<()> {
    if !file.exists() {
        return Ok(());
    }
    edit(file, false, |config| {
        for list in ["clusters", "users", "contexts"] {
            items(config, list)?.retain(|item| item["name"] != name);
        }
        if config["current-context"] == name {
            config["current-context"] = "".into();
        }
        Ok(())
    })
}

fn items<'a>(config: &'a mut Value, list: &str) -> Result<&'a mut Vec<Value>> {
    let value = &mut config[list];
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut().with_context(|| format!("{list}: expected a list"))
}

/// Reads, changes and writes the file under the lock that kubectl uses for it.
fn edit<T>(file: &Path, create: bool, change: impl FnOnce(&mut Value) -> Result<T>) -> Result<T> {
    // A link is followed, so that the file behind it changes and the link stays.
    let file = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf());
    if let Some(parent) = file.parent().filter(|_| create) {
        std::fs::create_dir_all(parent).with_context(|| format!("can't create {}", parent.display()))?;
    }
    let _lock = Lock::take(&file)?;
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", file.display())),
    };
    let mut config = if text.trim().is_empty() {
        json!({"apiVersion": "v1", "kind": "Config", "preferences": {}})
    } else {
        let value: Value = serde_saphyr::from_str(&text).with_context(|| {
            format!("{} is not a kubeconfig: mend it or point KUBECONFIG elsewhere", file.display())
        })?;
        if !value.is_object() {
            bail!("{} is not a kubeconfig: mend it or point KUBECONFIG elsewhere", file.display());
        }
        value
    };
    let before = config.clone();
    let result = change(&mut config).with_context(|| file.display().to_string())?;
    if config != before {
        let text =
            serde_saphyr::to_string(&config).with_context(|| format!("can't write {}", file.display()))?;
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
        assert_eq!(merged["contexts"][0]["context"]["namespace"], "on");
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
    fn what_is_no_kubeconfig_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, "just text").unwrap();
        let error = format!("{:#}", merge(&file, "dyad-x", &access()).unwrap_err());
        assert!(error.contains("config"), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "just text");
    }
}
