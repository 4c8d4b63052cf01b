//! The kernel's end: tables, programs at sockets, running connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dyad_links::{Handle, pod};
use dyad_nft::conntrack::{Conntrack, Expected};
use dyad_nft::{Executor, Report};
use dyad_program::{Compiler, Entry, Frontend, Op, Protocol};
use tracing::{debug, info, warn};

use super::intercept::Queries;
use crate::dataplane::{self, Sockets};
use crate::metrics::{Metrics, Sync};
use crate::{AgentError, Config, Status, with_causes};

/// How often running connections are gone through although nothing has changed.
const RECONCILE: Duration = Duration::from_secs(30);
/// Going through them takes at most so much of the time: one part in this many.
const SHARE: u32 = 10;

/// How the kernel's tables stand to the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tables {
    /// Not looked at yet.
    Unknown,
    /// Not what they should be: all of them must be read and compared.
    Behind,
    /// What the program was after the last step.
    Current,
}

/// Everything of the kernel's that executes a program.
#[derive(Debug)]
pub(super) struct Kernel {
    tables: Executor,
    state: Tables,
    sockets: Option<Sockets>,
    queries: Queries,
    connections: Connections,
    metrics: Arc<Metrics>,
}

/// When running connections are gone through.
#[derive(Debug)]
struct Connections {
    conntrack: Conntrack,
    /// Whether something has changed that they depend on.
    is_due: bool,
    last: Option<(Instant, Duration)>,
    has_complained: bool,
}

/// Whether connections that run may be wrong after a change. TCP ends by itself, so most changes of Services are none
/// of those.
fn concerns_running(op: &Op) -> bool {
    let is_udp = |at: &Frontend| match at {
        Frontend::Address(_, protocol, _) | Frontend::NodePort(protocol, _) => *protocol == Protocol::Udp,
    };
    let (Op::Add(_, entry) | Op::Remove(_, entry)) = op;
    match entry {
        Entry::Frontend(_, at, _) | Entry::Endpoint(_, at, ..) | Entry::Sticky(_, at, _) => is_udp(at),
        Entry::Range(..)
        | Entry::Member(..)
        | Entry::Chain(..)
        | Entry::Isolated(..)
        | Entry::Source(..)
        | Entry::Guarded(_) => true,
        Entry::Hairpin(_) | Entry::Set(..) => false,
    }
}

impl Kernel {
    /// That of the namespace of the calling thread; and which data plane it is, and why.
    pub(super) fn open(config: &Config, metrics: Arc<Metrics>) -> Result<(Self, String), AgentError> {
        let dataplane::Choice { sockets, text } = dataplane::choose(config)?;
        info!(dataplane = text, "data plane chosen");
        let (mode, why) = text.split_once(": ").unwrap_or((&text, ""));
        metrics.set_dataplane(if mode == "ebpf" { "ebpf" } else { "nftables" }, why);
        let kernel = Self {
            tables: Executor::open()?,
            state: Tables::Unknown,
            sockets,
            queries: Queries::to(&config.intercept),
            connections: Connections {
                conntrack: Conntrack::open()?,
                is_due: true,
                last: None,
                has_complained: false,
            },
            metrics,
        };
        Ok((kernel, text))
    }

    /// Becomes readable when somebody else changes tables.
    pub(super) fn changes(&self) -> dyad_nft::Result<OwnedFd> {
        self.tables.changes()
    }

    /// Whether the tables are what the program was after the last step.
    pub(super) fn is_current(&self) -> bool {
        self.state == Tables::Current
    }

    /// Whether there is a DNS server on this node.
    pub(super) fn set_dns(&mut self, is_served: bool) {
        self.queries.set_served(is_served);
    }

    /// Whether queries are taken to that.
    pub(super) fn intercepts(&self) -> bool {
        self.queries.are_taken()
    }

    /// Makes everything follow `ops`, which have led to the compiler's program. With `look`, whatever somebody else may
    /// have changed is mended.
    pub(super) fn follow(
        &mut self,
        compiler: &Compiler,
        ops: &[Op],
        look: bool,
        status: &mut Status,
    ) -> Result<(), AgentError> {
        self.connections.is_due |= ops.iter().any(concerns_running);
        let start = Instant::now();
        let before = self.state;
        let was_taken = self.queries.are_taken();
        self.queries.before(compiler.program(), !ops.is_empty(), look);
        match self.follow_tables(compiler, ops, look, status) {
            Ok(true) => {
                let is_full = before != Tables::Current;
                self.metrics.synced(Sync { took: start.elapsed(), is_full });
            }
            Ok(false) => self.metrics.settled(),
            Err(error) => {
                self.state = Tables::Behind;
                self.metrics.failed();
                return Err(error.into());
            }
        }
        self.queries.after();
        self.connections.is_due |= was_taken != self.queries.are_taken();
        if let Some(sockets) = &mut self.sockets {
            sockets.follow(compiler.program(), ops)?;
            sockets.leave(compiler.program(), self.queries.frontends())?;
            if look && sockets.mend()? {
                status.repairs += 1;
                self.metrics.repaired();
                warn!("somebody else had detached our eBPF programs; repaired");
            }
            sockets.reset_gone(compiler, ops);
        }
        Ok(())
    }

    /// Whether anything was done.
    fn follow_tables(
        &mut self,
        compiler: &Compiler,
        ops: &[Op],
        look: bool,
        status: &mut Status,
    ) -> dyad_nft::Result<bool> {
        let foreign = look && self.is_current() && !self.tables.is_current()?;
        let program = compiler.program();
        let report = match self.state {
            Tables::Current if foreign => self.tables.apply(program)?,
            Tables::Current if ops.is_empty() => return Ok(false),
            Tables::Current => self.tables.update(program, ops)?,
            Tables::Unknown | Tables::Behind => self.tables.apply(program)?,
        };
        let was = std::mem::replace(&mut self.state, Tables::Current);
        let Report { changes, rebuilt } = &report;
        if foreign && report != Report::default() {
            status.repairs += 1;
            self.metrics.repaired();
            warn!(changes, ?rebuilt, "somebody else had changed our tables; repaired");
        } else if was == Tables::Unknown {
            let services = compiler.service_names().count();
            info!(services, changes, ?rebuilt, "Services programmed; other tables were adopted");
        } else if !rebuilt.is_empty() {
            info!(changes, ?rebuilt, "tables made anew");
        }
        Ok(true)
    }

    /// Tells the programs at sockets of the node's addresses.
    pub(super) fn set_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), AgentError> {
        match &mut self.sockets {
            Some(sockets) => Ok(sockets.set_addresses(addresses)?),
            None => Ok(()),
        }
    }

    /// Opens the short way between pods: those of `pods`, where links of ours lead to them. Not for those that are limited: it leads past that.
    pub(super) fn set_pods(&mut self, links: &mut Handle, pods: &BTreeSet<IpAddr>) -> Result<(), AgentError> {
        let Some(sockets) = &mut self.sockets else { return Ok(()) };
        let with_links: BTreeMap<IpAddr, u32> = pod::list(links)?
            .into_iter()
            .filter(|link| !link.is_limited)
            .flat_map(|link| link.addresses.into_iter().map(move |ip| (ip, link.index)))
            .filter(|(ip, _)| pods.contains(ip))
            .collect();
        Ok(sockets.set_pods(with_links)?)
    }

    /// Goes through running connections, if that is due: after changes at once, but not all of the time.
    pub(super) fn reconcile(&mut self, compiler: &Compiler, addresses: &BTreeSet<IpAddr>) {
        let Connections { conntrack, is_due, last, has_complained } = &mut self.connections;
        let is_time = match last {
            None => true,
            Some((at, took)) if *is_due => at.elapsed() >= *took * SHARE,
            Some((at, _)) => at.elapsed() >= RECONCILE,
        };
        if !is_time {
            return;
        }
        let start = Instant::now();
        let expected = Expected {
            program: compiler.program(),
            node_addresses: addresses,
            serves: &|family, at, endpoint| compiler.serves(family, at, endpoint),
        };
        let reports = conntrack.reconcile(&expected);
        *last = Some((Instant::now(), start.elapsed()));
        match reports {
            Ok(reports) => {
                (*is_due, *has_complained) = (false, false);
                for (family, report) in &reports {
                    if (report.deleted, report.denied, report.admitted) != (0, 0, 0) {
                        info!(%family, ?report, "running connections follow");
                    } else {
                        debug!(%family, ?report, "running connections");
                    }
                }
                let deleted = reports.iter().map(|(family, report)| (*family, report.deleted as u64));
                self.metrics.reconciled(start.elapsed(), deleted);
            }
            Err(error) => {
                if !std::mem::replace(has_complained, true) {
                    warn!(
                        error = with_causes(&error),
                        "can't go through running connections; will try again"
                    );
                }
            }
        }
    }
}
