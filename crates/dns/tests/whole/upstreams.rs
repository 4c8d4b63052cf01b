//! Upstreams that die, come back, and have company that lies.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dyad_dns::wire::{Message, Name, Rcode, Rdata, Record, Rtype};
use dyad_net::IpFamily;

use crate::lab::{Lab, addresses, loopback, tell};

/// An upstream on a thread of its own, which ends with this.
pub(crate) struct Upstream {
    pub(crate) at: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Upstream {
    /// Answers with what `say` makes of each query.
    pub(crate) fn start(
        at: SocketAddr,
        say: impl Fn(&Message, &UdpSocket, SocketAddr) + Send + 'static,
    ) -> Self {
        let socket = UdpSocket::bind(at).unwrap();
        let at = socket.local_addr().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let end = ends.clone();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !end.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer)
                    && let Ok(query) = Message::parse(&buffer[..length])
                {
                    say(&query, &socket, from);
                }
            }
        });
        Self { at, ends, thread: Some(thread) }
    }

    pub(crate) fn good(at: SocketAddr) -> Self {
        Self::start(at, |query, socket, from| drop(socket.send_to(&good(query).to_bytes(), from)))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

pub(crate) fn anywhere(family: IpFamily) -> SocketAddr {
    (loopback(family), 0).into()
}

/// Every name has one address, for a second.
pub(crate) fn good(query: &Message) -> Message {
    let mut answer = query.response(Rcode::NOERROR);
    answer.header.recursion_available = true;
    let name = query.questions[0].name.clone();
    answer.answers.push(Record::new(name, 1, Rdata::A([192, 0, 2, 1].into())));
    answer
}

fn forged(query: &Message, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut answer = good(query);
    answer.answers[0].data = Rdata::A([6, 6, 6, 6].into());
    change(&mut answer);
    answer.to_bytes()
}

#[test]
fn forged_answers_reach_no_client_and_no_cache() {
    for family in IpFamily::BOTH {
        let elsewhere = UdpSocket::bind(anywhere(family)).unwrap();
        let upstream = Upstream::start(anywhere(family), move |query, socket, from| {
            let say = |bytes: Vec<u8>| drop(socket.send_to(&bytes, from));
            let _ = elsewhere.send_to(&forged(query, |_| {}), from);
            say(forged(query, |answer| answer.header.id ^= 1));
            say(forged(query, |answer| answer.questions[0].name = "other.test.".parse().unwrap()));
            say(forged(query, |answer| answer.questions.clear()));
            say(forged(query, |answer| answer.header.response = false));
            say(vec![0; 7]);
            let mut real = good(query);
            // What nobody asked about is nobody's to tell.
            let bank: Name = "bank.test.".parse().unwrap();
            real.additional.push(Record::new(bank.clone(), 3600, Rdata::A([6, 6, 6, 6].into())));
            real.authority.push(Record::new(bank, 3600, Rdata::Ns("evil.test.".parse().unwrap())));
            say(real.to_bytes());
        });
        let lab = Lab::start(&format!(".:0 {{\nforward . {}\ncache\n}}\n", upstream.at), None);
        for _ in 0..3 {
            assert_eq!(addresses(&lab.ask("shop.test.", Rtype::A)), ["192.0.2.1"], "{family}");
            assert_eq!(addresses(&lab.ask("bank.test.", Rtype::A)), ["192.0.2.1"], "{family}");
        }
    }
}

/// Queries leave from ports that cannot be guessed, with identifiers that cannot be.
#[test]
fn rfc_5452_ports_and_identifiers_differ() {
    let seen = Arc::new(std::sync::Mutex::new((BTreeSet::new(), BTreeSet::new())));
    let noted = seen.clone();
    let upstream = Upstream::start(anywhere(IpFamily::V4), move |query, socket, from| {
        let mut seen = noted.lock().unwrap();
        seen.0.insert(from.port());
        seen.1.insert(query.header.id);
        let _ = socket.send_to(&good(query).to_bytes(), from);
    });
    let lab = Lab::start(&format!(".:0 {{\nforward . {}\n}}\n", upstream.at), None);
    for number in 0..200 {
        lab.ask(&format!("host-{number}.test."), Rtype::A);
    }
    let seen = seen.lock().unwrap();
    assert!(seen.0.len() > 150 && seen.1.len() > 190, "{} ports, {} identifiers", seen.0.len(), seen.1.len());
}

#[test]
fn an_upstream_dies_and_comes_back() {
    let upstream = Upstream::good(anywhere(IpFamily::V4));
    let at = upstream.at;
    let lab = Lab::start(
        &format!(".:0 {{\nforward . {at} {{\nhealth_check 0.1s\n}}\ncache {{\nservfail 0\n}}\n}}\n"),
        None,
    );
    assert_eq!(addresses(&lab.ask("a.test.", Rtype::A)), ["192.0.2.1"]);
    drop(upstream);
    let answer = tell(lab.v4(), "b.test.", Rtype::A);
    assert_eq!(answer.header.rcode, Rcode::SERVFAIL, "a clean failure, while clients still wait");
    let _back = Upstream::good(at);
    lab.until("c.test.", Rtype::A, |answer| addresses(answer) == ["192.0.2.1"]);
}

#[test]
fn one_of_two_families_of_upstreams_is_dead() {
    // Hears, and says nothing.
    let asked = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
    let noted = asked.clone();
    let silent = Upstream::start(anywhere(IpFamily::V6), move |query, _, _| {
        // Names come in mixed case (0x20).
        noted.lock().unwrap().insert(query.questions[0].name.to_string().to_lowercase());
    });
    let upstream = Upstream::good(anywhere(IpFamily::V4));
    let lab = Lab::start(
        &format!(".:0 {{\nforward . {} {} {{\npolicy sequential\n}}\n}}\n", silent.at, upstream.at),
        None,
    );
    let names: Vec<String> = (0..30).map(|number| format!("host-{number}.test.")).collect();
    for name in &names {
        assert_eq!(addresses(&lab.ask(name, Rtype::A)), ["192.0.2.1"], "{name}");
    }
    let waited = names.iter().filter(|name| asked.lock().unwrap().contains(*name)).count();
    assert!(
        (1..=10).contains(&waited),
        "the silent one is passed over once it is known: {waited} names waited"
    );
}
