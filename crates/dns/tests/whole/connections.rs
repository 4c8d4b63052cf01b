//! Clients that hold connections and say little, and many of them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use dyad_dns::ask::{Manner, ask};
use dyad_dns::wire::{Message, Rtype};
use dyad_net::IpFamily;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::api::Fake;
use crate::lab::{CLUSTER, Lab, PATIENCE, addresses, framed, patient, query, tcp};

const WEB: &str = "web.default.svc.cluster.local.";
/// Connections of one client, and of all, that there are at most.
const OF_CLIENT: usize = 128;
const OF_ALL: usize = 1024;
/// How long a connection may idle.
const IDLE: Duration = Duration::from_secs(10);

fn lab() -> Lab {
    let api = Fake::new();
    api.service("web", &["10.96.0.1", "fd00:10:96::1"]);
    let lab = Lab::start(CLUSTER, Some(&api));
    lab.until(WEB, Rtype::A, |answer| addresses(answer) == ["10.96.0.1"]);
    lab
}

/// A connection from one of many addresses of the loopback.
fn from(client: u8, to: SocketAddr) -> TcpStream {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::new(IpAddr::from([127, 0, 3, client]), 0)).unwrap();
    connect(&socket, &to).unwrap();
    socket.into()
}

/// Whether the other end has not hung up.
fn is_open(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0; 1]);
    stream.set_nonblocking(false).unwrap();
    matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn who_trickles_is_cut_off_and_nobody_waits_for_them() {
    let lab = lab();
    let to = lab.v4();
    let query = framed(&query(1, WEB, Rtype::A).to_bytes());
    let mut slow: Vec<TcpStream> = (0..OF_CLIENT + 20).map(|_| from(1, to)).collect();
    let begun = Instant::now();
    let mut at = 0;
    let mut open = slow.len();
    while open > 0 && begun.elapsed() < IDLE + PATIENCE {
        for stream in &mut slow {
            // A byte of the length and of the query at a time, never the last; gone ones fail.
            let _ = stream.write(&query[at..=at]);
        }
        at = (at + 1).min(query.len() - 2);
        // Others are served meanwhile.
        ask(to, &WEB.parse().unwrap(), Rtype::A, Manner { tcp: true, ..patient() }).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        open = slow.iter_mut().filter_map(|stream| is_open(stream).then_some(())).count();
    }
    assert_eq!(open, 0, "bytes that never become a query keep no connection");
    lab.is_well(WEB, "10.96.0.1");
}

#[test]
fn a_flood_of_connections() {
    let lab = lab();
    let to = lab.v4();
    let clients = u8::try_from(OF_ALL / OF_CLIENT + 4).unwrap();
    let mut held = Vec::new();
    for client in 1..=clients {
        held.extend((0..OF_CLIENT + 10).map(|_| from(client, to)));
    }
    // Datagrams are served as ever.
    assert_eq!(addresses(&lab.ask(WEB, Rtype::A)), ["10.96.0.1"]);
    let begun = Instant::now();
    let open = loop {
        let open = held.iter_mut().filter_map(|stream| is_open(stream).then_some(())).count();
        if open <= OF_ALL || begun.elapsed() > PATIENCE {
            break open;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(open <= OF_ALL, "{open} are open");
    drop(held);
    let begun = Instant::now();
    // There is room again as soon as they have gone.
    while ask(to, &WEB.parse().unwrap(), Rtype::A, Manner { tcp: true, ..patient() }).is_err() {
        assert!(begun.elapsed() < PATIENCE, "no connection any more");
    }
    lab.is_well(WEB, "10.96.0.1");
}

#[test]
fn many_queries_in_one_connection_byte_by_byte_and_all_at_once() {
    let lab = lab();
    for to in &lab.at {
        let rtype = if to.is_ipv4() { Rtype::A } else { Rtype::AAAA };
        let want = if to.is_ipv4() { "10.96.0.1" } else { "fd00:10:96::1" };
        assert_eq!(IpFamily::from(to.ip()) == IpFamily::V4, rtype == Rtype::A);
        let mut stream = tcp(*to);
        stream.set_nodelay(true).unwrap();
        let all: Vec<u8> = (0..2000).flat_map(|id| framed(&query(id, WEB, rtype).to_bytes())).collect();
        let (first, rest) = all.split_at(100);
        for byte in first {
            stream.write_all(&[*byte]).unwrap();
        }
        let mut writer = stream.try_clone().unwrap();
        let mut seen = vec![false; 2000];
        std::thread::scope(|scope| {
            scope.spawn(move || writer.write_all(rest).unwrap());
            for _ in 0..2000 {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut answer = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut answer).unwrap();
                let answer = Message::parse(&answer).unwrap();
                assert_eq!(addresses(&answer), [want]);
                assert!(!std::mem::replace(&mut seen[usize::from(answer.header.id)], true), "each once");
            }
        });
    }
}

#[test]
fn who_does_not_read_is_given_up() {
    let lab = lab();
    let mut stream = tcp(lab.v4());
    stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let queries: Vec<u8> = (0..1000).flat_map(|id| framed(&query(id, WEB, Rtype::A).to_bytes())).collect();
    let before = crate::lab::resident();
    let begun = Instant::now();
    // Until there is an error that is not for want of room: the server has hung up.
    let gone = loop {
        match stream.write(&queries) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break true,
        }
        if begun.elapsed() > PATIENCE {
            break false;
        }
    };
    assert!(gone, "it waits for ever");
    let grown = crate::lab::resident().saturating_sub(before);
    assert!(grown < 64 << 10, "grown by {grown} kB for somebody who does not read");
    lab.is_well(WEB, "10.96.0.1");
}
