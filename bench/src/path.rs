//! The path of packets: from a pod to a Service on the same node, beside two namespaces with a veth between them.
//!
//! ```text
//!   client ── node: nftables, or eBPF and nftables ── server          client ── veth ── server
//!         10.128.1.2 asks 10.96.x.x, 10.128.1.3 answers                   the bare pair
//! ```
//!
//! Both are measured in turn, for a fraction of a second each, and the median of the ratios counts. For latencies client
//! and server share one CPU, so that what is measured is the work on the way, and not how fast a CPU wakes up another.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use dyad_links::pod::{self, PodLink};
use dyad_links::{Handle, NewLink, netns, sysctl};
use dyad_net::{DualStack, IpFamily, IpNet};
use dyad_nft::conntrack::Conntrack;
use dyad_program::rule::{Decision, Direction, Id, Member, Peers, Ports, Rule, SetKind};
use dyad_program::{EndpointSlice, Entry, Name, Port, Program, Protocol, SlicePort};

use crate::figure::Figure;
use crate::{Plan, Report, world};

mod worker;

use worker::{Load, Worker};
pub(crate) use worker::{WORKER, work};

/// How long one half of a pair takes.
const TURN: Duration = Duration::from_millis(200);
/// Where requests are answered, and where what comes is taken.
const REQUESTS: u16 = 8080;
const STREAMS: u16 = 8081;
/// So many policies are there where their cost is measured.
const POLICIES: u32 = 1_000;
const MTU: u32 = 1500;

/// What carries Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Nftables,
    Ebpf,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nft",
            Self::Ebpf => "ebpf",
        }
    }

    /// How many times longer it may take than the bare pair.
    const fn limit(self, load: Load) -> Option<f64> {
        match (self, load) {
            (Self::Ebpf, Load::TcpConnects) => Some(1.15),
            (Self::Ebpf, Load::TcpRequests | Load::UdpRequests) => Some(1.1),
            (
                Self::Nftables,
                Load::TcpConnects | Load::TcpRequests | Load::UdpRequests | Load::UdpSockets,
            ) => Some(1.5),
            _ => None,
        }
    }
}

/// The address of a pod of the node.
pub(crate) fn pod_ip(family: IpFamily, last: u8) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::from([10, 128, 1, last]),
        IpFamily::V6 => IpAddr::from([0xfd00, 0x10, 0x244, 1, 0, 0, 0, last.into()]),
    }
}

fn both(ip: impl Fn(IpFamily) -> IpAddr) -> DualStack<IpAddr> {
    DualStack::dual(IpFamily::V4, ip(IpFamily::V4), ip(IpFamily::V6))
}

/// Two processes for a server, one on each of two CPUs, and one for a client.
struct Ends {
    client: Worker,
    servers: [Worker; 2],
}

impl Ends {
    fn start(
        client: &OwnedFd,
        server: &OwnedFd,
        ip: impl Fn(IpFamily) -> IpAddr,
        joins: impl Fn(u32) -> Result<()>,
    ) -> Result<Self> {
        let other = usize::from(std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1));
        let mut servers = [Worker::start(server, 0, &joins)?, Worker::start(server, other, &joins)?];
        for (server, port) in servers.iter_mut().zip([REQUESTS, STREAMS]) {
            for family in IpFamily::BOTH {
                server.serve(SocketAddr::new(ip(family), port))?;
            }
        }
        Ok(Self { client: Worker::start(client, 0, &joins)?, servers })
    }
}

/// Two namespaces with a veth between them.
struct Bare {
    ends: Ends,
    _namespaces: [OwnedFd; 2],
}

impl Bare {
    fn new() -> Result<Self> {
        let namespaces = [netns::create()?, netns::create()?];
        let [client, server] = &namespaces;
        prepare(client)?;
        prepare(server)?;
        netns::within(client.as_fd(), || -> Result<()> {
            let far = NewLink { netns: Some(server.as_fd()), ..NewLink::named("eth0") };
            Ok(Handle::open()?.add_veth(&NewLink::named("eth0"), &far)?)
        })??;
        for (namespace, last) in [(client, 2), (server, 3)] {
            netns::within(namespace.as_fd(), || -> Result<()> {
                let mut handle = Handle::open()?;
                handle.set_up("eth0")?;
                let index = handle.index("eth0")?;
                for family in IpFamily::BOTH {
                    let bits = if family == IpFamily::V4 { 24 } else { 64 };
                    handle.replace_address(index, IpNet::new(pod_ip(family, last), bits)?)?;
                }
                Ok(())
            })??;
        }
        let ends = Ends::start(client, server, |family| pod_ip(family, 3), |_| Ok(()))?;
        Ok(Self { ends, _namespaces: namespaces })
    }

    fn run(&mut self, load: Load, family: IpFamily) -> Result<f64> {
        let port = if load.is_latency() { REQUESTS } else { STREAMS };
        self.ends.client.run(load, SocketAddr::new(pod_ip(family, 3), port), TURN)
    }
}

/// Addresses can be used at once, and ports again soon.
fn prepare(namespace: &OwnedFd) -> Result<()> {
    netns::within(namespace.as_fd(), || -> Result<()> {
        sysctl::write("net/ipv6/conf/default/accept_dad", "0")?;
        sysctl::write("net/ipv4/ip_local_port_range", "1024 65535")?;
        Ok(())
    })?
}

/// A node with two pods, and many Services.
struct Node {
    ends: Ends,
    namespace: OwnedFd,
    program: Program,
    services: u32,
    nft: dyad_nft::Executor,
    /// Kept until the end, for it is told nothing more.
    ebpf: Option<(dyad_ebpf::Executor, Group)>,
    _pods: [OwnedFd; 2],
}

/// A control group for the processes of pods, which goes when this is dropped.
struct Group(PathBuf);

impl Group {
    fn new() -> Result<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        let mut all = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = all.find_map(|words| (*words.get(2)? == "cgroup2").then(|| words[1].to_owned()));
        let dir = PathBuf::from(mount.context("no cgroup2 is mounted")?)
            .join(format!("dyad-bench-{}", std::process::id()));
        std::fs::create_dir(&dir)?;
        Ok(Self(dir))
    }

    fn join(&self, pid: u32) -> Result<()> {
        Ok(std::fs::write(self.0.join("cgroup.procs"), pid.to_string())?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.0) {
            eprintln!("{} stays behind: {error}", self.0.display());
        }
    }
}

impl Node {
    fn new(mode: Mode, services: u32) -> Result<Self> {
        let namespace = netns::create().context("needs root, or `unshare --user --map-root-user`")?;
        let pods = [netns::create()?, netns::create()?];
        prepare(&namespace)?;
        for pod in &pods {
            prepare(pod)?;
        }
        let program = program(services);
        let (nft, links) = netns::within(namespace.as_fd(), || -> Result<_> {
            sysctl::forward()?;
            let mut handle = Handle::open()?;
            let mut links = BTreeMap::new();
            for (netns, last) in pods.iter().zip([2, 3]) {
                let key = format!("pod{last}");
                let addresses = both(|family| pod_ip(family, last));
                let link = PodLink { key: &key, netns: netns.as_fd(), addresses, node: None, mtu: MTU };
                pod::add(&mut handle, &link)?;
                let index = handle.index(&pod::name(&key))?;
                links.extend(IpFamily::BOTH.map(|family| (pod_ip(family, last), index)));
            }
            let mut nft = dyad_nft::Executor::open()?;
            nft.apply(&program)?;
            Ok((nft, links))
        })??;
        let ebpf = match mode {
            Mode::Nftables => None,
            Mode::Ebpf => Some(netns::within(namespace.as_fd(), || -> Result<_> {
                let group = Group::new()?;
                let mut executor = dyad_ebpf::Executor::open(&group.0)?;
                executor.apply(&program)?;
                executor.attach_pods(&links)?;
                Ok((executor, group))
            })??),
        };
        let joins = |pid| ebpf.as_ref().map_or(Ok(()), |(_, group)| group.join(pid));
        let ends = Ends::start(&pods[0], &pods[1], |family| pod_ip(family, 3), joins)?;
        Ok(Self { ends, namespace, program, services, nft, ebpf, _pods: pods })
    }

    fn run(&mut self, load: Load, family: IpFamily) -> Result<f64> {
        let port = if load.is_latency() { REQUESTS } else { STREAMS };
        let at = SocketAddr::new(world::cluster_ip(self.services / 2, family), port);
        self.ends.client.run(load, at, TURN)
    }

    fn apply(&mut self, program: &Program) -> Result<()> {
        // Its socket stays in its namespace.
        self.nft.apply(program)?;
        Ok(())
    }

    /// Whether what was measured went where it should have gone.
    fn check(&self, mode: Mode) -> Result<()> {
        if let Some((executor, _)) = &self.ebpf {
            let counters = executor.counters()?;
            anyhow::ensure!(counters.connections > 0, "eBPF has carried nothing: {counters:?}");
        }
        let mut connections = netns::within(self.namespace.as_fd(), Conntrack::open)??;
        let mut translated = 0;
        for family in IpFamily::BOTH {
            connections.flows(family, |flow| translated += usize::from(flow.is_translated()))?;
        }
        let is_right = (translated > 0) == (mode == Mode::Nftables);
        anyhow::ensure!(is_right, "{} connections were translated by nftables", translated);
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The processes have to leave the group before it can go.
        let Ends { client, servers } = &mut self.ends;
        client.stop();
        servers.iter_mut().for_each(Worker::stop);
        if let Some((executor, _)) = &mut self.ebpf
            && let Err(error) = netns::within(self.namespace.as_fd(), || executor.cleanup())
        {
            eprintln!("eBPF programs stay behind: {error}");
        }
    }
}

/// Services with two endpoints of each family elsewhere, but the middle one, which leads to a pod of this node.
fn program(services: u32) -> Program {
    let mut compiler = world::compiler(services, 2);
    let number = services / 2;
    let ports = [
        (REQUESTS, Protocol::Tcp),
        (REQUESTS, Protocol::Udp),
        (STREAMS, Protocol::Tcp),
        (STREAMS, Protocol::Udp),
    ];
    let port_name = |port: u16, protocol: Protocol| format!("{}-{port}", protocol.as_str().to_lowercase());
    let of_service = ports.map(|(port, protocol)| Port {
        name: port_name(port, protocol),
        protocol,
        port,
        node_port: None,
    });
    compiler.set_service(world::name(number), Some(world::service_with(number, of_service.into())));
    for family in IpFamily::BOTH {
        let mut endpoint = world::endpoint(pod_ip(family, 3));
        endpoint.node = Some(world::node().name);
        let slice = EndpointSlice {
            service: world::name(number),
            endpoints: vec![endpoint],
            ports: ports
                .map(|(port, protocol)| SlicePort { name: port_name(port, protocol), protocol, port })
                .into(),
        };
        compiler.set_slice(Name::new("default", &format!("service-{number}-{family}")), Some(slice));
    }
    compiler.step();
    compiler.program().clone()
}

/// The same with policies: both pods are isolated in both directions, and a chain of as many rules as there are policies
/// admits what is measured in the last of them.
fn with_policies(program: &Program) -> Program {
    let mut program = program.clone();
    for (family, table) in program.iter_mut() {
        for direction in Direction::BOTH {
            let mut rules = Vec::new();
            for number in 0..POLICIES {
                let peer = match number + 1 == POLICIES {
                    true => pod_ip(family, if direction == Direction::Ingress { 2 } else { 3 }),
                    false => world::endpoint_ip(number, family),
                };
                let id = Id::of(&format!("{direction:?} peers of policy {number}"));
                table.insert(Entry::Set(SetKind::Peers, id));
                table.insert(Entry::Member(id, Member::Peer(peer)));
                rules.push(Rule {
                    direction,
                    peers: Peers::Set(id),
                    ports: Ports::Any,
                    decision: Decision::Accept,
                    because: format!("NetworkPolicy default/policy-{number}").into(),
                });
            }
            rules.push(Rule {
                direction,
                peers: Peers::Any,
                ports: Ports::Any,
                decision: Decision::Deny,
                because: "isolated".into(),
            });
            let chain = Id::of(&format!("{direction:?}"));
            table.insert(Entry::Chain(chain, rules.into()));
            let pod = pod_ip(family, if direction == Direction::Ingress { 3 } else { 2 });
            table.insert(Entry::Isolated(direction, pod, chain));
        }
    }
    program
}

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let mut bare = Bare::new()?;
    let sizes = std::iter::once(1).chain(plan.sizes.iter().copied().filter(|size| *size != 5_000));
    let sizes: Vec<u32> = sizes.collect();
    for mode in [Mode::Nftables, Mode::Ebpf] {
        if mode == Mode::Ebpf
            && let Err(why) = dyad_ebpf::probe()
        {
            report.skip("path: ebpf", &why.to_string());
            continue;
        }
        for services in &sizes {
            let mut node = Node::new(mode, *services)?;
            for load in Load::ALL.into_iter().filter(|load| *load != Load::Established) {
                for family in IpFamily::BOTH {
                    let name = format!(
                        "path: {} {} {family}, {}",
                        mode.name(),
                        load.name(),
                        world::words(*services, 2)
                    );
                    let pairs = (0..plan.rounds).map(|_| {
                        let theirs = bare.run(load, family)?;
                        Ok((node.run(load, family)?, theirs))
                    });
                    let pairs = pairs.collect::<Result<Vec<_>>>().with_context(|| name.clone())?;
                    report.add(figure(name, load, &pairs, mode.limit(load)));
                }
            }
            node.check(mode)?;
        }
    }
    policies(plan, report)
}

fn figure(name: String, load: Load, pairs: &[(f64, f64)], limit: Option<f64>) -> Figure {
    let name = match limit {
        Some(limit) => format!("{name} (at most {limit})"),
        None => name,
    };
    if load.is_latency() {
        return Figure::paired(name, "us", "bare veth", pairs);
    }
    // Bytes in a second: more is better, and stays so.
    let pairs: Vec<_> = pairs.iter().map(|(ours, theirs)| (ours * 8e-9, theirs * 8e-9)).collect();
    Figure::paired(name, "Gb/s", "bare veth", &pairs)
}

/// What policies cost on connections that are established, and on new ones: the same node with and without them.
fn policies(plan: &Plan, report: &mut Report) -> Result<()> {
    let mut node = Node::new(Mode::Nftables, 1)?;
    let without = node.program.clone();
    let with = with_policies(&without);
    for (load, limit) in [(Load::Established, Some(1.1)), (Load::TcpConnects, None)] {
        for family in IpFamily::BOTH {
            let name = format!("path: {} {family}, {}k policies", load.name(), POLICIES / 1000);
            let pairs = (0..plan.rounds).map(|_| {
                node.apply(&without)?;
                let theirs = node.run(load, family)?;
                node.apply(&with)?;
                Ok((node.run(load, family)?, theirs))
            });
            let pairs = pairs.collect::<Result<Vec<_>>>().with_context(|| name.clone())?;
            let name = match limit {
                Some(limit) => format!("{name} (at most {limit})"),
                None => name,
            };
            report.add(Figure::paired(name, "us", "no policies", &pairs));
        }
    }
    Ok(())
}
