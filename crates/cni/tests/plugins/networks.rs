//! `ptp` and `bridge` beside the reference plugins: the same lists give the same results, the same state of the kernel,
//! and packets that go the same ways.

use serde_json::{Value, json};

use crate::lab::{Family, HOST, Lab, Namespace, Network, WORLD, has_reference, ips, is_root, talk};

pub(crate) const RANGES: [&str; 2] = ["10.5.0.0/24", "fd00:5::/64"];

pub(crate) fn list(lab: &Lab, more: &Value, ranges: &[&str]) -> Value {
    let mut plugin = more.as_object().unwrap().clone();
    if !ranges.is_empty() {
        let routes = plugin.remove("routes").unwrap_or_else(|| json!([]));
        let ranges: Vec<_> = ranges.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
        let ipam =
            json!({ "type": "host-local", "dataDir": lab.data_dir(), "ranges": ranges, "routes": routes });
        plugin.insert("ipam".into(), ipam);
    }
    json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [plugin] })
}

/// The result with what differs from run to run left out.
pub(crate) fn plain(result: &Value) -> Value {
    let mut result = result.clone();
    for interface in result["interfaces"].as_array_mut().into_iter().flatten() {
        for key in ["mac", "sandbox"] {
            if let Some(value) = interface.get_mut(key) {
                *value = json!("some");
            }
        }
        if interface["name"].as_str().unwrap().starts_with("veth") {
            interface["name"] = json!("veth");
        }
    }
    result
}

/// What there is: links by kind, addresses and routes of host and container.
fn state(lab: &Lab, container: &Namespace) -> Value {
    let links: Vec<_> = lab
        .host
        .links()
        .into_iter()
        .map(|name| if name.starts_with("veth") { "veth".into() } else { name })
        .collect();
    let veth = lab.host.links().into_iter().find(|name| name.starts_with("veth")).unwrap_or_default();
    let mtu = container.within(|| {
        let link = dyad_links::Handle::open().unwrap().link("eth0").unwrap();
        link.map(|link| (link.mtu, link.up))
    });
    json!({
        "links": links,
        "of the bridge": lab.host.addresses("br5"),
        "of the veth": lab.host.addresses(&veth),
        "of the container": container.addresses("eth0"),
        "mtu": format!("{mtu:?}"),
        "routes of the host": lab.host.routes(),
        "routes of the container": container.routes(),
    })
}

/// Everything that is to be seen of a list of plugins from the first ADD to the last DEL.
fn history(family: Family, more: &Value, ranges: &[&str]) -> Vec<Value> {
    let lab = Lab::new(family);
    let network = Network::new(&lab, list(&lab, more, ranges));
    let (a, b) = (lab.container(), lab.container());
    let mut seen = Vec::new();
    let first = network.add("a", &a).unwrap();
    seen.push(plain(&first));
    seen.push(state(&lab, &a));
    // The reference of Debian checks the addresses of a list without any.
    if family == Family::Ours || !ranges.is_empty() {
        network.check("a", &a).unwrap();
    }
    // Twice is once too often, and changes nothing.
    network.add("a", &a).unwrap_err();
    seen.push(state(&lab, &a));
    let second = network.add("b", &b).unwrap();
    lab.world.route_to(ranges, HOST);
    // The reference has the kernel look for duplicates of addresses, which are no sources until then.
    lab.host.settle();
    for ip in second["ips"].as_array().into_iter().flatten() {
        let ip = ip["address"].as_str().unwrap().split_once('/').unwrap().0.parse().unwrap();
        seen.push(json!({ "from a to b": talk(&a, &b, ip).to_string() }));
        seen.push(json!({ "from the host to b": talk(&lab.host, &b, ip).to_string() }));
        let to = WORLD.iter().map(|to| to.split_once('/').unwrap().0.parse().unwrap());
        let to = to.into_iter().find(|to: &std::net::IpAddr| to.is_ipv4() == ip.is_ipv4()).unwrap();
        let has_default = a.routes().iter().any(|route| {
            route.starts_with("0.0.0.0/0") && ip.is_ipv4() || route.starts_with("::/0") && ip.is_ipv6()
        });
        if has_default {
            seen.push(json!({ "from b to the world": talk(&b, &lab.world, to).to_string() }));
        }
    }
    let path = b.path.clone();
    drop(b);
    network.del("b", &path).unwrap();
    network.del("b", &path).unwrap();
    // The reference leaves the link to the kernel, which removes it with the namespace, sooner or later.
    lab.host.wait_for(|host| host.links().iter().filter(|name| name.starts_with("veth")).count() == 1);
    seen.push(state(&lab, &a));
    network.del("a", &a.path).unwrap();
    network.del("a", &a.path).unwrap();
    seen.push(state(&lab, &a));
    seen.push(json!(network.noted()));
    let error = network.add_as("c", &path, "eth0").unwrap_err();
    assert!(error["code"].as_u64().unwrap() > 0, "{error}");
    seen.push(json!(network.noted()));
    seen
}

#[test]
fn both_make_the_same_of_the_same_lists() {
    if !is_root() || !has_reference() {
        return;
    }
    let defaults = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    let cases = [
        (
            "ptp",
            json!({ "type": "ptp", "ipMasq": true, "mtu": 1400, "routes": defaults }),
            vec![RANGES[0], RANGES[1]],
        ),
        (
            "ptp, IPv6 first",
            json!({ "type": "ptp", "routes": defaults, "dns": { "nameservers": ["10.0.0.10"] } }),
            vec![RANGES[1], RANGES[0]],
        ),
        (
            "ptp, IPv4",
            json!({ "type": "ptp", "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "10.77.0.0/16", "gw": "10.5.0.1" }] }),
            vec![RANGES[0]],
        ),
        (
            "bridge",
            json!({ "type": "bridge", "bridge": "br5", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true }),
            vec![RANGES[0], RANGES[1]],
        ),
        (
            "bridge, IPv6",
            json!({ "type": "bridge", "bridge": "br5", "isGateway": true, "routes": [{ "dst": "::/0" }] }),
            vec![RANGES[1]],
        ),
        (
            "bridge, promiscuous",
            json!({ "type": "bridge", "bridge": "br5", "isGateway": true, "promiscMode": true, "mtu": 1300, "routes": defaults }),
            vec![RANGES[0], RANGES[1]],
        ),
        ("bridge without addresses", json!({ "type": "bridge", "bridge": "br5" }), vec![]),
    ];
    for (name, plugin, ranges) in cases {
        let found = [Family::Ours, Family::Reference].map(|family| history(family, &plugin, &ranges));
        for (ours, theirs) in found[0].iter().zip(&found[1]) {
            assert_eq!(ours, theirs, "{name}");
        }
        assert_eq!(found[0].len(), found[1].len(), "{name}");
    }
}

#[test]
fn a_bridge_keeps_its_address_unless_it_is_told_not_to() {
    if !is_root() || !has_reference() {
        return;
    }
    let tell = |family: Family, force: bool| {
        let lab = Lab::new(family);
        let bridge = json!({ "type": "bridge", "bridge": "br5", "isGateway": true, "forceAddress": force });
        let (a, b) = (lab.container(), lab.container());
        Network::new(&lab, list(&lab, &bridge, &[RANGES[0]])).add("a", &a).unwrap();
        let mut other = list(&lab, &bridge, &["10.6.0.0/24"]);
        other["name"] = json!("other");
        let other = Network::new(&lab, other);
        let done = other.add("b", &b).is_ok();
        // The reference leaves what it had made of the container until then.
        let made = done.then(|| b.addresses("eth0"));
        (done, lab.host.addresses("br5"), other.noted().len(), made)
    };
    for force in [false, true] {
        assert_eq!(tell(Family::Ours, force), tell(Family::Reference, force), "forceAddress {force}");
    }
}

#[test]
fn who_gets_an_address_that_others_remember_tells_them() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let bridge = json!({ "type": "bridge", "bridge": "br5", "isGateway": true });
    let network = Network::new(&lab, list(&lab, &bridge, &RANGES));
    let mut narrow = list(&lab, &bridge, &[]);
    let single = |net: &str, ip: &str| json!([{ "subnet": net, "rangeStart": ip, "rangeEnd": ip }]);
    let ranges = json!([single(RANGES[0], "10.5.0.99"), single(RANGES[1], "fd00:5::99")]);
    narrow["name"] = json!("narrow");
    narrow["plugins"][0]["ipam"] =
        json!({ "type": "host-local", "dataDir": lab.data_dir(), "ranges": ranges });
    let narrow = Network::new(&lab, narrow);
    let (a, b, c) = (lab.container(), lab.container(), lab.container());
    network.add("a", &a).unwrap();
    narrow.add("b", &b).unwrap();
    for ip in ["10.5.0.99", "fd00:5::99"] {
        talk(&a, &b, ip.parse().unwrap());
    }
    narrow.del("b", &b.path).unwrap();
    let result = narrow.add("c", &c).unwrap();
    let mac = result["interfaces"][2]["mac"].as_str().unwrap();
    // Nothing is sent to them meanwhile: they learn it from what they are told, or not at all.
    for ip in ["10.5.0.99", "fd00:5::99"] {
        a.wait_for(|a| {
            let output =
                a.within(|| std::process::Command::new("ip").args(["neigh", "show", ip]).output().unwrap());
            String::from_utf8_lossy(&output.stdout).contains(mac)
        });
        talk(&a, &c, ip.parse().unwrap());
    }
    let notify = c.within(|| dyad_links::sysctl::read("net/ipv4/conf/eth0/arp_notify").unwrap());
    assert_eq!(notify, "0", "as it was");
}

#[test]
fn what_the_reference_has_made_ours_unmakes() {
    if !is_root() || !has_reference() {
        return;
    }
    let (ours, theirs) = (Lab::new(Family::Ours), Lab::new(Family::Reference));
    for kind in ["ptp", "bridge"] {
        let plugin = json!({ "type": kind, "bridge": "br5", "isGateway": true });
        // Theirs makes it on its host; ours is called there.
        let network = Network::new(&theirs, list(&theirs, &plugin, &RANGES));
        let a = theirs.container();
        let result = network.add("a", &a).unwrap();
        assert_eq!(ips(&result).len(), 2);
        let mut config = network.config_of_first(Some(&result));
        config["cniVersion"] = json!("1.0.0");
        let netns = a.path.to_string_lossy();
        let variables = [
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "a"),
            ("CNI_NETNS", &*netns),
            ("CNI_IFNAME", "eth0"),
        ];
        ours.run_on(&theirs.host, kind, &variables, &config).unwrap();
        assert!(network.noted().is_empty());
        assert_eq!(a.links(), ["lo"]);
    }
}

#[test]
fn what_fails_is_undone_and_what_is_stale_collected() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let default = json!([{ "dst": "0.0.0.0/0", "gw": "192.0.2.77" }]);
    // A gateway that cannot be reached: the last thing that is made.
    for kind in ["ptp", "bridge"] {
        let plugin = json!({ "type": kind, "bridge": "br5", "ipMasq": true, "routes": default });
        let network = Network::new(&lab, list(&lab, &plugin, &[RANGES[0]]));
        let a = lab.container();
        let error = network.add("a", &a).unwrap_err();
        assert_eq!(error["code"], 100, "{error}");
        assert!(network.noted().is_empty(), "{kind}");
        assert_eq!(a.links(), ["lo"], "{kind}");
        assert!(!lab.host.links().iter().any(|name| name.starts_with("veth")), "{kind}");
    }
    let plugin = json!({ "type": "bridge", "bridge": "br5", "isGateway": true, "ipMasq": true });
    let mut conflist = list(&lab, &plugin, &RANGES);
    conflist["cniVersion"] = json!("1.1.0");
    let network = Network::new(&lab, conflist);
    let (a, b) = (lab.container(), lab.container());
    network.add("a", &a).unwrap();
    network.add("b", &b).unwrap();
    network.gc(&["b"]).unwrap();
    assert_eq!((a.links(), network.noted().len()), (vec!["lo".to_owned()], 2));
    network.check("b", &b).unwrap();
    assert_eq!(lab.tables("dyad-masq-").len(), 2, "one for each family of b");
    network.del("b", &b.path).unwrap();
    assert!(lab.tables("dyad-").is_empty());
    for (more, code, text) in [
        (json!({ "type": "bridge", "hairpinMode": true, "promiscMode": true }), 7, "hairpinMode: true"),
        (json!({ "type": "bridge", "vlan": 5000 }), 7, "vlan: 5000 must be a number from 1 to 4094"),
        (json!({ "type": "bridge", "bridge": "uplink" }), 7, "is a link already that is no bridge"),
        (json!({ "type": "ptp", "ipMasq": "yes" }), 7, "ipMasq: \"yes\" must be true or false"),
        (json!({ "type": "ptp", "ipMasqBackend": "pf" }), 7, "ipMasqBackend"),
    ] {
        let network = Network::new(&lab, list(&lab, &more, &RANGES));
        let error = network.add("a", &a).unwrap_err();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["msg"].as_str().unwrap().contains(text), "{error}");
        assert!(network.noted().is_empty(), "{error}");
    }
    let mut other = list(&lab, &plugin, &[]);
    other["plugins"][0]["ipam"] = json!({ "type": "no-such-plugin" });
    let error = Network::new(&lab, other).add("a", &a).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("ipam.type: \"no-such-plugin\""), "{error}");
}

#[test]
fn addresses_may_come_from_another_plugin() {
    if !is_root() || !has_reference() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    // The reference's `static`, beside ours.
    std::os::unix::fs::symlink("/usr/lib/cni/static", lab.dir.path().join("bin/static")).unwrap();
    let ipam = json!({ "type": "static", "addresses": [{ "address": "10.9.0.5/24", "gateway": "10.9.0.1" }, { "address": "fd00:9::5/64" }] });
    let list = json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [{ "type": "bridge", "bridge": "br5", "ipam": ipam }] });
    let network = Network::new(&lab, list);
    let a = lab.container();
    let result = network.add("a", &a).unwrap();
    assert_eq!(ips(&result), ["10.9.0.5/24", "fd00:9::5/64"]);
    assert_eq!(a.addresses("eth0"), ["10.9.0.5/24", "fd00:9::5/64"]);
    network.check("a", &a).unwrap();
    network.del("a", &a.path).unwrap();
}
