//! Taking the queries to a DNS Service to a server of this node, for as long as this process lives.
//!
//! The tables are owned by the socket that makes them (`NFT_TABLE_F_OWNER`): the kernel deletes them when it is closed,
//! however the process ends. Queries are then translated like those to any other Service and come to the cluster's
//! DNS. The order of events can't leave a node with rules that lead to nobody.
//!
//! Only UDP is intercepted. A TCP connection has to stay with the server that it was opened to, when an interception
//! begins and when it ends; and the trouble with connection tracking, two queries of one socket that race for an
//! entry, is UDP's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dyad_net::IpFamily;
use rustix::io::Errno;

use crate::attribute::find_text;
use crate::batch::{Changes, TABLE_NAME};
use crate::element::{Data, Element, octets};
use crate::layout::{Layout, SetId};
use crate::socket::{GET_TABLE, ListError, Socket};
use crate::{DNS_TABLE, Error, Result};

/// `NFT_TABLE_F_OWNER`.
const OWNED: u32 = 2;
/// How often tables are listed again that change meanwhile.
const ATTEMPTS: usize = 16;

/// UDP to port 53 of some addresses is not tracked and not translated: it comes to whoever listens on them in the
/// network namespace this was opened in. They must be addresses of the node.
///
/// It ends when it is dropped. If the server lives on then, or has queries that it has not answered,
/// [`pause`](Self::pause) it before.
#[derive(Debug)]
pub struct Interception {
    socket: Socket,
    addresses: BTreeSet<IpAddr>,
    spared: BTreeSet<IpAddr>,
    is_paused: bool,
}

impl Interception {
    /// Begins in the network namespace of the calling thread, for all sources but `spared`.
    pub fn open(addresses: &BTreeSet<IpAddr>, spared: &BTreeSet<IpAddr>) -> Result<Self> {
        let mut socket = Socket::open()?;
        if is_held(&mut socket)? {
            return Err(Error::Held { table: DNS_TABLE });
        }
        let addresses = addresses.clone();
        let mut this = Self { socket, addresses, spared: BTreeSet::new(), is_paused: true };
        let families = this.families();
        let mut tables = this.changes();
        families.iter().for_each(|family| tables.new_empty_table(*family, OWNED));
        this.commit(tables).map_err(|error| match error {
            Error::Refused { source, .. }
                if matches!(Errno::from_io_error(&source), Some(Errno::INVAL | Errno::OPNOTSUPP)) =>
            {
                Error::NoOwners(source)
            }
            error => error,
        })?;
        let mut changes = this.changes();
        for family in &families {
            changes.fill_table(*family, Layout::of_interception(*family));
        }
        // Sources first, should this take several batches: nobody is intercepted who is to be spared.
        this.change_spared(&mut changes, spared);
        for set in [SetId::Served, SetId::Intercepted] {
            this.addresses.iter().for_each(|ip| changes.element(true, (*ip).into(), set, element(*ip)));
        }
        this.commit(changes)?;
        this.spared.clone_from(spared);
        this.is_paused = false;
        Ok(this)
    }

    /// The sources that are left to the Service.
    pub fn spared(&self) -> &BTreeSet<IpAddr> {
        &self.spared
    }

    /// Leaves these sources, and no others, to the Service and to policies.
    pub fn spare(&mut self, sources: &BTreeSet<IpAddr>) -> Result<()> {
        let mut changes = self.changes();
        self.change_spared(&mut changes, sources);
        self.commit(changes)?;
        self.spared.clone_from(sources);
        Ok(())
    }

    fn change_spared(&self, changes: &mut Changes, sources: &BTreeSet<IpAddr>) {
        let added = sources.difference(&self.spared).map(|ip| (true, *ip));
        let removed = self.spared.difference(sources).map(|ip| (false, *ip));
        let families = self.families();
        for (add, ip) in added.chain(removed) {
            let family = ip.into();
            if families.contains(&family) {
                changes.element(add, family, SetId::Spared, element(ip));
                changes.may_cut();
            }
        }
    }

    /// Leaves all queries to the Service from now on, but answers to earlier ones still get to where they are wanted.
    pub fn pause(&mut self) -> Result<()> {
        self.set_paused(true)
    }

    /// Goes on after [`pause`](Self::pause).
    pub fn resume(&mut self) -> Result<()> {
        self.set_paused(false)
    }

    /// Whether it is paused.
    pub const fn is_paused(&self) -> bool {
        self.is_paused
    }

    fn set_paused(&mut self, is_paused: bool) -> Result<()> {
        if self.is_paused != is_paused {
            let mut changes = self.changes();
            for ip in &self.addresses {
                changes.element(!is_paused, (*ip).into(), SetId::Intercepted, element(*ip));
            }
            self.commit(changes)?;
            self.is_paused = is_paused;
        }
        Ok(())
    }

    fn families(&self) -> BTreeSet<IpFamily> {
        self.addresses.iter().map(|ip| IpFamily::from(*ip)).collect()
    }

    fn changes(&self) -> Changes {
        Changes::of(DNS_TABLE, self.socket.batch_limit)
    }

    /// Makes changes. Nobody else can change the tables, so there is no generation to go by.
    fn commit(&mut self, changes: Changes) -> Result<()> {
        let first = self.socket.sequences(0);
        for batch in &changes.seal(first, None) {
            self.socket.sequences(batch.sequences);
            self.socket.commit(batch)?;
        }
        Ok(())
    }
}

fn element(ip: IpAddr) -> Element {
    Element::new(octets(ip), Data::Nothing)
}

/// Whether there is such a table of anybody.
fn is_held(socket: &mut Socket) -> Result<bool> {
    for _ in 0..ATTEMPTS {
        let mut found = false;
        let listed = socket.list(
            "listing tables",
            GET_TABLE,
            0,
            |_| {},
            |_, table| {
                found |= find_text(table, TABLE_NAME) == Some(DNS_TABLE);
            },
        );
        match listed {
            Ok(()) => return Ok(found),
            Err(ListError::Interrupted | ListError::Gone) => {}
            Err(ListError::Failed(error)) => return Err(error),
        }
    }
    Err(Error::Contended)
}
