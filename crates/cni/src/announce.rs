//! Telling a bridge's other containers that an address is here now: who had it before may be in their caches.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use dyad_links::{Handle, LinkChange, netns, sysctl};

use crate::{Request, Result};

/// The kernel opens a port soon after its link has both ends; it is waited for so often and so long.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// Has the kernel send gratuitous ARP (RFC 5227 section 3) and unsolicited neighbour advertisements (RFC 4861 section
/// 7.2.6) for the addresses of a container: as it does, if told to, when a link's Ethernet address is set, even to what
/// it is.
pub(crate) fn announce(node: &mut Handle, port: &str, request: &Request, netns: &OwnedFd) -> Result<()> {
    for _ in 0..ATTEMPTS {
        if node.is_operational(port)?.unwrap_or(true) {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    netns::within(netns.as_fd(), || {
        let mut handle = Handle::open()?;
        let Some(link) = handle.link(&request.ifname)? else { return Ok(()) };
        let switches = [("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")]
            .map(|(family, key)| format!("net/{family}/conf/{}/{key}", request.ifname));
        let before = switches.each_ref().map(|key| sysctl::read(key).ok());
        // A kernel without a family has no switch, and nobody to tell.
        switches.iter().for_each(|key| drop(sysctl::write(key, "1")));
        let told = handle.change_link(link.index, &LinkChange { mac: link.mac, ..LinkChange::default() });
        for (key, value) in switches.iter().zip(before) {
            let _ = value.map(|value| sysctl::write(key, &value));
        }
        Ok(told?)
    })?
}
