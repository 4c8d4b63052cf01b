//! Which of a node's addresses others come to it by: stable, known everywhere, and the node's own.
//!
//! kubelets report one family only unless they are told more, and routes between nodes need every family there is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dyad_links::{Address, Handle, Link, OURS, Route};
use dyad_net::{IpFamily, IpNet};

use crate::config::Config;

/// What links are called that others make for their pods and machines, or for addresses of Services.
const OTHERS: [&str; 16] = [
    "docker",
    "br-",
    "veth",
    "cni",
    "cali",
    "flannel",
    "cilium",
    "lxc",
    "weave",
    "kube-",
    "virbr",
    "podman",
    "nodelocaldns",
    "dummy",
    "dyad",
    "vxlan",
];

/// What is known of where addresses are.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) addresses: Vec<Address>,
    pub(crate) links: Vec<Link>,
    pub(crate) routes: Vec<Route>,
}

/// What is said of which ones to take.
#[derive(Debug)]
pub(crate) struct Wishes<'a> {
    /// By whoever runs the cluster: these, where the node has them.
    pub(crate) said: &'a [IpAddr],
    /// By the kubelet.
    pub(crate) reported: &'a [IpAddr],
    /// What was chosen before.
    pub(crate) before: &'a [IpAddr],
    /// Addresses of Services, which move.
    pub(crate) virtual_ips: &'a BTreeSet<IpAddr>,
    /// Ranges of pods and Services.
    pub(crate) ranges: &'a [IpNet],
}

impl Seen {
    pub(crate) fn read(kernel: &mut Handle) -> dyad_links::Result<Self> {
        Ok(Self { addresses: kernel.addresses()?, links: kernel.links()?, routes: kernel.all_routes()? })
    }

    fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    /// Whether this link is a way out.
    fn leads_out(&self, link: u32, family: IpFamily) -> bool {
        let is_default = |route: &&Route| route.destination == family.everything();
        self.routes.iter().filter(is_default).any(|route| route.hops.iter().any(|hop| hop.link == link))
    }

    /// Whether an address is one that keepalived and others add beside a real one: its prefix is itself alone.
    fn is_beside(&self, of: &Address) -> bool {
        let bits = IpFamily::from(of.net).bits();
        let real = |other: &&Address| {
            other.link == of.link
                && IpFamily::from(other.net) == IpFamily::from(of.net)
                && other.global
                && other.net.prefix_len() < bits
        };
        of.net.prefix_len() == bits && self.addresses.iter().any(|other| real(&other))
    }

    fn is_fit(&self, of: &Address, config: &Config, wishes: &Wishes<'_>) -> bool {
        let Some(link) = self.link(of.link) else { return false };
        let ip = of.net.addr();
        let allowed = config.address_links.is_empty()
            || config.address_links.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => link.name.starts_with(start),
                None => link.name == *pattern,
            });
        let within = |ranges: &[IpNet]| ranges.iter().any(|range| range.contains(&ip));
        let is_others =
            config.address_links.is_empty() && OTHERS.iter().any(|start| link.name.starts_with(start));
        link.up
            && of.global
            && allowed
            && !is_others
            && !ip.is_loopback()
            && (config.address_ranges.is_empty() || within(&config.address_ranges))
            && !of.is_temporary()
            && !of.is_deprecated()
            && !of.is_unusable()
            && of.protocol != OURS
            && !within(wishes.ranges)
            && !wishes.virtual_ips.contains(&ip)
            && !self.is_beside(of)
    }

    /// One address of each family there is, IPv4 first, but the family of what the kubelet reports first before it.
    pub(crate) fn choose(&self, config: &Config, wishes: &Wishes<'_>) -> Vec<IpAddr> {
        let first = wishes.reported.first().map_or(IpFamily::V4, |ip| IpFamily::from(*ip));
        let of_family = |family: IpFamily| {
            let of_family = self.addresses.iter().filter(|of| IpFamily::from(of.net) == family);
            let fit = of_family
                .filter(|of| wishes.said.contains(&of.net.addr()) || self.is_fit(of, config, wishes));
            let rank = |of: &&Address| {
                let ip = of.net.addr();
                let not_in = |list: &[IpAddr]| !list.contains(&ip);
                (
                    not_in(wishes.said),
                    not_in(wishes.reported),
                    not_in(wishes.before),
                    !self.leads_out(of.link, family),
                    !is_global(ip),
                    of.link,
                    ip,
                )
            };
            fit.min_by_key(rank).map(|of| of.net.addr())
        };
        [first, first.other()].into_iter().filter_map(of_family).collect()
    }
}

/// Global before private, where there are both.
fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => ip.segments()[0] & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use dyad_net::DualStack;

    use super::*;

    const TEMPORARY: u32 = 0x01;
    const DEPRECATED: u32 = 0x20;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            kind: None,
            mac: None,
            mtu: 1500,
            up: true,
            carrier: true,
            master: None,
            peer: None,
            group: 0,
            alias: None,
            queue: None,
        }
    }

    fn address(link: u32, net: &str, flags: u32) -> Address {
        let net: IpNet = net.parse().unwrap();
        let is_link_local = matches!(net, IpNet::V6(net) if net.addr().segments()[0] == 0xfe80);
        Address { link, net, flags, global: !net.addr().is_loopback() && !is_link_local, protocol: 0 }
    }

    fn seen() -> Seen {
        let default = |via: &str, link| Route {
            protocol: 9,
            ..Route::via(
                IpFamily::from(via.parse::<IpAddr>().unwrap()).everything(),
                via.parse().unwrap(),
                link,
            )
        };
        Seen {
            links: [(1, "lo"), (2, "eth0"), (3, "eth1"), (4, "docker0")]
                .map(|(index, name)| link(index, name))
                .into(),
            addresses: vec![
                address(1, "127.0.0.1/8", 0),
                address(2, "198.51.100.200/32", 0),
                address(2, "198.51.100.5/24", 0),
                address(2, "fe80::5/64", 0),
                address(2, "2001:db8::aaaa/64", TEMPORARY),
                address(2, "2001:db8::bbbb/64", DEPRECATED),
                address(2, "fd00::5/64", 0),
                address(2, "2001:db8::5/64", 0),
                address(3, "10.0.0.5/24", 0),
                address(3, "2001:db8:1::5/64", 0),
                address(4, "172.17.0.1/16", 0),
            ],
            routes: vec![default("198.51.100.1", 2), default("fe80::1", 2)],
        }
    }

    #[test]
    fn an_address_is_one_that_stays_and_that_others_know() {
        let ips =
            |text: &str| -> Vec<IpAddr> { text.split_whitespace().map(|ip| ip.parse().unwrap()).collect() };
        let pods = DualStack::single(IpFamily::V4, IpFamily::V4.everything());
        let base = Config::beside_cni("me", pods);
        let links = |names: &[&str]| Config {
            address_links: names.iter().map(|name| (*name).to_owned()).collect(),
            ..base.clone()
        };
        let within = |range: &str| Config { address_ranges: vec![range.parse().unwrap()], ..base.clone() };
        for (what, config, said, reported, before, vips, expected) in [
            ("what leads out", base.clone(), "", "", "", "", "198.51.100.5 2001:db8::5"),
            (
                "the kubelet's word, and its family first",
                base.clone(),
                "",
                "2001:db8:1::5",
                "",
                "",
                "2001:db8:1::5 198.51.100.5",
            ),
            ("what it was stays", base.clone(), "", "", "10.0.0.5 fd00::5", "", "10.0.0.5 fd00::5"),
            ("what it was and is no more", base.clone(), "", "", "10.0.0.77", "", "198.51.100.5 2001:db8::5"),
            (
                "temporary, though reported",
                base.clone(),
                "",
                "2001:db8::aaaa",
                "",
                "",
                "2001:db8::5 198.51.100.5",
            ),
            (
                "somebody says so, whatever it is",
                base.clone(),
                "2001:db8::aaaa 172.17.0.1",
                "198.51.100.5",
                "",
                "",
                "172.17.0.1 2001:db8::aaaa",
            ),
            (
                "somebody says what is not there",
                base.clone(),
                "192.0.2.9",
                "",
                "",
                "",
                "198.51.100.5 2001:db8::5",
            ),
            (
                "addresses of Services",
                base.clone(),
                "",
                "",
                "",
                "198.51.100.5 2001:db8::5",
                "10.0.0.5 fd00::5",
            ),
            ("links", links(&["eth1"]), "", "", "", "", "10.0.0.5 2001:db8:1::5"),
            ("links by how they begin", links(&["dock*"]), "", "", "", "", "172.17.0.1"),
            ("a prefix", within("10.0.0.0/8"), "", "", "", "", "10.0.0.5"),
        ] {
            let (said, reported, before) = (ips(said), ips(reported), ips(before));
            let virtual_ips = ips(vips).into_iter().collect();
            let wishes = Wishes {
                said: &said,
                reported: &reported,
                before: &before,
                virtual_ips: &virtual_ips,
                ranges: &[],
            };
            assert_eq!(seen().choose(&config, &wishes), ips(expected), "{what}");
        }
    }
}
