//! host-local's part of a configuration, and what is done with it: addresses from ranges, noted on disk.

use std::net::IpAddr;
use std::path::PathBuf;

use dyad_net::{IpNet, check_ip};
use serde_json::{Map, Value, json};

use crate::lease;
use crate::range::{Kind, RangeSet, check_apart, read_ranges, read_single};
use crate::result::{Ip, Route};
use crate::store::{DATA_DIR, Store};
use crate::{CniError, CniResult, Code, Request, Result};

/// What host-local is told.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) sets: Vec<RangeSet>,
    pub(crate) routes: Vec<Route>,
    pub(crate) data_dir: PathBuf,
    pub(crate) dns: Map<String, Value>,
    /// Addresses that are to be had and no others.
    pub(crate) requested: Vec<IpAddr>,
}

impl Local {
    /// Of a request: from `ipam`, capabilities and arguments.
    pub(crate) fn of(request: &Request, kind: Kind) -> Result<Self> {
        let fields = request.config.fields();
        let (ipam, runtime) = (fields.object("ipam")?, fields.object("runtimeConfig")?);
        // The runtime's come first.
        let mut sets = read_ranges("runtimeConfig.ipRanges", runtime.list("ipRanges")?, kind)?;
        sets.extend(read_single(&ipam, kind)?);
        sets.extend(read_ranges("ipam.ranges", ipam.list("ranges")?, kind)?);
        check_apart("ipam.ranges", &sets)?;
        let routes = ipam.objects("routes")?.iter().map(Route::read).collect::<Result<_>>()?;
        let dns = match ipam.text("resolvConf")? {
            None | Some("") => Map::new(),
            Some(path) => {
                let what = format!("ipam.resolvConf: reading {path}");
                resolv_conf(&std::fs::read_to_string(path).map_err(CniError::io(what))?)
            }
        };
        Ok(Self { sets, routes, data_dir: data_dir(request)?, dns, requested: requested(request)? })
    }

    /// Takes addresses; the same attachment cannot have more.
    pub(crate) fn add(&self, request: &Request) -> Result<CniResult> {
        if self.sets.is_empty() {
            let way_out =
                "is missing: give at least one list of ranges, as in [[{\"subnet\": \"10.1.0.0/16\"}]]";
            return Err(CniError::new(Code::InvalidConfig, format!("ipam.ranges {way_out}")));
        }
        let (store, owner) = (Store::open(&self.data_dir, &request.config.name)?, request.owner());
        let store = store.lock()?;
        let ours = store.of(&owner)?;
        if let Some(ip) = ours.iter().find(|ip| self.sets.iter().any(|set| set.range_of(**ip).is_some())) {
            let who = format!("{} of container {}", request.ifname, request.container_id);
            let msg = format!("{ip} has been given to {who} already: DEL comes before a second ADD");
            return Err(CniError::new(Code::InvalidEnvironment, msg));
        }
        let taken = lease::take(&store, &owner, &self.sets, &self.requested)?;
        let ips = taken.iter().map(|(ip, range)| Ip {
            address: IpNet::new(*ip, range.subnet.prefix_len()).unwrap_or_else(|_| (*ip).into()),
            gateway: range.gateway,
            interface: None,
        });
        let (ips, routes) = (ips.collect(), self.routes.clone());
        Ok(CniResult { interfaces: Vec::new(), ips, routes, dns: self.dns.clone() })
    }
}

/// Where addresses are noted.
pub(crate) fn data_dir(request: &Request) -> Result<PathBuf> {
    let ipam = request.config.fields().object("ipam")?;
    Ok(ipam.text("dataDir")?.filter(|text| !text.is_empty()).unwrap_or(DATA_DIR).into())
}

/// Gives addresses back; there may be none.
pub(crate) fn del(request: &Request) -> Result<()> {
    match Store::existing(&data_dir(request)?, &request.config.name) {
        Some(store) => store.lock()?.release(&request.owner()).map(drop),
        None => Ok(()),
    }
}

/// That an attachment has addresses.
pub(crate) fn check(request: &Request) -> Result<()> {
    let found = match Store::existing(&data_dir(request)?, &request.config.name) {
        Some(store) => store.lock()?.of(&request.owner())?,
        None => Vec::new(),
    };
    if found.is_empty() {
        let msg = format!("container {} has no address in this network: make it anew", request.container_id);
        return Err(CniError::new(Code::Failed, msg));
    }
    Ok(())
}

/// Gives back the addresses of whoever is not valid.
pub(crate) fn gc(request: &Request) -> Result<()> {
    let valid = request.valid()?;
    match Store::existing(&data_dir(request)?, &request.config.name) {
        Some(store) => store.lock()?.retain(&valid).map(drop),
        None => Ok(()),
    }
}

/// That addresses could be given.
pub(crate) fn status(request: &Request) -> Result<()> {
    let local = Local::of(request, Kind::Shared)?;
    Store::open(&local.data_dir, &request.config.name)?.lock()?.check()
}

/// Addresses that were asked for: `args.cni.ips`, `runtimeConfig.ips` and `IP` of `CNI_ARGS`.
fn requested(request: &Request) -> Result<Vec<IpAddr>> {
    let fields = request.config.fields();
    let args = fields.object("args")?.object("cni")?;
    let mut texts = Vec::new();
    for (name, list) in [
        ("args.cni.ips", args.list("ips")?),
        ("runtimeConfig.ips", fields.object("runtimeConfig")?.list("ips")?),
    ] {
        for value in list {
            let Some(text) = value.as_str() else {
                return Err(CniError::config(name, value, "must be a list of addresses in quotes"));
            };
            texts.push((name, text));
        }
    }
    texts.extend(request.arg("IP").filter(|text| !text.is_empty()).map(|text| ("CNI_ARGS: IP", text)));
    let read = |(name, text): (&str, &str)| {
        let bare = text.split_once('/').map_or(text, |(ip, _)| ip);
        check_ip(bare).map_err(|reason| CniError::config(name, format_args!("{text:?}"), &reason.to_string()))
    };
    let mut found = Vec::new();
    for ip in texts.into_iter().map(read) {
        let ip = ip?;
        if !found.contains(&ip) {
            found.push(ip);
        }
    }
    Ok(found)
}

/// What a `resolv.conf` says, as a result has it (resolv.conf(5)).
pub(crate) fn resolv_conf(text: &str) -> Map<String, Value> {
    let mut dns: Map<String, Value> = Map::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let rest = |words: std::str::SplitWhitespace<'_>| words.map(|word| json!(word)).collect::<Vec<_>>();
        match words.next() {
            Some("nameserver") => {
                let servers = dns.entry("nameservers").or_insert_with(|| json!([]));
                if let (Some(list), Some(server)) = (servers.as_array_mut(), words.next()) {
                    list.push(json!(server));
                }
            }
            Some("domain") => {
                if let Some(domain) = words.next() {
                    dns.insert("domain".into(), json!(domain));
                }
            }
            Some("search") => drop(dns.insert("search".into(), Value::Array(rest(words)))),
            Some("options") => drop(dns.insert("options".into(), Value::Array(rest(words)))),
            _ => {}
        }
    }
    dns
}
