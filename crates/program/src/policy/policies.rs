//! Policies step by step: what is in the tables follows what has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use dyad_model::selector::LabelSelector;
use dyad_net::IpFamily;

use super::rules::{Definition, Rules, in_order, nowhere};
use super::{ClusterNetworkPolicy, Labels, NetworkPolicy, PeerNode, Pod, Tier};
use crate::rule::{Chain, Decision, Direction, Id, Member, SetKind};
use crate::{Entry, Name, Op};

/// Compiles policy for one node. The result depends on the objects only, not on the order they came in.
#[derive(Clone, Debug)]
pub struct Policies {
    node: Arc<str>,
    pods: BTreeMap<Name, Pod>,
    namespaces: BTreeMap<Arc<str>, Labels>,
    nodes: BTreeMap<Name, PeerNode>,
    network: BTreeMap<Name, NetworkPolicy>,
    cluster: BTreeMap<Name, ClusterNetworkPolicy>,
    stale: Stale,
    /// What isolates the pods of this node.
    profiles: BTreeMap<Name, Profile>,
    /// Who isolates an address: the first of two pods that have it, while one comes and the other goes.
    claims: BTreeMap<(Direction, IpAddr), BTreeMap<Name, Id>>,
    /// The sets that profiles name, with how many do.
    sets: BTreeMap<Id, (Definition, usize)>,
    /// What each pod and each node puts into them.
    memberships: BTreeMap<Source, BTreeSet<(Id, Member)>>,
    /// Who puts something into each of them.
    sources: BTreeMap<Id, BTreeSet<Source>>,
    ledger: Ledger,
}

/// What has changed since the last step.
#[derive(Clone, Debug, Default)]
struct Stale {
    /// Pods of this node that policies may say something else about.
    profiles: BTreeSet<Name>,
    memberships: BTreeSet<Source>,
    claims: BTreeSet<(Direction, IpAddr)>,
    /// Every pod of this node.
    all_profiles: bool,
}

/// Who is in sets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Pod(Name),
    Node(Name),
}

/// What isolates a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Profile {
    ips: Vec<IpAddr>,
    entries: BTreeMap<Direction, Id>,
    chains: BTreeMap<Id, Chain>,
    sets: BTreeMap<Id, Definition>,
}

impl Policies {
    /// No policies, for the node with this name.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.into(),
            pods: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            nodes: BTreeMap::new(),
            network: BTreeMap::new(),
            cluster: BTreeMap::new(),
            stale: Stale::default(),
            profiles: BTreeMap::new(),
            claims: BTreeMap::new(),
            sets: BTreeMap::new(),
            memberships: BTreeMap::new(),
            sources: BTreeMap::new(),
            ledger: Ledger::default(),
        }
    }

    /// Sets or removes a pod of any node.
    pub fn set_pod(&mut self, name: Name, pod: Option<Pod>) {
        if self.pods.get(&name) == pod.as_ref() {
            return;
        }
        let before = match pod {
            Some(pod) => self.pods.insert(name.clone(), pod),
            None => self.pods.remove(&name),
        };
        let is_here = |pod: &Pod| pod.node == self.node;
        if before.as_ref().is_some_and(is_here) || self.pods.get(&name).is_some_and(is_here) {
            self.stale.profiles.insert(name.clone());
        }
        self.stale.memberships.insert(Source::Pod(name));
    }

    /// Sets or removes a namespace, by its labels. The name is that of a cluster-wide object.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        if self.namespaces.get(name) == labels.as_ref() {
            return;
        }
        let name: Arc<str> = name.into();
        for (pod, _) in self.pods.iter().filter(|(_, pod)| pod.namespace == name) {
            self.stale.memberships.insert(Source::Pod(pod.clone()));
            self.stale.profiles.insert(pod.clone());
        }
        match labels {
            Some(labels) => drop(self.namespaces.insert(name, labels)),
            None => drop(self.namespaces.remove(&name)),
        }
    }

    /// Sets or removes a node.
    pub fn set_peer_node(&mut self, name: Name, node: Option<PeerNode>) {
        if self.nodes.get(&name) == node.as_ref() {
            return;
        }
        match node {
            Some(node) => drop(self.nodes.insert(name.clone(), node)),
            None => drop(self.nodes.remove(&name)),
        }
        self.stale.memberships.insert(Source::Node(name));
    }

    /// Sets or removes a NetworkPolicy.
    pub fn set_network_policy(&mut self, name: Name, policy: Option<NetworkPolicy>) {
        if self.network.get(&name) == policy.as_ref() {
            return;
        }
        let before = match policy {
            Some(policy) => self.network.insert(name.clone(), policy),
            None => self.network.remove(&name),
        };
        let namespaces =
            [before.as_ref(), self.network.get(&name)].map(|policy| policy.map(|of| &of.namespace));
        let concerned = self.pods.iter().filter(|(_, pod)| namespaces.contains(&Some(&pod.namespace)));
        self.stale.profiles.extend(concerned.map(|(name, _)| name.clone()));
    }

    /// Sets or removes a ClusterNetworkPolicy.
    pub fn set_cluster_policy(&mut self, name: Name, policy: Option<ClusterNetworkPolicy>) {
        if self.cluster.get(&name) == policy.as_ref() {
            return;
        }
        match policy {
            Some(policy) => drop(self.cluster.insert(name, policy)),
            None => drop(self.cluster.remove(&name)),
        }
        self.stale.all_profiles = true;
    }

    /// The pods there are, for comparison with a new listing.
    pub fn pod_names(&self) -> impl Iterator<Item = &Name> {
        self.pods.keys()
    }

    /// The namespaces, likewise.
    pub fn namespace_names(&self) -> impl Iterator<Item = &str> {
        self.namespaces.keys().map(|name| &**name)
    }

    /// The NetworkPolicies, likewise.
    pub fn network_policy_names(&self) -> impl Iterator<Item = &Name> {
        self.network.keys()
    }

    /// The ClusterNetworkPolicies, likewise.
    pub fn cluster_policy_names(&self) -> impl Iterator<Item = &Name> {
        self.cluster.keys()
    }

    /// Whether any policy concerns this node now.
    pub fn isolate_anybody(&self) -> bool {
        self.profiles.values().any(|profile| !profile.entries.is_empty())
    }

    /// Compiles what has changed since the last step; the changes, of both families, in the order of
    /// [`diff`](crate::diff).
    pub fn step(&mut self) -> Vec<Op> {
        let mut stale = std::mem::take(&mut self.stale);
        if stale.all_profiles {
            let here = self.pods.iter().filter(|(_, pod)| pod.node == self.node);
            stale.profiles.extend(here.map(|(name, _)| name.clone()));
        }
        let before: BTreeSet<Id> = self.sets.keys().copied().collect();
        for name in &stale.profiles {
            self.update_profile(name, &mut stale.claims);
        }
        let gone: BTreeSet<Id> = before.iter().filter(|id| !self.sets.contains_key(id)).copied().collect();
        let come: Vec<Id> = self.sets.keys().filter(|id| !before.contains(id)).copied().collect();
        self.update_memberships(&stale.memberships, &gone, &come);
        for key in stale.claims {
            let first = self.claims.get(&key).and_then(|claims| claims.values().next()).copied();
            self.ledger.isolate(key, first);
        }
        self.ledger.take_changes()
    }

    fn labels_of(&self, namespace: &str) -> Option<&Labels> {
        self.namespaces.get(namespace)
    }

    fn update_profile(&mut self, name: &Name, claims: &mut BTreeSet<(Direction, IpAddr)>) {
        let new = self.profile_of(name);
        let old = self.profiles.remove(name).unwrap_or_default();
        if new != old {
            for (id, definition) in &new.sets {
                self.sets.entry(*id).or_insert_with(|| (definition.clone(), 0)).1 += 1;
                self.ledger.define(*id, definition, 1);
            }
            for (id, definition) in &old.sets {
                if let Some((_, users)) = self.sets.get_mut(id) {
                    *users -= 1;
                    if *users == 0 {
                        self.sets.remove(id);
                    }
                }
                self.ledger.define(*id, definition, -1);
            }
            new.chains.iter().for_each(|(id, chain)| self.ledger.chain(*id, chain, 1));
            old.chains.iter().for_each(|(id, chain)| self.ledger.chain(*id, chain, -1));
            for (profile, is_there) in [(&old, false), (&new, true)] {
                for (direction, id) in &profile.entries {
                    for ip in &profile.ips {
                        let key = (*direction, *ip);
                        let all = self.claims.entry(key).or_default();
                        if is_there {
                            all.insert(name.clone(), *id);
                        } else {
                            all.remove(name);
                        }
                        if all.is_empty() {
                            self.claims.remove(&key);
                        }
                        claims.insert(key);
                    }
                }
            }
        }
        if !new.entries.is_empty() {
            self.profiles.insert(name.clone(), new);
        }
    }

    /// What policies say about a pod of this node.
    fn profile_of(&self, name: &Name) -> Profile {
        let mut profile = Profile::default();
        let here = |pod: &&Pod| pod.node == self.node && !pod.host_network;
        let Some(pod) = self.pods.get(name).filter(here) else { return profile };
        profile.ips.clone_from(&pod.ips);
        let none = Labels::new();
        let namespace = self.labels_of(&pod.namespace).unwrap_or(&none);
        let network: Vec<_> = self
            .network
            .iter()
            .filter(|(_, policy)| policy.namespace == pod.namespace && selects(&policy.pods, &pod.labels))
            .collect();
        let cluster = || {
            self.cluster.iter().filter(|(_, policy)| {
                selects(&policy.namespaces, namespace) && selects(&policy.pods, &pod.labels)
            })
        };
        let (admin, baseline) = (in_order(cluster(), Tier::Admin), in_order(cluster(), Tier::Baseline));
        for direction in Direction::BOTH {
            let isolating: Vec<_> = network
                .iter()
                .copied()
                .filter(|(_, policy)| match direction {
                    Direction::Ingress => policy.ingress.is_some(),
                    Direction::Egress => policy.egress.is_some(),
                })
                .collect();
            let rest = if isolating.is_empty() {
                Rules::of_tier(direction, &baseline, None)
            } else {
                Rules::of_network_policies(direction, &isolating)
            };
            let next = profile.add(rest);
            let first = profile.add(Rules::of_tier(direction, &admin, next));
            profile.entries.extend(first.or(next).map(|id| (direction, id)));
        }
        profile
    }

    fn update_memberships(&mut self, stale: &BTreeSet<Source>, gone: &BTreeSet<Id>, come: &[Id]) {
        for id in gone {
            for source in self.sources.remove(id).unwrap_or_default() {
                let Some(known) = self.memberships.get_mut(&source) else { continue };
                let (out, left) = std::mem::take(known).into_iter().partition(|(of, _)| of == id);
                *known = left;
                let is_empty = known.is_empty();
                let out: BTreeSet<(Id, Member)> = out;
                out.into_iter().for_each(|(id, member)| self.ledger.member(id, member, -1));
                if is_empty {
                    self.memberships.remove(&source);
                }
            }
        }
        for id in come {
            let Some((definition, _)) = self.sets.get(id) else { continue };
            for source in self.candidates(definition) {
                if stale.contains(&source) {
                    continue;
                }
                for (id, member) in self.memberships_of(&source, [(id, definition)].into_iter()) {
                    if self.memberships.entry(source.clone()).or_default().insert((id, member)) {
                        self.ledger.member(id, member, 1);
                        self.sources.entry(id).or_default().insert(source.clone());
                    }
                }
            }
        }
        for source in stale {
            let all = self.sets.iter().map(|(id, (definition, _))| (id, definition));
            let new = self.memberships_of(source, all);
            let old = self.memberships.remove(source).unwrap_or_default();
            for (id, member) in old.difference(&new) {
                self.ledger.member(*id, *member, -1);
                if !new.iter().any(|(of, _)| of == id)
                    && let Some(sources) = self.sources.get_mut(id)
                {
                    sources.remove(source);
                }
            }
            for (id, member) in new.difference(&old) {
                self.ledger.member(*id, *member, 1);
                self.sources.entry(*id).or_default().insert(source.clone());
            }
            if !new.is_empty() {
                self.memberships.insert(source.clone(), new);
            }
        }
    }

    /// Who may be in a set: looked at one by one.
    fn candidates(&self, definition: &Definition) -> Vec<Source> {
        let pods = || self.pods.iter();
        match definition {
            Definition::PodsOf(namespace, _) => {
                // Names begin with their namespaces.
                let of_namespace = self.pods.range(Name::new(namespace, "")..);
                let of_namespace = of_namespace.take_while(|(name, _)| name.namespace() == &**namespace);
                of_namespace.map(|(name, _)| Source::Pod(name.clone())).collect()
            }
            Definition::Pods(..) => pods().map(|(name, _)| Source::Pod(name.clone())).collect(),
            Definition::NamedPort(..) => pods()
                .filter(|(_, pod)| !pod.named_ports.is_empty())
                .map(|(name, _)| Source::Pod(name.clone()))
                .collect(),
            Definition::Nodes(_) => self.nodes.keys().cloned().map(Source::Node).collect(),
            Definition::Blocks(_) => Vec::new(),
        }
    }

    /// What somebody puts into `sets`.
    fn memberships_of<'a>(
        &self,
        source: &Source,
        sets: impl Iterator<Item = (&'a Id, &'a Definition)>,
    ) -> BTreeSet<(Id, Member)> {
        let mut found = BTreeSet::new();
        let peers =
            |id: &Id, ips: &[IpAddr]| ips.iter().map(|ip| (*id, Member::Peer(*ip))).collect::<Vec<_>>();
        match source {
            Source::Node(name) => {
                let Some(node) = self.nodes.get(name) else { return found };
                for (id, definition) in sets {
                    if matches!(definition, Definition::Nodes(selector) if selects(selector, &node.labels)) {
                        found.extend(peers(id, &node.ips));
                    }
                }
            }
            Source::Pod(name) => {
                let Some(pod) = self.pods.get(name).filter(|pod| !pod.host_network) else { return found };
                let namespace = self.labels_of(&pod.namespace);
                for (id, definition) in sets {
                    match definition {
                        Definition::PodsOf(of, pods)
                            if *of == pod.namespace && selects(pods, &pod.labels) =>
                        {
                            found.extend(peers(id, &pod.ips));
                        }
                        // A namespace that is not known yet is selected by nobody.
                        Definition::Pods(namespaces, pods)
                            if namespace.is_some_and(|labels| selects(namespaces, labels))
                                && selects(pods, &pod.labels) =>
                        {
                            found.extend(peers(id, &pod.ips));
                        }
                        Definition::NamedPort(protocol, name) => {
                            let is_meant = |(called, of, _): &&(String, _, u16)| {
                                called == name && protocol.is_none_or(|protocol| protocol == *of)
                            };
                            for (_, of, port) in pod.named_ports.iter().filter(is_meant) {
                                let ports =
                                    pod.ips.iter().map(|ip| (*id, Member::NamedPort(*ip, *of, *port)));
                                found.extend(ports);
                            }
                        }
                        Definition::PodsOf(..)
                        | Definition::Pods(..)
                        | Definition::Nodes(_)
                        | Definition::Blocks(_) => {}
                    }
                }
            }
        }
        found
    }
}

impl Profile {
    /// Adds a chain, unless it has no rules.
    fn add(&mut self, rules: Rules) -> Option<Id> {
        if rules.rules.is_empty() {
            return None;
        }
        // Made from its rules: other rules are another chain, and nothing is ever rewritten in place.
        let id = Id::of(&format!("{:?}", rules.rules));
        let leads = |to: Id| rules.rules.iter().any(|rule| rule.decision == Decision::Goto(to));
        if leads(nowhere()) {
            self.chains.insert(nowhere(), Chain::from([]));
        }
        self.chains.insert(id, rules.rules.into());
        self.sets.extend(rules.definitions.into_iter().map(|definition| (definition.id(), definition)));
        Some(id)
    }
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.matches_by(|key| labels.get(key).map(String::as_str))
}

/// How often each element is wanted, and what has changed about that since it was last asked.
#[derive(Clone, Debug, Default)]
struct Ledger {
    counts: BTreeMap<(IpFamily, Entry), usize>,
    isolated: BTreeMap<(Direction, IpAddr), Id>,
    /// Elements that were not there before, and elements that were.
    changed: BTreeMap<(IpFamily, Entry), bool>,
    repointed: BTreeMap<(Direction, IpAddr), Option<Id>>,
}

impl Ledger {
    fn count(&mut self, family: IpFamily, entry: Entry, by: isize) {
        let key = (family, entry);
        let before = self.counts.get(&key).copied().unwrap_or(0);
        let after = before.saturating_add_signed(by);
        if (before == 0) != (after == 0) {
            self.changed.entry(key.clone()).or_insert(before > 0);
        }
        if after == 0 {
            self.counts.remove(&key);
        } else {
            self.counts.insert(key, after);
        }
    }

    fn define(&mut self, id: Id, definition: &Definition, by: isize) {
        let kind = match definition {
            Definition::PodsOf(..) | Definition::Pods(..) | Definition::Nodes(_) => SetKind::Peers,
            Definition::NamedPort(..) => SetKind::NamedPorts,
            Definition::Blocks(_) => SetKind::Blocks,
        };
        for family in IpFamily::BOTH {
            self.count(family, Entry::Set(kind, id), by);
        }
        if let Definition::Blocks(ranges) = definition {
            for range in ranges {
                self.count((*range).into(), Entry::Member(id, Member::Block(*range)), by);
            }
        }
    }

    fn chain(&mut self, id: Id, chain: &Chain, by: isize) {
        for family in IpFamily::BOTH {
            self.count(family, Entry::Chain(id, chain.clone()), by);
        }
    }

    fn member(&mut self, id: Id, member: Member, by: isize) {
        let family = match member {
            Member::Peer(ip) | Member::NamedPort(ip, ..) => IpFamily::from(ip),
            Member::Block(range) => range.into(),
        };
        self.count(family, Entry::Member(id, member), by);
    }

    fn isolate(&mut self, key: (Direction, IpAddr), chain: Option<Id>) {
        let before = match chain {
            Some(id) => self.isolated.insert(key, id),
            None => self.isolated.remove(&key),
        };
        self.repointed.entry(key).or_insert(before);
    }

    fn take_changes(&mut self) -> Vec<Op> {
        let (mut come, mut gone) = (Vec::new(), Vec::new());
        for (key, was_there) in std::mem::take(&mut self.changed) {
            let is_there = self.counts.contains_key(&key);
            let (family, entry) = key;
            match (was_there, is_there) {
                (false, true) => come.push(Op::Add(family, entry)),
                (true, false) => gone.push(Op::Remove(family, entry)),
                (true, true) | (false, false) => {}
            }
        }
        let (mut pointed, mut unpointed) = (Vec::new(), Vec::new());
        for ((direction, ip), before) in std::mem::take(&mut self.repointed) {
            let after = self.isolated.get(&(direction, ip)).copied();
            if before == after {
                continue;
            }
            let (family, entry) = (IpFamily::from(ip), |id| Entry::Isolated(direction, ip, id));
            let to = if after.is_some() { &mut pointed } else { &mut unpointed };
            to.extend(before.map(|id| Op::Remove(family, entry(id))));
            to.extend(after.map(|id| Op::Add(family, entry(id))));
        }
        // Elements sort as they lead to one another: sets, members, chains; and what goes, goes the other way. Members
        // of sets of ranges must not overlap, so those that go do so first.
        come.sort_by(|left, right| entry_of(left).cmp(entry_of(right)));
        gone.sort_by(|left, right| entry_of(right).cmp(entry_of(left)));
        let (members, gone): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|op| matches!(entry_of(op), Entry::Member(..)));
        let rank = |op: &Op| usize::from(!matches!(entry_of(op), Entry::Set(..)));
        let sets = come.iter().take_while(|op| rank(op) == 0).count();
        let rest = come.split_off(sets);
        [come, members, rest, pointed, unpointed, gone].concat()
    }
}

fn entry_of(op: &Op) -> &Entry {
    match op {
        Op::Add(_, entry) | Op::Remove(_, entry) => entry,
    }
}
