//! Packets that are none, or too much.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::time::Duration;

use dyad_dns::wire::{Edns, Message, Rcode, Rtype};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};

use crate::api::Fake;
use crate::lab::{CLEAN, CLUSTER, Lab, addresses, framed, query, tcp, text, udp, udp_from};

const WEB: &str = "web.default.svc.cluster.local.";
/// Datagrams of the hostile.
const DATAGRAMS: usize = 20_000;
const STREAMS: usize = 300;

fn lab() -> Lab {
    let api = Fake::new();
    api.service("web", &["10.96.0.1", "fd00:10:96::1"]);
    let lab = Lab::start(CLUSTER, Some(&api));
    lab.until(WEB, Rtype::A, |answer| addresses(answer) == ["10.96.0.1"]);
    lab
}

/// Queries that mean something, before they are spoilt.
fn seeds() -> Vec<Vec<u8>> {
    let mut with_edns = query(7, "1.0.96.10.in-addr.arpa.", Rtype::PTR);
    with_edns.edns = Some(Edns { udp_size: 4096, dnssec_ok: true, ..Edns::default() });
    let mut answer = query(8, WEB, Rtype::A).response(Rcode::NOERROR);
    answer.header.response = true;
    [
        query(1, WEB, Rtype::A),
        query(2, WEB, Rtype::ANY),
        query(3, "example.com.", Rtype::AAAA),
        with_edns,
        answer,
    ]
    .iter()
    .map(Message::to_bytes)
    .collect()
}

/// A packet with something wrong, most of the time.
fn spoilt(rng: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut packet = seeds.choose(rng).unwrap().clone();
    match rng.random_range(0..6) {
        0 => {
            packet = vec![0; rng.random_range(0..600)];
            rng.fill_bytes(&mut packet);
        }
        1 => packet.truncate(rng.random_range(0..packet.len())),
        2 => {
            let mut more = vec![0; rng.random_range(1..3000)];
            rng.fill_bytes(&mut more);
            packet.extend(more);
        }
        3 => {
            // Counts that promise what is not there.
            let at = rng.random_range(4..12);
            packet[at] = rng.random();
        }
        4 => {
            // A pointer, perhaps to itself.
            let at = rng.random_range(12..packet.len() - 1);
            packet[at] = 0xc0;
            packet[at + 1] = rng.random();
        }
        _ => {
            for _ in 0..rng.random_range(1..8) {
                let at = rng.random_range(0..packet.len());
                packet[at] = rng.random();
            }
        }
    }
    packet
}

fn is_clean(packet: &[u8], answer: &[u8]) {
    let parsed =
        Message::parse(answer).unwrap_or_else(|why| panic!("{why} for {packet:02x?}: {answer:02x?}"));
    assert!(parsed.header.response, "{packet:02x?}");
    assert!(answer.len() <= 1232, "{} bytes for {packet:02x?}", answer.len());
    let code = parsed.header.rcode;
    assert!(CLEAN.contains(&code) || code == Rcode::BADVERS, "{code} for {packet:02x?}");
}

#[test]
fn hostile_datagrams() {
    let lab = lab();
    let seeds = seeds();
    let mut rng = StdRng::seed_from_u64(1);
    let mut answered = 0;
    for at in &lab.at {
        let socket = udp(*at);
        socket.set_nonblocking(true).unwrap();
        let mut buffer = [0; 65_535];
        for number in 0..DATAGRAMS / 2 {
            let packet = spoilt(&mut rng, &seeds);
            // No room for a moment is no fault.
            let _ = socket.send(&packet);
            if number % 16 == 0 {
                std::thread::sleep(Duration::from_micros(200));
            }
            while let Ok(length) = socket.recv(&mut buffer) {
                is_clean(&packet, &buffer[..length]);
                answered += 1;
            }
        }
    }
    assert!(answered > DATAGRAMS / 10, "{answered} answers");
    lab.is_well(WEB, "10.96.0.1");
}

#[test]
fn each_client_of_a_burst_gets_its_own_answer() {
    let lab = lab();
    for at in &lab.at {
        let clients: Vec<_> = (0..100).map(|_| udp(*at)).collect();
        for round in 0..20_u16 {
            let asked = |number: usize| {
                let rtype = [Rtype::A, Rtype::AAAA, Rtype::SRV, Rtype::TXT][number % 4];
                let name = if number.is_multiple_of(3) { WEB } else { "web.default.SVC.cluster.LOCAL." };
                query(round << 8 | number as u16, name, rtype)
            };
            for (number, client) in clients.iter().enumerate() {
                // Something among them that gets no answer.
                client.send(&[0; 5]).unwrap();
                client.send(&asked(number).to_bytes()).unwrap();
            }
            for (number, client) in clients.iter().enumerate() {
                let mut buffer = [0; 4096];
                let length = client.recv(&mut buffer).unwrap();
                let (answer, asked) = (Message::parse(&buffer[..length]).unwrap(), asked(number));
                assert_eq!((answer.header.id, &answer.questions), (asked.header.id, &asked.questions));
                assert_eq!(answer.answers.is_empty(), number % 4 == 3, "{answer:?}");
            }
        }
    }
}

#[test]
fn oversized_datagrams() {
    let lab = lab();
    let socket = udp(lab.v4());
    for size in [513, 1233, 4096, 4097, 9000, 65_507] {
        let mut packet = query(9, WEB, Rtype::A).to_bytes();
        packet.resize(size, 0);
        socket.send(&packet).unwrap();
        let mut buffer = [0; 65_535];
        let length = socket.recv(&mut buffer).unwrap();
        is_clean(&packet, &buffer[..length]);
    }
    lab.is_well(WEB, "10.96.0.1");
}

#[test]
fn hostile_streams() {
    let lab = lab();
    let seeds = seeds();
    let mut rng = StdRng::seed_from_u64(2);
    for number in 0..STREAMS {
        let at = lab.at[number % 2];
        let mut stream = tcp(at);
        for _ in 0..rng.random_range(1..20) {
            let mut frame = framed(&spoilt(&mut rng, &seeds));
            if rng.random_ratio(1, 8) {
                // A length that is a lie.
                frame[..2].copy_from_slice(&rng.random::<[u8; 2]>());
            }
            if stream.write_all(&frame).is_err() {
                break;
            }
        }
        if rng.random_ratio(1, 2) {
            // Gone without a word, and without reading.
            continue;
        }
        let _ = stream.shutdown(Shutdown::Write);
        let mut answers = Vec::new();
        // It may have hung up: that is clean, too.
        let _ = stream.read_to_end(&mut answers);
        let mut rest = &answers[..];
        while let Some((length, more)) = rest.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            let Some(answer) = more.get(..length) else { break };
            Message::parse(answer).unwrap();
            rest = &more[length..];
        }
    }
    lab.is_well(WEB, "10.96.0.1");
}

/// RFC 8482; RFC 5358: what a victim would get.
#[test]
fn nothing_is_amplified() {
    let api = Fake::new();
    api.service("web", &["10.96.0.1", "fd00:10:96::1"]);
    let ready = serde_json::json!({"ready": true});
    let endpoints: Vec<_> = (0..200)
        .map(|number| serde_json::json!({"addresses": [format!("10.244.0.{number}")], "conditions": ready}))
        .collect();
    let labels = serde_json::json!({"kubernetes.io/service-name": "many"});
    let many = |name: &str| serde_json::json!({"name": name, "namespace": "default"});
    let spec = serde_json::json!({"clusterIP": "None", "clusterIPs": ["None"]});
    api.set("services", "many", serde_json::json!({"metadata": many("many"), "spec": spec}));
    let mut metadata = many("many-1");
    metadata["labels"] = labels;
    let slice = serde_json::json!({
        "metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "a", "port": 1}],
    });
    api.set("endpointslices", "many-1", slice);
    let lab = Lab::start(CLUSTER, Some(&api));
    let many = "many.default.svc.cluster.local.";
    lab.until(many, Rtype::A, |answer| answer.answers.len() == 200);
    let ratio = |name: &str, rtype: Rtype, size: Option<u16>| {
        let mut asked = query(1, name, rtype);
        asked.edns = size.map(|udp_size| Edns { udp_size, ..Edns::default() });
        let (socket, mut buffer, asked) = (udp(lab.v4()), [0; 65_535], asked.to_bytes());
        socket.send(&asked).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        let limit = if size.is_some() { 1232 } else { 512 };
        assert!(length <= limit, "{name} {rtype}: {length} bytes");
        length as f64 / asked.len() as f64
    };
    for name in
        [many, WEB, "cluster.local.", "example.com.", ".", "10.in-addr.arpa.", "nobody.cluster.local."]
    {
        let any = ratio(name, Rtype::ANY, None);
        // A denial has its SOA, which a short name is shorter than.
        let most = if name.starts_with("nobody") { 4.0 } else { 2.4 };
        assert!(any < most, "ANY {name}: {any:.1} times as much");
        for rtype in [Rtype::AXFR, Rtype::IXFR] {
            assert!(ratio(name, rtype, None) <= 1.0, "{rtype} {name}");
        }
    }
    for (rtype, size) in [(Rtype::A, None), (Rtype::A, Some(65_535)), (Rtype::SRV, Some(4096))] {
        ratio(many, rtype, size);
    }
}

#[test]
fn a_victim_gets_little_and_others_are_served() {
    let api = Fake::new();
    api.service("web", &["10.96.0.1", "fd00:10:96::1"]);
    let lab = Lab::start_with(text(CLUSTER), Some(&api), |settings| settings.rate = Some(50));
    lab.until(WEB, Rtype::A, |answer| addresses(answer) == ["10.96.0.1"]);
    let client = |last: u8, to: SocketAddr| udp_from(IpAddr::from([127, 0, 9, last]), to);
    let victim = client(1, lab.v4());
    victim.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let asked = query(1, WEB, Rtype::A).to_bytes();
    let (mut whole, mut cut, mut buffer) = (0, 0, [0; 4096]);
    let begun = std::time::Instant::now();
    for _ in 0..40 {
        for _ in 0..50 {
            victim.send(&asked).unwrap();
        }
        while let Ok(length) = victim.recv(&mut buffer) {
            let answer = Message::parse(&buffer[..length]).unwrap();
            if answer.header.truncated {
                assert!(length <= asked.len(), "what comes instead is no larger than the query");
                cut += 1;
            } else {
                whole += 1;
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    // A second's worth at the beginning, and as much in each.
    let most = 50.0 * (2.0 + seconds);
    assert!(f64::from(whole) <= most && whole >= 50, "{whole} of 2000 in {seconds:.1} s");
    assert!((500..1500).contains(&cut), "about half of the rest come back over TCP: {cut}");
    for last in 2..12 {
        let other = client(last, lab.v4());
        other.send(&asked).unwrap();
        let length = other.recv(&mut buffer).unwrap();
        assert!(!Message::parse(&buffer[..length]).unwrap().header.truncated);
    }
}
