//! `dyad explain path`: what becomes of a new connection, step by step, with what decides each step.
//!
//! Objects are read through the API and compiled, for each node on the way, by the compiler that programs that node;
//! the simulator that is the oracle of the executors' tests then says what every node does with the packet. Nothing is
//! sent, and nothing needs to run on the nodes. What kernels count ([`counters`]) can be put beside it.

pub mod counters;

mod advice;
mod cluster;
mod end;
mod follow;
mod objects;
mod report;
mod target;

use std::net::IpAddr;

use dyad_net::{IpFamily, IpNet};
use dyad_program::Protocol;

pub(crate) use cluster::POD_RANGES;
pub use end::{End, PortName, Target};
pub use objects::{Objects, fetch};
pub use report::{Counter, Decision, Fate, Hop, Outcome, Path, Report};

use cluster::Cluster;
use target::Place;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who connects.
    pub from: End,
    /// To whom.
    pub to: Target,
    /// In which families; empty for those of the cluster.
    pub families: Vec<IpFamily>,
    /// With which protocol; `None` for that of the Service's port, or TCP.
    pub protocol: Option<Protocol>,
    /// The node that connections from outside come to; `None` for one that suits.
    pub via: Option<String>,
}

/// What the API does not say about a cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The ranges of all pods, primary family first; empty for what covers the ranges of the nodes.
    pub pod_ranges: Vec<IpNet>,
    /// The ranges of cluster IPs, likewise; empty for what ServiceCIDRs say.
    pub service_ranges: Vec<IpNet>,
    /// Addresses that stand for the outside.
    pub outside: Vec<IpAddr>,
    /// Where node ports are served.
    pub node_ports: Vec<IpNet>,
    /// Whether pods with global addresses are open to everybody.
    pub open_pods: bool,
    /// Whether pods that leave the cluster are masqueraded.
    pub masquerade_pods: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pod_ranges: Vec::new(),
            service_ranges: Vec::new(),
            // Of the ranges for documentation: nobody's, so certainly not the cluster's.
            outside: vec![
                std::net::Ipv4Addr::new(203, 0, 113, 80).into(),
                std::net::Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x80).into(),
            ],
            node_ports: IpFamily::BOTH.map(IpFamily::everything).to_vec(),
            open_pods: false,
            masquerade_pods: true,
        }
    }
}

/// Why a question has no answer; that a connection fails is an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// The question makes no sense in this cluster.
    #[error("{0}")]
    Question(String),
    /// The API refused or failed a request.
    #[error("can't list objects of kind {kind}: {source}")]
    Api {
        /// What was to be listed.
        kind: &'static str,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object can't be read.
    #[error("a {kind} of the cluster can't be read: {source}")]
    Object {
        /// Its kind.
        kind: &'static str,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl ExplainError {
    fn question(text: impl Into<String>) -> Self {
        Self::Question(text.into())
    }
}

/// What becomes of the connection that is asked about.
pub fn explain(objects: &Objects, settings: &Settings, question: &Question) -> Result<Report, ExplainError> {
    let mut cluster = Cluster::read(objects, settings)?;
    let families = match question.families.as_slice() {
        [] => {
            let ends = [&question.from, &question.to.end];
            let fits = |family: &IpFamily| {
                ends.iter().all(|end| !matches!(end, End::Address(ip) if IpFamily::from(*ip) != *family))
            };
            cluster.families().into_iter().filter(fits).collect()
        }
        asked => asked.to_vec(),
    };
    if families.is_empty() {
        let text =
            format!("{} and {} have no family in common that the cluster has", question.from, question.to);
        return Err(ExplainError::Question(text));
    }
    let place = Place::find(&cluster, question)?;
    let mut paths = Vec::new();
    for family in families {
        paths.push(follow::path(&mut cluster, question, &place, family)?);
    }
    Ok(Report::new(question, paths))
}

#[cfg(test)]
mod tests;
