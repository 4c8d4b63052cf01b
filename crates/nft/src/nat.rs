//! Address translation for single containers, in tables of their own: for runtimes that call us once for each.
//!
//! ```text
//! prerouting, output (nat)   a port of the host -> the container
//! postrouting (nat)          the container's connections to elsewhere, and those that would come back to where they
//!                            began -> masqueraded
//! ```
//!
//! A container has a table of one name in each family that it has rules in, made and deleted as a whole: whoever is
//! killed leaves all of it or nothing, and what belongs to a container that is gone is found by its name.

use std::net::{IpAddr, SocketAddr};

use dyad_net::{IpFamily, IpNet, Ipv4Net};
use rustix::io::Errno;

use crate::attribute::find_text;
use crate::batch::{Changes, TABLE_NAME};
use crate::element::octets;
use crate::expression::{Connection, Expression, Meta, Register, Verdict, link_name};
use crate::layout::rules::{LOCAL_ADDRESS, OUTPUT, POSTROUTING, PREROUTING, R0, destination_port, rule};
use crate::layout::{Chain, Hook, Layout, Rule, Rules, family, number};
use crate::socket::{GET_TABLE, ListError, Socket};
use crate::{Error, Result};

/// `IPS_DST_NAT`.
const TRANSLATED: u32 = 1 << 5;
/// How often tables are listed again that change meanwhile: runtimes start a hundred plugins at once.
const ATTEMPTS: usize = 256;

/// What is translated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translation {
    /// What `source` sends elsewhere than into `inside`, and not to many, has an address of the outgoing link.
    Masquerade {
        /// The container.
        source: IpAddr,
        /// What it talks to as itself.
        inside: IpNet,
    },
    /// A port of the host leads to a container.
    Port(HostPort),
}

/// A port of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The number of the protocol (IANA).
    pub protocol: u8,
    /// At this address only; at each of the host's if not given.
    pub address: Option<IpAddr>,
    /// Its number.
    pub port: u16,
    /// The container.
    pub to: SocketAddr,
    /// Whose connections are masqueraded.
    pub masquerade: Masqueraded,
    /// What must hold of a packet beside that, all of it.
    pub conditions: Vec<Condition>,
}

/// What must hold of a packet, or must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What is looked at.
    pub what: Matched,
    /// Whether it must be so; if not, it must not be so.
    pub equal: bool,
}

/// What a condition looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matched {
    /// The source is in this network.
    Source(IpNet),
    /// The destination is in this network.
    Destination(IpNet),
    /// It comes by the link of this name. What the host itself sends comes by none.
    Link(String),
    /// It comes by a link whose name begins so.
    Links(String),
}

/// Whose connections to a port are masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masqueraded {
    /// Nobody's.
    None,
    /// Those that would not come back: of the container itself, and of the host's loopback.
    Own,
    /// Everybody's.
    All,
}

impl Translation {
    fn family(&self) -> IpFamily {
        match self {
            Self::Masquerade { source, .. } => (*source).into(),
            Self::Port(port) => port.to.ip().into(),
        }
    }
}

/// Makes the tables called `name` in the calling thread's network namespace, in place of what is there.
pub fn replace(name: &str, translations: &[Translation]) -> Result<()> {
    let mut socket = Socket::open()?;
    let present = present(&mut socket, name)?;
    for of in IpFamily::BOTH {
        let ours: Vec<_> = translations.iter().filter(|one| one.family() == of).collect();
        let is_present = present.contains(&of);
        if ours.is_empty() && !is_present {
            continue;
        }
        commit(&mut socket, name, |changes| {
            if is_present {
                changes.delete_table(of);
            }
            if !ours.is_empty() {
                changes.new_table(of, layout(of, &ours));
            }
        })?;
    }
    Ok(())
}

/// Deletes the tables called `name`, if they are there.
pub fn delete(name: &str) -> Result<()> {
    let mut socket = Socket::open()?;
    for of in present(&mut socket, name)? {
        match commit(&mut socket, name, |changes| changes.delete_table(of)) {
            Err(error) if error.errno() == Some(Errno::NOENT) => {}
            other => other?,
        }
    }
    Ok(())
}

/// In which families there is a table called `name`. To try and be refused would cost milliseconds, in which the kernel
/// waits for packets under way.
fn present(socket: &mut Socket, name: &str) -> Result<Vec<IpFamily>> {
    let found = tables(socket, name)?.into_iter().filter(|(_, found)| found == name);
    Ok(found.filter_map(|(number, _)| family(number)).collect())
}

/// The tables there are whose names begin with `prefix`, by family.
pub fn list(prefix: &str) -> Result<Vec<(IpFamily, String)>> {
    let found = tables(&mut Socket::open()?, prefix)?.into_iter();
    Ok(found.filter_map(|(number, name)| Some((family(number)?, name))).collect())
}

/// The same of all families, with their numbers.
pub(crate) fn tables(socket: &mut Socket, prefix: &str) -> Result<Vec<(u8, String)>> {
    for _ in 0..ATTEMPTS {
        let mut found = Vec::new();
        let read = |number_of: u8, table: &[u8]| {
            let name = find_text(table, TABLE_NAME).filter(|name| name.starts_with(prefix));
            found.extend(name.map(|name| (number_of, name.to_owned())));
        };
        match socket.list("listing tables", GET_TABLE, 0, |_| {}, read) {
            Ok(()) => return Ok(found),
            Err(ListError::Interrupted | ListError::Gone) => {}
            Err(ListError::Failed(error)) => return Err(error),
        }
    }
    Err(Error::Contended)
}

fn commit(socket: &mut Socket, name: &str, fill: impl FnOnce(&mut Changes)) -> Result<()> {
    let mut changes = Changes::of(name.to_owned(), socket.batch_limit);
    fill(&mut changes);
    seal(socket, changes)
}

pub(crate) fn seal(socket: &mut Socket, changes: Changes) -> Result<()> {
    let first = socket.sequences(0);
    for batch in &changes.seal(first, None) {
        socket.sequences(batch.sequences);
        socket.commit(batch)?;
    }
    Ok(())
}

fn layout(of: IpFamily, translations: &[&Translation]) -> Layout {
    let rules = Rules { family: of };
    let (mut leading, mut leaving) = (Vec::new(), Vec::new());
    for translation in translations {
        match translation {
            Translation::Masquerade { source, inside } => leaving.extend(rules.elsewhere(*source, inside)),
            Translation::Port(port) => {
                leading.push(rules.lead(port));
                leaving.extend(rules.own(port));
            }
        }
    }
    let chain = |(name, hook, rules): (&str, Hook, Vec<Rule>)| {
        (!rules.is_empty()).then(|| (name.to_owned(), Chain { hook: Some(hook), rules }))
    };
    let chains = [
        ("prerouting", PREROUTING, leading.clone()),
        ("output", OUTPUT, leading),
        ("postrouting", POSTROUTING, leaving),
    ];
    Layout { sets: std::collections::BTreeMap::new(), chains: chains.into_iter().filter_map(chain).collect() }
}

fn is(from: Register, value: Vec<u8>) -> Expression {
    Expression::Compare { from, equal: true, value }
}

impl Rules {
    fn is_from(self, ip: IpAddr) -> Vec<Expression> {
        vec![self.source(R0), is(R0, octets(ip))]
    }

    fn is_to(self, ip: IpAddr) -> Vec<Expression> {
        vec![self.destination(R0), is(R0, octets(ip))]
    }

    /// Matches an address, which `load` loads, that is in `net`.
    fn in_net(load: Expression, net: &IpNet) -> Vec<Expression> {
        Self::of_net(load, net, true)
    }

    /// The same, or with `equal` false one that is not.
    fn of_net(load: Expression, net: &IpNet, equal: bool) -> Vec<Expression> {
        let mask = octets(net.netmask());
        let xor = vec![0; mask.len()];
        let value = octets(net.network());
        vec![
            load,
            Expression::Bitwise { from: R0, to: R0, mask, xor },
            Expression::Compare { from: R0, equal, value },
        ]
    }

    fn holds(self, condition: &Condition) -> Vec<Expression> {
        let equal = condition.equal;
        let called = |value: Vec<u8>| {
            let load = Expression::Meta { key: Meta::InputName, to: R0 };
            vec![load, Expression::Compare { from: R0, equal, value }]
        };
        match &condition.what {
            Matched::Source(net) => Self::of_net(self.source(R0), net, equal),
            Matched::Destination(net) => Self::of_net(self.destination(R0), net, equal),
            Matched::Link(name) => called(link_name(name)),
            Matched::Links(beginning) => called(beginning.clone().into_bytes()),
        }
    }

    fn to_port(protocol: u8, port: u16) -> Vec<Expression> {
        vec![
            Expression::Meta { key: Meta::L4Proto, to: R0 },
            is(R0, vec![protocol]),
            destination_port(R0),
            is(R0, port.to_be_bytes().to_vec()),
        ]
    }

    fn elsewhere(self, source: IpAddr, inside: &IpNet) -> Vec<Rule> {
        let accept = vec![Expression::Verdict(Verdict::Accept)];
        let near = Self::in_net(self.destination(R0), inside);
        let many = Self::in_net(self.destination(R0), &multicast(self.family));
        let rest = vec![Expression::Counter, Expression::Masquerade];
        vec![
            rule("inside of its network", [self.is_from(source), near, accept.clone()].concat()),
            rule("to many", [self.is_from(source), many, accept].concat()),
            rule("to elsewhere", [self.is_from(source), rest].concat()),
        ]
    }

    fn lead(self, port: &HostPort) -> Rule {
        let at = match port.address {
            Some(ip) => self.is_to(ip),
            None => {
                let here = is(R0, LOCAL_ADDRESS.to_ne_bytes().to_vec());
                let mut at = vec![Expression::DestinationType { to: R0 }, here];
                if self.family == IpFamily::V6 {
                    // No packet leaves loopback in IPv6, whatever its destination becomes.
                    let value = std::net::Ipv6Addr::LOCALHOST.octets().to_vec();
                    at.extend([self.destination(R0), Expression::Compare { from: R0, equal: false, value }]);
                }
                at
            }
        };
        let (address, behind) = (R0, self.behind_address(R0));
        let to = [
            Expression::Counter,
            Expression::Immediate { to: address, value: octets(port.to.ip()) },
            Expression::Immediate { to: behind, value: port.to.port().to_be_bytes().to_vec() },
            Expression::Dnat { family: number(self.family), address, port: behind },
        ];
        let conditions = port.conditions.iter().flat_map(|one| self.holds(one)).collect();
        rule(
            &format!("port {} of the host", port.port),
            [at, Self::to_port(port.protocol, port.port), conditions, to.to_vec()].concat(),
        )
    }

    fn own(self, port: &HostPort) -> Vec<Rule> {
        let container = port.to.ip();
        let status = vec![
            Expression::Connection { key: Connection::Status, to: R0 },
            Expression::Bitwise {
                from: R0,
                to: R0,
                mask: TRANSLATED.to_ne_bytes().to_vec(),
                xor: vec![0; size_of_val(&TRANSLATED)],
            },
            Expression::Compare { from: R0, equal: false, value: vec![0; size_of_val(&TRANSLATED)] },
        ];
        let arrives = [self.is_to(container), Self::to_port(port.protocol, port.to.port()), status].concat();
        let masquerade = |comment: &str, from: Vec<Expression>| {
            let rest = vec![Expression::Counter, Expression::Masquerade];
            rule(comment, [arrives.clone(), from, rest].concat())
        };
        match port.masquerade {
            Masqueraded::None => Vec::new(),
            Masqueraded::All => vec![masquerade("from everywhere", Vec::new())],
            Masqueraded::Own => {
                let mut rules = vec![masquerade("from itself", self.is_from(container))];
                if self.family == IpFamily::V4 {
                    let loopback = IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8));
                    rules.push(masquerade("from loopback", Self::in_net(self.source(R0), &loopback)));
                }
                rules
            }
        }
    }
}

/// The addresses of many (RFC 5771, RFC 4291 section 2.7).
const fn multicast(family: IpFamily) -> IpNet {
    match family {
        IpFamily::V4 => IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(224, 0, 0, 0), 4)),
        IpFamily::V6 => {
            IpNet::V6(dyad_net::Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8))
        }
    }
}
