use proptest::prelude::*;

use super::*;

mod families;
mod topology;

fn service(spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": "s", "namespace": "n", "uid": "u", "labels": {"l": "1"}},
        "spec": {"selector": {"app": "a"}, "clusterIP": "10.96.0.1", "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{"name": "x", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        service["spec"][key] = value.clone();
    }
    service
}

fn pod(name: &str, ips: &[&str]) -> Value {
    let ips: Vec<Value> = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({"metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": "a"}},
        "spec": {"nodeName": "n0", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 9090, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIPs": ips, "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[key] = value;
    object
}

fn zones() -> Nodes {
    let node = |zone: &str| Node { zone: zone.to_owned(), ..Node::default() };
    [("n0".to_owned(), node("z0")), ("n1".to_owned(), node(""))].into_iter().collect()
}

/// A server that does what it is told: names, versions, and no opinions.
#[derive(Clone, Default)]
struct Slices {
    slices: Vec<Value>,
    named: usize,
}

impl Slices {
    fn apply(&mut self, changes: SliceChanges) {
        let name = |slice: &Value| wire::text(wire::at(slice, &["metadata"]), "name").to_owned();
        for slice in changes.delete {
            self.slices.retain(|old| name(old) != name(&slice));
        }
        for slice in changes.update {
            let position =
                self.slices.iter().position(|old| name(old) == name(&slice)).expect("updated slices exist");
            self.slices[position] = slice;
        }
        for mut slice in changes.create {
            self.named += 1;
            let generated = format!("{}{}", wire::text(&slice["metadata"], "generateName"), self.named);
            slice["metadata"]["name"] = generated.into();
            self.slices.push(slice);
        }
    }

    fn sync(&mut self, service: &Value, pods: &[Value], max: usize) -> SliceChanges {
        let changes = desired(service, pods, &zones(), &self.slices, None, max);
        self.apply(changes.clone());
        changes
    }

    fn addresses(&self, family: IpFamily) -> Vec<String> {
        let of_family = self.slices.iter().filter(|slice| slice["addressType"] == family.as_str());
        let mut addresses: Vec<String> = of_family
            .flat_map(|slice| wire::list(slice, "endpoints"))
            .map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned())
            .collect();
        addresses.sort_unstable();
        addresses
    }
}

#[test]
fn a_new_service_has_a_slice_per_family() {
    let mut slices = Slices::default();
    let changes = slices.sync(&service(json!({})), &[pod("p", &["10.7.0.1", "fd00:7::1"])], 100);
    assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (2, 0, 0), "E12");
    let wanted = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "s-1", "generateName": "s-", "namespace": "n",
            "labels": {"l": "1", SERVICE_NAME_LABEL: "s", MANAGED_BY_LABEL: CONTROLLER},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "s", "uid": "u", "controller": true,
                "blockOwnerDeletion": true}]},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.7.0.1"], "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": "n0", "zone": "z0", "targetRef": {"kind": "Pod", "namespace": "n", "name": "p", "uid": "p"}}],
        "ports": [{"name": "x", "port": 8080, "protocol": "TCP"}],
    });
    assert_eq!(slices.slices[0], wanted, "E15, E17, E22");
    assert!(slices.sync(&service(json!({})), &[pod("p", &["10.7.0.1", "fd00:7::1"])], 100).is_empty());
}

#[test]
fn which_services_have_slices() {
    let rows = [
        ("E10: no selector", json!({"selector": null}), 0),
        ("E10: empty selector", json!({"selector": {}}), 0),
        ("E10: external name", json!({"type": "ExternalName"}), 0),
        ("E11: listed families", json!({"ipFamilies": ["IPv6"]}), 1),
        ("E11: family of the address", json!({"ipFamilies": []}), 1),
        ("E11: headless without families", json!({"ipFamilies": [], "clusterIP": "None"}), 2),
    ];
    for (row, spec, count) in rows {
        let changes = desired(&service(spec), &[], &zones(), &[], None, 100);
        assert_eq!(changes.create.len(), count, "{row}");
    }
}

#[test]
fn conditions_of_endpoints() {
    let ready = pod("p", &["10.7.0.1"]);
    let not_ready = with(ready.clone(), "/status/conditions", json!([]));
    let terminating = with(ready.clone(), "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"));
    let rows = [
        ("E16: ready", &ready, false, json!([true, true, false])),
        ("E16: not ready", &not_ready, false, json!([false, false, false])),
        ("E16: published anyway", &not_ready, true, json!([true, false, false])),
        ("E16: terminating", &terminating, false, json!([false, true, true])),
        ("E16: terminating, published anyway", &terminating, true, json!([true, true, true])),
    ];
    for (row, pod, publish, wanted) in rows {
        let service = service(json!({"publishNotReadyAddresses": publish, "ipFamilies": ["IPv4"]}));
        let changes = desired(&service, std::slice::from_ref(pod), &zones(), &[], None, 100);
        let conditions = &changes.create[0]["endpoints"][0]["conditions"];
        let got = json!([conditions["ready"], conditions["serving"], conditions["terminating"]]);
        assert_eq!(got, wanted, "{row}");
    }
}

#[test]
fn which_pods_are_endpoints() {
    let plain = pod("p", &["10.7.0.1"]);
    let rows = [
        ("E14: finished", with(plain.clone(), "/status/phase", json!("Succeeded")), 0),
        ("E14: without address", pod("p", &[]), 0),
        ("E12: of the other family", pod("p", &["fd00::1"]), 0),
        ("not selected", with(plain.clone(), "/metadata/labels/app", json!("b")), 0),
        ("P7: spelt oddly", pod("p", &["010.7.0.1"]), 1),
        ("selected", plain.clone(), 1),
    ];
    for (row, pod, count) in rows {
        let changes = desired(&service(json!({"ipFamilies": ["IPv4"]})), &[pod], &zones(), &[], None, 100);
        assert_eq!(wire::list(&changes.create[0], "endpoints").len(), count, "{row}");
    }
    let lost = with(plain, "/spec/nodeName", json!("gone"));
    let changes = desired(&service(json!({})), std::slice::from_ref(&lost), &zones(), &[], None, 100);
    assert_eq!(changes.skipped, ["p"], "E14: unknown node");
    let published = service(json!({"publishNotReadyAddresses": true, "ipFamilies": ["IPv4"]}));
    let changes = desired(&published, &[lost], &zones(), &[], None, 100);
    assert_eq!((changes.skipped.len(), wire::list(&changes.create[0], "endpoints").len()), (0, 1), "E14");
}

#[test]
fn named_ports_resolve_per_pod() {
    let service = service(json!({"ipFamilies": ["IPv4"],
        "ports": [{"name": "x", "port": 80, "targetPort": "web", "protocol": "TCP", "appProtocol": "http"},
            {"name": "y", "port": 53, "targetPort": "web", "protocol": "UDP"}]}));
    let other = with(pod("q", &["10.7.0.2"]), "/spec/containers/0/ports/0/containerPort", json!(7070));
    let sidecar = with(
        with(pod("r", &["10.7.0.3"]), "/spec/containers/0/ports", json!([])),
        "/spec/initContainers",
        json!([{"name": "i", "restartPolicy": "Always", "ports": [{"name": "web", "containerPort": 9090}]}]),
    );
    let changes = desired(&service, &[pod("p", &["10.7.0.1"]), other, sidecar], &zones(), &[], None, 100);
    let mut got: Vec<(Value, usize)> = changes
        .create
        .iter()
        .map(|slice| (slice["ports"].clone(), wire::list(slice, "endpoints").len()))
        .collect();
    got.sort_by_key(|(ports, _)| ports[0]["port"].as_i64());
    let port = |number: i64| json!([{"name": "x", "port": number, "protocol": "TCP", "appProtocol": "http"}]);
    assert_eq!(got, [(port(7070), 1), (port(9090), 2)], "E17, E18: the port without a match is left out");
}

#[test]
fn headless_services_have_names() {
    let headless = service(json!({"clusterIP": "None", "ports": [], "ipFamilies": ["IPv4"]}));
    let mut named = with(pod("p", &["10.7.0.1"]), "/spec/hostname", json!("h"));
    named["spec"]["subdomain"] = json!("s");
    let changes = desired(&headless, &[named], &zones(), &[], None, 100);
    assert_eq!(changes.create[0]["endpoints"][0]["hostname"], "h", "E15");
    assert_eq!(changes.create[0]["metadata"]["labels"][HEADLESS_LABEL], "", "E22");
    assert_eq!(changes.create[0]["ports"], json!([]), "E17");
}

#[test]
fn hints_follow_the_traffic_distribution() {
    let rows = [
        ("E27", "PreferClose", json!({"forZones": [{"name": "z0"}]})),
        ("E27", "PreferSameZone", json!({"forZones": [{"name": "z0"}]})),
        ("E27", "PreferSameNode", json!({"forZones": [{"name": "z0"}], "forNodes": [{"name": "n0"}]})),
        ("E27: unset", "", Value::Null),
    ];
    for (row, distribution, wanted) in rows {
        let service = service(json!({"trafficDistribution": distribution, "ipFamilies": ["IPv4"]}));
        let changes = desired(&service, &[pod("p", &["10.7.0.1"])], &zones(), &[], None, 100);
        assert_eq!(
            wire::at(&changes.create[0]["endpoints"][0], &["hints"]),
            &wanted,
            "{row}: {distribution}"
        );
    }
    let service = service(json!({"trafficDistribution": "PreferSameNode", "ipFamilies": ["IPv4"]}));
    let no_zone = with(pod("p", &["10.7.0.1"]), "/spec/nodeName", json!("n1"));
    let changes = desired(&service, &[no_zone], &zones(), &[], None, 100);
    assert_eq!(
        changes.create[0]["endpoints"][0]["hints"],
        json!({"forNodes": [{"name": "n1"}]}),
        "E27: no zone"
    );
    let not_ready = with(pod("p", &["10.7.0.1"]), "/status/conditions", json!([]));
    let changes = desired(&service, &[not_ready], &zones(), &[], None, 100);
    assert!(changes.create[0]["endpoints"][0].get("hints").is_none(), "E27: ready endpoints only");
}

#[test]
fn placeholders_come_and_go() {
    let mut slices = Slices::default();
    let pods = [pod("p", &["10.7.0.1", "fd00:7::1"])];
    slices.sync(&service(json!({})), &[], 100);
    assert_eq!(slices.slices.len(), 2, "E20");
    assert!(slices.slices.iter().all(|slice| wire::list(slice, "ports").is_empty()), "E20");
    assert!(slices.sync(&service(json!({})), &[], 100).is_empty(), "E20: placeholders stay");
    let changes = slices.sync(&service(json!({})), &pods, 100);
    assert_eq!(
        (changes.create.len(), changes.update.len(), changes.delete.len()),
        (0, 2, 0),
        "E21: and are reused"
    );
    let changes = slices.sync(&service(json!({})), &[], 100);
    assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 2, 0), "E20, E21");
    assert!(slices.addresses(IpFamily::V4).is_empty());
}

#[test]
fn a_family_that_leaves_takes_its_slices_along() {
    let mut slices = Slices::default();
    let pods = [pod("p", &["10.7.0.1", "fd00:7::1"])];
    slices.sync(&service(json!({})), &pods, 100);
    let changes = slices.sync(&service(json!({"ipFamilies": ["IPv6"]})), &pods, 100);
    assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 0, 1), "E13");
    assert_eq!(changes.delete[0]["addressType"], "IPv4", "E13");
}

#[test]
fn others_slices_are_left_alone_or_replaced() {
    let mut slices = Slices::default();
    let pods = [pod("p", &["10.7.0.1"])];
    let service = service(json!({"ipFamilies": ["IPv4"]}));
    slices.sync(&service, &pods, 100);
    let theirs = with(
        slices.slices[0].clone(),
        "/metadata/labels/endpointslice.kubernetes.io~1managed-by",
        json!("x"),
    );
    let mut theirs = with(theirs, "/metadata/name", json!("theirs"));
    theirs["metadata"]["labels"][MANAGED_BY_LABEL] = json!("somebody");
    slices.slices.push(theirs);
    assert!(slices.sync(&service, &pods, 100).is_empty(), "E43: other keepers' slices");
    slices.slices[0]["metadata"]["ownerReferences"][0]["uid"] = json!("before");
    let changes = slices.sync(&service, &pods, 100);
    assert_eq!(
        (changes.create.len(), changes.update.len(), changes.delete.len()),
        (1, 0, 1),
        "E21: another Service's"
    );
}

#[test]
fn labels_are_those_of_the_service() {
    let mut slices = Slices::default();
    let mut service = service(json!({"ipFamilies": ["IPv4"]}));
    slices.sync(&service, &[pod("p", &["10.7.0.1"])], 100);
    service["metadata"]["labels"] = json!({"m": "2", MANAGED_BY_LABEL: "me"});
    let changes = slices.sync(&service, &[pod("p", &["10.7.0.1"])], 100);
    let wanted = json!({"m": "2", SERVICE_NAME_LABEL: "s", MANAGED_BY_LABEL: CONTROLLER});
    assert_eq!(changes.update[0]["metadata"]["labels"], wanted, "E22: reserved ones are ignored");
}

#[test]
fn a_service_that_goes_gets_no_slices() {
    let service = with(service(json!({})), "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"));
    assert!(desired(&service, &[pod("p", &["10.7.0.1"])], &zones(), &[], None, 100).is_empty(), "E24");
}

#[test]
fn the_trigger_is_noted() {
    let mut slices = Slices::default();
    let service = service(json!({"ipFamilies": ["IPv4"]}));
    let time = "2026-01-01T00:00:00.5Z";
    let changes = desired(&service, &[pod("p", &["10.7.0.1"])], &zones(), &[], Some(time), 100);
    assert_eq!(changes.create[0]["metadata"]["annotations"][TRIGGER_ANNOTATION], time, "E23");
    slices.apply(changes);
    let not_ready = with(pod("p", &["10.7.0.1"]), "/status/conditions", json!([]));
    let changes = slices.sync(&service, &[not_ready], 100);
    assert!(changes.update[0]["metadata"].get("annotations").is_none(), "E23: removed without a new trigger");
}

#[test]
fn packing_prefers_few_writes() {
    let pods = |range: std::ops::Range<usize>| -> Vec<Value> {
        range.map(|index| pod(&format!("p{index:03}"), &[&format!("10.7.1.{index}")])).collect()
    };
    let service = service(json!({"ipFamilies": ["IPv4"]}));
    let counts = |changes: &SliceChanges| (changes.create.len(), changes.update.len(), changes.delete.len());
    let mut slices = Slices::default();
    assert_eq!(counts(&slices.sync(&service, &pods(0..25), 10)), (3, 0, 0), "E19: 10, 10 and 5");
    assert_eq!(counts(&slices.sync(&service, &pods(0..28), 10)), (0, 1, 0), "E19: three more fit one slice");
    assert_eq!(
        counts(&slices.sync(&service, &pods(0..33), 10)),
        (1, 0, 0),
        "E19: five do not fit, so a new slice"
    );
    let mut fewer = pods(0..33);
    fewer.remove(0);
    fewer.remove(15);
    assert_eq!(counts(&slices.sync(&service, &fewer, 10)), (0, 2, 0), "E19: one gone from each of two");
    fewer.extend(pods(40..42));
    fewer.remove(1);
    assert_eq!(
        counts(&slices.sync(&service, &fewer, 10)),
        (0, 1, 0),
        "E19: what is written anyway is filled"
    );
}

fn endpoints_of(service: &Value, pods: &[Value]) -> Value {
    endpoints(service, pods, None, None).unwrap()
}

#[test]
fn endpoints_are_of_the_first_family() {
    let pods = [pod("p", &["10.7.0.1", "fd00:7::1"]), pod("q", &["10.7.0.2"])];
    let object = endpoints_of(&service(json!({"ipFamilies": ["IPv6", "IPv4"]})), &pods);
    let wanted = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "s", "namespace": "n", "labels": {"l": "1", "endpoints.kubernetes.io/managed-by": "endpoint-controller"}},
        "subsets": [{"addresses": [{"ip": "fd00:7::1", "nodeName": "n0",
                "targetRef": {"kind": "Pod", "namespace": "n", "name": "p", "uid": "p"}}],
            "ports": [{"name": "x", "port": 8080, "protocol": "TCP"}]}]});
    assert_eq!(object, wanted, "E60, E64");
    assert_eq!(
        endpoints(&service(json!({"ipFamilies": ["IPv6", "IPv4"]})), &pods, Some(&object), None),
        None
    );
}

#[test]
fn endpoints_of_pods_that_are_not_well() {
    let not_ready = with(pod("p", &["10.7.0.1"]), "/status/conditions", json!([]));
    let gone = with(pod("q", &["10.7.0.2"]), "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"));
    let pods = [not_ready, gone, pod("r", &["10.7.0.3"])];
    let ips = |object: &Value, list: &str| -> Vec<String> {
        let subsets = wire::list(object, "subsets").iter();
        subsets
            .flat_map(|subset| wire::list(subset, list))
            .map(|address| wire::text(address, "ip").to_owned())
            .collect()
    };
    let object = endpoints_of(&service(json!({})), &pods);
    assert_eq!(
        (ips(&object, "addresses"), ips(&object, "notReadyAddresses")),
        (vec!["10.7.0.3".into()], vec!["10.7.0.1".into()]),
        "E61"
    );
    let object = endpoints_of(&service(json!({"publishNotReadyAddresses": true})), &pods);
    assert_eq!(ips(&object, "addresses"), ["10.7.0.1", "10.7.0.2", "10.7.0.3"], "E61");
}

#[test]
fn subsets_share_ports() {
    let two_ports =
        service(json!({"ports": [{"name": "x", "port": 80, "targetPort": "web", "protocol": "TCP"},
        {"name": "y", "port": 81, "targetPort": 81, "protocol": "TCP"}]}));
    let bare = with(pod("q", &["10.7.0.2"]), "/spec/containers/0/ports", json!([]));
    let object = endpoints_of(&two_ports, &[pod("p", &["10.7.0.1"]), bare]);
    let mut subsets: Vec<(usize, Vec<&str>)> = wire::list(&object, "subsets")
        .iter()
        .map(|subset| {
            let ports = wire::list(subset, "ports").iter().map(|port| wire::text(port, "name")).collect();
            (wire::list(subset, "addresses").len(), ports)
        })
        .collect();
    subsets.sort_unstable();
    assert_eq!(subsets, [(1, vec!["x"]), (2, vec!["y"])], "E62");
    let headless = json!({"clusterIP": "None", "ports": [], "ipFamilies": ["IPv4"]});
    let object = endpoints_of(&service(headless), &[pod("p", &["10.7.0.1"])]);
    assert!(object["subsets"][0].get("ports").is_none(), "E62: headless without ports");
    assert_eq!(object["metadata"]["labels"][HEADLESS_LABEL], "", "E64");
}

#[test]
fn endpoints_are_cut_at_a_thousand() {
    let pods: Vec<Value> = (0..1200)
        .map(|index| {
            let pod = pod(&format!("p{index}"), &[&format!("10.7.{}.{}", index / 250, index % 250 + 1)]);
            if index < 700 { pod } else { with(pod, "/status/conditions", json!([])) }
        })
        .collect();
    let object = endpoints_of(&service(json!({})), &pods);
    let subset = &object["subsets"][0];
    assert_eq!(
        (wire::list(subset, "addresses").len(), wire::list(subset, "notReadyAddresses").len()),
        (700, 300),
        "E63"
    );
    assert_eq!(
        object["metadata"]["annotations"]["endpoints.kubernetes.io/over-capacity"], "truncated",
        "E63"
    );
    assert_eq!(endpoints(&service(json!({})), &pods, Some(&object), None), None, "E63: and stay so");
}

fn hand_made(subsets: Value) -> Value {
    json!({"metadata": {"name": "s", "namespace": "n", "uid": "e", "labels": {"l": "1"},
        "annotations": {"a": "b", TRIGGER_ANNOTATION: "t"}}, "subsets": subsets})
}

#[test]
fn hand_made_endpoints_are_mirrored() {
    let by_hand = service(json!({"selector": null}));
    let object = hand_made(
        json!([{"addresses": [{"ip": "10.7.0.1", "hostname": "h"}, {"ip": "fd00:7::1"}, {"ip": "x"}],
        "notReadyAddresses": [{"ip": "10.7.0.2"}], "ports": [{"port": 80, "protocol": "TCP"}]}]),
    );
    let mirrored = mirror(Some(&object), Some(&by_hand), &[]);
    assert_eq!((mirrored.changes.create.len(), mirrored.invalid, mirrored.surplus), (2, 1, 0), "E41");
    let slice = &mirrored.changes.create[0];
    assert_eq!(
        slice["endpoints"],
        json!([{"addresses": ["10.7.0.1"], "conditions": {"ready": true}, "hostname": "h"},
            {"addresses": ["10.7.0.2"], "conditions": {"ready": false}}]),
        "E42"
    );
    assert_eq!(
        slice["metadata"]["labels"],
        json!({"l": "1", SERVICE_NAME_LABEL: "s", MANAGED_BY_LABEL: MIRRORING_CONTROLLER})
    );
    assert_eq!(slice["metadata"]["annotations"], json!({"a": "b"}), "E42");
    assert_eq!(slice["metadata"]["ownerReferences"][0]["kind"], "Endpoints", "E42");
    let mut slices = Slices::default();
    slices.apply(mirrored.changes);
    assert!(mirror(Some(&object), Some(&by_hand), &slices.slices).changes.is_empty(), "and stay so");
    let fewer =
        hand_made(json!([{"addresses": [{"ip": "10.7.0.1"}], "ports": [{"port": 80, "protocol": "TCP"}]}]));
    let changes = mirror(Some(&fewer), Some(&by_hand), &slices.slices).changes;
    assert_eq!(
        (changes.create.len(), changes.update.len(), changes.delete.len()),
        (0, 1, 1),
        "E41: no address, no slice"
    );
    let recreated = with(object.clone(), "/metadata/uid", json!("f"));
    assert_eq!(
        mirror(Some(&recreated), Some(&by_hand), &slices.slices).changes.update.len(),
        2,
        "E42: another owner"
    );
    let leading = with(
        object.clone(),
        "/metadata/annotations",
        json!({"control-plane.alpha.kubernetes.io/leader": ""}),
    );
    let skipped =
        with(object.clone(), "/metadata/labels", json!({"endpointslice.kubernetes.io/skip-mirror": "true"}));
    let gone = [
        ("E40: selector", Some(&object), Some(service(json!({})))),
        ("E40: no Service", Some(&object), None),
        ("E40: no Endpoints", None, Some(by_hand.clone())),
        ("E40: leader election", Some(&leading), Some(by_hand.clone())),
        ("E40: not wanted", Some(&skipped), Some(by_hand.clone())),
    ];
    for (row, endpoints, service) in gone {
        let changes = mirror(endpoints, service.as_ref(), &slices.slices).changes;
        assert_eq!((changes.create.len(), changes.update.len(), changes.delete.len()), (0, 0, 2), "{row}");
    }
}

#[test]
fn mirrored_subsets_have_a_limit() {
    let addresses: Vec<Value> =
        (0..1100).map(|index| json!({"ip": format!("10.7.{}.{}", index / 250, index % 250 + 1)})).collect();
    let object = hand_made(json!([{"addresses": addresses, "ports": [{"port": 80}]}]));
    let mirrored = mirror(Some(&object), Some(&service(json!({"selector": null}))), &[]);
    assert_eq!(mirrored.surplus, 100, "E41");
    assert_eq!(wire::list(&mirrored.changes.create[0], "endpoints").len(), 1000, "E41");
}

/// One pod of a random history: its address, families, readiness and port.
type Drawn = (u8, bool, bool, bool, bool);

fn drawn(pods: &BTreeMap<u8, Drawn>) -> Vec<Value> {
    pods.values()
        .map(|(id, v4, v6, ready, named)| {
            let (first, second) = (format!("10.7.0.{id}"), format!("fd00:7::{id:x}"));
            let ips: Vec<&str> = [(v4, &first), (v6, &second)]
                .into_iter()
                .filter(|(has, _)| **has)
                .map(|(_, ip)| ip.as_str())
                .collect();
            let mut pod = pod(&format!("p{id}"), &ips);
            if !ready {
                pod["status"]["conditions"] = json!([]);
            }
            if *named {
                pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(7070);
            }
            pod
        })
        .collect()
}

proptest! {
    /// Whatever happens: the slices of a family say exactly its addresses, none is too full, and a second look
    /// changes nothing.
    #[test]
    fn slices_say_what_is_wanted(
        rounds in prop::collection::vec(
            prop::collection::btree_map(1_u8..30, any::<(bool, bool, bool, bool)>(), 0..20), 1..6),
        max in 1_usize..6,
        families in prop::sample::select(vec![json!(["IPv4"]), json!(["IPv6", "IPv4"])]),
    ) {
        let mut slices = Slices::default();
        let service = service(json!({"ipFamilies": families,
            "ports": [{"name": "x", "port": 80, "targetPort": "web", "protocol": "TCP"}]}));
        for round in rounds {
            let pods: BTreeMap<u8, Drawn> =
                round.into_iter().map(|(id, (v4, v6, ready, named))| (id, (id, v4, v6, ready, named))).collect();
            let list = drawn(&pods);
            slices.sync(&service, &list, max);
            for family in address_types(&service) {
                let mut wanted: Vec<String> = list.iter().flat_map(|pod| pod::addresses(pod, family)).collect();
                wanted.sort_unstable();
                prop_assert_eq!(slices.addresses(family), wanted);
                prop_assert!(slices.slices.iter().any(|slice| slice["addressType"] == family.as_str()));
            }
            for slice in &slices.slices {
                prop_assert!(wire::list(slice, "endpoints").len() <= max);
            }
            prop_assert!(slices.sync(&service, &list, max).is_empty());
        }
    }
}
