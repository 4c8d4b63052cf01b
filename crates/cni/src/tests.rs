//! Rules as tables, the store's promises, and that no bytes from outside do harm.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::range::Kind;
use crate::store::{Owner, Store};
use crate::*;

mod fuzz;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn request(command: &str, config: Value) -> Result<Request> {
    request_with(command, config, &[])
}

fn request_with(command: &str, config: Value, variables: &[(&str, &str)]) -> Result<Request> {
    let all =
        [("CNI_COMMAND", command), ("CNI_CONTAINERID", "c1"), ("CNI_NETNS", "/x"), ("CNI_IFNAME", "eth0")];
    let variable = |name: &str| {
        let found = variables.iter().chain(&all).find(|(known, _)| *known == name);
        found.map(|(_, value)| value.into())
    };
    Request::new(variable, NetConf::parse(config.to_string().as_bytes())?)
}

fn config(more: Value) -> Value {
    let mut config = json!({ "cniVersion": "1.1.0", "name": "net", "type": "host-local" });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config
}

#[test]
fn what_is_wrong_is_named_with_its_code() {
    let base = || config(json!({}));
    let with = |key: &str, value: Value| config(json!({ key: value }));
    #[rustfmt::skip]
    let cases = [
        // what, command, configuration, variables, code, part of the text
        ("no name", "ADD", with("name", json!("")), vec![], 7, "name: \"\" is no network name"),
        ("odd name", "ADD", with("name", json!("../x")), vec![], 7, "name: \"../x\""),
        ("name of a wrong type", "ADD", with("name", json!(5)), vec![], 7, "name: 5 is no string"),
        ("old version", "ADD", with("cniVersion", json!("0.2.0")), vec![], 1, "cniVersion: \"0.2.0\""),
        ("unknown version", "ADD", with("cniVersion", json!("9.9.9")), vec![], 1, "0.3.1, 0.4.0, 1.0.0, 1.1.0"),
        ("CHECK is new in 0.4.0", "CHECK", with("cniVersion", json!("0.3.1")), vec![], 1, "0.3.1 has no CHECK"),
        ("GC is new in 1.1.0", "GC", with("cniVersion", json!("1.0.0")), vec![], 1, "1.0.0 has no GC"),
        ("STATUS is new in 1.1.0", "STATUS", with("cniVersion", json!("1.0.0")), vec![], 1, "has no STATUS"),
        ("unknown command", "FOO", base(), vec![], 4, "CNI_COMMAND: \"FOO\""),
        ("no container", "ADD", base(), vec![("CNI_CONTAINERID", "")], 4, "CNI_CONTAINERID must be set"),
        ("several missing", "ADD", base(), vec![("CNI_NETNS", ""), ("CNI_IFNAME", "")], 4, "CNI_NETNS, CNI_IFNAME"),
        ("odd container", "ADD", base(), vec![("CNI_CONTAINERID", "a/b")], 4, "CNI_CONTAINERID: \"a/b\""),
        ("long link", "ADD", base(), vec![("CNI_IFNAME", "eth0123456789012")], 4, "at most 15 bytes"),
        ("odd link", "ADD", base(), vec![("CNI_IFNAME", "..")], 4, "CNI_IFNAME: \"..\""),
        ("odd argument", "ADD", base(), vec![("CNI_ARGS", "IP")], 4, "CNI_ARGS: \"IP\" must be KEY=VALUE"),
    ];
    for (what, command, config, variables, code, text) in cases {
        let error = request_with(command, config, &variables).unwrap_err();
        assert_eq!(error.code, code, "{what}: {error}");
        assert!(error.msg.contains(text), "{what}: {error}");
    }
    assert_eq!(NetConf::parse(b"{").unwrap_err().code, 6);
    assert_eq!(NetConf::parse(b"[]").unwrap_err().code, 6);
    request_with("DEL", base(), &[("CNI_NETNS", "")]).expect("DEL may come after the namespace");
    request_with("GC", base(), &[("CNI_NETNS", ""), ("CNI_CONTAINERID", ""), ("CNI_IFNAME", "")]).unwrap();
    let error = request("GC", base()).unwrap().valid().unwrap_err();
    assert!(error.msg.contains("cni.dev/valid-attachments"), "{error}");
}

#[test]
fn results_are_written_in_the_version_that_is_asked_for_and_read_in_any() {
    let result = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "v0", "mac": "0a:00:00:00:00:01", "mtu": 1400 }, { "name": "eth0", "sandbox": "/x" }],
        "ips": [
            { "address": "fd00::5/64", "gateway": "fd00::1", "interface": 1 },
            { "address": "10.0.0.5/24", "interface": 1 },
        ],
        "routes": [{ "dst": "::/0", "gw": "fd00::1", "mtu": 1300, "priority": 5, "table": 7 }],
        "dns": { "nameservers": ["10.0.0.10"] },
    });
    let parsed = CniResult::parse(&result).unwrap();
    assert_eq!(parsed.to_json(Version::V1_1_0), result);
    for version in Version::ALL {
        let written = parsed.to_json(version);
        assert_eq!(written["cniVersion"], version.as_str());
        let families = ["6", "4"].map(|number| (version < Version::V1_0_0).then_some(number));
        for (at, family) in families.into_iter().enumerate() {
            assert_eq!(
                written["ips"][at].get("version").and_then(Value::as_str),
                family,
                "{}",
                version.as_str()
            );
        }
        assert_eq!(written["routes"][0].get("mtu").is_some(), version >= Version::V1_1_0);
        let again = CniResult::parse(&written).unwrap();
        assert_eq!((again.ips, &again.dns), (parsed.ips.clone(), &parsed.dns));
    }
    let odd = json!({ "ips": [{ "address": "10.0.0.5/24", "interface": 3 }] });
    assert!(CniResult::parse(&odd).unwrap_err().msg.contains("result.ips.interface: 3"));
    let none = json!({ "ips": [{ "address": "10.0.0.5/24", "interface": -1 }] });
    assert_eq!(CniResult::parse(&none).unwrap().ips[0].interface, None);
}

fn ranges(list: Value, kind: Kind) -> Result<Vec<RangeSet>> {
    read_ranges("ipam.ranges", list.as_array().unwrap(), kind)
}

#[test]
fn ranges_are_what_host_local_takes_them_for() {
    let cases = [
        (json!([{ "subnet": "10.1.0.0/24" }]), "10.1.0.1", "10.1.0.254", "10.1.0.1"),
        (json!([{ "subnet": "10.1.0.0/30" }]), "10.1.0.1", "10.1.0.2", "10.1.0.1"),
        (json!([{ "subnet": "fd00::/120" }]), "fd00::1", "fd00::ff", "fd00::1"),
        (
            json!([{ "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.12", "gateway": "10.1.0.254" }]),
            "10.1.0.9",
            "10.1.0.12",
            "10.1.0.254",
        ),
    ];
    for (list, start, end, gateway) in cases {
        let set = &ranges(json!([list]), Kind::Shared).unwrap()[0];
        let range = &set.0[0];
        assert_eq!(
            (range.start, range.end, range.gateway),
            (ip(start), ip(end), Some(ip(gateway))),
            "{list}"
        );
    }
    // Routed pods have no gateway in their range, and may be given all of it.
    for (subnet, start, end) in [
        ("10.1.0.0/24", "10.1.0.1", "10.1.0.254"),
        ("10.1.0.4/31", "10.1.0.4", "10.1.0.5"),
        ("10.1.0.4/32", "10.1.0.4", "10.1.0.4"),
        ("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff"),
        ("fd00::8/128", "fd00::8", "fd00::8"),
    ] {
        let set = &ranges(json!([[{ "subnet": subnet }]]), Kind::Routed).unwrap()[0];
        assert_eq!((set.0[0].start, set.0[0].end, set.0[0].gateway), (ip(start), ip(end), None));
    }
    #[rustfmt::skip]
    let wrong = [
        (json!([[{}]]), "ipam.ranges[0][0].subnet: it is missing"),
        (json!([[{ "subnet": "10.1.0.5/24" }]]), "ipam.ranges[0][0].subnet: 10.1.0.5/24 has bits set beyond its length: write 10.1.0.0/24"),
        (json!([[{ "subnet": "10.1.0.0" }]]), "ipam.ranges[0][0].subnet: \"10.1.0.0\" must be an address with a length"),
        (json!([[{ "subnet": "10.1.0.0/31" }]]), "is too small"),
        (json!([[{ "subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1" }]]), "ipam.ranges[0][0].rangeStart: 10.2.0.1 is not in the subnet"),
        (json!([[{ "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8" }]]), "comes after rangeEnd"),
        (json!([[{ "subnet": "10.1.0.0/24", "gateway": "fd00::1" }]]), "gateway: fd00::1 is not of the family"),
        (json!([[{ "subnet": "10.1.0.0/24" }, { "subnet": "fd00::/64" }]]), "put it into a list of its own"),
        (json!([[{ "subnet": "10.1.0.0/24" }, { "subnet": "10.1.0.0/25" }]]), "overlaps 10.1.0.0/24"),
        (json!([[]]), "must be a list of ranges"),
        (json!([{ "subnet": "10.1.0.0/24" }]), "ipam.ranges[0]: {\"subnet\":\"10.1.0.0/24\"} must be a list of ranges"),
    ];
    for (list, text) in wrong {
        let error = ranges(list.clone(), Kind::Shared).unwrap_err();
        assert!(error.code == 7 && error.msg.contains(text), "{list}: {error}");
    }
}

#[test]
fn addresses_go_around_all_ranges_of_a_list() {
    let list = json!([[{ "subnet": "10.1.0.0/30", "gateway": "10.1.0.3" }, { "subnet": "10.2.0.0/29", "rangeEnd": "10.2.0.3" }]]);
    let set = &ranges(list, Kind::Shared).unwrap()[0];
    let mut taken = BTreeSet::new();
    let (mut last, mut given) = (Some(ip("10.1.0.1")), Vec::new());
    while let Some(next) = set.next(last, &taken) {
        taken.insert(next);
        given.push(next.to_string());
        last = Some(next);
    }
    // From behind the last one on; 10.2.0.1 is a gateway.
    assert_eq!(given, ["10.1.0.2", "10.2.0.2", "10.2.0.3", "10.1.0.1"]);
    // What is no address of the ranges is no place to go on from.
    assert_eq!(set.next(Some(ip("192.0.2.1")), &BTreeSet::new()), Some(ip("10.1.0.1")));
    let all = RangeSet::routed("::/0".parse().unwrap());
    assert_eq!(
        all.next(Some(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")), &BTreeSet::new()),
        Some(ip("::1"))
    );
}

#[test]
fn an_address_has_one_owner_whatever_is_in_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), "net").unwrap();
    let owner = |name: &str| Owner { container: name.into(), ifname: Some("eth0".into()) };
    let place = dir.path().join("net");
    let locked = store.lock().unwrap();
    assert!(locked.take(ip("10.0.0.5"), &owner("a")).unwrap());
    assert!(!locked.take(ip("10.0.0.5"), &owner("b")).unwrap());
    assert_eq!(std::fs::read_to_string(place.join("10.0.0.5")).unwrap(), "a\r\neth0", "host-local's format");
    // Half-written by others: nobody's. Not to be read: somebody's.
    std::fs::write(place.join("10.0.0.6"), "").unwrap();
    std::fs::create_dir(place.join("10.0.0.7")).unwrap();
    std::fs::write(place.join("10.0.0.8"), b"\xff\xfe\0garbage").unwrap();
    std::fs::write(place.join("10.0.0.9"), "old-container").unwrap();
    std::fs::write(place.join("no address"), "x").unwrap();
    std::fs::write(place.join("last_reserved_ip.0"), "garbage").unwrap();
    assert_eq!(locked.last(0), None);
    assert!(locked.take(ip("10.0.0.6"), &owner("b")).unwrap());
    for taken in ["10.0.0.7", "10.0.0.8", "10.0.0.9"] {
        assert!(!locked.take(ip(taken), &owner("c")).unwrap(), "{taken}");
    }
    // A draft that was linked before somebody was killed is no draft any more.
    std::fs::hard_link(place.join("10.0.0.5"), place.join(".draft")).unwrap();
    assert!(locked.take(ip("10.0.0.10"), &owner("d")).unwrap());
    assert_eq!(locked.of(&owner("a")).unwrap(), [ip("10.0.0.5")]);
    // Who is not named with a link has all of the container.
    assert_eq!(locked.release(&owner("old-container")).unwrap(), [ip("10.0.0.9")]);
    assert_eq!(
        locked.release(&Owner { ifname: Some("net1".into()), ..owner("a") }).unwrap(),
        Vec::<IpAddr>::new()
    );
    assert_eq!(locked.release(&owner("a")).unwrap(), [ip("10.0.0.5")]);
    assert_eq!(locked.release(&owner("a")).unwrap(), Vec::<IpAddr>::new(), "again is as good");
    // Long ago, by somebody of whom nothing else is there; not by one whose link is not known.
    std::fs::write(place.join("10.0.0.11"), "old-container").unwrap();
    let (before, later) = (
        std::time::SystemTime::UNIX_EPOCH,
        std::time::SystemTime::now() + std::time::Duration::from_secs(60),
    );
    assert_eq!(locked.forget(before, |_| false).unwrap(), Vec::<IpAddr>::new());
    assert_eq!(locked.forget(later, |_| true).unwrap(), Vec::<IpAddr>::new());
    assert!(locked.take(ip("10.0.0.12"), &owner("e")).unwrap());
    assert_eq!(locked.forget(later, |of| of.container != "e").unwrap(), [ip("10.0.0.12")]);
    locked.free(ip("10.0.0.11")).unwrap();
    let kept = locked.retain(&[owner("b")]).unwrap();
    assert_eq!(kept, [ip("10.0.0.8"), ip("10.0.0.10")]);
    assert_eq!(locked.taken().unwrap(), [ip("10.0.0.6"), ip("10.0.0.7")].into());
}

#[test]
fn an_error_leaves_no_address_behind() {
    let dir = tempfile::tempdir().unwrap();
    let ipam = |ranges: Value| {
        let ipam = json!({ "type": "host-local", "dataDir": dir.path(), "ranges": ranges });
        request("ADD", config(json!({ "ipam": ipam }))).unwrap()
    };
    let lists = json!([[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "fd00::/64", "rangeEnd": "fd00::2" }]]);
    let add = |request: &Request| local::Local::of(request, Kind::Shared)?.add(request);
    let mut first = ipam(lists.clone());
    assert_eq!(add(&first).unwrap().ips.len(), 2);
    assert!(add(&first).unwrap_err().msg.contains("10.0.0.2 has been given to eth0 of container c1 already"));
    first.container_id = "c2".into();
    let error = add(&first).unwrap_err();
    assert!(
        error.code == 11 && error.msg.contains("no address is free in fd00::1-fd00::2 (1 in use)"),
        "{error}"
    );
    let store = Store::open(dir.path(), "net").unwrap();
    assert_eq!(store.lock().unwrap().taken().unwrap().len(), 2, "only those of c1");
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let data_dir = json!({ "ipam": { "dataDir": file, "ranges": lists } });
    let error = add(&request("ADD", config(data_dir)).unwrap()).unwrap_err();
    assert!(error.code == 5 && error.msg.contains("file/net"), "{error}");
}

#[test]
fn addresses_can_be_asked_for_in_three_ways() {
    let dir = tempfile::tempdir().unwrap();
    let add = |more: Value, args: &str| {
        let ipam = json!({ "dataDir": dir.path(), "ranges": [[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "fd00::/64" }]] });
        let mut config = config(json!({ "ipam": ipam }));
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request = request_with("ADD", config, &[("CNI_ARGS", args), ("CNI_CONTAINERID", "x")]).unwrap();
        let result = local::Local::of(&request, Kind::Shared)?.add(&request)?;
        local::del(&request).unwrap();
        Ok::<_, CniError>(
            result.ips.iter().map(|ip| ip.address.addr().to_string()).collect::<Vec<_>>().join(" "),
        )
    };
    assert_eq!(add(json!({}), "IgnoreUnknown=1;IP=10.0.0.99").unwrap(), "10.0.0.99 fd00::2");
    assert_eq!(add(json!({ "args": { "cni": { "ips": ["fd00::77"] } } }), "").unwrap(), "10.0.0.2 fd00::77");
    assert_eq!(
        add(json!({ "runtimeConfig": { "ips": ["10.0.0.8/24", "fd00::8/64"] } }), "").unwrap(),
        "10.0.0.8 fd00::8"
    );
    // As containerd writes it.
    let range = json!({ "Subnet": "10.9.0.0/24", "RangeStart": "", "RangeEnd": "", "Gateway": "" });
    let more = json!({ "runtimeConfig": { "ipRanges": [[range]] } });
    assert_eq!(add(more, "").unwrap(), "10.9.0.2 10.0.0.2 fd00::2");
    for (more, args, text) in [
        (json!({}), "IP=10.7.0.1", "10.7.0.1 was asked for, which is in none of the ranges"),
        (json!({}), "IP=10.0.0.1", "or is a gateway's"),
        (json!({}), "IP=nonsense", "CNI_ARGS: IP: \"nonsense\""),
        (json!({ "runtimeConfig": { "ips": [7] } }), "", "runtimeConfig.ips: 7"),
    ] {
        let error = add(more, args).unwrap_err();
        assert!(error.code == 7 && error.msg.contains(text), "{args}: {error}");
    }
}

#[test]
fn what_goes_over_the_socket_comes_out_as_it_was() {
    let sent =
        request_with("ADD", config(json!({ "prevResult": { "ips": [] } })), &[("CNI_ARGS", "A=1;B=2=3")])
            .unwrap();
    let found = wire::decode_request(&wire::encode_request(&sent)).unwrap();
    assert_eq!(
        (found.command, found.container_id, found.netns),
        (Command::Add, sent.container_id, sent.netns)
    );
    assert_eq!((found.args, found.config.raw()), (sent.args, sent.config.raw()));
    let error = CniError::new(Code::TryAgainLater, "a").because("b");
    for answer in [Ok(None), Ok(Some(json!({ "ips": [] }))), Err(error)] {
        assert_eq!(wire::decode_answer(&wire::encode_answer(&answer)), answer);
    }
    assert_eq!(wire::decode_answer(b"{}").unwrap_err().code, 6);
    assert_eq!(wire::decode_request(b"{\"command\":\"ADD\"}").unwrap_err().code, 6);
}
