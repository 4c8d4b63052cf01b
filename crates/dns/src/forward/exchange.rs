//! One query to one upstream, by whatever way it takes.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use super::query::{Incoming, Outgoing};
use super::upstream::Upstream;
use super::{Dice, udp};
use crate::corefile::{Forward, Transport};
use crate::wire::{Edns, Message, Rcode};

/// What came of a datagram.
enum Datagram {
    Answer(Box<Message>),
    /// Only a connection will do.
    Stream,
}

/// Asks, and returns what is the answer beyond doubt.
pub(super) async fn exchange(
    upstream: &Upstream,
    config: &Forward,
    query: &Message,
    dice: &Dice,
) -> io::Result<Message> {
    let mut by_stream = config.force_tcp || upstream.place().transport == Transport::Tls;
    let mut cookies_tried = 0;
    loop {
        let edns = !upstream.plain.load(Relaxed);
        let answer = if by_stream {
            over_stream(upstream, config, &outgoing(query, dice, edns)?).await?
        } else {
            let mut outgoing = outgoing(query, dice, edns)?;
            if config.random_case {
                outgoing = outgoing.with_random_case(&**dice);
            }
            let (client, server) = upstream.cookie();
            match over_udp(upstream, &outgoing.with_cookie(client, server)).await? {
                Datagram::Answer(answer) => *answer,
                Datagram::Stream => {
                    by_stream = true;
                    continue;
                }
            }
        };
        if let Some(cookie) = answer.edns.as_ref().and_then(Edns::cookie) {
            upstream.learn_cookie(&cookie.server);
        }
        match answer.header.rcode {
            // RFC 6891 §7: it does not know EDNS.
            Rcode::FORMERR | Rcode::NOTIMP if edns && answer.edns.is_none() => {
                upstream.plain.store(true, Relaxed);
            }
            // RFC 7873 §5.3: once with the cookie it gave, and then by a connection.
            Rcode::BADCOOKIE if !by_stream => {
                cookies_tried += 1;
                by_stream = cookies_tried > 1;
            }
            _ if answer.questions.is_empty() => {
                return Err(io::Error::other(format!(
                    "it answers {} without the question",
                    answer.header.rcode
                )));
            }
            _ => return Ok(answer),
        }
    }
}

fn outgoing(query: &Message, dice: &Dice, edns: bool) -> io::Result<Outgoing> {
    let question = query.question().ok_or(io::ErrorKind::InvalidInput)?;
    #[expect(clippy::cast_possible_truncation, reason = "any 16 bits of a random number")]
    Ok(Outgoing::new(query, question, dice() as u16, edns))
}

async fn over_udp(upstream: &Upstream, outgoing: &Outgoing) -> io::Result<Datagram> {
    let socket = udp::Socket::connect(upstream.place().at).await?;
    socket.send(&outgoing.message.to_bytes()).await?;
    let mut buffer = vec![0; udp::LARGEST];
    // Whoever guesses so often is given no more chances.
    for _ in 0..udp::GUESSES {
        let packet = socket.receive(&mut buffer).await?;
        match outgoing.check(packet) {
            Incoming::Answer(answer) if answer.header.truncated => {
                upstream.counters().truncated.fetch_add(1, Relaxed);
                return Ok(Datagram::Stream);
            }
            Incoming::Answer(answer) => return Ok(Datagram::Answer(answer)),
            Incoming::OtherCase => {
                upstream.counters().bogus.fetch_add(1, Relaxed);
                return Ok(Datagram::Stream);
            }
            Incoming::Bogus => {
                upstream.counters().bogus.fetch_add(1, Relaxed);
            }
        }
    }
    Ok(Datagram::Stream)
}

async fn over_stream(upstream: &Upstream, config: &Forward, outgoing: &Outgoing) -> io::Result<Message> {
    let packet = upstream.ask_stream(&outgoing.message.to_bytes(), config.expire).await?;
    match outgoing.check(&packet) {
        Incoming::Answer(answer) => Ok(*answer),
        Incoming::OtherCase | Incoming::Bogus => {
            upstream.counters().bogus.fetch_add(1, Relaxed);
            upstream.give_up_stream();
            Err(io::Error::other("what it answers does not belong to the question"))
        }
    }
}
