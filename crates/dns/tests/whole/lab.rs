//! A server from a Corefile on loopback, and clients of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use dyad_dns::ask::{Manner, ask};
use dyad_dns::serve::{Settings, Source, run};
use dyad_dns::wire::{Header, Message, Question, Rcode, Rdata, Rtype};
use dyad_net::IpFamily;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::api::Fake;

/// Nothing takes longer, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// A cluster's Corefile at a port that is free.
pub(crate) const CLUSTER: &str = ".:0 {\n\
    kubernetes cluster.local 10.in-addr.arpa 0.1.0.0.0.0.d.f.ip6.arpa {\npods insecure\n}\n\
    cache 30\n\
}\n";

pub(crate) fn loopback(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::LOCALHOST.into(),
        IpFamily::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// A port that is free over both transports and in both families, below those that the kernel chooses from; no test of
/// this process gets it twice.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 12_000 + u16::try_from(std::process::id() % 200).unwrap() * 100;
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed);
        let is_free = |ip| UdpSocket::bind((ip, port)).is_ok() && TcpListener::bind((ip, port)).is_ok();
        if IpFamily::BOTH.map(loopback).into_iter().all(is_free) {
            return port;
        }
    }
}

/// A server that ends with this.
pub(crate) struct Lab {
    /// By family.
    pub(crate) at: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<Runtime>,
}

impl Lab {
    pub(crate) fn start(corefile: &str, api: Option<&Fake>) -> Self {
        Self::start_with(text(corefile), api, |_| {})
    }

    pub(crate) fn start_with(source: Source, api: Option<&Fake>, change: impl FnOnce(&mut Settings)) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (told, addresses) = mpsc::channel();
        let mut settings = Settings {
            source,
            variables: BTreeMap::new(),
            client: None,
            listen: IpFamily::BOTH.map(loopback).to_vec(),
            service: None,
            workers: 2,
            rate: None,
            listening: Box::new(move |addresses| drop(told.send(addresses.to_vec()))),
        };
        change(&mut settings);
        let (stop, stopped) = oneshot::channel();
        {
            let _entered = runtime.enter();
            settings.client = api.map(Fake::client);
        }
        runtime.spawn(async {
            if let Err(why) = run(settings, async { drop(stopped.await) }).await {
                panic!("the server has ended: {why}");
            }
        });
        let at = addresses.recv_timeout(PATIENCE).expect("it listens");
        Self { at, stop: Some(stop), runtime: Some(runtime) }
    }

    pub(crate) fn v4(&self) -> SocketAddr {
        *self.at.iter().find(|at| at.is_ipv4()).unwrap()
    }

    /// The answer over UDP in IPv4.
    pub(crate) fn ask(&self, name: &str, rtype: Rtype) -> Message {
        tell(self.v4(), name, rtype)
    }

    /// Waits until a name has this code.
    pub(crate) fn until(&self, name: &str, rtype: Rtype, is_so: impl Fn(&Message) -> bool) -> Duration {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if is_so(&self.ask(name, rtype)) {
                return begun.elapsed();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{name}: never as it should be")
    }

    /// Proves that both families and transports are served as ever.
    pub(crate) fn is_well(&self, name: &str, want: &str) {
        for at in &self.at {
            for tcp in [false, true] {
                let told = ask(*at, &name.parse().unwrap(), Rtype::A, Manner { tcp, ..patient() }).unwrap();
                assert_eq!(addresses(&told.message), [want], "{at} tcp {tcp}: {told:?}");
            }
        }
    }
}

/// A Corefile whose port 0 is one that is free.
pub(crate) fn text(corefile: &str) -> Source {
    Source::Text("Corefile".into(), corefile.replace(":0 {", &format!(":{} {{", free_port())))
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

pub(crate) fn patient() -> Manner {
    Manner { patience: Duration::from_secs(8), attempts: 2, ..Manner::default() }
}

/// An answer over UDP.
pub(crate) fn tell(at: SocketAddr, name: &str, rtype: Rtype) -> Message {
    ask(at, &name.parse().unwrap(), rtype, patient()).unwrap().message
}

/// Addresses of an answer, sorted.
pub(crate) fn addresses(answer: &Message) -> Vec<String> {
    let ip = |data: &Rdata| match data {
        Rdata::A(ip) => Some(ip.to_string()),
        Rdata::Aaaa(ip) => Some(ip.to_string()),
        _ => None,
    };
    let mut all: Vec<_> = answer.answers.iter().filter_map(|record| ip(&record.data)).collect();
    all.sort_unstable();
    all
}

/// A query without EDNS.
pub(crate) fn query(id: u16, name: &str, rtype: Rtype) -> Message {
    Message::new(Header::query(id), Some(Question::new(name.parse().unwrap(), rtype)))
}

/// A socket that talks to one place only, from an address.
pub(crate) fn udp_from(from: IpAddr, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn udp(to: SocketAddr) -> UdpSocket {
    udp_from(loopback(IpFamily::from(to.ip())), to)
}

pub(crate) fn tcp(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A message as it stands in a stream.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

/// The codes that are neither crash nor lie.
pub(crate) const CLEAN: [Rcode; 6] =
    [Rcode::NOERROR, Rcode::FORMERR, Rcode::SERVFAIL, Rcode::NXDOMAIN, Rcode::NOTIMP, Rcode::REFUSED];

/// Kilobytes of this process in memory.
pub(crate) fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
