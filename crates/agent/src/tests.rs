//! An agent between a real API server and a real kernel: the server in this process, the node a network namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use dyad_apiserver::pki::{Pki, PkiConfig};
use dyad_apiserver::tls::{ServingCertificate, server_config};
use dyad_apiserver::{Server, ServerConfig};
use dyad_links::{Handle, NewLink, OURS, netns, sysctl};
use dyad_model::ClusterNet;
use dyad_net::{DualStack, IpFamily};
use dyad_nft::Executor;
use dyad_program::{Action, Frontend, Protocol, RangeSet, Scope, Table};
use dyad_store::MemoryStore;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::*;

mod cgroup;
mod cni;
mod derived;
mod intercept;
mod policies;
mod pool;
mod proxy;
mod tunnels;
mod wireguard;

/// Where no key is.
const NO_KEY: &str = "/nowhere/wireguard.key";
/// Longer than anything takes here, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(20);

/// Whether this process may make namespaces; if not, the test `name` has been run by one that may.
fn privileged(name: &str) -> bool {
    if netns::create().is_ok() {
        return true;
    }
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("tests::{name}"), "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name} in a user namespace: {text}{problem}"
    );
    false
}

/// Runs `work` inside a fresh node: a namespace with an address of each family on `eth0`.
fn on_a_node(work: impl AsyncFnOnce() + Send) {
    let (node, other): (OwnedFd, OwnedFd) = (netns::create().unwrap(), netns::create().unwrap());
    netns::within(node.as_fd(), || {
        let mut handle = Handle::open().unwrap();
        let far = NewLink { netns: Some(other.as_fd()), ..NewLink::named("eth0") };
        handle.add_veth(&NewLink::named("eth0"), &far).unwrap();
        let link = handle.index("eth0").unwrap();
        for address in ["192.0.2.1/24", "2001:db8::1/64"] {
            handle.replace_address(link, address.parse().unwrap()).unwrap();
        }
        handle.set_up("eth0").unwrap();
    })
    .unwrap();
    // A thread with a stack of the usual size, which the API server needs.
    let thread = std::thread::Builder::new().stack_size(8 << 20);
    std::thread::scope(|scope| {
        let node = node.as_fd();
        let work = move || {
            netns::enter_for_good(node).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work());
        };
        if let Err(panic) = thread.spawn_scoped(scope, work).unwrap().join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn both<T: std::str::FromStr<Err: std::fmt::Debug>>(v4: &str, v6: &str) -> DualStack<T> {
    DualStack::dual(IpFamily::V4, v4.parse().unwrap(), v6.parse().unwrap())
}

async fn api_server() -> Server {
    let directory = tempfile::tempdir().unwrap();
    let names = PkiConfig {
        cluster: "test".into(),
        domain: "cluster.local".into(),
        addresses: Vec::new(),
        dns_names: Vec::new(),
    };
    let pki = Pki::load_or_create(directory.path(), &names).unwrap();
    let certificate = Arc::new(ServingCertificate::new(&pki.serving().unwrap()).unwrap());
    let config = ServerConfig {
        store: Arc::new(MemoryStore::new()),
        cluster: ClusterNet {
            service_ranges: both("10.96.0.0/16", "fd00:10:96::/112"),
            node_ports: 30000..=32767,
        },
        listeners: Vec::new(),
        tls: Arc::new(server_config(pki.ca_pem(), certificate).unwrap()),
        advertise: both("192.0.2.99", "2001:db8::99"),
        advertise_port: 6443,
        tokens: None,
        reach: dyad_apiserver::Reach::new(None, None).unwrap(),
        ca_pem: pki.ca_pem().to_owned(),
    };
    Server::start(config).await.unwrap()
}

/// The way to the API server, which can be cut.
#[derive(Clone, Default)]
struct Way {
    cut: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
}

impl Way {
    fn client(&self, server: &Server) -> Client {
        let (api, way) = (server.service(), self.clone());
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let (api, way) = (api.clone(), way.clone());
            async move {
                if way.cut.load(Ordering::Relaxed) {
                    way.refused.fetch_add(1, Ordering::Relaxed);
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
                }
                Ok(api.call(request).await)
            }
        });
        Client::new(service, "default")
    }
}

/// Writes objects of all kinds.
struct Writer(Client);

impl Writer {
    fn api(&self, api_version: &str, kind: &str, namespaced: bool) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: api_version.into(),
            kind: kind.into(),
            plural: match kind {
                "NetworkPolicy" => "networkpolicies".into(),
                kind => format!("{}s", kind.to_lowercase()),
            },
        };
        if namespaced {
            Api::namespaced_with(self.0.clone(), "default", &resource)
        } else {
            Api::all_with(self.0.clone(), &resource)
        }
    }

    async fn create(&self, object: Value) {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let types = object.types.clone().unwrap();
        let api = self.api(&types.api_version, &types.kind, types.kind != "Node");
        api.create(&PostParams::default(), &object).await.unwrap();
    }

    async fn node(&self, name: &str, last: u8) {
        self.create(json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "spec": {"podCIDRs": [format!("10.244.{last}.0/24"), format!("fd00:10:244:{last}::/64")]},
        }))
        .await;
        let addresses = [format!("192.0.2.{last}"), format!("2001:db8::{last}")];
        let addresses = addresses.map(|ip| json!({"type": "InternalIP", "address": ip}));
        let patch = Patch::Merge(json!({"status": {"addresses": addresses}}));
        self.api("v1", "Node", false).patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    async fn service(&self, name: &str, last: u8) {
        let ips = [format!("10.96.0.{last}"), format!("fd00:10:96::{last}")];
        self.create(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {
                "clusterIP": ips[0], "clusterIPs": ips, "ipFamilyPolicy": "RequireDualStack",
                "ports": [{"port": 80}],
            },
        }))
        .await;
    }

    async fn slice(&self, service: &str, ip: &str) {
        let family = IpFamily::from(ip.parse::<IpAddr>().unwrap());
        self.create(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-{}", family.as_str().to_lowercase()),
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": family.as_str(),
            "endpoints": [{"addresses": [ip], "nodeName": "node1"}],
            "ports": [{"name": "", "port": 8080}],
        }))
        .await;
    }
}

/// A running agent.
struct Agent {
    status: status::Receiver<Status>,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<Result<(), AgentError>>,
}

fn test_config() -> Config {
    Config::new("node1", both("10.244.0.0/16", "fd00:10:244::/56"), both("10.96.0.0/16", "fd00:10:96::/112"))
}

impl Agent {
    fn start(client: Client) -> Self {
        Self::start_with(client, test_config(), None)
    }

    fn start_with(client: Client, config: Config, arrivals: Option<Arrivals>) -> Self {
        Self::start_wired(client, config, Wires { arrivals, ..Wires::default() })
    }

    fn start_wired(client: Client, config: Config, wires: Wires) -> Self {
        let status = wires.status.subscribe();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(run_wired(client, config, wires, async {
            let _ = stopped.await;
        }));
        Self { status, stop, ended }
    }

    async fn until(&mut self, what: &str, is: impl Fn(&Status) -> bool) {
        let reached = tokio::time::timeout(PATIENCE, self.status.wait_for(is)).await;
        if !reached.is_ok_and(|status| status.is_ok()) {
            panic!("never {what}: {:?}", self.status.borrow());
        }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.ended.await.unwrap().unwrap();
    }
}

fn tables() -> BTreeMap<IpFamily, Table> {
    Executor::open().unwrap().read_back().unwrap()
}

/// Waits for the kernel's tables.
async fn until_tables(what: &str, is: impl Fn(&BTreeMap<IpFamily, Table>) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is(&tables()) {
        assert!(Instant::now() < deadline, "never {what}: {:?}", tables());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn action(tables: &BTreeMap<IpFamily, Table>, ip: &str) -> Option<Action> {
    let ip: IpAddr = ip.parse().unwrap();
    tables
        .get(&ip.into())?
        .frontends
        .get(&(Scope::Cluster, Frontend::Address(ip, Protocol::Tcp, 80)))
        .copied()
}

fn routes() -> Vec<String> {
    let routes = Handle::open().unwrap().routes(OURS).unwrap();
    let text = |route: dyad_links::Route| match (route.hops[0].via, route.source) {
        (Some(via), _) => format!("{} via {via}", route.destination),
        (None, source) => format!("{} from {}", route.destination, source.unwrap()),
    };
    let mut routes: Vec<String> = routes.into_iter().map(text).collect();
    routes.sort();
    routes
}

#[test]
fn the_kernel_follows_the_api() {
    if !privileged("the_kernel_follows_the_api") {
        return;
    }
    on_a_node(async || {
        let server = api_server().await;
        let way = Way::default();
        let writer = Writer(Way::default().client(&server));
        writer.node("node1", 1).await;
        writer.service("early", 10).await;
        writer.slice("early", "10.244.1.2").await;

        let mut agent = Agent::start(way.client(&server));
        agent.until("ready", Status::is_ready).await;
        let found = tables();
        assert_eq!(action(&found, "10.96.0.10"), Some(Action::forward(1)), "what was there before");
        assert_eq!(action(&found, "fd00:10:96::10"), Some(Action::Reject), "no endpoints in this family");
        assert!(found[&IpFamily::V6].in_range(RangeSet::OwnPods, "fd00:10:244:1::5".parse().unwrap()));
        assert_eq!(sysctl::read("net/ipv4/ip_forward").unwrap(), "1");
        assert_eq!(routes(), ["10.96.0.0/16 from 192.0.2.1", "fd00:10:96::/112 from 2001:db8::1"]);

        writer.service("later", 11).await;
        writer.slice("later", "fd00:10:244:1::2").await;
        until_tables("served", |tables| action(tables, "fd00:10:96::11") == Some(Action::forward(1))).await;

        writer.node("node2", 2).await;
        until_tables("a node like the others", |tables| {
            tables[&IpFamily::V4].in_range(RangeSet::Cluster, "192.0.2.2".parse().unwrap())
        })
        .await;
        agent.until("routed", |status| status.routed).await;
        let with_node2 = [
            "10.244.2.0/24 via 192.0.2.2",
            "10.96.0.0/16 from 192.0.2.1",
            "fd00:10:244:2::/64 via 2001:db8::2",
            "fd00:10:96::/112 from 2001:db8::1",
        ];
        until_routes(&with_node2).await;

        // Somebody flushes everything.
        let repairs = agent.status.borrow().repairs;
        let before = tables();
        Executor::open().unwrap().cleanup().unwrap();
        let flushed = Instant::now();
        agent.until("repaired", |status| status.repairs > repairs).await;
        assert_eq!(tables(), before);
        eprintln!("repaired after {:?}", flushed.elapsed());

        // Without agent, and without API, the kernel keeps what it has.
        agent.stop().await;
        assert_eq!((tables(), routes()), (before.clone(), with_node2.map(str::to_owned).to_vec()));
        writer.api("v1", "Service", true).delete("early", &DeleteParams::default()).await.unwrap();
        way.cut.store(true, Ordering::Relaxed);
        let mut agent = Agent::start(way.client(&server));
        while way.refused.load(Ordering::Relaxed) < 6 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!((tables(), agent.status.borrow().synced), (before, false));

        // It comes back: what has changed meanwhile is caught up with.
        way.cut.store(false, Ordering::Relaxed);
        writer.api("v1", "Node", false).delete("node2", &DeleteParams::default()).await.unwrap();
        agent.until("ready again", Status::is_ready).await;
        until_tables("gone", |tables| action(tables, "10.96.0.10").is_none()).await;
        assert_eq!(action(&tables(), "fd00:10:96::11"), Some(Action::forward(1)));
        until_routes(&["10.96.0.0/16 from 192.0.2.1", "fd00:10:96::/112 from 2001:db8::1"]).await;
        assert_eq!(agent.status.borrow().last_error, None);
        agent.stop().await;
        server.shutdown().await;
    });
}

async fn until_routes(expected: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    while routes() != expected {
        assert!(Instant::now() < deadline, "never {expected:?}: {:?}", routes());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
