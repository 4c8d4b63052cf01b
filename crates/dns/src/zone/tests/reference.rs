//! The names of a cluster, straight from the specification: slowly, and all of them at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use dyad_net::{IpFamily, IpNet};

use super::*;
use crate::wire::{Rcode, Rdata, Rtype, Srv};

/// All objects there are.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    pub(crate) options: Options,
    pub(crate) services: BTreeMap<ObjectName, Service>,
    pub(crate) slices: BTreeMap<ObjectName, Slice>,
    pub(crate) namespaces: BTreeSet<String>,
    pub(crate) pods: BTreeMap<ObjectName, Vec<IpAddr>>,
}

/// The records of names; those that only have names below them have none.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) forward: HashMap<Name, HashSet<Rdata>>,
    pub(crate) reverse: HashMap<IpAddr, HashSet<Rdata>>,
}

/// What a query must be answered with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Answer(Rcode, HashSet<(Name, Rdata)>),
    Elsewhere,
}

impl Names {
    fn add(&mut self, name: &Name, data: impl IntoIterator<Item = Rdata>) {
        self.forward.entry(name.clone()).or_default().extend(data);
    }

    fn point(&mut self, ip: IpAddr, to: &Name) {
        self.reverse.entry(ip).or_default().insert(Rdata::Ptr(to.clone()));
    }
}

fn address(ip: IpAddr) -> Rdata {
    match ip {
        IpAddr::V4(ip) => Rdata::A(ip),
        IpAddr::V6(ip) => Rdata::Aaaa(ip),
    }
}

/// RFC 5952 with dashes (A.2).
fn dashes(ip: IpAddr) -> String {
    let text = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip.to_string(),
    };
    let text = text.replace([':', '.'], "-");
    let text = if text.starts_with('-') { format!("0{text}") } else { text };
    if text.ends_with('-') { format!("{text}0") } else { text }
}

fn srv(targets: BTreeSet<(Name, u16)>) -> Vec<Rdata> {
    let weight = (100 / targets.len().max(1)).max(1) as u16;
    let data = |(target, port)| Rdata::Srv(Srv { priority: 0, weight, port, target });
    targets.into_iter().map(data).collect()
}

impl Reference {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            namespaces: BTreeSet::new(),
            pods: BTreeMap::new(),
        }
    }

    fn below(&self, labels: &str) -> Name {
        name(&format!("{labels}.{}", self.options.domain))
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains(namespace) || self.services.keys().any(|name| *name.namespace == *namespace)
    }

    fn spaces(&self) -> BTreeSet<&str> {
        let of_services = self.services.keys().map(|name| &*name.namespace);
        self.namespaces.iter().map(|name| &**name).chain(of_services).collect()
    }

    /// All names with all of their records.
    pub(crate) fn names(&self) -> Names {
        let mut names = Names::default();
        names.add(&self.options.domain, []);
        names.add(&self.below("dns-version"), [Rdata::Txt(vec![(*b"1.1.0").into()])]);
        for label in ["svc", "pod", "dns"] {
            names.add(&self.below(label), []);
        }
        let servers = &self.options.name_servers;
        let service = servers.service.as_ref().and_then(|name| self.services.get(name));
        let server_ips = match service.map(|service| &service.kind) {
            Some(ServiceKind::ClusterIps(ips)) => ips.clone(),
            Some(_) => panic!("not in these tests"),
            None => servers.addresses.clone(),
        };
        names.add(&self.below("ns.dns"), server_ips.into_iter().map(address));
        for namespace in self.spaces() {
            names.add(&self.below(&format!("{namespace}.svc")), []);
            if self.options.pods != PodMode::Disabled {
                names.add(&self.below(&format!("{namespace}.pod")), []);
            }
        }
        for (of, service) in &self.services {
            self.add_service(&mut names, of, service);
        }
        // Names in between.
        for name in names.forward.keys().cloned().collect::<Vec<_>>() {
            let above = std::iter::successors(name.parent(), Name::parent);
            for parent in above.take_while(|parent| parent.is_within(&self.options.domain)) {
                names.add(&parent, []);
            }
        }
        names
    }

    fn add_service(&self, names: &mut Names, of: &ObjectName, service: &Service) {
        let own = self.below(&format!("{}.{}.svc", of.name, of.namespace));
        let mut endpoints = Vec::new();
        for slice in self.slices.values().filter(|slice| slice.service == *of) {
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.ready) {
                for ip in &endpoint.addresses {
                    let pod = endpoint.pod.clone().filter(|_| self.options.endpoint_pod_names);
                    let given = endpoint.hostname.clone().or(pod).map(String::from);
                    let host = own.child(given.unwrap_or_else(|| dashes(*ip))).unwrap();
                    endpoints.push((host, *ip, &slice.ports, endpoint.hostname.is_some()));
                }
            }
        }
        // What a host has by anyone's word is its hostname.
        let given: HashSet<Name> =
            endpoints.iter().filter(|(.., given)| *given).map(|(host, ..)| host.clone()).collect();
        let is_headless = service.kind == ServiceKind::Headless;
        match &service.kind {
            ServiceKind::External(target) => return names.add(&own, [Rdata::Cname(name(target))]),
            ServiceKind::Headless => {
                if endpoints.is_empty() {
                    if self.options.empty_headless_exists {
                        names.add(&own, []);
                    }
                    return;
                }
                names.add(&own, endpoints.iter().map(|(_, ip, ..)| address(*ip)));
            }
            ServiceKind::ClusterIps(ips) => {
                ips.iter().for_each(|ip| names.point(*ip, &own));
                for (host, ip, ..) in endpoints.iter().filter(|(host, ..)| given.contains(host)) {
                    names.point(*ip, host);
                }
                if endpoints.is_empty() && self.options.ignore_empty_service {
                    return;
                }
                names.add(&own, ips.iter().copied().map(address));
            }
        }
        // Targets of each owner of SRV records.
        let mut targets = BTreeMap::<Name, BTreeSet<(Name, u16)>>::new();
        let port_name =
            |port: &Port| own.child(port.protocol.label()).unwrap().child(format!("_{}", port.name)).unwrap();
        for (host, ip, ports, _) in &endpoints {
            names.add(host, [address(*ip)]);
            if is_headless {
                names.point(*ip, host);
            }
            for port in *ports {
                let target = (host.clone(), port.port);
                targets.entry(host.clone()).or_default().insert(target.clone());
                if is_headless {
                    targets.entry(own.clone()).or_default().insert(target.clone());
                    if !port.name.is_empty() {
                        targets.entry(port_name(port)).or_default().insert(target);
                    }
                }
            }
        }
        if let ServiceKind::ClusterIps(ips) = &service.kind {
            for port in &service.ports {
                let target = (!ips.is_empty()).then(|| (own.clone(), port.port));
                targets.entry(own.clone()).or_default().extend(target.clone());
                if !port.name.is_empty() {
                    targets.entry(port_name(port)).or_default().extend(target);
                }
            }
        }
        for (owner, targets) in targets {
            names.add(&owner, srv(targets));
        }
    }

    /// The answer to a question, among all names.
    pub(crate) fn answer(&self, names: &Names, asked: &Name, rtype: Rtype) -> Expected {
        let mut answers = HashSet::new();
        let mut at = asked.clone();
        // There are fewer aliases than that in these tests.
        for _ in 0..8 {
            if !at.is_within(&self.options.domain) {
                // Only what was asked is looked up in reverse: no alias of these tests leads there.
                return if at == *asked { self.reverse(names, asked, rtype) } else { Expected::Elsewhere };
            }
            let Some(records) = self.find(names, &at) else {
                return Expected::Answer(Rcode::NXDOMAIN, answers);
            };
            let alias =
                records.iter().find_map(|data| if let Rdata::Cname(to) = data { Some(to) } else { None });
            if let Some(to) = alias {
                answers.insert((at.clone(), Rdata::Cname(to.clone())));
                if rtype != Rtype::CNAME {
                    at = to.clone();
                    continue;
                }
            }
            let of_type = records.iter().filter(|data| data.rtype() == rtype);
            answers.extend(of_type.map(|data| (at.clone(), data.clone())));
            return Expected::Answer(Rcode::NOERROR, answers);
        }
        Expected::Answer(Rcode::SERVFAIL, HashSet::new())
    }

    fn find(&self, names: &Names, at: &Name) -> Option<HashSet<Rdata>> {
        if let Some(records) = names.forward.get(at) {
            return Some(records.clone());
        }
        let labels: Vec<String> =
            at.labels().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
        let ip = parse_dashed(labels[0].as_bytes())?;
        let depth = labels.len() - self.options.domain.labels().count();
        match (depth, labels.get(depth - 1)?.as_str()) {
            // Any other spelling of the address of an endpoint.
            (4, "svc") => names.forward.get(&at.parent()?.child(dashes(ip)).ok()?).cloned(),
            (3, "pod") => {
                let namespace = &*labels[1];
                let exists = match self.options.pods {
                    PodMode::Disabled => false,
                    PodMode::Insecure => self.has_namespace(namespace),
                    PodMode::Verified => {
                        let is_it = |(name, ips): (&ObjectName, &Vec<IpAddr>)| {
                            *name.namespace == *namespace && ips.contains(&ip)
                        };
                        self.has_namespace(namespace) && self.pods.iter().any(is_it)
                    }
                };
                exists.then(|| [address(ip)].into())
            }
            _ => None,
        }
    }

    /// Names of addresses, as strings of digits.
    fn reverse(&self, names: &Names, asked: &Name, rtype: Rtype) -> Expected {
        let text = asked.to_string().to_ascii_lowercase();
        let (family, text) = match (text.strip_suffix("in-addr.arpa."), text.strip_suffix("ip6.arpa.")) {
            (Some(text), _) => (IpFamily::V4, text),
            (_, Some(text)) => (IpFamily::V6, text),
            _ => return Expected::Elsewhere,
        };
        let labels: Vec<&str> = text.split_terminator('.').rev().collect();
        let bits = |label: &&str| match family {
            IpFamily::V4 => {
                Some(format!("{:08b}", label.parse::<u8>().ok().filter(|byte| byte.to_string() == **label)?))
            }
            IpFamily::V6 => {
                Some(format!("{:04b}", u8::from_str_radix(label, 16).ok().filter(|_| label.len() == 1)?))
            }
        };
        let full = usize::from(family.bits());
        let mut known = String::new();
        let mut astray = false;
        for label in &labels {
            match bits(label).filter(|_| known.len() < full) {
                Some(bits) => known += &bits,
                None => {
                    astray = true;
                    break;
                }
            }
        }
        let range_bits = |range: &&IpNet| {
            let all = match range.addr() {
                IpAddr::V4(ip) => format!("{:032b}", ip.to_bits()),
                IpAddr::V6(ip) => format!("{:0128b}", ip.to_bits()),
            };
            all[..range.prefix_len().into()].to_owned()
        };
        let ranges = self.options.reverse.iter().filter(|range| IpFamily::from(**range) == family);
        let ranges: Vec<String> = ranges.map(|range| range_bits(&range)).collect();
        let is_inside = ranges.iter().any(|range| known.starts_with(range));
        let is_above = !known.is_empty() && ranges.iter().any(|range| range.starts_with(&known));
        let answer = |records: HashSet<(Name, Rdata)>| Expected::Answer(Rcode::NOERROR, records);
        if astray {
            return if is_inside {
                Expected::Answer(Rcode::NXDOMAIN, HashSet::new())
            } else {
                Expected::Elsewhere
            };
        }
        if known.len() == full {
            let ip = match family {
                IpFamily::V4 => IpAddr::V4(u32::from_str_radix(&known, 2).unwrap().into()),
                IpFamily::V6 => IpAddr::V6(u128::from_str_radix(&known, 2).unwrap().into()),
            };
            return match names.reverse.get(&ip) {
                Some(records) if rtype == Rtype::PTR => {
                    answer(records.iter().map(|data| (asked.clone(), data.clone())).collect())
                }
                Some(_) => answer(HashSet::new()),
                None if is_inside => Expected::Answer(Rcode::NXDOMAIN, HashSet::new()),
                None => Expected::Elsewhere,
            };
        }
        if is_inside || is_above { answer(HashSet::new()) } else { Expected::Elsewhere }
    }
}
