//! The control-plane process: API server and controllers in one runtime.
//!
//! It stays in the host's network namespace, so that the host reaches it on loopback, also without root; the
//! cluster reaches it through sockets opened inside the `api` namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use anyhow::{Context, Result};
use dyad_apiserver::auth::UserInfo;
use dyad_apiserver::auth::token::TokenKey;
use dyad_apiserver::pki::{self, Pki, PkiConfig};
use dyad_apiserver::tls::{self, Authorities, ServingCertificate};
use dyad_apiserver::{Reach, Server, ServerConfig, Services};
use dyad_model::ClusterNet;
use dyad_net::IpNet;
use dyad_store::{RedbStore, Store, spawn_compactor};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::TcpSocket;

use crate::audit::AuditSpec;
use crate::fabric::API_NAMESPACE;
use crate::paths::{ClusterDir, write_atomically};
use crate::spec::{API_PORT, ClusterSpec, Place};

/// How long history is kept for watches and continued lists (J33).
const HISTORY: Duration = Duration::from_secs(300);
/// Ports of every node that Services may have (A140).
const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// What a node's kubelet serves with, in the node's directory: whose clients it takes, its certificate and its key.
pub(crate) const KUBELET_AUTHORITY: &str = "kubelet-ca.crt";
pub(crate) const KUBELET_CERTIFICATE: &str = "kubelet.crt";
pub(crate) const KUBELET_KEY: &str = "kubelet.key";

/// `dyad internal control-plane DIR`.
pub(crate) fn main(dir: &Path) -> Result<()> {
    log_to_stderr();
    let dir = ClusterDir::at(dir);
    let spec = ClusterSpec::load(&dir)?;
    let listeners = listeners(&dir, &spec)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(&dir, &spec, listeners))
}

async fn run(dir: &ClusterDir, spec: &ClusterSpec, listeners: Vec<TcpListener>) -> Result<()> {
    let services = spec.services()?;
    let pki = Arc::new(make_pki(dir, spec)?);
    write_kubeconfigs(dir, spec, &pki)?;
    let store: Arc<dyn Store> = Arc::new(RedbStore::open(dir.store())?);
    let _compactor = spawn_compactor(&store, HISTORY);
    let serving = Arc::new(ServingCertificate::new(&pki.serving()?)?);
    let kubelet_client = Arc::new(ServingCertificate::new(&pki.kubelet_client()?)?);
    let authorities = Arc::new(Authorities::new(&pki.client_authorities()?)?);
    let config = ServerConfig {
        store,
        cluster: ClusterNet { service_ranges: services.clone(), node_ports: NODE_PORTS },
        listeners,
        tls: Arc::new(tls::server_config_of(authorities.clone(), serving.clone())?),
        advertise: spec.addresses_by_family(Place::Api)?,
        advertise_port: API_PORT,
        tokens: Some(Arc::new(TokenKey::from_pem(&pki.token_key()?)?.and_known(&pki.known_token_keys()?)?)),
        reach: reach(dir, spec, &pki, kubelet_client.clone())?,
        ca_pem: pki.ca_pem().to_owned(),
    };
    let audit = spec.audit.as_ref().map(AuditSpec::config).transpose()?;
    let server = Server::start_audited(config, audit).await?;
    let clients = clients(server.services());
    let installer = client_as(&server.services(), UserInfo::new("system:dyad:installer", &[]), "dyad");
    println!("ready");
    let controllers = dyad_controllers::Config {
        // Nodes that join a control plane alone bring their own network.
        allocate_node_ranges: !spec.nodes.is_empty(),
        // The store admits one process at a time, so whoever held the lease under this name is gone: the successor
        // of one that was killed need not wait for the lease to run out.
        identity: spec.context(),
        authority: Some(dyad_controllers::Authority(Arc::new(crate::signer::Signer(Arc::clone(&pki))))),
        controllers: spec.controllers.parse().context("controllers")?,
        ..dyad_controllers::Config::new(spec.pods()?, services)
    };
    let controllers = dyad_controllers::run(clients, controllers, std::future::pending());
    tokio::select! {
        result = controllers => result.context("controllers")?,
        never = serving.keep_fresh(&pki) => match never {},
        never = kubelet_client.keep(|| pki.kubelet_client()) => match never {},
        never = crate::renewal::keep_authorities(&pki, &authorities) => match never {},
        never = keep_kubeconfigs(dir, spec, &pki) => match never {},
        never = crate::labels::keep(&installer, spec) => match never {},
        never = crate::dns::keep(&installer, dir, spec, &pki) => match never {},
        () = until_terminated() => {}
    }
    server.shutdown().await;
    Ok(())
}

/// Clients of the controllers: each is who does in Kubernetes what it does here, and may do what that may.
fn clients(services: Services) -> dyad_controllers::Clients {
    use dyad_controllers::{MANAGER, SCHEDULER};
    dyad_controllers::Clients::new(move |name| match name {
        MANAGER => client_as(&services, UserInfo::new("system:kube-controller-manager", &[]), MANAGER),
        SCHEDULER => client_as(&services, UserInfo::new("system:kube-scheduler", &[]), SCHEDULER),
        // Owners of fields are called so.
        name => client_as(&services, UserInfo::controller(name), MANAGER),
    })
}

/// A client of the server in this process, without TLS and sockets in between.
fn client_as(services: &Services, user: UserInfo, name: &'static str) -> kube::Client {
    let api = services.of(user);
    let service = tower::service_fn(move |mut request: http::Request<kube::client::Body>| {
        let api = api.clone();
        request.headers_mut().insert(http::header::USER_AGENT, http::HeaderValue::from_static(name));
        async move { Ok::<_, std::convert::Infallible>(api.call(request).await) }
    });
    kube::Client::new(service, "default")
}

/// The cluster's keys, for every address the API server is reached at (rule C55, in both families).
fn make_pki(dir: &ClusterDir, spec: &ClusterSpec) -> Result<Pki> {
    // The `kubernetes` Service has the first address of each range (C50).
    let service = |range: &IpNet| match range.network() {
        IpAddr::V4(ip) => IpAddr::from(Ipv4Addr::from(u32::from(ip).wrapping_add(1))),
        IpAddr::V6(ip) => IpAddr::from(Ipv6Addr::from(u128::from(ip).wrapping_add(1))),
    };
    let inside = spec.addresses(Place::Api);
    let addresses = spec.service_ranges.iter().map(service).chain(inside.iter().map(IpNet::addr));
    let addresses = addresses.chain(spec.api_addresses.iter().copied());
    let config = PkiConfig {
        cluster: spec.name.clone(),
        domain: "cluster.local".into(),
        addresses: addresses.collect(),
        dns_names: Vec::new(),
    };
    Ok(Pki::load_or_create(dir.pki(), &config)?)
}

/// The ways from the API server into the cluster, which lead through its own namespace there: the host is not joined to
/// every cluster.
fn reach(dir: &ClusterDir, spec: &ClusterSpec, pki: &Pki, client: Arc<ServingCertificate>) -> Result<Reach> {
    // Nodes that join a control plane alone have kubelets with certificates of their own, as Kubernetes has it.
    let authority = (!spec.nodes.is_empty()).then(|| pki.ca_pem());
    let reach = Reach::new(Some(client), authority)?;
    let ranges: Vec<IpNet> = spec.ranges().map(|(_, range)| range).collect();
    let inside = Inside::open(&dir.netns(API_NAMESPACE))?;
    Ok(reach.through(move |to| match ranges.iter().any(|range| range.contains(&to.ip())) {
        true => inside.socket(to),
        false => new_socket(to),
    }))
}

fn new_socket(to: SocketAddr) -> std::io::Result<TcpSocket> {
    match to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

/// Makes sockets inside a network namespace: they stay there, whoever uses them.
struct Inside {
    ask: Mutex<mpsc::Sender<Asked>>,
}

/// For whom a socket is, and where it is awaited.
type Asked = (SocketAddr, mpsc::Sender<std::io::Result<TcpSocket>>);

impl Inside {
    /// A thread that enters the namespace and stays until nobody can ask it any more.
    fn open(namespace: &Path) -> Result<Self> {
        let netns =
            std::fs::File::open(namespace).with_context(|| format!("can't open {}", namespace.display()))?;
        let (ask, asked) = mpsc::channel::<Asked>();
        let (tell, entered) = mpsc::channel();
        std::thread::Builder::new().name("sockets".into()).spawn(move || {
            use std::os::fd::AsFd;
            let result = move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network));
            let failed = result.is_err();
            let _ = tell.send(result);
            if failed {
                return;
            }
            for (to, answer) in asked {
                // Whoever asked has given up.
                let _ = answer.send(new_socket(to));
            }
        })?;
        entered
            .recv()
            .context("the thread that makes sockets")?
            .context("can't enter the API server's namespace")?;
        Ok(Self { ask: Mutex::new(ask) })
    }

    fn socket(&self, to: SocketAddr) -> std::io::Result<TcpSocket> {
        let gone = || std::io::Error::other("the thread that makes sockets has ended");
        let (answer, answered) = mpsc::channel();
        let ask = self.ask.lock().unwrap_or_else(PoisonError::into_inner);
        ask.send((to, answer)).map_err(|_| gone())?;
        drop(ask);
        answered.recv().map_err(|_| gone())?
    }
}

/// Sockets on the host and, through threads that enter it, in the `api` namespace.
fn listeners(dir: &ClusterDir, spec: &ClusterSpec) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for ip in &spec.api_addresses {
        let at = SocketAddr::new(*ip, spec.api_port);
        match listen(at) {
            Ok(listener) => listeners.push(listener),
            // A machine without one family's loopback still has the other's.
            Err(error)
                if spec.api_addresses.len() > 1 && error.kind() == std::io::ErrorKind::AddrNotAvailable => {}
            Err(error) => return Err(error).with_context(|| format!("can't listen on {at}")),
        }
    }
    let inside: Vec<SocketAddr> =
        spec.addresses(Place::Api).iter().map(|net| SocketAddr::new(net.addr(), API_PORT)).collect();
    let netns = std::fs::File::open(dir.netns(API_NAMESPACE))
        .context("can't open the API server's network namespace")?;
    let opened = std::thread::spawn(move || -> Result<Vec<TcpListener>> {
        use std::os::fd::AsFd;
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        inside.into_iter().map(|at| listen(at).with_context(|| format!("can't listen on {at}"))).collect()
    });
    let opened = opened.join().map_err(|_| anyhow::anyhow!("the thread that opens the sockets panicked"))?;
    listeners.extend(opened?);
    Ok(listeners)
}

fn listen(at: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Renews the certificates of nodes and of the administrator before they end; nodes look at their files.
async fn keep_kubeconfigs(dir: &ClusterDir, spec: &ClusterSpec, pki: &Pki) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(Duration::from_secs(86_400)).await;
        if let Err(error) = write_kubeconfigs(dir, spec, pki) {
            // Tried again tomorrow; there are weeks left.
            tracing::error!("can't renew certificates: {error:#}");
        }
    }
}

fn write_kubeconfigs(dir: &ClusterDir, spec: &ClusterSpec, pki: &Pki) -> Result<()> {
    let text = |server: &str, client: &pki::Identity| -> Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(&pki::kubeconfig(&spec.context(), server, pki.ca_pem(), client))?)
    };
    write_atomically(&dir.kubeconfig(), &text(&spec.server(), &pki.admin()?)?)?;
    let inside = SocketAddr::new(*spec.addresses_by_family(Place::Api)?.primary(), API_PORT);
    let inside = format!("https://{inside}");
    for (index, node) in spec.nodes.iter().enumerate() {
        std::fs::create_dir_all(dir.node(&node.name))?;
        let addresses: Vec<IpAddr> = spec.addresses(Place::Node(index)).iter().map(IpNet::addr).collect();
        let serving = pki.node_serving(&node.name, &addresses)?;
        for (file, text) in [
            (KUBELET_AUTHORITY, pki.ca_pem()),
            (KUBELET_CERTIFICATE, &serving.certificate_pem),
            (KUBELET_KEY, &serving.key_pem),
        ] {
            write_atomically(&dir.node(&node.name).join(file), text.as_bytes())?;
        }
        let agent = text(&inside, &pki.agent(&node.name)?)?;
        write_atomically(&dir.agent_kubeconfig(&node.name), &agent)?;
        // The last: it is what the node waits for.
        write_atomically(&dir.node_kubeconfig(&node.name), &text(&inside, &pki.node(&node.name)?)?)?;
    }
    Ok(())
}

/// A client with the administrator's rights, as `kubectl` has them.
pub(crate) async fn admin_client(dir: &ClusterDir) -> Result<kube::Client> {
    client_of(&dir.kubeconfig(), "dyad").await
}

/// A client from a kubeconfig file that holds one context, under a name that owners of fields are called by.
pub(crate) async fn client_of(path: &Path, name: &'static str) -> Result<kube::Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(path)
        .with_context(|| format!("can't read {}", path.display()))?;
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(name)));
    Ok(kube::Client::try_from(config)?)
}

/// Resolves at SIGTERM or SIGINT.
pub(crate) async fn until_terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Logs go to standard error, which is the process' log file; `DYAD_LOG` chooses how much.
pub(crate) fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("DYAD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // A second call in one process keeps the first one's choice.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
}
