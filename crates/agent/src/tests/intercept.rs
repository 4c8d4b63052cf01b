//! Queries to the cluster's DNS come to the server of this node while there is one, and none is lost when it comes or goes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Mutex;
use std::thread::JoinHandle;

use dyad_ebpf::Why;
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

/// What clients have seen.
#[derive(Default)]
struct Seen {
    /// By what they ask: whether it was the server of this node that answered last, and how many answers there were.
    last: Mutex<BTreeMap<SocketAddr, (bool, usize)>>,
    /// Queries without an answer.
    lost: AtomicUsize,
}

/// Asks without a pause, by turns through one socket for all of the time and through new ones.
fn ask(threads: &mut Threads, namespace: &OwnedFd, seen: &Arc<Seen>) {
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
                let Ok(length) = socket.recv(&mut bytes) else {
                    seen.lost.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let from: IpAddr = std::str::from_utf8(&bytes[..length]).unwrap().parse().unwrap();
                let mut last = seen.last.lock().unwrap();
                let count = last.get(&to).map_or(0, |(_, count)| *count);
                last.insert(to, (from == to.ip(), count + 1));
            }
            std::thread::sleep(Duration::from_millis(1));
        });
    }
}

/// Waits until answers in both families come from the server of this node, or from the other one.
async fn until_seen(seen: &Seen, is_near: bool, when: &str) {
    let deadline = Instant::now() + PATIENCE;
    seen.last.lock().unwrap().clear();
    let is_so = |seen: &Seen| {
        let last = seen.last.lock().unwrap();
        last.len() == 2 && last.values().all(|(near, count)| *near == is_near && *count > 4)
    };
    while !is_so(seen) {
        assert!(Instant::now() < deadline, "{when}: {:?}", seen.last.lock().unwrap());
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
        // They end before the servers do.
        let (seen, mut clients) = (Arc::<Seen>::default(), Threads::default());
        ask(&mut clients, &client, &seen);
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
        // Without an agent, and with the next one.
        agent.stop().await;
        until_seen(&seen, false, "without an agent").await;
        let (serves, agent) = start(true);
        until_seen(&seen, true, "with a server again").await;
        assert_eq!(seen.lost.load(Ordering::Relaxed), 0);
        // One that ends as if it were killed may lose what is being answered. Who asks again is answered.
        agent.stop().await;
        drop(serves);
        until_seen(&seen, false, "without notice").await;
        let (serves, mut agent) = start(true);
        until_seen(&seen, true, "with the next agent").await;
        assert_eq!(claimed().len(), 2);
        // A server that is gone says nothing any more.
        drop(serves);
        agent.until("alone", |status| !status.intercepts).await;
        until_seen(&seen, false, "with nobody to say so").await;
        assert_eq!(agent.status.borrow().last_error, None);
        agent.stop().await;
        drop(clients);
        drop(threads);

        // Claims go with the wish for them, and with everything.
        let mut other = Agent::start(Way::default().client(&server));
        other.until("ready", Status::is_ready).await;
        assert!(claimed().is_empty());
        other.stop().await;
        claim(&parsed(SERVICE)).unwrap();
        cleanup(None, None, None, NO_KEY.as_ref()).unwrap();
        assert!(claimed().is_empty());
        server.shutdown().await;
    });
}

/// A cgroup of its own; `None` where eBPF is not permitted.
fn cgroup() -> Option<PathBuf> {
    match dyad_ebpf::probe() {
        Ok(()) => {}
        Err(why @ (Why::NotPermitted | Why::NoCgroup | Why::NotBuilt)) => {
            // Past the test harness, which keeps to itself what passing tests say.
            writeln!(std::io::stderr(), "SKIPPED interception with eBPF: {why}").unwrap();
            return None;
        }
        Err(why) => panic!("{why}"),
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
    let mount = mount.split_whitespace().nth(4).unwrap();
    Some(Path::new(mount).join(format!("dyad-agent-test-{}", std::process::id())))
}

/// What comes before every answer of [`client`], for the test harness has things to say, too.
const ANSWER: &str = "> ";

/// A process of a pod that asks: programs at sockets are about processes.
struct Process(Child, ChildStdin, BufReader<ChildStdout>);

impl Process {
    fn start(namespace: &OwnedFd, cgroup: &Path) -> Self {
        let start = || {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tests::intercept::client", "--ignored", "--nocapture"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        };
        let mut child = netns::within(namespace.as_fd(), start).unwrap();
        std::fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self(child, input, BufReader::new(output))
    }

    /// Which servers answer in the two families, and to whom the sockets were connected then.
    fn asks(&mut self) -> [(IpAddr, SocketAddr); 2] {
        parsed(SERVICE).map(|ip| {
            writeln!(self.1, "{}", SocketAddr::new(ip, 53)).unwrap();
            let mut lines = self.2.by_ref().lines().map(Result::unwrap);
            let answer = lines.find_map(|line| line.split_once(ANSWER).map(|(_, text)| text.to_owned()));
            let answer = answer.unwrap();
            let (from, peer) = answer.split_once(' ').unwrap();
            (from.parse().unwrap(), peer.parse().unwrap())
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "not a test: the process that another starts"]
fn client() {
    for line in std::io::stdin().lines() {
        let to: SocketAddr = line.unwrap().parse().unwrap();
        let socket = UdpSocket::bind((IpFamily::from(to.ip()).everything().addr(), 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(LOST)).unwrap();
        socket.send(b"who?").unwrap();
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        let from = String::from_utf8_lossy(&bytes[..length]);
        println!("{ANSWER}{from} {}", socket.peer_addr().unwrap());
    }
}

#[test]
fn sockets_that_ebpf_connects_are_left_to_the_server_while_there_is_one() {
    if !privileged("intercept::sockets_that_ebpf_connects_are_left_to_the_server_while_there_is_one") {
        return;
    }
    let Some(cgroup) = cgroup() else { return };
    on_a_node(async || {
        let server = api_server().await;
        let writer = Writer(Way::default().client(&server));
        objects(&writer).await;
        let (pod, dns) = (pod_at("client", CLIENT), pod_at("dns", SERVER));
        let mut threads = Threads::default();
        netns::within(dns.as_fd(), || threads.serve(parsed(SERVER))).unwrap();
        claim(&parsed(SERVICE)).unwrap();
        threads.serve(parsed(SERVICE));
        let config = Config { dataplane: Dataplane::Ebpf, cgroup: Some(cgroup.clone()), ..intercepting() };
        let start = |serves: bool| {
            let (sender, intercept) = status::channel(serves);
            let wires = Wires { intercept: Some(intercept), ..Wires::default() };
            (sender, Agent::start_wired(Way::default().client(&server), config.clone(), wires))
        };
        let (serves, mut agent) = start(false);
        agent.until("ready", Status::is_ready).await;
        let mut process = Process::start(&pod, &cgroup);
        // The application sees the Service in any case.
        let answered = |by: [&str; 2]| {
            let peers = parsed(SERVICE).map(|ip| SocketAddr::new(ip, 53));
            let [v4, v6] = parsed(by);
            [(v4, peers[0]), (v6, peers[1])]
        };
        assert_eq!(process.asks(), answered(SERVER));
        for _ in 0..2 {
            serves.send(true).unwrap();
            agent.until("intercepting", |status| status.intercepts).await;
            assert_eq!(process.asks(), answered(SERVICE));
            serves.send(false).unwrap();
            agent.until("leaving it", |status| !status.intercepts).await;
            assert_eq!(process.asks(), answered(SERVER));
        }
        serves.send(true).unwrap();
        agent.until("intercepting", |status| status.intercepts).await;
        agent.stop().await;
        assert_eq!(process.asks(), answered(SERVER), "through nftables, for nobody tells sockets");
        let (_serves, mut agent) = start(true);
        agent.until("intercepting", |status| status.intercepts).await;
        assert_eq!(process.asks(), answered(SERVICE));
        agent.stop().await;
        drop((process, threads));
        cleanup(Some(&cgroup), None, None, NO_KEY.as_ref()).unwrap();
        server.shutdown().await;
    });
    std::fs::remove_dir(&cgroup).unwrap();
}
