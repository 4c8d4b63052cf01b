//! Any history of changes answers as the reference does, and as if it had all been there from the start.

use std::collections::HashSet;

use proptest::prelude::*;

use super::reference::{Expected, Names, Reference};
use super::*;
use crate::respond::{Client, Rules, Transport, Verdict, respond};
use crate::wire::{Header, Message, Question, Rcode, Rdata, Rtype};

/// A change of one object.
#[derive(Clone, Debug)]
enum Change {
    Service(ObjectName, Option<Service>),
    Slice(ObjectName, Option<Slice>),
    Namespace(String, bool),
    Pod(ObjectName, Option<Pod>),
    Publish,
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    let known = [
        "10.0.0.1",
        "10.0.0.2",
        "10.0.1.1",
        "10.96.0.1",
        "192.0.2.1",
        "fd00::1",
        "fd00::",
        "::1",
        "2001:db8::1",
    ];
    prop::sample::select(known.map(ip).to_vec())
}

fn any_object(names: &'static [&'static str]) -> impl Strategy<Value = ObjectName> {
    let namespaces = prop::sample::select(vec!["default", "prod"]);
    (namespaces, prop::sample::select(names)).prop_map(|(namespace, name)| ObjectName::new(namespace, name))
}

fn any_service_name() -> impl Strategy<Value = ObjectName> {
    any_object(&["web", "db", "ext"])
}

fn any_ports() -> impl Strategy<Value = Vec<Port>> {
    let port = (
        prop::sample::select(vec!["", "http", "dns"]),
        prop::sample::select(Protocol::ALL.to_vec()),
        prop::sample::select(vec![53, 80]),
    );
    let port = port.prop_map(|(name, protocol, port)| Port { name: name.into(), protocol, port });
    prop::collection::vec(port, 0..3)
}

fn any_service() -> impl Strategy<Value = Service> {
    let ips = prop::collection::hash_set(any_ip(), 0..3)
        .prop_map(|ips| ServiceKind::ClusterIps(ips.into_iter().collect()));
    let target = prop::sample::select(vec![
        "ext.example.com",
        "web.default.svc.cluster.local",
        "x.prod.svc.cluster.local.",
    ]);
    let kind = prop_oneof![
        2 => ips,
        2 => Just(ServiceKind::Headless),
        1 => target.prop_map(|target| ServiceKind::External(target.into())),
    ];
    (kind, any_ports()).prop_map(|(kind, ports)| Service { kind, ports })
}

fn any_slice() -> impl Strategy<Value = Slice> {
    let hostname = prop::sample::select(vec!["web-0", "web-1", "10-0-0-1", "fd00--1"]);
    let endpoint = (
        prop::collection::vec(any_ip(), 1..3),
        prop::bool::weighted(0.8),
        prop::option::of(hostname.prop_map(Box::from)),
        prop::option::of(Just(Box::from("pod-a"))),
    );
    let endpoint =
        endpoint.prop_map(|(addresses, ready, hostname, pod)| Endpoint { addresses, ready, hostname, pod });
    (any_service_name(), any_ports(), prop::collection::vec(endpoint, 0..4))
        .prop_map(|(service, ports, endpoints)| Slice { service, ports, endpoints })
}

fn any_change() -> impl Strategy<Value = Change> {
    let maybe = |slice: Slice, there: bool, name: Box<str>| {
        let name = ObjectName { namespace: slice.service.namespace.clone(), name };
        Change::Slice(name, there.then_some(slice))
    };
    let slice_name = prop::sample::select(vec!["a", "b", "c"]).prop_map(Box::from);
    let pod = (any_object(&["p", "q"]), prop::option::of(prop::collection::vec(any_ip(), 0..3)));
    prop_oneof![
        4 => (any_service_name(), prop::option::weighted(0.8, any_service()))
            .prop_map(|(name, service)| Change::Service(name, service)),
        4 => (any_slice(), prop::bool::weighted(0.8), slice_name)
            .prop_map(move |(slice, there, name)| maybe(slice, there, name)),
        1 => (prop::sample::select(vec!["default", "prod", "empty"]), any::<bool>())
            .prop_map(|(name, exists)| Change::Namespace(name.into(), exists)),
        1 => pod.prop_map(|(name, ips)| Change::Pod(name, ips.map(|ips| Pod { ips }))),
        2 => Just(Change::Publish),
    ]
}

fn any_options() -> impl Strategy<Value = Options> {
    let pods = prop::sample::select(vec![PodMode::Disabled, PodMode::Insecure, PodMode::Verified]);
    let ranges = prop::sample::select(vec![
        vec![],
        vec!["10.0.0.0/16", "10.96.0.0/12", "fd00::/64"],
        vec!["10.0.0.0/15", "::/127", "fd00::/7"],
        vec!["0.0.0.0/0", "::/0"],
        vec!["10.0.0.1/32", "fd00::1/128"],
    ]);
    (pods, any::<[bool; 4]>(), ranges).prop_map(|(pods, [exists, ignore, pod_names, fallback], ranges)| {
        Options {
            reverse: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            pods,
            empty_headless_exists: exists,
            ignore_empty_service: ignore,
            endpoint_pod_names: pod_names,
            name_servers: NameServers {
                service: (!fallback).then(|| object("default/dns")),
                addresses: ips("192.0.2.53 2001:db8::53"),
            },
            ..Options::new(name("cluster.local"))
        }
    })
}

fn apply(store: &mut Store, reference: &mut Reference, change: Change) {
    match change {
        Change::Service(name, service) => {
            store.set_service(&name, service.clone());
            reference.services.remove(&name);
            reference.services.extend(service.map(|service| (name, service)));
        }
        Change::Slice(name, slice) => {
            store.set_slice(&name, slice.clone());
            reference.slices.remove(&name);
            reference.slices.extend(slice.map(|slice| (name, slice)));
        }
        Change::Namespace(name, exists) => {
            store.set_namespace(&name, exists);
            if exists {
                reference.namespaces.insert(name)
            } else {
                reference.namespaces.remove(&name)
            };
        }
        Change::Pod(name, pod) => {
            store.set_pod(&name, pod.clone());
            reference.pods.remove(&name);
            reference.pods.extend(pod.map(|pod| (name, pod.ips)));
        }
        Change::Publish => {
            store.publish(1);
        }
    }
}

/// Names worth asking for: all there are, what is around them, and other spellings.
fn questions(reference: &Reference, names: &Names) -> HashSet<Name> {
    let mut asked: HashSet<Name> = names.forward.keys().cloned().collect();
    let fixed = [
        "cluster.local",
        "CLUSTER.Local",
        "local",
        "svc.cluster.local",
        "default.pod.cluster.local",
        "none.pod.cluster.local",
        "empty.svc.cluster.local",
        "default.svc.cluster.local",
        "x.cluster.local",
        "10-0-0-1.default.pod.cluster.local",
        "FD00-0-0-0-0-0-0-1.prod.pod.cluster.local",
        "x.10-0-0-1.default.pod.cluster.local",
        "10-0-0-1.none.pod.cluster.local",
        "10-0-0.default.pod.cluster.local",
        "fd00-0-0-0-0-0-0-1.web.default.svc.cluster.local",
        "0-0--1.web.default.svc.cluster.local",
        "WEB-0.Web.default.svc.cluster.local",
        "_x._tcp.web.default.svc.cluster.local",
        "http._tcp.web.default.svc.cluster.local",
        "_http.web.default.svc.cluster.local",
        "a._http._tcp.web.default.svc.cluster.local",
        "x.ext.default.svc.cluster.local",
        "in-addr.arpa",
        "10.in-addr.arpa",
        "0.10.in-addr.arpa",
        "96.10.in-addr.arpa",
        "9.10.in-addr.arpa",
        "1.0.10.in-addr.arpa",
        "01.0.0.10.in-addr.arpa",
        "x.0.10.in-addr.arpa",
        "1.1.0.0.10.in-addr.arpa",
        "3.0.0.10.in-addr.arpa",
        "1.2.0.192.in-addr.arpa",
        "256.0.0.10.in-addr.arpa",
        "d.f.ip6.arpa",
        "f.ip6.arpa",
        "ip6.arpa",
        "g.d.f.ip6.arpa",
        "example.com",
        ".",
    ];
    asked.extend(fixed.map(name));
    for known in names.forward.keys() {
        asked.extend(known.child("x"));
        asked.extend(known.parent().and_then(|parent| parent.child("zz").ok()));
    }
    for ip in names.reverse.keys().copied().chain(reference.pods.values().flatten().copied()) {
        let labels: Vec<String> = match ip {
            IpAddr::V4(ip) => ip.octets().iter().rev().map(u8::to_string).collect(),
            IpAddr::V6(ip) => ip
                .octets()
                .iter()
                .rev()
                .flat_map(|byte| [byte & 15, byte >> 4])
                .map(|digit| format!("{digit:x}"))
                .collect(),
        };
        let top = if ip.is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" };
        for skipped in 0..labels.len() {
            asked.insert(name(&format!("{}.{top}", labels[skipped..].join("."))));
        }
        asked.insert(name(&format!("x.{}.{top}", labels.join("."))));
    }
    asked
}

/// What we answer, in the words of the reference; and the response itself.
fn ask(snapshot: &Snapshot, asked: &Name, rtype: Rtype, random: u32) -> (Expected, Option<Message>) {
    let query = Message::new(Header::query(7), Some(Question::new(asked.clone(), rtype))).to_bytes();
    let client = Client { peer: "[::1]:53".parse().unwrap(), transport: Transport::Tcp, now: 0, random };
    let mut out = Vec::new();
    let outcome = respond(snapshot, &Rules::default(), &query, &client, &mut out);
    if outcome.verdict == Verdict::Slow {
        return (Expected::Elsewhere, None);
    }
    let message = Message::parse(&out).unwrap();
    let answers = message.answers.iter().map(|record| (record.name.clone(), record.data.clone()));
    (Expected::Answer(message.header.rcode, answers.collect()), Some(message))
}

const TYPES: [Rtype; 7] =
    [Rtype::A, Rtype::AAAA, Rtype::SRV, Rtype::PTR, Rtype::TXT, Rtype::CNAME, Rtype::MX];

/// Every answer says who says so when it is negative, and where targets are when they are known.
fn check(names: &Names, message: &Message) -> Result<(), TestCaseError> {
    if message.header.rcode == Rcode::SERVFAIL {
        return Ok(());
    }
    let is_negative = !message.answers.iter().any(|record| record.rtype() != Rtype::CNAME);
    let is_alias = message.question().is_some_and(|question| question.rtype == Rtype::CNAME);
    if is_negative && (!is_alias || message.answers.is_empty()) {
        let [soa] = &*message.authority else { return Err(TestCaseError::fail("no SOA")) };
        let last = message
            .answers
            .last()
            .and_then(|record| if let Rdata::Cname(to) = &record.data { Some(to) } else { None });
        let name = last.unwrap_or(&message.questions[0].name);
        prop_assert!(soa.rtype() == Rtype::SOA && name.is_within(&soa.name), "{soa:?}");
    }
    prop_assert!(message.header.authoritative && message.header.recursion_available);
    let given: HashSet<_> = message.answers.iter().map(|record| (&record.name, &record.data)).collect();
    prop_assert_eq!(given.len(), message.answers.len());
    let mut glue = HashSet::new();
    for record in &message.answers {
        if let Rdata::Srv(srv) = &record.data {
            let records = names.forward[&srv.target].iter();
            let addresses = records.filter(|data| matches!(data, Rdata::A(_) | Rdata::Aaaa(_)));
            glue.extend(addresses.map(|data| (srv.target.clone(), data.clone())));
        }
    }
    let given: Vec<_> =
        message.additional.iter().map(|record| (record.name.clone(), record.data.clone())).collect();
    prop_assert_eq!(given.len(), glue.len());
    prop_assert_eq!(given.into_iter().collect::<HashSet<_>>(), glue);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn histories_answer_as_the_reference_does(
        options in any_options(),
        changes in prop::collection::vec(any_change(), 1..40),
        random in any::<u32>(),
    ) {
        let mut store = Store::new(options.clone());
        let mut reference = Reference::new(options.clone());
        store.set_synced();
        for change in changes {
            apply(&mut store, &mut reference, change);
        }
        store.publish(1);
        let snapshot = store.published().snapshot();
        let names = reference.names();
        // The same, at once, backwards.
        let mut fresh = Store::new(options);
        fresh.set_synced();
        for (name, ips) in reference.pods.iter().rev() {
            fresh.set_pod(name, Some(Pod { ips: ips.clone() }));
        }
        for (name, slice) in reference.slices.iter().rev() {
            fresh.set_slice(name, Some(slice.clone()));
        }
        for (name, service) in reference.services.iter().rev() {
            fresh.set_service(name, Some(service.clone()));
        }
        reference.namespaces.iter().for_each(|name| fresh.set_namespace(name, true));
        fresh.publish(1);
        let fresh = fresh.published().snapshot();
        for asked in questions(&reference, &names) {
            for rtype in TYPES {
                let (answer, message) = ask(&snapshot, &asked, rtype, random);
                let expected = reference.answer(&names, &asked, rtype);
                prop_assert_eq!(&answer, &expected, "{} {}", asked, rtype);
                if let Some(message) = &message {
                    check(&names, message).map_err(|error| TestCaseError::fail(format!("{asked} {rtype}: {error}")))?;
                }
                prop_assert_eq!(message, ask(&fresh, &asked, rtype, random).1, "{} {}", asked, rtype);
            }
        }
    }
}
