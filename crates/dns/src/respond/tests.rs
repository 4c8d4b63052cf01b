use super::*;
use crate::wire::{Cookie, Edns, EdnsOption, Header, MAX_MESSAGE, Message, Name, Opcode, Question, Rdata};
use crate::zone::tests::{cluster, external, headless, ip, ips, name, object, slice};
use crate::zone::{NameServers, Options, PodMode, Store};

mod fuzz;
mod schema;

/// The cluster of these tests.
pub(super) fn store(change: impl FnOnce(&mut Options)) -> Store {
    let mut options = Options::new(name("cluster.local"));
    options.reverse = ["10.0.0.0/8", "fd00::/32"].map(|range| range.parse().unwrap()).to_vec();
    options.pods = PodMode::Insecure;
    options.name_servers =
        NameServers { service: Some(object("kube-system/kube-dns")), addresses: ips("192.0.2.53") };
    change(&mut options);
    let mut store = Store::new(options);
    for (name, service) in [
        ("kube-system/kube-dns", cluster("10.96.0.10 fd00:96::a", "dns/53/udp dns-tcp/53")),
        ("testns/svc1", cluster("10.0.0.1", "http/80")),
        ("testns/svc6", cluster("fd00::6", "http/80")),
        ("testns/dual", cluster("10.0.0.3 fd00::3", "http/80 /443")),
        ("testns/pending", cluster("", "http/80")),
        ("testns/hdls1", headless()),
        ("testns/portless", headless()),
        ("testns/empty", headless()),
        ("testns/big", headless()),
        ("testns/outside", external("ext.interwebs.test")),
        ("testns/inside", external("svc1.testns.svc.cluster.local.")),
        ("testns/nowhere", external("none.testns.svc.cluster.local")),
        ("testns/ping", external("pong.testns.svc.cluster.local")),
        ("testns/pong", external("ping.testns.svc.cluster.local")),
    ] {
        store.set_service(&object(name), Some(service));
    }
    let big: Vec<_> = (0..200).map(|last| format!("10.9.0.{last}")).collect();
    for (name, slice) in [
        (
            "testns/a",
            slice("testns/hdls1", "http/80", "10.0.1.2 10.0.1.3 10.0.1.4=dup 10.0.1.5=dup !10.0.1.6=late"),
        ),
        ("testns/b", slice("testns/hdls1", "http/80", "fd00:1::1 fd00:1::4=dup fd00:1::=zero ::1")),
        ("testns/c", slice("testns/portless", "", "10.0.2.20")),
        ("testns/d", slice("testns/empty", "http/80", "!10.0.2.30")),
        ("testns/e", slice("testns/big", "http/80", &big.join(" "))),
        ("testns/f", slice("testns/svc1", "http/8080", "10.0.3.1 10.0.3.2=named")),
    ] {
        store.set_slice(&object(name), Some(slice));
    }
    store.set_namespace("bare", true);
    store
}

pub(super) fn synced(change: impl FnOnce(&mut Options)) -> std::sync::Arc<Snapshot> {
    let mut store = store(change);
    store.set_synced();
    store.publish(1_700_000_000);
    store.published().snapshot()
}

pub(super) fn client(transport: Transport) -> Client {
    Client { peer: "198.51.100.100:5353".parse().unwrap(), transport, now: 1_559_731_985, random: 0 }
}

pub(super) fn query(asked: &str, rtype: Rtype) -> Message {
    Message::new(Header::query(4711), Some(Question::new(name(asked), rtype)))
}

/// The response, or what became of the query.
fn ask_by(snapshot: &Snapshot, rules: &Rules, packet: &[u8], client: &Client) -> Result<Message, Verdict> {
    let mut out = Vec::new();
    let outcome = respond(snapshot, rules, packet, client, &mut out);
    if outcome.verdict != Verdict::Reply {
        return Err(outcome.verdict);
    }
    let message = Message::parse(&out).unwrap();
    assert_eq!(message.header.rcode, outcome.rcode);
    Ok(message)
}

fn ask(snapshot: &Snapshot, query: &Message) -> Message {
    ask_by(snapshot, &Rules::default(), &query.to_bytes(), &client(Transport::Udp)).unwrap()
}

/// A.3: what is refused, and how.
#[test]
fn refusals() {
    let snapshot = synced(|_| {});
    let plain = query("svc1.testns.svc.cluster.local", Rtype::A);
    let with = |change: &dyn Fn(&mut Message)| {
        let mut query = plain.clone();
        change(&mut query);
        ask(&snapshot, &query)
    };
    let class = with(&|query| query.questions[0].class = Class::CH);
    assert_eq!((class.header.rcode, &class.questions[0].class), (Rcode::REFUSED, &Class::CH));
    for rtype in [Rtype::AXFR, Rtype::IXFR] {
        assert_eq!(with(&|query| query.questions[0].rtype = rtype).header.rcode, Rcode::REFUSED);
    }
    for opcode in [Opcode::NOTIFY, Opcode::UPDATE, Opcode(7)] {
        let refused = with(&|query| query.header.opcode = opcode);
        assert_eq!((refused.header.rcode, refused.header.opcode), (Rcode::NOTIMP, opcode));
        assert_eq!(refused.questions, plain.questions);
    }
    let two = with(&|query| query.questions.push(query.questions[0].clone()));
    assert_eq!((two.header.rcode, two.questions.len()), (Rcode::FORMERR, 0));
    assert_eq!(with(&|query| query.questions.clear()).header.rcode, Rcode::FORMERR);
    let version = with(&|query| query.edns = Some(Edns { version: 1, udp_size: 4096, ..Edns::default() }));
    assert_eq!(version.header.rcode, Rcode::BADVERS);
    assert_eq!(version.edns.unwrap().version, 0);
    // A response is never answered.
    let mut response = plain.clone();
    response.header.response = true;
    let drop = |packet: &[u8]| ask_by(&snapshot, &Rules::default(), packet, &client(Transport::Udp));
    assert_eq!(drop(&response.to_bytes()), Err(Verdict::Drop));
    assert_eq!(drop(&plain.to_bytes()[..11]), Err(Verdict::Drop));
    // A question that is cut, or compressed.
    assert_eq!(drop(&plain.to_bytes()[..20]).unwrap().header.rcode, Rcode::FORMERR);
    let mut compressed = plain.to_bytes();
    compressed.splice(12.., [0xc0, 0, 0, 1, 0, 1]);
    assert_eq!(drop(&compressed).unwrap().header.rcode, Rcode::FORMERR);
}

/// RFC 8482; A.3: something small, also about names that are not ours.
#[test]
fn any_is_minimal() {
    let snapshot = synced(|_| {});
    for (asked, ours) in [("hdls1.testns.svc.cluster.local", true), ("example.com", false)] {
        let answer = ask(&snapshot, &query(asked, Rtype::ANY));
        assert_eq!(answer.answers[0].data, Rdata::Hinfo((*b"RFC8482").into(), Box::default()));
        assert_eq!((answer.answers.len(), answer.header.authoritative), (1, ours));
    }
    let unknown = ask(&snapshot, &query("none.testns.svc.cluster.local", Rtype::ANY));
    assert_eq!(unknown.header.rcode, Rcode::NXDOMAIN);
}

/// A.9, A.2: names are found in any case, and repeated as they came; RD and CD come back, RA and AA are set.
#[test]
fn questions_are_repeated() {
    let snapshot = synced(|_| {});
    let mut query = query("sVC1.TestNS.svc.CLUSTER.local", Rtype::A);
    query.header.checking_disabled = true;
    let packet = query.to_bytes();
    let mut out = Vec::new();
    respond(&snapshot, &Rules::default(), &packet, &client(Transport::Udp), &mut out);
    assert_eq!(out[12..packet.len()], packet[12..]);
    let header = Message::parse(&out).unwrap().header;
    assert!(header.authoritative && header.recursion_available && header.recursion_desired);
    assert!(header.checking_disabled && !header.authentic_data && header.id == 4711);
    query.header.recursion_desired = false;
    assert!(!ask(&snapshot, &query).header.recursion_desired);
}

/// A.9: 512 bytes without EDNS, what the client takes between 512 and 1232 with it; TC and as many as fit, from any
/// place on; everything over TCP.
#[test]
fn large_sets() {
    let snapshot = synced(|_| {});
    let mut query = query("big.testns.svc.cluster.local", Rtype::A);
    let mut seen = std::collections::HashSet::new();
    for (size, room) in [(None, 512), (Some(100), 512), (Some(700), 700), (Some(4096), 1232)] {
        query.edns = size.map(|udp_size| Edns { udp_size, ..Edns::default() });
        let mut out = Vec::new();
        let client = Client { random: room, ..client(Transport::Udp) };
        respond(&snapshot, &Rules::default(), &query.to_bytes(), &client, &mut out);
        assert!(out.len() <= room as usize && out.len() + 16 > room as usize, "{} of {room}", out.len());
        let answer = Message::parse(&out).unwrap();
        assert!(answer.header.truncated && answer.additional.is_empty());
        assert_eq!(answer.edns.map(|edns| edns.udp_size), size.map(|_| UDP_SIZE));
        seen.insert(answer.answers[0].data.clone());
    }
    assert!(seen.len() > 2);
    for rtype in [Rtype::A, Rtype::SRV] {
        query.questions[0].rtype = rtype;
        let answer =
            ask_by(&snapshot, &Rules::default(), &query.to_bytes(), &client(Transport::Tcp)).unwrap();
        assert_eq!((answer.answers.len(), answer.header.truncated), (200, false));
        assert_eq!(answer.additional.len(), if rtype == Rtype::SRV { 200 } else { 0 });
    }
}

/// RFC 9018 appendix A.1 gives the cookie; RFC 7873 section 5.2 what is malformed.
#[test]
fn cookies() {
    let snapshot = synced(|_| {});
    let secret = 0xe5e9_73e5_a6b2_a43f_48e7_dc84_9e37_bfcf_u128.to_be_bytes();
    let rules = Rules { cookie_secret: Some(secret), ..Rules::default() };
    let ours = 0x2464_c4ab_cf10_c957_u64.to_be_bytes();
    let mut query = query("svc1.testns.svc.cluster.local", Rtype::A);
    let mut ask = |server: &[u8], ip: &str| {
        let cookie = EdnsOption::Cookie(Cookie { client: ours, server: server.into() });
        query.edns = Some(Edns { options: vec![cookie], ..Edns::default() });
        let mut out = Vec::new();
        let client = Client { peer: (self::ip(ip), 53).into(), ..client(Transport::Udp) };
        let outcome = respond(&snapshot, &rules, &query.to_bytes(), &client, &mut out);
        (outcome.is_known, Message::parse(&out).unwrap().edns.unwrap().cookie().unwrap().server.clone())
    };
    let expected = 0x0100_0000_5cf7_9f11_1f81_30c3_eee2_9480_u128.to_be_bytes();
    assert_eq!(ask(&[], "198.51.100.100"), (false, expected.into()));
    assert!(ask(&expected, "198.51.100.100").0);
    assert!(!ask(&expected, "198.51.100.101").0);
    let (_, v6) = ask(&[], "2001:db8::1");
    assert!(ask(&v6, "2001:db8::1").0 && !ask(&v6, "2001:db8::2").0);
    query.edns = Some(Edns { options: vec![EdnsOption::Other(10, [1; 7].into())], ..Edns::default() });
    let malformed = ask_by(&snapshot, &rules, &query.to_bytes(), &client(Transport::Udp)).unwrap();
    assert_eq!(malformed.header.rcode, Rcode::FORMERR);
}

/// RFC 5001, RFC 7828 section 3.3: what is asked for, and of keepalive nothing over UDP. RFC 6891: OPT answers OPT.
#[test]
fn options() {
    let snapshot = synced(|_| {});
    let rules = Rules { nsid: (*b"dns-1").into(), keepalive: 80, ..Rules::default() };
    let mut query = query("svc1.testns.svc.cluster.local", Rtype::AAAA);
    let ask = |query: &Message, transport| {
        ask_by(&snapshot, &rules, &query.to_bytes(), &client(transport)).unwrap().edns
    };
    assert_eq!(ask(&query, Transport::Udp), None);
    let options = vec![
        EdnsOption::Nsid(Box::default()),
        EdnsOption::Keepalive(None),
        EdnsOption::Other(8, [0; 4].into()),
    ];
    query.edns = Some(Edns { options, dnssec_ok: true, ..Edns::default() });
    let nsid = EdnsOption::Nsid((*b"dns-1").into());
    let edns = ask(&query, Transport::Udp).unwrap();
    assert_eq!((edns.options, edns.dnssec_ok), (vec![nsid.clone()], true));
    assert_eq!(ask(&query, Transport::Tcp).unwrap().options, [nsid, EdnsOption::Keepalive(Some(80))]);
}

/// A.3: what is not there yet may still come; what is there is answered.
#[test]
fn not_synced() {
    let mut store = store(|_| {});
    store.publish(1);
    let snapshot = store.published().snapshot();
    let mut unknown = query("none.testns.svc.cluster.local", Rtype::A);
    unknown.edns = Some(Edns::default());
    let answer = ask(&snapshot, &unknown);
    assert_eq!((answer.header.rcode, answer.header.authoritative), (Rcode::SERVFAIL, false));
    assert_eq!(answer.edns.unwrap().options, [EdnsOption::Error(ede::NOT_READY, "".into())]);
    assert!(answer.authority.is_empty());
    let rcode = |asked, rtype| ask(&snapshot, &query(asked, rtype)).header.rcode;
    assert_eq!(rcode("nowhere.testns.svc.cluster.local", Rtype::A), Rcode::SERVFAIL);
    assert_eq!(rcode("portless.testns.svc.cluster.local", Rtype::AAAA), Rcode::SERVFAIL);
    assert_eq!(rcode("9.9.9.10.in-addr.arpa", Rtype::PTR), Rcode::SERVFAIL);
    assert_eq!(rcode("svc1.testns.svc.cluster.local", Rtype::AAAA), Rcode::NOERROR);
    assert_eq!(rcode("portless.testns.svc.cluster.local", Rtype::A), Rcode::NOERROR);
}

/// What others have to answer.
#[test]
fn elsewhere() {
    let snapshot = synced(|options| options.fallthrough = vec![name("Fall.testns.svc.cluster.local")]);
    let slow = |asked, rtype, rules: &Rules| {
        ask_by(&snapshot, rules, &query(asked, rtype).to_bytes(), &client(Transport::Udp))
            == Err(Verdict::Slow)
    };
    let rules = Rules::default();
    assert!(slow("example.com", Rtype::A, &rules));
    assert!(slow("outside.testns.svc.cluster.local", Rtype::A, &rules));
    assert!(!slow("outside.testns.svc.cluster.local", Rtype::CNAME, &rules));
    assert!(slow("x.fall.testns.svc.cluster.local", Rtype::A, &rules));
    assert!(!slow("x.testns.svc.cluster.local", Rtype::A, &rules));
    assert!(slow("1.2.0.192.in-addr.arpa", Rtype::PTR, &rules));
    let rules = Rules { synthesize: true, ..rules };
    assert!(slow("svc1.testns.svc.cluster.local", Rtype::AAAA, &rules));
    assert!(!slow("dual.testns.svc.cluster.local", Rtype::AAAA, &rules));
    assert!(!slow("svc6.testns.svc.cluster.local", Rtype::A, &rules));
    assert!(!slow("none.testns.svc.cluster.local", Rtype::AAAA, &rules));

    let local = |asked, rtype| lookup(&snapshot, &Question::new(name(asked), rtype), 0);
    assert_eq!(local("example.com", Rtype::A), None);
    let outside = local("outside.testns.svc.cluster.local", Rtype::AAAA).unwrap();
    assert_eq!(outside.chase, Some(name("ext.interwebs.test")));
    assert_eq!(outside.message.answers[0].data, Rdata::Cname(name("ext.interwebs.test")));
    let inside = local("inside.testns.svc.cluster.local", Rtype::A).unwrap();
    assert_eq!((inside.chase, inside.message.answers.len()), (None, 2));
}

/// What a server says that cannot ask.
#[test]
fn refused_without_asking() {
    let mut query = query("example.com", Rtype::A);
    query.edns = Some(Edns::default());
    let mut out = Vec::new();
    assert!(refuse(&query.to_bytes(), Rcode::SERVFAIL, false, &mut out));
    let answer = Message::parse(&out).unwrap();
    assert_eq!((answer.header.rcode, answer.header.truncated), (Rcode::SERVFAIL, false));
    assert_eq!((&answer.questions, answer.edns.is_some()), (&query.questions, true));
    assert!(refuse(&query.to_bytes(), Rcode::NOERROR, true, &mut out));
    assert!(Message::parse(&out).unwrap().header.truncated);
    query.header.response = true;
    assert!(!refuse(&query.to_bytes(), Rcode::SERVFAIL, false, &mut out));
}
