//! Queries that nobody meant, for some seconds.

use std::time::{Duration, Instant};

use super::*;
use crate::wire::tests::Dice;

/// Whatever comes, what is sent is a response to it, within its bounds.
#[test]
fn any_query_gets_a_response_or_nothing() {
    let snapshot = synced(|_| {});
    let rules =
        Rules { nsid: [b'x'; 80].into(), cookie_secret: Some([7; 16]), keepalive: 80, synthesize: false };
    let names = [
        "svc1.testns.svc.cluster.local",
        "hdls1.testns.svc.cluster.local",
        "big.testns.svc.cluster.local",
        "_http._tcp.hdls1.testns.svc.cluster.local",
        "_http._tcp.big.testns.svc.cluster.local",
        "cluster.local",
        "inside.testns.svc.cluster.local",
        "4.1.0.10.in-addr.arpa",
        "10-0-0-1.testns.pod.cluster.local",
        "example.com",
    ];
    let types =
        [Rtype::A, Rtype::AAAA, Rtype::SRV, Rtype::PTR, Rtype::NS, Rtype::SOA, Rtype::TXT, Rtype::ANY];
    let options = vec![
        EdnsOption::Cookie(Cookie { client: [1; 8], server: [2; 16].into() }),
        EdnsOption::Nsid(Box::default()),
        EdnsOption::Keepalive(None),
    ];
    let mut seeds = Vec::new();
    for asked in names {
        for rtype in types {
            for edns in [None, Some(Edns { udp_size: 800, options: options.clone(), ..Edns::default() })] {
                seeds.push(Message { edns, ..query(asked, rtype) }.to_bytes());
            }
        }
    }
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let (mut out, mut counts) = (Vec::new(), [0; 3]);
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        for _ in 0..100 {
            let mut packet = seeds[dice.roll(seeds.len())].clone();
            if dice.roll(4) > 0 {
                dice.mutate(&mut packet);
            }
            let transport = if dice.roll(2) == 0 { Transport::Udp } else { Transport::Tcp };
            let client = Client { random: dice.roll(1 << 20) as u32, ..client(transport) };
            let outcome = respond(&snapshot, &rules, &packet, &client, &mut out);
            counts[outcome.verdict as usize] += 1;
            if outcome.verdict == Verdict::Reply {
                check(&packet, transport, &outcome, &out);
            }
            if refuse(&packet, Rcode::SERVFAIL, false, &mut out) {
                check(&packet, Transport::Udp, &Outcome { rcode: Rcode::SERVFAIL, ..outcome }, &out);
            }
        }
    }
    assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
}

fn check(packet: &[u8], transport: Transport, outcome: &Outcome, out: &[u8]) {
    let response = Message::parse(out).unwrap_or_else(|error| panic!("{error}: {packet:?}"));
    assert!(response.header.response && response.header.recursion_available);
    assert_eq!(out[..2], packet[..2]);
    assert_eq!(response.header.rcode, outcome.rcode);
    assert_eq!(response.header.opcode.0, packet[2] >> 3 & 15);
    // The question, to the byte.
    if let [question] = &*response.questions {
        let length = question.name.as_wire().len() + 4;
        assert_eq!(out[12..][..length], packet[12..][..length], "{packet:?}");
    }
    let edns = Message::parse(packet).ok().and_then(|query| query.edns);
    let limit = match (transport, &edns) {
        (Transport::Tcp, _) => MAX_MESSAGE,
        (Transport::Udp, Some(edns)) => edns.udp_size.clamp(MIN_UDP_SIZE, UDP_SIZE).into(),
        // What we read of a query is less than what a whole parser does.
        (Transport::Udp, None) => UDP_SIZE.into(),
    };
    assert!(out.len() <= limit, "{} of {limit}: {packet:?}", out.len());
    let is_plain = response.header.opcode == Opcode::QUERY && packet[4..6] == [0, 1];
    if is_plain && response.header.rcode != Rcode::FORMERR && edns.is_some() {
        assert!(response.edns.is_some() || outcome.verdict != Verdict::Reply, "{packet:?}");
    }
    // RFC 8482: nothing to be had for nothing.
    if outcome.rtype == Rtype::ANY && response.header.rcode == Rcode::NOERROR {
        assert!(out.len() <= packet.len() + 180, "{} for {}", out.len(), packet.len());
    }
}
