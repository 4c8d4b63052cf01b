//! Addresses and node ports as part of the transaction of the Service that holds them (A-9, A-10, C-2).
//!
//! An address is taken by creating its IPAddress object, a port by creating its reservation, in the same store
//! transaction that writes the Service, on condition that they do not exist; they are given back by deleting them in
//! the transaction that writes or deletes the Service. So nothing can leak and nothing can be used twice, whatever
//! fails and whenever, and there is nothing to repair. What is kept in memory here only says where to look: it follows
//! the store, plus what requests under way have taken. Where it is wrong the condition fails and the request starts
//! over.

//!
//! One thing is not in our hands: clients may delete the IPAddress of a living Service. The address is not handed out
//! again as long as a Service lists it, and its IPAddress is written anew ([`Registry::back_addresses`], C41).

mod session;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dyad_model::{AllocError, ClusterNet};
use dyad_net::{IpFamily, IpNet, Pool, PortPool, StaticBand};
use dyad_store::{Compare, Op};
use serde_json::{Value, json};

use super::resource::Resource;
use super::stored::{Stored, encode};
use super::{Registry, values};
use crate::status::ApiError;

pub(crate) use session::Session;

/// Reservations of node ports: the number follows, the value is the owner (`namespace/name`).
pub(crate) const PORTS_PREFIX: &str = "/registry/ranges/nodeports/";
const NETWORKING: &str = "networking.k8s.io";
/// Label and value that tell the addresses of Services from those that others have reserved (C6).
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
const FAMILY_LABEL: &str = "ipaddress.kubernetes.io/ip-family";
/// IPv6 ranges that are larger have no allocator (C14).
const MIN_PREFIX_V6: u8 = 64;

/// What is in use, as far as is known.
pub(crate) struct Allocations(Mutex<State>);

struct State {
    /// One pool per configured family (C16).
    pools: Vec<Pool>,
    ports: PortPool,
    /// Addresses that Services list, by `namespace/name`.
    listed: HashMap<Box<str>, Vec<IpAddr>>,
    /// The same the other way round.
    owners: HashMap<IpAddr, Box<str>>,
    /// Addresses that a Service lists and that have no IPAddress.
    unbacked: BTreeSet<IpAddr>,
}

impl State {
    fn pool(&mut self, family: IpFamily) -> Result<&mut Pool, AllocError> {
        self.pools.iter_mut().find(|pool| pool.family() == family).ok_or(AllocError::NoRange(family))
    }
}

impl Allocations {
    pub(crate) fn new(cluster: &ClusterNet) -> Self {
        Self(Mutex::new(State {
            pools: cluster.families().map(|family| Pool::new(family, StaticBand::Services)).collect(),
            ports: PortPool::new(cluster.node_ports.clone()),
            listed: HashMap::new(),
            owners: HashMap::new(),
            unbacked: BTreeSet::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether changes of a resource concern what is allocated.
    pub(crate) fn follows(&self, resource: &Resource) -> bool {
        resource.is("", "services")
            || resource.is(NETWORKING, "ipaddresses")
            || resource.is(NETWORKING, "servicecidrs")
    }

    /// Reads the filled caches.
    pub(crate) fn load(&self, registry: &Registry) {
        for resource in [registry.services(), registry.ip_addresses(), registry.service_cidrs()] {
            let items = resource.cache.snapshot("").items.into_iter();
            let items = items.map(|stored| (stored.key(resource).into_boxed_str(), Some(stored)));
            self.observe(registry, resource, &items.collect::<Vec<_>>());
        }
    }

    /// Follows changes that all caches already have.
    pub(crate) fn observe(
        &self,
        registry: &Registry,
        resource: &Resource,
        changes: &[(Box<str>, Option<Arc<Stored>>)],
    ) {
        let mut state = self.state();
        if resource.is(NETWORKING, "servicecidrs") {
            state.set_ranges(registry);
        } else if resource.is("", "services") {
            for (name, now) in changes {
                state.list(registry, name, now.as_deref().map(listed_by).unwrap_or_default());
            }
        } else {
            for ip in changes.iter().filter_map(|(name, _)| name.parse().ok()) {
                state.settle(registry, ip);
            }
        }
    }

    /// Follows a change of a port's reservation.
    pub(crate) fn observe_port(&self, port: u16, reserved: bool) {
        let mut state = self.state();
        if reserved {
            state.ports.occupy(port);
        } else {
            state.ports.release(port);
        }
    }

    /// Forgets reservations that are gone.
    pub(crate) fn retain_ports(&self, exists: impl Fn(u16) -> bool) {
        let mut state = self.state();
        for port in state.ports.range().clone().filter(|port| !exists(*port)) {
            state.ports.release(port);
        }
    }
}

impl State {
    /// A Service lists these addresses now.
    fn list(&mut self, registry: &Registry, service: &str, ips: Vec<IpAddr>) {
        let before = self.listed.remove(service).unwrap_or_default();
        for ip in &before {
            // Another one may have got it in the same transaction.
            if self.owners.get(ip).is_some_and(|owner| **owner == *service) {
                self.owners.remove(ip);
            }
        }
        self.owners.extend(ips.iter().map(|ip| (*ip, service.into())));
        for ip in before.iter().chain(&ips) {
            self.settle(registry, *ip);
        }
        if !ips.is_empty() {
            self.listed.insert(service.into(), ips);
        }
    }

    /// An address is used while it has an IPAddress or a Service lists it.
    fn settle(&mut self, registry: &Registry, ip: IpAddr) {
        let backed = registry.ip_addresses().cache.get(&ip.to_string()).is_some();
        let listed = self.owners.contains_key(&ip);
        if listed && !backed {
            self.unbacked.insert(ip);
        } else {
            self.unbacked.remove(&ip);
        }
        if let Ok(pool) = self.pool(ip.into()) {
            if backed || listed {
                pool.occupy(ip)
            } else {
                pool.release(ip)
            };
        }
    }

    /// The ranges are those of the ServiceCIDRs that are ready (C11), largest first.
    fn set_ranges(&mut self, registry: &Registry) {
        let mut ranges: Vec<IpNet> = registry
            .service_cidrs()
            .cache
            .snapshot("")
            .items
            .iter()
            .map(|stored| stored.bare())
            .filter(is_ready)
            .flat_map(|cidr| {
                let cidrs = cidr["spec"]["cidrs"].as_array().cloned().unwrap_or_default();
                cidrs.into_iter().filter_map(|text| text.as_str()?.parse::<IpNet>().ok())
            })
            .filter(|net| net.addr().is_ipv4() || net.prefix_len() >= MIN_PREFIX_V6)
            .collect();
        ranges.sort_by_key(|net| (net.prefix_len(), net.addr()));
        for pool in &mut self.pools {
            for net in pool.ranges().to_vec() {
                pool.remove_range(&net);
            }
            let family = pool.family();
            for net in ranges.iter().filter(|net| IpFamily::from(**net) == family) {
                if let Err(error) = pool.add_range(*net) {
                    tracing::error!(%error, "a service range is left out");
                }
            }
        }
    }
}

/// C11: not being deleted, and no condition says that it is not ready.
fn is_ready(cidr: &Value) -> bool {
    let conditions = cidr["status"]["conditions"].as_array().into_iter().flatten();
    let denied = conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "False");
    cidr["metadata"]["deletionTimestamp"].is_null() && !denied
}

/// The addresses that a Service holds. What stands in one of type ExternalName is only text.
fn listed_by(service: &Stored) -> Vec<IpAddr> {
    let spec = &service.bare()["spec"];
    if spec["type"] == "ExternalName" {
        return Vec::new();
    }
    let ips = spec["clusterIPs"].as_array().into_iter().flatten();
    ips.filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}

/// A new IPAddress for an address of a Service (C5, C6).
fn ip_address(ip: IpAddr, namespace: &str, name: &str) -> Value {
    json!({
        "kind": "IPAddress",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {
            "name": ip.to_string(),
            "uid": values::uid(),
            "creationTimestamp": values::now(),
            "labels": { FAMILY_LABEL: IpFamily::from(ip).as_str(), MANAGED_BY.0: MANAGED_BY.1 },
        },
        "spec": { "parentRef": { "resource": "services", "namespace": namespace, "name": name } },
    })
}

impl Registry {
    /// Writes the IPAddresses that somebody has deleted although a Service lists the address (C41).
    pub(crate) async fn back_addresses(&self) -> Result<(), ApiError> {
        let unbacked: Vec<(IpAddr, Box<str>)> = {
            let state = self.allocations.state();
            let owner = |ip: &IpAddr| Some((*ip, state.owners.get(ip)?.clone()));
            state.unbacked.iter().filter_map(owner).collect()
        };
        for (ip, owner) in unbacked {
            let Some((namespace, name)) = owner.split_once('/') else { continue };
            let services = self.services();
            let service_key = services.store_key(namespace, name);
            let Some(kv) = self.store.get(&service_key)? else { continue };
            let service = Stored::load(services, &kv.key, &kv.value, kv.mod_rev, &self.cluster);
            if !service.is_ok_and(|service| listed_by(&service).contains(&ip)) {
                continue;
            }
            let address = ip_address(ip, namespace, name);
            let key = self.ip_addresses().store_key("", &ip.to_string());
            // Only if the Service still is the one that lists it: a failure means that there is nothing to do.
            let compares = vec![
                Compare { key: service_key, mod_rev: kv.mod_rev },
                Compare { key: key.clone(), mod_rev: 0 },
            ];
            let value = encode(self.ip_addresses(), &address);
            self.store.txn(compares, vec![Op::Put { key, value }]).await?;
        }
        Ok(())
    }
}
