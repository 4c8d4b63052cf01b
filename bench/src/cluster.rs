//! A local cluster of one node with many Services: from a change in the API to the kernel, and what its processes use.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dyad_links::netns;
use dyad_net::IpFamily;
use dyad_nft::Executor;
use rustix::io::Errno;
use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with, sockopt};
use serde_json::{Value, json};

use crate::figure::{Figure, quantile};
use crate::process::{self, Cluster};
use crate::{Plan, Report, world};

pub(crate) mod api;

use api::Access;

/// Connections that create and change objects at the same time.
pub(crate) const WRITERS: u32 = 8;
/// Endpoints of each family behind each Service.
const ENDPOINTS: u32 = 2;
const NODE: &str = "node1";
/// So many single changes at each size.
const CHANGES: u32 = 100;
/// So many changes at once.
const BURST: u32 = 10_000;
/// A node that has nothing to do for so long has done all.
const QUIET: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(120);
/// How long idle CPU is watched.
const IDLE: Duration = Duration::from_secs(10);
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// A cluster with Services, all of which its node has carried out.
struct Loaded {
    cluster: Cluster,
    access: Access,
    node: u32,
    namespace: OwnedFd,
    changes: Changes,
}

impl Loaded {
    fn new(plan: &Plan, services: u32) -> Result<Self> {
        let cluster = Cluster::up(&plan.dyad, 1, &[])?;
        let access = Access::read(&cluster.kubeconfig())?;
        let node = cluster.node(NODE)?;
        let namespace = netns::of_process(node)?;
        let changes = netns::within(namespace.as_fd(), Changes::open)??;
        let mut loaded = Self { cluster, access, node, namespace, changes };
        loaded.access.write(WRITERS, services, |api, number| {
            api.create(SERVICES, &service(number))?;
            IpFamily::BOTH
                .into_iter()
                .try_for_each(|family| api.create(SLICES, &slice(number, family)).map(drop))
        })?;
        loaded.wait_until_quiet()?;
        let held = loaded.frontends()?;
        ensure!(
            held as u32 >= 2 * services,
            "the node serves {held} frontends, not {services} in each family"
        );
        Ok(loaded)
    }

    /// Waits until the node changes nothing any more; when it last did.
    fn wait_until_quiet(&mut self) -> Result<Instant> {
        let (begun, mut last) = (Instant::now(), Instant::now());
        while begun.elapsed() < PATIENCE {
            match self.changes.next(QUIET)? {
                Some(at) => last = at,
                None => return Ok(last),
            }
        }
        bail!("the node does not come to rest within {} s", PATIENCE.as_secs())
    }

    /// How many frontends the node's kernel has.
    fn frontends(&self) -> Result<usize> {
        let tables = netns::within(self.namespace.as_fd(), || Executor::open()?.read_back())??;
        Ok(tables.values().map(|table| table.frontends.len()).sum())
    }
}

/// Tells when the tables of a network namespace are changed.
struct Changes(OwnedFd);

impl Changes {
    /// In the namespace of the calling thread.
    fn open() -> Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(NETFILTER))?;
        // The bit of NFNLGRP_NFTABLES.
        bind(&fd, &SocketAddrNetlink::new(0, 1 << 6))?;
        Ok(Self(fd))
    }

    /// When the next change was seen; nothing if there is none for so long.
    fn next(&self, patience: Duration) -> Result<Option<Instant>> {
        sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Recv, Some(patience))?;
        match recv(&self.0, &mut [0_u8; 64 * 1024][..], RecvFlags::empty()) {
            // There were more than there is room for: something has changed.
            Ok(_) | Err(Errno::NOBUFS) => Ok(Some(Instant::now())),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno).context("listening to nf_tables"),
        }
    }

    /// Forgets what has come.
    fn forget(&self) -> Result<()> {
        while self.next(Duration::from_millis(1))?.is_some() {}
        Ok(())
    }
}

fn name(number: u32) -> String {
    format!("service-{number}")
}

fn slice_name(number: u32, family: IpFamily) -> String {
    format!("service-{number}-{}", family.as_str().to_lowercase())
}

/// Dual-stack, without a selector: its slices are made here.
fn service(number: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name(number)},
        "spec": {
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"name": "http", "protocol": "TCP", "port": world::SERVICE_PORT}],
        },
    })
}

fn slice(number: u32, family: IpFamily) -> Value {
    let endpoints = (0..ENDPOINTS).map(|index| {
        let ip = world::endpoint_ip(number * ENDPOINTS + index, family);
        json!({"addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false}})
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(number, family),
            "labels": {
                "kubernetes.io/service-name": name(number),
                "endpointslice.kubernetes.io/managed-by": "bench.dyad.io",
            },
        },
        "addressType": family.as_str(),
        "endpoints": (endpoints.collect::<Vec<_>>()),
        "ports": [{"name": "http", "protocol": "TCP", "port": world::ENDPOINT_PORT}],
    })
}

/// A change of all endpoints of one slice.
fn port(number: u16) -> Value {
    json!({"ports": [{"name": "http", "protocol": "TCP", "port": number}]})
}

/// From a patch that is sent to the node's kernel.
pub(crate) fn effective(plan: &Plan, report: &mut Report) -> Result<()> {
    for services in &plan.sizes {
        let loaded = Loaded::new(plan, *services)?;
        let mut api = loaded.access.connect()?;
        let mut times = Vec::new();
        for round in 0..CHANGES {
            let path = format!("{SLICES}/{}", slice_name(round * 7 % services, IpFamily::V4));
            loaded.changes.forget()?;
            let begun = Instant::now();
            api.patch(&path, &port(9000 + round as u16))?;
            let seen = loaded.changes.next(PATIENCE)?.context("the change does not get to the kernel")?;
            times.push((seen - begun).as_secs_f64() * 1e3);
        }
        let words = world::words(*services, ENDPOINTS);
        report.add(Figure::limited(format!("effective: {words}, one change"), "ms", &times, 20.0));
        let worst = [quantile(&times, 0.99)];
        report.add(Figure::limited(format!("effective: {words}, one change, p99"), "ms", &worst, 20.0));
    }
    Ok(())
}

/// What the node's process uses with as many Services as there are, and in a burst of changes.
pub(crate) fn agent(plan: &Plan, report: &mut Report) -> Result<()> {
    let Some(services) = plan.sizes.iter().copied().max() else { return Ok(()) };
    let mut loaded = Loaded::new(plan, services)?;
    let words = world::words(services, ENDPOINTS);
    let name = |what: &str| format!("agent: {words}, {what}");
    // What follows the load (controllers that look at every Service once more) is not idling.
    std::thread::sleep(Duration::from_secs(10));
    let node = loaded.node;
    let idle = process::cpu_percent(&[node], IDLE)?;
    let memory = process::proportional_megabytes(node)?;
    report.add(Figure::limited(name("memory (PSS)"), "MB", &[memory], 100.0));
    report.add(Figure::limited(name("idle CPU"), "%core", &[idle], 1.0));

    let (before, _) = process::resident_megabytes(node)?;
    process::forget_peak(node)?;
    let cpu = process::cpu_seconds(node)?;
    let begun = Instant::now();
    loaded.access.write(WRITERS, BURST, |api, number| {
        let path = format!("{SLICES}/{}", slice_name(number % services, IpFamily::V6));
        api.patch(&path, &port(10_000 + (number / services) as u16))
    })?;
    let written = begun.elapsed();
    let last = loaded.wait_until_quiet()?;
    let (_, peak) = process::resident_megabytes(node)?;
    let behind = last.saturating_duration_since(begun + written);
    let burst = format!("burst of {}k changes", BURST / 1000);
    report.add(Figure::alone(name(&format!("{burst}, writing it")), "s", &[written.as_secs_f64()]));
    report.add(Figure::alone(name(&format!("{burst}, node behind by")), "s", &[behind.as_secs_f64()]));
    report.add(Figure::alone(name(&format!("{burst}, CPU")), "s", &[process::cpu_seconds(node)? - cpu]));
    report.add(Figure::limited(name(&format!("{burst}, peak (RSS)")), "MB", &[peak], 1.5 * before));
    drop(loaded.cluster);
    Ok(())
}
