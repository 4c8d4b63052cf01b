//! Random clusters, and what their names must lead to by the specification (A.2): what is written here is all names there
//! are, one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dyad_dns::wire::{Message, Rcode, Rdata, Rtype};
use dyad_net::IpFamily;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::api::Fake;
use crate::lab::{CLUSTER, Lab};

const DOMAIN: &str = "default.svc.cluster.local.";
/// Types that are asked for everywhere.
pub(crate) const TYPES: [Rtype; 6] = [Rtype::A, Rtype::AAAA, Rtype::SRV, Rtype::TXT, Rtype::CNAME, Rtype::MX];

/// Type and data, in the words of a zone file.
type Records = BTreeSet<(&'static str, String)>;

/// All names of a cluster, with their records; and those of addresses.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) names: BTreeMap<String, Records>,
    pointers: BTreeMap<IpAddr, BTreeSet<String>>,
}

impl World {
    fn add(&mut self, name: &str, kind: &'static str, data: String) {
        self.names.entry(name.to_owned()).or_default().insert((kind, data));
    }

    fn address(&mut self, name: &str, ip: IpAddr) {
        let kind = if ip.is_ipv4() { "A" } else { "AAAA" };
        self.add(name, kind, ip.to_string());
    }

    /// A cluster, told to an API.
    pub(crate) fn random(api: &Fake, seed: u64) -> Self {
        let (mut world, mut rng) = (Self::default(), StdRng::seed_from_u64(seed));
        for number in 0..40_u16 {
            let name = format!("service-{number}");
            match rng.random_range(0..5) {
                0 | 1 => world.cluster(api, &mut rng, &name, number),
                2 | 3 => world.headless(api, &mut rng, &name, number),
                // Of one that may not exist.
                _ => world.alias(api, &name, rng.random_range(0..60)),
            }
        }
        world
    }

    fn cluster(&mut self, api: &Fake, rng: &mut StdRng, name: &str, number: u16) {
        let all = [
            IpAddr::from([10, 96, 1, number as u8]),
            IpAddr::from([0xfd00, 0x10, 0x96, 0, 0, 0, 0, number + 1]),
        ];
        let ips: Vec<IpAddr> = match rng.random_range(0..4) {
            0 => all[..1].to_vec(),
            1 => all[1..].to_vec(),
            _ => all.to_vec(),
        };
        let owner = format!("{name}.{DOMAIN}");
        let ports = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        let count = rng.random_range(1..=2);
        for (port, protocol, named) in [(80, "tcp", "http"), (53, "udp", "dns")].into_iter().take(count) {
            let share = 100 / count;
            self.add(&owner, "SRV", format!("0 {share} {port} {owner}"));
            self.add(&format!("_{named}._{protocol}.{owner}"), "SRV", format!("0 100 {port} {owner}"));
        }
        for ip in &ips {
            self.address(&owner, *ip);
            self.pointers.entry(*ip).or_default().insert(owner.clone());
        }
        let ports = &ports.as_array().unwrap()[..count];
        api.set(
            "services",
            name,
            object(name, json!({}), "spec", json!({"clusterIPs": ips, "ports": ports})),
        );
    }

    fn headless(&mut self, api: &Fake, rng: &mut StdRng, name: &str, number: u16) {
        let owner = format!("{name}.{DOMAIN}");
        api.set("services", name, object(name, json!({}), "spec", json!({"clusterIPs": ["None"]})));
        let hosts: u8 = rng.random_range(1..=6);
        let mut targets = BTreeMap::new();
        for family in IpFamily::BOTH {
            if rng.random_ratio(1, 6) {
                continue;
            }
            let mut endpoints = Vec::new();
            for host in 0..hosts {
                let ip = match family {
                    IpFamily::V4 => IpAddr::from([10, 244, number as u8, host + 1]),
                    IpFamily::V6 => {
                        IpAddr::from([0xfd00, 0x10, 0x244, number + 1, 0, 0, 0, u16::from(host) + 1])
                    }
                };
                let named = host % 2 == 0;
                let ready = rng.random_ratio(4, 5);
                let mut endpoint = json!({"addresses": [ip], "conditions": {"ready": ready}});
                let label =
                    if named { format!("pod-{host}") } else { ip.to_string().replace(['.', ':'], "-") };
                if named {
                    endpoint["hostname"] = json!(label);
                }
                endpoints.push(endpoint);
                if ready {
                    let host = format!("{label}.{owner}");
                    self.address(&owner, ip);
                    self.address(&host, ip);
                    self.pointers.entry(ip).or_default().insert(host.clone());
                    targets.insert(host, 8080);
                }
            }
            let slice = format!("{name}-{}", family.as_str().to_lowercase());
            let labels = json!({"kubernetes.io/service-name": name});
            let mut object = object(&slice, labels, "endpoints", json!(endpoints));
            object["addressType"] = json!(family.as_str());
            object["ports"] = json!([{"name": "web", "port": 8080, "protocol": "TCP"}]);
            api.set("endpointslices", &slice, object);
        }
        let share = (100 / targets.len().max(1)).max(1);
        for (target, port) in &targets {
            self.add(&owner, "SRV", format!("0 {share} {port} {target}"));
            self.add(&format!("_web._tcp.{owner}"), "SRV", format!("0 {share} {port} {target}"));
            self.add(target, "SRV", format!("0 100 {port} {target}"));
        }
    }

    fn alias(&mut self, api: &Fake, name: &str, of: u16) {
        let target = format!("service-{of}.{DOMAIN}");
        self.add(&format!("{name}.{DOMAIN}"), "CNAME", target.clone());
        let target = target.trim_end_matches('.');
        let spec = json!({"type": "ExternalName", "externalName": target});
        api.set("services", name, object(name, json!({}), "spec", spec));
    }

    /// Names to ask for: those there are, those between, and some that there are not.
    pub(crate) fn questions(&self) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = self.names.keys().cloned().collect();
        for name in self.names.keys() {
            all.extend(name.split_once('.').map(|(_, parent)| parent.to_owned()));
            all.insert(format!("nobody.{name}"));
            all.insert(format!("_no._tcp.{name}"));
        }
        all.extend((0..60).map(|number| format!("service-{number}.{DOMAIN}")));
        all.retain(|name| name.ends_with(&format!(".{DOMAIN}")));
        all
    }

    /// What there must be for a question: the code, and the records.
    fn expected(&self, name: &str, rtype: Rtype) -> (Rcode, Records) {
        let (mut name, mut found, mut seen) = (name.to_owned(), Records::new(), BTreeSet::new());
        loop {
            let Some(records) = self.names.get(&name) else {
                let below = format!(".{name}");
                let is_above = self.names.keys().any(|other| other.ends_with(&below));
                return (if is_above { Rcode::NOERROR } else { Rcode::NXDOMAIN }, found);
            };
            let asked = rtype.to_string();
            found.extend(records.iter().filter(|(kind, _)| *kind == asked).cloned());
            match records.iter().find(|(kind, _)| *kind == "CNAME") {
                Some((_, target)) if rtype != Rtype::CNAME => {
                    if !seen.insert(name.clone()) {
                        return (Rcode::SERVFAIL, Records::new());
                    }
                    found.insert(("CNAME", target.clone()));
                    name.clone_from(target);
                }
                _ => return (Rcode::NOERROR, found),
            }
        }
    }
}

fn object(name: &str, labels: Value, part: &str, of: Value) -> Value {
    let mut object = json!({"metadata": {"name": name, "namespace": "default", "labels": labels}});
    object[part] = of;
    object
}

/// The answers of a message in the words of a zone file.
pub(crate) fn records(answer: &Message) -> Records {
    let words = |data: &Rdata| match data {
        Rdata::A(ip) => ("A", ip.to_string()),
        Rdata::Aaaa(ip) => ("AAAA", ip.to_string()),
        Rdata::Cname(name) => ("CNAME", name.to_string().to_lowercase()),
        Rdata::Ptr(name) => ("PTR", name.to_string().to_lowercase()),
        Rdata::Srv(srv) => {
            let target = srv.target.to_string().to_lowercase();
            ("SRV", format!("{} {} {} {target}", srv.priority, srv.weight, srv.port))
        }
        other => ("", format!("{other:?}")),
    };
    answer.answers.iter().map(|record| words(&record.data)).collect()
}

/// A random cluster, and a server that knows all of it.
pub(crate) fn served(seed: u64) -> (World, Lab, Fake) {
    let api = Fake::new();
    let world = World::random(&api, seed);
    let lab = Lab::start(CLUSTER, Some(&api));
    let name = world.names.keys().next().unwrap();
    lab.until(name, Rtype::TXT, |answer| answer.header.rcode == Rcode::NOERROR);
    (world, lab, api)
}

#[test]
fn names_are_those_of_the_specification() {
    for seed in 1..=3 {
        let (world, lab, _api) = served(seed);
        for name in world.questions() {
            for rtype in TYPES {
                let answer = lab.ask(&name, rtype);
                let got = (answer.header.rcode, records(&answer));
                assert_eq!(got, world.expected(&name, rtype), "seed {seed}: {name} {rtype}");
            }
        }
        for (ip, names) in &world.pointers {
            let answer = lab.ask(&dyad_dns::reverse::name(*ip).to_string(), Rtype::PTR);
            let want: Records = names.iter().map(|name| ("PTR", name.clone())).collect();
            assert_eq!(records(&answer), want, "seed {seed}: {ip}");
        }
    }
}
