//! Makes the kernel's maps hold a program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use dyad_net::{IpFamily, IpNet};
use dyad_program::{Endpoint, Entry, Frontend, Op, Program, RangeSet, Scope};

use crate::attach::{self, Place, Programs};
use crate::desired::{Desired, isolated};
use crate::layout::{self, FrontendKey, FrontendValue};
use crate::map::Map;
use crate::object::Object;
use crate::sockets::Diagnostics;
use crate::sys::MapInfo;
use crate::{Error, Result};

const FRONTENDS: &str = "dyad_frontends";
const ENDPOINTS: &str = "dyad_endpoints";
const MEMBERS: &str = "dyad_members";
const NODES: &str = "dyad_nodes";
const PODS: &str = "dyad_pods";
const ORIGINALS: &str = "dyad_originals";
const FLOWS: &str = "dyad_flows";
const COUNTERS: &str = "dyad_counters";

/// How often larger maps are tried, each twice as large.
const ATTEMPTS: u32 = 4;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Elements of maps that were set or removed.
    pub changes: usize,
    /// Whether programs were attached or replaced: there were none, another version's, or their maps were too small.
    pub attached: bool,
}

/// What the programs have counted since their maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections (TCP, and UDP sockets that connect) that were sent to an endpoint.
    pub connections: u64,
    /// Datagrams of sockets without a connection that were sent to an endpoint.
    pub datagrams: u64,
    /// Packets that went from pod to pod without the node's stack.
    pub redirected: u64,
}

/// Programs the sockets of one cgroup, and the links of pods in the network namespace of the thread that calls.
///
/// Dropping it changes nothing: the programs stay and go on with what they were told last.
#[derive(Debug)]
pub struct Executor {
    object: Object,
    cgroup: OwnedFd,
    /// By name. Those that were found, and all others from the first [`apply`](Self::apply) on.
    maps: BTreeMap<String, Map>,
    /// Linked to `maps`; `None` before they are loaded.
    programs: Option<Programs>,
    /// The addresses of the node.
    addresses: BTreeSet<IpAddr>,
    /// Where node ports are served, of the last program.
    node_ports: BTreeSet<IpNet>,
    /// The pods that policy selects, of the last program.
    isolated: BTreeSet<IpAddr>,
    /// Frontends that nftables serves alone.
    left: BTreeSet<Frontend>,
    /// What was attached to the cgroup, and to links of pods, when all was well.
    present: (Present, BTreeMap<u32, Present>),
}

/// Attach types with the identifiers of programs.
type Present = Vec<(u32, u32)>;

/// How many elements the maps of a program must hold.
fn sizes(desired: &Desired) -> [(&'static str, usize); 3] {
    [
        (FRONTENDS, desired.frontends.len()),
        (ENDPOINTS, desired.endpoints.len()),
        (MEMBERS, desired.members.len()),
    ]
}

impl Executor {
    /// Opens the cgroup (a directory of a cgroup2 mount) whose processes are served, and adopts the maps of programs
    /// that are attached there. Changes nothing yet.
    pub fn open(cgroup: &Path) -> Result<Self> {
        let opening = Error::refused(format!("opening the cgroup {}", cgroup.display()));
        let cgroup = OwnedFd::from(File::open(cgroup).map_err(opening)?);
        let object = Object::built_in()?;
        let mut maps = attach::maps(&object, &cgroup)?;
        let fits = |found: &MapInfo, made: &MapInfo| {
            (&found.name, found.kind, found.key_size, found.value_size, found.flags)
                == (&made.name, made.kind, made.key_size, made.value_size, made.flags)
        };
        maps.retain(|_, map| object.maps.iter().any(|made| fits(map.info(), made)));
        Ok(Self {
            object,
            cgroup,
            maps,
            programs: None,
            addresses: BTreeSet::new(),
            node_ports: BTreeSet::new(),
            isolated: BTreeSet::new(),
            left: BTreeSet::new(),
            present: Default::default(),
        })
    }

    fn map(&self, name: &str) -> Result<&Map> {
        self.maps.get(name).ok_or_else(|| Error::Object(format!("the map {name} is missing")))
    }

    /// Makes what is missing: maps, those of the program with room for twice what is needed, and programs.
    fn prepare(&mut self, needed: &[(&str, usize)]) -> Result<()> {
        for made in &self.object.maps {
            let needed = needed.iter().find(|(name, _)| *name == made.name).map_or(0, |(_, count)| *count);
            let needed = u32::try_from(needed).unwrap_or(u32::MAX / 4);
            // While something is replaced, there is more of it for a moment.
            let suffices = |map: &Map| map.info().max_entries >= needed.saturating_add(needed / 4);
            if !self.maps.get(&made.name).is_some_and(suffices) {
                let room = needed.saturating_mul(2).checked_next_power_of_two().unwrap_or(u32::MAX);
                let max_entries = made.max_entries.max(room);
                let map = Map::create(&MapInfo { max_entries, ..made.clone() })?;
                self.maps.insert(made.name.clone(), map);
                self.programs = None;
            }
        }
        if self.programs.is_none() {
            self.programs = Some(Programs::load(&self.object, &self.maps)?);
        }
        Ok(())
    }

    /// Makes the maps hold `program`, whatever they held, and attaches what is not attached.
    ///
    /// Connections that are made meanwhile go to an endpoint of before or of now, as long as there is one.
    pub fn apply(&mut self, program: &Program) -> Result<Report> {
        let desired = Desired::of(program, &self.left);
        let mut needed = sizes(&desired);
        let mut report = Report::default();
        for attempt in 0.. {
            self.prepare(&needed)?;
            match self.fill(&desired) {
                Err(error) if error.is_full() && attempt < ATTEMPTS => {
                    needed.iter_mut().for_each(|(name, count)| {
                        let least = self.maps.get(*name).map_or(0, |map| map.info().max_entries as usize);
                        *count = least.max(*count);
                    });
                }
                filled => {
                    report.changes += filled?;
                    break;
                }
            }
        }
        self.isolated = isolated(program);
        let pods = self.pods()?;
        report.changes += self.set_pods(pods.iter().map(|(ip, link)| (*ip, *link)))?;
        self.note_node_ports(program);
        report.changes += self.set_nodes()?;
        report.attached = self.attach(pods.into_values().collect())?;
        Ok(report)
    }

    /// Leaves these frontends, and no others, to nftables, whatever `program`, the last one there was, says of them.
    ///
    /// Sockets that are connected stay with their endpoints.
    pub fn leave(&mut self, program: &Program, frontends: &BTreeSet<Frontend>) -> Result<Report> {
        let before = std::mem::replace(&mut self.left, frontends.clone());
        if self.programs.is_none() {
            return Ok(Report::default());
        }
        let changed: BTreeSet<_> = before.symmetric_difference(frontends).collect();
        let of_program = program.iter().flat_map(|(family, table)| {
            table.frontends.keys().map(move |(scope, at)| (*scope, (family, *at)))
        });
        let changed = of_program
            .filter(|(scope, (_, at))| *scope == Scope::Cluster && changed.contains(at))
            .map(|(_, at)| at)
            .collect();
        match self.change_frontends(program, &changed, &BTreeSet::new()) {
            Err(error) if error.is_full() => self.apply(program),
            done => Ok(Report { changes: done?, attached: false }),
        }
    }

    /// Carries out the changes `ops` that have led to `program`. If it fails, [`apply`](Self::apply) repairs it.
    pub fn update(&mut self, program: &Program, ops: &[Op]) -> Result<Report> {
        if self.programs.is_none() {
            return self.apply(program);
        }
        match self.change(program, ops) {
            Err(error) if error.is_full() => self.apply(program),
            changed => changed,
        }
    }

    fn change(&mut self, program: &Program, ops: &[Op]) -> Result<Report> {
        let mut frontends = BTreeSet::new();
        let (mut members, mut pods, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), false);
        for op in ops {
            let (Op::Add(family, entry) | Op::Remove(family, entry)) = op;
            match entry {
                Entry::Frontend(Scope::Cluster, at, _)
                | Entry::Endpoint(Scope::Cluster, at, _, _)
                | Entry::Guarded(at) => drop(frontends.insert((*family, *at))),
                Entry::Sticky(Scope::Cluster, at, endpoint) => {
                    frontends.insert((*family, *at));
                    if matches!(op, Op::Remove(..)) {
                        members.insert(layout::member_key(layout::frontend_key(*family, *at), *endpoint));
                    }
                }
                Entry::Isolated(_, ip, _) => drop(pods.insert(*ip)),
                Entry::Range(set, _) => node_ports |= *set == RangeSet::NodePorts,
                Entry::Frontend(Scope::Local, ..)
                | Entry::Endpoint(Scope::Local, ..)
                | Entry::Sticky(Scope::Local, ..)
                | Entry::Hairpin(_)
                | Entry::Set(..)
                | Entry::Member(..)
                | Entry::Chain(..)
                | Entry::Source(..) => {}
            }
        }
        let mut report =
            Report { changes: self.change_frontends(program, &frontends, &members)?, attached: false };
        if !pods.is_empty() {
            self.isolated = isolated(program);
            let known = self.pods()?;
            let changed = known.into_iter().filter(|(ip, _)| pods.contains(ip));
            report.changes += self.set_pods(changed)?;
        }
        if node_ports {
            self.note_node_ports(program);
            report.changes += self.set_nodes()?;
        }
        Ok(report)
    }

    /// Endpoints are there before a frontend counts them, and go after it has stopped to.
    fn change_frontends(
        &self,
        program: &Program,
        frontends: &BTreeSet<(IpFamily, Frontend)>,
        members: &BTreeSet<layout::MemberKey>,
    ) -> Result<usize> {
        let mut desired = Desired::default();
        let mut old: BTreeMap<FrontendKey, FrontendValue> = BTreeMap::new();
        let mut surplus = members.clone();
        for (family, at) in frontends {
            let key = layout::frontend_key(*family, *at);
            if let Some(table) = program.get(*family) {
                desired.add(*family, table, *at, &self.left);
                // A frontend that nftables takes over keeps its members in the program, but not here.
                if desired.frontends.get(&key).is_none_or(|value| value.sticky_secs == 0) {
                    surplus.extend(table.members(Scope::Cluster, *at).map(|to| layout::member_key(key, to)));
                }
            }
            let value = self.map(FRONTENDS)?.get(&key)?;
            old.extend(value.and_then(|value| FrontendValue::parse(&value)).map(|value| (key, value)));
        }
        let mut changes = self.map(MEMBERS)?.set_all(desired.members.iter().map(|key| (key, [1])))?;
        changes += self.map(ENDPOINTS)?.set_all(&desired.endpoints)?;
        let set = desired.frontends.iter().filter(|(key, value)| old.get(*key) != Some(*value));
        changes += self.map(FRONTENDS)?.set_all(set.map(|(key, value)| (key, value.to_bytes())))?;
        let gone = old.keys().filter(|key| !desired.frontends.contains_key(*key));
        changes += remove_all(self.map(FRONTENDS)?, gone)?;
        let blocks = old.iter().flat_map(|(at, value)| {
            let first = desired.frontends.get(at).map_or(0, |value| value.blocks());
            (first..value.blocks()).map(|number| layout::block_key(*at, number))
        });
        changes += remove_all(self.map(ENDPOINTS)?, blocks)?;
        changes += remove_all(self.map(MEMBERS)?, surplus.difference(&desired.members))?;
        Ok(changes)
    }

    /// Makes the maps of Services equal to what is desired; how many elements were changed.
    fn fill(&self, desired: &Desired) -> Result<usize> {
        let frontends = desired.frontends.iter().map(|(key, value)| (*key, value.to_bytes())).collect();
        let members = desired.members.iter().map(|key| (*key, [1])).collect();
        let members = Difference::of(self.map(MEMBERS)?, &members)?;
        let endpoints = Difference::of(self.map(ENDPOINTS)?, &desired.endpoints)?;
        let frontends = Difference::of(self.map(FRONTENDS)?, &frontends)?;
        Ok(members.set()?
            + endpoints.set()?
            + frontends.set()?
            + frontends.remove()?
            + endpoints.remove()?
            + members.remove()?)
    }

    fn note_node_ports(&mut self, program: &Program) {
        let ranges = program.iter().flat_map(|(_, table)| &table.ranges);
        let ranges = ranges.filter(|(set, _)| *set == RangeSet::NodePorts);
        self.node_ports = ranges.map(|(_, range)| *range).collect();
    }

    /// Sets the addresses of the node. Those in the program's ranges for node ports have them; loopback never has.
    pub fn set_node_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<()> {
        self.addresses = addresses.iter().copied().filter(|ip| !ip.is_loopback()).collect();
        if self.programs.is_some() {
            self.set_nodes()?;
        }
        Ok(())
    }

    fn set_nodes(&self) -> Result<usize> {
        let serves = |ip: &&IpAddr| self.node_ports.iter().any(|range| range.contains(*ip));
        let desired = self.addresses.iter().filter(serves).map(|ip| (layout::address(*ip), [1])).collect();
        let difference = Difference::of(self.map(NODES)?, &desired)?;
        Ok(difference.set()? + difference.remove()?)
    }

    /// Sets the pods that packets may be redirected between: their addresses, each with the index of the node's end of
    /// their link, in the namespace of the calling thread. At most 4096 addresses.
    ///
    /// A pod's policies must have been applied before. Pods that are left out, such as those that have opted out, talk
    /// through the node's stack. Does nothing where the kernel cannot redirect ([`redirect`](crate::redirect)).
    pub fn attach_pods(&mut self, pods: &BTreeMap<IpAddr, u32>) -> Result<Report> {
        if crate::redirect().is_err() {
            return Ok(Report::default());
        }
        self.prepare(&[])?;
        let before = self.pods()?;
        let gone: BTreeSet<IpAddr> =
            before.iter().filter(|(ip, link)| pods.get(ip) != Some(link)).map(|(ip, _)| *ip).collect();
        let mut changes = remove_all(self.map(PODS)?, gone.iter().map(|ip| layout::address(*ip)))?;
        self.forget_flows(&gone)?;
        let attached = self.attach_links(pods.values().copied().collect())?;
        changes += self.set_pods(pods.iter().map(|(ip, link)| (*ip, *link)))?;
        let links: BTreeSet<u32> = before.into_values().collect();
        for link in links.into_iter().filter(|link| !pods.values().any(|of| of == link)) {
            gone_is_fine(attach::detach(&self.object, Place::Link(link)))?;
        }
        Ok(Report { changes, attached })
    }

    /// The pods as the kernel has them.
    fn pods(&self) -> Result<BTreeMap<IpAddr, u32>> {
        let mut pods = BTreeMap::new();
        self.map(PODS)?.for_each(|key, value| {
            pods.extend(layout::parse_address(key).zip(layout::link_of_pod(value)));
        })?;
        Ok(pods)
    }

    fn set_pods(&self, pods: impl Iterator<Item = (IpAddr, u32)>) -> Result<usize> {
        let map = self.map(PODS)?;
        let mut changes = 0;
        for (ip, link) in pods {
            let (key, said) = (layout::address(ip), layout::pod(link, self.isolated.contains(&ip)));
            let before = map.get(&key)?;
            let mut value = before.clone().unwrap_or_else(|| vec![0; map.info().value_size as usize]);
            // What the programs keep behind it stays.
            value[..said.len()].copy_from_slice(&said);
            if before.as_ref() != Some(&value) {
                map.set(&key, &value)?;
                changes += 1;
            }
        }
        Ok(changes)
    }

    /// Whoever gets the address next must not be taken for the one who had it.
    fn forget_flows(&self, gone: &BTreeSet<IpAddr>) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut doomed = Vec::new();
        self.map(FLOWS)?.for_each(|key, _| {
            if layout::ends_of_flow(key).is_some_and(|ends| ends.iter().any(|ip| gone.contains(ip))) {
                doomed.push(key.to_vec());
            }
        })?;
        remove_all(self.map(FLOWS)?, doomed).map(drop)
    }

    fn attach(&mut self, links: BTreeSet<u32>) -> Result<bool> {
        let Some(programs) = &self.programs else { return Ok(false) };
        let to_sockets = programs.attach(Place::Cgroup(&self.cgroup))?;
        self.present.0 = Place::Cgroup(&self.cgroup).present();
        Ok(to_sockets | self.attach_links(links)?)
    }

    fn attach_links(&mut self, links: BTreeSet<u32>) -> Result<bool> {
        let Some(programs) = &self.programs else { return Ok(false) };
        let mut changed = false;
        self.present.1.clear();
        for link in links {
            // A link that goes takes its programs with it.
            changed |= gone_is_fine(programs.attach(Place::Link(link)))?;
            self.present.1.insert(link, Place::Link(link).present());
        }
        Ok(changed)
    }

    /// Attaches again what somebody has detached since; whether anything was missing. Before the first
    /// [`apply`](Self::apply) there is nothing to attach.
    pub fn mend(&mut self) -> Result<bool> {
        let (of_cgroup, of_links) = &self.present;
        let is_same = Place::Cgroup(&self.cgroup).present() == *of_cgroup
            && of_links.iter().all(|(link, present)| Place::Link(*link).present() == *present);
        match &self.programs {
            Some(_) if !is_same => self.attach(self.pods()?.into_values().collect()),
            _ => Ok(false),
        }
    }

    /// What the programs have counted.
    pub fn counters(&self) -> Result<Counters> {
        let count = |number: u32| -> Result<u64> {
            let Some(map) = self.maps.get(COUNTERS) else { return Ok(0) };
            let values = map.get(&number.to_ne_bytes())?.unwrap_or_default();
            Ok(values.as_chunks().0.iter().map(|value| u64::from_ne_bytes(*value)).sum())
        };
        Ok(Counters { connections: count(0)?, datagrams: count(1)?, redirected: count(2)? })
    }

    /// Ends the connections of this thread's network namespace that lead, through a Service, to endpoints that are
    /// gone for good: TCP is reset on both sides; a connected UDP socket gets an error. How many there were.
    ///
    /// Connections that were made to the endpoint itself are left alone, and so are those that nftables has
    /// translated. To be called in the namespace of every pod.
    pub fn reset_sockets(&self, gone: &BTreeSet<Endpoint>) -> Result<usize> {
        let Some(originals) = self.maps.get(ORIGINALS).filter(|_| !gone.is_empty()) else { return Ok(0) };
        let mut diagnostics = Diagnostics::open()?;
        let mut ended = 0;
        for socket in diagnostics.connected()? {
            let remote = Endpoint { ip: socket.remote.ip(), port: socket.remote.port() };
            if !gone.contains(&remote) {
                continue;
            }
            let key = layout::original_key(socket.cookie, remote);
            if originals.get(&key)?.is_some() && diagnostics.end(&socket)? {
                originals.remove(&key)?;
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// Takes all programs of ours away; their maps go with them.
    pub fn cleanup(&mut self) -> Result<()> {
        if self.maps.contains_key(PODS) && crate::redirect().is_ok() {
            let links: BTreeSet<u32> = self.pods()?.into_values().collect();
            for link in links {
                gone_is_fine(attach::detach(&self.object, Place::Link(link)))?;
            }
        }
        attach::detach(&self.object, Place::Cgroup(&self.cgroup))?;
        self.programs = None;
        self.maps.clear();
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> &BTreeSet<Frontend> {
        &self.left
    }

    /// What the kernel's maps of Services hold.
    #[cfg(test)]
    pub(crate) fn read_back(&self) -> Result<Desired> {
        let mut found = Desired::default();
        self.map(FRONTENDS)?.for_each(|key, value| {
            found.frontends.insert(key.try_into().unwrap(), FrontendValue::parse(value).unwrap());
        })?;
        self.map(ENDPOINTS)?.for_each(|key, value| {
            found.endpoints.insert(key.try_into().unwrap(), value.try_into().unwrap());
        })?;
        self.map(MEMBERS)?.for_each(|key, _| found.members.extend(layout::MemberKey::try_from(key)))?;
        Ok(found)
    }
}

/// How a map differs from what it should hold.
struct Difference<'a, const K: usize, const V: usize> {
    map: &'a Map,
    missing: Vec<([u8; K], [u8; V])>,
    surplus: Vec<[u8; K]>,
}

impl<'a, const K: usize, const V: usize> Difference<'a, K, V> {
    fn of(map: &'a Map, desired: &BTreeMap<[u8; K], [u8; V]>) -> Result<Self> {
        let (mut right, mut surplus) = (BTreeSet::new(), Vec::new());
        map.for_each(|key, value| {
            let Ok(key) = <[u8; K]>::try_from(key) else { return };
            match desired.get(&key) {
                Some(desired) if desired[..] == *value => drop(right.insert(key)),
                Some(_) => {}
                None => surplus.push(key),
            }
        })?;
        let missing = desired.iter().filter(|(key, _)| !right.contains(*key));
        let missing = missing.map(|(key, value)| (*key, *value)).collect();
        Ok(Self { map, missing, surplus })
    }

    fn set(&self) -> Result<usize> {
        self.map.set_all(self.missing.iter().map(|(key, value)| (key, value)))
    }

    fn remove(&self) -> Result<usize> {
        remove_all(self.map, &self.surplus)
    }
}

/// Removes keys, which need not be there; how many were.
fn remove_all<K: AsRef<[u8]>>(map: &Map, keys: impl IntoIterator<Item = K>) -> Result<usize> {
    let mut removed = 0;
    for key in keys {
        removed += usize::from(map.remove(key.as_ref())?);
    }
    Ok(removed)
}

/// A link may go at any time.
fn gone_is_fine<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => Ok(T::default()),
        result => result,
    }
}
