//! The chains that take queries out of connection tracking.
//!
//! ```text
//! prerouting (raw)    UDP port 53 to @intercepted, not from @spared -> untracked
//! output (raw)        the same, and UDP from port 53 of @served -> untracked
//! ```
//!
//! What is not tracked is not translated either: it comes to the addresses themselves.
//!
//! Answers have a set of their own, which outlasts that of queries: one that was tracked would make a connection of
//! which the next query of its client were a part, and so come here again, whoever is here then.

use dyad_net::IpFamily;

use super::rules::{R0, destination_port, look_up, rule, source_port};
use super::{Chain, ChainKind, Hook, Layout, Rule, Rules, SetId, SetShape};
use crate::expression::{Expression, Found, Meta};

/// Before connection tracking, which is at -200.
const RAW: i32 = -300;
const PREROUTING: Hook = Hook { kind: ChainKind::Filter, number: 0, priority: RAW };
const OUTPUT: Hook = Hook { kind: ChainKind::Filter, number: 3, priority: RAW };
const UDP: u8 = 17;
const DNS: u16 = 53;

impl Layout {
    /// That of a table of an [`Interception`](crate::Interception).
    pub(crate) fn of_interception(family: IpFamily) -> Self {
        let sets = [SetId::Intercepted, SetId::Served, SetId::Spared];
        let shape = |id: SetId| (id.name().into_owned(), SetShape::new(id, family, None));
        let rules = Rules { family };
        let (queries, answers) = (rules.queries(), rules.answers());
        let chains = [
            ("prerouting", PREROUTING, vec![queries.clone()]),
            // Of processes of this node.
            ("output", OUTPUT, vec![queries, answers]),
        ];
        let chain = |(name, hook, rules): (&str, _, _)| (name.to_owned(), Chain { hook: Some(hook), rules });
        Self { sets: sets.into_iter().map(shape).collect(), chains: chains.into_iter().map(chain).collect() }
    }
}

impl Rules {
    fn queries(self) -> Rule {
        let of_all = [
            self.destination(R0),
            look_up(SetId::Intercepted, R0, Found::Match),
            self.source(R0),
            look_up(SetId::Spared, R0, Found::NoMatch),
        ];
        rule("queries to the server of this node", untracked(destination_port(R0), &of_all))
    }

    fn answers(self) -> Rule {
        let of_all = [self.source(R0), look_up(SetId::Served, R0, Found::Match)];
        rule("its answers", untracked(source_port(R0), &of_all))
    }
}

/// What is UDP, has the port of DNS in `port` and fits, too, is not tracked.
fn untracked(port: Expression, fits: &[Expression]) -> Vec<Expression> {
    let is_dns = [
        Expression::Meta { key: Meta::L4Proto, to: R0 },
        Expression::Compare { from: R0, equal: true, value: vec![UDP] },
        port,
        Expression::Compare { from: R0, equal: true, value: DNS.to_be_bytes().to_vec() },
    ];
    [&is_dns, fits, &[Expression::Counter, Expression::Untracked]].concat()
}
