//! Running connections that the program no longer has: `conntrack` entries, over ctnetlink.
//!
//! NAT and policy decide about the first packet of a connection, and what follows goes where that went. So when a
//! program changes, the entries of running connections are gone through:
//!
//! * A UDP flow to a Service lives on as long as its client sends, even if the endpoint has gone, or if there was no
//!   Service yet when it began. Such entries are deleted, so that the next datagram is a first one (kubernetes/kubernetes
//!   issues 126130, 139629). TCP ends by itself and is never deleted. So are entries that began with the answer of a
//!   server on the address of a Service: they come from the time when that was intercepted, and lead there.
//! * A connection of any protocol that policy no longer admits gets the mark [`DENIED_MARK`], by which the filter chains
//!   drop it; and loses it if it is admitted again.
//!
//! All that is level-triggered: what is decided depends on the entry and on what there is now, but for one thing. Whether
//! an address outside of the Service range was a frontend of ours before it went is nowhere to be seen, so that is
//! remembered from one [`reconcile`](Conntrack::reconcile) to the next.
//!
//! Memory is bounded: entries are read in pieces of 32 KiB, and acted on a few hundred at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dyad_net::IpFamily;
use dyad_program::{Endpoint, Frontend, Program, Protocol, RangeSet, Table};
use rustix::io::Errno;

use self::flow::Filter;
use self::judge::Judge;
use crate::attribute::Writer;
use crate::layout::{DENIED_MARK, number};
use crate::socket::{ListError, Socket};
use crate::{Error, Result};

mod flow;
mod judge;

pub use flow::{Flow, Payload, Tuple};
pub use judge::Verdict;

/// So many entries are acted on at once.
const BATCH: usize = 256;

/// What running connections are held against.
#[derive(Clone, Copy)]
pub struct Expected<'a> {
    /// What new connections meet.
    pub program: &'a Program,
    /// All addresses of the node.
    pub node_addresses: &'a BTreeSet<IpAddr>,
    /// Whether an endpoint a frontend does not send new connections to still answers those it has: it terminates, or is
    /// for others by policy or topology. Connections to such endpoints are left alone, as those of TCP are.
    pub serves: &'a dyn Fn(IpFamily, Frontend, Endpoint) -> bool,
}

/// What was done with the entries of one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Entries read.
    pub seen: usize,
    /// Entries of UDP that were deleted, for they led where the program no longer leads.
    pub deleted: usize,
    /// Connections that policy no longer admits.
    pub denied: usize,
    /// Connections that policy admits again.
    pub admitted: usize,
}

/// The connections of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    lists: Socket,
    changes: Socket,
    /// The frontends of UDP there were.
    known: BTreeSet<(IpFamily, Frontend)>,
}

impl Conntrack {
    /// The connections of the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Self { lists: Socket::open()?, changes: Socket::open()?, known: BTreeSet::new() })
    }

    /// Tells of frontends there were before: those of a program that somebody else has run, if it is known.
    pub fn remember(&mut self, program: &Program) {
        self.known.extend(udp_frontends(program));
    }

    /// Calls `tell` with every connection of `family`, in no order. Those that come or go meanwhile may be missed.
    pub fn flows(&mut self, family: IpFamily, mut tell: impl FnMut(&Flow)) -> Result<()> {
        self.list(family, Filter::All, |flow, _| tell(flow))
    }

    /// Deletes the connections of a protocol that `is_stale` says are: their next packets are first ones.
    pub fn forget(
        &mut self,
        family: IpFamily,
        protocol: u8,
        mut is_stale: impl FnMut(&Flow) -> bool,
    ) -> Result<usize> {
        let (mut pending, mut report) = (Vec::new(), Report::default());
        self.list(family, Filter::All, |flow, attributes| {
            if flow.original.protocol == protocol && is_stale(flow) {
                pending.push((Verdict::Delete, flow::key(attributes)));
            }
        })?;
        for some in pending.chunks(BATCH) {
            carry_out(&mut self.changes, family, some, &mut report)?;
        }
        Ok(report.deleted)
    }

    /// Deletes stale entries and marks those that are denied, in the families of the program; what was done in each.
    ///
    /// To be called when new connections meet `expected` already. Entries are passed over once or twice, which costs
    /// about a microsecond for each.
    pub fn reconcile(&mut self, expected: &Expected<'_>) -> Result<BTreeMap<IpFamily, Report>> {
        let now: BTreeSet<_> = udp_frontends(expected.program).collect();
        let gone: BTreeSet<_> = self.known.difference(&now).copied().collect();
        let mut reports = BTreeMap::new();
        for (family, table) in expected.program.iter() {
            let judge = Judge { expected, table, gone: &gone };
            let mut report = Report::default();
            // Where policy has nothing to say, only UDP matters, and what it said before.
            let filters = match judges_all(table) {
                true => &[Filter::All][..],
                false => &[Filter::Protocol(Protocol::Udp), Filter::Mark(DENIED_MARK)],
            };
            for filter in filters {
                self.reconcile_some(family, *filter, &judge, &mut report)?;
            }
            reports.insert(family, report);
        }
        self.known = now;
        Ok(reports)
    }

    fn reconcile_some(
        &mut self,
        family: IpFamily,
        filter: Filter,
        judge: &Judge<'_>,
        report: &mut Report,
    ) -> Result<()> {
        let mut pending = Vec::with_capacity(BATCH);
        let mut failed = None;
        let Self { lists, changes, .. } = self;
        let mut act = |pending: &mut Vec<_>, report: &mut Report| {
            if let Err(error) = carry_out(changes, family, pending, report) {
                failed.get_or_insert(error);
            }
            pending.clear();
        };
        list(lists, family, filter, |flow, attributes| {
            report.seen += 1;
            let verdict = judge.judge(flow);
            if verdict != Verdict::Keep {
                pending.push((verdict, flow::key(attributes)));
                if pending.len() == BATCH {
                    act(&mut pending, report);
                }
            }
        })?;
        act(&mut pending, report);
        failed.map_or(Ok(()), Err)
    }

    fn list(&mut self, family: IpFamily, filter: Filter, read: impl FnMut(&Flow, &[u8])) -> Result<()> {
        list(&mut self.lists, family, filter, read)
    }
}

fn list(
    socket: &mut Socket,
    family: IpFamily,
    filter: Filter,
    mut read: impl FnMut(&Flow, &[u8]),
) -> Result<()> {
    let of_family = number(family);
    let listed = socket.dump("listing connections", flow::GET, of_family, |message| filter.write(message), {
        |number, attributes| {
            // What cannot be read is none of those that concern us.
            if number == of_family
                && let Some(flow) = Flow::parse(attributes).filter(|flow| filter.fits(flow))
            {
                read(&flow, attributes);
            }
        }
    });
    match listed {
        // Connections come and go all the time: those that are missed are met the next time.
        Ok(()) | Err(ListError::Interrupted | ListError::Gone) => Ok(()),
        Err(ListError::Failed(error)) => Err(error),
    }
}

/// Does with some entries what has been decided.
fn carry_out(
    socket: &mut Socket,
    family: IpFamily,
    pending: &[(Verdict, flow::Key)],
    report: &mut Report,
) -> Result<()> {
    if pending.is_empty() {
        return Ok(());
    }
    let mut writer = Writer::default();
    let first = socket.sequences(u32::try_from(pending.len()).expect("as many as fit into a batch"));
    for (index, (verdict, key)) in (0..).zip(pending) {
        let sequence = first.wrapping_add(index);
        let is_last = index as usize + 1 == pending.len();
        key.write(&mut writer, *verdict, family, sequence, is_last);
    }
    let last = first.wrapping_add(u32::try_from(pending.len() - 1).expect("likewise"));
    let refused = socket.exchange("changing connections", writer.as_bytes(), last)?;
    let mut failed = None;
    for (index, (verdict, _)) in (0..).zip(pending) {
        match refused.get(&first.wrapping_add(index)) {
            None => match verdict {
                Verdict::Keep => {}
                Verdict::Delete => report.deleted += 1,
                Verdict::Deny => report.denied += 1,
                Verdict::Admit => report.admitted += 1,
            },
            // It has ended meanwhile, or another one has its place.
            Some(&Errno::NOENT) => {}
            Some(errno) => failed = Some(*errno),
        }
    }
    let what = "changing connections";
    failed.map_or(Ok(()), |errno| Err(Error::Exchange { what, source: errno.into() }))
}

/// Whether policy may have something to say about connections of any protocol.
fn judges_all(table: &Table) -> bool {
    !table.isolated.is_empty() || table.ranges.iter().any(|(set, _)| *set == RangeSet::Closed)
}

fn udp_frontends(program: &Program) -> impl Iterator<Item = (IpFamily, Frontend)> {
    let is_udp = |at: &Frontend| match at {
        Frontend::Address(_, protocol, _) | Frontend::NodePort(protocol, _) => *protocol == Protocol::Udp,
    };
    program.iter().flat_map(move |(family, table)| {
        table.frontends.keys().map(|(_, at)| *at).filter(is_udp).map(move |at| (family, at))
    })
}
