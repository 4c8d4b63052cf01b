//! How long it takes to load Services, and to change one endpoint: `cargo bench -p dyad-nft`.
//!
//! Each Service is dual-stack, with one port and as many endpoints of each family as the second column says. Runs in a
//! network namespace of its own. Then the same for policies.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use dyad_links::netns;
use dyad_net::{DualStack, IpFamily};
use dyad_nft::Executor;
use dyad_program::policy::{Labels, Pod, wire};
use dyad_program::{
    Compiler, EndpointSlice, Name, NodeView, Port, Protocol, Service, SliceEndpoint, SlicePort,
};

fn both<T>(v4: &str, v6: &str) -> DualStack<T>
where
    T: std::str::FromStr<Err: std::fmt::Debug>,
{
    DualStack::dual(IpFamily::V4, v4.parse().unwrap(), v6.parse().unwrap())
}

fn node() -> NodeView {
    NodeView {
        name: "node1".into(),
        own_pods: vec!["10.128.1.0/24".parse().unwrap()],
        cluster_pods: both("10.128.0.0/9", "fd00:10:244::/56"),
        node_pods: [].into(),
        services: ["10.96.0.0/12", "fd00:10:96::/108"].map(|range| range.parse().unwrap()).into(),
        nodes: ["192.0.2.1".parse().unwrap()].into(),
        zone: None,
        node_ports: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        open_pods: false,
        masquerade_pods: true,
        egress: Default::default(),
    }
}

fn service(number: u32) -> Service {
    Service {
        cluster_ips: DualStack::dual(
            IpFamily::V4,
            IpAddr::V4((0x0a60_0000 + number).into()),
            IpAddr::V6((0xfd00_0010_0096_0000_0000_0000_0000_0000 + u128::from(number)).into()),
        ),
        external_ips: Default::default(),
        balancer_ips: Default::default(),
        source_ranges: None,
        ports: vec![Port { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        external_traffic: Default::default(),
        internal_traffic: Default::default(),
        affinity: None,
        health_check_node_port: None,
    }
}

fn slice(number: u32, endpoints: u32, family: IpFamily, port: u16) -> (Name, EndpointSlice) {
    let endpoint = |index: u32| SliceEndpoint {
        ip: match family {
            IpFamily::V4 => IpAddr::V4((0x0a80_0000 + number * endpoints + index).into()),
            IpFamily::V6 => {
                IpAddr::V6((0xfd00_0010_0244 << 80 | u128::from(number * endpoints + index)).into())
            }
        },
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        hints: None,
    };
    let slice = EndpointSlice {
        service: Name::new("default", &number.to_string()),
        endpoints: (0..endpoints).map(endpoint).collect(),
        ports: vec![SlicePort { name: String::new(), protocol: Protocol::Tcp, port }],
    };
    (Name::new("default", &format!("{number}-{family}")), slice)
}

/// The time `work` takes, in the median of some repetitions, and its worst.
fn repeated(times: u32, mut work: impl FnMut(u32)) -> (Duration, Duration) {
    let timed = |round| {
        let start = Instant::now();
        work(round);
        start.elapsed()
    };
    let mut all: Vec<Duration> = (0..times).map(timed).collect();
    all.sort();
    (all[all.len() / 2], all[all.len() - 1])
}

fn main() {
    println!(
        "{:>8} {:>9} {:>12} {:>12} {:>12} {:>26} {:>26}",
        "services", "endpoints", "compile", "load", "adopt", "endpoint p50/max", "count p50/max"
    );
    for (count, endpoints) in [(1_000, 2), (5_000, 2), (30_000, 2), (5_000, 50)] {
        let namespace = netns::create().expect("needs root, or `unshare --user --map-root-user`");
        netns::within(namespace.as_fd(), || measure(count, endpoints)).unwrap();
    }
    println!(
        "\n{:>8} {:>12} {:>12} {:>26} {:>26}",
        "policies", "compile", "load", "peer p50/max", "own pod p50/max"
    );
    for count in [100, 1_000] {
        let namespace = netns::create().unwrap();
        netns::within(namespace.as_fd(), || measure_policies(count)).unwrap();
    }
}

/// A cluster of 100 pods on this node and 5000 elsewhere, and so many policies, each of which selects some of the pods
/// of this node and has its own peers.
fn measure_policies(count: u32) {
    let mut compiler = Compiler::new(node());
    compiler.set_namespace("default", Some(Labels::new()));
    let pod = |number: u32, generation: u32| {
        let here = number < 100;
        let labels = [
            ("app".to_owned(), (number % 100).to_string()),
            ("peer".to_owned(), ((number + generation) % count).to_string()),
        ];
        Pod {
            namespace: "default".into(),
            labels: Labels::from(labels).into(),
            ips: vec![IpAddr::V4((if here { 0x0a80_0100 } else { 0x0a81_0000 } + number).into())],
            node: if here { "node1" } else { "node2" }.into(),
            ..Pod::default()
        }
    };
    let name = |number: u32| Name::new("default", &number.to_string());
    for number in 0..5100 {
        compiler.set_pod(name(number), Some(pod(number, 0)));
    }
    for number in 0..count {
        let policy = serde_json::json!({
            "metadata": {"namespace": "default", "name": number.to_string()},
            "spec": {
                "podSelector": {"matchLabels": {"app": (number % 100).to_string()}},
                "policyTypes": ["Ingress"],
                "ingress": [{
                    "from": [{"podSelector": {"matchLabels": {"peer": number.to_string()}}}],
                    "ports": [{"port": 8080}],
                }],
            },
        });
        let (name, policy) = wire::network_policy_from_value(&policy).unwrap();
        compiler.set_network_policy(name, Some(policy));
    }
    let start = Instant::now();
    compiler.step();
    let compile = start.elapsed();
    let mut executor = Executor::open().unwrap();
    let start = Instant::now();
    executor.apply(compiler.program()).unwrap();
    let load = start.elapsed();
    // A pod elsewhere becomes another's peer; a pod of this node comes or goes.
    let peer = repeated(200, |round| {
        compiler.set_pod(name(200 + round), Some(pod(200 + round, 1)));
        let ops = compiler.step();
        executor.update(compiler.program(), &ops).unwrap();
    });
    let own = repeated(200, |round| {
        compiler.set_pod(name(7), (round % 2 == 1).then(|| pod(7, 0)));
        let ops = compiler.step();
        executor.update(compiler.program(), &ops).unwrap();
    });
    println!(
        "{count:>8} {:>12} {:>12} {:>26} {:>26}",
        format!("{compile:.1?}"),
        format!("{load:.1?}"),
        text(peer),
        text(own)
    );
}

fn text((median, worst): (Duration, Duration)) -> String {
    format!("{median:.1?} / {worst:.1?}")
}

fn measure(count: u32, endpoints: u32) {
    let mut compiler = Compiler::new(node());
    for number in 0..count {
        compiler.set_service(Name::new("default", &number.to_string()), Some(service(number)));
        for family in IpFamily::BOTH {
            let (name, slice) = slice(number, endpoints, family, 8080);
            compiler.set_slice(name, Some(slice));
        }
    }
    let start = Instant::now();
    compiler.step();
    let compile = start.elapsed();

    let start = Instant::now();
    Executor::open().unwrap().apply(compiler.program()).unwrap();
    let load = start.elapsed();

    let mut executor = Executor::open().unwrap();
    let start = Instant::now();
    assert_eq!(executor.apply(compiler.program()).unwrap(), dyad_nft::Report::default());
    let adopt = start.elapsed();

    // From the object to the kernel: all endpoints of one family get another port.
    let endpoint = repeated(200, |round| {
        let (name, slice) = slice(round * 7 % count, endpoints, IpFamily::V4, 9000 + round as u16);
        compiler.set_slice(name, Some(slice));
        let ops = compiler.step();
        assert!(executor.update(compiler.program(), &ops).unwrap().changes >= 4);
    });
    // A Service loses an endpoint and gets it back: it goes through another chain.
    let moved = repeated(200, |round| {
        let (name, mut slice) = slice(count / 2, endpoints, IpFamily::V4, 8080);
        slice.endpoints.truncate((endpoints - 1 + round % 2) as usize);
        compiler.set_slice(name, Some(slice));
        let ops = compiler.step();
        executor.update(compiler.program(), &ops).unwrap();
    });
    assert!(executor.is_current().unwrap(), "all of it was done by updates");
    println!(
        "{count:>8} {endpoints:>9} {:>12} {:>12} {:>12} {:>26} {:>26}",
        format!("{compile:.1?}"),
        format!("{load:.1?}"),
        format!("{adopt:.1?}"),
        text(endpoint),
        text(moved)
    );
}
