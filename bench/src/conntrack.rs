//! Going through running connections when the program changes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use dyad_links::{Handle, netns};
use dyad_net::IpFamily;
use dyad_nft::Executor;
use dyad_nft::conntrack::{Conntrack, Expected};
use dyad_program::rule::{Decision, Direction, Id, Peers, Ports, Rule};
use dyad_program::{Entry, Program};

use crate::figure::Figure;
use crate::world;
use crate::{Plan, Report};

/// So many addresses of loopback are sent to, at so many ports each.
const ADDRESSES: u8 = 4;
const PORTS: u16 = 25_000;
const PEER: &str = "listing";

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let namespace = netns::create().context("needs root, or `unshare --user --map-root-user`")?;
    netns::within(namespace.as_fd(), || measure(plan, report))?
}

fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    let mut compiler = world::compiler(1_000, 2);
    compiler.step();
    let mut program = compiler.program().clone();
    Handle::open()?.set_up("lo")?;
    let mut executor = Executor::open()?;
    executor.apply(&program)?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    for last in 1..=ADDRESSES {
        for port in 1..=PORTS {
            // Nobody listens: the next call tells of it.
            let _ = socket.send_to(b"x", SocketAddr::new(IpAddr::from([127, 0, 1, last]), port));
        }
    }
    let mut conntrack = Conntrack::open()?;
    let mut count = 0;
    conntrack.flows(IpFamily::V4, |_| count += 1)?;
    ensure!(count > 10_000, "only {count} connections");
    let name = |what: &str| format!("conntrack: {}k flows, {what}", count / 1000);
    let pairs = pairs(plan, &mut conntrack, &program)?;
    report.add(Figure::paired(name("without policies"), "ms", PEER, &pairs));
    isolate(&mut program);
    let pairs = self::pairs(plan, &mut conntrack, &program)?;
    report.add(Figure::paired(name("with policies"), "ms", PEER, &pairs));
    Ok(())
}

/// Milliseconds for going through all connections of IPv4, and for having the kernel list them only.
fn pairs(plan: &Plan, conntrack: &mut Conntrack, program: &Program) -> Result<Vec<(f64, f64)>> {
    let node_addresses: BTreeSet<IpAddr> = [IpAddr::from([192, 0, 2, 1])].into();
    let expected = Expected { program, node_addresses: &node_addresses, serves: &|_, _, _| false };
    let pair = |_| {
        let begun = Instant::now();
        conntrack.reconcile(&expected)?;
        let ours = begun.elapsed().as_secs_f64() * 1e3;
        let begun = Instant::now();
        conntrack.flows(IpFamily::V4, |_| {})?;
        Ok((ours, begun.elapsed().as_secs_f64() * 1e3))
    };
    (0..plan.rounds).map(pair).collect()
}

/// One pod has a policy: so all connections have to be looked at.
fn isolate(program: &mut Program) {
    for (family, table) in program.iter_mut() {
        let id = Id::of("a policy");
        let rule = Rule {
            direction: Direction::Ingress,
            peers: Peers::Any,
            ports: Ports::Any,
            decision: Decision::Accept,
            because: "a bench".into(),
        };
        table.insert(Entry::Chain(id, [rule].into()));
        table.insert(Entry::Isolated(Direction::Ingress, crate::path::pod_ip(family, 2), id));
    }
}
