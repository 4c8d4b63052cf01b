//! Corefiles: what a CoreDNS is configured with, as far as clusters use it.
//!
//! The order of plugins in a block means nothing, as with CoreDNS. What can't be done is an error with its place.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

mod cache;
mod disk;
mod dns64;
mod forward;
mod hosts;
mod kubernetes;
mod lexer;
mod plugins;
mod rewrite;
mod small;
mod template;
mod tree;
mod words;

pub use cache::{Cache, Keep, Prefetch};
pub use disk::Disk;
pub use dns64::{Dns64, Prefix, Synthesize};
pub(crate) use forward::address as upstream_address;
pub use forward::{Anchors, Forward, Policy, Transport, Upstream};
pub use hosts::Hosts;
pub use kubernetes::{Kubernetes, Pods};
pub use rewrite::{AnswerRule, Matcher, Rewrite};
pub use small::{Bind, Health, Log, NodeCache, Reload};
pub use template::Template;

/// A place in a file. Prints as `Corefile:7`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
}

impl At {
    fn error(&self, what: impl Into<String>) -> CorefileError {
        CorefileError { at: self.clone(), what: what.into() }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What is wrong with a Corefile, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct CorefileError {
    /// The place.
    pub at: At,
    /// What is wrong, and the way out.
    pub what: String,
}

/// What a Corefile reads of the world.
pub trait Outside {
    /// A variable of the environment, or a `__PILLAR__NAME__` of a node cache.
    fn variable(&self, name: &str) -> Option<String>;

    /// Names and texts of the files that match a pattern, which is relative to the directory of `from`. None is fine
    /// if the pattern has a `*`.
    fn files(&self, from: &str, pattern: &str) -> io::Result<Vec<(String, String)>>;
}

/// A Corefile.
#[derive(Clone, Debug)]
pub struct Corefile {
    /// Its server blocks.
    pub servers: Vec<Server>,
    /// Plugins that are there and change nothing, with the reason.
    pub notes: Vec<Note>,
}

/// A plugin that is there and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The place.
    pub at: At,
    /// What, and why.
    pub what: String,
}

/// A zone a block is for. Prints as it could stand in a Corefile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneKey {
    /// The zone, absolute and in lower case.
    pub zone: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for ZoneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.zone, self.port)
    }
}

/// A server block: the zones it answers for, and how.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where it begins.
    pub at: At,
    /// Its zones.
    pub zones: Vec<ZoneKey>,
    /// Where it listens; everywhere if nothing is said.
    pub bind: Bind,
    /// Queries are logged.
    pub log: Option<Log>,
    /// Errors are logged.
    pub errors: bool,
    /// `/health`.
    pub health: Option<Health>,
    /// `/ready`.
    pub ready: Option<SocketAddr>,
    /// `/metrics`.
    pub prometheus: Option<SocketAddr>,
    /// The Corefile is looked at from time to time.
    pub reload: Option<Reload>,
    /// Forwarding loops are looked for at the start.
    pub loop_detection: bool,
    /// Addresses are given in turn.
    pub loadbalance: bool,
    /// Addresses of the cluster DNS are taken over on the node.
    pub nodecache: Option<NodeCache>,
    /// Questions are others, in the order of the file.
    pub rewrites: Vec<Rewrite>,
    /// Questions without answers.
    pub templates: Vec<Template>,
    /// Names of files.
    pub hosts: Option<Hosts>,
    /// Names of the cluster.
    pub kubernetes: Option<Kubernetes>,
    /// Memory of answers.
    pub cache: Option<Cache>,
    /// Synthesised addresses.
    pub dns64: Option<Dns64>,
    /// Who else is asked, in the order of the file.
    pub forwards: Vec<Forward>,
}

impl Corefile {
    /// Reads a Corefile called `file` with all it imports.
    pub fn parse(file: &str, text: &str, outside: &dyn Outside) -> Result<Self, CorefileError> {
        let mut corefile = Self { servers: Vec::new(), notes: Vec::new() };
        for block in tree::read(file, text, outside)? {
            let server = plugins::server(&block, &mut corefile.notes)?;
            for key in &server.zones {
                let earlier = corefile.servers.iter().find(|other| other.shares(&server, key));
                if let Some(earlier) = earlier {
                    return Err(server.at.error(format!(
                        "{key} has a server block already, at {}: put both into one, or bind them apart",
                        earlier.at
                    )));
                }
            }
            corefile.servers.push(server);
        }
        if corefile.servers.is_empty() {
            let at = At { file: file.into(), line: 1 };
            return Err(at.error("there is no server block: write one like .:53 { ... }"));
        }
        Ok(corefile)
    }

    /// The block for a name, absolute and in lower case, that was asked for at `port`: the one with the longest zone.
    pub fn server(&self, port: u16, name: &str) -> Option<&Server> {
        let zones = self.servers.iter().flat_map(|server| server.zones.iter().map(move |key| (server, key)));
        let fits = zones.filter(|(_, key)| key.port == port && is_under(name, &key.zone));
        fits.max_by_key(|(_, key)| key.zone.len()).map(|(server, _)| server)
    }
}

impl Server {
    /// Whether both answer for `key` at the same addresses.
    fn shares(&self, other: &Self, key: &ZoneKey) -> bool {
        let everywhere = self.bind.on.is_empty() || other.bind.on.is_empty();
        let same = everywhere || self.bind.on.iter().any(|on| other.bind.on.contains(on));
        same && self.zones.contains(key)
    }
}

/// Whether a name is a zone or lies in it; both absolute and in lower case.
pub(crate) fn is_under(name: &str, zone: &str) -> bool {
    zone == "." || name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests;
