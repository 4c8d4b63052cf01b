//! CNI plugins of others, for nodes that bring no network along.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test program has this module to itself and uses what it needs of it"
)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cluster::Cluster;

/// The plugins that are needed, and where they may be.
const PLUGINS: [&str; 3] = ["ptp", "host-local", "portmap"];
const PLACES: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Where they are; says loudly if they are nowhere.
pub fn find() -> Option<PathBuf> {
    let own = std::env::var_os("DYAD_CNI_PLUGINS").map(PathBuf::from);
    let mut places = own.into_iter().chain(PLACES.iter().map(PathBuf::from));
    let found = places.find(|dir| PLUGINS.iter().all(|name| dir.join(name).is_file()));
    if found.is_none() {
        eprintln!("SKIPPED: no {} in {} or DYAD_CNI_PLUGINS", PLUGINS.join(", "), PLACES.join(", "));
    }
    found
}

/// The directories that a node has in place of the machine's.
pub fn root(cluster: &Cluster, node: &str) -> PathBuf {
    cluster.dir().join("nodes").join(node).join("root")
}

/// A list of texts.
pub fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

/// Puts the plugins and a configuration with the node's ranges where the node looks for them.
pub fn plug(cluster: &Cluster, node: &str, plugins: &Path, mtu: u32) {
    let (bin, conf) = (root(cluster, node).join("opt/cni/bin"), root(cluster, node).join("etc/cni/net.d"));
    for dir in [&bin, &conf] {
        fs::create_dir_all(dir).expect("a directory of the node");
    }
    for name in PLUGINS {
        fs::copy(plugins.join(name), bin.join(name)).expect("a plugin can be copied");
    }
    let ranges = texts(&cluster.get(&["node", node])["spec"]["podCIDRs"]);
    let ranges: Vec<Value> = ranges.into_iter().map(|range| json!([{"subnet": range}])).collect();
    let list = json!({"cniVersion": "0.4.0", "name": "test", "plugins": [
        {"type": "ptp", "mtu": mtu, "ipam": {"type": "host-local", "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]});
    let new = conf.join("new");
    fs::write(&new, list.to_string()).expect("a file of the node");
    fs::rename(new, conf.join("10-test.conflist")).expect("a file of the node");
}
