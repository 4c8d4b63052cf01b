//! The audit log: who did what, when, and what came of it, as JSON lines of `audit.k8s.io/v1`.
//!
//! [`Policy`] says how much of which request is written; [`Log`] writes it, in bounded memory, and holds a request up for
//! a bounded time only. Whatever a policy says, what is secret never gets there: of Secrets, ConfigMaps and tokens there
//! are no bodies ([`Policy::of`]).

mod log;
mod policy;
mod record;

use std::path::PathBuf;
use std::sync::Arc;

pub use log::LogError;
use log::{Log, Rotation};
pub use policy::{Policy, PolicyError};
pub(crate) use record::{Peer, Record, Request};

/// Where and how much, by the names of kube-apiserver's flags.
#[derive(Clone, Debug)]
pub struct AuditConfig {
    /// `audit-log-path`; `-` is standard output.
    pub path: PathBuf,
    /// `audit-policy-file`, read.
    pub policy: Policy,
    /// `audit-log-maxage`: days that old files are kept; 0 for ever.
    pub max_age: u32,
    /// `audit-log-maxbackup`: old files that are kept; 0 for all.
    pub max_backups: u32,
    /// `audit-log-maxsize`: megabytes after which a new file is begun; 0 for never.
    pub max_size: u32,
}

impl AuditConfig {
    /// The defaults of kube-apiserver, but for the policy: metadata of everything.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), policy: Policy::default(), max_age: 366, max_backups: 100, max_size: 100 }
    }
}

/// A log that is being written.
pub(crate) struct Audit {
    policy: Policy,
    log: Log,
}

impl Audit {
    /// Opens the log.
    pub(crate) fn open(config: AuditConfig) -> Result<Arc<Self>, LogError> {
        let AuditConfig { path, policy, max_age, max_backups, max_size } = config;
        let rotation = Rotation { max_age, max_backups, max_size: u64::from(max_size) << 20 };
        Ok(Arc::new(Self { policy, log: Log::open(path, rotation)? }))
    }

    /// How many events had no room.
    pub(crate) fn lost(&self) -> u64 {
        self.log.lost()
    }
}

#[cfg(test)]
mod tests;
