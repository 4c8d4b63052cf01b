//! The same queries to knot, which serves a zone of the same names: code, answers, AA, and the SOA of a denial.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use dyad_dns::wire::{Message, Rcode, Rtype};

use crate::lab::{PATIENCE, query, tell, udp};
use crate::zones::{TYPES, World, records, served};

/// A name server that goes when this is dropped.
struct Knot {
    child: Child,
    at: SocketAddr,
    _home: tempfile::TempDir,
}

impl Drop for Knot {
    fn drop(&mut self) {
        // It may have gone by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Knot {
    /// None where there is none.
    fn start(world: &World) -> Option<Self> {
        Command::new("knotd").arg("--version").output().ok()?;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().display();
        let mut zone =
            "cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5\n\
                        cluster.local. 5 NS ns.dns.cluster.local.\n\
                        ns.dns.cluster.local. 5 A 10.96.0.10\n"
                .to_owned();
        for (name, records) in &world.names {
            for (kind, data) in records {
                writeln!(zone, "{name} 5 {kind} {data}").unwrap();
            }
        }
        std::fs::write(home.path().join("cluster.local.zone"), zone).unwrap();
        let at = free();
        let config = format!(
            "server:\n    rundir: {path}\n    listen: 127.0.0.1@{}\n    udp-workers: 1\n    tcp-workers: 1\n\
             database:\n    storage: {path}/db\n\
             template:\n  - id: default\n    storage: {path}\n    file: \"%s.zone\"\n    journal-content: none\n\
             zone:\n  - domain: cluster.local\n",
            at.port()
        );
        let file = home.path().join("knot.conf");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("knotd")
            .arg("--config")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let knot = Self { child, at, _home: home };
        let (socket, begun) = (udp(at), Instant::now());
        socket.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        let asked = query(1, "cluster.local.", Rtype::SOA).to_bytes();
        let mut buffer = [0; 4096];
        while !(socket.send(&asked).is_ok()
            && socket.recv(&mut buffer).is_ok_and(|length| {
                Message::parse(&buffer[..length]).is_ok_and(|answer| answer.header.rcode == Rcode::NOERROR)
            }))
        {
            assert!(begun.elapsed() < PATIENCE, "knot does not come up");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Some(knot)
    }
}

/// A port that is free over both transports.
fn free() -> SocketAddr {
    loop {
        let at = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        if TcpListener::bind(at).is_ok() {
            return at;
        }
    }
}

/// What must be the same.
fn essence(answer: &Message) -> impl PartialEq + std::fmt::Debug {
    let has_soa = answer.authority.iter().any(|record| record.rtype() == Rtype::SOA);
    (answer.header.rcode, records(answer), answer.header.authoritative, has_soa)
}

#[test]
fn knot_says_the_same() {
    let mut compared = 0;
    for seed in 11..=13 {
        let (world, lab, _api) = served(seed);
        let Some(knot) = Knot::start(&world) else {
            eprintln!("SKIPPED: there is no knotd to compare with (Debian: knot)");
            return;
        };
        for name in world.questions() {
            for rtype in TYPES {
                let (ours, theirs) = (lab.ask(&name, rtype), tell(knot.at, &name, rtype));
                // What leads to itself is a failure here, and half an answer there.
                if ours.header.rcode == Rcode::SERVFAIL {
                    continue;
                }
                assert_eq!(
                    essence(&ours),
                    essence(&theirs),
                    "seed {seed}: {name} {rtype}\n{ours:?}\n{theirs:?}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 1_000, "{compared} answers");
}
