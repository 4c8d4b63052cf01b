//! Queries to the cluster's DNS come to the server of this node while there is one, and none is lost when it comes or goes.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::thread::JoinHandle;

use dyad_links::pod::{self, PodLink};
use dyad_program::rule::Direction;

use super::*;

/// Nothing takes longer, but what is lost.
const LOST: Duration = Duration::from_secs(5);
/// The cluster IPs of DNS, the pod that serves it, the pod that asks, and the node.
const SERVICE: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];
const SERVER: [&str; 2] = ["10.244.1.3", "fd00:10:244:1::3"];
const CLIENT: [&str; 2] = ["10.244.1.2", "fd00:10:244:1::2"];
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

fn parsed(texts: [&str; 2]) -> [IpAddr; 2] {
    texts.map(|text| text.parse().unwrap())
}

/// A pod of this node.
fn pod_at(key: &str, ips: [&str; 2]) -> OwnedFd {
    let namespace = netns::create().unwrap();
    let (addresses, node) = (both(ips[0], ips[1]), Some(both(NODE[0], NODE[1])));
    let link = PodLink { key, netns: namespace.as_fd(), addresses, node, mtu: 1400 };
    pod::add(&mut Handle::open().unwrap(), &link).unwrap();
    namespace
}

/// Threads that end with the test.
#[derive(Default)]
struct Threads {
    stop: Arc<AtomicBool>,
    all: Vec<JoinHandle<()>>,
}

impl Threads {
    fn go(&mut self, mut step: impl FnMut() + Send + 'static) {
        let stop = self.stop.clone();
        self.all.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                step();
            }
        }));
    }

    /// Servers on these addresses that tell which they are.
    fn serve(&mut self, ips: [IpAddr; 2]) {
        for ip in ips {
            let socket = UdpSocket::bind((ip, 53)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
            self.go(move || {
                if let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
                    socket.send_to(ip.to_string().as_bytes(), peer).unwrap();
                }
            });
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.all.drain(..) {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// What clients have seen last, by what they ask: whether it was the server of this node that answered, and how many
/// answers there were.
type Seen = Arc<Mutex<BTreeMap<SocketAddr, (bool, usize)>>>;

/// Asks without a pause, by turns through one socket for all of the time and through new ones. No query may be lost.
fn ask(threads: &mut Threads, namespace: &OwnedFd, seen: &Seen) {
    for to in parsed(SERVICE).map(|ip| SocketAddr::new(ip, 53)) {
        let socket = move || {
            let socket = UdpSocket::bind((IpFamily::from(to.ip()).everything().addr(), 0)).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(LOST)).unwrap();
            socket
        };
        let (kept, namespace, seen) =
            (netns::within(namespace.as_fd(), socket).unwrap(), namespace.try_clone().unwrap(), seen.clone());
        threads.go(move || {
            let new = netns::within(namespace.as_fd(), socket).unwrap();
            for socket in [&kept, &new] {
                let mut bytes = [0; 64];
                socket.send(b"who?").unwrap();
                let length = socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{to}: {error}"));
                let from: IpAddr = std::str::from_utf8(&bytes[..length]).unwrap().parse().unwrap();
                let count = seen.lock().unwrap().get(&to).map_or(0, |(_, count)| *count);
                seen.lock().unwrap().insert(to, (from == to.ip(), count + 1));
            }
            std::thread::sleep(Duration::from_millis(1));
        });
    }
}

/// Waits until the answers in both families come from the server of this node, or from the other one.
async fn until_seen(seen: &Seen, is_near: bool, when: &str) {
    let deadline = Instant::now() + PATIENCE;
    seen.lock().unwrap().clear();
    let is_so = |seen: &Seen| {
        let seen = seen.lock().unwrap();
        seen.len() == 2 && seen.values().all(|(near, count)| *near == is_near && *count > 4)
    };
    while !is_so(seen) {
        assert!(Instant::now() < deadline, "{when}: {:?}", seen.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn objects(writer: &Writer) {
    writer.node("node1", 1).await;
    let port = json!({"name": "dns", "protocol": "UDP", "port": 53});
    writer
        .create(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "dns"},
            "spec": {
                "clusterIP": SERVICE[0], "clusterIPs": SERVICE, "ipFamilyPolicy": "RequireDualStack",
                "ports": [port],
            },
        }))
        .await;
    for ip in parsed(SERVER) {
        let family = IpFamily::from(ip);
        writer
            .create(json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("dns-{}", family.as_str().to_lowercase()),
                    "labels": {"kubernetes.io/service-name": "dns"},
                },
                "addressType": family.as_str(),
                "endpoints": [{"addresses": [ip], "nodeName": "node1"}],
                "ports": [port],
            }))
            .await;
    }
    for (name, ips) in [("dns", SERVER), ("client", CLIENT)] {
        policies::labelled_pod(writer, name, name, &ips).await;
    }
}

/// A policy that lets the client talk to nobody but the pods of DNS.
fn only_dns() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "only-dns"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "dns"}}}]}],
        },
    })
}

fn intercepting() -> Config {
    Config { intercept: parsed(SERVICE).into(), ..test_config() }
}

fn claimed() -> Vec<IpAddr> {
    let all = Handle::open().unwrap().addresses().unwrap();
    all.into_iter().filter(|address| address.protocol == OURS).map(|address| address.net.addr()).collect()
}

#[test]
fn no_query_is_lost_when_a_server_comes_and_goes() {
    if !privileged("intercept::no_query_is_lost_when_a_server_comes_and_goes") {
        return;
    }
    on_a_node(async || {
        let server = api_server().await;
        let writer = Writer(Way::default().client(&server));
        objects(&writer).await;
        let (client, dns) = (pod_at("client", CLIENT), pod_at("dns", SERVER));
        let mut threads = Threads::default();
        netns::within(dns.as_fd(), || threads.serve(parsed(SERVER))).unwrap();
        claim(&parsed(SERVICE)).unwrap();
        threads.serve(parsed(SERVICE));

        let start = |serves: bool| {
            let (sender, intercept) = status::channel(serves);
            let wires = Wires { intercept: Some(intercept), ..Wires::default() };
            (sender, Agent::start_wired(Way::default().client(&server), intercepting(), wires))
        };
        let (serves, mut agent) = start(false);
        agent.until("ready", Status::is_ready).await;
        assert!(!agent.status.borrow().intercepts);
        let seen = Seen::default();
        ask(&mut threads, &client, &seen);
        until_seen(&seen, false, "before").await;
        for _ in 0..2 {
            serves.send(true).unwrap();
            agent.until("intercepting", |status| status.intercepts).await;
            until_seen(&seen, true, "with a server").await;
            // Under a policy that does not know this node as DNS it goes to the pods of DNS, and comes back.
            writer.create(only_dns()).await;
            let ip = parsed(CLIENT)[0];
            let is_isolated = |tables: &BTreeMap<IpFamily, Table>| {
                tables[&IpFamily::V4].isolated.contains_key(&(Direction::Egress, ip))
            };
            until_tables("isolated", is_isolated).await;
            until_seen(&seen, false, "under a policy").await;
            let policies = writer.api("networking.k8s.io/v1", "NetworkPolicy", true);
            policies.delete("only-dns", &DeleteParams::default()).await.unwrap();
            until_seen(&seen, true, "without").await;
            serves.send(false).unwrap();
            agent.until("leaving it", |status| !status.intercepts).await;
            until_seen(&seen, false, "with a server that is about to go").await;
        }
        serves.send(true).unwrap();
        until_seen(&seen, true, "with a server again").await;
        // Without an agent, and with the next one.
        agent.stop().await;
        until_seen(&seen, false, "without an agent").await;
        let (serves, mut agent) = start(true);
        until_seen(&seen, true, "with the next agent").await;
        assert_eq!(claimed().len(), 2);
        // A server that is gone says nothing any more.
        drop(serves);
        agent.until("alone", |status| !status.intercepts).await;
        until_seen(&seen, false, "with nobody to say so").await;
        assert_eq!(agent.status.borrow().last_error, None);
        agent.stop().await;
        drop(threads);

        // Claims go with the wish for them, and with everything.
        let mut other = Agent::start(Way::default().client(&server));
        other.until("ready", Status::is_ready).await;
        assert!(claimed().is_empty());
        other.stop().await;
        claim(&parsed(SERVICE)).unwrap();
        cleanup(None).unwrap();
        assert!(claimed().is_empty() && tables().is_empty());
        server.shutdown().await;
    });
}
