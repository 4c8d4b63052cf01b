//! `portmap` and `bandwidth` behind `bridge` and `ptp`, beside the reference plugins.

use std::net::{IpAddr, TcpListener};
use std::process::Command;

use serde_json::{Value, json};

use crate::lab::{
    Family, HOST, Lab, Namespace, Network, WORLD, bound, has_reference, ips, is_root, talk_at, talk_udp,
};

fn list(lab: &Lab, first: &str, more: &Value) -> Value {
    let ranges = json!([[{ "subnet": "10.5.0.0/24" }], [{ "subnet": "fd00:5::/64" }]]);
    let routes = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    let ipam = json!({ "type": "host-local", "dataDir": lab.data_dir(), "ranges": ranges, "routes": routes });
    let first =
        json!({ "type": first, "bridge": "br5", "isGateway": true, "hairpinMode": true, "ipam": ipam });
    json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [first, more] })
}

fn bare(address: &str) -> IpAddr {
    address.split_once('/').map_or(address, |(ip, _)| ip).parse().unwrap()
}

/// Who the container takes its callers for, or that they do not come through.
fn callers(lab: &Lab, a: &Namespace, port: u16) -> Vec<String> {
    let mut seen = Vec::new();
    for (index, host) in HOST.iter().enumerate() {
        let unspecified: IpAddr = if index == 0 { "0.0.0.0" } else { "::" }.parse().unwrap();
        let at = (unspecified, 8080).into();
        for (who, client) in [("world", &lab.world), ("host", &lab.host), ("itself", a)] {
            seen.push(format!("{who}: {}", talk_at(client, a, at, (bare(host), port).into())));
        }
    }
    seen.push(format!(
        "loopback: {}",
        talk_at(&lab.host, a, "0.0.0.0:8080".parse().unwrap(), ([127, 0, 0, 1], port).into())
    ));
    seen
}

#[test]
fn ports_lead_to_the_same_places_and_look_alike_there() {
    if !is_root() || !has_reference() {
        return;
    }
    let tell = |family: Family, first: &str, more: Value| {
        let lab = Lab::new(family);
        let mut portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        portmap.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut network = Network::new(&lab, list(&lab, first, &portmap));
        network.runtime.insert(
            "portMappings".into(),
            json!([
                { "hostPort": 80, "containerPort": 8080, "protocol": "tcp" },
                { "hostPort": 53, "containerPort": 5353, "protocol": "udp" },
                { "hostPort": 81, "containerPort": 8080, "protocol": "tcp", "hostIP": "192.0.2.1" },
            ]),
        );
        let a = lab.container();
        lab.world.route_to(&["10.5.0.0/24", "fd00:5::/64"], HOST);
        network.add("a", &a).unwrap();
        // The reference of Debian looks for IPv4 rules in the IPv6 table.
        if family == Family::Ours {
            network.check("a", &a).unwrap();
        }
        lab.host.settle();
        let mut seen = callers(&lab, &a, 80);
        for host in HOST {
            seen.push(format!("udp: {}", talk_udp(&lab.world, &a, 5353, (bare(host), 53).into())));
        }
        seen.push(format!(
            "one address: {}",
            talk_at(&lab.world, &a, "0.0.0.0:8080".parse().unwrap(), (bare(HOST[0]), 81).into())
        ));
        assert!(!lab.world.connects((bare(HOST[1]), 81).into()), "that is an address of the other family");
        network.del("a", &a.path).unwrap();
        network.del("a", &a.path).unwrap();
        assert!(!lab.world.connects((bare(HOST[0]), 80).into()));
        seen
    };
    for first in ["bridge", "ptp"] {
        assert_eq!(
            tell(Family::Ours, first, json!({})),
            tell(Family::Reference, first, json!({})),
            "{first}"
        );
    }
    // Newer than the reference of Debian: what it is for, then.
    let seen = tell(Family::Ours, "bridge", json!({ "masqAll": true }));
    assert_eq!((&*seen[0], &*seen[3]), ("world: 10.5.0.1", "world: fd00:5::1"));
}

#[test]
fn conditions_let_the_same_callers_through() {
    if !is_root() || !has_reference() {
        return;
    }
    // From the world, the host and the container itself; in IPv4, then in IPv6.
    let tell = |family: Family, conditions: &Value| {
        let lab = Lab::new(family);
        let mut portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        portmap.as_object_mut().unwrap().extend(conditions.as_object().unwrap().clone());
        let mut network = Network::new(&lab, list(&lab, "bridge", &portmap));
        network.runtime.insert(
            "portMappings".into(),
            json!([{ "hostPort": 80, "containerPort": 8080, "protocol": "tcp" }]),
        );
        let a = lab.container();
        lab.world.route_to(&["10.5.0.0/24", "fd00:5::/64"], HOST);
        let result = network.add("a", &a).unwrap();
        lab.host.settle();
        lab.world.settle();
        // Neighbours know each other, so that who does not come through is not merely late.
        for ip in ips(&result) {
            crate::lab::talk(&lab.world, &a, bare(ip));
            crate::lab::talk(&lab.host, &a, bare(ip));
        }
        let _server = a.within(|| bound(|| TcpListener::bind("[::]:8080")));
        let comes = |client: &Namespace, host: &str| client.connects((bare(host), 80).into());
        let seen = HOST.map(|host| [&lab.world, &lab.host, &a].map(|client| comes(client, host)));
        network.del("a", &a.path).unwrap();
        seen
    };
    let world = WORLD.map(|address| bare(address).to_string());
    let host = HOST.map(|address| bare(address).to_string());
    for (v4, v6, seen) in [
        (json!([]), json!([]), [[true; 3]; 2]),
        (json!(["!", "-s", world[0]]), json!(["-s", world[1]]), [[false, true, true], [true, false, false]]),
        (json!(["-i", "uplink"]), json!(["!", "-i", "up+"]), [[true, false, false], [false, true, true]]),
        (
            json!(["!", "-d", host[0]]),
            json!(["-d", host[1], "-i", "br5"]),
            [[false; 3], [false, false, true]],
        ),
    ] {
        let conditions = json!({ "conditionsV4": v4, "conditionsV6": v6 });
        assert_eq!(tell(Family::Ours, &conditions), seen, "{conditions}");
        assert_eq!(tell(Family::Reference, &conditions), seen, "of the reference: {conditions}");
    }
}

#[test]
fn a_flow_that_was_there_first_follows_the_port() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    let mut network = Network::new(&lab, list(&lab, "bridge", &portmap));
    network.runtime.insert(
        "portMappings".into(),
        json!([{ "HostPort": 53, "ContainerPort": 5353, "Protocol": "udp", "HostIP": "" }]),
    );
    for host in HOST {
        let socket = lab
            .world
            .within(|| std::net::UdpSocket::bind((bare(WORLD[usize::from(host.contains(':'))]), 0)).unwrap());
        crate::lab::talk(&lab.world, &lab.host, bare(host));
        // Nobody is there: the flow begins as one to the host itself.
        socket.send_to(b"early", (bare(host), 53)).unwrap();
        let a = lab.container();
        let id = format!("c{}", host.len());
        network.add(&id, &a).unwrap();
        let unspecified: IpAddr = if host.contains(':') { "::" } else { "0.0.0.0" }.parse().unwrap();
        let server = a.within(|| std::net::UdpSocket::bind((unspecified, 5353)).unwrap());
        server.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        // An ICMP error of the early one may be told here.
        let _ = socket
            .send_to(b"late", (bare(host), 53))
            .or_else(|_| socket.send_to(b"late", (bare(host), 53)))
            .unwrap();
        // The early one may have waited for its neighbour so long that it comes here, too.
        let mut buffer = [0; 16];
        while server.recv_from(&mut buffer).unwrap().0 != b"late".len() {}
        network.del(&id, &a.path).unwrap();
    }
}

#[test]
fn what_portmap_cannot_do_is_said() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let a = lab.container();
    for (more, mappings, code, text) in [
        (json!({}), json!([{ "hostPort": 70000, "containerPort": 1 }]), 7, "hostPort: 70000 must be a port"),
        (json!({}), json!([{ "hostPort": 80 }]), 7, "containerPort: 0 must be a port"),
        (
            json!({}),
            json!([{ "hostPort": 80, "containerPort": 1, "protocol": "icmp" }]),
            7,
            "protocol: \"icmp\" must be tcp, udp or sctp",
        ),
        (
            json!({}),
            json!([{ "hostPort": 80, "containerPort": 1, "hostIP": "1.2.3" }]),
            7,
            "hostIP: \"1.2.3\"",
        ),
        (json!({ "conditionsV4": ["-m", "mark"] }), json!([]), 2, "conditionsV4[0]: \"-m\" is none"),
        (
            json!({ "conditionsV6": ["-s", "10.0.0.0/8"] }),
            json!([]),
            7,
            "conditionsV6[1]: \"10.0.0.0/8\" must be IPv6",
        ),
    ] {
        let mut portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        portmap.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let mut network = Network::new(&lab, list(&lab, "ptp", &portmap));
        network.runtime.insert("portMappings".into(), mappings);
        let error = network.add("a", &a).unwrap_err();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["msg"].as_str().unwrap().contains(text), "{error}");
        network.del("a", &a.path).unwrap_or_default();
        // As a runtime does, whose DEL ends at the plugin that refuses.
        let mut alone = Network::new(&lab, list(&lab, "ptp", &json!({ "type": "portmap" })));
        alone.args.clear();
        alone.del("a", &a.path).unwrap();
    }
}

#[test]
fn rates_are_limited_alike() {
    if !is_root() || !has_reference() {
        return;
    }
    let tell = |family: Family| {
        let lab = Lab::new(family);
        let bandwidth = json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } });
        let mut network = Network::new(&lab, list(&lab, "bridge", &bandwidth));
        network.runtime.insert("bandwidth".into(), json!({
            "ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 16_000_000, "egressBurst": 1_600_000,
        }));
        let a = lab.container();
        let result = network.add("a", &a).unwrap();
        network.check("a", &a).unwrap();
        let rules = lab.host.within(|| {
            let output = Command::new("tc").args(["qdisc", "show"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        });
        // Without names and handles, which differ from run to run.
        let mut limits: Vec<_> = rules
            .lines()
            .filter(|line| line.contains("tbf"))
            .map(|line| line.split_once(" rate ").unwrap().1.trim().to_owned())
            .collect();
        limits.sort();
        let ingress = rules.lines().filter(|line| line.contains("ingress")).count();
        // What it sends comes through.
        let talked =
            talk_at(&a, &lab.host, "10.5.0.1:9000".parse().unwrap(), "10.5.0.1:9000".parse().unwrap());
        let count = result["interfaces"].as_array().unwrap().len();
        network.del("a", &a.path).unwrap();
        network.del("a", &a.path).unwrap();
        let left: Vec<_> = lab.host.links().into_iter().filter(|name| name.starts_with("bwp")).collect();
        (limits, ingress, talked, count, left)
    };
    let (ours, theirs) = (tell(Family::Ours), tell(Family::Reference));
    assert_eq!(ours, theirs);
    assert_eq!(ours.0.len(), 2);
}
