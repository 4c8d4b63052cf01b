//! Taking and giving back addresses and ports.

use dyad_net::{IpFamily, parse_ip_sloppy};
use serde_json::Value;

use super::families::family_not_configured;
use super::spec::{NONE, Port, Spec};
use crate::{AllocError, Allocator, ClusterNet, FieldError, Refusal, wire};

/// One request's allocations for one Service.
pub(super) struct Allocation<'a> {
    name: String,
    cluster: &'a ClusterNet,
    alloc: &'a mut dyn Allocator,
}

/// Gives back all that a Service holds (A126). A `clusterIPs` list must be there.
pub(super) fn release(spec: &Spec, alloc: &mut dyn Allocator) {
    if !spec.is_external_name() {
        release_ips(&spec.cluster_ips, alloc);
    }
    for port in spec.held_node_ports() {
        release_port(port, alloc);
    }
    if spec.needs_health_check() {
        release_port(spec.health_check_node_port, alloc);
    }
}

/// "None" is no address, so a headless Service gives back nothing.
fn release_ips(ips: &[String], alloc: &mut dyn Allocator) {
    ips.iter().filter_map(|ip| parse_ip_sloppy(ip)).for_each(|ip| alloc.release_ip(ip));
}

fn release_port(port: i64, alloc: &mut dyn Allocator) {
    if let Ok(port) = u16::try_from(port) {
        alloc.release_port(port);
    }
}

impl<'a> Allocation<'a> {
    pub(super) fn new(object: &Value, cluster: &'a ClusterNet, alloc: &'a mut dyn Allocator) -> Self {
        Self { name: wire::text(wire::at(object, &["metadata"]), "name").to_owned(), cluster, alloc }
    }

    /// A120, A142, A147.
    pub(super) fn create(&mut self, spec: &mut Spec) -> Result<(), Refusal> {
        if !spec.is_external_name() {
            self.take_all_ips(spec)?;
        }
        if spec.has_node_ports() {
            self.create_node_ports(spec)?;
        }
        if spec.needs_health_check() {
            self.take_health_check_port(spec)?;
        }
        Ok(())
    }

    /// A123, A144, A147. What is given back comes free only with the write (A124).
    pub(super) fn update(&mut self, spec: &mut Spec, old: &Spec) -> Result<(), Refusal> {
        self.update_ips(spec, old)?;
        if spec.has_node_ports() {
            self.update_node_ports(spec, old)?;
        } else {
            old.held_node_ports().into_iter().for_each(|port| release_port(port, self.alloc));
        }
        match (old.needs_health_check(), spec.needs_health_check()) {
            (false, true) => self.take_health_check_port(spec)?,
            (true, false) => release_port(old.health_check_node_port, self.alloc),
            (true, true) | (false, false) => {}
        }
        Ok(())
    }

    fn update_ips(&mut self, spec: &mut Spec, old: &Spec) -> Result<(), Refusal> {
        if old.is_external_name() {
            return if spec.is_external_name() { Ok(()) } else { self.take_all_ips(spec) };
        }
        if old.cluster_ips.first().is_some_and(|ip| ip == NONE) {
            return Ok(());
        }
        if spec.is_external_name() {
            release_ips(&old.cluster_ips, self.alloc);
            return Ok(());
        }
        match (old.ip_families.len(), spec.ip_families.len()) {
            (1, 2) => self.take_ips(spec, 1),
            (2, 1) => {
                release_ips(old.cluster_ips.get(1..).unwrap_or_default(), self.alloc);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take_all_ips(&mut self, spec: &mut Spec) -> Result<(), Refusal> {
        if spec.cluster_ips.first().is_some_and(|ip| ip == NONE) {
            return Ok(());
        }
        self.take_ips(spec, 0)
    }

    /// Takes an address for every family from the one at `from` on: the one named at the same place, or any.
    fn take_ips(&mut self, spec: &mut Spec, from: usize) -> Result<(), Refusal> {
        while spec.cluster_ips.len() < spec.ip_families.len() {
            // Errors show the places still to be filled, as upstream.
            spec.cluster_ips.push(String::new());
        }
        let mut taken = Vec::new();
        for (index, family) in spec.ip_families.iter().enumerate().skip(from) {
            taken.push(self.take_ip(spec, index, family)?);
        }
        for (ip, taken) in spec.cluster_ips.iter_mut().skip(from).zip(taken) {
            *ip = taken;
        }
        if from == 0 {
            spec.cluster_ip.clone_from(&spec.cluster_ips[0]);
        }
        Ok(())
    }

    /// A121, A122.
    fn take_ip(&mut self, spec: &Spec, index: usize, family: &str) -> Result<String, Refusal> {
        // K11: a family the cluster doesn't have, reached on a way where nothing asked before.
        let missing = || Refusal::Invalid(vec![family_not_configured(index, family)]);
        let known = IpFamily::from_name(family)
            .filter(|family| self.cluster.service_ranges.get(*family).is_some())
            .ok_or_else(missing)?;
        let invalid = |detail: String| {
            Refusal::Invalid(vec![FieldError::invalid("spec.clusterIPs", spec.shown_cluster_ips(), detail)])
        };
        let wanted = spec.cluster_ips[index].as_str();
        if wanted.is_empty() {
            return match self.alloc.take_ip(known, None) {
                Ok(ip) => Ok(ip.to_string()),
                Err(AllocError::NoRange(_)) => Err(missing()),
                Err(AllocError::Full) => Err(Refusal::Internal(format!(
                    "failed to allocate a serviceIP for Service {:?}: range is full",
                    self.name
                ))),
                Err(error) => Err(invalid(format!("failed to allocate IP: {}", ip_cause(&error)))),
            };
        }
        let ip = parse_ip_sloppy(wanted)
            .ok_or_else(|| Refusal::Internal(format!("failed to parse service IP {wanted:?}")))?;
        match self.alloc.take_ip(known, Some(ip)) {
            // As it was written: it is canonical unless it was stored otherwise before.
            Ok(_) => Ok(wanted.to_owned()),
            Err(AllocError::NoRange(_)) => Err(missing()),
            Err(error) => Err(invalid(format!("failed to allocate IP {wanted}: {}", ip_cause(&error)))),
        }
    }

    /// A142: ports of the same number share a node port, the first one named for any of them. A143 (K9): one node port
    /// may be named for several numbers as long as the protocols differ.
    fn create_node_ports(&mut self, spec: &mut Spec) -> Result<(), Refusal> {
        let wanted = spec.wants_node_ports();
        let named = spec.ports.clone();
        let mut taken: Vec<Port> = Vec::new();
        for (index, port) in spec.ports.iter_mut().enumerate() {
            if port.node_port == 0 && !wanted {
                continue;
            }
            let shared = taken.iter().find(|other| other.port == port.port).map(|other| other.node_port);
            let asked = named.iter().find(|other| other.port == port.port && other.node_port != 0);
            match (shared, asked) {
                (Some(shared), _) if port.node_port == 0 || port.node_port == shared => {
                    port.node_port = shared;
                    continue;
                }
                (Some(_), _) => {}
                (None, Some(asked)) => port.node_port = asked.node_port,
                (None, None) => {
                    port.node_port = self.take_any_port()?;
                    taken.push(port.clone());
                    continue;
                }
            }
            let ours = taken.iter().any(|other| other.node_port == port.node_port);
            let clash = taken
                .iter()
                .any(|other| other.node_port == port.node_port && other.protocol == port.protocol);
            if !ours || clash {
                self.take_named_port(index, port.node_port)?;
            }
            taken.push(port.clone());
        }
        Ok(())
    }

    /// A144: what old had is kept, new numbers are taken once, and ports without get one each.
    fn update_node_ports(&mut self, spec: &mut Spec, old: &Spec) -> Result<(), Refusal> {
        let wanted = spec.wants_node_ports();
        let old_numbers = old.held_node_ports();
        let mut held = old_numbers.clone();
        for (index, port) in spec.ports.iter_mut().enumerate() {
            if port.node_port == 0 {
                if wanted {
                    port.node_port = self.take_any_port()?;
                }
            } else if !held.contains(&port.node_port) {
                self.take_named_port(index, port.node_port)?;
                held.insert(port.node_port);
            }
        }
        for number in old_numbers {
            if spec.named_node_ports().all(|named| named != number) {
                release_port(number, self.alloc);
            }
        }
        Ok(())
    }

    fn take_any_port(&mut self) -> Result<i64, Refusal> {
        self.take_port(None).map_err(|error| {
            Refusal::Internal(format!("failed to allocate a nodePort: {}", self.port_cause(&error)))
        })
    }

    fn take_named_port(&mut self, index: usize, port: i64) -> Result<(), Refusal> {
        self.take_port(Some(port)).map(drop).map_err(|error| {
            let field = format!("spec.ports[{index}].nodePort");
            Refusal::Invalid(vec![FieldError::invalid(field, port, self.port_cause(&error))])
        })
    }

    /// A147.
    fn take_health_check_port(&mut self, spec: &mut Spec) -> Result<(), Refusal> {
        let wanted = Some(spec.health_check_node_port).filter(|port| *port != 0);
        spec.health_check_node_port = self.take_port(wanted).map_err(|error| {
            let what = if wanted.is_some() { "requested" } else { "a" };
            let port = wanted.unwrap_or_default();
            let cause = self.port_cause(&error);
            Refusal::Internal(format!("failed to allocate {what} HealthCheck NodePort {port}: {cause}"))
        })?;
        Ok(())
    }

    fn take_port(&mut self, wanted: Option<i64>) -> Result<i64, AllocError> {
        let wanted = wanted.map(u16::try_from).transpose().map_err(|_| AllocError::OutOfRange)?;
        self.alloc.take_port(wanted).map(i64::from)
    }

    /// A145.
    fn port_cause(&self, error: &AllocError) -> String {
        match error {
            AllocError::Taken => "provided port is already allocated".to_owned(),
            AllocError::OutOfRange | AllocError::NoRange(_) => {
                let (first, last) = (self.cluster.node_ports.start(), self.cluster.node_ports.end());
                format!("provided port is not in the valid range. The range of valid ports is {first}-{last}")
            }
            AllocError::Full => "range is full".to_owned(),
        }
    }
}

const fn ip_cause(error: &AllocError) -> &'static str {
    match error {
        AllocError::Taken => "provided IP is already allocated",
        AllocError::OutOfRange | AllocError::NoRange(_) => {
            "the provided network does not match the current range"
        }
        AllocError::Full => "range is full",
    }
}
