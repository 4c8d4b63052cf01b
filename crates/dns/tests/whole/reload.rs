//! A Corefile that changes under load, also to nonsense.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dyad_dns::serve::Source;
use dyad_dns::wire::{Message, Rtype};

use crate::api::Fake;
use crate::lab::{Lab, addresses, free_port, loopback, query, tell, udp};

const WEB: &str = "web.default.svc.cluster.local.";

/// As an editor writes: the whole file at once.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn is_healthy(port: u16) -> bool {
    let mut answer = String::new();
    let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: dns\r\nconnection: close\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    });
    asked.is_ok() && answer.starts_with("HTTP/1.1 200 ")
}

#[test]
fn no_query_is_lost_while_the_corefile_changes() {
    let api = Fake::new();
    api.service("web", &["10.96.0.1", "fd00:10:96::1"]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("Corefile");
    let (port, health) = (free_port(), free_port());
    let block = |ttl: u32, more: &str| {
        format!(
            ".:{port} {{\nkubernetes cluster.local {{\nttl {ttl}\n}}\nhealth 127.0.0.1:{health}\n{more}\n}}\n"
        )
    };
    write(&path, &block(5, "cache 30"));
    let lab = Lab::start_with(Source::File(path.clone()), Some(&api), |_| {});
    lab.until(WEB, Rtype::A, |answer| addresses(answer) == ["10.96.0.1"]);
    let until_ttl = |ttl: u32| {
        lab.until(WEB, Rtype::A, |answer| answer.answers.first().is_some_and(|record| record.ttl == ttl));
    };
    let (ends, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for at in &lab.at {
            scope.spawn(|| {
                let socket = udp(*at);
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let (mut buffer, mut id) = ([0; 4096], 0_u16);
                while !ends.load(Ordering::Relaxed) {
                    id = id.wrapping_add(1);
                    socket.send(&query(id, WEB, Rtype::A).to_bytes()).unwrap();
                    let length = socket.recv(&mut buffer).expect("an answer to each query");
                    let answer = Message::parse(&buffer[..length]).unwrap();
                    assert_eq!((answer.header.id, addresses(&answer)), (id, vec!["10.96.0.1".to_owned()]));
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                assert!(is_healthy(health), "who probes never finds the door closed");
            }
        });
        // A file is looked at every two seconds.
        write(&path, &block(7, "cache 60\nloadbalance"));
        until_ttl(7);
        write(&path, ".:53 {\nkubernetes {{{ nonsense\n");
        std::thread::sleep(Duration::from_millis(2500));
        assert_eq!(lab.ask(WEB, Rtype::A).answers[0].ttl, 7, "the old one stays");
        // Another port beside the first one, whose listeners stay.
        let other = free_port();
        write(
            &path,
            &format!("{}\n.:{other} {{\nkubernetes cluster.local {{\nttl 9\n}}\n}}\n", block(9, "cache 60")),
        );
        until_ttl(9);
        let at = (loopback(dyad_net::IpFamily::V6), other).into();
        assert_eq!(addresses(&tell(at, WEB, Rtype::AAAA)), ["fd00:10:96::1"]);
        ends.store(true, Ordering::Relaxed);
    });
    let asked = asked.into_inner();
    assert!(asked > 1_000, "{asked} queries");
}
