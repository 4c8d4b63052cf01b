//! From objects to a program, at once or step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dyad_net::IpFamily;

use crate::{
    EndpointSlice, Frontend, Name, NodeView, Op, Program, Scope, Service, Table, apply, diff, ranges, service,
};

/// All a program is compiled from.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The node and its cluster.
    pub node: NodeView,
    /// Services by name.
    pub services: BTreeMap<Name, Service>,
    /// EndpointSlices by name.
    pub slices: BTreeMap<Name, EndpointSlice>,
}

/// The program for a node.
pub fn compile(inputs: &Inputs) -> Program {
    let mut compiler = Compiler::new(inputs.node.clone());
    for (name, service) in &inputs.services {
        compiler.set_service(name.clone(), Some(service.clone()));
    }
    for (name, slice) in &inputs.slices {
        compiler.set_slice(name.clone(), Some(slice.clone()));
    }
    compiler.step();
    compiler.program
}

/// Compiles step by step: the cost of a step follows what has changed, not what there is.
///
/// The program depends on the inputs only, not on the order they came in.
#[derive(Clone, Debug)]
pub struct Compiler {
    node: NodeView,
    services: BTreeMap<Name, State>,
    /// The Service of each slice.
    slices: BTreeMap<Name, Name>,
    /// Who wants which frontend. The first one gets it: two Services may name the same external IP.
    claims: BTreeSet<(IpFamily, Frontend, Name)>,
    /// How many Services have an endpoint of this node with the address.
    hairpin: BTreeMap<IpAddr, usize>,
    stale: BTreeSet<Name>,
    node_is_stale: bool,
    program: Program,
}

/// A Service, its slices and what came of them. The Service may be missing while its slices are there.
#[derive(Clone, Debug, Default)]
struct State {
    service: Option<Service>,
    slices: BTreeMap<Name, EndpointSlice>,
    frontends: BTreeMap<(IpFamily, Frontend), Table>,
    local_ips: BTreeSet<IpAddr>,
}

impl Compiler {
    /// A compiler for a node, without Services. The families are those of the cluster's pod ranges.
    pub fn new(node: NodeView) -> Self {
        let program = node.cluster_pods.map(|_, _| Table::default());
        Self {
            node,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            claims: BTreeSet::new(),
            hairpin: BTreeMap::new(),
            stale: BTreeSet::new(),
            node_is_stale: true,
            program,
        }
    }

    /// The program as of the last [`step`](Self::step).
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The node as it was last set.
    pub fn node(&self) -> &NodeView {
        &self.node
    }

    /// Sets what is known of the node. Its families must stay what they were.
    pub fn set_node(&mut self, node: NodeView) {
        if self.node.name != node.name {
            self.stale.extend(self.services.keys().cloned());
        }
        self.node_is_stale |= self.node != node;
        self.node = node;
    }

    /// Sets or removes a Service.
    pub fn set_service(&mut self, name: Name, service: Option<Service>) {
        let state = self.services.entry(name.clone()).or_default();
        if state.service != service {
            state.service = service;
            self.stale.insert(name);
        } else {
            self.forget_if_empty(&name);
        }
    }

    /// Sets or removes an EndpointSlice.
    pub fn set_slice(&mut self, name: Name, slice: Option<EndpointSlice>) {
        let owner = slice.as_ref().map(|slice| slice.service.clone());
        let before = match &owner {
            Some(owner) => self.slices.insert(name.clone(), owner.clone()),
            None => self.slices.remove(&name),
        };
        if let Some(before) = before.filter(|before| Some(before) != owner.as_ref())
            && let Some(state) = self.services.get_mut(&before)
        {
            state.slices.remove(&name);
            self.stale.insert(before);
        }
        if let (Some(owner), Some(slice)) = (owner, slice) {
            let state = self.services.entry(owner.clone()).or_default();
            if state.slices.get(&name) != Some(&slice) {
                state.slices.insert(name, slice);
                self.stale.insert(owner);
            }
        }
    }

    /// The names of all Services, for comparison with a new listing.
    pub fn service_names(&self) -> impl Iterator<Item = &Name> {
        self.services.iter().filter(|(_, state)| state.service.is_some()).map(|(name, _)| name)
    }

    /// The names of all slices, likewise.
    pub fn slice_names(&self) -> impl Iterator<Item = &Name> {
        self.slices.keys()
    }

    /// Compiles what has changed since the last step; the changes of the program, already made in
    /// [`program`](Self::program).
    pub fn step(&mut self) -> Vec<Op> {
        let mut ops = Vec::new();
        if std::mem::take(&mut self.node_is_stale) {
            for (family, table) in self.program.iter() {
                let ranges = ranges::of_node(&self.node, family);
                let (old, new) = (
                    Table { ranges: table.ranges.clone(), ..Table::default() },
                    Table { ranges, ..Table::default() },
                );
                ops.extend(diff(family, &old, &new));
            }
        }
        let mut touched = BTreeSet::new();
        let mut touched_ips = BTreeSet::new();
        for name in std::mem::take(&mut self.stale) {
            self.recompile(&name, &mut touched, &mut touched_ips);
            self.forget_if_empty(&name);
        }
        for ip in touched_ips {
            let family = IpFamily::from(ip);
            let is = |there: bool| Table {
                hairpin: there.then_some(ip).into_iter().collect(),
                ..Table::default()
            };
            if let Some(table) = self.program.get(family) {
                ops.extend(diff(
                    family,
                    &is(table.hairpin.contains(&ip)),
                    &is(self.hairpin.contains_key(&ip)),
                ));
            }
        }
        for (family, at) in touched {
            let Some(table) = self.program.get(family) else { continue };
            let old = part(table, at);
            let none = Table::default();
            let owner = self.claims.range((family, at, Name::first())..).next();
            let new = owner
                .filter(|(of, claimed, _)| (*of, *claimed) == (family, at))
                .and_then(|(_, _, owner)| self.services.get(owner)?.frontends.get(&(family, at)));
            ops.extend(diff(family, &old, new.unwrap_or(&none)));
        }
        apply(&mut self.program, &ops);
        ops
    }

    fn recompile(
        &mut self,
        name: &Name,
        touched: &mut BTreeSet<(IpFamily, Frontend)>,
        touched_ips: &mut BTreeSet<IpAddr>,
    ) {
        let Some(state) = self.services.get_mut(name) else { return };
        let (mut frontends, mut local_ips) = (BTreeMap::new(), BTreeSet::new());
        for family in self.program.families() {
            let Some(service) = &state.service else { continue };
            let (at, local) = service::compile(service, &state.slices, &self.node.name, family);
            frontends.extend(at.into_iter().map(|(at, table)| ((family, at), table)));
            local_ips.extend(local);
        }
        for (family, at) in state.frontends.keys() {
            self.claims.remove(&(*family, *at, name.clone()));
            touched.insert((*family, *at));
        }
        for (family, at) in frontends.keys() {
            self.claims.insert((*family, *at, name.clone()));
            touched.insert((*family, *at));
        }
        for ip in &local_ips {
            *self.hairpin.entry(*ip).or_default() += 1;
            touched_ips.insert(*ip);
        }
        for ip in &state.local_ips {
            let count = self.hairpin.entry(*ip).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.hairpin.remove(ip);
            }
            touched_ips.insert(*ip);
        }
        state.frontends = frontends;
        state.local_ips = local_ips;
    }

    fn forget_if_empty(&mut self, name: &Name) {
        let empty = |state: &State| state.service.is_none() && state.slices.is_empty();
        if self.services.get(name).is_some_and(empty) && !self.stale.contains(name) {
            self.services.remove(name);
        }
    }
}

/// What a table has of one frontend.
fn part(table: &Table, at: Frontend) -> Table {
    let mut found = Table::default();
    for scope in Scope::BOTH {
        let key = (scope, at);
        found.frontends.extend(table.frontends.get(&key).map(|action| (key, *action)));
        let slots = table.endpoints.range((scope, at, 0)..=(scope, at, u16::MAX));
        found.endpoints.extend(slots.map(|(key, endpoint)| (*key, *endpoint)));
    }
    found
}

#[cfg(test)]
mod tests;
