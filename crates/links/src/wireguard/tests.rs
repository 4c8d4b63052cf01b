use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::netns;
use crate::wire::NLM_F_ACK;

const FAMILY: u16 = 31;
const LINK: u32 = 7;
const ROUNDS: usize = 2_000;

fn key(number: u8) -> PublicKey {
    PublicKey([number; KEY_BYTES])
}

fn private(number: u8) -> PrivateKey {
    PrivateKey::new(Zeroizing::new([number; KEY_BYTES]))
}

fn peer(endpoint: &str, allowed: &str) -> Peer {
    Peer {
        endpoint: endpoint.parse().ok(),
        allowed: allowed.split_whitespace().map(|range| range.parse().unwrap()).collect(),
    }
}

/// Peers by number.
type Peers = BTreeMap<PublicKey, Peer>;

fn peers(list: &[(u8, &str, &str)]) -> Peers {
    list.iter().map(|(number, endpoint, allowed)| (key(*number), peer(endpoint, allowed))).collect()
}

fn text(change: &Change) -> String {
    let number = change.key.0[0];
    if change.is_removed {
        return format!("-{number}");
    }
    let endpoint = change.endpoint.map(|at| format!(" at {at}")).unwrap_or_default();
    let ranges: Vec<String> = change.allowed.iter().map(ToString::to_string).collect();
    let sign = if change.replaces { "=" } else { "+" };
    format!("{number}{endpoint} {sign}{}", ranges.join(","))
}

#[test]
fn only_what_differs_is_said() {
    let (a, b) = ("10.0.1.0/24", "10.0.2.0/24 fd00:2::/64");
    let (at, moved) = ("192.0.2.1:51871", "[2001:db8::1]:51871");
    for (what, present, wanted, told, expected) in [
        ("nothing", vec![(1, at, a)], vec![(1, at, a)], None, vec![]),
        (
            "a peer comes",
            vec![(1, at, a)],
            vec![(1, at, a), (2, at, b)],
            None,
            vec!["2 at 192.0.2.1:51871 +10.0.2.0/24,fd00:2::/64"],
        ),
        ("a peer without anything", vec![], vec![(1, "", "")], None, vec!["1 +"]),
        ("a peer goes", vec![(1, at, a), (2, at, b)], vec![(1, at, a)], None, vec!["-2"]),
        ("elsewhere", vec![(1, at, a)], vec![(1, moved, a)], None, vec!["1 at [2001:db8::1]:51871 +"]),
        ("it moved by itself", vec![(1, moved, a)], vec![(1, at, a)], Some(at), vec![]),
        (
            "said of another",
            vec![(1, moved, a)],
            vec![(1, at, a)],
            Some(moved),
            vec!["1 at 192.0.2.1:51871 +"],
        ),
        ("more", vec![(1, at, a)], vec![(1, at, "10.0.1.0/24 10.0.9.0/24")], None, vec!["1 +10.0.9.0/24"]),
        ("less", vec![(1, at, b)], vec![(1, at, "10.0.2.0/24")], None, vec!["1 =10.0.2.0/24"]),
        ("none any more", vec![(1, at, a)], vec![(1, at, "")], None, vec!["1 ="]),
        (
            "another key",
            vec![(1, at, a)],
            vec![(2, at, a)],
            None,
            vec!["2 at 192.0.2.1:51871 +10.0.1.0/24", "-1"],
        ),
        (
            "a range goes over",
            vec![(1, at, "10.0.1.0/24 10.0.9.0/24"), (2, at, b)],
            vec![(1, at, a), (2, at, "10.0.2.0/24 fd00:2::/64 10.0.9.0/24")],
            None,
            vec!["2 +10.0.9.0/24"],
        ),
    ] {
        let told = told.iter().map(|at: &&str| (key(1), at.parse().unwrap())).collect();
        let found: Vec<String> = changes(&peers(&present), &peers(&wanted), &told).iter().map(text).collect();
        assert_eq!(found, expected, "{what}");
    }
}

/// What the kernel makes of messages, of those parts that matter here.
#[derive(Default)]
struct Model(Peers);

impl Model {
    /// Takes a message in; how long it is.
    fn take(&mut self, message: Message) -> usize {
        let bytes = message.finish(1);
        let [received] = wire::messages(&bytes).collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(received.kind, FAMILY);
        let of_list = |value| wire::attributes(value).collect::<Vec<_>>();
        for (kind, value) in of_list(&received.body[GENERIC_FIXED..]) {
            if kind != 8 {
                continue;
            }
            for (_, part) in of_list(value) {
                let flags = wire::attributes(part).find(|(kind, _)| *kind == 3).unwrap().1;
                let flags = wire::u32_at(flags, 0).unwrap();
                let body = [&[0; GENERIC_FIXED], &*nested(8, &nested(0, part))].concat();
                let said = codec::join(vec![codec::Piece::read(&body).unwrap()]).peers;
                let (key, said) = said.into_iter().next().unwrap();
                if flags & 1 != 0 {
                    self.0.remove(&key);
                    continue;
                }
                if flags & 2 != 0 {
                    self.0.entry(key).or_default().allowed.clear();
                }
                for other in self.0.values_mut() {
                    other.allowed.retain(|range| !said.allowed.contains(range));
                }
                let known = self.0.entry(key).or_default();
                known.allowed.extend(said.allowed);
                known.endpoint = said.endpoint.or(known.endpoint);
            }
        }
        bytes.len()
    }
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap();
    [&length.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

fn some_peers(rng: &mut StdRng, how_many: usize, of_each: usize) -> Peers {
    let mut found = Peers::new();
    for number in 0..rng.random_range(0..=how_many) {
        let endpoint = SocketAddr::new([192, 0, 2, rng.random_range(1..4)].into(), 51871);
        // Nobody has what another one has.
        let count = rng.random_range(0..=of_each);
        let ranges = (0..count).map(|range| {
            let owner = (number + rng.random_range(0..2) * how_many) as u16;
            IpNet::new(std::net::Ipv6Addr::from([0xfd00, owner, range as u16, 0, 0, 0, 0, 0]).into(), 64)
                .unwrap()
        });
        let allowed = ranges.collect();
        found.insert(key(rng.random_range(0..40)), Peer { endpoint: Some(endpoint), allowed });
    }
    found
}

#[test]
fn whatever_was_there_the_messages_lead_to_what_should_be() {
    let mut rng = StdRng::seed_from_u64(214);
    for round in 0..ROUNDS {
        // Now and then what is far more than a message holds.
        let (how_many, of_each) = if round % 500 == 0 { (20, 900) } else { (6, 4) };
        let (present, wanted) =
            (some_peers(&mut rng, how_many, of_each), some_peers(&mut rng, how_many, of_each));
        let mut model = Model(present.clone());
        let changes = changes(&present, &wanted, &BTreeMap::new());
        for content in codec::split(None, &changes) {
            assert!(model.take(content.message(FAMILY, NLM_F_ACK, LINK)) < 48 * 1024, "fits a message");
        }
        assert_eq!(model.0, wanted, "round {round}");
        assert!(
            super::changes(&model.0, &wanted, &BTreeMap::new()).is_empty(),
            "round {round}: no more to say"
        );
    }
}

#[test]
fn a_key_is_clamped_and_not_shown() {
    let key = PrivateKey::new(Zeroizing::new([0xff; KEY_BYTES]));
    assert_eq!((key.bytes()[0], key.bytes()[31]), (0xf8, 0x7f));
    assert_eq!((private(0).bytes()[0], private(0).bytes()[31]), (0, 0x40));
    assert_eq!(format!("{key:?}"), "PrivateKey(..)");
    let all = peers(&[(1, "192.0.2.1:51871", "10.0.1.0/24")]);
    let settings = Settings { private: &key, port: 1, peers: &all };
    assert!(!format!("{settings:?}").contains("255"));
}

/// An answer of the kernel's: a device with peers, one of which goes on in a second message.
fn answer() -> Vec<u8> {
    let peers =
        peers(&[(1, "192.0.2.1:51871", "10.0.1.0/24 fd00:1::/64"), (2, "[2001:db8::2]:7", "10.0.2.0/24")]);
    let changes = changes(&Peers::new(), &peers, &BTreeMap::new());
    let key = private(9);
    let contents = codec::split(Some((&key, 51871)), &changes);
    let own = contents[0].message(FAMILY, 0, LINK).finish(1);
    let mut message = contents[1].message(FAMILY, 0, LINK);
    let more =
        [Change { endpoint: None, allowed: vec!["10.0.7.0/24".parse().unwrap()], ..changes[1].clone() }];
    let more = codec::split(None, &more)[0].message(FAMILY, 0, LINK).finish(1);
    message.nest(8, |list| {
        list.nest(0, |peer| {
            peer.put(1, &[1; KEY_BYTES]);
            peer.put(6, &[3_i64.to_ne_bytes(), 5_i64.to_ne_bytes()].concat());
            peer.put(7, &77_u64.to_ne_bytes());
            peer.put(8, &88_u64.to_ne_bytes());
        });
    });
    [own, message.finish(1), more].concat()
}

fn read(bytes: &[u8]) -> Device {
    codec::join(wire::messages(bytes).filter_map(|message| codec::Piece::read(message.body)).collect())
}

#[test]
fn a_device_is_read_from_all_messages_of_an_answer() {
    let device = read(&answer());
    assert_eq!((device.port, &device.private), (51871, &Some(private(9))));
    let expected = [
        (1, "192.0.2.1:51871", "10.0.1.0/24 fd00:1::/64"),
        (2, "[2001:db8::2]:7", "10.0.2.0/24 10.0.7.0/24"),
    ];
    assert_eq!(device.peers, peers(&expected));
    let traffic = Traffic { handshake: Duration::new(3, 5), received: 77, sent: 88 };
    assert_eq!(device.traffic, BTreeMap::from([(key(1), traffic)]));
}

#[test]
fn no_answer_makes_the_reader_panic() {
    let mut rng = StdRng::seed_from_u64(215);
    for _ in 0..ROUNDS * 10 {
        let mut bytes = answer();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..3) {
                0 => bytes[at] = rng.random(),
                1 => bytes.truncate(at + 1),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                break;
            }
        }
        assert!(read(&bytes).peers.len() <= bytes.len());
        let _ = codec::Piece::read(&bytes);
    }
}

/// Two namespaces with a link between them; `None`, and told, where that or WireGuard can't be had.
fn two_hosts() -> Option<[OwnedFd; 2]> {
    let hosts = [netns::create().ok()?, netns::create().ok()?];
    if !netns::within(hosts[0].as_fd(), || Wireguard::open().unwrap().is_some()).unwrap() {
        return None;
    }
    netns::within(hosts[0].as_fd(), || {
        let mut handle = Handle::open().unwrap();
        let far = NewLink { netns: Some(hosts[1].as_fd()), ..NewLink::named("eth0") };
        handle.add_veth(&NewLink::named("eth0"), &far).unwrap();
    })
    .unwrap();
    for (number, host) in hosts.iter().enumerate() {
        netns::within(host.as_fd(), || {
            let mut handle = Handle::open().unwrap();
            let link = handle.index("eth0").unwrap();
            for text in [format!("192.0.2.{}/24", number + 1), format!("2001:db8::{}/64", number + 1)] {
                handle.replace_address(link, text.parse().unwrap()).unwrap();
            }
            handle.set_up("eth0").unwrap();
        })
        .unwrap();
    }
    Some(hosts)
}

/// Makes a host's link, as its index and what the kernel says of it.
fn make(host: &OwnedFd, private: &PrivateKey, port: u16, peers: &Peers) -> Device {
    netns::within(host.as_fd(), || {
        let (mut handle, mut control) = (Handle::open().unwrap(), Wireguard::open().unwrap().unwrap());
        let link = handle.replace_wireguard("wg", 1420).unwrap();
        let device = control.apply(link, &Settings { private, port, peers }).unwrap();
        handle.set_up("wg").unwrap();
        assert_eq!(control.apply(link, &Settings { private, port, peers }).unwrap(), device, "nothing to do");
        device
    })
    .unwrap()
}

#[test]
fn a_link_is_made_changed_and_adopted_without_a_word_to_peers_that_stay() {
    let Some(hosts) = two_hosts() else {
        eprintln!("SKIPPED: needs root and a kernel with WireGuard");
        return;
    };
    let keys = [private(1), private(2)];
    let [one, two] = [0, 1].map(|at| make(&hosts[at], &keys[at], 51871, &Peers::new()).public.unwrap());
    assert_ne!(one, two);
    for (at, other, number, endpoint) in [(0, two, 2, "192.0.2.2:51871"), (1, one, 1, "[2001:db8::1]:51871")]
    {
        let peers = Peers::from([(other, peer(endpoint, &format!("10.0.{number}.0/24 fd00:{number}::/64")))]);
        let device = make(&hosts[at], &keys[at], 51871, &peers);
        assert_eq!((device.port, device.peers), (51871, peers));
        netns::within(hosts[at].as_fd(), || {
            let mut handle = Handle::open().unwrap();
            let link = handle.index("wg").unwrap();
            for text in [format!("10.0.{}.1/32", at + 1), format!("fd00:{}::1/128", at + 1)] {
                handle.replace_address(link, text.parse().unwrap()).unwrap();
            }
            for range in &device_ranges(number) {
                handle.replace_route(&crate::Route::on_link(*range, link)).unwrap();
            }
        })
        .unwrap();
    }
    let arrives = |to: &str| {
        let server = netns::within(hosts[1].as_fd(), || std::net::UdpSocket::bind((to, 0)).unwrap()).unwrap();
        server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let at = server.local_addr().unwrap();
        netns::within(hosts[0].as_fd(), || {
            let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let client = std::net::UdpSocket::bind(any).unwrap();
            let deadline = Instant::now() + Duration::from_secs(20);
            loop {
                client.send_to(b"hello", at).unwrap();
                if let Ok((_, from)) = server.recv_from(&mut [0; 16]) {
                    return from.ip();
                }
                assert!(Instant::now() < deadline, "nothing arrives at {to}");
            }
        })
        .unwrap()
    };
    assert_eq!(arrives("10.0.2.1").to_string(), "10.0.1.1");
    let look = || {
        netns::within(hosts[0].as_fd(), || {
            let link = Handle::open().unwrap().index("wg").unwrap();
            Wireguard::open().unwrap().unwrap().device(link).unwrap()
        })
        .unwrap()
    };
    let before = look();
    assert!(before.traffic[&two].handshake > Duration::ZERO);
    // More peers than one message holds come, from another process than the one before.
    let many = |count: u8| {
        let mut all = Peers::from([(two, before.peers[&two].clone())]);
        for number in 0..count {
            let ranges: Vec<String> =
                (0..600).map(|range| format!("fd01:{number:x}:{range:x}::/64")).collect();
            all.insert(
                key(100 + number),
                peer(&format!("192.0.2.{}:51871", 100 + number), &ranges.join(" ")),
            );
        }
        all
    };
    let device = make(&hosts[0], &keys[0], 51871, &many(9));
    assert_eq!(device.peers, many(9));
    assert_eq!(arrives("fd00:2::1").to_string(), "fd00:1::1");
    assert_eq!(make(&hosts[0], &keys[0], 51871, &many(3)).peers, many(3));
    assert_eq!(look().traffic[&two].handshake, before.traffic[&two].handshake, "the session goes on");
    assert_eq!(arrives("10.0.2.1").to_string(), "10.0.1.1");
    // Another key, and another port.
    assert_ne!(make(&hosts[0], &private(3), 51872, &many(1)).public, Some(one));
}

fn device_ranges(number: u8) -> [IpNet; 2] {
    [format!("10.0.{number}.0/24"), format!("fd00:{number}::/64")].map(|range| range.parse().unwrap())
}
