use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

use dyad_net::IpFamily;

use super::*;
use crate::corefile::{Corefile, Disk};
use crate::forward::tests::server::{Heard, Say, Server};
use crate::forward::tests::{dice, good, query};
use crate::wire::{MAX_MESSAGE, Soa, ede};

mod remembering;
mod synthesis;
mod zone;

/// A cluster with `web.default` in IPv4 only, an ExternalName, and one reverse range.
struct Small;

fn parsed(text: &str) -> Name {
    text.parse().unwrap()
}

impl Cluster for Small {
    fn lookup(&self, question: &Question, _: u32) -> Option<Local> {
        let zone = parsed("cluster.local.");
        if question.name.is_within(&parsed("96.10.in-addr.arpa.")) {
            let message = Message::new(Header::query(0), Some(question.clone())).response(Rcode::NXDOMAIN);
            return Some(Local { message, chase: None });
        }
        question.name.is_within(&zone).then(|| {
            let query = Message::new(Header::query(0), Some(question.clone()));
            let mut message = query.response(Rcode::NOERROR);
            message.header.authoritative = true;
            let record = |data| Record::new(question.name.clone(), 30, data);
            let mut chase = None;
            match (question.name.to_string().to_lowercase().as_str(), question.rtype) {
                ("web.default.svc.cluster.local.", Rtype::A) => {
                    message.answers.push(record(Rdata::A([10, 96, 0, 1].into())))
                }
                ("web.default.svc.cluster.local.", _) => message.authority.push(denial(zone, 30)),
                ("ext.default.svc.cluster.local.", _) => {
                    message.answers.push(record(Rdata::Cname(parsed("a.test."))));
                    chase = Some(parsed("a.test."));
                }
                ("round.default.svc.cluster.local.", _) => {
                    message.answers.push(record(Rdata::Cname(question.name.clone())));
                    chase = Some(question.name.clone());
                }
                _ => {
                    message.header.rcode = Rcode::NXDOMAIN;
                    message.authority.push(denial(zone, 30));
                }
            }
            Local { message, chase }
        })
    }

    fn namespace(&self, ip: IpAddr) -> Option<String> {
        (ip == POD).then(|| "default".to_owned())
    }
}

const POD: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7));

fn world() -> World {
    World { cluster: Some(Arc::new(Small)), usable: Arc::new(|_| true), dice: dice(11) }
}

fn chain(text: &str) -> Arc<Chain> {
    let parsed = Corefile::parse("Corefile", &format!(". {{\n{text}\n}}"), &Disk::default()).unwrap();
    Arc::new(Chain::new(&parsed.servers[0], world(), None).unwrap())
}

async fn ask(chain: &Arc<Chain>, rtype: Rtype, asked: &str) -> Message {
    let asked = query(asked, rtype);
    let answer = chain.answer(&asked, POD).await;
    assert_eq!((answer.header.id, &answer.questions), (asked.header.id, &asked.questions));
    assert!(answer.header.recursion_available && answer.header.response);
    answer
}

/// Code and answers, aliases with their targets.
fn text(answer: &Message) -> String {
    let data = |record: &Record| match &record.data {
        Rdata::A(ip) => ip.to_string(),
        Rdata::Aaaa(ip) => ip.to_string(),
        Rdata::Ptr(name) => name.to_string(),
        Rdata::Cname(name) => format!("{}={name}", record.name),
        Rdata::Hinfo(cpu, _) => String::from_utf8_lossy(cpu).into_owned(),
        other => panic!("{other:?}"),
    };
    let texts: Vec<_> = answer.answers.iter().map(data).collect();
    if texts.is_empty() { answer.header.rcode.to_string() } else { texts.join(" ") }
}

/// A server that knows A of all names under `test.`, and nothing else; `gone.test.` is not there.
async fn upstream() -> Server {
    Server::start(IpFamily::V6, |heard| vec![Say::Answer(known(heard))]).await
}

pub(super) fn known(heard: &Heard) -> Message {
    let question = &heard.query.questions[0];
    let first = question.name.labels().next().map(<[u8]>::to_ascii_lowercase);
    if question.rtype == Rtype::A && first.as_deref() != Some(b"gone") {
        return good(heard);
    }
    let rcode = if first.as_deref() == Some(b"gone") { Rcode::NXDOMAIN } else { Rcode::NOERROR };
    let mut answer = heard.query.response(rcode);
    let root = Name::root();
    let soa = Soa {
        mname: root.clone(),
        rname: root.clone(),
        serial: 1,
        refresh: 1,
        retry: 1,
        expire: 1,
        minimum: 40,
    };
    answer.authority.push(Record::new(root, 40, Rdata::Soa(Box::new(soa))));
    answer
}

#[tokio::test]
async fn each_in_its_turn() {
    let server = upstream().await;
    let chain = chain(&format!(
        "kubernetes cluster.local in-addr.arpa {{
            fallthrough in-addr.arpa
        }}
        hosts /dev/null {{
            192.0.2.99 host.test
            fallthrough
        }}
        template IN AAAA blocked.test
        rewrite name old.test web.default.svc.cluster.local
        rewrite name suffix .from.test .test answer auto
        forward . {} {{
            except never.test
        }}
        cache",
        server.at
    ));
    #[rustfmt::skip]
    let rows = [
        (Rtype::A,    "old.test.",                       "10.96.0.1"),
        (Rtype::A,    "web.default.svc.cluster.local.",  "10.96.0.1"),
        (Rtype::AAAA, "web.default.svc.cluster.local.",  "NOERROR"),
        (Rtype::A,    "none.default.svc.cluster.local.", "NXDOMAIN"),
        (Rtype::A,    "ext.default.svc.cluster.local.",  "ext.default.svc.cluster.local.=a.test. 192.0.2.97"),
        (Rtype::A,    "round.default.svc.cluster.local.", "SERVFAIL"),
        (Rtype::A,    "host.test.",                      "192.0.2.99"),
        (Rtype::AAAA, "host.test.",                      "NOERROR"),
        (Rtype::AAAA, "a.blocked.test.",                 "NOERROR"),
        (Rtype::A,    "a.blocked.test.",                 "192.0.2.97"),
        (Rtype::A,    "b.from.test.",                    "192.0.2.98"),
        (Rtype::A,    "c.test.",                         "192.0.2.99"),
        (Rtype::A,    "gone.test.",                      "NXDOMAIN"),
        (Rtype::PTR,  "1.0.96.10.in-addr.arpa.",         "NOERROR"),
        (Rtype::A,    "a.never.test.",                   "REFUSED"),
        (Rtype::A,    "localhost.",                      "127.0.0.1"),
        (Rtype::AAAA, "x.localhost.",                    "::1"),
        (Rtype::MX,   "localhost.",                      "NOERROR"),
        (Rtype::PTR,  "1.0.0.127.in-addr.arpa.",         "localhost."),
        (Rtype::ANY,  "a.test.",                         "RFC8482"),
        (Rtype::AXFR, "a.test.",                         "REFUSED"),
        (Rtype::A,    "ipv4only.arpa.",                  "192.0.0.170 192.0.0.171"),
        (Rtype::AAAA, "ipv4only.arpa.",                  "NOERROR"),
        (Rtype::A,    "x.ipv4only.arpa.",                "NXDOMAIN"),
    ];
    for (rtype, asked, want) in rows {
        let answer = ask(&chain, rtype, asked).await;
        let got = text(&answer);
        // An alias of one's own is followed so long, and no longer.
        let got = if answer.header.rcode == Rcode::SERVFAIL { "SERVFAIL".to_owned() } else { got };
        assert_eq!(got, want, "{rtype} {asked}");
        if answer.answers.is_empty() && matches!(answer.header.rcode, Rcode::NOERROR | Rcode::NXDOMAIN) {
            assert_eq!(answer.authority.len(), 1, "{rtype} {asked}: how long there is nothing");
        }
    }
    let asked: Vec<_> =
        server.heard().iter().map(|heard| heard.query.questions[0].name.to_string().to_lowercase()).collect();
    assert_eq!(
        asked,
        [
            "a.test.",
            "a.blocked.test.",
            "b.test.",
            "c.test.",
            "gone.test.",
            "1.0.96.10.in-addr.arpa.",
            // AAAA: others may have prefixes.
            "ipv4only.arpa."
        ]
    );
}

#[tokio::test]
async fn queries_that_are_none() {
    let chain = chain("forward . 127.0.0.1:1");
    let good = query("a.test.", Rtype::A);
    let answer = |change: &dyn Fn(&mut Message)| {
        let mut asked = good.clone();
        change(&mut asked);
        let chain = chain.clone();
        async move { chain.answer(&asked, POD).await.header.rcode }
    };
    assert_eq!(answer(&|query| query.header.opcode = Opcode::NOTIFY).await, Rcode::NOTIMP);
    assert_eq!(answer(&|query| query.questions.clear()).await, Rcode::FORMERR);
    assert_eq!(answer(&|query| query.questions[0].class = Class::CH).await, Rcode::REFUSED);
}

#[tokio::test]
async fn opt_and_flags_are_the_clients() {
    let server = Server::start(IpFamily::V4, |heard| {
        let mut answer = good(heard);
        answer.header.authentic_data = true;
        answer.header.authoritative = true;
        vec![Say::Answer(answer)]
    })
    .await;
    let chain = chain(&format!("forward . {}\ncache", server.at));
    for (ad, dnssec) in [(false, None), (false, Some(false)), (false, Some(true)), (true, None)] {
        // Once from upstream, once from memory.
        for _ in 0..2 {
            let mut asked = query("a.test.", Rtype::A);
            asked.header.authentic_data = ad;
            asked.edns = dnssec.map(|dnssec_ok| Edns {
                udp_size: 4096,
                dnssec_ok,
                options: vec![EdnsOption::Other(8, Box::new([0; 4]))],
                version: 0,
            });
            let answer = chain.answer(&asked, POD).await;
            assert_eq!(answer.header.authentic_data, ad || dnssec == Some(true), "{ad} {dnssec:?}");
            assert!(!answer.header.authoritative);
            let want = dnssec.map(|dnssec_ok| Edns { udp_size: 1232, dnssec_ok, ..Edns::default() });
            assert_eq!(answer.edns, want);
        }
    }
}

#[tokio::test]
async fn failures_say_why() {
    let silent = Server::start(IpFamily::V6, |_| Vec::new()).await;
    let at = silent.at;
    drop(silent);
    let chain = chain(&format!("forward . {at} {{\nmax_fails 0\n}}\ncache"));
    let mut asked = query("a.test.", Rtype::A);
    asked.edns = Some(Edns::default());
    for code in [ede::NETWORK_ERROR, ede::CACHED_ERROR] {
        let answer = chain.answer(&asked, POD).await;
        assert_eq!(answer.header.rcode, Rcode::SERVFAIL);
        assert_eq!(answer.edns.unwrap().options, [EdnsOption::Error(code, "".into())]);
    }
}

#[tokio::test]
async fn zones_of_a_corefile_and_what_outlives_a_reload() {
    let (one, two) = (upstream().await, upstream().await);
    let corefile = |ttl: u32| {
        let text = format!(
            ".:53 {{\nforward . {}\ncache {ttl}\n}}\nstub.test:53 10.0.0.0/8:53 {{\nforward . {}\ncache\n}}\n.:5353 {{\nforward . {}\n}}",
            one.at, two.at, one.at
        );
        Corefile::parse("Corefile", &text, &Disk::default()).unwrap()
    };
    let chains = Chains::new(&corefile(30), &world(), None).unwrap();
    assert_eq!(chains.iter().count(), 3);
    let find = |chains: &Chains, port, text: &str| chains.find(port, parsed(text).as_wire()).cloned();
    let (root, stub) = (find(&chains, 53, "a.test.").unwrap(), find(&chains, 53, "a.stub.test.").unwrap());
    assert!(Arc::ptr_eq(&stub, &find(&chains, 53, "STUB.test.").unwrap()));
    assert!(Arc::ptr_eq(&stub, &find(&chains, 53, "1.2.3.10.in-addr.arpa.").unwrap()));
    assert!(Arc::ptr_eq(&root, &find(&chains, 53, "astub.test.").unwrap()));
    assert!(Arc::ptr_eq(&root, &find(&chains, 53, ".").unwrap()));
    assert!(!Arc::ptr_eq(&root, &find(&chains, 5353, ".").unwrap()));
    assert!(find(&chains, 54, ".").is_none());
    ask(&root, Rtype::A, "a.test.").await;
    ask(&stub, Rtype::A, "a.stub.test.").await;
    assert_eq!((one.heard().len(), two.heard().len()), (1, 1));
    // With other settings it begins anew, and all else stays.
    let again = Chains::new(&corefile(60), &world(), Some(&chains)).unwrap();
    ask(&find(&again, 53, "a.test.").unwrap(), Rtype::A, "a.test.").await;
    ask(&find(&again, 53, "a.stub.test.").unwrap(), Rtype::A, "a.stub.test.").await;
    assert_eq!((one.heard().len(), two.heard().len()), (2, 1));
    let again = find(&again, 53, "a.test.").unwrap();
    let upstreams = |chain: &Chain| chain.forwarders().next().unwrap().upstreams()[0].clone();
    assert!(Arc::ptr_eq(&upstreams(&root), &upstreams(&again)));
}

#[tokio::test]
async fn a_loop_is_found() {
    let fine = upstream().await;
    assert!(!chain(&format!("forward . {}", fine.at)).find_loop().await);
    assert!(!chain("forward . 127.0.0.1:1 {\nmax_fails 0\n}").find_loop().await, "nobody there is no loop");
    // What is sent to this upstream comes back to where it came from.
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let looping = chain(&format!("forward . {}\ncache", socket.local_addr().unwrap()));
    let behind = looping.clone();
    let relay = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let query = Message::parse(&buffer[..length]).unwrap();
            let answer = behind.answer(&query, POD).await;
            socket.send_to(&answer.to_bytes(), from).await.unwrap();
        }
    });
    assert!(looping.find_loop().await);
    relay.abort();
}
