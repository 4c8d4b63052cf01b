//! All server blocks of a Corefile.

use std::sync::Arc;

use super::{Chain, SetupError, World};
use crate::corefile::Corefile;
use crate::wire::Name;

/// The chains of a Corefile, by port and zone.
#[derive(Default)]
pub struct Chains {
    /// The longest zones first.
    zones: Vec<(u16, Name, Arc<Chain>)>,
}

impl Chains {
    /// The chains of a Corefile. What `old` has learnt is taken over where zones and settings are the same.
    pub fn new(corefile: &Corefile, world: &World, old: Option<&Self>) -> Result<Self, SetupError> {
        let mut zones = Vec::new();
        for server in &corefile.servers {
            let keys = || server.zones.iter().map(|key| (key.port, super::name(&key.zone)));
            let known = old.zip(keys().next()).and_then(|(old, (port, zone))| old.of(port, &zone));
            let chain = Arc::new(Chain::new(server, world.clone(), known.map(Arc::as_ref))?);
            zones.extend(keys().map(|(port, zone)| (port, zone, chain.clone())));
        }
        zones.sort_by_key(|(_, zone, _)| std::cmp::Reverse(zone.as_wire().len()));
        Ok(Self { zones })
    }

    /// The chain for a name in wire form that was asked for at `port`: that of the longest zone.
    pub fn find(&self, port: u16, name: &[u8]) -> Option<&Arc<Chain>> {
        let fits = |(at, zone, _): &&(u16, Name, Arc<Chain>)| *at == port && is_within(name, zone.as_wire());
        self.zones.iter().find(fits).map(|(.., chain)| chain)
    }

    /// All of them, each once.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Chain>> {
        let chains = self.zones.iter().map(|(.., chain)| chain).enumerate();
        chains
            .filter(|(at, chain)| !self.zones[..*at].iter().any(|(.., other)| Arc::ptr_eq(other, chain)))
            .map(|(_, chain)| chain)
    }

    /// All of them with their ports and zones.
    pub fn blocks(&self) -> impl Iterator<Item = (u16, &Name, &Arc<Chain>)> {
        self.zones.iter().map(|(port, zone, chain)| (*port, zone, chain))
    }

    fn of(&self, port: u16, zone: &Name) -> Option<&Arc<Chain>> {
        self.zones.iter().find(|(at, known, _)| (*at, known) == (port, zone)).map(|(.., chain)| chain)
    }
}

/// Whether a name ends with a zone, label by label.
fn is_within(mut name: &[u8], zone: &[u8]) -> bool {
    while name.len() > zone.len() {
        let label = usize::from(name[0]) + 1;
        match name.get(label..) {
            Some(rest) if label > 1 => name = rest,
            Some(_) | None => return false,
        }
    }
    name.eq_ignore_ascii_case(zone)
}
