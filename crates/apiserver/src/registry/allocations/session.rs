//! What one request takes and gives back.

use std::net::IpAddr;
use std::sync::MutexGuard;

use bytes::Bytes;
use dyad_model::{AllocError, Allocator};
use dyad_net::{IpFamily, PoolError};
use dyad_store::{Compare, Op, StoreError};
use serde_json::Value;

use super::{PORTS_PREFIX, State, ip_address};
use crate::registry::Registry;
use crate::registry::stored::encode;

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
    /// Other objects that change with this one: where they are, at which version, and what they become.
    others: Vec<(Bytes, u64, Bytes)>,
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
            others: Vec::new(),
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
            let address = ip_address(*ip, &self.namespace, &self.name);
            ops.push(Op::Put { key, value: encode(addresses, &address) });
        }
        for port in &self.taken_ports {
            let key = port_key(*port);
            compares.push(Compare { key: key.clone(), mod_rev: 0 });
            ops.push(Op::Put { key, value: self.owner().into() });
        }
        for (key, mod_rev, value) in &self.others {
            compares.push(Compare { key: key.clone(), mod_rev: *mod_rev });
            ops.push(Op::Put { key: key.clone(), value: value.clone() });
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

    /// Writes another object in the same transaction, if it is still at that version.
    pub(crate) fn also_write(&mut self, key: Bytes, mod_rev: u64, value: Bytes) {
        self.others.push((key, mod_rev, value));
    }

    /// Whether nothing was taken or released.
    pub(crate) fn is_empty(&self) -> bool {
        self.taken_ips.is_empty()
            && self.released_ips.is_empty()
            && self.taken_ports.is_empty()
            && self.released_ports.is_empty()
            && self.others.is_empty()
    }

    /// The transaction went through.
    pub(crate) fn keep(mut self) {
        self.taken_ips.clear();
        self.taken_ports.clear();
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
