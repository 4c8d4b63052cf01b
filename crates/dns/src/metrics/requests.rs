//! What is counted of every query.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dyad_net::IpFamily;

use super::{Counter, DURATIONS, Histogram, Registry, SIZES, Scale};
use crate::respond::{Transport, Zone};
use crate::wire::{Name, Rcode, Rtype};

/// Zones that are counted apart.
const ZONES: usize = 4;
/// Types that are counted apart; all others are `other`.
const TYPES: [Rtype; 21] = [
    Rtype::A,
    Rtype::AAAA,
    Rtype::ANY,
    Rtype::AXFR,
    Rtype::CAA,
    Rtype::CNAME,
    Rtype::DNSKEY,
    Rtype::DS,
    Rtype::HINFO,
    Rtype::HTTPS,
    Rtype::IXFR,
    Rtype::MX,
    Rtype::NAPTR,
    Rtype::NS,
    Rtype::NSEC,
    Rtype::PTR,
    Rtype::RRSIG,
    Rtype::SOA,
    Rtype::SRV,
    Rtype::SVCB,
    Rtype::TXT,
];
/// Who answers at once, and has no time to look for a counter.
const PLUGINS: [&str; 2] = [PLUGIN, "cache"];
/// Codes that are counted apart: those of four bits, and BADVERS.
const RCODES: usize = 17;

/// A query and its response.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The zone it belongs to.
    pub zone: Zone,
    /// How it came.
    pub transport: Transport,
    /// By which family.
    pub family: IpFamily,
    /// What was asked for.
    pub rtype: Rtype,
    /// What was answered.
    pub rcode: Rcode,
    /// Bytes of the query.
    pub request_size: usize,
    /// Bytes of the response.
    pub response_size: usize,
    /// How long it took.
    pub took: Duration,
    /// Who answered, by the name of CoreDNS' plugin.
    pub plugin: &'static str,
}

/// Counts queries. What never happens is not shown.
#[derive(Debug)]
pub struct Requests {
    registry: Arc<Registry>,
    server: String,
    zones: [String; ZONES],
    totals: Box<[OnceLock<Counter>]>,
    responses: Box<[OnceLock<Counter>]>,
    durations: [OnceLock<Histogram>; ZONES],
    request_sizes: [OnceLock<Histogram>; ZONES * 2],
    response_sizes: [OnceLock<Histogram>; ZONES * 2],
}

impl Requests {
    /// Nothing yet. `server` is the label, such as `dns://:53`.
    pub fn new(registry: Arc<Registry>, server: &str, domain: &Name) -> Self {
        let empty = |count| (0..count).map(|_| OnceLock::new()).collect();
        Self {
            registry,
            server: server.to_owned(),
            zones: [domain.to_string(), "in-addr.arpa.".into(), "ip6.arpa.".into(), ".".into()],
            totals: empty(ZONES * 4 * (TYPES.len() + 1)),
            responses: empty(ZONES * PLUGINS.len() * RCODES),
            durations: [const { OnceLock::new() }; ZONES],
            request_sizes: [const { OnceLock::new() }; ZONES * 2],
            response_sizes: [const { OnceLock::new() }; ZONES * 2],
        }
    }

    /// Counts one.
    pub fn count(&self, request: &Request) {
        let zone = match request.zone {
            Zone::Cluster => 0,
            Zone::Reverse(IpFamily::V4) => 1,
            Zone::Reverse(IpFamily::V6) => 2,
            Zone::Root => 3,
        };
        let (proto, proto_at) = match request.transport {
            Transport::Udp => ("udp", 0),
            Transport::Tcp => ("tcp", 1),
        };
        let (family, family_at) = match request.family {
            IpFamily::V4 => ("1", 0),
            IpFamily::V6 => ("2", 1),
        };
        let kind = TYPES.iter().position(|rtype| *rtype == request.rtype);
        let here = [("server", &*self.server), ("zone", &*self.zones[zone]), ("view", "")];
        let labels = |more: &[(&'static str, &'static str)]| [&here[..], more].concat();

        let at = ((zone * 2 + proto_at) * 2 + family_at) * (TYPES.len() + 1) + kind.unwrap_or(TYPES.len());
        let total = self.totals[at].get_or_init(|| {
            let kind = kind.and_then(|at| TYPES[at].name()).unwrap_or("other");
            let help = "Counter of DNS requests made per zone, protocol and family.";
            let labels = labels(&[("proto", proto), ("family", family), ("type", kind)]);
            self.registry.counter("coredns_dns_requests_total", help, &labels)
        });
        total.increment();
        let code = usize::from(request.rcode.0);
        let response = || {
            let help = "Counter of response status codes.";
            let labels =
                labels(&[("rcode", request.rcode.name().unwrap_or("other")), ("plugin", request.plugin)]);
            self.registry.counter("coredns_dns_responses_total", help, &labels)
        };
        // The slow path has many plugins, and time.
        match PLUGINS.iter().position(|plugin| *plugin == request.plugin) {
            Some(plugin) if code < RCODES => {
                let slot = &self.responses[(zone * PLUGINS.len() + plugin) * RCODES + code];
                slot.get_or_init(response).increment();
            }
            _ => response().increment(),
        }
        let duration = self.durations[zone].get_or_init(|| {
            let (name, help) = (
                "coredns_dns_request_duration_seconds",
                "Histogram of the time (in seconds) each request took per zone.",
            );
            self.registry.histogram(name, help, &here, Scale::Nanoseconds, &DURATIONS)
        });
        duration.observe(u64::try_from(request.took.as_nanos()).unwrap_or(u64::MAX));
        for (sizes, name, help, size) in [
            (
                &self.request_sizes,
                "coredns_dns_request_size_bytes",
                "Size of the EDNS0 UDP buffer in bytes (64K for TCP) per zone and protocol.",
                request.request_size,
            ),
            (
                &self.response_sizes,
                "coredns_dns_response_size_bytes",
                "Size of the returned response in bytes.",
                request.response_size,
            ),
        ] {
            let sizes = sizes[zone * 2 + proto_at].get_or_init(|| {
                self.registry.histogram(name, help, &labels(&[("proto", proto)]), Scale::One, &SIZES)
            });
            sizes.observe(size as u64);
        }
    }
}

/// Who answers from the snapshot.
pub(crate) const PLUGIN: &str = "kubernetes";
