//! Where the registry of a name is asked: itself and its mirrors, as a directory in the style of containerd's `certs.d` says.
//!
//! ```text
//! certs.d/docker.io/hosts.toml     server = "https://registry-1.docker.io"
//!                                  [host."http://mirror.example:5000"]
//!                                    capabilities = ["pull", "resolve"]
//! certs.d/_default/hosts.toml      for all others
//! certs.d/registry.test:5000/*.crt authorities of that registry
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::name::DEFAULT_REGISTRY;
use crate::{Error, Name, Result};

/// Where Docker's own registry answers.
const DOCKER: &str = "registry-1.docker.io";

/// One place to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Host and port.
    pub(crate) host: String,
    /// What comes before the repository there, with a slash at its end; mostly nothing.
    pub(crate) prefix: String,
    /// Encrypted.
    pub(crate) https: bool,
    /// Take any certificate.
    pub(crate) skip_verify: bool,
    /// Authorities besides the machine's, PEM.
    pub(crate) certificates: Vec<Vec<u8>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Hosts {
    server: Option<String>,
    host: BTreeMap<String, Host>,
    #[serde(flatten)]
    own: Host,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    skip_verify: bool,
    override_path: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

/// The places of a name, mirrors first.
pub(crate) fn places(name: &Name, dirs: &[PathBuf]) -> Result<Vec<Place>> {
    let itself = itself(&name.registry);
    for dir in dirs {
        for sub in [name.registry.as_str(), "_default"] {
            let dir = dir.join(sub);
            if dir.is_dir() {
                return of_dir(&dir, itself);
            }
        }
    }
    Ok(vec![itself])
}

/// The registry with nothing said of it. On this machine itself it speaks plain HTTP, as everywhere.
fn itself(registry: &str) -> Place {
    let host = if registry == DEFAULT_REGISTRY { DOCKER } else { registry };
    let bare = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(bare, _)| bare);
    let bare = bare.trim_matches(['[', ']']);
    let local = bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    Place { host: host.to_owned(), https: !local, ..Place::default() }
}

fn of_dir(dir: &Path, itself: Place) -> Result<Vec<Place>> {
    let path = dir.join("hosts.toml");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Docker's way: authorities alone.
            let mut found: Vec<PathBuf> = Vec::new();
            for entry in std::fs::read_dir(dir).map_err(Error::file("listing", dir))?.flatten() {
                found.extend(
                    Some(entry.path()).filter(|path| path.extension().is_some_and(|end| end == "crt")),
                );
            }
            found.sort();
            let certificates = found.iter().map(|path| certificate(path)).collect::<Result<_>>()?;
            return Ok(vec![Place { certificates, ..itself }]);
        }
        Err(error) => return Err(Error::file("reading", &path)(error)),
    };
    let problem = |problem: String| Error::content(format!("{}: {problem}", path.display()));
    let hosts: Hosts = toml::from_str(&text).map_err(|error| problem(error.to_string()))?;
    let mut places = Vec::new();
    // In the order of the file, which a table loses.
    let mut order: Vec<(&String, &Host)> = hosts.host.iter().collect();
    order.sort_by_key(|(url, _)| text.find(url.as_str()));
    for (url, host) in order {
        let pulls = host.capabilities.as_ref().is_none_or(|all| all.iter().any(|one| one == "pull"));
        if pulls {
            places.push(place(url, host, dir, true).map_err(&problem)?);
        }
    }
    match &hosts.server {
        Some(url) => places.push(place(url, &hosts.own, dir, itself.https).map_err(&problem)?),
        None => {
            let own = place("", &hosts.own, dir, true).map_err(&problem)?;
            places.push(Place { skip_verify: own.skip_verify, certificates: own.certificates, ..itself });
        }
    }
    Ok(places)
}

fn place(url: &str, host: &Host, dir: &Path, https: bool) -> std::result::Result<Place, String> {
    let (https, rest) = match url.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        Some((scheme, _)) => return Err(format!("{url:?}: {scheme} is neither http nor https")),
        None => (https, url),
    };
    let (at, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_matches('/');
    let prefix = match (path, path.strip_prefix("v2/")) {
        ("" | "v2", _) => String::new(),
        (_, Some(prefix)) if host.override_path => format!("{prefix}/"),
        _ => {
            return Err(format!(
                "{url:?}: a path works as /v2/PREFIX with override_path = true only, as a prefix of repositories"
            ));
        }
    };
    let files = match &host.ca {
        None => Vec::new(),
        Some(OneOrMany::One(path)) => vec![dir.join(path)],
        Some(OneOrMany::Many(paths)) => paths.iter().map(|path| dir.join(path)).collect(),
    };
    let certificates = files.iter().map(|path| certificate(path).map_err(|error| error.to_string()));
    Ok(Place {
        host: if at == DEFAULT_REGISTRY { DOCKER.to_owned() } else { at.to_owned() },
        prefix,
        https,
        skip_verify: host.skip_verify,
        certificates: certificates.collect::<std::result::Result<_, _>>()?,
    })
}

fn certificate(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(Error::file("reading", path))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn shown(places: Result<Vec<Place>>) -> Vec<String> {
        let places = places.unwrap();
        let scheme = |place: &Place| if place.https { "https" } else { "http" };
        places.iter().map(|place| format!("{}://{}/{}", scheme(place), place.host, place.prefix)).collect()
    }

    #[test]
    fn a_registry_is_asked_itself_unless_a_file_says_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = [folder.path().join("none"), folder.path().to_owned()];
        let at = |registry: &str, text: &str| {
            let dir = folder.path().join(registry);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("hosts.toml"), text).unwrap();
        };
        for (name, want) in [
            ("nginx", "https://registry-1.docker.io/"),
            ("registry.test/app", "https://registry.test/"),
            ("localhost:5000/app", "http://localhost:5000/"),
            ("127.0.0.1:5000/app", "http://127.0.0.1:5000/"),
            ("[::1]:5000/app", "http://[::1]:5000/"),
            ("[fd00::1]:5000/app", "https://[fd00::1]:5000/"),
        ] {
            assert_eq!(shown(places(&name.parse().unwrap(), &dirs)), [want], "{name}");
        }
        at(
            "docker.io",
            "server = \"https://registry-1.docker.io\"\n[host.\"http://zz.test:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n\
             [host.\"https://aa.test/v2/proxy\"]\noverride_path = true\n[host.\"https://push.test\"]\ncapabilities = [\"push\"]\n",
        );
        assert_eq!(
            shown(places(&"nginx".parse().unwrap(), &dirs)),
            ["http://zz.test:5000/", "https://aa.test/proxy/", "https://registry-1.docker.io/"]
        );
        fs::write(folder.path().join("ca.pem"), "PEM").unwrap();
        at("_default", "skip_verify = true\nca = \"../ca.pem\"\n[host.\"http://[fd00::5]:5000\"]\n");
        let found = places(&"registry.test/app".parse().unwrap(), &dirs).unwrap();
        assert_eq!(found[0].host, "[fd00::5]:5000");
        assert!(
            found[1].skip_verify && found[1].https && found[1].certificates == [b"PEM".to_vec()],
            "{found:?}"
        );
        for (text, want) in
            [("server = ", "hosts.toml"), ("[host.\"ftp://x\"]", "ftp"), ("[host.\"http://x/y\"]", "/y")]
        {
            at("bad.test", text);
            let problem = places(&"bad.test/app".parse().unwrap(), &dirs).unwrap_err().to_string();
            assert!(problem.contains(want), "{problem}");
        }
    }
}
