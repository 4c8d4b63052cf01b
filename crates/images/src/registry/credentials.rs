//! Credentials as Docker keeps them, and as Secrets of the types `kubernetes.io/dockerconfigjson` and
//! `kubernetes.io/dockercfg` carry them.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

use crate::name::DEFAULT_REGISTRY;
use crate::{Error, Name, Result};

/// Most bytes of a file of credentials.
const FILE_BYTES: u64 = 1 << 20;

/// User names and passwords by the registries they are for.
#[derive(Clone, Default)]
pub struct Credentials {
    all: Vec<(String, RegistryAuth)>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Who they are for is no secret, what they are is.
        f.debug_list().entries(self.all.iter().map(|(registry, _)| registry)).finish()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    registrytoken: String,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

impl Credentials {
    /// From Docker's `config.json`, also the content of a Secret.
    pub fn of_json(bytes: &[u8]) -> Result<Self> {
        let file: File = serde_json::from_slice(bytes).map_err(|error| wrong(&error))?;
        Ok(Self::of_entries(file.auths))
    }

    /// From the form before that, `.dockercfg`: the registries alone.
    pub fn of_old_json(bytes: &[u8]) -> Result<Self> {
        Ok(Self::of_entries(serde_json::from_slice(bytes).map_err(|error| wrong(&error))?))
    }

    /// From a file; none if it is not there.
    pub fn of_file(path: &Path) -> Result<Self> {
        use std::io::Read;
        let mut bytes = Vec::new();
        match std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::file("reading", path)(error)),
        }
        Self::of_json(&bytes).map_err(|error| Error::content(format!("{}: {error}", path.display())))
    }

    /// A user name and a password for one registry.
    pub fn of_user(registry: &str, user: &str, password: &str) -> Self {
        Self { all: vec![(registry.to_owned(), RegistryAuth::Basic(user.into(), password.into()))] }
    }

    fn of_entries(entries: BTreeMap<String, Entry>) -> Self {
        let read = |entry: Entry| {
            if !entry.registrytoken.is_empty() {
                return Some(RegistryAuth::Bearer(entry.registrytoken));
            }
            if !entry.username.is_empty() {
                return Some(RegistryAuth::Basic(entry.username, entry.password));
            }
            let text = entry.auth.trim();
            let bytes = STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).ok()?;
            let text = String::from_utf8(bytes).ok()?;
            let (user, password) = text.split_once(':')?;
            (!user.is_empty()).then(|| RegistryAuth::Basic(user.into(), password.trim_matches('\0').into()))
        };
        Self { all: entries.into_iter().filter_map(|(key, entry)| Some((key, read(entry)?))).collect() }
    }

    /// Those of the other after these.
    pub fn extend(&mut self, other: Self) {
        self.all.extend(other.all);
    }

    /// Those for a name, the most exact first.
    pub(crate) fn of(&self, name: &Name) -> Vec<RegistryAuth> {
        let mut fitting: Vec<(usize, &RegistryAuth)> =
            self.all.iter().filter_map(|(key, auth)| Some((fit(key, name)?, auth))).collect();
        fitting.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        let mut found: Vec<RegistryAuth> = fitting.into_iter().map(|(_, auth)| auth.clone()).collect();
        found.dedup();
        found
    }
}

fn wrong(error: &serde_json::Error) -> Error {
    // Where it is wrong, and not what stands there.
    Error::content(format!(
        "the credentials are no Docker configuration: line {}, column {}",
        error.line(),
        error.column()
    ))
}

/// How well a key of a configuration fits a name, as kubelets match them: hosts part by part with `*` for any, then
/// the beginning of the path.
fn fit(key: &str, name: &Name) -> Option<usize> {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let host =
        if matches!(host, "index.docker.io" | "registry-1.docker.io") { DEFAULT_REGISTRY } else { host };
    // What Docker once appended to registries.
    let path = path.trim_end_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let split = |text: &str| match text.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host.to_owned(), port.to_owned())
        }
        _ => (text.to_owned(), String::new()),
    };
    let ((host, port), (own, own_port)) = (split(host), split(&name.registry));
    let (parts, own): (Vec<&str>, Vec<&str>) = (host.split('.').collect(), own.split('.').collect());
    let same = parts.len() == own.len()
        && port == own_port
        && parts.iter().zip(&own).all(|(key, own)| glob(key, own));
    let below =
        name.repository == path || path.is_empty() || name.repository.starts_with(&format!("{path}/"));
    (same && below).then_some(key.len())
}

fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fit_as_kubelets_match_them() {
        for (key, name, want) in [
            ("https://index.docker.io/v1/", "nginx", true),
            ("docker.io", "me/app", true),
            ("registry.test", "registry.test/app", true),
            ("https://registry.test", "registry.test/app", true),
            ("registry.test:5000", "registry.test/app", false),
            ("registry.test:5000", "registry.test:5000/app", true),
            ("registry.test/team", "registry.test/team/app", true),
            ("registry.test/team", "registry.test/teams/app", false),
            ("*.test", "registry.test/app", true),
            ("*.test", "a.registry.test/app", false),
            ("*.registry.test", "registry.test/app", false),
            ("reg*y.test", "registry.test/app", true),
            ("[fd00::1]:5000", "[fd00::1]:5000/app", true),
        ] {
            assert_eq!(fit(key, &name.parse().unwrap()).is_some(), want, "{key} {name}");
        }
    }

    #[test]
    fn every_form_is_read_and_the_most_exact_comes_first() {
        let encoded = STANDARD.encode("user:pass:word");
        let text = format!(
            r#"{{"auths": {{"registry.test": {{"auth": "{encoded}"}}, "registry.test/team": {{"username": "u", "password": "p"}},
                "other.test": {{"registrytoken": "t"}}, "broken.test": {{"auth": "%"}}, "empty.test": {{}}}}}}"#
        );
        let found = Credentials::of_json(text.as_bytes()).unwrap();
        let basic = |user: &str, password: &str| RegistryAuth::Basic(user.into(), password.into());
        for (name, want) in [
            ("registry.test/team/app", vec![basic("u", "p"), basic("user", "pass:word")]),
            ("registry.test/app", vec![basic("user", "pass:word")]),
            ("other.test/app", vec![RegistryAuth::Bearer("t".into())]),
            ("broken.test/app", vec![]),
            ("nginx", vec![]),
        ] {
            assert_eq!(found.of(&name.parse().unwrap()), want, "{name}");
        }
        assert!(!format!("{found:?}").contains("pass"));
        let old =
            Credentials::of_old_json(br#"{"registry.test": {"username": "u", "password": "p"}}"#).unwrap();
        assert_eq!(old.of(&"registry.test/x".parse().unwrap()), [basic("u", "p")]);
        let problem = Credentials::of_json(br#"{"auths": "secret"}"#).unwrap_err().to_string();
        assert!(!problem.contains("secret"), "{problem}");
    }
}
