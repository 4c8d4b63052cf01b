//! `bridge` with VLANs, on kernels that have them, and with ports that are kept apart or to their own address.

use std::net::IpAddr;

use dyad_links::{Handle, NewLink};
use serde_json::{Value, json};

use crate::lab::{Family, Lab, Network, bound, has_reference, ips, is_root, talk};
use crate::networks::{RANGES, list, plain};

/// Whether this kernel knows VLANs of bridges; who has none is told.
fn has_vlans(lab: &Lab) -> bool {
    let made = lab.host.within(|| Handle::open().unwrap().add_vlan_bridge(&NewLink::named("probe")));
    lab.host.within(|| Handle::open().unwrap().delete_link("probe").unwrap());
    if made.is_err() {
        eprintln!("SKIPPED: this kernel's bridges have no VLANs (CONFIG_BRIDGE_VLAN_FILTERING)");
    }
    made.is_ok()
}

/// The VLANs of each port, as text: `veth 1, 5 untagged`.
fn vlans(lab: &Lab) -> Vec<String> {
    lab.host.within(|| {
        let mut handle = Handle::open().unwrap();
        let links = handle.links().unwrap();
        let mut found: Vec<String> = Vec::new();
        for port in handle.bridge_ports().unwrap() {
            let name = &links.iter().find(|link| link.index == port.link).unwrap().name;
            // The other end of a gateway's link is called by number here, and by chance there.
            let is_veth = name.starts_with("veth") || name.ends_with('p');
            let name = if is_veth { "veth" } else { name };
            let vlans: Vec<String> = port
                .vlans
                .iter()
                .map(|of| format!("{}{}", of.number, if of.is_untagged { " untagged" } else { "" }))
                .collect();
            found.push(format!("{name} {}", vlans.join(", ")));
        }
        found.sort();
        found
    })
}

fn first_ip(result: &Value) -> IpAddr {
    ips(result)[0].split_once('/').unwrap().0.parse().unwrap()
}

#[test]
fn trunks_and_the_default_vlan_are_as_they_are_asked_for() {
    if !is_root() || !has_vlans(&Lab::new(Family::Ours)) {
        return;
    }
    for (more, expected) in [
        (
            json!({ "vlanTrunk": [{ "id": 7 }, { "minID": 10, "maxID": 12 }] }),
            "veth 1 untagged, 7, 10, 11, 12",
        ),
        (
            json!({ "vlanTrunk": [{ "minID": 10, "maxID": 10, "id": 9 }], "preserveDefaultVlan": false }),
            "veth 9, 10",
        ),
        (
            json!({ "vlan": 11, "vlanTrunk": [{ "minID": 10, "maxID": 12 }], "preserveDefaultVlan": false }),
            "veth 10, 11 untagged, 12",
        ),
        (json!({ "vlan": 5, "preserveDefaultVlan": false }), "veth 5 untagged"),
        (json!({ "vlan": 5 }), "veth 1, 5 untagged"),
        (json!({ "vlan": 1, "preserveDefaultVlan": false }), "veth 1 untagged"),
        (json!({ "vlanTrunk": [{ "minID": 2, "maxID": 4094 }] }), "veth 1 untagged, 2"),
    ] {
        let lab = Lab::new(Family::Ours);
        let mut plugin = json!({ "type": "bridge", "bridge": "br5" });
        plugin.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let network = Network::new(&lab, list(&lab, &plugin, &RANGES));
        let container = lab.container();
        network.add("a", &container).unwrap();
        let found = vlans(&lab);
        let found = found.iter().find(|text| text.starts_with("veth")).unwrap();
        let parts: Vec<&str> = found.split(", ").collect();
        let wanted: Vec<&str> = expected.split(", ").collect();
        assert_eq!(parts[..wanted.len()], wanted, "{more}: {found}");
        assert!(parts.len() == wanted.len() || parts.len() == 4094, "{more}: {found}");
    }
}

#[test]
fn a_vlan_is_made_as_the_reference_makes_it() {
    if !is_root() || !has_reference() || !has_vlans(&Lab::new(Family::Ours)) {
        return;
    }
    let tell = |family: Family, is_gateway: bool| {
        let lab = Lab::new(family);
        let plugin =
            |vlan: u16| json!({ "type": "bridge", "bridge": "br5", "vlan": vlan, "isGateway": is_gateway });
        let network = Network::new(&lab, list(&lab, &plugin(5), &RANGES));
        // Of the same subnets, and yet elsewhere.
        let mut elsewhere = list(&lab, &plugin(6), &RANGES);
        elsewhere["name"] = json!("elsewhere");
        let starts = ["10.5.0.100", "fd00:5::100"];
        for (range, start) in
            elsewhere["plugins"][0]["ipam"]["ranges"].as_array_mut().unwrap().iter_mut().zip(starts)
        {
            range[0]["rangeStart"] = json!(start);
        }
        let elsewhere = Network::new(&lab, elsewhere);
        let (a, b, c) = (lab.container(), lab.container(), lab.container());
        let first = network.add("a", &a).unwrap();
        let to_b = network.add("b", &b).unwrap();
        let to_c = elsewhere.add("c", &c).unwrap();
        lab.host.settle();
        let ip = |text: &str| -> IpAddr { text.split_once('/').unwrap().0.parse().unwrap() };
        for (to_b, to_c) in ips(&to_b).into_iter().zip(ips(&to_c)) {
            assert_eq!(talk(&a, &b, ip(to_b)).to_string(), bare(ips(&first), to_b));
            let _listener = c.within(|| bound(|| std::net::TcpListener::bind((ip(to_c), 9090))));
            assert!(!a.connects((ip(to_c), 9090).into()), "{family:?}: that is another VLAN");
            if is_gateway {
                talk(&lab.host, &b, ip(to_b));
            }
        }
        let gateways = ["br5", "br5.5", "br5.6"].map(|link| lab.host.addresses(link));
        let seen = (plain(&first), vlans(&lab), gateways);
        network.del("a", &a.path).unwrap();
        network.del("b", &b.path).unwrap();
        elsewhere.del("c", &c.path).unwrap();
        seen
    };
    for is_gateway in [false, true] {
        assert_eq!(tell(Family::Ours, is_gateway), tell(Family::Reference, is_gateway), "{is_gateway}");
    }
}

/// The address in a list that is of the family of another.
fn bare(all: Vec<&str>, like: &str) -> String {
    let found = all.into_iter().find(|ip| ip.contains(':') == like.contains(':')).unwrap();
    found.split_once('/').unwrap().0.to_owned()
}

#[test]
fn trunks_that_make_no_sense_are_refused() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    for (trunk, text) in [
        (json!([{ "minID": 5 }]), "vlanTrunk[0].minID: 5 needs maxID"),
        (json!([{ "id": 4 }, { "maxID": 5 }]), "vlanTrunk[1].maxID: 5 needs minID"),
        (json!([{ "minID": 6, "maxID": 5 }]), "vlanTrunk[0].minID: 6 must not be greater"),
        (json!([{ "id": 0 }]), "vlanTrunk[0].id: 0 must be a number from 1 to 4094"),
        (json!([{ "id": 4095 }]), "vlanTrunk[0].id: 4095 must be"),
        (json!([7]), "vlanTrunk[0]"),
        (json!(7), "vlanTrunk"),
    ] {
        let plugin = json!({ "type": "bridge", "bridge": "br5", "vlanTrunk": trunk });
        let network = Network::new(&lab, list(&lab, &plugin, &RANGES));
        let error = network.add("a", &lab.container()).unwrap_err();
        assert_eq!(error["code"], 7, "{error}");
        assert!(error["msg"].as_str().unwrap().contains(text), "{error}");
        assert!(network.noted().is_empty());
    }
}

#[test]
fn isolated_ports_reach_the_bridge_and_not_each_other() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let plugin = |isolated: bool| json!({ "type": "bridge", "bridge": "br5", "isGateway": true, "portIsolation": isolated });
    let apart = Network::new(&lab, list(&lab, &plugin(true), &RANGES));
    let together = Network::new(&lab, list(&lab, &plugin(false), &RANGES));
    let (a, b, c) = (lab.container(), lab.container(), lab.container());
    apart.add("a", &a).unwrap();
    let (to_b, to_c) = (apart.add("b", &b).unwrap(), together.add("c", &c).unwrap());
    let ip = |text: &str| -> IpAddr { text.split_once('/').unwrap().0.parse().unwrap() };
    for (to_b, to_c) in ips(&to_b).into_iter().zip(ips(&to_c)) {
        talk(&a, &c, ip(to_c));
        talk(&lab.host, &b, ip(to_b));
        talk(&c, &b, ip(to_b));
        let listener = b.within(|| std::net::TcpListener::bind((ip(to_b), 9090)).unwrap());
        assert!(c.connects((ip(to_b), 9090).into()), "somebody answers");
        assert!(!a.connects((ip(to_b), 9090).into()), "but not to those who are isolated, too");
        drop(listener);
    }
}

#[test]
fn nobody_sends_with_the_address_of_another() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let plugin =
        |check: bool| json!({ "type": "bridge", "bridge": "br5", "isGateway": true, "macspoofchk": check });
    let mut conflist = list(&lab, &plugin(true), &RANGES);
    conflist["cniVersion"] = json!("1.1.0");
    let checked = Network::new(&lab, conflist);
    let free = Network::new(&lab, list(&lab, &plugin(false), &RANGES));
    let (a, b, c) = (lab.container(), lab.container(), lab.container());
    checked.add("a", &a).unwrap();
    checked.add("c", &c).unwrap();
    let to_b = free.add("b", &b).unwrap();
    assert_eq!(lab.tables("dyad-mac-").len(), 2);
    let ip = first_ip(&to_b);
    let _listener = b.within(|| std::net::TcpListener::bind((ip, 9090)).unwrap());
    let at = (ip, 9090).into();
    assert!(a.connects(at), "as itself");
    a.within(|| {
        let mut handle = Handle::open().unwrap();
        let link = handle.index("eth0").unwrap();
        let mac = Some(dyad_links::Mac([2, 0, 0, 0, 0, 9]));
        handle.change_link(link, &dyad_links::LinkChange { mac, ..Default::default() }).unwrap();
    });
    assert!(!a.connects(at), "as somebody else");
    assert!(c.connects(at), "others go on");
    checked.del("a", &a.path).unwrap();
    assert_eq!(lab.tables("dyad-mac-").len(), 1);
    checked.gc(&[]).unwrap();
    assert!(lab.tables("dyad-").is_empty(), "{:?}", lab.tables("dyad-"));
}

#[test]
fn check_tells_what_of_a_port_has_changed() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let mut plugin = json!({
        "type": "bridge", "bridge": "br5", "isGateway": true, "ipMasq": true,
        "hairpinMode": true, "portIsolation": true, "macspoofchk": true,
    });
    if has_vlans(&lab) {
        plugin["vlan"] = json!(5);
        plugin["preserveDefaultVlan"] = json!(false);
    }
    let network = Network::new(&lab, list(&lab, &plugin, &RANGES));
    let run = |program: &str, args: &[&str]| {
        let done = lab.host.within(|| std::process::Command::new(program).args(args).status().unwrap());
        assert!(done.success(), "{program} {args:?}");
    };
    let delete = |delete: fn(&str) -> dyad_nft::Result<()>| {
        for name in lab.tables("dyad-") {
            lab.host.within(|| delete(&name).unwrap());
        }
    };
    type Change<'a> = Box<dyn Fn(&str) + 'a>;
    let mut changes: Vec<(&str, Change<'_>)> = vec![
        (
            "has not hairpinMode",
            Box::new(|name| run("bridge", &["link", "set", "dev", name, "hairpin", "off"])),
        ),
        (
            "has not portIsolation",
            Box::new(|name| run("bridge", &["link", "set", "dev", name, "isolated", "off"])),
        ),
        ("is no port of br5", Box::new(|name| run("ip", &["link", "set", name, "nomaster"]))),
        ("dyad-mac-", Box::new(|_| delete(dyad_nft::guard::delete))),
        ("dyad-masq-", Box::new(|_| delete(dyad_nft::nat::delete))),
    ];
    if plugin["vlan"] == 5 {
        let leave = |name: &str| run("bridge", &["vlan", "del", "dev", name, "vid", "5"]);
        changes.push(("is not in VLAN 5", Box::new(leave)));
    }
    for (text, change) in changes {
        let container = lab.container();
        let result = network.add("a", &container).unwrap();
        network.check("a", &container).unwrap();
        let name = result["interfaces"][1]["name"].as_str().unwrap();
        change(name);
        let error = network.check("a", &container).unwrap_err();
        assert!(error["msg"].as_str().unwrap().contains(text), "{error}");
        network.del("a", &container.path).unwrap();
    }
}
