//! Tables of others: what stands in the way of packets that pass, and what is left of other networks. Looked at, never touched.
//!
//! A packet passes only if every chain at its hook lets it: what ours accept, a firewall of the host may still drop. Tables
//! that `iptables-nft` makes are among these; those of `iptables-legacy` are not in nf_tables and are not seen.

use std::collections::BTreeSet;

use dyad_net::{IpFamily, IpNet};

use crate::attribute::{Writer, attributes, find, find_text, find_u32};
use crate::batch::{
    CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TYPE, HOOK_NUMBER, RULE_CHAIN, RULE_EXPRESSIONS, TABLE_NAME,
};
use crate::element::octets;
use crate::expression::{
    CMP_DATA, CMP_EQ, CMP_OPERATION, DATA_VALUE, DATA_VERDICT, EXPR_DATA, EXPR_NAME, IMMEDIATE_DATA,
    NF_ACCEPT, NF_DROP, PAYLOAD_OFFSET, VERDICT_CHAIN, VERDICT_CODE,
};
use crate::socket::{GET_CHAIN, GET_RULE, ListError, Socket};
use crate::{DNS_TABLE, Error, Result, TABLE};

/// How often is listed again what changes meanwhile.
const ATTEMPTS: usize = 16;
/// Families of tables that packets of IP pass, by the kernel's number, their name, and the packets in them.
const FAMILIES: [(u8, &str, &[IpFamily]); 3] =
    [(1, "inet", &IpFamily::BOTH), (2, "ip", &[IpFamily::V4]), (10, "ip6", &[IpFamily::V6])];
/// Hooks that packets from pods and to them pass: `NF_INET_PRE_ROUTING`, `NF_INET_FORWARD`.
const HOOKS: [(u32, &str); 2] = [(0, "prerouting"), (2, "forward")];

/// A chain of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chain {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
}

/// What others have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// All of their chains.
    pub chains: BTreeSet<Chain>,
    /// Those that end in dropping or rejecting, in tables that nowhere accept what comes from pods and what goes to them; with
    /// the hook.
    pub closed: BTreeSet<(Chain, &'static str)>,
}

/// A rule of somebody else's, as far as it matters.
struct Rule {
    chain: String,
    /// What it does in the end: `NF_ACCEPT`, `NF_DROP`.
    verdict: Option<u32>,
    /// The chain where it goes on, as those of zones do.
    to: Option<String>,
    has_conditions: bool,
    /// What it compares: the place in the header, and the value.
    compared: Vec<(u32, Vec<u8>)>,
}

/// A base chain in the way of pods.
struct Base {
    number: u8,
    chain: Chain,
    hook: &'static str,
    families: &'static [IpFamily],
    drops: bool,
}

/// Looks at the calling thread's network namespace, where pods are in `pods`.
pub fn look(pods: &[IpNet]) -> Result<Others> {
    let mut socket = Socket::open()?;
    for _ in 0..ATTEMPTS {
        match try_look(&mut socket, pods) {
            Ok(found) => return Ok(found),
            Err(ListError::Interrupted | ListError::Gone) => {}
            Err(ListError::Failed(error)) => return Err(error),
        }
    }
    Err(Error::Contended)
}

fn try_look(socket: &mut Socket, pods: &[IpNet]) -> std::result::Result<Others, ListError> {
    let (mut others, mut bases) = (Others::default(), Vec::new());
    socket.list(
        "listing chains",
        GET_CHAIN,
        0,
        |_| {},
        |number, object| {
            let family = FAMILIES.iter().find(|(of, ..)| *of == number);
            let names = find_text(object, TABLE_NAME).zip(find_text(object, CHAIN_NAME));
            let Some(((_, family, families), (table, name))) = family.zip(names) else { return };
            if [TABLE, DNS_TABLE].contains(&table) {
                return;
            }
            let chain = Chain { family, table: table.to_owned(), name: name.to_owned() };
            let at = find(object, CHAIN_HOOK).and_then(|hook| find_u32(hook, HOOK_NUMBER));
            let hook = HOOKS.iter().find(|(number, _)| Some(*number) == at);
            if let Some((_, hook)) = hook.filter(|_| find_text(object, CHAIN_TYPE) == Some("filter")) {
                let drops = find_u32(object, CHAIN_POLICY) == Some(NF_DROP);
                bases.push(Base { number, chain: chain.clone(), hook, families, drops });
            }
            others.chains.insert(chain);
        },
    )?;
    for base in bases {
        let rules = rules(socket, base.number, &base.chain.table)?;
        let last = rules.iter().rfind(|rule| rule.chain == base.chain.name);
        let ends_closed = last.is_some_and(|rule| !rule.has_conditions && rule.verdict == Some(NF_DROP));
        let of_pods = pods.iter().filter(|range| base.families.contains(&IpFamily::from(**range)));
        let mut of_pods = of_pods.peekable();
        if (base.drops || ends_closed)
            && of_pods.peek().is_some()
            && !of_pods.all(|range| accepts(&rules, range))
        {
            others.closed.insert((base.chain, base.hook));
        }
    }
    Ok(others)
}

fn rules(socket: &mut Socket, number: u8, table: &str) -> std::result::Result<Vec<Rule>, ListError> {
    let mut rules = Vec::new();
    let filter = |message: &mut Writer| message.put_text(TABLE_NAME, table);
    socket.list("listing rules", GET_RULE, number, filter, |family, object| {
        if family == number && find_text(object, TABLE_NAME) == Some(table) {
            rules.push(read(object));
        }
    })?;
    Ok(rules)
}

/// Reads a rule; expressions that are not known are conditions.
fn read(object: &[u8]) -> Rule {
    let chain = find_text(object, RULE_CHAIN).unwrap_or_default().to_owned();
    let mut rule = Rule { chain, verdict: None, to: None, has_conditions: false, compared: Vec::new() };
    let mut offset = None;
    for (_, expression) in attributes(find(object, RULE_EXPRESSIONS).unwrap_or_default()) {
        let data = find(expression, EXPR_DATA).unwrap_or_default();
        match find_text(expression, EXPR_NAME) {
            Some("immediate") => {
                let verdict = find(data, IMMEDIATE_DATA).and_then(|of| find(of, DATA_VERDICT));
                rule.verdict = verdict.and_then(|of| find_u32(of, VERDICT_CODE));
                rule.to = verdict.and_then(|of| find_text(of, VERDICT_CHAIN)).map(str::to_owned);
            }
            Some("reject") => rule.verdict = Some(NF_DROP),
            Some("counter" | "log") => {}
            Some("payload") => (offset, rule.has_conditions) = (find_u32(data, PAYLOAD_OFFSET), true),
            Some("cmp") => {
                let is_equal = find_u32(data, CMP_OPERATION) == Some(CMP_EQ);
                let value = find(data, CMP_DATA).filter(|_| is_equal).and_then(|of| find(of, DATA_VALUE));
                rule.compared.extend(offset.zip(value.map(<[u8]>::to_vec)));
                rule.has_conditions = true;
            }
            // Rules of iptables-nft reject so.
            Some("target") if data.windows(7).any(|part| part == b"REJECT\0") => rule.verdict = Some(NF_DROP),
            Some(_) | None => rule.has_conditions = true,
        }
    }
    rule
}

/// Whether there are rules that accept what comes from `range`, and what goes there.
fn accepts(rules: &[Rule], range: &IpNet) -> bool {
    // Where a header has its source and destination (RFC 791 §3.1, RFC 8200 §3).
    let places = match IpFamily::from(*range) {
        IpFamily::V4 => [12, 16],
        IpFamily::V6 => [8, 24],
    };
    let network = octets(range.network());
    // Whole octets are compared, or, where the range has bits of one more, all of a masked address.
    let length = usize::from(range.prefix_len());
    let fits =
        |value: &[u8]| value.len() <= length.div_ceil(8) || length % 8 != 0 && value.len() == network.len();
    let names =
        |(at, value): &(u32, Vec<u8>), place| *at == place && network.starts_with(value) && fits(value);
    // Itself, or by a chain that accepts everything (the zone `trusted` of firewalld).
    let is_open = |chain: &String| {
        let mut all = rules.iter().filter(|rule| rule.chain == *chain && !rule.has_conditions);
        all.any(|rule| rule.verdict == Some(NF_ACCEPT))
    };
    let accepted = |place| {
        let does = |rule: &&Rule| rule.verdict == Some(NF_ACCEPT) || rule.to.as_ref().is_some_and(is_open);
        let mut rules = rules.iter().filter(does);
        rules.any(|rule| rule.compared.iter().any(|of| names(of, place)))
    };
    places.into_iter().all(accepted)
}
