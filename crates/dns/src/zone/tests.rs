use std::net::IpAddr;

use super::*;
use crate::wire::Name;

mod history;
pub(crate) mod reference;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(ip).collect()
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// `NAMESPACE/NAME`.
pub(crate) fn object(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName::new(namespace, name)
}

/// `http/80 dns/53/udp /9000`.
pub(crate) fn ports(text: &str) -> Vec<Port> {
    let port = |text: &str| {
        let mut words = text.split('/');
        let (name, port) = (words.next().unwrap(), words.next().unwrap());
        let protocol = words.next().unwrap_or("tcp");
        let protocol = Protocol::ALL.into_iter().find(|one| one.label()[1..] == *protocol).unwrap();
        Port { name: name.into(), protocol, port: port.parse().unwrap() }
    };
    text.split_whitespace().map(port).collect()
}

pub(crate) fn cluster(addresses: &str, text: &str) -> Service {
    Service { kind: ServiceKind::ClusterIps(ips(addresses)), ports: ports(text) }
}

pub(crate) fn headless() -> Service {
    Service { kind: ServiceKind::Headless, ports: Vec::new() }
}

pub(crate) fn external(name: &str) -> Service {
    Service { kind: ServiceKind::External(name.into()), ports: Vec::new() }
}

/// Endpoints as `10.0.0.1`, `10.0.0.1=web-0` with a hostname, `!10.0.0.1` if not ready.
pub(crate) fn slice(service: &str, text: &str, endpoints: &str) -> Slice {
    let endpoint = |text: &str| {
        let (ready, text) = text.strip_prefix('!').map_or((true, text), |text| (false, text));
        let (address, hostname) =
            text.split_once('=').map_or((text, None), |(ip, name)| (ip, Some(name.into())));
        Endpoint { addresses: ips(address), ready, hostname, pod: None }
    };
    let endpoints = endpoints.split_whitespace().map(endpoint).collect();
    Slice { service: object(service), ports: ports(text), endpoints }
}

#[test]
fn addresses_as_labels() {
    for (address, label) in [
        ("10.0.0.1", "10-0-0-1"),
        ("255.255.255.255", "255-255-255-255"),
        ("fd00::1", "fd00--1"),
        ("::1", "0--1"),
        ("fd00::", "fd00--0"),
        ("::", "0--0"),
        ("::ffff:1.2.3.4", "0--ffff-102-304"),
        ("1:2:3:4:5:6:7:8", "1-2-3-4-5-6-7-8"),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff-ffff-ffff-ffff-ffff-ffff-ffff-ffff"),
        ("1234:abcd:0:0:1::", "1234-abcd-0-0-1--0"),
    ] {
        assert_eq!(str::from_utf8(dashed(ip(address)).as_ref()), Ok(label));
        assert_eq!(parse_dashed(label.as_bytes()), Some(ip(address)), "{label}");
    }
    for (label, address) in [
        ("fd00-0-0-0-0-0-0-1", Some("fd00::1")),
        ("fd00-0000--0001", Some("fd00::1")),
        ("--1", Some("::1")),
        ("fd00--", Some("fd00::")),
        ("1-2--4", Some("1:2::4")),
        ("10-0-0", None),
        ("10-0-0-256", None),
        ("10-0-0-a", None),
        ("10.0.0.1", None),
        ("010-0-0-1", None),
        ("web-0", None),
        ("", None),
        ("1--2--3", None),
    ] {
        assert_eq!(parse_dashed(label.as_bytes()), address.map(ip), "{label}");
    }
}

/// What is published is seen by readers at their next look, and by none before.
#[test]
fn readers_follow() {
    let mut store = Store::new(Options::new(name("cluster.local")));
    let mut reader = store.published().reader();
    store.set_service(&object("default/web"), Some(cluster("10.96.0.1", "/80")));
    assert_eq!(reader.snapshot().services(), 0);
    assert!(store.publish(7));
    assert!(!store.publish(8));
    assert_eq!((reader.snapshot().services(), reader.snapshot().serial()), (1, 7));
    assert!(!reader.snapshot().is_synced());
    store.set_synced();
    // The clock was set back.
    assert!(store.publish(3));
    assert_eq!((reader.snapshot().is_synced(), reader.snapshot().serial()), (true, 7));
    store.set_service(&object("default/web"), None);
    assert!(store.publish(9));
    assert_eq!(reader.snapshot().services(), 0);
    assert_eq!(store.service_names().count() + store.slice_names().count(), 0);
}

/// A reload: readers keep the old names until the new ones are all there.
#[test]
fn replacement() {
    let mut old = Store::new(Options::new(name("cluster.local")));
    old.set_service(&object("default/web"), Some(cluster("10.96.0.1", "/80")));
    old.publish(1);
    let mut reader = old.published().reader();
    let mut new = Store::replacing(Options::new(name("example.org")), old.published().clone());
    new.set_synced();
    assert_eq!(
        (reader.snapshot().services(), &reader.snapshot().apex().options().domain),
        (1, &name("cluster.local"))
    );
    new.publish(2);
    assert_eq!(
        (reader.snapshot().services(), &reader.snapshot().apex().options().domain),
        (0, &name("example.org"))
    );
}

/// Objects that cannot have names do no harm.
#[test]
fn impossible_names() {
    let mut store = Store::new(Options::new(name("cluster.local")));
    let long = "a".repeat(64);
    for impossible in [&*long, ""] {
        store.set_service(&ObjectName::new("default", impossible), Some(headless()));
        store.set_service(&ObjectName::new(impossible, "web"), Some(headless()));
        store.set_namespace(impossible, true);
    }
    assert!(!store.publish(1));
}
