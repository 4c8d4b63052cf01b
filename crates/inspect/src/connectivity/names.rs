//! The questions to the cluster's DNS: what the cluster has in, targets of the probe out, and which hop lost an answer. Pure.

use std::net::{IpAddr, SocketAddr};

use dyad_net::IpFamily;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::objects::PORT;
use super::plan::{addresses, of_family};

/// Where the cluster's DNS is, in every cluster.
pub(super) const NAMESPACE: &str = "kube-system";
/// Its Service.
pub(super) const SERVICE: &str = "kube-dns";
/// The port of name servers.
const DNS_PORT: u16 = 53;
/// Name of its port for UDP; the pods may have another number there.
const PORT_NAME: &str = "dns";

/// Who answers for names.
#[derive(Debug)]
pub(super) struct Dns {
    service: Vec<IpAddr>,
    /// The pods behind it.
    pods: Vec<SocketAddr>,
}

impl Dns {
    pub(super) fn read(service: &Service, slices: &[EndpointSlice]) -> Self {
        let mut pods = Vec::new();
        for slice in slices {
            let ports = slice.ports.iter().flatten();
            let mut named = ports.filter(|port| port.name.as_deref() == Some(PORT_NAME));
            let port = named.find_map(|port| u16::try_from(port.port?).ok()).unwrap_or(DNS_PORT);
            let ips = slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses);
            pods.extend(ips.filter_map(|ip| Some(SocketAddr::new(ip.parse().ok()?, port))));
        }
        Self { service: addresses(service), pods }
    }

    /// Where it is asked in a family.
    pub(super) fn server(&self, family: IpFamily) -> Option<SocketAddr> {
        of_family(&self.service, family).map(|ip| SocketAddr::new(ip, DNS_PORT))
    }

    fn pods(&self, family: IpFamily) -> String {
        let pods = self.pods.iter().filter(|pod| IpFamily::from(pod.ip()) == family);
        pods.map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

/// A name outside the cluster and all its addresses.
#[derive(Clone, Debug)]
pub struct OutsideName {
    /// The name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Address(IpFamily),
    Srv,
    Ptr,
    Headless,
    Tcp,
    Search,
    Outside,
    /// An IPv6 address made for a name that has none.
    Synthesised,
}

impl Question {
    pub(super) const ALL: [Self; 9] = [
        Self::Address(IpFamily::V4),
        Self::Address(IpFamily::V6),
        Self::Srv,
        Self::Ptr,
        Self::Headless,
        Self::Tcp,
        Self::Search,
        Self::Outside,
        Self::Synthesised,
    ];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Address(IpFamily::V4) => "DNS, A of a Service",
            Self::Address(IpFamily::V6) => "DNS, AAAA of a Service",
            Self::Srv => "DNS, SRV of a Service",
            Self::Ptr => "DNS, PTR of a Service",
            Self::Headless => "DNS, headless Service",
            Self::Tcp => "DNS over TCP",
            Self::Search => "DNS, search path of the pod",
            Self::Outside => "DNS, name outside",
            Self::Synthesised => "DNS64, name outside with IPv4 only",
        }
    }

    /// Whether other name servers are asked for it.
    const fn is_forwarded(self) -> bool {
        matches!(self, Self::Outside | Self::Synthesised)
    }

    /// Whether a cluster with a DNS would be asked.
    pub(super) fn concerns(self, world: &World<'_>) -> bool {
        match self {
            Self::Outside => !world.outside.is_empty(),
            Self::Synthesised => !world.outside.is_empty() && world.has_only_v6,
            _ => true,
        }
    }

    /// What the probe is told to ask at the address of `family`; nothing where there is no such name.
    pub(super) fn target(self, dns: &Dns, world: &World<'_>, family: IpFamily) -> Option<String> {
        let service = format!("{}.{}.svc", world.name, world.namespace);
        let of = |ips: &[IpAddr], family| texts(ips.iter().filter(|ip| IpFamily::from(**ip) == family));
        let outside = |family: IpFamily| {
            let only = |known: &&OutsideName| known.addresses.iter().all(|ip| IpFamily::from(*ip) == family);
            let known = world.outside.iter().find(only)?;
            Some((format!("{}.", known.name), texts(known.addresses.iter())))
        };
        let own = address_type(family);
        let (protocol, rtype, name, expected) = match self {
            Self::Address(family) => ("dns", address_type(family), service, of(world.service, family)),
            Self::Srv => ("dns", "SRV", format!("_tcp._tcp.{service}"), format!("{PORT} {service}")),
            Self::Ptr => {
                let ip = of_family(world.service, family)?;
                ("dns", "PTR", dyad_dns::reverse::name(ip).to_string(), service)
            }
            Self::Headless => {
                let name = format!("{}.{}.svc", world.headless, world.namespace);
                ("dns", own, name, of(world.endpoints, family))
            }
            Self::Tcp => ("dns-tcp", own, service, of(world.service, family)),
            Self::Search => ("dns-search", own, world.name.to_owned(), of(world.service, family)),
            Self::Outside => {
                let (name, expected) = outside(family)?;
                ("dns", own, name, expected)
            }
            Self::Synthesised => {
                let (name, expected) = outside(IpFamily::V4)?;
                ("dns64", own, name, expected)
            }
        };
        let server = dns.server(family)?;
        Some(format!("{protocol}://{server}/{rtype}/{name}/{expected}/{}", dns.pods(family)))
    }
}

/// What there are names of.
pub(super) struct World<'a> {
    /// The namespace of the Services.
    pub(super) namespace: &'a str,
    /// A Service.
    pub(super) name: &'a str,
    /// Its addresses.
    pub(super) service: &'a [IpAddr],
    /// A headless one.
    pub(super) headless: &'a str,
    /// The addresses of its endpoints.
    pub(super) endpoints: &'a [IpAddr],
    /// Names that are not the cluster's.
    pub(super) outside: &'a [OutsideName],
    /// Whether pods have no IPv4, so that they need other addresses for names with IPv4 only.
    pub(super) has_only_v6: bool,
}

fn texts<'a>(ips: impl Iterator<Item = &'a IpAddr>) -> String {
    ips.map(ToString::to_string).collect::<Vec<_>>().join(",")
}

const fn address_type(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "A",
        IpFamily::V6 => "AAAA",
    }
}

/// What is known of a failure besides itself.
pub(super) struct Evidence<'a> {
    pub(super) question: Question,
    /// The DNS pods that fail as well when they are asked directly; `None` if there are none.
    pub(super) pods: Option<&'a [IpAddr]>,
    /// Whether names of the cluster were told in the same family, by the address of the Service.
    pub(super) told: bool,
}

/// The hop that lost an answer to a pod on node `here`, in words.
pub(super) fn lost_at(evidence: &Evidence<'_>, here: &str) -> String {
    if evidence.question == Question::Search && evidence.told {
        return format!("the pod's resolv.conf: {SERVICE} answers at its own address");
    }
    match evidence.pods {
        None => format!("the DNS pods: there are none, see `kubectl -n {NAMESPACE} get endpointslices,pods`"),
        Some([]) => format!("the Service rules of {here}, or its DNS cache: the DNS pods answer"),
        Some(_) if evidence.question.is_forwarded() && evidence.told => {
            "forwarding by the DNS pods, or the name server there: names of the cluster are told".into()
        }
        Some(pods) => {
            let pods = texts(pods.iter()).replace(',', ", ");
            format!("the DNS pods, which fail when they are asked directly: {pods}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hop_follows_from_who_answers() {
        let ip: IpAddr = "10.244.0.3".parse().unwrap();
        let one = [ip];
        let (srv, search, outside) = (Question::Srv, Question::Search, Question::Outside);
        for (question, pods, told, says) in [
            (srv, Some(&[][..]), true, "the Service rules of a"),
            (srv, Some(&one[..]), true, "the DNS pods, which fail"),
            (srv, None, false, "the DNS pods: there are none"),
            (search, Some(&[]), true, "the pod's resolv.conf"),
            (search, Some(&[]), false, "the Service rules of a"),
            (outside, Some(&one), true, "forwarding by the DNS pods"),
            (outside, Some(&one), false, "the DNS pods, which fail"),
            (outside, Some(&[]), true, "the Service rules of a"),
        ] {
            let text = lost_at(&Evidence { question, pods, told }, "a");
            assert!(text.starts_with(says), "{question:?} {pods:?} {told}: {text}");
        }
    }

    #[test]
    fn targets_ask_in_the_family_of_the_server() {
        let ips = |texts: &[&str]| texts.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let service = json!({"spec": {"clusterIPs": ["10.96.0.10", "fd00::a"]}});
        let slice = |kind: &str, ip: &str| json!({"addressType": kind, "endpoints": [{"addresses": [ip]}], "ports": [{"name": "dns", "port": 5353}]});
        let slices = [slice("IPv4", "10.244.0.3"), slice("IPv6", "fd00:1::3")]
            .map(|slice| serde_json::from_value(slice).unwrap());
        let dns = Dns::read(&serde_json::from_value(service).unwrap(), &slices);
        let outside = [
            OutsideName { name: "v4.example".into(), addresses: ips(&["203.0.113.80"]) },
            OutsideName { name: "v6.example".into(), addresses: ips(&["2001:db8::80"]) },
        ];
        let world = |has_only_v6| World {
            namespace: "n",
            name: "web",
            service: if has_only_v6 { &SERVICE_IPS[1..] } else { &SERVICE_IPS },
            headless: "headless",
            endpoints: &[],
            outside: &outside,
            has_only_v6,
        };
        let (v4, v6) = (IpFamily::V4, IpFamily::V6);
        let [a, v4_pod, b, v6_pod] = ["10.96.0.10:53", "10.244.0.3:5353", "[fd00::a]:53", "[fd00:1::3]:5353"];
        #[rustfmt::skip]
        let rows = [
            (Question::Address(v6),  v4, false, format!("dns://{a}/AAAA/web.n.svc/fd00::7/{v4_pod}")),
            (Question::Address(v4),  v6, true,  format!("dns://{b}/A/web.n.svc//{v6_pod}")),
            (Question::Srv,          v4, false, format!("dns://{a}/SRV/_tcp._tcp.web.n.svc/8080 web.n.svc/{v4_pod}")),
            (Question::Ptr,          v4, false, format!("dns://{a}/PTR/7.0.96.10.in-addr.arpa./web.n.svc/{v4_pod}")),
            (Question::Search,       v6, false, format!("dns-search://{b}/AAAA/web/fd00::7/{v6_pod}")),
            (Question::Outside,      v6, false, format!("dns://{b}/AAAA/v6.example./2001:db8::80/{v6_pod}")),
            (Question::Synthesised,  v6, true,  format!("dns64://{b}/AAAA/v4.example./203.0.113.80/{v6_pod}")),
        ];
        for (question, family, has_only_v6, wanted) in rows {
            assert_eq!(question.target(&dns, &world(has_only_v6), family), Some(wanted), "{question:?}");
        }
        assert!(
            Question::Synthesised.concerns(&world(true)) && !Question::Synthesised.concerns(&world(false))
        );
        let nobody = World { outside: &[], ..world(true) };
        assert!(!Question::Outside.concerns(&nobody) && Question::Srv.concerns(&nobody));
    }

    const SERVICE_IPS: [IpAddr; 2] = [
        IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 7)),
        IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7)),
    ];
}
