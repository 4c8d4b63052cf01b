//! Addresses and node ports as part of the transaction of the Service that holds them (A-9, A-10, C-2).
//!
//! An address is taken by creating its IPAddress object, a port by creating its reservation, in the same store
//! transaction that writes the Service, on condition that they do not exist; they are given back by deleting them in
//! the transaction that writes or deletes the Service. So nothing can leak and nothing can be used twice, whatever
//! fails and whenever, and there is nothing to repair. What is kept in memory here only says where to look: it follows
//! the store, plus what requests under way have taken. Where it is wrong the condition fails and the request starts
//! over.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dyad_model::{AllocError, Allocator, ClusterNet};
use dyad_net::{IpFamily, IpNet, Pool, PoolError, PortPool, StaticBand};
use dyad_store::{Compare, Op, StoreError};
use serde_json::{Value, json};

use super::Registry;
use super::resource::Resource;
use super::stored::{Stored, encode};
use super::values;

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
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether changes of a resource concern what is allocated.
    pub(crate) fn follows(&self, resource: &Resource) -> bool {
        resource.is(NETWORKING, "ipaddresses") || resource.is(NETWORKING, "servicecidrs")
    }

    /// Reads the filled caches.
    pub(crate) fn load(&self, registry: &Registry) {
        let addresses = registry.ip_addresses().cache.snapshot("").items;
        let mut state = self.state();
        for ip in addresses.iter().filter_map(|stored| stored.meta.name.parse().ok()) {
            if let Ok(pool) = state.pool(IpFamily::from(ip)) {
                pool.occupy(ip);
            }
        }
        state.set_ranges(registry);
    }

    /// Follows changes that the cache of `resource` already has.
    pub(crate) fn observe(
        &self,
        registry: &Registry,
        resource: &Resource,
        changes: &[(Box<str>, Option<Arc<Stored>>)],
    ) {
        if changes.is_empty() {
            return;
        }
        let mut state = self.state();
        if resource.is(NETWORKING, "servicecidrs") {
            state.set_ranges(registry);
            return;
        }
        for (name, now) in changes {
            let Ok(ip) = name.parse::<IpAddr>() else { continue };
            let Ok(pool) = state.pool(ip.into()) else { continue };
            match now {
                Some(_) => pool.occupy(ip),
                None => pool.release(ip),
            };
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

/// The allocator of one request on one Service.
///
/// Dropped without [`keep`](Self::keep), everything is as if it had not been.
pub(crate) struct Session<'a> {
    registry: &'a Registry,
    namespace: String,
    name: String,
    taken_ips: Vec<IpAddr>,
    released_ips: Vec<IpAddr>,
    taken_ports: Vec<u16>,
    released_ports: Vec<u16>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(registry: &'a Registry, namespace: &str, name: &str) -> Self {
        Self {
            registry,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            taken_ips: Vec::new(),
            released_ips: Vec::new(),
            taken_ports: Vec::new(),
            released_ports: Vec::new(),
        }
    }

    fn state(&self) -> MutexGuard<'a, State> {
        self.registry.allocations.state()
    }

    fn owner(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Adds what was taken and released to the transaction that writes the owner.
    ///
    /// What is to be released is read from the store itself: what is known here may lag behind, and what would be
    /// overlooked would leak.
    pub(crate) fn add_to(&self, compares: &mut Vec<Compare>, ops: &mut Vec<Op>) -> Result<(), StoreError> {
        let addresses = self.registry.ip_addresses();
        let address_key = |ip: &IpAddr| addresses.store_key("", &ip.to_string());
        for ip in &self.taken_ips {
            let key = address_key(ip);
            compares.push(Compare { key: key.clone(), mod_rev: 0 });
            ops.push(Op::Put { key, value: encode(addresses, &self.ip_address(*ip)).into() });
        }
        for port in &self.taken_ports {
            let key = port_key(*port);
            compares.push(Compare { key: key.clone(), mod_rev: 0 });
            ops.push(Op::Put { key, value: self.owner().into() });
        }
        let mut release = |key: Bytes, is_ours: &dyn Fn(&[u8]) -> bool| {
            // Somebody may have replaced it by one of their own; that one is not ours to delete.
            if let Some(kv) = self.registry.store.get(&key)?.filter(|kv| is_ours(&kv.value)) {
                compares.push(Compare { key: key.clone(), mod_rev: kv.mod_rev });
                ops.push(Op::Delete { key });
            }
            Ok::<_, StoreError>(())
        };
        for ip in &self.released_ips {
            release(address_key(ip), &|value| self.is_our_address(value))?;
        }
        for port in &self.released_ports {
            release(port_key(*port), &|value| value == self.owner().as_bytes())?;
        }
        Ok(())
    }

    /// Whether nothing was taken or released.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken_ips.is_empty()
            && self.released_ips.is_empty()
            && self.taken_ports.is_empty()
            && self.released_ports.is_empty()
    }

    /// The transaction went through.
    pub(crate) fn keep(mut self) {
        self.taken_ips.clear();
        self.taken_ports.clear();
    }

    fn ip_address(&self, ip: IpAddr) -> Value {
        json!({
            "kind": "IPAddress",
            "apiVersion": "networking.k8s.io/v1",
            "metadata": {
                "name": ip.to_string(),
                "uid": values::uid(),
                "creationTimestamp": values::now(),
                "generation": 1,
                "labels": { FAMILY_LABEL: IpFamily::from(ip).as_str(), MANAGED_BY.0: MANAGED_BY.1 },
            },
            "spec": {
                "parentRef": { "resource": "services", "namespace": self.namespace, "name": self.name },
            },
        })
    }

    fn is_our_address(&self, stored: &[u8]) -> bool {
        let address: Value = serde_json::from_slice(stored).unwrap_or_default();
        let parent = &address["spec"]["parentRef"];
        parent["group"].as_str().unwrap_or_default().is_empty()
            && parent["resource"] == "services"
            && parent["namespace"] == *self.namespace
            && parent["name"] == *self.name
    }
}

fn port_key(port: u16) -> Bytes {
    format!("{PORTS_PREFIX}{port}").into()
}

impl Allocator for Session<'_> {
    fn take_ip(&mut self, family: IpFamily, wanted: Option<IpAddr>) -> Result<IpAddr, AllocError> {
        let mut state = self.state();
        let pool = state.pool(family)?;
        let ip = match wanted {
            Some(ip) if self.released_ips.contains(&ip) => {
                self.released_ips.retain(|released| *released != ip);
                return Ok(ip);
            }
            Some(ip) => pool.take_ip(ip).map(|()| ip),
            None => pool.take(rand::random()),
        };
        let ip = ip.map_err(refusal(family))?;
        self.taken_ips.push(ip);
        Ok(ip)
    }

    fn release_ip(&mut self, ip: IpAddr) {
        if let Some(index) = self.taken_ips.iter().position(|taken| *taken == ip) {
            self.taken_ips.swap_remove(index);
            if let Ok(pool) = self.state().pool(ip.into()) {
                pool.release(ip);
            }
        } else if !self.released_ips.contains(&ip) {
            self.released_ips.push(ip);
        }
    }

    fn take_port(&mut self, wanted: Option<u16>) -> Result<u16, AllocError> {
        let mut state = self.state();
        let port = match wanted {
            Some(port) if self.released_ports.contains(&port) => {
                self.released_ports.retain(|released| *released != port);
                return Ok(port);
            }
            Some(port) => state.ports.take_port(port).map(|()| port),
            None => state.ports.take(rand::random()),
        };
        // Ports have no family; the error that would name one cannot come from a port pool.
        let port = port.map_err(refusal(IpFamily::V4))?;
        self.taken_ports.push(port);
        Ok(port)
    }

    fn release_port(&mut self, port: u16) {
        if let Some(index) = self.taken_ports.iter().position(|taken| *taken == port) {
            self.taken_ports.swap_remove(index);
            self.state().ports.release(port);
        } else if !self.released_ports.contains(&port) {
            self.released_ports.push(port);
        }
    }
}

fn refusal(family: IpFamily) -> impl Fn(PoolError) -> AllocError {
    move |error| match error {
        PoolError::Full => AllocError::Full,
        PoolError::Taken => AllocError::Taken,
        PoolError::OutOfRange => AllocError::OutOfRange,
        PoolError::WrongFamily { .. } => AllocError::NoRange(family),
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if self.taken_ips.is_empty() && self.taken_ports.is_empty() {
            return;
        }
        // A request that was dropped while its transaction was under way may have been carried out nevertheless:
        // then the store has it, and it stays taken. If the store has it a moment later, the feed takes it again.
        let stored = |key: &[u8]| !matches!(self.registry.store.get(key), Ok(None));
        let addresses = self.registry.ip_addresses();
        let mut state = self.state();
        for ip in &self.taken_ips {
            if !stored(&addresses.store_key("", &ip.to_string()))
                && let Ok(pool) = state.pool((*ip).into())
            {
                pool.release(*ip);
            }
        }
        for port in &self.taken_ports {
            if !stored(&port_key(*port)) {
                state.ports.release(*port);
            }
        }
    }
}
