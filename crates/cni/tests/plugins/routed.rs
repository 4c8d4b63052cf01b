//! The plugin `dyad`, by itself and with somebody at the socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Command;

use dyad_cni::{Version, wire};
use dyad_links::{Handle, pod};
use serde_json::{Value, json};

use crate::lab::{Family, HOST, Lab, Namespace, Network, WORLD, ips, is_root, talk};

const RANGES: [&str; 2] = ["10.244.1.0/24", "fd00:10:244:1::/64"];

fn list(lab: &Lab, version: &str, ranges: &[&str]) -> Value {
    let ranges: Vec<_> = ranges.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
    let socket = lab.dir.path().join("cni.sock");
    json!({
        "cniVersion": version,
        "name": "dyad",
        "plugins": [{ "type": "dyad", "socket": socket, "ipam": { "dataDir": lab.data_dir(), "ranges": ranges } }],
    })
}

#[test]
fn pods_talk_in_both_families_whichever_comes_first() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    for (ranges, version) in [
        (vec![RANGES[0], RANGES[1]], "1.1.0"),
        (vec![RANGES[1], RANGES[0]], "1.0.0"),
        (vec![RANGES[0]], "0.4.0"),
        (vec![RANGES[1]], "0.3.1"),
    ] {
        let network = Network::new(&lab, list(&lab, version, &ranges));
        let (a, b) = (lab.container(), lab.container());
        let result = network.add("a", &a).unwrap();
        let other = network.add("b", &b).unwrap();
        assert_eq!(result["cniVersion"], version);
        let first = ips(&result)[0];
        assert_eq!(
            first.starts_with("10."),
            ranges[0].starts_with("10."),
            "the first range's comes first: {result}"
        );
        assert_eq!(ips(&result).len(), ranges.len());
        for address in ips(&other) {
            let ip = address.split_once('/').unwrap().0;
            talk(&a, &b, ip.parse().unwrap());
            talk(&lab.host, &b, ip.parse().unwrap());
        }
        let mut wanted: Vec<_> = ips(&result).into_iter().map(str::to_owned).collect();
        wanted.sort();
        assert_eq!(a.addresses("eth0"), wanted);
        // Beyond the node, as far as somebody knows the way back.
        lab.world.route_to(&ranges, HOST);
        for to in WORLD.iter().filter(|to| ranges.iter().any(|range| range.contains(':') == to.contains(':')))
        {
            let source = talk(&a, &lab.world, to.split_once('/').unwrap().0.parse().unwrap());
            assert!(wanted.iter().any(|own| own.starts_with(&source.to_string())), "from {source}");
        }
        if version >= "0.4.0" {
            network.check("a", &a).unwrap();
        }
        for (id, container) in [("a", &a), ("b", &b)] {
            network.del(id, &container.path).unwrap();
            network.del(id, &container.path).unwrap();
        }
        assert!(network.noted().is_empty());
        assert_eq!(lab.host.links(), ["lo", "uplink"]);
        assert_eq!(a.links(), ["lo"]);
    }
}

#[test]
fn again_and_after_everything_is_gone() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let network = Network::new(&lab, list(&lab, "1.1.0", &RANGES));
    let a = lab.container();
    let first = network.add("a", &a).unwrap();
    assert_eq!(network.add("a", &a).unwrap(), first, "ADD twice repairs what is there");
    // Another link of the same pod, and one that was asked for.
    let mut other = Network::new(&lab, list(&lab, "1.1.0", &RANGES));
    other.args = "IgnoreUnknown=1;IP=10.244.1.99".into();
    assert_eq!(ips(&other.add_as("b", &lab.container().path, "net0").unwrap())[0], "10.244.1.99/32");
    // The namespace is gone, and with it the link: as after a reboot.
    let path = a.path.clone();
    drop(a);
    network.del("a", &path).unwrap();
    network.del("a", std::path::Path::new("")).unwrap();
    assert_eq!(network.noted().len(), 2, "those of b");
    let error =
        network.add("a", &Namespace { path, fd: lab.container().fd.try_clone().unwrap() }).unwrap_err();
    assert_eq!(error["code"], 3, "{error}");
    assert_eq!(network.noted().len(), 2, "what fails takes nothing");
    network.gc(&[]).unwrap();
    assert!(network.noted().is_empty());
    // A pod that lost its link is told by CHECK.
    let c = lab.container();
    network.add("c", &c).unwrap();
    network.gc(&["c"]).unwrap();
    network.check("c", &c).unwrap();
    // A network with another name has pods of its own.
    let mut named = list(&lab, "1.1.0", &["10.245.1.0/24"]);
    named["name"] = json!("another");
    let another = Network::new(&lab, named);
    let d = lab.container();
    another.add("d", &d).unwrap();
    network.gc(&["c"]).unwrap();
    another.check("d", &d).unwrap();
    another.gc(&[]).unwrap();
    assert!(another.noted().is_empty());
    network.check("c", &c).unwrap();
    c.within(|| Handle::open().unwrap().delete_link("eth0")).unwrap();
    let error = network.check("c", &c).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("eth0 of container c is not there"), "{error}");
    network.gc(&[]).unwrap();
    assert!(network.noted().is_empty());
}

#[test]
fn a_pod_takes_and_sends_no_more_than_it_may() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let mut conflist = list(&lab, "1.1.0", &RANGES);
    conflist["plugins"][0]["capabilities"] = json!({ "bandwidth": true });
    let mut network = Network::new(&lab, conflist);
    // As containerd writes it.
    network.runtime.insert(
        "bandwidth".into(),
        json!({ "ingressRate": 8_000_000, "ingressBurst": u32::MAX, "egressRate": 16_000_000, "egressBurst": u32::MAX }),
    );
    let before = lab.host.links();
    let limits = || {
        let output = lab.host.within(|| Command::new("tc").args(["qdisc", "show"]).output().unwrap());
        let text = String::from_utf8(output.stdout).unwrap();
        let mut rates: Vec<_> = text
            .lines()
            .filter_map(|line| Some(line.split_once(" rate ")?.1.split_once(' ')?.0.to_owned()))
            .collect();
        rates.sort();
        rates
    };
    let (a, b) = (lab.container(), lab.container());
    // Twice, as after a restart of the runtime.
    for _ in 0..2 {
        network.add("a", &a).unwrap();
        assert_eq!(limits(), ["16Mbit", "8Mbit"]);
        network.check("a", &a).unwrap();
    }
    let to_b = network.add("b", &b).unwrap();
    for address in ips(&to_b) {
        talk(&a, &b, address.split_once('/').unwrap().0.parse().unwrap());
    }
    assert!(
        pod::list(&mut lab.host.within(|| Handle::open().unwrap())).unwrap().iter().all(|pod| pod.is_limited)
    );
    lab.host.within(|| {
        let mut handle = Handle::open().unwrap();
        let limiters = handle.links().unwrap().into_iter().filter(|link| link.kind.as_deref() == Some("ifb"));
        for limiter in limiters.collect::<Vec<_>>() {
            handle.delete_link(&limiter.name).unwrap();
        }
        let name = pod::name("dyad/a/eth0");
        let done = Command::new("tc").args(["qdisc", "del", "dev", &name, "root"]).status().unwrap();
        assert!(done.success());
    });
    let error = network.check("a", &a).unwrap_err();
    assert!(error["msg"].as_str().unwrap().contains("what limits a is gone"), "{error}");
    network.add("a", &a).unwrap();
    for id in ["a", "b"] {
        network.del(id, &a.path).unwrap();
    }
    assert_eq!(lab.host.links(), before);

    network.add("a", &a).unwrap();
    lab.host.within(|| Handle::open().unwrap().delete_link(&pod::name("dyad/a/eth0")).unwrap());
    network.gc(&[]).unwrap();
    assert_eq!(lab.host.links(), before, "its link went by itself");

    network.runtime.insert("bandwidth".into(), json!({ "ingressRate": 7, "ingressBurst": 1 }));
    let error = network.add("a", &a).unwrap_err();
    assert!(
        error["msg"].as_str().unwrap().starts_with("runtimeConfig.bandwidth.ingressRate: 7 must be"),
        "{error}"
    );
    assert_eq!(lab.host.links(), before);
}

#[test]
fn what_cannot_be_done_leaves_nothing() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let a = lab.container();
    for (ranges, code, text) in [
        (&[][..], 11, "nobody listens at"),
        (&["10.244.1.0/24", "10.244.2.0/24"][..], 7, "one address of each family"),
        (&["10.244.1.5/24"][..], 7, "bits set beyond its length"),
    ] {
        let error = Network::new(&lab, list(&lab, "1.1.0", ranges)).add("a", &a).unwrap_err();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["msg"].as_str().unwrap().contains(text), "{error}");
    }
    let network = Network::new(&lab, list(&lab, "1.1.0", &["10.244.1.0/31", "fd00::/64"]));
    network.add("a", &a).unwrap();
    let b = lab.container();
    network.add("b", &b).unwrap();
    let error = network.add("c", &lab.container()).unwrap_err();
    assert_eq!(error["code"], 11, "{error}");
    assert_eq!(network.noted().len(), 4);
    // The host's own namespace is nobody's container.
    let host = Namespace { path: lab.host.path.clone(), fd: lab.host.fd.try_clone().unwrap() };
    let error = network.add("d", &host).unwrap_err();
    std::mem::forget(host);
    assert_eq!(error["code"], 4, "{error}");
    // A link of that name is there already.
    network.del("a", &a.path).unwrap();
    a.within(|| Handle::open().unwrap().add_bridge(&dyad_links::NewLink::named("eth0"))).unwrap();
    let error = network.add("a", &a).unwrap_err();
    assert_eq!(error["code"], 100, "{error}");
    assert_eq!(network.noted().len(), 2);
    assert_eq!(lab.host.links().len(), 3, "lo, uplink, and that of b");
}

/// Who is told that a node can't connect pods takes all of its pods out of Services.
#[test]
fn a_node_whose_agent_is_replaced_is_ready_all_the_same() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let network = Network::new(&lab, list(&lab, "1.1.0", &[]));
    let socket = lab.dir.path().join("cni.sock");
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(300));
            let listener = UnixListener::bind(&socket).unwrap();
            // The first one goes without an answer, as an agent does that is ended in the middle.
            drop(listener.accept().unwrap());
            let mut stream = listener.accept().unwrap().0;
            stream.read_to_end(&mut Vec::new()).unwrap();
            stream.write_all(&wire::encode_answer(&Ok(None))).unwrap();
        });
        let status = lab.run("dyad", &[("CNI_COMMAND", "STATUS")], &network.config_of_first(None));
        assert_eq!(status, Ok(Value::Null));
        server.join().unwrap();
    });
}

#[test]
fn the_agent_is_asked_where_there_is_one() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let network = Network::new(&lab, list(&lab, "1.0.0", &[]));
    let listener = UnixListener::bind(lab.dir.path().join("cni.sock")).unwrap();
    let (a, seen) = (lab.container(), std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            for _ in 0..4 {
                let mut stream = listener.accept().unwrap().0;
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).unwrap();
                let request = wire::decode_request(&bytes).unwrap();
                let count = seen.lock().unwrap().len();
                seen.lock().unwrap().push((request.command.as_str(), request.container_id.clone()));
                let answer = match count {
                    0 => Ok(Some(dyad_cni::CniResult::default().to_json(Version::V1_0_0))),
                    1 => Ok(None),
                    2 => Err(dyad_cni::CniError::new(dyad_cni::Code::TryAgainLater, "not yet")),
                    _ => return,
                };
                stream.write_all(&wire::encode_answer(&answer)).unwrap();
            }
        });
        assert_eq!(network.add("a", &a).unwrap(), json!({ "cniVersion": "1.0.0", "dns": {} }));
        network.del("a", &a.path).unwrap();
        let error = network.add("b", &a).unwrap_err();
        assert_eq!((&error["code"], &error["msg"]), (&json!(11), &json!("not yet")));
        let error = network.add("c", &a).unwrap_err();
        assert!(error["msg"].as_str().unwrap().contains("has gone without an answer"), "{error}");
        server.join().unwrap();
    });
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen[..2], [("ADD", "a".to_owned()), ("DEL", "a".to_owned())]);
    // It is there no more: what it made is still undone, by the plugin.
    drop(listener);
    network.del("a", &a.path).unwrap();
    assert!(lab.host.within(|| pod::list(&mut Handle::open().unwrap()).unwrap()).is_empty());
}
