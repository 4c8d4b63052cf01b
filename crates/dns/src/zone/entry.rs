//! What there is at and below the name of one Service.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::input::{Port, Protocol, Service, ServiceKind, Slice};
use super::{Options, dashed, parse_dashed};
use crate::wire::{MAX_LABEL, Name};

/// The host of a [`Target`] that is the Service itself.
pub(crate) const SELF: u32 = u32::MAX;

/// What there is at and below the name of one Service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: EntryKind,
    /// The addresses of the Service's own name.
    pub(crate) v4: Box<[Ipv4Addr]>,
    pub(crate) v6: Box<[Ipv6Addr]>,
    /// Named ports.
    pub(crate) ports: Box<[PortTargets]>,
    /// What all ports lead to, sorted by host, [`SELF`] last; each target once (row 8).
    targets: Box<[Target]>,
    /// Those with names of their own, by name; then those called by their address, by that.
    hosts: Box<[Host]>,
    addresses: Box<[IpAddr]>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    Cluster,
    Headless,
    /// The wire form of the name it is an alias of; `None` if that can't be one.
    External(Option<Name>),
}

/// What a named port leads to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PortTargets {
    pub(crate) name: Box<str>,
    pub(crate) protocol: Protocol,
    pub(crate) targets: Box<[Target]>,
}

/// A port of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    /// Which host, or [`SELF`].
    pub(crate) host: u32,
    pub(crate) port: u16,
}

/// Endpoints of one name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Empty if it is called by its only address.
    pub(crate) label: Box<str>,
    /// Whether a slice says that this is its name.
    is_hostname: bool,
    first: u32,
    count: u32,
}

/// What names need of a slice: its ready endpoints, by address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    ports: Box<[Port]>,
    endpoints: Box<[Named]>,
}

/// An address, and how it is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    /// Those called by their address come last.
    is_dashed: bool,
    label: Box<str>,
    ip: IpAddr,
    is_hostname: bool,
}

impl Part {
    pub(crate) fn new(slice: &Slice, options: &Options) -> Self {
        let mut endpoints = Vec::new();
        for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready) {
            let hostname = endpoint.hostname.as_deref().filter(|name| is_label(name));
            let pod = endpoint.pod.as_deref().filter(|name| options.endpoint_pod_names && is_label(name));
            let label = hostname.or(pod).map(str::to_ascii_lowercase).unwrap_or_default();
            endpoints.extend(endpoint.addresses.iter().map(|ip| Named {
                is_dashed: label.is_empty(),
                label: (*label).into(),
                ip: *ip,
                is_hostname: hostname.is_some(),
            }));
        }
        Self { ports: slice.ports.clone().into(), endpoints: endpoints.into() }
    }
}

/// Whether a text can be a host's label (RFC 1123 section 2.1).
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=MAX_LABEL).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Targets of ports as they are gathered.
#[derive(Default)]
struct Gathered<'a> {
    all: Vec<Target>,
    named: Vec<(&'a str, Protocol, Vec<Target>)>,
}

impl<'a> Gathered<'a> {
    fn add(&mut self, host: u32, port: &'a Port, is_named: bool) {
        let target = Target { host, port: port.port };
        self.all.push(target);
        if is_named && let Some(targets) = self.named(port) {
            targets.push(target);
        }
    }

    /// What a port's name leads to; `None` if it has none, or none that can be a label after an underscore.
    fn named(&mut self, port: &'a Port) -> Option<&mut Vec<Target>> {
        let key = (&*port.name, port.protocol);
        if !(1..MAX_LABEL).contains(&key.0.len()) {
            return None;
        }
        let known = self.named.iter().position(|(name, protocol, _)| (*name, *protocol) == key);
        let at = known.unwrap_or_else(|| {
            self.named.push((key.0, key.1, Vec::new()));
            self.named.len() - 1
        });
        Some(&mut self.named[at].2)
    }
}

/// Somebody may give a host the name of another's address: then both are meant.
fn merge_names<T>(all: &mut [(Cow<'_, Named>, T)]) {
    let named =
        all.iter().filter(|(named, _)| !named.is_dashed && parse_dashed(named.label.as_bytes()).is_some());
    let names: BTreeSet<Box<str>> = named.map(|(named, _)| named.label.clone()).collect();
    for (named, _) in all.iter_mut().filter(|(named, _)| named.is_dashed && !names.is_empty()) {
        let by_address = dashed(named.ip);
        if let Some(name) = names.iter().find(|name| name.as_bytes() == by_address.as_ref()) {
            let named = named.to_mut();
            (named.is_dashed, named.label) = (false, name.clone());
        }
    }
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Box<[T]> {
    values.sort_unstable();
    values.dedup();
    values.into()
}

impl Entry {
    /// The entry of a Service and its slices, whose order does not matter.
    pub(crate) fn new<'a>(service: &Service, parts: impl Iterator<Item = &'a Part>) -> Self {
        let kind = match &service.kind {
            ServiceKind::ClusterIps(_) => EntryKind::Cluster,
            ServiceKind::Headless => EntryKind::Headless,
            ServiceKind::External(name) => EntryKind::External(name.parse().ok()),
        };
        let mut gathered = Gathered::default();
        let (mut hosts, mut addresses) = (Vec::<Host>::new(), Vec::<IpAddr>::new());
        if !matches!(kind, EntryKind::External(_)) {
            let mut all: Vec<(Cow<'_, Named>, &[Port])> = parts
                .flat_map(|part| part.endpoints.iter().map(|named| (Cow::Borrowed(named), &*part.ports)))
                .collect();
            merge_names(&mut all);
            all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            for (named, ports) in all {
                let same = |host: &Host| {
                    host.label == named.label && (!named.is_dashed || addresses.last() == Some(&named.ip))
                };
                if !hosts.last().is_some_and(same) {
                    let (label, first) = (named.label.clone(), addresses.len() as u32);
                    hosts.push(Host { label, is_hostname: false, first, count: 0 });
                }
                if let Some(host) = hosts.last_mut() {
                    host.is_hostname |= named.is_hostname;
                    if host.count == 0 || addresses.last() != Some(&named.ip) {
                        host.count += 1;
                        addresses.push(named.ip);
                    }
                }
                let host = hosts.len() as u32 - 1;
                ports.iter().for_each(|port| gathered.add(host, port, kind == EntryKind::Headless));
            }
        }
        let own: BTreeSet<IpAddr> = match &service.kind {
            ServiceKind::ClusterIps(ips) => ips.iter().copied().collect(),
            ServiceKind::Headless => addresses.iter().copied().collect(),
            ServiceKind::External(_) => BTreeSet::new(),
        };
        if kind == EntryKind::Cluster {
            for port in &service.ports {
                // Without addresses yet, the names of ports exist, but lead nowhere.
                gathered.named(port);
                if !own.is_empty() {
                    gathered.add(SELF, port, true);
                }
            }
        }
        let port_targets = |(name, protocol, targets): (&str, _, _)| PortTargets {
            name: name.to_ascii_lowercase().into(),
            protocol,
            targets: sorted(targets),
        };
        Self {
            kind,
            v4: own.iter().filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None }).collect(),
            v6: own.iter().filter_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None }).collect(),
            ports: gathered.named.into_iter().map(port_targets).collect(),
            targets: sorted(gathered.all),
            hosts: hosts.into(),
            addresses: addresses.into(),
        }
    }

    /// Whether there are ready endpoints.
    pub(crate) const fn has_endpoints(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// Whether its names are those of endpoints, of slices of which others may follow.
    pub(crate) fn is_headless(&self) -> bool {
        self.kind == EntryKind::Headless
    }

    /// What SRV at the Service's own name leads to (row 4).
    pub(crate) fn own_targets(&self) -> &[Target] {
        match self.kind {
            EntryKind::Cluster => &self.targets[self.targets.partition_point(|target| target.host < SELF)..],
            EntryKind::Headless | EntryKind::External(_) => &self.targets,
        }
    }

    /// The ports of a host.
    pub(crate) fn targets_of(&self, host: u32) -> &[Target] {
        let start = self.targets.partition_point(|target| target.host < host);
        let rest = &self.targets[start..];
        &rest[..rest.partition_point(|target| target.host == host)]
    }

    /// A host by its number.
    pub(crate) fn host(&self, number: u32) -> &Host {
        &self.hosts[number as usize]
    }

    /// The addresses of a host, sorted.
    pub(crate) fn addresses_of(&self, host: &Host) -> &[IpAddr] {
        &self.addresses[host.first as usize..][..host.count as usize]
    }

    /// The host that a label in lower case names: by its name, or by its address however spelt (row 7).
    pub(crate) fn host_named(&self, label: &[u8]) -> Option<u32> {
        let split = self.hosts.partition_point(|host| !host.label.is_empty());
        let (named, by_address) = self.hosts.split_at(split);
        let find = |label: &[u8]| named.binary_search_by(|host| host.label.as_bytes().cmp(label)).ok();
        let found = find(label).or_else(|| {
            let ip = parse_dashed(label)?;
            let first = |host: &Host| self.addresses[host.first as usize];
            let at = by_address.binary_search_by(|host| first(host).cmp(&ip)).ok();
            at.map(|at| split + at).or_else(|| find(dashed(ip).as_ref()))
        });
        found.map(|at| at as u32)
    }

    /// What the addresses of this entry are called: `None` the Service itself, otherwise the host's label, empty if
    /// that is the address. For endpoints behind a cluster IP only if a slice gives them a name: the names of pods
    /// that have one by a headless Service shall not depend on who else selects them.
    pub(crate) fn pointers(&self) -> BTreeSet<(IpAddr, Option<&str>)> {
        let mut pointers = BTreeSet::new();
        let is_headless = self.kind == EntryKind::Headless;
        if self.kind == EntryKind::Cluster {
            pointers.extend(self.v4.iter().map(|ip| (IpAddr::V4(*ip), None)));
            pointers.extend(self.v6.iter().map(|ip| (IpAddr::V6(*ip), None)));
        }
        for host in self.hosts.iter().filter(|host| is_headless || host.is_hostname) {
            pointers.extend(self.addresses_of(host).iter().map(|ip| (*ip, Some(&*host.label))));
        }
        pointers
    }
}
