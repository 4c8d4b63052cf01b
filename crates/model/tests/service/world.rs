//! A server reduced to Services: objects, what is held for them, and requests that happen wholly or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dyad_model::{AllocError, Allocator, ClusterNet, Context, Refusal, SERVICE, Strategy};
use dyad_net::{IpFamily, IpNet, parse_range_list, service_range_contains};
use serde_json::{Map, Value, json};

/// What a request came to: the object, or why not, as `field: message` or as the message of the refusal.
pub(crate) type Outcome = Result<Value, Vec<String>>;

/// Addresses and ports in use. Free ones are handed out from the low end, so that outcomes can be written down.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Held {
    pub(crate) ips: BTreeSet<IpAddr>,
    pub(crate) ports: BTreeSet<u16>,
}

pub(crate) struct World {
    pub(crate) cluster: ClusterNet,
    pub(crate) objects: BTreeMap<String, Value>,
    pub(crate) held: Held,
}

/// One request's view of what is held.
struct Request<'a> {
    cluster: &'a ClusterNet,
    held: Held,
    released: Held,
}

fn addresses(net: IpNet) -> impl Iterator<Item = IpAddr> {
    // hosts() has the network address of IPv6 ranges, which a service range does not.
    net.hosts().filter(move |ip| service_range_contains(&net, *ip))
}

impl Allocator for Request<'_> {
    fn take_ip(&mut self, family: IpFamily, wanted: Option<IpAddr>) -> Result<IpAddr, AllocError> {
        let range = *self.cluster.service_ranges.get(family).ok_or(AllocError::NoRange(family))?;
        let ip = match wanted {
            Some(ip) if !service_range_contains(&range, ip) => return Err(AllocError::OutOfRange),
            Some(ip) if self.held.ips.contains(&ip) => return Err(AllocError::Taken),
            Some(ip) => ip,
            None => addresses(range).find(|ip| !self.held.ips.contains(ip)).ok_or(AllocError::Full)?,
        };
        self.held.ips.insert(ip);
        Ok(ip)
    }

    fn release_ip(&mut self, ip: IpAddr) {
        self.released.ips.insert(ip);
    }

    fn take_port(&mut self, wanted: Option<u16>) -> Result<u16, AllocError> {
        let port = match wanted {
            Some(port) if !self.cluster.node_ports.contains(&port) => return Err(AllocError::OutOfRange),
            Some(port) if self.held.ports.contains(&port) => return Err(AllocError::Taken),
            Some(port) => port,
            None => {
                let free = self.cluster.node_ports.clone().find(|port| !self.held.ports.contains(port));
                free.ok_or(AllocError::Full)?
            }
        };
        self.held.ports.insert(port);
        Ok(port)
    }

    fn release_port(&mut self, port: u16) {
        self.released.ports.insert(port);
    }
}

fn refused(refusal: Refusal) -> Vec<String> {
    match refusal {
        Refusal::Invalid(errors) => errors.iter().map(ToString::to_string).collect(),
        Refusal::Internal(text) => vec![format!("500 {text}")],
        Refusal::Forbidden(text) => vec![format!("403 {text}")],
        Refusal::Conflict(text) => vec![format!("409 {text}")],
        Refusal::BadRequest(text) => vec![format!("400 {text}")],
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

impl World {
    /// A cluster with these service ranges and node ports 30000 to 32767.
    pub(crate) fn new(ranges: &str) -> Self {
        let cluster =
            ClusterNet { service_ranges: parse_range_list(ranges).unwrap(), node_ports: 30000..=32767 };
        Self { cluster, objects: BTreeMap::new(), held: Held::default() }
    }

    pub(crate) fn v4v6() -> Self {
        Self::new("10.96.0.0/16,fd00:10:96::/112")
    }

    pub(crate) fn v4() -> Self {
        Self::new("10.96.0.0/16")
    }

    /// By the families in order: `v4v6`, `v6`, ...
    pub(crate) fn of(families: &str) -> Self {
        match families {
            "v4v6" => Self::v4v6(),
            "v4" => Self::v4(),
            "v6v4" => Self::new("fd00:10:96::/112,10.96.0.0/16"),
            "v6" => Self::new("fd00:10:96::/112"),
            _ => panic!("no such cluster: {families}"),
        }
    }

    /// Runs a request: what it takes and releases counts only if it succeeds.
    fn request(
        &mut self,
        run: impl FnOnce(&ClusterNet, &mut dyn Allocator) -> Result<Value, Vec<String>>,
    ) -> Outcome {
        let mut request =
            Request { cluster: &self.cluster, held: self.held.clone(), released: Held::default() };
        let object = run(&self.cluster, &mut request)?;
        let Request { mut held, released, .. } = request;
        for ip in released.ips {
            assert!(held.ips.remove(&ip), "{ip} was released but not held");
        }
        for port in released.ports {
            assert!(held.ports.remove(&port), "port {port} was released but not held");
        }
        self.held = held;
        Ok(object)
    }

    /// Creates a Service, or replaces it; the spec is that of the body.
    pub(crate) fn put(&mut self, name: &str, spec: Value) -> Outcome {
        self.put_object(name, json!({"spec": spec}))
    }

    pub(crate) fn put_object(&mut self, name: &str, mut new: Value) -> Outcome {
        new["apiVersion"] = "v1".into();
        new["kind"] = "Service".into();
        new["metadata"]["name"] = name.into();
        if let Some(old) = self.objects.get(name).cloned() {
            return self.update(name, new, old);
        }
        SERVICE.default(&mut new);
        let object = self.request(|cluster, alloc| {
            let cx = Context {
                objects: &dyad_model::NoObjects,
                cluster,
                subresource: "",
                now: "2026-01-01T00:00:00Z",
            };
            SERVICE.begin_create(&mut new, &cx, alloc).map_err(refused)?;
            SERVICE.prepare_create(&mut new, &cx);
            match SERVICE.validate_create(&new, &cx).as_slice() {
                [] => Ok(new),
                errors => Err(errors.iter().map(ToString::to_string).collect()),
            }
        })?;
        self.store(name, object)
    }

    fn update(&mut self, name: &str, mut new: Value, mut old: Value) -> Outcome {
        SERVICE.default(&mut new);
        SERVICE.decorate(&mut old, &self.cluster);
        let object = self.request(|cluster, alloc| {
            let cx = Context {
                objects: &dyad_model::NoObjects,
                cluster,
                subresource: "",
                now: "2026-01-01T00:00:00Z",
            };
            SERVICE.begin_update(&mut new, &old, &cx, alloc).map_err(refused)?;
            SERVICE.prepare_update(&mut new, &old, &cx);
            match SERVICE.validate_update(&new, &old, &cx).as_slice() {
                [] => Ok(new),
                errors => Err(errors.iter().map(ToString::to_string).collect()),
            }
        })?;
        self.store(name, object)
    }

    fn store(&mut self, name: &str, mut object: Value) -> Outcome {
        self.objects.insert(name.to_owned(), object.clone());
        SERVICE.decorate(&mut object, &self.cluster);
        self.check();
        Ok(object)
    }

    /// Changes fields of the spec, `null` removes one, as a merge patch does (A48).
    pub(crate) fn patch(&mut self, name: &str, patch: Value) -> Outcome {
        let old = self.objects[name].clone();
        let mut new = old.clone();
        merge(&mut new["spec"], &patch);
        self.update(name, new, old)
    }

    /// Writes the status subresource.
    pub(crate) fn put_status(&mut self, name: &str, status: Value) -> Outcome {
        let old = self.objects[name].clone();
        let mut new = old.clone();
        new["status"] = status;
        new["spec"]["type"] = "ExternalName".into();
        SERVICE.default(&mut new);
        let cx = Context {
            objects: &dyad_model::NoObjects,
            cluster: &self.cluster,
            subresource: "status",
            now: "2026-01-01T00:00:00Z",
        };
        SERVICE.prepare_update(&mut new, &old, &cx);
        // The server defaults what it has decoded, whose spec is here the stored one again.
        SERVICE.default(&mut new);
        match SERVICE.validate_update(&new, &old, &cx).as_slice() {
            [] => self.store(name, new),
            errors => Err(errors.iter().map(ToString::to_string).collect()),
        }
    }

    pub(crate) fn delete(&mut self, name: &str) {
        let old = self.objects.remove(name).unwrap();
        self.request(|_, alloc| {
            SERVICE.begin_delete(&old, alloc);
            Ok(Value::Null)
        })
        .unwrap();
        self.check();
    }

    /// What is held is what the objects say: nothing leaks and nothing is used twice.
    pub(crate) fn check(&self) {
        let mut named = Held::default();
        for (name, object) in &self.objects {
            let spec = &object["spec"];
            let kind = spec["type"].as_str().unwrap();
            let ips = spec["clusterIPs"].as_array().into_iter().flatten();
            for ip in ips.filter_map(|ip| ip.as_str()?.parse().ok()) {
                assert!(named.ips.insert(ip), "{name} has {ip}, which another has too");
            }
            if !matches!(kind, "NodePort" | "LoadBalancer") {
                continue;
            }
            let ports = spec["ports"].as_array().into_iter().flatten().map(|port| &port["nodePort"]);
            let ports: BTreeSet<_> = ports.filter_map(Value::as_u64).collect();
            let ports = ports.into_iter().chain(spec["healthCheckNodePort"].as_u64());
            for port in ports.map(|port| u16::try_from(port).unwrap()) {
                assert!(named.ports.insert(port), "{name} has port {port}, which another has too");
            }
        }
        assert_eq!(self.held, named, "held and named");
    }
}

/// The fields that families are about: policy, families and addresses.
pub(crate) fn families(object: &Value) -> (&str, Vec<&str>, Vec<&str>) {
    let list = |field: &str| {
        object["spec"][field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    };
    let policy = object["spec"]["ipFamilyPolicy"].as_str().unwrap_or_default();
    assert_eq!(
        object["spec"]["clusterIP"], object["spec"]["clusterIPs"][0],
        "the singular is the first of the plural"
    );
    (policy, list("ipFamilies"), list("clusterIPs"))
}
