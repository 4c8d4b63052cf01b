//! Routes.

use std::net::IpAddr;

use dyad_net::{IpFamily, IpNet};

use crate::error::absent_is_fine;
use crate::wire::{self, Message, NLM_F_CREATE, NLM_F_REPLACE};
use crate::{Handle, Result};

/// The protocol number of every route, and of every claimed address, this project adds: what carries it is ours to change and delete, and nothing
/// else is. Free in `rtnetlink.h` and in iproute2's `rt_protos`.
pub const OURS: u8 = 214;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RTNH_F_ONLINK: u32 = 4;
const RTM_F_CLONED: u32 = 0x200;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
const SCOPE_NOWHERE: u8 = 255;
const TABLE_MAIN: u32 = 254;
/// What the kernel gives an IPv6 route that asks for no metric.
const IP6_RT_PRIO_USER: u32 = 1024;
/// Length of `rtmsg`.
const FIXED: usize = 12;
/// Length of `rtnexthop`.
const HOP_FIXED: usize = 8;

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RouteKind {
    /// Send it on.
    Unicast = 1,
    /// It is for this host.
    Local = 2,
    /// Drop it silently.
    Blackhole = 6,
    /// Refuse it: host unreachable.
    Unreachable = 7,
    /// Refuse it: administratively prohibited.
    Prohibit = 8,
}

impl RouteKind {
    const ALL: [Self; 5] = [Self::Unicast, Self::Local, Self::Blackhole, Self::Unreachable, Self::Prohibit];
}

/// One way to a destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// The gateway; `None` when the destination is on the link. May be of the other family (RFC 5549).
    pub via: Option<IpAddr>,
    /// Index of the link; zero lets the kernel find it from the gateway.
    pub link: u32,
    /// Take the gateway to be on the link even if no route says so.
    pub onlink: bool,
    /// Share among several ways, 1 to 256.
    pub weight: u16,
}

/// A route.
///
/// What is listed equals what was given to [`Handle::replace_route`] if that named its links: equality with the
/// intent is the test.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Where to; a prefix of length zero is the default route.
    pub destination: IpNet,
    /// The routing table, 254 being the main one.
    pub table: u32,
    /// Who added it; [`OURS`] for us.
    pub protocol: u8,
    /// What it does.
    pub kind: RouteKind,
    /// Lower wins; zero is the kernel's default of the family.
    pub metric: u32,
    /// The source address for connections of this host.
    pub source: Option<IpAddr>,
    /// Largest packet in bytes; zero is that of the link.
    pub mtu: u32,
    /// The ways, empty for kinds that send nothing.
    pub hops: Vec<NextHop>,
}

impl Route {
    /// Ours, to `destination` on the link itself.
    pub fn on_link(destination: IpNet, link: u32) -> Self {
        let hops = vec![NextHop { via: None, link, onlink: false, weight: 1 }];
        Self {
            destination: destination.trunc(),
            table: TABLE_MAIN,
            protocol: OURS,
            kind: RouteKind::Unicast,
            metric: 0,
            source: None,
            mtu: 0,
            hops,
        }
    }

    /// Ours, to `destination` through `gateway` on `link` (zero: wherever the gateway is).
    pub fn via(destination: IpNet, gateway: IpAddr, link: u32) -> Self {
        let mut route = Self::on_link(destination, link);
        route.hops[0].via = Some(gateway);
        route
    }

    /// Ours, of a kind that sends nothing.
    pub fn refusing(destination: IpNet, kind: RouteKind) -> Self {
        let hops = Vec::new();
        Self { kind, hops, ..Self::on_link(destination, 0) }
    }

    /// The same with the gateways taken to be on their links.
    pub fn onlink(mut self) -> Self {
        self.hops.iter_mut().for_each(|hop| hop.onlink = true);
        self
    }

    /// The same with a source address for this host's own connections.
    pub fn from_source(mut self, source: Option<IpAddr>) -> Self {
        self.source = source;
        self
    }

    fn family(&self) -> IpFamily {
        IpFamily::from(self.destination)
    }

    /// IPv4 wants to be told how far the destination is; IPv6 ignores it.
    fn scope(&self) -> u8 {
        let direct = self.hops.iter().all(|hop| hop.via.is_none());
        match (self.family(), self.kind) {
            (IpFamily::V4, RouteKind::Local) => SCOPE_HOST,
            (IpFamily::V4, RouteKind::Unicast) if direct => SCOPE_LINK,
            (IpFamily::V4 | IpFamily::V6, _) => SCOPE_UNIVERSE,
        }
    }

    fn fixed(&self, scope: u8, kind: u8, flags: u32) -> [u8; FIXED] {
        let short_table = u8::try_from(self.table).unwrap_or(0);
        let (family, prefix) = (wire::af(self.family()), self.destination.prefix_len());
        let mut fixed = [family, prefix, 0, 0, short_table, self.protocol, scope, kind, 0, 0, 0, 0];
        fixed[8..].copy_from_slice(&flags.to_ne_bytes());
        fixed
    }

    fn start(&self, message_kind: u16, flags: u16, fixed: &[u8]) -> Message {
        let mut message = Message::new(message_kind, flags, fixed);
        message.put_ip(RTA_DST, self.destination.addr());
        message.put_u32(RTA_TABLE, self.table);
        if self.metric != 0 {
            message.put_u32(RTA_PRIORITY, self.metric);
        }
        message
    }

    fn add_message(&self, flags: u16) -> Message {
        let single = if let [hop] = &self.hops[..] { Some(hop) } else { None };
        let onlink = if single.is_some_and(|hop| hop.onlink) { RTNH_F_ONLINK } else { 0 };
        let fixed = self.fixed(self.scope(), self.kind as u8, onlink);
        let mut message = self.start(RTM_NEWROUTE, flags, &fixed);
        if let Some(source) = self.source {
            message.put_ip(RTA_PREFSRC, source);
        }
        if self.mtu != 0 {
            message.nest(RTA_METRICS, |metrics| metrics.put_u32(RTAX_MTU, self.mtu));
        }
        match single {
            Some(hop) => {
                if hop.link != 0 {
                    message.put_u32(RTA_OIF, hop.link);
                }
                self.put_gateway(&mut message, hop);
            }
            None if self.hops.is_empty() => {}
            None => message.nest(RTA_MULTIPATH, |list| {
                for hop in &self.hops {
                    let flags = if hop.onlink { RTNH_F_ONLINK as u8 } else { 0 };
                    // The kernel counts additional shares: 0 is a weight of 1.
                    let share = u8::try_from(hop.weight.saturating_sub(1)).unwrap_or(u8::MAX);
                    let [a, b, c, d] = hop.link.to_ne_bytes();
                    list.counted(&[flags, share, a, b, c, d], |hop_message| {
                        self.put_gateway(hop_message, hop)
                    });
                }
            }),
        }
        message
    }

    fn put_gateway(&self, message: &mut Message, hop: &NextHop) {
        match hop.via {
            None => {}
            Some(via) if IpFamily::from(via) == self.family() => message.put_ip(RTA_GATEWAY, via),
            Some(via) => message.nest_raw(RTA_VIA, |value| {
                let mut bytes = u16::from(wire::af(IpFamily::from(via))).to_ne_bytes().to_vec();
                match via {
                    IpAddr::V4(via) => bytes.extend(via.octets()),
                    IpAddr::V6(via) => bytes.extend(via.octets()),
                }
                value.unpadded(&bytes);
            }),
        }
    }

    fn read(body: &[u8]) -> Option<Self> {
        let family = wire::family(*body.first()?)?;
        let (&prefix, &short_table, &protocol, &kind) =
            (body.get(1)?, body.get(4)?, body.get(5)?, body.get(7)?);
        let flags = wire::u32_at(body, 8)?;
        if flags & RTM_F_CLONED != 0 {
            return None;
        }
        let kind = RouteKind::ALL.into_iter().find(|&known| known as u8 == kind)?;
        let (mut destination, mut table, mut metric) = (wire::unspecified(family), u32::from(short_table), 0);
        let (mut source, mut mtu, mut hops) = (None, 0, Vec::new());
        let mut single = NextHop { via: None, link: 0, onlink: flags & RTNH_F_ONLINK != 0, weight: 1 };
        for (attribute, value) in wire::attributes(body.get(FIXED..)?) {
            match attribute {
                RTA_DST => destination = wire::ip(value)?,
                RTA_TABLE => table = wire::u32_at(value, 0)?,
                RTA_PRIORITY => metric = wire::u32_at(value, 0)?,
                RTA_PREFSRC => source = wire::ip(value),
                RTA_OIF => single.link = wire::u32_at(value, 0)?,
                RTA_GATEWAY => single.via = wire::ip(value),
                RTA_VIA => single.via = value.get(2..).and_then(wire::ip),
                RTA_METRICS => {
                    let mut metrics = wire::attributes(value);
                    mtu = metrics
                        .find(|(kind, _)| *kind == RTAX_MTU)
                        .and_then(|(_, value)| wire::u32_at(value, 0))
                        .unwrap_or(0);
                }
                RTA_MULTIPATH => hops = read_hops(value),
                _ => {}
            }
        }
        if hops.is_empty() && matches!(kind, RouteKind::Unicast | RouteKind::Local) {
            hops.push(single);
        }
        if family == IpFamily::V6 && metric == IP6_RT_PRIO_USER {
            metric = 0;
        }
        let destination = IpNet::new(destination, prefix).ok()?;
        Some(Self { destination, table, protocol, kind, metric, source, mtu, hops })
    }
}

fn read_hops(mut bytes: &[u8]) -> Vec<NextHop> {
    std::iter::from_fn(|| {
        let length = usize::from(wire::u16_at(bytes, 0)?);
        let (&flags, &share, link) = (bytes.get(2)?, bytes.get(3)?, wire::u32_at(bytes, 4)?);
        let onlink = u32::from(flags) & RTNH_F_ONLINK != 0;
        let mut hop = NextHop { via: None, link, onlink, weight: u16::from(share) + 1 };
        for (kind, value) in wire::attributes(bytes.get(HOP_FIXED..length)?) {
            match kind {
                RTA_GATEWAY => hop.via = wire::ip(value),
                RTA_VIA => hop.via = value.get(2..).and_then(wire::ip),
                _ => {}
            }
        }
        bytes = bytes.get((length + 3) & !3..).unwrap_or_default();
        Some(hop)
    })
    .collect()
}

impl Handle {
    /// All routes of both families in all tables that were added by `protocol`.
    pub fn routes(&mut self, protocol: u8) -> Result<Vec<Route>> {
        let mut found = self.all_routes()?;
        found.retain(|route| route.protocol == protocol);
        Ok(found)
    }

    /// All routes of both families in all tables, whoever added them.
    pub fn all_routes(&mut self) -> Result<Vec<Route>> {
        let mut found = Vec::new();
        for family in IpFamily::BOTH {
            let mut fixed = [0; FIXED];
            fixed[0] = wire::af(family);
            let build = |flags| Message::new(RTM_GETROUTE, flags, &fixed);
            found.extend(self.dump("listing routes", RTM_NEWROUTE, build, Route::read)?);
        }
        Ok(found)
    }

    /// Sets a route, in place of one to the same destination with the same table and metric.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        let what = || format!("adding route {}", route.destination);
        self.request(what, |flags| route.add_message(flags | NLM_F_CREATE | NLM_F_REPLACE))
    }

    /// Deletes the route with this destination, table, protocol and metric, whatever its ways are.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let what = || format!("deleting route {}", route.destination);
        absent_is_fine(
            self.request(what, |flags| route.start(RTM_DELROUTE, flags, &route.fixed(SCOPE_NOWHERE, 0, 0))),
        )
    }
}
