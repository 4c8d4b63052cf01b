//! A cluster that is an API server in this process, with Services as many as one likes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};
use dyad_apiserver::pki::{Pki, PkiConfig, kubeconfig};
use dyad_apiserver::{Server, ServerConfig, tls};
use dyad_links::netns;
use dyad_model::ClusterNet;
use dyad_net::{IpFamily, parse_range_list};
use dyad_store::RedbStore;
use serde_json::json;

use crate::cluster::api::{Access, Api};
use crate::world;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
/// Connections that create objects at the same time.
const WRITERS: usize = 4;
/// The API server needs as much.
const STACK: usize = 8 << 20;

/// The server, and the way to it.
pub(super) struct Cluster {
    pub(super) kubeconfig: PathBuf,
    access: Access,
    namespace: OwnedFd,
    _server: Server,
    _runtime: tokio::runtime::Runtime,
}

/// What the Service of this number is called.
pub(super) fn domain_name(number: u32) -> String {
    format!("service-{number}.default.svc.cluster.local.")
}

impl Cluster {
    /// On the loopback of a namespace, with its files in a directory.
    pub(super) fn start(namespace: &OwnedFd, home: &Path) -> Result<Self> {
        let listener = netns::within(namespace.as_fd(), || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
        let address: SocketAddr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let names = PkiConfig {
            cluster: "bench".into(),
            domain: "cluster.local".into(),
            addresses: Vec::new(),
            dns_names: Vec::new(),
        };
        let pki = Pki::load_or_create(home.join("pki"), &names)?;
        let certificate = Arc::new(tls::ServingCertificate::new(&pki.serving()?)?);
        let file = home.join("kubeconfig");
        let access = kubeconfig("bench", &format!("https://{address}"), pki.ca_pem(), &pki.admin()?);
        std::fs::write(&file, access.to_string())?;
        let service_ranges = parse_range_list("10.96.0.0/16,fd00:10:96::/112")?;
        let config = ServerConfig {
            store: Arc::new(RedbStore::open(home.join("store"))?),
            // Nobody follows the endpoints of the `kubernetes` Service here.
            advertise: service_ranges.map(|family, _| match family {
                IpFamily::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
                IpFamily::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
            }),
            cluster: ClusterNet { service_ranges, node_ports: 30000..=32767 },
            listeners: vec![listener],
            tls: Arc::new(tls::server_config(pki.ca_pem(), certificate)?),
            advertise_port: address.port(),
            tokens: None,
            reach: dyad_apiserver::Reach::new(None, None)?,
            ca_pem: pki.ca_pem().to_owned(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(STACK)
            .enable_all()
            .build()?;
        let server = runtime.block_on(async { tokio::spawn(Server::start(config)).await })??;
        let access = Access::read(&file)?;
        Ok(Self {
            kubeconfig: file,
            access,
            namespace: namespace.try_clone()?,
            _server: server,
            _runtime: runtime,
        })
    }

    pub(super) fn connect(&self) -> Result<Api> {
        netns::within(self.namespace.as_fd(), || self.access.connect())?
    }

    /// Creates so many Services, each with so many endpoints of each family.
    pub(super) fn fill(&self, services: u32, endpoints: u32) -> Result<()> {
        let next = AtomicU32::new(0);
        let writer = || -> Result<()> {
            let mut api = self.connect()?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= services {
                    return Ok(());
                }
                self.create_service(&mut api, number)?;
                for family in IpFamily::BOTH {
                    create_slice(&mut api, number, endpoints, family)?;
                }
            }
        };
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(writer)).collect();
            let mut joined = writers.into_iter().map(|writer| writer.join());
            joined.try_for_each(|result| result.unwrap_or_else(|_| bail!("a writer has died")))
        })
    }

    /// Creates a Service of both families.
    #[expect(clippy::unused_self, reason = "it is created in this cluster")]
    pub(super) fn create_service(&self, api: &mut Api, number: u32) -> Result<()> {
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("service-{number}")},
            "spec": {
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [{"name": "http", "protocol": "TCP", "port": world::SERVICE_PORT}],
            },
        });
        api.create(SERVICES, &object).map(drop)
    }
}

fn create_slice(api: &mut Api, number: u32, endpoints: u32, family: IpFamily) -> Result<()> {
    let ready = json!({"ready": true, "serving": true, "terminating": false});
    let endpoint = |index| {
        let ip = world::endpoint_ip(number * endpoints + index, family);
        let pod = json!({"kind": "Pod", "namespace": "default", "name": format!("pod-{number}-{index}")});
        json!({"addresses": [ip], "conditions": ready, "nodeName": "node1", "targetRef": pod})
    };
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("service-{number}-{}", family.as_str().to_lowercase()),
            "labels": {
                "kubernetes.io/service-name": format!("service-{number}"),
                "endpointslice.kubernetes.io/managed-by": "bench.dyad.io",
            },
        },
        "addressType": family.as_str(),
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "http", "protocol": "TCP", "port": world::ENDPOINT_PORT}],
    });
    api.create(SLICES, &object).map(drop)
}
