//! Taking the queries of this node's pods to its own DNS server, while there is one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dyad_nft::Interception;
use dyad_program::rule::Direction;
use dyad_program::{Frontend, Program, Protocol};
use tracing::{info, warn};

use crate::with_causes;

/// The port of DNS.
const DNS: u16 = 53;

/// Queries to the addresses of the cluster's DNS Service.
#[derive(Debug)]
pub(super) struct Queries {
    addresses: BTreeSet<IpAddr>,
    /// Whether there is a server on this node to take them to.
    is_served: bool,
    /// Paused, but kept, when there was a server: it may have answers on their way.
    interception: Option<Interception>,
    /// Whether it is time to try again what has failed.
    is_due: bool,
    complaint: Option<String>,
    /// The pods that the program isolates, as of its last change.
    isolated: BTreeSet<IpAddr>,
}

/// Pods whose queries have to go where policy sees them: to the endpoints of the Service.
fn isolated(program: &Program) -> BTreeSet<IpAddr> {
    let isolated = program.iter().flat_map(|(_, table)| table.isolated.keys());
    isolated.filter(|(direction, _)| *direction == Direction::Egress).map(|(_, ip)| *ip).collect()
}

impl Queries {
    pub(super) fn to(addresses: &[IpAddr]) -> Self {
        Self {
            addresses: addresses.iter().copied().collect(),
            is_served: false,
            interception: None,
            is_due: false,
            complaint: None,
            isolated: BTreeSet::new(),
        }
    }

    pub(super) fn set_served(&mut self, is_served: bool) {
        self.is_served = is_served && !self.addresses.is_empty();
        self.is_due = true;
    }

    /// Whether they are taken.
    pub(super) fn are_taken(&self) -> bool {
        self.interception.as_ref().is_some_and(|interception| !interception.is_paused())
    }

    /// What they go to, if nobody but nftables may know better.
    pub(super) fn frontends(&self) -> BTreeSet<Frontend> {
        let taken = self.addresses.iter().filter(|_| self.are_taken());
        taken.map(|ip| Frontend::Address(*ip, Protocol::Udp, DNS)).collect()
    }

    /// Before the kernel has the policies of `program`: no pod is isolated whose queries are still taken, for they would
    /// be dropped. What is not served any more is given back at once.
    ///
    /// Nothing is computed anew unless the program `has_changed`.
    pub(super) fn before(&mut self, program: &Program, has_changed: bool, look: bool) {
        self.is_due |= look;
        if !self.is_served && self.are_taken() {
            self.change(Interception::pause);
            info!("queries go to the cluster's DNS");
        }
        if has_changed {
            self.isolated = isolated(program);
            let isolated = self.isolated.clone();
            self.change(|interception| {
                let both = interception.spared().union(&isolated).copied().collect();
                interception.spare(&both)
            });
        }
    }

    /// When the kernel has the policies of `program`.
    pub(super) fn after(&mut self) {
        if self.interception.as_ref().is_some_and(|interception| *interception.spared() != self.isolated) {
            let isolated = self.isolated.clone();
            self.change(|interception| interception.spare(&isolated));
        }
        if !self.is_served || self.are_taken() || !std::mem::take(&mut self.is_due) {
            return;
        }
        if self.interception.is_some() {
            self.change(Interception::resume);
        } else {
            match Interception::open(&self.addresses, &self.isolated) {
                Ok(interception) => self.interception = Some(interception),
                Err(error) => self.complain(&error),
            }
        }
        if self.are_taken() {
            self.complaint = None;
            info!(addresses = ?self.addresses, "queries go to the DNS server of this node");
        }
    }

    /// Changes the interception, if there is one; if that fails, there is none any more: it might take what it must not.
    fn change(&mut self, change: impl FnOnce(&mut Interception) -> dyad_nft::Result<()>) {
        if let Some(interception) = &mut self.interception
            && let Err(error) = change(interception)
        {
            self.interception = None;
            self.complain(&error);
        }
    }

    /// Once, not at every look.
    fn complain(&mut self, error: &dyad_nft::Error) {
        let text = with_causes(error);
        if self.complaint.as_ref() != Some(&text) {
            warn!(error = text, "queries go to the cluster's DNS, although this node has a server for them");
            self.complaint = Some(text);
        }
    }
}
