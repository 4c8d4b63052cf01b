//! Cluster DNS beside unbound, knot and a bare UDP echo: what a query costs; how soon a Service has its name; memory.
//!
//! ```text
//!   CPU 0: the server, in a process of its own          CPU 1: the load, on the loopback of the same namespace
//! ```
//!
//! Servers are measured in turn. On a busy machine queries of a second say little; the CPU that the server's process took
//! for each says much, and its inverse is what a core could do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dyad_dns::wire::{Header, Message, Name, Question, Rcode, Rdata, Rtype};
use dyad_links::{Handle, netns};
use dyad_net::IpFamily;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::figure::{Figure, quantile};
use crate::{Plan, Report, process};

mod cluster;
mod load;
mod peers;
mod worker;

use cluster::Cluster;
use load::Load;
use peers::{Peer, Server};
pub(crate) use worker::{WORKER, work};

/// Services there are, and endpoints of each family behind each: 60,000 in all.
const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 3;
/// Names that are asked for.
const NAMES: u32 = 1_000;
/// How long each server has the load in a round.
const TURN: Duration = Duration::from_millis(400);
/// Services that are waited for.
const CREATIONS: u32 = 200;
/// What is slower than this is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// One thread on one CPU.
const SERVER_CPU: usize = 0;
const LOAD_CPU: usize = 1;
/// Where servers are.
const OURS: u16 = 5300;

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    if std::thread::available_parallelism()?.get() <= LOAD_CPU {
        report.skip("dns", "it needs two CPUs: one for the server, one for the load");
        return Ok(());
    }
    let namespace = netns::create()?;
    netns::within(namespace.as_fd(), || Handle::open()?.set_up("lo"))??;
    let home = tempfile::Builder::new().prefix("dyad-bench-").tempdir()?;
    let cluster = Cluster::start(&namespace, home.path())?;
    cluster.fill(SERVICES, ENDPOINTS)?;
    let upstream = Server::upstream(&namespace)?;
    let ours = Server::ours(&namespace, &cluster.kubeconfig, OURS)?;
    let others = peers(&namespace, home.path(), report)?;
    let servers: Vec<&Server> = std::iter::once(&ours).chain(&others).collect();
    throughput(plan, report, &namespace, "cluster names", &servers, &cluster_queries()?)?;
    let with_cache = |server: &&&Server| server.peer != Some(Peer::Knot);
    let servers: Vec<&Server> = servers.iter().filter(with_cache).copied().collect();
    throughput(plan, report, &namespace, "cache hits", &servers, &cached_queries()?)?;
    drop(upstream);
    let memory = process::proportional_megabytes(ours.pid())?;
    let words = format!("{}k Services, {}k endpoints", SERVICES / 1000, 2 * SERVICES * ENDPOINTS / 1000);
    report.add(Figure::limited(format!("dns: {words}, memory (PSS)"), "MB", &[memory], 60.0));
    let times = creations(&namespace, &cluster)?;
    let name = format!("dns: {}k Services, one more has its name", SERVICES / 1000);
    report.add(Figure::limited(&name, "ms", &times, 20.0));
    report.add(Figure::limited(format!("{name}, p99"), "ms", &[quantile(&times, 0.99)], 20.0));
    Ok(())
}

/// The other servers there are on this machine, all of which answer.
fn peers(namespace: &OwnedFd, home: &std::path::Path, report: &mut Report) -> Result<Vec<Server>> {
    let mut all = Vec::new();
    for peer in Peer::ALL {
        if peer.program().is_some_and(|program| Command::new(program).arg("-V").output().is_err()) {
            let package = peer.name();
            report
                .skip(&format!("dns: beside {package}"), &format!("no {package}: apt-get install {package}"));
            continue;
        }
        all.push(Server::peer(namespace, peer, home)?);
    }
    Ok(all)
}

/// What is asked of all servers, and whether they answered.
struct Queries {
    packets: Vec<Vec<u8>>,
}

fn query(name: &str, rtype: Rtype) -> Result<Vec<u8>> {
    let name: Name = name.parse()?;
    Ok(Message::new(Header::query(0), Some(Question::new(name, rtype))).to_bytes())
}

impl Queries {
    /// A and AAAA of each name, those of one name after each other as resolvers ask.
    fn new(name: impl Fn(u32) -> String) -> Result<Self> {
        let types = [Rtype::A, Rtype::AAAA];
        let packets = (0..NAMES).flat_map(|number| types.map(|rtype| query(&name(number), rtype)));
        Ok(Self { packets: packets.collect::<Result<_>>()? })
    }
}

/// Spread over all Services.
fn cluster_queries() -> Result<Queries> {
    Queries::new(|number| cluster::domain_name(number * (SERVICES / NAMES)))
}

fn cached_queries() -> Result<Queries> {
    Queries::new(|number| format!("host-{number}.example.com."))
}

/// What one turn of a server was.
#[derive(Clone, Copy)]
struct Turn {
    /// Microseconds of CPU for a query.
    cpu: f64,
    /// Thousands of queries in a second.
    rate: f64,
}

/// The same load for each server in turn, over each family.
fn throughput(
    plan: &Plan,
    report: &mut Report,
    namespace: &OwnedFd,
    what: &str,
    servers: &[&Server],
    queries: &Queries,
) -> Result<()> {
    for family in IpFamily::BOTH {
        let mut loads = Vec::new();
        for server in servers {
            let socket = connected(namespace, SocketAddr::new(loopback(family), server.port))?;
            let mut load = Load::new(socket, queries.packets.clone(), server.peer != Some(Peer::Echo))?;
            // Once through all names: what can be remembered, is.
            load.warm(PATIENCE).with_context(|| server.name())?;
            loads.push(load);
        }
        let mut rounds: Vec<Vec<Turn>> = Vec::new();
        for _ in 0..plan.rounds {
            let turns = servers.iter().zip(&mut loads).map(|(server, load)| turn(server, load));
            rounds.push(turns.collect::<Result<_>>()?);
        }
        for (at, peer) in servers.iter().enumerate().skip(1) {
            let pairs = |of: fn(&Turn) -> f64| -> Vec<(f64, f64)> {
                rounds.iter().map(|turns| (of(&turns[0]), of(&turns[at]))).collect()
            };
            let name = format!("dns: {what}, {family}");
            report.add(Figure::paired(
                format!("{name}, CPU of a query"),
                "us",
                peer.name(),
                &pairs(|turn| turn.cpu),
            ));
            let per_core = pairs(|turn| 1e3 / turn.cpu);
            report.add(Figure::paired(format!("{name}, a core can"), "k/s", peer.name(), &per_core));
            let rates = pairs(|turn| turn.rate);
            report.add(Figure::paired(format!("{name}, saturated"), "k/s", peer.name(), &rates));
        }
    }
    Ok(())
}

fn turn(server: &Server, load: &mut Load) -> Result<Turn> {
    let before = process::exact_cpu_seconds(server.pid())?;
    let (answers, seconds) = on_cpu(LOAD_CPU, || load.run(TURN))?.with_context(|| server.name())?;
    let used = process::exact_cpu_seconds(server.pid())? - before;
    ensure!(answers > 0, "{} answers nothing", server.name());
    Ok(Turn { cpu: used * 1e6 / answers as f64, rate: answers as f64 / seconds / 1e3 })
}

/// Milliseconds from the answer of the API to the first right answer of the DNS, for one Service after the other.
fn creations(namespace: &OwnedFd, cluster: &Cluster) -> Result<Vec<f64>> {
    let socket = connected(namespace, SocketAddr::new(loopback(IpFamily::V4), OURS))?;
    let mut api = cluster.connect()?;
    let mut times = Vec::new();
    for number in SERVICES..SERVICES + CREATIONS {
        let asked = query(&cluster::domain_name(number), Rtype::A)?;
        ensure!(ask(&socket, &asked)?.header.rcode == Rcode::NXDOMAIN, "there already");
        cluster.create_service(&mut api, number)?;
        let begun = Instant::now();
        loop {
            let answer = ask(&socket, &asked)?;
            if let [record] = &*answer.answers
                && matches!(record.data, Rdata::A(_))
            {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "the name does not come");
        }
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

fn ask(socket: &UdpSocket, query: &[u8]) -> Result<Message> {
    let mut buffer = [0; 4096];
    socket.send(query)?;
    let length = socket.recv(&mut buffer)?;
    Ok(Message::parse(&buffer[..length])?)
}

fn loopback(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::LOCALHOST.into(),
        IpFamily::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// A socket in a namespace that talks to one server only.
fn connected(namespace: &OwnedFd, to: SocketAddr) -> Result<UdpSocket> {
    let from = SocketAddr::new(loopback(IpFamily::from(to.ip())), 0);
    let socket = netns::within(namespace.as_fd(), || UdpSocket::bind(from))??;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(socket)
}

/// Does something on a thread that stays on one CPU; processes it starts do, too.
fn on_cpu<T: Send>(cpu: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let pinned = scope.spawn(|| -> Result<T> {
            pin(cpu)?;
            Ok(work())
        });
        pinned.join().unwrap_or_else(|_| bail!("a thread has died"))
    })
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}
