//! Node ports and the port of health checks.

use serde_json::{Value, json};

use super::world::{Outcome, World};

fn node_ports(outcome: &Outcome) -> Vec<u64> {
    let object = outcome.as_ref().unwrap_or_else(|errors| panic!("refused: {errors:?}"));
    let ports = object["spec"]["ports"].as_array().unwrap();
    ports.iter().map(|port| port["nodePort"].as_u64().unwrap_or_default()).collect()
}

/// A port in shorthand: name, protocol, port, node port.
type Port = (&'static str, &'static str, u16, i64);

/// What was, and what is sent.
type Change = [&'static [Port]; 2];

fn ports(list: &[Port]) -> Value {
    let port = |(name, protocol, port, node_port): &Port| match node_port {
        0 => json!({"name": name, "protocol": protocol, "port": port}),
        node_port => json!({"name": name, "protocol": protocol, "port": port, "nodePort": node_port}),
    };
    list.iter().map(port).collect()
}

#[test]
fn new_services() {
    #[rustfmt::skip]
    let cases: &[(&str, &[Port], &[u64])] = &[
        ("A140", &[("a", "TCP", 80, 0)], &[30000]),
        ("A140", &[("a", "TCP", 80, 0), ("b", "TCP", 81, 0)], &[30000, 30001]),
        ("A142", &[("a", "TCP", 53, 0), ("b", "UDP", 53, 0)], &[30000, 30000]),
        ("A142", &[("a", "TCP", 53, 30053), ("b", "UDP", 53, 0)], &[30053, 30053]),
        ("A142", &[("a", "TCP", 53, 0), ("b", "UDP", 53, 30053)], &[30053, 30053]),
        ("A142", &[("a", "TCP", 53, 30053), ("b", "UDP", 53, 30054)], &[30053, 30054]),
        ("A142", &[("a", "TCP", 53, 30053), ("b", "UDP", 53, 30054), ("c", "SCTP", 53, 0)], &[30053, 30054, 30053]),
        ("A142", &[("a", "TCP", 53, 30053), ("b", "UDP", 53, 30053)], &[30053, 30053]),
        ("A143, K9, most often got wrong 7", &[("a", "TCP", 80, 30080), ("b", "UDP", 81, 30080)], &[30080, 30080]),
    ];
    for (rule, list, want) in cases {
        for kind in ["NodePort", "LoadBalancer"] {
            let mut world = World::v4v6();
            let got = world.put("s", json!({"type": kind, "ports": ports(list)}));
            assert_eq!(node_ports(&got), *want, "{rule}: {list:?}");
            world.delete("s");
        }
    }
}

#[test]
fn refused_ports() {
    #[rustfmt::skip]
    let cases: &[(&str, &[Port], &str)] = &[
        ("A145", &[("a", "TCP", 80, 29999)], "spec.ports[0].nodePort: Invalid value: 29999: provided port is not in the \
            valid range. The range of valid ports is 30000-32767"),
        ("A145", &[("a", "TCP", 80, 99999)], "spec.ports[0].nodePort: Invalid value: 99999: provided port is not in the \
            valid range. The range of valid ports is 30000-32767"),
        ("A145", &[("a", "TCP", 80, -1)], "spec.ports[0].nodePort: Invalid value: -1: provided port is not in the \
            valid range. The range of valid ports is 30000-32767"),
        ("A145", &[("a", "TCP", 80, 0), ("b", "TCP", 81, 30500)], "spec.ports[1].nodePort: Invalid value: 30500: provided \
            port is already allocated"),
        ("A143: one protocol", &[("a", "TCP", 80, 30080), ("b", "TCP", 81, 30080)],
            "spec.ports[1].nodePort: Invalid value: 30080: provided port is already allocated"),
    ];
    for (rule, list, want) in cases {
        let mut world = World::v4v6();
        world.put("other", json!({"type": "NodePort", "ports": ports(&[("a", "TCP", 80, 30500)])})).unwrap();
        let held = world.held.clone();
        assert_eq!(
            world.put("s", json!({"type": "NodePort", "ports": ports(list)})).unwrap_err(),
            [*want],
            "{rule}"
        );
        assert_eq!(world.held, held, "{rule}: nothing was kept");
    }
}

#[test]
fn changes() {
    #[rustfmt::skip]
    let cases: &[(&str, Change, &[u64])] = &[
        ("A32", [&[("a", "TCP", 80, 0), ("b", "TCP", 81, 0)], &[("b", "TCP", 81, 0), ("a", "TCP", 8080, 0)]], &[30001, 30000]),
        ("A32: the number went to another port", [&[("a", "TCP", 80, 30000)], &[("a", "TCP", 80, 0), ("b", "TCP", 81, 30000)]],
            &[30001, 30000]),
        ("A144", [&[("a", "TCP", 80, 0)], &[("a", "TCP", 80, 30444)]], &[30444]),
        ("A144: no sharing, unlike on create", [&[("a", "TCP", 80, 0)], &[("x", "TCP", 53, 0), ("y", "UDP", 53, 0)]],
            &[30001, 30002]),
        ("A144: one number, two protocols", [&[("a", "TCP", 80, 0)], &[("x", "TCP", 53, 30053), ("y", "UDP", 53, 30053)]],
            &[30053, 30053]),
        ("A143 A144", [&[("a", "TCP", 80, 0)], &[("x", "TCP", 80, 30080), ("y", "UDP", 81, 30080)]], &[30080, 30080]),
    ];
    for (rule, [old, new], want) in cases {
        let mut world = World::v4v6();
        world.put("s", json!({"type": "NodePort", "ports": ports(old)})).unwrap();
        let got = world.put("s", json!({"type": "NodePort", "ports": ports(new)}));
        assert_eq!(node_ports(&got), *want, "{rule}");
        world.delete("s");
    }
    // Upstream answers 500 here.
    let mut world = World::v4v6();
    world.put("s", json!({"type": "NodePort", "ports": ports(&[("a", "TCP", 80, 0)])})).unwrap();
    let twice = ports(&[("a", "TCP", 80, 30080), ("b", "TCP", 81, 30080)]);
    assert_eq!(
        world.put("s", json!({"type": "NodePort", "ports": twice})).unwrap_err(),
        ["spec.ports[1].nodePort: Duplicate value: 30080"],
        "A144"
    );
    world.check();
}

#[test]
fn load_balancers_without_node_ports() {
    let mut world = World::v4v6();
    let spec = |allocate: bool, node_port: i64| {
        json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": allocate,
               "ports": ports(&[("a", "TCP", 80, node_port), ("b", "TCP", 81, 0)])})
    };
    assert_eq!(node_ports(&world.put("s", spec(false, 0))), [0, 0], "A141");
    assert_eq!(
        node_ports(&world.put("s", spec(false, 30100))),
        [30100, 0],
        "A141: what is named is reserved"
    );
    assert_eq!(node_ports(&world.put("s", spec(true, 30100))), [30100, 30000], "A146");
    let patched = world.patch("s", json!({"allocateLoadBalancerNodePorts": false}));
    assert_eq!(node_ports(&patched), [30100, 30000], "A146: what there is stays");
    assert_eq!(node_ports(&world.put("s", spec(false, 0))), [0, 0], "A146: until it is dropped");
    assert!(world.held.ports.is_empty(), "A146");
}

#[test]
fn ports_run_out() {
    let mut world = World::v4v6();
    world.cluster.node_ports = 30000..=30001;
    let one = json!({"type": "NodePort", "ports": [{"port": 80}]});
    world.put("a", one.clone()).unwrap();
    let two = json!({"type": "NodePort", "ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]});
    let held = world.held.clone();
    assert_eq!(
        world.put("b", two.clone()).unwrap_err(),
        ["500 failed to allocate a nodePort: range is full"],
        "A145"
    );
    assert_eq!(world.held, held, "A124");
    world.put("b", one).unwrap();
    assert_eq!(
        world.put("b", two).unwrap_err(),
        ["500 failed to allocate a nodePort: range is full"],
        "A145"
    );
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "allocateLoadBalancerNodePorts": false,
                       "ports": [{"port": 80}]});
    assert_eq!(
        world.put("c", local).unwrap_err(),
        ["500 failed to allocate a HealthCheck NodePort 0: range is full"],
        "A147"
    );
    world.check();
}

#[test]
fn health_checks() {
    let mut world = World::v4v6();
    let spec = |policy: &str, port: i64| {
        let mut spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": policy, "ports": [{"port": 80, "nodePort": 30000}]});
        if port != 0 {
            spec["healthCheckNodePort"] = port.into();
        }
        spec
    };
    let port = |outcome: Outcome| outcome.unwrap()["spec"]["healthCheckNodePort"].clone();
    assert_eq!(port(world.put("s", spec("Local", 0))), 30001, "A147");
    assert_eq!(port(world.put("s", spec("Local", 0))), 30001, "A33");
    assert_eq!(port(world.patch("s", json!({"externalTrafficPolicy": "Cluster"}))), Value::Null, "A112 A147");
    assert_eq!(world.held.ports.len(), 1, "A147: released");
    assert_eq!(port(world.put("s", spec("Local", 31000))), 31000, "A147: Cluster to Local");
    assert_eq!(
        world
            .put(
                "t",
                json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
                              "ports": [{"port": 80}]})
            )
            .unwrap_err(),
        ["500 failed to allocate requested HealthCheck NodePort 31000: provided port is already allocated"],
        "A147"
    );
    world.patch("s", json!({"type": "NodePort"})).unwrap();
    assert_eq!(world.held.ports.len(), 1, "A147: gone with the type");
}

/// Nothing is reserved for what an ExternalName Service writes into `nodePort`.
#[test]
fn external_names_have_no_node_ports() {
    let mut world = World::v4v6();
    world.put("a", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]})).unwrap();
    let spec =
        json!({"type": "ExternalName", "externalName": "a.b", "ports": [{"port": 80, "nodePort": 30080}]});
    world.put("b", spec).unwrap();
    assert_eq!(
        world.patch("b", json!({"type": "NodePort"})).unwrap_err(),
        ["spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"]
    );
    world.delete("b");
    assert!(world.held.ports.contains(&30080), "the port of the other Service");
}
