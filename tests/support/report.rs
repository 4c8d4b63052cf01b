//! What `dyad connectivity test -o json` says.

#![allow(unreachable_pub, reason = "every test program has this module to itself")]

use serde_json::Value;

use crate::cluster::text;

/// Every connection of a report works, in these families.
pub fn assert_all_work(printed: &[u8], families: &[&str], what: &str) {
    let report: Value =
        serde_json::from_slice(printed).unwrap_or_else(|error| panic!("{what}: {error}: {}", text(printed)));
    assert_eq!(report["families"], serde_json::json!(families), "{what}");
    let rows = report["rows"].as_array().expect("rows");
    for title in [
        "pod to pod, same node",
        "pod to pod, other node",
        "pod to pod, other node, UDP",
        "pod to ClusterIP, other node",
        "pod to ClusterIP, other node, UDP",
        "pod to its own Service",
        "pod to NodePort of node2",
        "host to ClusterIP, other node",
        "host to NodePort of node2",
        "session affinity, 20 connections",
        "pod to LoadBalancer",
        "pod to external IP",
        "Service without endpoints refuses",
        "Service without endpoints refuses, UDP",
        "pod to host port of node2",
        "host to host port of node2",
        "host to NodePort of node2, source kept",
        "NetworkPolicy admits, same node",
        "NetworkPolicy blocks, same node",
        "NetworkPolicy admits, other node",
        "NetworkPolicy blocks, other node",
        "pod to API server",
        "egress to outside",
        "DNS, A of a Service",
        "DNS, AAAA of a Service",
        "DNS, SRV of a Service",
        "DNS, PTR of a Service",
        "DNS, headless Service",
        "DNS over TCP",
        "DNS, search path of the pod",
        "DNS, name outside",
    ] {
        let row = rows
            .iter()
            .find(|row| row["title"] == title)
            .unwrap_or_else(|| panic!("{what}: no row {title:?}"));
        let cells = row["cells"].as_array().expect("cells");
        assert_eq!(cells.len(), families.len(), "{what}: {title}: {row}");
        for cell in cells {
            assert!(cell["micros"].is_u64(), "{what}: {title}: {cell}");
        }
    }
    assert!(report["untested"].is_null(), "{what}: {}", report["untested"]);
}
