//! What the maps should hold, from a program.
//!
//! Pods of this node are the only ones whose sockets are load balanced, so what counts of a program is its scope
//! `Cluster`. A frontend that only some sources may use, that refuses or that drops is in the maps as well, but says to
//! leave it to nftables, which answers as it should be. So does one that was asked to be left to it.
//!
//! The slots of a program that share many places among fewer endpoints are not needed here, where a random number may
//! have any bound: each endpoint is there once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dyad_net::IpFamily;
use dyad_program::{Action, Endpoint, Frontend, Program, Scope, Table};

use crate::layout::{self, BLOCK, BlockBytes, BlockKey, FrontendKey, FrontendValue, MemberKey};

/// The contents of the maps, or a part of them.
#[derive(Debug, Default)]
pub(crate) struct Desired {
    pub(crate) frontends: BTreeMap<FrontendKey, FrontendValue>,
    pub(crate) endpoints: BTreeMap<BlockKey, BlockBytes>,
    pub(crate) members: BTreeSet<MemberKey>,
}

impl Desired {
    /// All that a program says, with these frontends left to nftables.
    pub(crate) fn of(program: &Program, left: &BTreeSet<Frontend>) -> Self {
        let mut desired = Self::default();
        for (family, table) in program.iter() {
            for (scope, at) in table.frontends.keys() {
                if *scope == Scope::Cluster {
                    desired.add(family, table, *at, left);
                }
            }
        }
        desired
    }

    /// Adds what a table says about a frontend, if it does.
    pub(crate) fn add(&mut self, family: IpFamily, table: &Table, at: Frontend, left: &BTreeSet<Frontend>) {
        let Some(action) = table.frontends.get(&(Scope::Cluster, at)) else { return };
        let key = layout::frontend_key(family, at);
        let mut value = FrontendValue::default();
        if let Action::Forward { slots, sticky } = *action
            && !table.guarded.contains(&at)
            && !left.contains(&at)
        {
            let range = (Scope::Cluster, at, 0)..(Scope::Cluster, at, slots);
            let distinct: BTreeSet<Endpoint> = table.endpoints.range(range).map(|(_, to)| *to).collect();
            let distinct: Vec<_> = distinct.into_iter().collect();
            value.endpoints =
                u16::try_from(distinct.len()).expect("no more than slots, whose number is a u16");
            value.sticky_secs = sticky.map_or(0, |sticky| sticky.get());
            for (number, endpoints) in (0..).zip(distinct.chunks(BLOCK)) {
                self.endpoints.insert(layout::block_key(key, number), layout::block(endpoints));
            }
            if sticky.is_some() {
                let members = table.members(Scope::Cluster, at);
                self.members.extend(members.map(|endpoint| layout::member_key(key, endpoint)));
            }
        }
        self.frontends.insert(key, value);
    }
}

/// The pods whose connections policy decides about.
pub(crate) fn isolated(program: &Program) -> BTreeSet<IpAddr> {
    let tables = program.iter().map(|(_, table)| table);
    tables.flat_map(|table| table.isolated.keys().map(|(_, ip)| *ip)).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use dyad_net::DualStack;
    use dyad_program::{Entry, Protocol};

    use super::*;

    fn endpoint(last: u8) -> Endpoint {
        Endpoint { ip: IpAddr::from([10, 244, 1, last]), port: 8080 }
    }

    #[test]
    fn a_frontend_becomes_blocks_of_distinct_endpoints() {
        let at = Frontend::Address("10.96.0.1".parse().unwrap(), Protocol::Tcp, 80);
        let node_port = Frontend::NodePort(Protocol::Udp, 30001);
        let mut table = Table::default();
        let sticky = NonZeroU32::new(60);
        table.insert(Entry::Frontend(Scope::Cluster, at, Action::Forward { slots: 127, sticky }));
        table.insert(Entry::Frontend(Scope::Local, at, Action::Drop));
        table.insert(Entry::Frontend(Scope::Cluster, node_port, Action::Reject));
        for slot in 0..127 {
            let last = u8::try_from(slot % 20).unwrap();
            table.insert(Entry::Endpoint(Scope::Cluster, at, slot, endpoint(last)));
        }
        // Of another scope, or of nothing.
        table.insert(Entry::Endpoint(Scope::Local, at, 0, endpoint(99)));
        table.insert(Entry::Endpoint(Scope::Cluster, at, 127, endpoint(99)));
        table.insert(Entry::Sticky(Scope::Cluster, at, endpoint(0)));
        table.insert(Entry::Sticky(Scope::Local, at, endpoint(1)));
        let desired = Desired::of(&DualStack::single(IpFamily::V4, table.clone()), &BTreeSet::new());
        let key = layout::frontend_key(IpFamily::V4, at);
        let expected = [
            (layout::frontend_key(IpFamily::V4, node_port), FrontendValue::default()),
            (key, FrontendValue { sticky_secs: 60, endpoints: 20 }),
        ];
        assert_eq!(desired.frontends, expected.into());
        let blocks: Vec<_> = desired.endpoints.keys().copied().collect();
        assert_eq!(blocks, [0, 1, 2].map(|number| layout::block_key(key, number)));
        assert!(desired.endpoints.values().all(|block| *block != layout::block(&[endpoint(99)])));
        assert_eq!(desired.members, [layout::member_key(key, endpoint(0))].into());

        let mut guarded = table.clone();
        guarded.insert(Entry::Guarded(at));
        for (table, left, why) in
            [(guarded, None, "some may not: nftables knows who"), (table, Some(at), "asked for")]
        {
            let desired = Desired::of(&DualStack::single(IpFamily::V4, table), &left.into_iter().collect());
            assert_eq!(desired.frontends[&key], FrontendValue::default(), "{why}");
            assert!(desired.endpoints.is_empty() && desired.members.is_empty(), "{why}");
        }
    }
}
