//! What a plugin has made: the result of the CNI specification, of 0.3.0 and later.

use std::net::IpAddr;

use dyad_net::{IpFamily, IpNet};
use serde_json::{Map, Value, json};

use crate::conf::Fields;
use crate::{CniError, Code, Result, Version};

/// A result.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CniResult {
    /// Links that were made.
    pub interfaces: Vec<Interface>,
    /// Addresses, the primary one first.
    pub ips: Vec<Ip>,
    /// Routes.
    pub routes: Vec<Route>,
    /// What the container is to know of DNS.
    pub dns: Map<String, Value>,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its Ethernet address.
    pub mac: String,
    /// Its namespace; empty on the host.
    pub sandbox: String,
    /// Largest packet in bytes (1.1.0).
    pub mtu: Option<u32>,
}

/// An address.
#[derive(Clone, Debug, PartialEq)]
pub struct Ip {
    /// With the length of its prefix.
    pub address: IpNet,
    /// The gateway of its network.
    pub gateway: Option<IpAddr>,
    /// Index of its link among the interfaces.
    pub interface: Option<usize>,
}

/// A route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// Through whom; the gateway of an address of its family if not given.
    pub gw: Option<IpAddr>,
    /// Largest packet in bytes (1.1.0).
    pub mtu: Option<u32>,
    /// The metric (1.1.0).
    pub priority: Option<u32>,
    /// The routing table (1.1.0).
    pub table: Option<u32>,
}

impl Route {
    /// Reads one of a result, or of `ipam.routes`.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self> {
        let dst = fields.net("dst")?.ok_or_else(|| {
            let way_out = "is missing: give each route a destination, as in {\"dst\": \"0.0.0.0/0\"}";
            CniError::new(Code::InvalidConfig, format!("{} {way_out}", fields.name("dst")))
        })?;
        let gw = fields.ip("gw")?;
        if let Some(gw) = gw.filter(|gw| IpFamily::from(*gw) != dst.into()) {
            return Err(CniError::config(&fields.name("gw"), gw, &format!("is not of the family of {dst}")));
        }
        let (mtu, priority, table) =
            (fields.small("mtu")?, fields.small("priority")?, fields.small("table")?);
        Ok(Self { dst, gw, mtu, priority, table })
    }

    fn to_json(&self, version: Version) -> Value {
        let mut route = Map::new();
        route.insert("dst".into(), json!(self.dst.to_string()));
        if let Some(gw) = self.gw {
            route.insert("gw".into(), json!(gw.to_string()));
        }
        if version >= Version::V1_1_0 {
            for (key, value) in [("mtu", self.mtu), ("priority", self.priority), ("table", self.table)] {
                if let Some(value) = value {
                    route.insert(key.into(), json!(value));
                }
            }
        }
        Value::Object(route)
    }
}

impl Interface {
    fn to_json(&self, version: Version) -> Value {
        let mut interface = Map::new();
        interface.insert("name".into(), json!(self.name));
        for (key, value) in [("mac", &self.mac), ("sandbox", &self.sandbox)] {
            if !value.is_empty() {
                interface.insert(key.into(), json!(value));
            }
        }
        if let Some(mtu) = self.mtu.filter(|_| version >= Version::V1_1_0) {
            interface.insert("mtu".into(), json!(mtu));
        }
        Value::Object(interface)
    }
}

impl Ip {
    fn to_json(&self, version: Version) -> Value {
        let mut ip = Map::new();
        if version < Version::V1_0_0 {
            let number = match IpFamily::from(self.address) {
                IpFamily::V4 => "4",
                IpFamily::V6 => "6",
            };
            ip.insert("version".into(), json!(number));
        }
        ip.insert("address".into(), json!(self.address.to_string()));
        if let Some(gateway) = self.gateway {
            ip.insert("gateway".into(), json!(gateway.to_string()));
        }
        if let Some(interface) = self.interface {
            ip.insert("interface".into(), json!(interface));
        }
        Value::Object(ip)
    }

    fn read(fields: &Fields<'_>) -> Result<Self> {
        let address = fields.net("address")?.ok_or_else(|| {
            CniError::new(Code::InvalidConfig, format!("{} is missing", fields.name("address")))
        })?;
        let interface = match fields.get("interface").map(Value::as_i64) {
            // Some plugins say -1 for none.
            None | Some(Some(..0)) => None,
            Some(_) => fields.small("interface")?.map(|index| index as usize),
        };
        Ok(Self { address, gateway: fields.ip("gateway")?, interface })
    }
}

impl CniResult {
    /// As it is written in this version.
    pub fn to_json(&self, version: Version) -> Value {
        let mut result = Map::new();
        result.insert("cniVersion".into(), json!(version.as_str()));
        let mut list = |key: &str, values: Vec<Value>| {
            if !values.is_empty() {
                result.insert(key.into(), Value::Array(values));
            }
        };
        list("interfaces", self.interfaces.iter().map(|interface| interface.to_json(version)).collect());
        list("ips", self.ips.iter().map(|ip| ip.to_json(version)).collect());
        list("routes", self.routes.iter().map(|route| route.to_json(version)).collect());
        result.insert("dns".into(), Value::Object(self.dns.clone()));
        Value::Object(result)
    }

    /// Reads one of any version we speak: they differ in what may be left out only.
    pub fn parse(value: &Value) -> Result<Self> {
        let top = Fields::entry("result".into(), value)?;
        let mut result = Self::default();
        for interface in top.objects("interfaces")? {
            let text = |key| Ok::<_, CniError>(interface.text(key)?.unwrap_or_default().to_owned());
            let (name, mac, sandbox) = (text("name")?, text("mac")?, text("sandbox")?);
            result.interfaces.push(Interface { name, mac, sandbox, mtu: interface.small("mtu")? });
        }
        for ip in top.objects("ips")? {
            let ip = Ip::read(&ip)?;
            if let Some(index) = ip.interface.filter(|index| *index >= result.interfaces.len()) {
                let way_out =
                    format!("is the interface of {}, but there is none with that index", ip.address);
                return Err(CniError::config("result.ips.interface", index, &way_out));
            }
            result.ips.push(ip);
        }
        result.routes = top.objects("routes")?.iter().map(Route::read).collect::<Result<_>>()?;
        if let Some(dns) = top.get("dns").and_then(Value::as_object) {
            result.dns.clone_from(dns);
        }
        Ok(result)
    }

    /// The addresses of links inside containers; those of no link count as such.
    pub fn container_ips(&self) -> impl Iterator<Item = &Ip> {
        self.ips.iter().filter(|ip| match ip.interface {
            None => true,
            Some(index) => self.interfaces.get(index).is_some_and(|link| !link.sandbox.is_empty()),
        })
    }
}
