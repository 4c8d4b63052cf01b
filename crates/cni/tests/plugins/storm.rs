//! Many at once, and killed at any moment: no address twice, nothing left over.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::lab::{Family, Lab, Namespace, Network, ips, is_root};

fn config(lab: &Lab, kind: &str) -> Value {
    let ranges = json!([[{ "subnet": "10.5.0.0/24" }], [{ "subnet": "fd00:5::/64" }]]);
    json!({
        "cniVersion": "1.1.0", "name": "net", "type": kind, "bridge": "br5", "isGateway": true, "ipMasq": true,
        "socket": lab.dir.path().join("none"),
        "ipam": { "type": "host-local", "dataDir": lab.data_dir(), "ranges": ranges },
    })
}

fn variables<'a>(command: &'a str, id: &'a str, netns: &'a str) -> [(&'a str, &'a str); 4] {
    [("CNI_COMMAND", command), ("CNI_CONTAINERID", id), ("CNI_NETNS", netns), ("CNI_IFNAME", "eth0")]
}

/// Links, tables and addresses of containers that are left on the host.
fn left(lab: &Lab) -> (Vec<String>, Vec<String>, usize) {
    let standing = ["lo", "uplink", "br5"];
    let links = lab.host.links().into_iter().filter(|name| !standing.contains(&&**name)).collect();
    let list = json!({ "cniVersion": "1.1.0", "name": "net", "plugins": [] });
    (links, lab.tables("dyad-"), Network::new(lab, list).noted().len())
}

#[test]
fn a_hundred_containers_come_and_go_at_once() {
    if !is_root() {
        return;
    }
    for kind in ["dyad", "bridge"] {
        let lab = Lab::new(Family::Ours);
        let config = config(&lab, kind);
        let containers: Vec<Namespace> = (0..100).map(|_| lab.container()).collect();
        let all = |command: &str| {
            let start = |(at, container): (usize, &Namespace)| {
                let (id, netns) = (format!("c{at}"), container.path.to_string_lossy().into_owned());
                lab.start(kind, &variables(command, &id, &netns), &config)
            };
            let children: Vec<_> = containers.iter().enumerate().map(start).collect();
            let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap());
            outputs.collect::<Vec<_>>()
        };
        let mut seen = BTreeSet::new();
        for (output, container) in all("ADD").iter().zip(&containers) {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{kind}: {text}");
            let result: Value = serde_json::from_str(&text).unwrap();
            let mut given: Vec<_> = ips(&result).into_iter().map(str::to_owned).collect();
            assert!(given.iter().all(|ip| seen.insert(ip.clone())), "{kind}: given twice: {result}");
            given.sort();
            assert_eq!(container.addresses("eth0"), given, "{kind}");
        }
        for output in all("DEL") {
            assert!(output.status.success(), "{kind}: {}", String::from_utf8_lossy(&output.stdout));
        }
        assert_eq!(left(&lab), (vec![], vec![], 0), "{kind}");
    }
}

#[test]
fn who_is_killed_anywhere_is_cleaned_up_by_the_next_call() {
    if !is_root() {
        return;
    }
    let mut rng = StdRng::seed_from_u64(8);
    for kind in ["dyad", "bridge", "ptp"] {
        let lab = Lab::new(Family::Ours);
        let config = config(&lab, kind);
        let containers: Vec<Namespace> = (0..4).map(|_| lab.container()).collect();
        for _ in 0..60 {
            let at = rng.random_range(0..containers.len());
            let (id, netns) = (format!("c{at}"), containers[at].path.to_string_lossy().into_owned());
            let command = if rng.random_bool(0.7) { "ADD" } else { "DEL" };
            let mut child = lab.start(kind, &variables(command, &id, &netns), &config);
            std::thread::sleep(Duration::from_micros(rng.random_range(0..12_000)));
            let _ = child.kill();
            child.wait().unwrap();
            if rng.random_bool(0.3) {
                // As a runtime does: whatever came of it, DEL, and then anew.
                lab.run(kind, &variables("DEL", &id, &netns), &config).unwrap();
                let result = lab.run(kind, &variables("ADD", &id, &netns), &config).unwrap();
                let mut given: Vec<_> = ips(&result).into_iter().map(str::to_owned).collect();
                given.sort();
                assert_eq!(containers[at].addresses("eth0"), given, "{kind}");
            }
        }
        // Half of them by DEL, the others as those that nobody knows any more.
        for (at, container) in containers.iter().enumerate().take(2) {
            let (id, netns) = (format!("c{at}"), container.path.to_string_lossy());
            lab.run(kind, &variables("DEL", &id, &netns), &config).unwrap();
        }
        let mut collect = config.clone();
        collect["cni.dev/valid-attachments"] = json!([]);
        lab.run(kind, &[("CNI_COMMAND", "GC")], &collect).unwrap();
        assert_eq!(left(&lab), (vec![], vec![], 0), "{kind}");
    }
}

#[test]
fn a_kernel_without_vlans_on_bridges_is_told_of_and_nothing_stays() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let mut config = config(&lab, "bridge");
    config["vlan"] = json!(100);
    let a = lab.container();
    let netns = a.path.to_string_lossy();
    match lab.run("bridge", &variables("ADD", "a", &netns), &config) {
        Ok(result) => {
            assert_eq!(lab.host.addresses("br5.100"), ["10.5.0.1/24", "fd00:5::1/64"], "{result}");
            assert!(lab.host.addresses("br5").is_empty());
            let ip = ips(&result)[0].split_once('/').unwrap().0.parse().unwrap();
            crate::lab::talk(&lab.host, &a, ip);
        }
        Err(error) => assert_eq!((&error["code"], left(&lab)), (&json!(100), (vec![], vec![], 0)), "{error}"),
    }
    lab.run("bridge", &variables("DEL", "a", &netns), &config).unwrap();
}
