//! What the way past the snapshot needs of queries as they come.

use super::query::Query;
use super::reply::Reply;
use super::{Client, Rules, cookie};
use crate::cache::Asked;
use crate::respond::Transport;
use crate::wire::{Class, Cookie, EdnsOption, MAX_MESSAGE, Message, Name, Rcode, Rtype};

/// The question of a query that can be answered: its name in lower case.
pub fn question(packet: &[u8]) -> Option<(Name, Rtype)> {
    let query = Query::read(packet).ok().filter(|query| query.class == Class::IN)?;
    Some((Name::from_wire(query.name.from(0)).ok()?, query.rtype))
}

/// Gives a query to `answer` in the form a cache takes, with the OPT record to answer it with.
pub fn with_asked<T>(
    packet: &[u8],
    rules: &Rules,
    client: &Client,
    answer: impl FnOnce(&Asked<'_>) -> Option<T>,
) -> Option<T> {
    let query = Query::read(packet).ok()?;
    let edns = query.edns.as_ref().map(|edns| edns.dnssec_ok);
    let mut buffer = Vec::new();
    let mut at = 0;
    if query.opt_size(rules, client.transport) > super::query::OPT {
        let mut reply = Reply::new(&mut buffer, query.header, &[], MAX_MESSAGE);
        at = reply.len();
        query.put_opt(&mut reply, rules, client, Rcode::NOERROR, None);
    }
    let question = query.question;
    let name = question.get(..question.len().checked_sub(4)?)?;
    answer(&Asked {
        id: query.header.id,
        recursion_desired: query.header.recursion_desired,
        authentic_data: query.header.authentic_data,
        checking_disabled: query.header.checking_disabled,
        name,
        rtype: query.rtype,
        class: query.class,
        edns,
        opt: &buffer[at..],
        limit: query.limit(client.transport),
    })
}

/// Adds to a response what its OPT record owes the query's.
pub fn dress(packet: &[u8], rules: &Rules, client: &Client, response: &mut Message) {
    let (Ok(query), Some(edns)) = (Query::read(packet), &mut response.edns) else { return };
    let Some(asked) = &query.edns else { return };
    if asked.gives_nsid(rules) {
        edns.options.push(EdnsOption::Nsid(super::query::nsid(rules).into()));
    }
    if asked.keepalive && client.transport == Transport::Tcp {
        edns.options.push(EdnsOption::Keepalive(Some(rules.keepalive)));
    }
    if let (Some((ours, _)), Some(secret)) = (asked.cookie, &rules.cookie_secret) {
        let server = cookie::make(secret, ours, client.peer.ip(), client.now);
        edns.options.push(EdnsOption::Cookie(Cookie { client: *ours, server: server.into() }));
    }
}
