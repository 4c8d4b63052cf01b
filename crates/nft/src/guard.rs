//! Ports of bridges that may send as themselves only: what enters with another Ethernet address is dropped, before anything
//! else sees it. A table of the family of bridges for each, made and deleted as a whole, as those of [`nat`](crate::nat).

use std::collections::BTreeMap;

use dyad_net::IpFamily;
use rustix::io::Errno;

use crate::Result;
use crate::batch::Changes;
use crate::expression::{Base, Expression, Meta, Register, Verdict, link_name};
use crate::layout::rules::{R0, rule};
use crate::layout::{Chain, ChainKind, Hook, Layout};
use crate::nat;
use crate::socket::Socket;

/// `NFPROTO_BRIDGE`.
const BRIDGE: u8 = 7;
/// `NF_BR_PRE_ROUTING`, where Ethernet addresses could be rewritten (`NF_BR_PRI_NAT_DST_BRIDGED`).
const PREROUTING: Hook = Hook { kind: ChainKind::Filter, number: 0, priority: -300 };
/// Where the sender is in an Ethernet header, and how long.
const SENDER: (u32, u32) = (6, 6);

/// Makes the table called `name` in the calling thread's network namespace, in place of what is there: what comes from
/// `link` has the Ethernet address `mac`.
pub fn replace(name: &str, link: &str, mac: [u8; 6]) -> Result<()> {
    delete(name)?;
    let is = |equal: bool, from: Register, value: Vec<u8>| Expression::Compare { from, equal, value };
    let (offset, length) = SENDER;
    let spoofed = rule(
        "another sender",
        vec![
            Expression::Meta { key: Meta::InputName, to: R0 },
            is(true, R0, link_name(link)),
            Expression::Payload { base: Base::Link, offset, length, to: R0 },
            is(false, R0, mac.to_vec()),
            Expression::Counter,
            Expression::Verdict(Verdict::Drop),
        ],
    );
    let chain = Chain { hook: Some(PREROUTING), rules: vec![spoofed] };
    let layout = Layout { sets: BTreeMap::new(), chains: [("prerouting".to_owned(), chain)].into() };
    commit(name, |changes| changes.new_table(IpFamily::V4, layout))
}

/// Deletes the table called `name`, if it is there.
pub fn delete(name: &str) -> Result<()> {
    if !list(name)?.iter().any(|found| found == name) {
        return Ok(());
    }
    match commit(name, |changes| changes.delete_table(IpFamily::V4)) {
        Err(error) if error.errno() == Some(Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// The tables of this kind whose names begin with `prefix`.
pub fn list(prefix: &str) -> Result<Vec<String>> {
    let found = nat::tables(&mut Socket::open()?, prefix)?.into_iter();
    Ok(found.filter(|(number, _)| *number == BRIDGE).map(|(_, name)| name).collect())
}

fn commit(name: &str, fill: impl FnOnce(&mut Changes)) -> Result<()> {
    let mut socket = Socket::open()?;
    let mut changes = Changes::of(name.to_owned(), socket.batch_limit).in_family(BRIDGE);
    fill(&mut changes);
    nat::seal(&mut socket, changes)
}
