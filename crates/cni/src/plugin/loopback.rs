//! `loopback`: sets the loopback link of a container up.

use std::os::fd::{AsFd, OwnedFd};

use dyad_links::{Handle, LinkChange, netns};
use dyad_net::IpNet;
use serde_json::Value;

use super::Plugin;
use crate::result::{Interface, Ip};
use crate::{CniError, CniResult, Code, Request, Result};

const LO: &str = "lo";

pub(super) struct Loopback;

fn set(netns: &OwnedFd, up: bool) -> Result<()> {
    let change = || {
        let mut handle = Handle::open()?;
        let index = handle.index(LO)?;
        handle.change_link(index, &LinkChange { up: Some(up), ..LinkChange::default() })
    };
    Ok(netns::within(netns.as_fd(), change)??)
}

/// The addresses of the link, which the kernel gives to it.
fn addresses(netns: &OwnedFd) -> Result<Vec<IpNet>> {
    let read = || {
        let mut handle = Handle::open()?;
        let index = handle.index(LO)?;
        let addresses = handle.addresses()?.into_iter();
        Ok::<_, dyad_links::Error>(addresses.filter(|at| at.link == index).map(|at| at.net).collect())
    };
    Ok(netns::within(netns.as_fd(), read)??)
}

impl Plugin for Loopback {
    fn add(&self, request: &Request) -> Result<Value> {
        let netns = request.open_netns()?;
        set(&netns, true)?;
        if let Some(previous) = request.config.previous()? {
            return Ok(previous.to_json(request.config.version));
        }
        let ip = |address| Ip { address, gateway: None, interface: Some(0) };
        let sandbox = request.netns.to_string_lossy().into_owned();
        let lo = Interface { name: LO.into(), mac: "00:00:00:00:00:00".into(), sandbox, mtu: None };
        let ips = addresses(&netns)?.into_iter().map(ip).collect();
        let result = CniResult { interfaces: vec![lo], ips, ..CniResult::default() };
        Ok(result.to_json(request.config.version))
    }

    fn del(&self, request: &Request) -> Result<()> {
        match request.netns_if_there() {
            Some(netns) => set(&netns, false),
            None => Ok(()),
        }
    }

    fn check(&self, request: &Request) -> Result<()> {
        let netns = request.open_netns()?;
        let link = netns::within(netns.as_fd(), || Handle::open()?.link(LO))??;
        match link.is_some_and(|link| link.up) {
            true => Ok(()),
            false => {
                let msg = format!("the loopback link of container {} is down", request.container_id);
                Err(CniError::new(Code::Failed, msg))
            }
        }
    }

    fn gc(&self, _: &Request) -> Result<()> {
        Ok(())
    }

    fn status(&self, _: &Request) -> Result<()> {
        Ok(())
    }
}
