//! How long it takes to compile Services from nothing, what that takes of memory, and what one change takes:
//! `cargo bench -p dyad-program`.
//!
//! Each Service is dual-stack, with one port; endpoints are counted per family.

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dyad_net::{DualStack, IpFamily};
use dyad_program::{
    Compiler, EndpointSlice, Name, NodeView, Op, Port, Protocol, Service, SliceEndpoint, SlicePort, Traffic,
};

/// The system's allocator, counting bytes in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) };
    }
}

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
        zone: Some("a".into()),
        node_ports: IpFamily::BOTH.map(IpFamily::everything).to_vec(),
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
        external_traffic: Traffic::Cluster,
        internal_traffic: Traffic::Cluster,
        affinity: None,
        health_check_node_port: None,
    }
}

fn slice(number: u32, family: IpFamily, endpoints: u32, port: u16) -> (Name, EndpointSlice) {
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
        node: Some(format!("node{}", index % 100)),
        hints: None,
    };
    let slice = EndpointSlice {
        service: Name::new("default", &format!("service-{number}")),
        endpoints: (0..endpoints).map(endpoint).collect(),
        ports: vec![SlicePort { name: String::new(), protocol: Protocol::Tcp, port }],
    };
    (Name::new("default", &format!("service-{number}-{family}")), slice)
}

/// The median and the worst of some repetitions.
fn repeated(times: u32, mut work: impl FnMut(u32) -> Duration) -> String {
    let mut all: Vec<Duration> = (0..times).map(&mut work).collect();
    all.sort();
    format!("{:.1?}/{:.1?}", all[all.len() / 2], all[all.len() - 1])
}

fn main() {
    println!(
        "{:>8} {:>10} {:>10} {:>10} {:>9} {:>9} {:>22} {:>22} {:>22}",
        "services",
        "endpoints",
        "take in",
        "compile",
        "ops",
        "memory",
        "port p50/max",
        "one less p50/max",
        "service p50/max"
    );
    for (services, endpoints) in
        [(1_000, 2), (5_000, 2), (30_000, 2), (30_000, 1), (5_000, 50), (50, 1_000), (1, 8_000)]
    {
        measure(services, endpoints);
    }
}

fn measure(services: u32, endpoints: u32) {
    let before = IN_USE.load(Ordering::Relaxed);
    let mut compiler = Compiler::new(node());
    let mut take_in = Duration::ZERO;
    for number in 0..services {
        let object = (Name::new("default", &format!("service-{number}")), service(number));
        let slices = IpFamily::BOTH.map(|family| slice(number, family, endpoints, 8080));
        let start = Instant::now();
        compiler.set_service(object.0, Some(object.1));
        slices.into_iter().for_each(|(name, slice)| compiler.set_slice(name, Some(slice)));
        take_in += start.elapsed();
    }
    let start = Instant::now();
    let ops = compiler.step().len();
    let compile = start.elapsed();
    let memory = IN_USE.load(Ordering::Relaxed) - before;

    let timed = |compiler: &mut Compiler, name: Name, slice: EndpointSlice| -> (Duration, Vec<Op>) {
        let start = Instant::now();
        compiler.set_slice(name, Some(slice));
        let ops = compiler.step();
        (start.elapsed(), ops)
    };
    let port = repeated(200, |round| {
        let (name, slice) = slice(round * 7 % services, IpFamily::V4, endpoints, 9000 + round as u16);
        let (took, ops) = timed(&mut compiler, name, slice);
        assert!(!ops.is_empty());
        took
    });
    let fewer = repeated(200, |round| {
        let (name, mut slice) = slice(services / 2, IpFamily::V6, endpoints, 8080);
        if round % 2 == 0 {
            slice.endpoints.remove(endpoints as usize / 2);
        }
        let (took, ops) = timed(&mut compiler, name, slice);
        assert!(!ops.is_empty());
        took
    });
    let changed = repeated(200, |round| {
        let mut object = service(services / 2);
        object.ports[0].node_port = Some(30000 + round as u16);
        let name = Name::new("default", &format!("service-{}", services / 2));
        let start = Instant::now();
        compiler.set_service(name, Some(object));
        assert!(!compiler.step().is_empty());
        start.elapsed()
    });
    println!(
        "{services:>8} {:>10} {take_in:>10.1?} {compile:>10.1?} {ops:>9} {:>6} MB {port:>22} {fewer:>22} {changed:>22}",
        services * endpoints,
        memory / 1_000_000,
    );
}
