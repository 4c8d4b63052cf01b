//! Which prefixes are for whom, and for which addresses.

use std::net::{IpAddr, Ipv4Addr};

use dyad_net::{IpNet, Pref64};

use super::{Client, Dns64};
use crate::corefile::{Prefix, Synthesize};

/// The prefixes one client gets addresses of.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    dns64: &'a Dns64,
    /// In order of preference, and whether their translator works.
    prefixes: Vec<(&'a Prefix, bool)>,
}

impl Dns64 {
    /// The prefixes for `client`; `usable` says whose translator works now. `None` if the client gets what there
    /// really is.
    pub fn select(&self, client: Client<'_>, usable: &dyn Fn(Pref64) -> bool) -> Option<Selection<'_>> {
        // What came by a socket of both families.
        let ip = client.ip.to_canonical();
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&ip));
        let is_in =
            |names: &[String]| client.namespace.is_some_and(|name| names.iter().any(|known| known == name));
        let config = &self.config;
        let wanted = config.namespaces.is_empty() || is_in(&config.namespaces);
        if !within(&config.clients) || !wanted || is_in(&config.except_namespaces) {
            return None;
        }
        let fits = |prefix: &&Prefix| prefix.clients.is_empty() || within(&prefix.clients);
        let prefixes = config.prefixes.iter().filter(fits);
        let prefixes = prefixes.map(|prefix| (prefix, usable(prefix.prefix))).collect();
        Some(Selection { dns64: self, prefixes })
    }
}

impl Selection<'_> {
    /// The prefixes whose translators work, in order of preference.
    pub fn prefixes(&self) -> impl Iterator<Item = Pref64> {
        self.prefixes.iter().filter(|(_, usable)| *usable).map(|(prefix, _)| prefix.prefix)
    }

    /// Whether `ip` gets an address of `prefix`.
    ///
    /// Prefixes for a range go before those for all, the longest range first. If the translators of those that are
    /// for an address are all down, others are no help: they lead to other networks.
    pub fn serves(&self, prefix: Pref64, ip: Ipv4Addr) -> bool {
        if self.dns64.config.deny.iter().any(|net| net.contains(&ip)) {
            return false;
        }
        let candidates = || self.prefixes.iter().filter(|(candidate, _)| candidate.prefix.may_carry(ip));
        let Some(best) = candidates().filter_map(|(candidate, _)| specificity(candidate, ip)).max() else {
            return false;
        };
        let mut chosen = candidates()
            .filter(|(candidate, usable)| *usable && specificity(candidate, ip) == Some(best))
            .map(|(candidate, _)| candidate.prefix);
        match self.dns64.config.synthesize {
            Synthesize::All => chosen.any(|candidate| candidate == prefix),
            Synthesize::First => chosen.next() == Some(prefix),
        }
    }
}

/// How closely a prefix is for an address: by the length of the range, or not at all.
fn specificity(prefix: &Prefix, ip: Ipv4Addr) -> Option<u8> {
    if prefix.targets.is_empty() {
        return Some(0);
    }
    let fits = prefix.targets.iter().filter(|net| net.contains(&ip));
    fits.map(|net| net.prefix_len().saturating_add(1)).max()
}

impl Dns64 {
    /// The prefix an address is in, the longest that there is.
    pub(super) fn prefix_of(&self, ip: IpAddr) -> Option<Pref64> {
        let prefixes = self.config.prefixes.iter().map(|prefix| prefix.prefix);
        prefixes
            .filter(|prefix| IpNet::V6(prefix.net()).contains(&ip))
            .max_by_key(|prefix| prefix.net().prefix_len())
    }
}
