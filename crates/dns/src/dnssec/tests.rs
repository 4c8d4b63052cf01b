//! A root of our own, over loopback.

use std::sync::Arc;

use dyad_net::IpFamily;
use hickory_net::proto::rr::RecordType;

use super::{AnchorsError, read};
use crate::chain::{Chain, World};
use crate::corefile::{Corefile, Disk};
use crate::forward::tests::server::{Say, Server};
use crate::forward::tests::{dice, query};
use crate::wire::{Edns, EdnsOption, Message, Rcode, Rdata, Rtype};

mod zone;

use zone::{Zone, a, alias, name};

/// Signed: the root, with `child.`. Not signed: `plain.`.
fn zones() -> Vec<Zone> {
    let (mut root, mut child, mut plain) =
        (Zone::new(".", true), Zone::new("child.", true), Zone::new("plain.", false));
    root.delegate(&child);
    root.delegate(&plain);
    for owner in ["www.test.", "changed.test.", "old.test.", "early.test.", "naked.test.", "*.wild.test."] {
        root.add(owner, a(1));
    }
    root.add("to-child.test.", alias("www.child."));
    root.add("to-plain.test.", alias("www.plain."));
    root.add("to-changed.test.", alias("changed.test."));
    root.add("to-gone.test.", alias("gone.test."));
    root.add("round.test.", alias("round.test."));
    root.add("own.wild.test.", a(4));
    root.add("*.alias.test.", alias("www.child."));
    root.add("d.test.", zone::dname("child."));
    child.add("www.child.", a(2));
    plain.add("www.plain.", a(3));
    for zone in [&mut root, &mut child, &mut plain] {
        zone.sign();
    }
    root.set("changed.test.", RecordType::A)[0].data = a(66);
    root.sign_set(&name("old.test."), RecordType::A, -2, -1);
    root.sign_set(&name("early.test."), RecordType::A, 1, 2);
    root.set("naked.test.", RecordType::A).truncate(1);
    vec![root, child, plain]
}

struct Rig {
    server: Server,
    chain: Arc<Chain>,
    _anchors: tempfile::NamedTempFile,
}

/// A chain that validates, over a resolver whose answers `change` may spoil.
async fn rig(
    zones: Vec<Zone>,
    more: &str,
    change: impl Fn(&[Zone], &mut Message) + Send + Sync + 'static,
) -> Rig {
    let anchors = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(anchors.path(), zones[0].anchor()).unwrap();
    let server = Server::start(IpFamily::V6, move |heard| {
        let mut answer = zone::resolve(&zones, &heard.query);
        change(&zones, &mut answer);
        vec![Say::Answer(answer)]
    })
    .await;
    let text =
        format!(". {{\nforward . {} {{\ndnssec {}\n}}\n{more}\n}}", server.at, anchors.path().display());
    let parsed = Corefile::parse("Corefile", &text, &Disk::default()).unwrap();
    let world = World { cluster: None, usable: Arc::new(|_| true), dice: dice(5) };
    let chain = Arc::new(Chain::new(&parsed.servers[0], world, None).unwrap());
    Rig { server, chain, _anchors: anchors }
}

impl Rig {
    async fn ask(&self, text: &str, rtype: Rtype, change: impl FnOnce(&mut Message)) -> Message {
        let mut query = query(text, rtype);
        query.edns = Some(Edns { dnssec_ok: true, ..Edns::default() });
        change(&mut query);
        self.chain.answer(&query, "fd00::7".parse().unwrap()).await
    }
}

/// AD, the code or the addresses, and the extended error.
fn text(answer: &Message) -> String {
    let mut words = Vec::new();
    if answer.header.authentic_data {
        words.push("AD".to_owned());
    }
    let address = |data: &Rdata| match data {
        Rdata::A(ip) => Some(ip.to_string()),
        Rdata::Aaaa(ip) => Some(ip.to_string()),
        _ => None,
    };
    words.extend(answer.answers.iter().filter_map(|record| address(&record.data)));
    if !answer.answers.iter().any(|record| address(&record.data).is_some()) {
        words.push(answer.header.rcode.to_string());
    }
    for option in answer.edns.iter().flat_map(|edns| &edns.options) {
        if let EdnsOption::Error(code, _) = option {
            words.push(format!("EDE {code}"));
        }
    }
    words.join(" ")
}

#[rustfmt::skip]
const ROWS: &[(Rtype, &str, &str)] = &[
    (Rtype::A,    "www.test.",        "AD 192.0.2.1"),
    (Rtype::A,    "WWW.child.",       "AD 192.0.2.2"),
    (Rtype::AAAA, "www.child.",       "AD NOERROR"),
    (Rtype::A,    "gone.test.",       "AD NXDOMAIN"),
    (Rtype::A,    "a.gone.child.",    "AD NXDOMAIN"),
    (Rtype::A,    "test.",            "AD NOERROR"),
    (Rtype::DS,   "child.",           "AD NOERROR"),
    (Rtype::DS,   "plain.",           "AD NOERROR"),
    (Rtype::A,    "x.wild.test.",     "AD 192.0.2.1"),
    (Rtype::AAAA, "x.wild.test.",     "AD NOERROR"),
    // RFC 4035 §5.2: the delegation has no DS.
    (Rtype::A,    "www.plain.",       "192.0.2.3"),
    (Rtype::AAAA, "www.plain.",       "NOERROR"),
    (Rtype::A,    "gone.plain.",      "NXDOMAIN"),
    // An answer is as good as its worst link.
    (Rtype::A,    "to-child.test.",   "AD 192.0.2.2"),
    (Rtype::A,    "to-plain.test.",   "192.0.2.3"),
    (Rtype::A,    "to-gone.test.",    "AD NXDOMAIN"),
    (Rtype::A,    "to-changed.test.", "SERVFAIL EDE 6"),
    (Rtype::A,    "x.alias.test.",    "AD 192.0.2.2"),
    (Rtype::A,    "www.d.test.",      "AD 192.0.2.2"),
    (Rtype::A,    "changed.test.",    "SERVFAIL EDE 6"),
    (Rtype::A,    "old.test.",        "SERVFAIL EDE 6"),
    (Rtype::A,    "early.test.",      "SERVFAIL EDE 6"),
    (Rtype::A,    "naked.test.",      "SERVFAIL EDE 6"),
    (Rtype::A,    "round.test.",      "SERVFAIL EDE 23"),
];

#[tokio::test]
async fn answers_are_what_their_proofs_say() {
    let rig = rig(zones(), "", |_, _| ()).await;
    for (rtype, asked, want) in ROWS {
        assert_eq!(text(&rig.ask(asked, *rtype, |_| ()).await), *want, "{rtype} {asked}");
    }
    let heard = rig.server.heard();
    assert!(heard.iter().all(|heard| heard.query.header.checking_disabled
        && heard.query.edns.as_ref().is_some_and(|edns| edns.dnssec_ok)));
    let keys = heard.iter().filter(|heard| heard.query.questions[0].rtype == Rtype::DNSKEY).count();
    assert_eq!(keys, 2, "keys are remembered");
}

#[tokio::test]
async fn clients_get_what_they_ask_for() {
    let rig = rig(zones(), "cache", |_, _| ()).await;
    let plain = |query: &mut Message| query.edns = None;
    let rtypes = |answer: &Message| {
        let all = answer.answers.iter().chain(&answer.authority);
        all.map(|record| record.rtype().to_string()).collect::<Vec<_>>().join(" ")
    };
    // Twice: the second time from memory.
    for _ in 0..2 {
        // RFC 4035 §3.2.1, RFC 6840 §5.8.
        let answer = rig.ask("www.test.", Rtype::A, |_| ()).await;
        assert_eq!((text(&answer).as_str(), rtypes(&answer).as_str()), ("AD 192.0.2.1", "A RRSIG"));
        let answer = rig.ask("www.test.", Rtype::A, plain).await;
        assert_eq!((text(&answer).as_str(), rtypes(&answer).as_str()), ("192.0.2.1", "A"));
        let answer = rig.ask("gone.test.", Rtype::A, plain).await;
        assert_eq!((text(&answer).as_str(), rtypes(&answer).as_str()), ("NXDOMAIN", "SOA"));
        let understands = |query: &mut Message| {
            query.edns = None;
            query.header.authentic_data = true;
        };
        assert_eq!(text(&rig.ask("www.test.", Rtype::A, understands).await), "AD 192.0.2.1");
        let answer = rig.ask("www.test.", Rtype::NSEC, plain).await;
        assert_eq!(rtypes(&answer), "NSEC", "what is asked for is no extra");
        // RFC 4035 §3.2.2: who checks himself gets what there is.
        let checks = |query: &mut Message| query.header.checking_disabled = true;
        assert_eq!(text(&rig.ask("changed.test.", Rtype::A, checks).await), "192.0.2.66");
        assert_eq!(rig.ask("changed.test.", Rtype::A, |_| ()).await.header.rcode, Rcode::SERVFAIL);
    }
}

#[tokio::test]
async fn rfc_6147_5_5_nothing_is_made_without_the_proof_that_there_is_no_aaaa() {
    let rig = rig(zones(), "cache\ndns64 64:ff9b:1:fffe::/96", |_, answer| {
        // Somebody denies an IPv6 address.
        let question = &answer.questions[0];
        if question.rtype == Rtype::AAAA && question.name == "www.child.".parse().unwrap() {
            answer.authority.clear();
        }
    })
    .await;
    for _ in 0..2 {
        for (asked, want) in [
            ("www.test.", "64:ff9b:1:fffe::c000:201"),
            ("www.plain.", "64:ff9b:1:fffe::c000:203"),
            ("www.child.", "SERVFAIL"),
        ] {
            let answer = rig.ask(asked, Rtype::AAAA, |query| query.edns = None).await;
            assert_eq!(text(&answer), want, "{asked}");
            let answer = rig.ask(asked, Rtype::AAAA, |_| ()).await;
            assert!(!answer.header.authentic_data, "{asked}");
        }
    }
}

/// Puts the answer for another name in the place of one.
fn forge(zones: &[Zone], answer: &mut Message, of: &str) {
    let mut other = zone::resolve(zones, &query(of, Rtype::A));
    let asked = answer.questions[0].name.clone();
    for record in other.answers.iter_mut().filter(|record| record.name == of.parse().unwrap()) {
        if of.contains("wild") {
            record.name = asked.clone();
        }
    }
    (other.header.id, other.questions) = (answer.header.id, answer.questions.clone());
    *answer = other;
}

#[tokio::test]
async fn what_others_are_worth_makes_no_answer_better() {
    type Forge = fn(&[Zone], &mut Message);
    /// Proofs that are true, and not of the question.
    const FORGERIES: &[(&str, &str, Forge)] = &[
        ("the signature is gone", "www.test.", |_, answer| {
            answer.answers.retain(|record| record.signed().is_none());
        }),
        ("the answer is gone", "www.test.", |_, answer| answer.answers.clear()),
        ("there is no such name", "www.test.", |_, answer| {
            answer.answers.clear();
            answer.header.rcode = Rcode::NXDOMAIN;
        }),
        ("an insecure zone denies it", "www.test.", |zones, answer| forge(zones, answer, "gone.plain.")),
        ("an insecure name answers", "www.test.", |zones, answer| forge(zones, answer, "www.plain.")),
        ("another secure name answers", "www.test.", |zones, answer| forge(zones, answer, "www.child.")),
        ("another secure name is denied", "www.test.", |zones, answer| forge(zones, answer, "gone.test.")),
        ("a DNAME leads to another name", "www.d.test.", |_, answer| {
            answer.answers[2].data = Rdata::Cname("www.plain.".parse().unwrap());
        }),
        ("a wildcard stands in", "own.wild.test.", |zones, answer| forge(zones, answer, "x.wild.test.")),
        ("a wildcard stands in, and an insecure zone says so", "own.wild.test.", |zones, answer| {
            forge(zones, answer, "x.wild.test.");
            answer.authority.retain(|record| record.rtype() == Rtype::NSEC);
            answer.authority[0].name = "plain.".parse().unwrap();
        }),
    ];
    for (what, asked, change) in FORGERIES {
        let rig = rig(zones(), "", |zones, answer| {
            if answer.questions[0] == query(asked, Rtype::A).questions[0] {
                change(zones, answer);
            }
        })
        .await;
        assert_eq!(text(&rig.ask(asked, Rtype::A, |_| ()).await), "SERVFAIL EDE 6", "{what}");
    }
}

#[tokio::test]
async fn failures_of_upstreams_are_theirs() {
    let rig = rig(zones(), "", |_, answer| *answer = answer.response(Rcode::REFUSED)).await;
    assert_eq!(text(&rig.ask("www.test.", Rtype::A, |_| ()).await), "REFUSED");
}

#[test]
fn anchors_are_needed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let read = |text: &str| {
        std::fs::write(file.path(), text).unwrap();
        read(file.path().to_str().unwrap())
    };
    assert!(read(&zones()[0].anchor()).is_ok());
    assert!(matches!(read("; nothing\n"), Err(AnchorsError::Empty(_))));
    assert!(matches!(read("www.test. 300 IN A 192.0.2.1\n"), Err(AnchorsError::File(..))));
    assert!(matches!(super::read("/none"), Err(AnchorsError::File(..))));
}
