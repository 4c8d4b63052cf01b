//! Names of images, as Docker reads them: `nginx` is `docker.io/library/nginx:latest`.

use std::fmt;
use std::str::FromStr;

use crate::Digest;

/// Where names without a registry lead.
pub const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// Longest registry and repository together.
const NAME_BYTES: usize = 255;
/// Longest tag.
const TAG_BYTES: usize = 128;

/// A name in full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Host and port.
    pub registry: String,
    /// The path there.
    pub repository: String,
    /// The tag; `latest` if there is no digest either.
    pub tag: Option<String>,
    /// The digest, which says more than the tag.
    pub digest: Option<Digest>,
}

impl Name {
    /// Registry and repository.
    pub fn base(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name by which others find what this one leads to now: with a digest and no tag.
    pub fn at(&self, digest: &Digest) -> Self {
        Self { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Name {
    type Err = String;

    /// The texts are those that people know from Docker and kubelets.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "invalid reference format".to_owned();
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        {
            return Err(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            ));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (DEFAULT_REGISTRY, rest),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let shown = if registry == DEFAULT_REGISTRY && !path.contains('/') { "library/" } else { "" };
            return Err(format!(
                "invalid reference format: repository name ({shown}{path}) must be lowercase"
            ));
        }
        let fits = path.split('/').all(is_component)
            && is_host(registry)
            && registry.len() + path.len() < NAME_BYTES
            && tag.is_none_or(is_tag);
        if !fits {
            return Err(wrong());
        }
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// Whether the first part of a name is a host: nothing else has a dot, a port or capitals.
fn is_registry(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':']) || part.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let digits = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = text.strip_prefix('[') {
        let Some((ip, rest)) = rest.split_once(']') else { return false };
        let port = rest.is_empty() || rest.strip_prefix(':').is_some_and(digits);
        return port && ip.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(label) && port.is_none_or(digits)
}

/// Small letters and digits, in between one dot, one or two underscores or any number of dashes.
fn is_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(alphanumeric) || !text.ends_with(alphanumeric) {
        return false;
    }
    let separators = text.split(alphanumeric).filter(|separator| !separator.is_empty());
    separators.into_iter().all(|one| matches!(one, "." | "_" | "__") || one.bytes().all(|byte| byte == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = text.bytes();
    text.len() <= TAG_BYTES
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_docker_does() {
        let digest = Digest::of(b"");
        for (text, want) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.25-alpine", "docker.io/library/nginx:1.25-alpine"),
            ("me/app", "docker.io/me/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
            ("registry.k8s.io/e2e-test-images/agnhost:2.47", "registry.k8s.io/e2e-test-images/agnhost:2.47"),
            ("[fd00::1]:5000/app", "[fd00::1]:5000/app:latest"),
            ("192.0.2.1:5000/app", "192.0.2.1:5000/app:latest"),
            ("a__b--c.d_e", "docker.io/library/a__b--c.d_e:latest"),
        ] {
            assert_eq!(text.parse::<Name>().map(|name| name.to_string()), Ok(want.to_owned()), "{text}");
        }
        let both = format!("nginx:1@{digest}").parse::<Name>().unwrap();
        assert_eq!(both.to_string(), format!("docker.io/library/nginx:1@{digest}"));
        assert_eq!(format!("nginx@{digest}").parse::<Name>().unwrap().tag, None);
    }

    #[test]
    fn names_that_mean_nothing_are_refused_in_dockers_words() {
        let hex = "0".repeat(64);
        for (text, want) in [
            ("", "invalid reference format"),
            ("/x", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a_.b", "invalid reference format"),
            ("a@sha256:12", "invalid reference format"),
            ("a:-x", "invalid reference format"),
            ("../../etc/passwd", "invalid reference format"),
            ("[::1/x", "invalid reference format"),
            ("Nginx", "invalid reference format: repository name (library/Nginx) must be lowercase"),
            (
                hex.as_str(),
                &format!("invalid repository name ({hex}), cannot specify 64-byte hexadecimal strings"),
            ),
        ] {
            assert_eq!(text.parse::<Name>(), Err(want.to_owned()), "{text}");
        }
    }
}
