//! What there is on the machine: its addresses, what stands in the way, how many addresses are left for pods.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dyad_cni::store::Store;
use dyad_net::{IpFamily, IpNet};
use dyad_program::{Frontend, Scope};
use tracing::{debug, info};

use super::Engine;
use crate::addresses::{Seen, Wishes};
use crate::cni::NETWORK;
use crate::config::{Ipam, Routing};
use crate::{AgentError, claim, ipam, objects, uplinks, warnings, with_causes};

impl Engine {
    pub(super) fn read_addresses(&mut self) -> Result<(), AgentError> {
        let found = self.links.addresses()?;
        claim::apply(&mut self.links, &self.config.intercept, &found)?;
        self.addresses = found.into_iter().map(|address| address.net.addr()).collect();
        let is_own = |ip: &&IpAddr| !self.config.intercept.contains(ip);
        self.own_addresses = self.addresses.iter().filter(is_own).copied().collect();
        self.kernel.set_addresses(&self.own_addresses)
    }

    /// Asks for more ranges where those that were given are running out.
    pub(super) fn ask_for_ranges(&mut self) {
        let (Ipam::Pool, Some(cni)) = (self.config.ipam, &self.config.cni) else { return };
        let taken = match Store::existing(&cni.data_dir, NETWORK) {
            Some(store) => store.lock().and_then(|store| store.taken()),
            None => Ok(BTreeSet::new()),
        };
        let taken = match taken {
            Ok(taken) => taken,
            // Pods that can't be connected for it say so.
            Err(error) => return debug!(%error, "looking at addresses that are taken"),
        };
        let said = self.status.announced.wanted.as_deref();
        let wanted = ipam::wanted(said, &self.status.pod_ranges, &taken);
        if wanted.as_deref() != said {
            info!(wanted, "few addresses are left for pods; more ranges are asked for");
        }
        self.status.wanted = wanted;
    }

    /// What others have in nf_tables that is in the way.
    fn look_at_tables(&self) -> Vec<String> {
        let of_cluster: Vec<IpNet> = self
            .config
            .pod_ranges
            .iter()
            .filter(|(family, range)| **range != family.everything())
            .map(|(_, range)| *range)
            .collect();
        let own = &self.compiler.node().own_pods;
        let missing = own.iter().filter(|own| !of_cluster.iter().any(|range| range.contains(*own)));
        let pods: Vec<IpNet> = of_cluster.iter().chain(missing).copied().collect();
        match dyad_nft::others::look(&pods) {
            Ok(others) => warnings::tables(&others, &pods, self.config.services),
            // It is looked again.
            Err(error) => {
                debug!(error = with_causes(&error), "looking at tables of others");
                Vec::new()
            }
        }
    }

    /// Chooses this node's addresses, and looks for what stands in the way, where the whole network is ours.
    pub(super) fn look_around(&mut self) -> Result<(), AgentError> {
        if self.config.routing != Routing::None {
            uplinks::keep_listening(&mut self.links, &self.switches)?;
        }
        let Some(cni) = &self.config.cni else { return Ok(()) };
        let seen = Seen::read(&mut self.links)?;
        let me = self.nodes.get(&self.me);
        let before = me.and_then(|node| node.announced.addresses.as_deref()).unwrap_or_default();
        let is_known = |(family, range): &(IpFamily, &IpNet)| **range != family.everything();
        let of_pods = self.config.pod_ranges.iter().filter(is_known).map(|(_, range)| *range);
        let view = self.compiler.node();
        let ranges: Vec<IpNet> =
            of_pods.chain(view.services.iter().copied()).chain(view.own_pods.iter().copied()).collect();
        let of_services = |(_, at): &(Scope, Frontend)| match at {
            Frontend::Address(ip, ..) => Some(*ip),
            Frontend::NodePort(..) => None,
        };
        let tables = self.compiler.program().iter();
        let virtual_ips =
            tables.flat_map(|(_, table)| table.frontends.keys().filter_map(of_services)).collect();
        let wishes = Wishes {
            said: me.map(|node| &*node.said).unwrap_or_default(),
            reported: &self.reported,
            before: &objects::ips(before),
            virtual_ips: &virtual_ips,
            ranges: &ranges,
        };
        let chosen = seen.choose(&self.config, &wishes);
        if chosen != self.status.chosen {
            info!(?chosen, "addresses of this node");
            self.status.chosen = chosen;
        }
        let mut found = warnings::look(cni, &seen.links);
        found.push(("table", self.look_at_tables()));
        found.push(("range", self.status.range_problem.iter().cloned().collect()));
        let of_ways = ("way", self.complaints.of_ways.len());
        self.metrics.set_warnings(found.iter().map(|(kind, texts)| (*kind, texts.len())).chain([of_ways]));
        self.complaints.of_machine = found.into_iter().flat_map(|(_, texts)| texts).collect();
        Ok(())
    }
}
