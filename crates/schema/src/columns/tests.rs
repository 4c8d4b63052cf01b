use serde_json::json;

use super::*;
use crate::kinds::by_kind;

/// 2026-01-01T00:00:00Z.
const NEW_YEAR: i64 = 1_767_225_600;

/// Cells of an object made at new year, five minutes later, without its name and age.
fn shown(group: &str, kind: &str, mut object: Value) -> Vec<String> {
    let kind = by_kind(group, kind).unwrap();
    if object["metadata"].is_null() {
        object["metadata"] = json!({});
    }
    object["metadata"]["name"] = "x".into();
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    let cells = cells(kind, &object, NEW_YEAR + 300);
    assert_eq!(cells.len(), kind.columns.len());
    kind.columns
        .iter()
        .zip(cells)
        .filter(|(column, cell)| match column.name {
            "Name" => {
                assert_eq!(*cell, "x");
                false
            }
            "Age" => {
                assert_eq!(*cell, "5m");
                false
            }
            _ => true,
        })
        .map(|(column, cell)| match (column.cell_type, cell) {
            (CellType::Integer, Value::String(text)) => panic!("{} is {text:?}, not a number", column.name),
            (_, Value::String(text)) => text,
            (_, other) => other.to_string(),
        })
        .collect()
}

#[track_caller]
fn check(group: &str, kind: &str, object: Value, wanted: &[&str]) {
    assert_eq!(shown(group, kind, object), wanted);
}

#[test]
fn headings_are_those_of_kubernetes() {
    for (group, kind, wanted) in [
        ("", "Pod", "Name Ready Status Restarts Age | IP Node Nominated Node Readiness Gates"),
        ("", "Service", "Name Type Cluster-IP External-IP Port(s) Age | Selector"),
        (
            "",
            "Node",
            "Name Status Roles Age Version | Internal-IP External-IP OS-Image Kernel-Version Container-Runtime",
        ),
        ("", "Event", "Last Seen Type Reason Object Message | Subobject Source First Seen Count Name"),
        ("", "ServiceAccount", "Name Age |"),
        ("", "ConfigMap", "Name Data Age |"),
        ("", "Secret", "Name Type Data Age |"),
        ("", "Namespace", "Name Status Age |"),
        ("", "Endpoints", "Name Endpoints Age |"),
        ("apps", "Deployment", "Name Ready Up-to-date Available Age | Containers Images Selector"),
        ("apps", "ReplicaSet", "Name Desired Current Ready Age | Containers Images Selector"),
        (
            "apps",
            "DaemonSet",
            "Name Desired Current Ready Up-to-date Available Node Selector Age | Containers Images Selector",
        ),
        ("apps", "ControllerRevision", "Name Controller Revision Age |"),
        ("discovery.k8s.io", "EndpointSlice", "Name AddressType Ports Endpoints Age |"),
        ("coordination.k8s.io", "Lease", "Name Holder Age |"),
        ("networking.k8s.io", "Ingress", "Name Class Hosts Address Ports Age |"),
        ("networking.k8s.io", "IngressClass", "Name Controller Parameters Age |"),
        ("networking.k8s.io", "NetworkPolicy", "Name Pod-Selector Age |"),
        ("networking.k8s.io", "ServiceCIDR", "Name CIDRs Age |"),
        ("networking.k8s.io", "IPAddress", "Name ParentRef Age |"),
        ("rbac.authorization.k8s.io", "Role", "Name Created At |"),
        ("rbac.authorization.k8s.io", "RoleBinding", "Name Role Age | Users Groups ServiceAccounts"),
    ] {
        let columns = by_kind(group, kind).unwrap().columns;
        let of_priority = |priority| {
            let names =
                columns.iter().filter(move |column| column.priority == priority).map(|column| column.name);
            names.collect::<Vec<_>>().join(" ")
        };
        let headings = format!("{} | {}", of_priority(0), of_priority(1));
        assert_eq!(headings.trim_end(), wanted, "{kind}");
        assert_eq!(columns.iter().filter(|column| column.format == "name").count(), 1, "{kind}");
    }
}

#[test]
fn services_show_addresses_of_both_families() {
    let dual = json!({
        "spec": {"type": "NodePort", "clusterIPs": ["10.96.0.9", "fd00::9"], "selector": {"b": "2", "a": "1"},
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]},
    });
    check(
        "",
        "Service",
        dual,
        &["NodePort", "10.96.0.9,fd00::9", "<none>", "80:30080/TCP,53/UDP", "a=1,b=2"],
    );
    let headless = json!({"spec": {"type": "ClusterIP", "clusterIPs": ["None"], "externalIPs": ["1.2.3.4"]}});
    check("", "Service", headless, &["ClusterIP", "None", "1.2.3.4", "<none>", "<none>"]);
    let external = json!({"spec": {"type": "ExternalName", "externalName": "example.org"}});
    check("", "Service", external, &["ExternalName", "<none>", "example.org", "<none>", "<none>"]);
    let balanced = |ingress: Value| {
        json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["fd00::9"]},
            "status": {"loadBalancer": {"ingress": ingress}}})
    };
    check("", "Service", balanced(json!([])), &["LoadBalancer", "fd00::9", "<pending>", "<none>", "<none>"]);
    let ingress = json!([{"ip": "fd00:1::1"}, {"ip": "192.0.2.1"}, {"hostname": "lb.example"}]);
    check(
        "",
        "Service",
        balanced(ingress),
        &["LoadBalancer", "fd00::9", "192.0.2.1,fd00:1::1,lb.example", "<none>", "<none>"],
    );
}

#[test]
fn nodes_show_addresses_of_both_families() {
    let node = json!({
        "metadata": {"labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge",
            "node-role.kubernetes.io/control-plane": "", "other": "y"}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "False"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}, {"type": "Hostname", "address": "x"},
                {"type": "InternalIP", "address": "fd00::1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.0", "kernelVersion": "6.1", "architecture": "amd64"},
        },
    });
    check(
        "",
        "Node",
        node,
        &[
            "NotReady,SchedulingDisabled",
            "control-plane,edge,worker",
            "v1.36.0",
            "10.0.0.1,fd00::1",
            "<none>",
            "<unknown>",
            "6.1 (amd64)",
            "<unknown>",
        ],
    );
    assert_eq!(shown("", "Node", json!({}))[..3], ["Unknown", "<none>", ""]);
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(shown("", "Node", ready)[0], "Ready");
}

#[test]
fn endpoints_show_three_and_count_the_rest() {
    let endpoints = json!({"subsets": [{
        "addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::2"}], "ports": [{"port": 80}, {"port": 443}]}]});
    check("", "Endpoints", endpoints, &["10.0.0.1:80,[fd00::2]:80,10.0.0.1:443 + 1 more..."]);
    check("", "Endpoints", json!({}), &["<none>"]);
    let headless = json!({"subsets": [{"addresses": [{"ip": "fd00::2"}]}]});
    check("", "Endpoints", headless, &["fd00::2"]);
    let slice = json!({"addressType": "IPv6", "ports": [{"port": 80}, {"name": "any"}, {}],
        "endpoints": [{"addresses": ["fd00::1"]}, {"addresses": ["fd00::2"]}, {"addresses": ["fd00::3"]},
            {"addresses": ["fd00::4"]}, {"addresses": ["fd00::5"]}]});
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        slice,
        &["IPv6", "80,any,*", "fd00::1,fd00::2,fd00::3 + 2 more..."],
    );
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"addressType": "IPv4"}),
        &["IPv4", "<unset>", "<unset>"],
    );
}

#[test]
fn workloads_show_their_counts() {
    let template = json!({"spec": {"nodeSelector": {"disk": "ssd"},
        "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "j"}]}});
    let selector =
        json!({"matchLabels": {"app": "a"}, "matchExpressions": [{"key": "t", "operator": "Exists"}]});
    let deployment = json!({"spec": {"replicas": 3, "template": template, "selector": selector},
        "status": {"readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2}});
    check("apps", "Deployment", deployment, &["2/3", "1", "2", "a,b", "i,j", "app=a,t"]);
    let set =
        json!({"spec": {"replicas": 3, "template": template, "selector": {}}, "status": {"replicas": 2}});
    check("apps", "ReplicaSet", set, &["3", "2", "0", "a,b", "i,j", "<none>"]);
    let daemons = json!({"spec": {"template": template, "selector": selector},
        "status": {"desiredNumberScheduled": 5, "currentNumberScheduled": 4, "numberReady": 3,
            "updatedNumberScheduled": 2, "numberAvailable": 1}});
    check("apps", "DaemonSet", daemons, &["5", "4", "3", "2", "1", "disk=ssd", "a,b", "i,j", "app=a,t"]);
    let revision = json!({"revision": 7, "metadata": {"ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": true}]}});
    check("apps", "ControllerRevision", revision, &["daemonset.apps/d", "7"]);
}

#[test]
fn events_are_shown_alike_in_both_forms() {
    let core = json!({"type": "Warning", "reason": "Failed", "message": " no room \n", "count": 4,
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
        "source": {"component": "kubelet", "host": "n1"},
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:04:50Z"});
    let wanted =
        ["10s", "Warning", "Failed", "pod/p", "spec.containers{c}", "kubelet, n1", "no room", "5m", "4"];
    check("", "Event", core.clone(), &wanted);
    let view = by_kind("events.k8s.io", "Event").unwrap().view.unwrap();
    let mut newer = core;
    (view.from_stored)(&mut newer);
    check("events.k8s.io", "Event", newer, &wanted);
    let series = json!({"eventTime": "2026-01-01T00:00:00.000000Z", "firstTimestamp": null, "lastTimestamp": null,
        "regarding": {"kind": "Node"}, "reportingController": "c", "reportingInstance": "i",
        "series": {"count": 9, "lastObservedTime": "2026-01-01T00:04:59.000000Z"}});
    check("events.k8s.io", "Event", series, &["1s", "", "", "node", "", "c, i", "", "5m", "9"]);
    let single = json!({"eventTime": "2026-01-01T00:00:00.000000Z"});
    check("", "Event", single, &["5m", "", "", "", "", "", "", "5m", "1"]);
}

#[test]
fn ingresses_show_hosts_and_addresses_of_both_families() {
    let rules = |hosts: &[&str]| hosts.iter().map(|host| json!({"host": host})).collect::<Vec<_>>();
    let ingress = |hosts: &[&str]| {
        json!({"spec": {"ingressClassName": "c", "rules": rules(hosts), "tls": [{}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "fd00::1"}, {"ip": "192.0.2.1"}]}}})
    };
    let hosts = |names: &[&str]| shown("networking.k8s.io", "Ingress", ingress(names))[1].clone();
    assert_eq!(hosts(&[]), "*");
    assert_eq!(hosts(&["a", "", "b"]), "a,b");
    assert_eq!(hosts(&["a", "b", "c"]), "a,b,c");
    assert_eq!(hosts(&["a", "b", "c", "d", "e"]), "a,b,c + 2 more...");
    check("networking.k8s.io", "Ingress", ingress(&["a"]), &["c", "a", "192.0.2.1,fd00::1", "80, 443"]);
    let class =
        json!({"spec": {"controller": "dyad", "parameters": {"apiGroup": "g", "kind": "K", "name": "n"}}});
    check("networking.k8s.io", "IngressClass", class, &["dyad", "K.g/n"]);
    let default = json!({"metadata": {"name": "x",
        "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}});
    assert_eq!(cells(by_kind("networking.k8s.io", "IngressClass").unwrap(), &default, 0)[0], "x (default)");
}

#[test]
fn the_small_kinds() {
    check("", "Namespace", json!({"status": {"phase": "Terminating"}}), &["Terminating"]);
    check("", "ConfigMap", json!({"data": {"a": "", "b": ""}, "binaryData": {"c": ""}}), &["3"]);
    check("", "Secret", json!({"type": "Opaque", "data": {"a": ""}}), &["Opaque", "1"]);
    check("", "ServiceAccount", json!({}), &[]);
    check("coordination.k8s.io", "Lease", json!({"spec": {"holderIdentity": "me"}}), &["me"]);
    let range = json!({"spec": {"cidrs": ["10.96.0.0/16", "fd00::/112"]}});
    check("networking.k8s.io", "ServiceCIDR", range, &["10.96.0.0/16,fd00::/112"]);
    let address = json!({"spec": {"parentRef": {"resource": "services", "namespace": "a", "name": "s"}}});
    check("networking.k8s.io", "IPAddress", address, &["services/a/s"]);
    let policy = json!({"spec": {"podSelector": {}}});
    check("networking.k8s.io", "NetworkPolicy", policy, &["<none>"]);
    check("rbac.authorization.k8s.io", "ClusterRole", json!({}), &["2026-01-01T00:00:00Z"]);
    let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "admin"}, "subjects": [
        {"kind": "User", "name": "u"}, {"kind": "User", "name": "v"}, {"kind": "Group", "name": "g"},
        {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]});
    check("rbac.authorization.k8s.io", "RoleBinding", binding, &["ClusterRole/admin", "u, v", "g", "n/s"]);
}

#[test]
fn nothing_is_assumed_of_the_form_of_an_object() {
    for kind in crate::kinds::all() {
        for odd in [json!(null), json!({}), json!({"metadata": 1, "spec": [], "status": "x"}), json!([1])] {
            assert_eq!(cells(kind, &odd, 0).len(), kind.columns.len());
        }
    }
}

#[test]
fn j14_tables_carry_as_much_of_the_object_as_asked_for() {
    let kind = by_kind("", "ConfigMap").unwrap();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"},
        "metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"}});
    let options = |include, headers| TableOptions { include, headers, now: NEW_YEAR };
    let metadata = json!({"resourceVersion": "7"});
    let whole = table(kind, [&object], metadata.clone(), options(IncludeObject::Object, true));
    assert_eq!(
        whole["columnDefinitions"][1],
        json!({"name": "Data", "type": "string", "format": "", "priority": 0,
            "description": "How many entries it has."})
    );
    assert_eq!(whole["rows"], json!([{"cells": ["x", 1, "0s"], "object": object}]));
    assert_eq!(
        (&whole["kind"], &whole["apiVersion"], &whole["metadata"]),
        (&json!("Table"), &json!("meta.k8s.io/v1"), &metadata)
    );
    let row = |include| row(kind, &object, options(include, false))["object"].clone();
    assert_eq!(row(IncludeObject::None), Value::Null);
    assert_eq!(
        row(IncludeObject::Metadata),
        json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]})
    );
    let later = table(kind, [&object], metadata, options(IncludeObject::None, false));
    assert_eq!(later["columnDefinitions"], Value::Null);
}

#[test]
fn j14_include_object_is_checked() {
    assert_eq!(IncludeObject::parse(""), Ok(IncludeObject::Metadata));
    assert_eq!(IncludeObject::parse("None"), Ok(IncludeObject::None));
    assert!(IncludeObject::parse("all").unwrap_err().contains("includeObject: Invalid value: \"all\""));
}
