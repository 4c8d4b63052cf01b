//! Objects for tests.

use std::net::IpAddr;

use dyad_net::{DualStack, IpFamily};
use serde_json::{Value, json};

use crate::{Inputs, NodeView, Program, compile, wire};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn node() -> NodeView {
    let both = |v4: &str, v6: &str| DualStack::dual(IpFamily::V4, v4.parse().unwrap(), v6.parse().unwrap());
    NodeView {
        name: "node1".into(),
        own_pods: vec!["10.244.1.0/24".parse().unwrap(), "fd00:10:244:1::/64".parse().unwrap()],
        cluster_pods: both("10.244.0.0/16", "fd00:10:244::/56"),
        node_pods: [].into(),
        services: ["10.96.0.0/16", "fd00:10:96::/112"].map(|range| range.parse().unwrap()).into(),
        nodes: ["192.0.2.1", "192.0.2.2", "2001:db8::1"].map(ip).into(),
        zone: Some("a".into()),
        node_ports: IpFamily::BOTH.map(IpFamily::everything).to_vec(),
        open_pods: false,
        masquerade_pods: true,
        egress: Default::default(),
    }
}

pub(crate) fn compiled(services: &[Value], slices: &[Value]) -> Program {
    let services = services.iter().filter_map(|object| wire::service_from_value(object).unwrap());
    let slices = slices.iter().filter_map(|object| wire::slice_from_value(object).unwrap());
    compile(&Inputs { services: services.collect(), slices: slices.collect(), ..Inputs::new(node()) })
}

/// A Service `default/web` with what `change` changes.
pub(crate) fn service(change: Value) -> Value {
    let mut object = json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:10:96::1"],
            "ports": [{"protocol": "TCP", "port": 80}],
        },
    });
    merge(&mut object, change);
    object
}

/// An endpoint: address, node and conditions, those that are false with a `!`.
pub(crate) type Ready = (&'static str, &'static str, &'static str);

/// A slice of `default/web` with what `change` changes.
pub(crate) fn slice(endpoints: &[(&str, &str, &str)], change: Value) -> Value {
    let endpoint = |(ip, node, conditions): &(&str, &str, &str)| {
        let conditions = conditions.split(' ').filter(|word| !word.is_empty());
        let conditions = conditions.map(|word| match word.strip_prefix('!') {
            Some(word) => (word.to_owned(), Value::Bool(false)),
            None => (word.to_owned(), Value::Bool(true)),
        });
        json!({"addresses": [ip], "nodeName": node, "conditions": conditions.collect::<serde_json::Map<_, _>>()})
    };
    let family = IpFamily::from(ip(endpoints[0].0));
    let mut object = json!({
        "metadata": {
            "namespace": "default", "name": format!("web-{family}"),
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": family.as_str(),
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
    });
    merge(&mut object, change);
    object
}

/// RFC 7386.
pub(crate) fn merge(object: &mut Value, change: Value) {
    match change {
        Value::Object(change) if object.is_object() => {
            for (key, value) in change {
                merge(&mut object[key], value);
            }
        }
        change => *object = change,
    }
}
