//! Who vouches for whom: the cluster's certificate authority, the certificate the API server shows, and those that
//! its clients show to it.
//!
//! One directory holds it all; keys are readable by their owner only and never logged. What is there and still fits
//! is kept, so that kubeconfigs stay valid over restarts; what is missing, near its end or names other addresses is
//! made anew. The authority itself is never replaced: that would cut off every client.

mod certificate;
pub(crate) mod der;
mod files;
mod jws;
mod kubeconfig;
mod request;
mod sign;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub(crate) use certificate::subject as certificate_subject;
pub use jws::detached;
pub use kubeconfig::kubeconfig;
pub use request::{Request, ends};
pub(crate) use request::{certificate_fault, request_name};

use certificate::{Authority, Purpose};

use crate::auth::{ADMINISTRATOR, AGENTS, MASTERS, NAME_SERVERS};

/// Everything that can be wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file can't be read or written.
    #[error("can't {what} {path}")]
    File {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The authority on disk can't be used; everyone trusts it, so it is not replaced silently.
    #[error(
        "the cluster's certificate authority {path} is unusable: {why}; restore it, or remove the directory for a new one (every kubeconfig of this cluster is then void)"
    )]
    Authority {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A name that can't stand in a certificate or a file name.
    #[error("{name:?} can't be used in a certificate: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The cryptographic library refuses.
    #[error("can't make the certificate of {subject}")]
    Issue {
        /// Whose.
        subject: String,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
}

/// For whom the API server's certificate stands (C55, for all families).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PkiConfig {
    /// Name of the cluster; the authority carries it.
    pub cluster: String,
    /// DNS domain of the cluster, e.g. `cluster.local`.
    pub domain: String,
    /// Addresses at which the API server is reached besides loopback: the first address of every service range, and
    /// those of the control plane in every family.
    pub addresses: Vec<IpAddr>,
    /// Host names besides `localhost` and those of the `kubernetes` Service.
    pub dns_names: Vec<String>,
}

impl PkiConfig {
    fn names(&self) -> Names {
        let service =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(String::from);
        let qualified = format!("kubernetes.default.svc.{}", self.domain.trim_matches('.'));
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        Names {
            dns: service.into_iter().chain([qualified]).chain(self.dns_names.iter().cloned()).collect(),
            addresses: loopback.into_iter().chain(self.addresses.iter().copied()).collect(),
        }
    }
}

/// What a serving certificate is valid for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) dns: BTreeSet<String>,
    pub(crate) addresses: BTreeSet<IpAddr>,
}

/// A certificate and its key, both PEM. Its `Debug` form does not show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key (PKCS #8). Not to be logged.
    pub key_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

/// Lifetime of all certificates but the authority's.
const LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// Made anew when less than this is left of it.
const RENEW_BEFORE: Duration = Duration::from_secs(90 * 86_400);

/// The cluster's certificate authority and the directory it lives in.
pub struct Pki {
    directory: PathBuf,
    authority: Authority,
    config: PkiConfig,
}

impl Pki {
    /// Opens the directory, and makes it and the authority if they are not there.
    ///
    /// # Errors
    ///
    /// [`PkiError::Authority`] if only half of the authority is there, or it is damaged or has expired.
    pub fn load_or_create(directory: impl Into<PathBuf>, config: &PkiConfig) -> Result<Self, PkiError> {
        let directory = directory.into();
        files::make_directory(&directory)?;
        let now = SystemTime::now();
        let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
        let authority = match (files::read(&certificate)?, files::read(&key)?) {
            (Some(certificate_pem), Some(key_pem)) => {
                Authority::load(&Identity { certificate_pem, key_pem }, now)
                    .map_err(|why| PkiError::Authority { path: certificate, why })?
            }
            // A key alone is what a creation leaves that was cut short: nobody has seen its certificate.
            (None, _) => {
                let (authority, identity) = Authority::create(&config.cluster, now)?;
                // The key first: a certificate without its key would be refused next time.
                files::write_private(&key, &identity.key_pem)?;
                files::write(&certificate, &identity.certificate_pem)?;
                authority
            }
            (Some(_), None) => {
                let why = format!("its key {} is missing", key.display());
                return Err(PkiError::Authority { path: certificate, why });
            }
        };
        Ok(Self { directory, authority, config: config.clone() })
    }

    /// The authority's certificate, PEM: what clients trust.
    pub fn ca_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// Who vouches for clients, PEM: the authority, and those in `client-ca.crt` beside it, which whoever runs the cluster
    /// may put there.
    ///
    /// # Errors
    ///
    /// If the file can't be read.
    pub fn client_authorities(&self) -> Result<String, PkiError> {
        let others = files::read(&self.directory.join("client-ca.crt"))?.unwrap_or_default();
        Ok(format!("{}{others}", self.ca_pem()))
    }

    /// The API server's certificate: the one on disk, or a new one if its names differ from the configured ones or
    /// it ends soon.
    ///
    /// # Errors
    ///
    /// If it can't be made or written.
    pub fn serving(&self) -> Result<Identity, PkiError> {
        self.keep("apiserver", &Purpose::Serve(self.config.names()), SystemTime::now())
    }

    /// The administrator's certificate, for the kubeconfig: user `kubernetes-admin`, group `system:masters`.
    ///
    /// # Errors
    ///
    /// If it can't be made or written.
    pub fn admin(&self) -> Result<Identity, PkiError> {
        self.keep("admin", &client(ADMINISTRATOR, MASTERS), SystemTime::now())
    }

    /// A node's certificate: user `system:node:NAME`, group `system:nodes`.
    ///
    /// # Errors
    ///
    /// If it can't be made or written, or the name is not one a node can have.
    pub fn node(&self, name: &str) -> Result<Identity, PkiError> {
        let purpose = client(&format!("system:node:{}", node_name(name)?), "system:nodes");
        self.keep(&format!("node-{name}"), &purpose, SystemTime::now())
    }

    /// The certificate of a node's network agent, which unlike the kubelet sees other nodes and their pods: user
    /// `system:dyad:agent:NAME`, group `system:dyad:agents`.
    ///
    /// # Errors
    ///
    /// If it can't be made or written, or the name is not one a node can have.
    pub fn agent(&self, name: &str) -> Result<Identity, PkiError> {
        let purpose = client(&format!("system:dyad:agent:{}", node_name(name)?), AGENTS);
        self.keep(&format!("agent-{name}"), &purpose, SystemTime::now())
    }

    /// What the API server shows to kubelets: user `kube-apiserver-kubelet-client`, whom a role lets ask them.
    ///
    /// # Errors
    ///
    /// If it can't be made or written.
    pub fn kubelet_client(&self) -> Result<Identity, PkiError> {
        let purpose = Purpose::Client { user: "kube-apiserver-kubelet-client".into(), group: None };
        self.keep("apiserver-kubelet-client", &purpose, SystemTime::now())
    }

    /// What a node's kubelet shows to those who ask it, at these addresses.
    ///
    /// # Errors
    ///
    /// If it can't be made or written.
    pub fn node_serving(&self, name: &str, addresses: &[IpAddr]) -> Result<Identity, PkiError> {
        let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let names = Names {
            dns: [name.to_owned(), "localhost".to_owned()].into(),
            addresses: addresses.iter().copied().chain(loopback).collect(),
        };
        self.keep(&format!("node-{name}-serving"), &Purpose::Serve(names), SystemTime::now())
    }

    /// The certificate of the cluster's name servers: user and group `system:dyad:dns`.
    ///
    /// # Errors
    ///
    /// If it can't be made or written.
    pub fn dns(&self) -> Result<Identity, PkiError> {
        self.keep("dns", &client(NAME_SERVERS, NAME_SERVERS), SystemTime::now())
    }

    /// The key that signs tokens of service accounts, PEM; made the first time.
    ///
    /// # Errors
    ///
    /// If it can't be made, read or written.
    pub fn token_key(&self) -> Result<String, PkiError> {
        let path = self.directory.join("sa.key");
        if let Some(pem) = files::read(&path)? {
            return Ok(pem);
        }
        let pem = certificate::key_pem("service account tokens")?;
        files::write_private(&path, &pem)?;
        Ok(pem)
    }

    /// Public keys whose tokens are taken besides those of the own key, PEM: what whoever replaces `sa.key` puts into
    /// `sa-*.pub` beside it, for as long as tokens of the old key are about.
    ///
    /// # Errors
    ///
    /// If they can't be read.
    pub fn known_token_keys(&self) -> Result<String, PkiError> {
        let is_one = |name: &str| name.starts_with("sa-") && name.ends_with(".pub");
        files::list(&self.directory)?
            .into_iter()
            .filter(|name| is_one(name))
            .map(|name| files::read(&self.directory.join(name)).map(Option::unwrap_or_default))
            .collect()
    }

    /// A certificate of what a client asks for, PEM, for these usages and at most as many seconds.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn sign(&self, request: &Request, usages: &[String], seconds: Option<u64>) -> Result<String, String> {
        self.authority.sign(request, usages, seconds, SystemTime::now())
    }

    /// A client certificate that is not kept: the user name becomes its common name, the group its organization.
    ///
    /// # Errors
    ///
    /// If it can't be made.
    pub fn issue_client(&self, user: &str, group: &str) -> Result<Identity, PkiError> {
        self.authority.issue(&client(user, group), SystemTime::now(), LIFETIME)
    }

    /// The kept certificate if it still serves its purpose, else a new one, which is then kept.
    fn keep(&self, stem: &str, purpose: &Purpose, now: SystemTime) -> Result<Identity, PkiError> {
        let file = |extension| self.directory.join(format!("{stem}.{extension}"));
        let (certificate, key) = (file("crt"), file("key"));
        if let (Some(certificate_pem), Some(key_pem)) = (files::read(&certificate)?, files::read(&key)?) {
            let kept = Identity { certificate_pem, key_pem };
            match self.authority.check(&kept, purpose, now + RENEW_BEFORE) {
                Ok(()) => return Ok(kept),
                Err(why) => {
                    tracing::info!(certificate = %certificate.display(), why, "making a new certificate")
                }
            }
        }
        let fresh = self.authority.issue(purpose, now, LIFETIME)?;
        files::write_private(&key, &fresh.key_pem)?;
        files::write(&certificate, &fresh.certificate_pem)?;
        Ok(fresh)
    }

    /// Where it lives.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Of a node, if it can be one: it becomes part of a file's name.
fn node_name(name: &str) -> Result<&str, PkiError> {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    if name.is_empty() || !name.chars().all(valid) || name.starts_with('.') {
        let why = "a node's name has lower case letters, digits, '-' and '.'".into();
        return Err(PkiError::Name { name: name.into(), why });
    }
    Ok(name)
}

fn client(user: &str, group: &str) -> Purpose {
    Purpose::Client { user: user.into(), group: Some(group.into()) }
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pki")
            .field("directory", &self.directory)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
