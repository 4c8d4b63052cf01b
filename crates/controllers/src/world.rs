//! Everything the controllers look at and act through.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Endpoints, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController,
    ResourceQuota, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Api, Client};
use tokio::task::JoinSet;

use crate::cache::Cache;
use crate::clients::{Clients, MANAGER};

/// Namespace of the nodes' leases.
pub(crate) const NODE_LEASES: &str = "kube-node-lease";

/// The shared view of the API, and who acts on it.
pub(crate) struct World {
    /// The client of the controller that has this.
    pub(crate) client: Client,
    clients: Clients,
    view: Arc<View>,
}

/// What all see alike.
#[derive(Default)]
pub(crate) struct View {
    pub(crate) nodes: Cache<Node>,
    pub(crate) pods: Cache<Pod>,
    pub(crate) services: Cache<Service>,
    pub(crate) endpoints: Cache<Endpoints>,
    pub(crate) slices: Cache<EndpointSlice>,
    pub(crate) deployments: Cache<Deployment>,
    pub(crate) replica_sets: Cache<ReplicaSet>,
    pub(crate) daemon_sets: Cache<DaemonSet>,
    pub(crate) stateful_sets: Cache<StatefulSet>,
    pub(crate) replication_controllers: Cache<ReplicationController>,
    pub(crate) jobs: Cache<Job>,
    pub(crate) cron_jobs: Cache<CronJob>,
    pub(crate) quotas: Cache<ResourceQuota>,
    pub(crate) budgets: Cache<PodDisruptionBudget>,
    pub(crate) claims: Cache<PersistentVolumeClaim>,
    pub(crate) volumes: Cache<PersistentVolume>,
    pub(crate) namespaces: Cache<Namespace>,
    pub(crate) requests: Cache<CertificateSigningRequest>,
    pub(crate) leases: Cache<Lease>,
    pub(crate) service_cidrs: Cache<ServiceCIDR>,
    pub(crate) ip_addresses: Cache<IPAddress>,
}

impl std::ops::Deref for World {
    type Target = View;

    fn deref(&self) -> &View {
        &self.view
    }
}

impl World {
    pub(crate) fn new(clients: Clients) -> Arc<Self> {
        let view = View { pods: Cache::trimmed(crate::pods::trim), ..View::default() };
        Arc::new(Self { client: clients.of(MANAGER), clients, view: Arc::new(view) })
    }

    /// The same view for somebody else to act on.
    pub(crate) fn acting(&self, name: &str) -> Arc<Self> {
        let clients = self.clients.clone();
        Arc::new(Self { client: clients.of(name), clients, view: Arc::clone(&self.view) })
    }

    /// Starts all watches in `tasks` and waits for the first complete view.
    pub(crate) async fn follow(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        macro_rules! follow {
            ($($cache:ident),*) => {
                $({
                    let world = self.clone();
                    tasks.spawn(async move { world.$cache.follow(Api::all(world.client.clone())).await });
                })*
                let world = self.clone();
                tasks.spawn(async move {
                    world.leases.follow(Api::namespaced(world.client.clone(), NODE_LEASES)).await;
                });
                self.leases.wait().await;
                $(self.$cache.wait().await;)*
            };
        }
        follow!(
            nodes,
            pods,
            services,
            endpoints,
            slices,
            deployments,
            replica_sets,
            daemon_sets,
            stateful_sets,
            replication_controllers,
            jobs,
            cron_jobs,
            quotas,
            budgets,
            claims,
            volumes,
            namespaces,
            requests,
            service_cidrs,
            ip_addresses
        );
    }
}
