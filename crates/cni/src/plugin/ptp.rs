//! `ptp`: a container has a link of its own to the host, which is its gateway.

use std::os::fd::AsFd;

use dyad_links::Handle;
use dyad_net::IpFamily;
use serde_json::Value;

use super::Plugin;
use crate::attach::{self, Subnet};
use crate::{CniError, CniResult, Code, Request, Result, host, ipam};

pub(super) struct Ptp;

fn connect(request: &Request, netns: &std::os::fd::OwnedFd, result: &mut CniResult) -> Result<()> {
    let fields = request.config.fields();
    let mut node = Handle::open()?;
    let made = attach::add_veth(&mut node, request, netns, host::mtu(&fields)?, None)?;
    result.interfaces = made.interfaces.into();
    result.ips.iter_mut().for_each(|ip| ip.interface = Some(1));
    host::forward(attach::families(result))?;
    let has_v6 = attach::families(result).any(|family| family == IpFamily::V6);
    attach::set_up(&mut node, &made.host, has_v6)?;
    for ip in &result.ips {
        if let Some(gateway) = ip.gateway {
            node.replace_address(made.host.index, gateway.into())?;
        }
        attach::host_route(&mut node, ip.address.addr(), made.host.index)?;
    }
    attach::configure(request, netns.as_fd(), result, Subnet::BehindGateway)?;
    if attach::wants_masquerade(request)? {
        attach::masquerade(request, result)?;
    }
    attach::dns(request, result);
    Ok(())
}

impl Plugin for Ptp {
    fn add(&self, request: &Request) -> Result<Value> {
        let none = || {
            let msg = "ipam.type is missing: say who gives addresses, as \"host-local\" does";
            Err(CniError::new(Code::InvalidConfig, msg))
        };
        attach::add(request, none, |netns, result| connect(request, netns, result))
    }

    fn del(&self, request: &Request) -> Result<()> {
        ipam::other(request)?;
        attach::detach(request)
    }

    fn check(&self, request: &Request) -> Result<()> {
        ipam::other(request)?;
        host::check_container(request, &request.open_netns()?, &request.config.needed_previous()?)?;
        attach::check(request)
    }

    fn gc(&self, request: &Request) -> Result<()> {
        ipam::other(request)?;
        attach::collect(request)
    }

    fn status(&self, request: &Request) -> Result<()> {
        ipam::other(request)
    }
}
