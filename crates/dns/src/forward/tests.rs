use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;

use dyad_net::IpFamily;

use super::*;
use crate::corefile::Policy;
use crate::wire::{Header, Rdata, Record, Rtype};

mod fuzz;
mod health;
pub(crate) mod server;
mod spoofing;
mod streams;

use server::{By, Heard, Say, Server};

/// Numbers that look random, and are the same each time.
pub(crate) fn dice(seed: u64) -> Dice {
    let state = AtomicU64::new(seed);
    Arc::new(move || {
        // SplitMix64.
        let mut z = state.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

pub(crate) fn query(text: &str, rtype: Rtype) -> Message {
    Message::new(Header::query(0x4711), Some(Question::new(text.parse().unwrap(), rtype)))
}

fn settings(to: &[SocketAddr]) -> corefile::Forward {
    let address = |at: &SocketAddr| corefile::Upstream::Address {
        transport: corefile::Transport::Dns,
        at: *at,
        link: None,
        name: None,
    };
    let mut settings = corefile::Forward::new(".", to.iter().map(address).collect());
    settings.policy = Policy::Sequential;
    settings.health_check = Duration::from_millis(20);
    settings
}

fn forwarder(to: &[SocketAddr], change: impl FnOnce(&mut corefile::Forward)) -> Forwarder {
    let mut settings = settings(to);
    change(&mut settings);
    Forwarder::new(settings, dice(1)).unwrap()
}

/// The answer a good server gives: an address made of the first letter of the name.
pub(crate) fn good(heard: &Heard) -> Message {
    let mut answer = heard.query.response(Rcode::NOERROR);
    let name = &heard.query.questions[0].name;
    let letter = name.labels().next().map_or(0, |label| label[0].to_ascii_lowercase());
    answer.answers.push(Record::new(name.clone(), 60, Rdata::A([192, 0, 2, letter].into())));
    answer
}

fn is_good(answer: &Message, letter: u8) -> bool {
    matches!(&*answer.answers, [record] if record.data == Rdata::A([192, 0, 2, letter].into()))
}

pub(crate) async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: never");
}

#[tokio::test]
async fn an_answer_is_the_querys() {
    for family in IpFamily::BOTH {
        let server = Server::start(family, |heard| vec![Say::Answer(good(heard))]).await;
        let forwarder = forwarder(&[server.at], |_| ());
        let mut ports = Vec::new();
        for at in 0..8 {
            let asked = query(&format!("a{at}.Example.org."), Rtype::A);
            let answer = forwarder.ask(&asked).await.unwrap();
            assert_eq!((answer.header.id, &answer.questions), (0x4711, &asked.questions));
            assert_eq!(
                answer.questions[0].name.as_wire(),
                asked.questions[0].name.as_wire(),
                "0x20 is undone"
            );
            assert!(is_good(&answer, b'a') && answer.edns.is_none());
            let heard = server.heard().pop().unwrap();
            assert_eq!(heard.by, By::Udp);
            assert_eq!(heard.query.edns.as_ref().unwrap().udp_size, 1232);
            ports.push((heard.from.port(), heard.query.header.id));
        }
        let names: Vec<_> =
            server.heard().iter().map(|heard| heard.query.questions[0].name.to_string()).collect();
        assert!(names.iter().any(|name| name != &name.to_lowercase()), "0x20: {names:?}");
        ports.sort_unstable();
        ports.dedup_by_key(|(port, _)| *port);
        assert!(ports.len() > 1, "RFC 5452 §9.2: ports differ: {ports:?}");
        let upstream = &forwarder.upstreams()[0];
        assert_eq!(upstream.counters().requests.load(Relaxed), 8);
        assert_eq!(upstream.counters().rcodes[0].load(Relaxed), 8);
        assert_eq!(upstream.counters().times.iter().map(|count| count.load(Relaxed)).sum::<u64>(), 8);
        assert!(upstream.srtt().is_some());
    }
}

#[tokio::test]
async fn queries_for_the_same_are_one() {
    let server = Server::start(IpFamily::V6, |heard| match heard.by {
        // Only when all have asked.
        By::Udp => vec![Say::Wait, Say::Answer(good(heard))],
        By::Tcp(_) => Vec::new(),
    })
    .await;
    let forwarder = forwarder(&[server.at], |_| ());
    let ask = |text: &'static str, id| {
        let (forwarder, mut asked) = (forwarder.clone(), query(text, Rtype::A));
        asked.header.id = id;
        tokio::spawn(async move { forwarder.ask(&asked).await.unwrap() })
    };
    let asked: Vec<_> = (0..10).map(|id| ask(if id % 2 == 0 { "x.test." } else { "X.test." }, id)).collect();
    eventually("all have asked", || forwarder.counters().coalesced.load(Relaxed) == 9).await;
    server.go_on();
    for (id, answer) in (0..10).zip(asked) {
        let answer = answer.await.unwrap();
        assert_eq!(answer.header.id, id);
        let name = if id % 2 == 0 { "x.test." } else { "X.test." };
        assert_eq!(answer.questions[0].name.to_string(), name);
    }
    assert_eq!(forwarder.upstreams()[0].counters().requests.load(Relaxed), 1);
    // When it is over, the next one asks anew.
    server.go_on();
    forwarder.ask(&query("x.test.", Rtype::A)).await.unwrap();
    assert_eq!(forwarder.upstreams()[0].counters().requests.load(Relaxed), 2);
}

#[tokio::test]
async fn no_more_than_so_many_are_under_way() {
    let server = Server::start(IpFamily::V4, |heard| vec![Say::Wait, Say::Answer(good(heard))]).await;
    let forwarder = forwarder(&[server.at], |settings| settings.max_concurrent = Some(1));
    let (first, other) = (query("a.test.", Rtype::A), query("b.test.", Rtype::A));
    let waiting = tokio::spawn({
        let (forwarder, first) = (forwarder.clone(), first.clone());
        async move { forwarder.ask(&first).await }
    });
    eventually("the first is under way", || !server.heard().is_empty()).await;
    assert_eq!(forwarder.ask(&other).await, Err(ForwardError::Overloaded(1)));
    assert_eq!(forwarder.counters().rejected.load(Relaxed), 1);
    server.go_on();
    assert!(is_good(&waiting.await.unwrap().unwrap(), b'a'));
    server.go_on();
    assert!(is_good(&forwarder.ask(&other).await.unwrap(), b'b'));
}

#[tokio::test]
async fn a_code_leads_to_the_next_upstream_if_it_is_to() {
    let bad =
        Server::start(IpFamily::V4, |heard| vec![Say::Answer(heard.query.response(Rcode::SERVFAIL))]).await;
    let fine = Server::start(IpFamily::V6, |heard| vec![Say::Answer(good(heard))]).await;
    let asked = query("a.test.", Rtype::A);
    let both = forwarder(&[bad.at, fine.at], |settings| settings.failover = vec![2, 5]);
    assert!(is_good(&both.ask(&asked).await.unwrap(), b'a'));
    let strict = forwarder(&[bad.at, fine.at], |_| ());
    assert_eq!(strict.ask(&asked).await.unwrap().header.rcode, Rcode::SERVFAIL);
    // When nobody has anything better, it is the answer.
    let alone = forwarder(&[bad.at], |settings| settings.failover = vec![2]);
    assert_eq!(alone.ask(&asked).await.unwrap().header.rcode, Rcode::SERVFAIL);
}

#[tokio::test]
async fn files_that_name_servers_are_read_again() {
    let first = Server::start(IpFamily::V4, |heard| vec![Say::Answer(good(heard))]).await;
    let second = Server::start(IpFamily::V6, |heard| vec![Say::Answer(good(heard))]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("resolv.conf");
    let write = |at: SocketAddr| std::fs::write(&file, format!("nameserver {at}\n")).unwrap();
    write(first.at);
    let to = vec![corefile::Upstream::File(file.to_str().unwrap().to_owned())];
    let forwarder = Forwarder::new(corefile::Forward::new(".", to), dice(2)).unwrap();
    forwarder.ask(&query("a.test.", Rtype::A)).await.unwrap();
    let old = forwarder.upstreams()[0].clone();
    forwarder.reread();
    assert!(Arc::ptr_eq(&old, &forwarder.upstreams()[0]), "what is known of a server stays");
    write(second.at);
    forwarder.reread();
    forwarder.ask(&query("b.test.", Rtype::A)).await.unwrap();
    assert_eq!((first.heard().len(), second.heard().len()), (1, 1));
    // An empty file is one that is being written.
    std::fs::write(&file, "").unwrap();
    forwarder.reread();
    forwarder.ask(&query("c.test.", Rtype::A)).await.unwrap();
    let nobody =
        Forwarder::new(corefile::Forward::new(".", vec![corefile::Upstream::File("/none".into())]), dice(3));
    assert_eq!(nobody.unwrap().ask(&query("a.test.", Rtype::A)).await, Err(ForwardError::NoUpstream));
}

#[tokio::test]
async fn what_is_no_question_is_not_asked() {
    let forwarder = forwarder(&["127.0.0.1:1".parse().unwrap()], |_| ());
    let mut two = query("a.test.", Rtype::A);
    two.questions.push(two.questions[0].clone());
    assert_eq!(forwarder.ask(&two).await, Err(ForwardError::Question));
}
