//! Routed pods: a pod has /32 and /128 addresses and a link of its own to the node (`dyad_links::pod`).
//!
//! Done by the plugin `dyad`, and by the node agent for it. Everything can be done again: ADD repairs what is there, DEL
//! finds what is left.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dyad_links::pod::{self, End, PodLink};
use dyad_links::{Handle, Limits, Mac};
use dyad_net::{DualStack, IpFamily, IpNet};
use serde_json::{Map, Value};

use crate::host::{self, parse_mac};
use crate::lease;
use crate::local::{self, Local};
use crate::plugin::bandwidth;
use crate::range::{Kind, RangeSet, read_ranges};
use crate::result::{Interface, Ip, Route};
use crate::store::{Owner, Store};
use crate::{CniError, CniResult, Code, Request, Result};

/// The longest key of a pod link, in bytes.
const MAX_KEY: usize = 200;

/// What pods are made with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One list for each family, in the node's order.
    pub ranges: Vec<RangeSet>,
    /// Where addresses are noted.
    pub data_dir: PathBuf,
    /// The node's addresses, from which it talks to pods.
    pub node: Option<DualStack<IpAddr>>,
    /// Largest packet in bytes; that of the node's uplink if not given.
    pub mtu: Option<u32>,
    /// Addresses that are to be had and no others.
    pub requested: Vec<IpAddr>,
    /// The Ethernet address of the pod's end; one that follows from the pod if not given.
    pub mac: Option<Mac>,
    /// How much the pod may take and send.
    pub limits: Limits,
    /// What goes into the result's `dns`.
    pub dns: Map<String, Value>,
}

impl Settings {
    /// What the configuration says by itself: `ipam.ranges` or `ranges`, and what goes with it.
    pub fn of(request: &Request) -> Result<Self> {
        let fields = request.config.fields();
        let Local { sets: mut ranges, data_dir, dns, requested, .. } = Local::of(request, Kind::Routed)?;
        ranges.extend(read_ranges("ranges", fields.list("ranges")?, Kind::Routed)?);
        let mac = match fields.object("runtimeConfig")?.text("mac")? {
            None | Some("") => None,
            Some(text) => Some(parse_mac("runtimeConfig.mac", text)?),
        };
        let limits = bandwidth::read(&fields.object("runtimeConfig")?.object("bandwidth")?)?;
        Ok(Self { ranges, data_dir, node: None, mtu: host::mtu(&fields)?, requested, mac, limits, dns })
    }
}

/// A pod that is connected.
#[derive(Clone, Debug, PartialEq)]
pub struct Connected {
    /// What ADD answers.
    pub result: CniResult,
    /// Whether it was not before: who can't go on with it takes it back by [`del`].
    pub is_new: bool,
}

/// What a pod link of a network is called by.
fn key(network: &str, owner: &Owner) -> String {
    format!("{network}/{}/{}", owner.container, owner.ifname.as_deref().unwrap_or_default())
}

/// Connects a pod, or repairs its connection.
pub fn add(request: &Request, settings: &Settings) -> Result<Connected> {
    let (network, owner) = (&request.config.name, request.owner());
    let key = key(network, &owner);
    if key.len() > MAX_KEY {
        let msg =
            format!("network name, CNI_CONTAINERID and CNI_IFNAME have more than {MAX_KEY} bytes: {key}");
        return Err(CniError::new(Code::InvalidEnvironment, msg));
    }
    check_ranges(&settings.ranges)?;
    let netns = request.open_netns()?;
    let (taken, is_new) = take(network, &owner, settings)?;
    let made = connect(&key, netns.as_fd(), &taken, request, settings);
    if made.is_err() && is_new {
        // Nothing half-made stays behind; the first error is the one that counts.
        let _ = release(&settings.data_dir, network, &owner);
    }
    made.map(|result| Connected { result, is_new })
}

fn check_ranges(sets: &[RangeSet]) -> Result<()> {
    let families: Vec<_> = sets.iter().filter_map(RangeSet::family).collect();
    match families[..] {
        [_] => Ok(()),
        [first, second] if first != second => Ok(()),
        [] => Err(CniError::new(
            Code::TryAgainLater,
            "there are no ranges to give addresses from: the node has none yet, or `ipam.ranges` is missing",
        )),
        [..] => {
            let way_out =
                "lists of ranges: a routed pod has one address of each family, so give one list for each";
            Err(CniError::config("ipam.ranges", families.len(), way_out))
        }
    }
}

/// The addresses the pod has already, or new ones.
fn take(network: &str, owner: &Owner, settings: &Settings) -> Result<(Vec<IpAddr>, bool)> {
    let store = Store::open(&settings.data_dir, network)?;
    let store = store.lock()?;
    let ours = store.of(owner)?;
    if !ours.is_empty() {
        let of_set = |set: &RangeSet| ours.iter().copied().find(|ip| set.range_of(*ip).is_some());
        let kept: Vec<_> = settings.ranges.iter().filter_map(of_set).collect();
        let wanted = settings.requested.iter().all(|ip| kept.contains(ip));
        if wanted && kept.len() == settings.ranges.len() && kept.len() == ours.len() {
            return Ok((kept, false));
        }
        // The node has other ranges by now.
        store.release(owner)?;
    }
    let taken = lease::take(&store, owner, &settings.ranges, &settings.requested)?;
    Ok((taken.into_iter().map(|(ip, _)| ip).collect(), true))
}

fn connect(
    key: &str,
    netns: std::os::fd::BorrowedFd<'_>,
    taken: &[IpAddr],
    request: &Request,
    settings: &Settings,
) -> Result<CniResult> {
    let addresses = DualStack::from_ordered(taken.iter().map(|ip| ((*ip).into(), *ip)))
        .ok_or_else(|| CniError::new(Code::Failed, "the ranges gave two addresses of one family"))?;
    let mut node = Handle::open()?;
    let mtu = match settings.mtu {
        Some(mtu) => mtu,
        None => host::uplink_mtu(&mut node)?,
    };
    host::forward(addresses.families())?;
    let link = PodLink { key, netns, addresses: addresses.clone(), node: settings.node.clone(), mtu };
    pod::add_as(&mut node, &link, End { name: &request.ifname, mac: settings.mac })?;
    if let Err(error) = pod::limit(&mut node, key, &settings.limits) {
        // The first error is the one that counts.
        let _ = pod::del(&mut node, key).and_then(|()| pod::reap(&mut node));
        return Err(error.into());
    }
    let (near, far) = pod::macs(key);
    let interface = |name: String, mac: Mac, sandbox: String| Interface {
        name,
        mac: mac.to_string(),
        sandbox,
        mtu: Some(mtu),
    };
    let sandbox = request.netns.to_string_lossy().into_owned();
    let ip = |(family, ip): (IpFamily, &IpAddr)| Ip {
        address: IpNet::from(*ip),
        gateway: Some(pod::gateway(family)),
        interface: Some(1),
    };
    let route = |family: IpFamily| Route {
        dst: family.everything(),
        gw: Some(pod::gateway(family)),
        mtu: None,
        priority: None,
        table: None,
    };
    Ok(CniResult {
        interfaces: vec![
            interface(pod::name(key), near, String::new()),
            interface(request.ifname.clone(), settings.mac.unwrap_or(far), sandbox),
        ],
        ips: addresses.iter().map(ip).collect(),
        routes: addresses.families().map(route).collect(),
        dns: settings.dns.clone(),
    })
}

/// Disconnects a pod, of which anything may be gone already.
pub fn del(request: &Request, data_dir: &Path) -> Result<()> {
    take_off(request, data_dir)?;
    // Last, as the kernel takes its time.
    reap()
}

/// The first part of [`del`]: the pod has neither routes nor addresses any more, its link waits for [`reap`].
pub fn take_off(request: &Request, data_dir: &Path) -> Result<()> {
    let (network, owner) = (&request.config.name, request.owner());
    pod::del(&mut Handle::open()?, &key(network, &owner))?;
    release(data_dir, network, &owner)
}

/// The second one, for all pods that were taken off: for many the kernel takes no longer than for one.
pub fn reap() -> Result<()> {
    Ok(pod::reap(&mut Handle::open()?)?)
}

fn release(data_dir: &Path, network: &str, owner: &Owner) -> Result<()> {
    match Store::existing(data_dir, network) {
        Some(store) => store.lock()?.release(owner).map(drop),
        None => Ok(()),
    }
}

/// That a pod still has what ADD gave it.
pub fn check(request: &Request, data_dir: &Path) -> Result<()> {
    let previous = request.config.needed_previous()?;
    let netns = request.open_netns()?;
    host::check_container(request, &netns, &previous)?;
    let (network, owner) = (&request.config.name, request.owner());
    let key = key(network, &owner);
    let existing = pod::list(&mut Handle::open()?)?.into_iter().find(|existing| existing.key == key);
    let noted = match Store::existing(data_dir, network) {
        Some(store) => store.lock()?.of(&owner)?,
        None => Vec::new(),
    };
    let limits = bandwidth::read(&request.config.fields().object("runtimeConfig")?.object("bandwidth")?)?;
    if limits.any() && !existing.as_ref().is_some_and(|existing| existing.is_limited) {
        let msg = format!("what limits {} is gone: make the pod anew", request.container_id);
        return Err(CniError::new(Code::Failed, msg));
    }
    for ip in previous.container_ips().map(|ip| ip.address.addr()) {
        if !existing.as_ref().is_some_and(|existing| existing.addresses.contains(&ip)) {
            let msg = format!("the node has no route to {ip} of {}: make the pod anew", request.container_id);
            return Err(CniError::new(Code::Failed, msg));
        }
        if !noted.contains(&ip) {
            let msg = format!("{ip} is not noted as that of {}: make the pod anew", request.container_id);
            return Err(CniError::new(Code::Failed, msg));
        }
    }
    Ok(())
}

/// Removes the links and gives back the addresses of all pods of a network but the valid ones.
pub fn gc(network: &str, valid: &[Owner], data_dir: &Path) -> Result<()> {
    let mut node = Handle::open()?;
    let (prefix, keep) =
        (format!("{network}/"), valid.iter().map(|owner| key(network, owner)).collect::<Vec<_>>());
    for existing in pod::list(&mut node)? {
        if existing.key.starts_with(&prefix) && !keep.contains(&existing.key) {
            pod::del(&mut node, &existing.key)?;
        }
    }
    if let Some(store) = Store::existing(data_dir, network) {
        store.lock()?.retain(valid)?;
    }
    pod::sweep(&mut node)?;
    Ok(pod::reap(&mut node)?)
}

/// Gives back the addresses of pods that have no link any more, and that no DEL has told of: their namespaces have gone
/// otherwise. Those that were taken less than `age` ago may be about to get one. Says which.
pub fn forget(network: &str, data_dir: &Path, age: Duration) -> Result<Vec<IpAddr>> {
    let existing = Store::existing(data_dir, network).zip(SystemTime::now().checked_sub(age));
    let Some((store, time)) = existing else { return Ok(Vec::new()) };
    let store = store.lock()?;
    let mut node = Handle::open()?;
    pod::sweep(&mut node)?;
    let links: BTreeSet<String> = pod::list(&mut node)?.into_iter().map(|link| link.key).collect();
    store.forget(time, |owner| links.contains(&key(network, owner)))
}

/// That ADD would find what it needs.
pub fn status(network: &str, settings: &Settings) -> Result<()> {
    check_ranges(&settings.ranges).map_err(|error| CniError { code: Code::NotAvailable as u32, ..error })?;
    Store::open(&settings.data_dir, network)?.lock()?.check()
}

/// Where addresses are noted by a configuration.
pub fn data_dir(request: &Request) -> Result<PathBuf> {
    local::data_dir(request)
}
