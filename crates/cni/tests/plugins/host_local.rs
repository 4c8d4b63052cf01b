//! `host-local`: the same as the reference plugin, on the same files; and what must hold when a hundred come at once or
//! are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::lab::{Family, Lab, has_reference, ips, is_root};

fn config(lab: &Lab, name: &str, ranges: Value) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": name, "type": "bridge",
        "ipam": {
            "type": "host-local", "dataDir": lab.data_dir(), "ranges": ranges,
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "fd01::/16", "gw": "fd00::9" }],
        },
    })
}

fn run(lab: &Lab, command: &str, id: &str, config: &Value) -> Result<Value, Value> {
    let variables =
        [("CNI_COMMAND", command), ("CNI_CONTAINERID", id), ("CNI_NETNS", "/none"), ("CNI_IFNAME", "eth0")];
    lab.run("host-local", &variables, config)
}

/// What is on disk, by name.
fn files(lab: &Lab, name: &str) -> BTreeMap<String, String> {
    let Ok(entries) = std::fs::read_dir(lab.data_dir().join(name)) else { return BTreeMap::new() };
    let read = |entry: std::fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap())
    };
    entries.map(|entry| read(entry.unwrap())).collect()
}

#[test]
fn both_answer_and_note_the_same() {
    if !is_root() || !has_reference() {
        return;
    }
    let (ours, theirs) = (Lab::new(Family::Ours), Lab::new(Family::Reference));
    let lists = [
        json!([[{ "subnet": "10.1.0.0/29" }]]),
        json!([[{ "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.250", "gateway": "10.1.0.252" }], [{ "subnet": "fd00::/64" }]]),
        json!([[{ "subnet": "fd00::/124" }], [{ "subnet": "10.1.0.0/30" }, { "subnet": "10.2.0.0/30", "gateway": "10.2.0.2" }]]),
        json!([[{ "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.5", "rangeEnd": "10.1.0.5" }]]),
    ];
    let mut rng = StdRng::seed_from_u64(6);
    for (at, ranges) in lists.iter().enumerate() {
        let name = format!("net{at}");
        for step in 0..60 {
            let id = format!("c{}", rng.random_range(0..8));
            let command = if rng.random_bool(0.6) { "ADD" } else { "DEL" };
            let found =
                [&ours, &theirs].map(|lab| run(lab, command, &id, &config(lab, &name, ranges.clone())));
            match found {
                [Ok(ours), Ok(theirs)] => assert_eq!(ours, theirs, "{name} step {step}: {command} {id}"),
                [Err(_), Err(_)] => {}
                [ours, theirs] => {
                    panic!("{name} step {step}: {command} {id}: {ours:?}, but the reference {theirs:?}")
                }
            }
            // The reference makes the directory for a DEL, too.
            let noted = [&ours, &theirs].map(|lab| {
                let mut files = files(lab, &name);
                files.remove("lock");
                files
            });
            assert_eq!(noted[0], noted[1], "{name} step {step}: {command} {id}");
        }
    }
}

#[test]
fn either_takes_over_from_the_other() {
    if !is_root() || !has_reference() {
        return;
    }
    let (ours, theirs) = (Lab::new(Family::Ours), Lab::new(Family::Reference));
    let config = config(&ours, "net", json!([[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd00::/64" }]]));
    let mut seen = BTreeSet::new();
    for (at, lab) in [&theirs, &ours, &theirs, &ours].into_iter().enumerate() {
        let result = run(lab, "ADD", &format!("c{at}"), &config).unwrap();
        assert!(ips(&result).iter().all(|ip| seen.insert((*ip).to_owned())), "{result}");
    }
    for (at, lab) in [&ours, &theirs, &theirs, &ours].into_iter().enumerate() {
        run(lab, "DEL", &format!("c{at}"), &config).unwrap();
    }
    let left: Vec<_> = files(&ours, "net").into_keys().collect();
    assert_eq!(left, ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
}

#[test]
fn a_hundred_at_once_get_a_hundred_addresses() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let config = config(&lab, "net", json!([[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd00::/64" }]]));
    let all = |command: &str| {
        let start = |at: u32| {
            let id = format!("c{at}");
            let variables = [
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", &*id),
                ("CNI_NETNS", "/none"),
                ("CNI_IFNAME", "eth0"),
            ];
            lab.start("host-local", &variables, &config)
        };
        let children: Vec<_> = (0..100).map(start).collect();
        children.into_iter().map(|child| child.wait_with_output().unwrap()).collect::<Vec<_>>()
    };
    let mut seen = BTreeSet::new();
    for output in all("ADD") {
        assert!(output.status.success(), "{output:?}");
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(ips(&result).iter().all(|ip| seen.insert((*ip).to_owned())), "given twice: {result}");
    }
    assert_eq!(seen.len(), 200);
    assert!(all("DEL").iter().all(|output| output.status.success()));
    assert_eq!(files(&lab, "net").len(), 3);
}

#[test]
fn who_is_killed_leaves_no_address_that_is_nobodys() {
    if !is_root() {
        return;
    }
    let lab = Lab::new(Family::Ours);
    let config = config(&lab, "net", json!([[{ "subnet": "10.1.0.0/26" }], [{ "subnet": "fd00::/64" }]]));
    let mut rng = StdRng::seed_from_u64(7);
    for round in 0..200 {
        let id = format!("c{}", rng.random_range(0..10));
        let command = if rng.random_bool(0.7) { "ADD" } else { "DEL" };
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", &*id),
            ("CNI_NETNS", "/none"),
            ("CNI_IFNAME", "eth0"),
        ];
        let mut child = lab.start("host-local", &variables, &config);
        std::thread::sleep(Duration::from_micros(rng.random_range(0..2_500)));
        let _ = child.kill();
        child.wait().unwrap();
        for (name, text) in files(&lab, "net") {
            if name.parse::<std::net::IpAddr>().is_ok() {
                assert!(
                    text.starts_with('c') && text.ends_with("\r\neth0"),
                    "round {round}: {name}: {text:?}"
                );
            }
        }
    }
    // What runtimes do with containers that did not come to be: DEL. Then every address is there to be had.
    for at in 0..10 {
        run(&lab, "DEL", &format!("c{at}"), &config).unwrap();
    }
    let mut seen = BTreeSet::new();
    for at in 0..61 {
        let result = run(&lab, "ADD", &format!("d{at}"), &config).unwrap();
        assert!(ips(&result).iter().all(|ip| seen.insert((*ip).to_owned())));
    }
    assert_eq!(run(&lab, "ADD", "one-more", &config).unwrap_err()["code"], 11);
}
