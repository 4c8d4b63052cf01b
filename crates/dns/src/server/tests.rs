use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream, UdpSocket};
use std::sync::atomic::AtomicUsize;

use dyad_net::IpFamily;

use super::*;
use crate::metrics::Registry;
use crate::wire::{Edns, Header, Message, Question, Rcode, Rdata, Record, Rtype};
use crate::zone::Store;
use crate::zone::tests::{cluster, name, object};

mod tcp;

/// No test waits longer for a packet.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Answers TXT with who asks; `stuck` until there is a permit; `wide` with more than fits; `boom` not at all.
pub(super) struct Echo {
    pub(super) gate: Arc<tokio::sync::Semaphore>,
    pub(super) seen: Arc<AtomicUsize>,
}

impl Handler for Echo {
    async fn handle(&self, query: Vec<u8>, client: Client) -> Option<Answered> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        let query = Message::parse(&query).unwrap();
        let asked = query.questions[0].name.to_string();
        if asked.starts_with("stuck") {
            self.gate.acquire().await.unwrap().forget();
        }
        assert!(!asked.starts_with("boom"), "as was asked for");
        let mut response = query.response(Rcode::NOERROR);
        let count = if asked.starts_with("wide") { 100 } else { 1 };
        let text = client.peer.ip().to_string().into_bytes().into_boxed_slice();
        for _ in 0..count {
            response.answers.push(Record::new(
                query.questions[0].name.clone(),
                1,
                Rdata::Txt(vec![text.clone()]),
            ));
        }
        Some(Answered { bytes: response.to_bytes(), plugin: "forward" })
    }
}

pub(super) struct Lab {
    pub(super) server: Server<Echo>,
    pub(super) registry: Arc<Registry>,
    pub(super) gate: Arc<tokio::sync::Semaphore>,
    pub(super) seen: Arc<AtomicUsize>,
}

pub(super) fn loopback(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::LOCALHOST.into(),
        IpFamily::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

pub(super) fn lab_at(listen: Vec<SocketAddr>, change: impl FnOnce(&mut Config)) -> Lab {
    let mut store = Store::new(crate::zone::Options::new(name("cluster.local")));
    store.set_service(&object("default/web"), Some(cluster("10.96.0.1 fd00::1", "http/80")));
    store.set_synced();
    store.publish(1);
    let registry = Arc::new(Registry::new());
    let requests = Requests::new(registry.clone(), "dns://:53", &name("cluster.local"));
    let mut config = Config { listen, workers: 2, ..Config::default() };
    change(&mut config);
    let (gate, seen) = (Arc::new(tokio::sync::Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let echo = Echo { gate: gate.clone(), seen: seen.clone() };
    let server = Server::start(config, store.published().clone(), Rules::default(), requests, echo).unwrap();
    Lab { server, registry, gate, seen }
}

pub(super) fn lab(change: impl FnOnce(&mut Config)) -> Lab {
    lab_at(IpFamily::BOTH.map(|family| (loopback(family), 0).into()).to_vec(), change)
}

pub(super) fn query(id: u16, asked: &str, rtype: Rtype) -> Message {
    Message::new(Header::query(id), Some(Question::new(name(asked), rtype)))
}

fn udp(to: SocketAddr) -> UdpSocket {
    let from: IpAddr = loopback(IpFamily::from(to.ip()));
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    Message::parse(&buffer[..length]).unwrap()
}

/// The answer of a handler that may have to be asked again and again, since it is busy.
fn answer_of(socket: &UdpSocket, query: &Message) -> Message {
    for _ in 0..4000 {
        socket.send(&query.to_bytes()).unwrap();
        let answer = receive(socket);
        if answer.header.id == query.header.id && answer.header.rcode != Rcode::SERVFAIL {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("always busy")
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families_over_udp() {
    let lab = lab(|_| {});
    for to in lab.server.addresses().to_vec() {
        blocking(move || {
            let socket = udp(to);
            socket.send(&query(1, "web.default.svc.cluster.local", Rtype::AAAA).to_bytes()).unwrap();
            let answer = receive(&socket);
            assert_eq!(answer.answers[0].data, Rdata::Aaaa("fd00::1".parse().unwrap()));
            socket.send(&query(2, "example.com", Rtype::TXT).to_bytes()).unwrap();
            let answer = receive(&socket);
            assert_eq!(answer.header.id, 2);
            assert_eq!(answer.answers[0].data, Rdata::Txt(vec![to.ip().to_string().into_bytes().into()]));
            // Garbage and empty datagrams do no harm.
            for bytes in [&b""[..], b"x", &[0xff; 600]] {
                socket.send(bytes).unwrap();
            }
            socket.send(&query(3, "none.cluster.local", Rtype::A).to_bytes()).unwrap();
            assert_eq!(receive(&socket).header.rcode, Rcode::NXDOMAIN);
        })
        .await;
    }
    let text = lab.registry.render();
    for family in ["1", "2"] {
        let line = format!(
            "coredns_dns_requests_total{{family=\"{family}\",proto=\"udp\",server=\"dns://:53\",type=\"AAAA\",view=\"\",zone=\"cluster.local.\"}} 1"
        );
        assert!(text.contains(&line), "{text}");
    }
    lab.server.stop(PATIENCE).await;
}

/// A.1: an answer leaves from the address that was asked, also where that is not the one the route would choose.
#[tokio::test(flavor = "multi_thread")]
async fn wildcards_answer_from_the_address_asked() {
    for (any, asked) in [("0.0.0.0:0", "127.0.0.77"), ("[::]:0", "::1")] {
        let lab = lab_at(vec![any.parse().unwrap()], |_| {});
        let to = SocketAddr::new(asked.parse().unwrap(), lab.server.addresses()[0].port());
        // Connected sockets take nothing from other addresses.
        let answer = blocking(move || {
            let socket = udp(to);
            socket.send(&query(1, "web.default.svc.cluster.local", Rtype::A).to_bytes()).unwrap();
            socket.send(&query(2, "example.com", Rtype::TXT).to_bytes()).unwrap();
            [receive(&socket), receive(&socket)]
        });
        assert!(answer.await.iter().all(|answer| answer.answers.len() == 1));
        lab.server.stop(PATIENCE).await;
    }
}

/// A.1: beyond what may be in flight there is SERVFAIL, at once; what is in flight is answered when it is ready.
#[tokio::test(flavor = "multi_thread")]
async fn overflow_is_told() {
    let lab = lab(|config| config.in_flight = 1);
    let (to, gate) = (lab.server.addresses()[1], lab.gate.clone());
    blocking(move || {
        let socket = udp(to);
        socket.send(&query(1, "stuck.example", Rtype::TXT).to_bytes()).unwrap();
        // One of these is in flight, whichever worker came first.
        socket.send(&query(2, "stuck.example", Rtype::TXT).to_bytes()).unwrap();
        let first = receive(&socket);
        assert_eq!(first.header.rcode, Rcode::SERVFAIL);
        gate.add_permits(1);
        let second = receive(&socket);
        assert_eq!(second.header.rcode, Rcode::NOERROR);
        assert_eq!(first.header.id + second.header.id, 3);
    })
    .await;
    lab.server.stop(PATIENCE).await;
}

/// A.9: whatever a handler says, a client over UDP gets no more than it takes. One that fails takes nothing with it.
#[tokio::test(flavor = "multi_thread")]
async fn handlers_are_kept_in_bounds() {
    let lab = lab(|config| config.in_flight = 1);
    let to = lab.server.addresses()[0];
    blocking(move || {
        let socket = udp(to);
        for size in [None, Some(700)] {
            let mut wide = query(1, "wide.example", Rtype::TXT);
            wide.edns = size.map(|udp_size| Edns { udp_size, ..Edns::default() });
            let answer = answer_of(&socket, &wide);
            assert!(answer.header.truncated && !answer.answers.is_empty());
            assert!(answer.to_bytes().len() <= usize::from(size.unwrap_or(512)));
        }
        socket.send(&query(2, "boom.example", Rtype::TXT).to_bytes()).unwrap();
        // As soon as the failed one has given its place back.
        assert_eq!(answer_of(&socket, &query(3, "example.com", Rtype::TXT)).answers.len(), 1);
    })
    .await;
    lab.server.stop(PATIENCE).await;
}

/// What came before the end is answered, then nobody listens any more.
#[tokio::test(flavor = "multi_thread")]
async fn stopping_loses_nothing() {
    let lab = lab(|_| {});
    let (to, gate, seen) = (lab.server.addresses()[1], lab.gate.clone(), lab.seen.clone());
    let socket = udp(to);
    socket.send(&query(1, "stuck.example", Rtype::TXT).to_bytes()).unwrap();
    while seen.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for id in 0..50 {
        socket.send(&query(id, "web.default.svc.cluster.local", Rtype::A).to_bytes()).unwrap();
    }
    gate.add_permits(1);
    lab.server.stop(PATIENCE).await;
    let ids = blocking(move || (0..51).map(|_| receive(&socket).header.id).collect::<Vec<_>>()).await;
    assert_eq!(ids.iter().map(|id| usize::from(*id)).sum::<usize>(), (0..50).sum::<usize>() + 1);
    UdpSocket::bind(to).unwrap();
    assert!(TcpStream::connect(to).is_err());
}

#[test]
fn rate_limits() {
    let limit = RateLimit::new(10);
    let victim = "192.0.2.1".parse().unwrap();
    let sent = |ip, now| (0..100).filter(|random| limit.take(ip, now, *random) == RateVerdict::Send).count();
    assert_eq!(sent(victim, 0), 10);
    assert_eq!(limit.take(victim, 0, 2), RateVerdict::Slip);
    assert_eq!(limit.take(victim, 0, 3), RateVerdict::Drop);
    assert_eq!(sent(victim, 500), 5);
    assert_eq!(sent(victim, 60_000), 10);
    assert_eq!(sent("192.0.2.2".parse().unwrap(), 60_000), 10);
    // A /56 is one, another is another.
    assert_eq!(sent("2001:db8:0:100::1".parse().unwrap(), 0), 10);
    assert_eq!(sent("2001:db8:0:1ff::2".parse().unwrap(), 0), 0);
    assert_eq!(sent("2001:db8:0:200::1".parse().unwrap(), 0), 10);
}

/// A flooded prefix gets little, and a way out: TC.
#[tokio::test(flavor = "multi_thread")]
async fn floods_are_cut() {
    let lab = lab(|config| config.rate = Some(1));
    let to = lab.server.addresses()[0];
    blocking(move || {
        let socket = udp(to);
        let ask = query(1, "web.default.svc.cluster.local", Rtype::A).to_bytes();
        let truncated = std::iter::repeat_with(|| {
            // Several at a time, since some are dropped.
            (0..20).for_each(|_| assert!(socket.send(&ask).is_ok()));
            receive(&socket)
        });
        let mut truncated = truncated.take(1000).filter(|answer| answer.header.truncated);
        assert_eq!(truncated.next().unwrap().answers, []);
    })
    .await;
    lab.server.stop(PATIENCE).await;
}
