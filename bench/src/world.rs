//! Services as many as one likes.

use std::net::IpAddr;

use dyad_net::{DualStack, IpFamily};
use dyad_program::{
    Compiler, EndpointSlice, Name, NodeView, Port, Protocol, Service, SliceEndpoint, SlicePort,
};

/// The port of Services, and of their endpoints.
pub(crate) const SERVICE_PORT: u16 = 80;
pub(crate) const ENDPOINT_PORT: u16 = 8080;

fn both<T>(v4: &str, v6: &str) -> DualStack<T>
where
    T: std::str::FromStr<Err: std::fmt::Debug>,
{
    let parse = |text: &str| text.parse().expect("a constant");
    DualStack::dual(IpFamily::V4, parse(v4), parse(v6))
}

/// The node that all is seen from; its pods are in 10.128.1.0/24 and fd00:10:244:1::/64.
pub(crate) fn node() -> NodeView {
    let nets = |texts: [&str; 2]| texts.map(|text| text.parse().expect("a constant")).to_vec();
    NodeView {
        name: "node1".into(),
        own_pods: nets(["10.128.1.0/24", "fd00:10:244:1::/64"]),
        cluster_pods: both("10.128.0.0/9", "fd00:10:244::/48"),
        node_pods: [].into(),
        services: nets(["10.96.0.0/12", "fd00:10:96::/108"]),
        nodes: [].into(),
        zone: None,
        node_ports: nets(["0.0.0.0/0", "::/0"]),
        open_pods: false,
        masquerade_pods: true,
        egress: dyad_program::Egress::default(),
    }
}

/// The cluster IP of a Service.
pub(crate) fn cluster_ip(number: u32, family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4((0x0a60_0000 + number).into()),
        IpFamily::V6 => IpAddr::V6(((0xfd00_0010_0096 << 80) + u128::from(number)).into()),
    }
}

/// The address of an endpoint; none is a pod of the node.
pub(crate) fn endpoint_ip(number: u32, family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4((0x0a81_0000 + number).into()),
        IpFamily::V6 => IpAddr::V6(((0xfd00_0010_0244_0002 << 64) + u128::from(number)).into()),
    }
}

/// The name of a Service.
pub(crate) fn name(number: u32) -> Name {
    Name::new("default", &format!("service-{number}"))
}

/// A Service of both families with one TCP port.
pub(crate) fn service(number: u32) -> Service {
    let port = Port { name: String::new(), protocol: Protocol::Tcp, port: SERVICE_PORT, node_port: None };
    service_with(number, vec![port])
}

/// A Service of both families with these ports.
pub(crate) fn service_with(number: u32, ports: Vec<Port>) -> Service {
    let [v4, v6] = IpFamily::BOTH.map(|family| cluster_ip(number, family));
    Service {
        cluster_ips: DualStack::dual(IpFamily::V4, v4, v6),
        external_ips: Default::default(),
        balancer_ips: Default::default(),
        source_ranges: None,
        ports,
        external_traffic: Default::default(),
        internal_traffic: Default::default(),
        affinity: None,
        health_check_node_port: None,
    }
}

/// One that is ready.
pub(crate) fn endpoint(ip: IpAddr) -> SliceEndpoint {
    SliceEndpoint { ip, ready: true, serving: true, terminating: false, node: None, hints: None }
}

/// The slice of a Service in one family, with so many endpoints on `port`.
pub(crate) fn slice(number: u32, endpoints: u32, family: IpFamily, port: u16) -> (Name, EndpointSlice) {
    let all = (0..endpoints).map(|index| endpoint(endpoint_ip(number * endpoints + index, family)));
    let slice = EndpointSlice {
        service: name(number),
        endpoints: all.collect(),
        ports: vec![SlicePort { name: String::new(), protocol: Protocol::Tcp, port }],
    };
    (Name::new("default", &format!("service-{number}-{family}")), slice)
}

/// A compiler that has been told of so many Services, each with so many endpoints of each family, and has not compiled
/// them yet.
pub(crate) fn compiler(services: u32, endpoints: u32) -> Compiler {
    let mut compiler = Compiler::new(node());
    for number in 0..services {
        compiler.set_service(name(number), Some(service(number)));
        for family in IpFamily::BOTH {
            let (name, slice) = slice(number, endpoints, family, ENDPOINT_PORT);
            compiler.set_slice(name, Some(slice));
        }
    }
    compiler
}

/// Sizes in words: Services, and endpoints of each family if there are more than two each.
pub(crate) fn words(services: u32, endpoints: u32) -> String {
    let thousands = |count: u32| match count % 1000 {
        0 => format!("{}k", count / 1000),
        _ => count.to_string(),
    };
    match endpoints {
        2 if services == 1 => "1 Service".into(),
        2 => format!("{} Services", thousands(services)),
        _ => format!("{} Services, {} endpoints", thousands(services), thousands(services * endpoints)),
    }
}
