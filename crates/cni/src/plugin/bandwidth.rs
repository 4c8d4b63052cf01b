//! `bandwidth`: limits what a container takes and sends, by token buckets.

use std::os::fd::AsFd;

use dyad_links::{Handle, Limits, Link, NewLink, Rate, netns};
use serde_json::Value;

use super::Plugin;
use crate::attach::{host_name, key};
use crate::conf::Fields;
use crate::result::Interface;
use crate::{CniError, CniResult, Code, Request, Result};

pub(super) struct Bandwidth;

/// From here on a burst is too large: the kernel counts it in 32 bits of bytes. containerd, which knows no burst, writes
/// the largest number of 32 bits, which is none of these.
const TOO_MUCH: u64 = u32::MAX as u64 * 8;

fn rate(fields: &Fields<'_>, rate: &str, burst: &str) -> Result<Option<Rate>> {
    let (bits, burst_bits) = (fields.number(rate)?.unwrap_or(0), fields.number(burst)?.unwrap_or(0));
    match (bits, burst_bits) {
        (0, 0) => Ok(None),
        (0, _) => Err(CniError::config(
            &fields.name(rate),
            0,
            &format!("does not go with a {burst}: give both or none"),
        )),
        (_, 0) => Err(CniError::config(
            &fields.name(burst),
            0,
            &format!("does not go with a {rate}: give both or none"),
        )),
        (_, TOO_MUCH..) => Err(CniError::config(
            &fields.name(burst),
            burst_bits,
            &format!("must be less than {TOO_MUCH} bits"),
        )),
        (1..8, _) => Err(CniError::config(&fields.name(rate), bits, "must be 8 bits a second or more")),
        _ => Ok(Some(Rate {
            bytes: bits / 8,
            burst: u32::try_from(burst_bits / 8).unwrap_or(u32::MAX).max(1),
        })),
    }
}

/// What the fields of `bandwidth` say.
pub(crate) fn read(fields: &Fields<'_>) -> Result<Limits> {
    Ok(Limits {
        ingress: rate(fields, "ingressRate", "ingressBurst")?,
        egress: rate(fields, "egressRate", "egressBurst")?,
    })
}

/// The runtime's go before those of the configuration.
pub(super) fn limits(request: &Request) -> Result<Limits> {
    let fields = request.config.fields();
    let runtime = fields.object("runtimeConfig")?;
    read(&if runtime.get("bandwidth").is_some() { runtime.object("bandwidth")? } else { fields })
}

/// The name of the link through which what the container sends goes.
fn ifb_name(request: &Request) -> String {
    let name = host_name(&key(&request.config.name, &request.owner()));
    name.replacen("veth", "bwp", 1)
}

/// The host's end of the container's link.
fn host_end(node: &mut Handle, request: &Request, previous: &CniResult) -> Result<Link> {
    let netns = request.open_netns()?;
    let inside = netns::within(netns.as_fd(), || Handle::open()?.link(&request.ifname))??;
    let peer = inside.and_then(|link| link.peer);
    let links = node.links()?;
    let said =
        |link: &&Link| previous.interfaces.iter().any(|one| one.sandbox.is_empty() && one.name == link.name);
    let found = links
        .iter()
        .filter(|link| Some(link.index) == peer && link.kind.as_deref() == Some("veth"))
        .find(said);
    found.cloned().ok_or_else(|| {
        let msg = format!("{} is no veth link with an end on the host: bandwidth needs one", request.ifname);
        CniError::new(Code::InvalidConfig, msg)
    })
}

fn limit(request: &Request, limits: &Limits, result: &mut CniResult) -> Result<()> {
    let mut node = Handle::open()?;
    let host = host_end(&mut node, request, result)?;
    let name = ifb_name(request);
    node.limit(host.index, limits, &NewLink { mtu: Some(host.mtu), ..NewLink::named(&name) })?;
    if limits.egress.is_some() {
        let mac = node.link(&name)?.and_then(|link| link.mac).map(|mac| mac.to_string()).unwrap_or_default();
        result.interfaces.push(Interface { name, mac, sandbox: String::new(), mtu: Some(host.mtu) });
    }
    Ok(())
}

impl Plugin for Bandwidth {
    fn add(&self, request: &Request) -> Result<Value> {
        let limits = limits(request)?;
        let mut result = request.config.needed_previous()?;
        if limits.any()
            && let Err(error) = limit(request, &limits, &mut result)
        {
            // The first error is the one that counts.
            let _ = self.del(request);
            return Err(error);
        }
        Ok(result.to_json(request.config.version))
    }

    fn del(&self, request: &Request) -> Result<()> {
        // What is at the host's end goes with it.
        let mut node = Handle::open()?;
        let name = ifb_name(request);
        match node.link(&name)? {
            Some(_) => Ok(node.delete_link(&name)?),
            None => Ok(()),
        }
    }

    fn check(&self, request: &Request) -> Result<()> {
        let limits = limits(request)?;
        let mut node = Handle::open()?;
        host_end(&mut node, request, &request.config.needed_previous()?)?;
        match limits.egress {
            Some(_) if node.link(&ifb_name(request))?.is_none() => {
                let msg = format!(
                    "the link {} that limits {} is gone: make it anew",
                    ifb_name(request),
                    request.container_id
                );
                Err(CniError::new(Code::Failed, msg))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn gc(&self, request: &Request) -> Result<()> {
        let (network, valid) = (&request.config.name, request.valid()?);
        let keep: Vec<_> =
            valid.iter().map(|owner| host_name(&key(network, owner)).replacen("veth", "bwp", 1)).collect();
        let mut node = Handle::open()?;
        let links = node.links()?;
        // Those whose link is gone redirect nothing: no network has a use for them.
        let stale = links.iter().filter(|link| {
            let twin = link.name.replacen("bwp", "veth", 1);
            link.kind.as_deref() == Some("ifb")
                && link.name.starts_with("bwp")
                && !keep.contains(&link.name)
                && !links.iter().any(|other| other.name == twin)
        });
        stale.cloned().collect::<Vec<_>>().iter().try_for_each(|link| Ok(node.delete_link(&link.name)?))
    }

    fn status(&self, request: &Request) -> Result<()> {
        limits(request).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_and_bursts_go_together_and_are_bits() {
        for (bits, burst, expected) in [
            (0_u64, 0_u64, Ok(None)),
            (8_000_000, 800_000, Ok(Some((1_000_000, 100_000)))),
            (8, 1, Ok(Some((1, 1)))),
            // What containerd writes.
            (8_000_000, 4_294_967_295, Ok(Some((1_000_000, 536_870_911)))),
            (8_000_000, 34_359_738_359, Ok(Some((1_000_000, u32::MAX - 1)))),
            (8_000_000, 34_359_738_360, Err("burst: 34359738360 must be less")),
            (8_000_000, 0, Err("burst: 0 does not go with a rate")),
            (0, 1, Err("rate: 0 does not go with a burst")),
            (7, 1, Err("rate: 7 must be 8 bits")),
        ] {
            let value = json!({ "rate": bits, "burst": burst });
            let found = rate(&Fields::entry(String::new(), &value).unwrap(), "rate", "burst");
            match (found, expected) {
                (Ok(found), Ok(expected)) => {
                    assert_eq!(found.map(|rate| (rate.bytes, rate.burst)), expected, "{value}");
                }
                (Err(error), Err(text)) => assert!(error.msg.contains(text), "{error}"),
                (found, _) => panic!("{value}: {found:?}"),
            }
        }
    }
}
