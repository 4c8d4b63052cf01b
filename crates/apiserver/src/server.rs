//! The server: what it is given, what it gives.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use dyad_model::ClusterNet;
use dyad_net::{DualStack, IpFamily};
use dyad_store::{Compactor, Store, StoreError, spawn_compactor};
use tokio::task::JoinHandle;

use crate::audit::{Audit, AuditConfig, LogError};
use crate::auth::UserInfo;
use crate::auth::token::TokenKey;
use crate::bootstrap::Bootstrap;
use crate::http::{Api, Connections, Service, serve};
use crate::reach::Reach;
use crate::registry::Registry;
use crate::status::ApiError;

/// What an API server is made of.
pub struct ServerConfig {
    /// Where everything is stored.
    pub store: Arc<dyn Store>,
    /// The cluster's families, ranges and node ports.
    pub cluster: ClusterNet,
    /// Sockets to accept connections on, in any network namespace; may be none.
    pub listeners: Vec<TcpListener>,
    /// Certificates of the server and of its clients ([`crate::tls::server_config`]).
    pub tls: Arc<rustls::ServerConfig>,
    /// The addresses at which nodes and pods reach this server: endpoints of the `kubernetes` Service. The first one
    /// is of the primary family of the service ranges (C52).
    pub advertise: DualStack<IpAddr>,
    /// The port at those addresses.
    pub advertise_port: u16,
    /// What tokens of service accounts are signed with. Without it there are none, and pods get none mounted.
    pub tokens: Option<Arc<TokenKey>>,
    /// The ways to kubelets, pods and endpoints of Services.
    pub reach: Reach,
    /// Certificate of the authority, for the ConfigMap `kube-root-ca.crt` in every namespace; none if empty.
    pub ca_pem: String,
}

/// The server can't be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The addresses do not fit the ranges (C52).
    #[error(
        "the first advertised address is {address}, but the primary service range {range} is {family}: put an \
         {family} address first, or the other range"
    )]
    AdvertiseFamily {
        /// The address.
        address: IpAddr,
        /// The range.
        range: dyad_net::IpNet,
        /// The family of the range.
        family: IpFamily,
    },
    /// The store can't be read.
    #[error("the store can't be read")]
    Store(#[from] StoreError),
    /// What the cluster begins with can't be written.
    #[error("what the cluster begins with can't be written")]
    Bootstrap(#[from] ApiError),
    /// The audit log can't be opened.
    #[error("the audit log can't be opened")]
    Audit(#[from] LogError),
    /// A socket can't be used.
    #[error("a listening socket can't be used")]
    Listen(#[from] std::io::Error),
}

/// A running API server. Dropped, it stops at once; [`shutdown`](Self::shutdown) lets requests finish.
pub struct Server {
    api: Arc<Api>,
    connections: Connections,
    tasks: [JoinHandle<()>; 3],
    _compactor: Compactor,
}

/// The API for clients in the server's process.
#[derive(Clone)]
pub struct Services(Arc<Api>);

impl Services {
    /// For this user.
    pub fn of(&self, user: UserInfo) -> Service {
        Service::new(Arc::clone(&self.0), user)
    }
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

/// How far back lists and watches can go at least (J33).
const HISTORY: Duration = Duration::from_secs(300);

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Starts a server: when this answers, the objects a cluster begins with are there and it serves.
    ///
    /// # Errors
    ///
    /// If the addresses do not fit the ranges, or the store or a socket can't be used.
    pub async fn start(config: ServerConfig) -> Result<Self, StartError> {
        Self::start_audited(config, None).await
    }

    /// Starts a server that writes down who asks for what.
    ///
    /// # Errors
    ///
    /// As for [`Self::start`], and if the log can't be opened.
    pub async fn start_audited(config: ServerConfig, audit: Option<AuditConfig>) -> Result<Self, StartError> {
        let ServerConfig { store, cluster, listeners, tls, advertise, advertise_port, tokens, reach, .. } =
            config;
        let (ca_pem, audit) = (config.ca_pem, audit.map(Audit::open).transpose()?);
        let family = cluster.service_ranges.primary_family();
        if IpFamily::from(*advertise.primary()) != family {
            let (address, range) = (*advertise.primary(), *cluster.service_ranges.primary());
            return Err(StartError::AdvertiseFamily { address, range, family });
        }
        let servers: Vec<SocketAddr> =
            advertise.iter().map(|(_, ip)| SocketAddr::new(*ip, advertise_port)).collect();
        let compactor = spawn_compactor(&store, HISTORY);
        let registry = Registry::start(store, cluster, tokens)?;
        let api = Arc::new(Api::new(Arc::clone(&registry), reach, &servers, audit));
        let connections = serve(&api, &tls, listeners)?;
        let definitions = tokio::spawn(Arc::clone(&registry).keep_definitions());
        let bootstrap = Bootstrap::new(registry, advertise, advertise_port, ca_pem);
        bootstrap.begin().await?;
        api.health.set_bootstrapped();
        let tasks = [
            definitions,
            tokio::spawn(bootstrap.keep()),
            tokio::spawn(Arc::clone(&api.registry).expire_events()),
        ];
        Ok(Self { api, connections, tasks, _compactor: compactor })
    }

    /// The API for the administrator in this process.
    ///
    /// With `tower::service_fn(move |request| { let api = api.clone(); async move { Ok::<_, Infallible>(api.call(request).await) } })`
    /// it is what a `kube::Client` is made of.
    pub fn service(&self) -> Service {
        self.service_as(UserInfo::administrator())
    }

    /// The API for clients in this process, whoever they are.
    pub fn services(&self) -> Services {
        Services(Arc::clone(&self.api))
    }

    /// The API for a client in this process that is this user.
    pub fn service_as(&self, user: UserInfo) -> Service {
        Service::new(Arc::clone(&self.api), user)
    }

    /// Whether requests are answered as they should be; what `/readyz` says.
    pub fn ready(&self) -> bool {
        self.api.health.is_ready(&self.api.registry)
    }

    /// Ends watches, lets requests under way finish, and stops.
    pub async fn shutdown(self) {
        self.api.registry.close();
        self.connections.shut_down().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.api.registry.close();
        for task in &self.tasks {
            task.abort();
        }
        self.connections.abort();
    }
}
