//! Manifests, indexes and configurations, of the OCI image specification and of Docker alike.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Error, Result};

/// An OCI manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A layer, whatever its compression: told by its first bytes.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Most bytes of a manifest, an index or a configuration.
pub const DOCUMENT_BYTES: u64 = 8 << 20;
/// Most layers of an image.
const LAYERS: usize = 1024;

/// What something is and where it is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    #[serde(default)]
    pub size: u64,
    /// What else is said of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: the machines it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// A kind of machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// In Go's words: `amd64`, `arm64`, ...
    #[serde(default)]
    pub architecture: String,
    /// In Go's words: `linux`.
    #[serde(default)]
    pub os: String,
    /// Which of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// An index or a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// Always 2.
    #[serde(default)]
    pub schema_version: u32,
    /// What it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// An index: manifests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Descriptor>,
    /// A manifest: the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Descriptor>,
    /// A manifest: layers, the lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<Descriptor>,
}

impl Document {
    /// Reads one.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let found: Self = serde_json::from_slice(bytes)
            .map_err(|error| Error::content(format!("this is no manifest: {error}")))?;
        if found.layers.len() > LAYERS {
            return Err(Error::content(format!(
                "the image has {} layers, more than {LAYERS}",
                found.layers.len()
            )));
        }
        Ok(found)
    }

    /// The manifest in an index that suits this machine; the only one if none says what it is for.
    pub fn suiting(&self) -> Result<&Descriptor> {
        let own = Platform::own();
        let is_manifest = |one: &&Descriptor| {
            // What builders attach has a platform that nobody has.
            one.platform.as_ref().is_none_or(|platform| platform.os != "unknown")
        };
        let suits = |one: &&Descriptor| {
            let platform = one.platform.as_ref();
            platform.is_some_and(|found| found.os == own.os && found.architecture == own.architecture)
        };
        let all: Vec<&Descriptor> = self.manifests.iter().filter(is_manifest).collect();
        let fitting = all.iter().copied().find(suits);
        let found = fitting.or_else(|| match all[..] {
            [one] if one.platform.as_ref().is_none_or(|platform| platform.architecture.is_empty()) => {
                Some(one)
            }
            _ => None,
        });
        found.ok_or_else(|| {
            let offered: Vec<String> = all
                .iter()
                .filter_map(|one| one.platform.as_ref())
                .map(|platform| format!("{}/{}", platform.os, platform.architecture))
                .collect();
            Error::content(format!(
                "no match for platform in manifest: this machine is {}/{}, and the image is for {}",
                own.os,
                own.architecture,
                if offered.is_empty() { "none".to_owned() } else { offered.join(", ") }
            ))
        })
    }
}

impl Platform {
    /// This machine's.
    pub fn own() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned(), variant: None }
    }
}

/// The part of an image's configuration that its containers follow from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ImageConfig {
    /// How it is run.
    #[serde(default)]
    pub config: Option<Run>,
    /// What its layers unpack to.
    #[serde(default)]
    pub rootfs: RootFs,
    /// When it was built, as it says.
    #[serde(default)]
    pub created: Option<String>,
}

/// The digests of an image's layers before they were compressed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RootFs {
    /// The lowest first.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

/// How an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Run {
    /// A user and perhaps a group, as names or numbers.
    pub user: Option<String>,
    /// `NAME=value` each.
    pub env: Option<Vec<String>>,
    /// The words before its arguments.
    pub entrypoint: Option<Vec<String>>,
    /// The arguments unless others are given.
    pub cmd: Option<Vec<String>>,
    /// Where it starts.
    pub working_dir: Option<String>,
    /// The signal that ends it, a name or a number.
    pub stop_signal: Option<String>,
}

impl ImageConfig {
    /// Reads one.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|error| Error::content(format!("this is no image configuration: {error}")))
    }

    /// How it is run; as nothing says so if nothing does.
    pub fn run(&self) -> Run {
        self.config.clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[Option<(&str, &str)>]) -> Document {
        let manifests = platforms.iter().enumerate().map(|(at, platform)| Descriptor {
            media_type: MANIFEST.into(),
            digest: Digest::of(&[at as u8]),
            size: 1,
            annotations: BTreeMap::new(),
            platform: platform.map(|(os, architecture)| Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: None,
            }),
        });
        Document { manifests: manifests.collect(), ..Document::default() }
    }

    #[test]
    fn an_index_gives_what_suits_this_machine() {
        let own = Platform::own().architecture;
        for (platforms, want) in [
            (&[Some(("windows", own.as_str())), Some(("linux", "mips")), Some(("linux", &own))][..], Some(2)),
            (&[Some(("unknown", "unknown")), Some(("linux", &own))], Some(1)),
            (&[None], Some(0)),
            (&[None, None], None),
            (&[Some(("linux", "mips"))], None),
            (&[], None),
        ] {
            let index = index(platforms);
            let found = index.suiting();
            assert_eq!(
                found.ok().map(|one| &one.digest),
                want.map(|at| &index.manifests[at].digest),
                "{platforms:?}"
            );
        }
    }
}
