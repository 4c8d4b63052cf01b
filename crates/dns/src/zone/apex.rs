//! What is the same in all snapshots: the options, and names in wire form.

use std::net::IpAddr;

use super::input::Options;
use crate::wire::{Labels, Name};

/// The zone as it was configured.
#[derive(Debug)]
pub struct Apex {
    options: Options,
    /// The cluster domain in lower case.
    pub(crate) domain: Name,
    /// How many labels that has.
    pub(crate) labels: usize,
    /// The key of the Service in front of us.
    pub(crate) name_server: Option<Vec<u8>>,
}

impl Apex {
    pub(crate) fn new(options: Options) -> Self {
        let domain = options.domain.to_lowercase();
        let labels = domain.labels().count();
        let name_server = options.name_servers.service.as_ref().and_then(super::ObjectName::key);
        Self { options, domain, labels, name_server }
    }

    /// The options.
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// How long negative answers hold, and TTL and minimum of the SOA (A.3).
    pub(crate) fn negative_ttl(&self) -> u32 {
        self.options.ttl.min(self.options.negative_ttl)
    }

    /// Addresses of the name server while there is no Service.
    pub(crate) fn name_server_addresses(&self) -> &[IpAddr] {
        &self.options.name_servers.addresses
    }

    /// Whether what is not found below `labels` shall be looked up elsewhere.
    pub(crate) fn falls_through(&self, name: &[u8]) -> bool {
        let within = |zone: &Name| {
            let mut rest = name;
            loop {
                if rest.eq_ignore_ascii_case(zone.as_wire()) {
                    return true;
                }
                let Some(first) = Labels::of(rest).next() else { return false };
                rest = &rest[first.len() + 1..];
            }
        };
        self.options.fallthrough.iter().any(within)
    }
}
