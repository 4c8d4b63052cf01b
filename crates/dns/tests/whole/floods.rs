//! More queries than anybody can answer.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dyad_dns::wire::{Message, Rcode, Rtype};
use dyad_net::IpFamily;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::api::Fake;
use crate::lab::{Lab, addresses, query, resident, udp};
use crate::upstreams::{Upstream, anywhere, good};

const POPULAR: &str = "popular.test.";
const WEB: &str = "web.default.svc.cluster.local.";

fn lab(upstream: &str, cache: &str) -> Lab {
    let api = Fake::new();
    api.service("web", &["10.96.0.1"]);
    let corefile = format!(".:0 {{\nkubernetes cluster.local\nforward . {upstream}\n{cache}\n}}\n");
    let lab = Lab::start(&corefile, Some(&api));
    lab.until(WEB, Rtype::A, |answer| addresses(answer) == ["10.96.0.1"]);
    lab
}

/// Sends queries for names that nobody has asked for, a window at a time; how many answers there were, and failures.
fn flood(lab: &Lab, seed: u64, count: u32) -> (u32, u32) {
    let mut rng = StdRng::seed_from_u64(seed);
    let socket = udp(lab.v4());
    socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    let (mut answers, mut failures, mut buffer) = (0, 0, [0; 4096]);
    for number in 0..count {
        let name = format!("{:016x}.{:08x}.test.", rng.random::<u64>(), rng.random::<u32>());
        let _ = socket.send(&query(number as u16, &name, Rtype::A).to_bytes());
        if number % 64 == 63 {
            while let Ok(length) = socket.recv(&mut buffer) {
                match Message::parse(&buffer[..length]).unwrap().header.rcode {
                    Rcode::NOERROR => answers += 1,
                    _ => failures += 1,
                }
            }
        }
    }
    (answers, failures)
}

#[test]
fn random_names_displace_nobody_and_take_bounded_room() {
    let popular = Arc::new(AtomicUsize::new(0));
    let heard = popular.clone();
    let upstream = Upstream::start(anywhere(IpFamily::V4), move |query, socket, from| {
        // Names come in mixed case (0x20).
        if query.questions[0].name.to_string().eq_ignore_ascii_case(POPULAR) {
            heard.fetch_add(1, Ordering::Relaxed);
        }
        let _ = socket.send_to(&good(query).to_bytes(), from);
    });
    let lab = lab(&upstream.at.to_string(), "cache 3600 {\nsuccess 2000 3600 60\n}");
    // What is asked for often stays.
    for _ in 0..3 {
        assert_eq!(addresses(&lab.ask(POPULAR, Rtype::A)), ["192.0.2.1"]);
    }
    flood(&lab, 1, 10_000);
    let before = resident();
    let (answers, _) = flood(&lab, 2, 30_000);
    let grown = resident().saturating_sub(before);
    assert!(answers > 3_000, "{answers} answers");
    assert!(grown < 32 << 10, "grown by {grown} kB with a full cache");
    let before = popular.load(Ordering::Relaxed);
    assert_eq!(addresses(&lab.ask(POPULAR, Rtype::A)), ["192.0.2.1"]);
    let again = popular.load(Ordering::Relaxed) - before;
    assert!(before >= 1, "the upstream counts");
    assert_eq!(again, 0, "it was displaced: {again} queries");
    lab.is_well(WEB, "10.96.0.1");
}

#[test]
fn an_upstream_that_says_nothing_holds_up_nobody_else() {
    let silent = UdpSocket::bind(anywhere(IpFamily::V4)).unwrap();
    let lab = lab(&silent.local_addr().unwrap().to_string(), "cache");
    let before = resident();
    let begun = Instant::now();
    let mut failures = 0;
    for seed in 0..20 {
        failures += flood(&lab, seed, 2_000).1;
        // The cluster's names are answered beside them.
        assert_eq!(addresses(&lab.ask(WEB, Rtype::A)), ["10.96.0.1"]);
        if begun.elapsed() > Duration::from_secs(8) {
            break;
        }
    }
    assert!(failures > 1_000, "those beyond what may be under way are told at once: {failures}");
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 10, "grown by {grown} kB with a thousand queries under way");
}
