//! Who connects to whom: facts of the cluster in, probe targets out, outcomes in, rows out. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dyad_net::IpFamily;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use serde_json::{Value, json};

use super::diagnose::{Evidence, lost_at};
use super::names::{self, Dns, Question, World};
use super::objects::{HOST_PORT, PORT, selects, selects_all};
use super::report::{Cell, Report, Row, Untested};
use super::{Options, TestError};
use crate::explain::POD_RANGES;
use crate::probe::Outcome;

/// The client that is a plain pod.
pub(super) const CLIENT: &str = "client";
/// The client that shares a pod with the server of the Service it asks.
pub(super) const SELF: &str = "self";
/// The plain pod that tries what Services and policies can do.
pub(super) const FEATURES: &str = "features";
/// The plain pod that asks for names.
pub(super) const NAMES: &str = "names";
/// The client that is a process of the node.
pub(super) const HOST: &str = "host";
const LOAD_BALANCER: &str = "pod to LoadBalancer";
/// A port nobody listens on: any answer to it shows that its host is reached.
const DISCARD: u16 = 9;

/// Where a server is, seen from the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// On the clients' node.
    Here,
    /// On another node.
    There,
    /// In the very pod.
    Own,
}

/// The families of a node's pods, the primary one first.
fn pod_families(node: &Node) -> Vec<IpFamily> {
    let own = node.metadata.annotations.as_ref().and_then(|all| all.get(POD_RANGES));
    let of_node = || node.spec.as_ref().and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
    let ranges = own.map_or_else(of_node, |text| text.split(',').map(str::to_owned).collect());
    let mut families = Vec::new();
    for range in ranges.iter().filter_map(|range| range.parse::<dyad_net::IpNet>().ok()) {
        if !families.contains(&IpFamily::from(range)) {
            families.push(range.into());
        }
    }
    families
}

/// A Service that shows what Services can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feature {
    /// Keeps a client with one of all servers.
    Sticky,
    /// Node ports that lead to the servers of that node only, and keep the client's address.
    Local,
    /// An address of a load balancer, one that nobody else would serve.
    LoadBalancer,
    /// An external address.
    ExternalIp,
    /// No endpoints at all.
    Nobody,
    /// No address: the name leads to all servers themselves.
    Headless,
}

impl Feature {
    pub(super) const ALL: [Self; 6] =
        [Self::Sticky, Self::Local, Self::LoadBalancer, Self::ExternalIp, Self::Nobody, Self::Headless];

    /// Name of the Service.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sticky => "sticky",
            Self::Local => "local",
            Self::LoadBalancer => "load-balancer",
            Self::ExternalIp => "external-ip",
            Self::Nobody => "nobody",
            Self::Headless => "headless",
        }
    }

    /// What its spec has beyond that of a plain Service; `far` is the server that is asked.
    pub(super) fn spec(self, far: &str, families: &[IpFamily]) -> Value {
        let external: Vec<IpAddr> = families.iter().map(|family| EXTERNAL.address(*family)).collect();
        match self {
            Self::Sticky => json!({"selector": selects_all(), "sessionAffinity": "ClientIP"}),
            Self::Local => json!({"selector": selects_all(), "externalTrafficPolicy": "Local"}),
            Self::LoadBalancer => json!({
                "type": "LoadBalancer", "selector": selects(far), "allocateLoadBalancerNodePorts": false,
                // Nobody's, so that no controller gives it addresses of its own.
                "loadBalancerClass": "dyad.io/connectivity-test",
            }),
            Self::ExternalIp => {
                json!({"type": "ClusterIP", "selector": selects(far), "externalIPs": external})
            }
            Self::Nobody => json!({"type": "ClusterIP"}),
            Self::Headless => json!({"type": "ClusterIP", "clusterIP": "None", "selector": selects_all()}),
        }
    }
}

/// An address of each family, from ranges for documentation that nothing routes.
#[derive(Clone, Copy)]
pub(super) struct Pair(Ipv4Addr, Ipv6Addr);

/// What the test's load balancer would announce.
pub(super) const BALANCED: Pair =
    Pair(Ipv4Addr::new(198, 51, 100, 77), Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x77));
const EXTERNAL: Pair =
    Pair(Ipv4Addr::new(198, 51, 100, 78), Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x78));

impl Pair {
    pub(super) fn address(self, family: IpFamily) -> IpAddr {
        match family {
            IpFamily::V4 => self.0.into(),
            IpFamily::V6 => self.1.into(),
        }
    }
}

impl Place {
    /// Name of the server and of its Service.
    pub(super) fn server(self) -> String {
        match self {
            Self::Here => "same-node",
            Self::There => "other-node",
            Self::Own => SELF,
        }
        .into()
    }

    /// Name of the server there that a policy protects.
    pub(super) fn policed(self) -> String {
        format!("policed-{}", self.server())
    }
}

/// What the cluster has.
#[derive(Debug)]
pub(super) struct Facts {
    /// Families to test, the cluster's primary first.
    pub(super) families: Vec<IpFamily>,
    /// Families that pods have.
    cluster: Vec<IpFamily>,
    nodes: Vec<(String, Vec<IpAddr>)>,
    api: Vec<IpAddr>,
    /// Who answers for names, or why nobody does.
    dns: Result<Dns, String>,
    /// Why Services can't be given addresses of a load balancer, if they can't.
    pub(super) no_balancer: Option<String>,
}

impl Facts {
    pub(super) fn read(
        nodes: &[Node],
        services: &[IpFamily],
        api: &Service,
        dns: Result<Dns, String>,
        options: &Options,
    ) -> Result<Self, TestError> {
        let api = addresses(api);
        let mut cluster: Vec<IpFamily> =
            nodes.iter().map(pod_families).find(|families| !families.is_empty()).unwrap_or_default();
        cluster.retain(|family| services.is_empty() || services.contains(family));
        for family in &options.families {
            if !cluster.contains(family) {
                return Err(TestError::Unfit(format!(
                    "the cluster's pods or Services have no {family} addresses"
                )));
            }
        }
        let families = cluster
            .iter()
            .copied()
            .filter(|one| options.families.is_empty() || options.families.contains(one))
            .collect();
        let usable = |node: &&Node| {
            let tainted = node
                .spec
                .as_ref()
                .and_then(|spec| spec.taints.as_ref())
                .is_some_and(|taints| taints.iter().any(|taint| taint.effect == "NoExecute"));
            let ready = node.status.as_ref().and_then(|status| status.conditions.as_ref());
            !tainted
                && ready
                    .is_some_and(|list| list.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
        };
        let nodes: Vec<_> = nodes
            .iter()
            .filter(usable)
            .filter_map(|node| Some((node.metadata.name.clone()?, node_ips(node))))
            .collect();
        if nodes.is_empty() {
            return Err(TestError::Unfit("the cluster has no ready node: see `kubectl get nodes`".into()));
        }
        Ok(Self { families, cluster, nodes, api, dns, no_balancer: None })
    }

    /// The node a server runs on.
    pub(super) fn node(&self, place: Place) -> Option<&str> {
        let index = match place {
            Place::Here | Place::Own => 0,
            Place::There => 1,
        };
        self.nodes.get(index).map(|(name, _)| name.as_str())
    }

    /// The farthest place that there is a node for.
    pub(super) fn far(&self) -> Place {
        if self.node(Place::There).is_some() { Place::There } else { Place::Here }
    }

    /// The servers that there are nodes for.
    pub(super) fn servers(&self) -> impl Iterator<Item = Place> {
        [Place::Here, Place::There, Place::Own].into_iter().filter(|place| self.node(*place).is_some())
    }
}

fn node_ips(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal = addresses.into_iter().flatten().filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).collect()
}

fn pod_ips(pod: &Pod) -> Vec<IpAddr> {
    let ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    ips.filter_map(|ip| ip.ip.parse().ok()).collect()
}

pub(super) fn addresses(service: &Service) -> Vec<IpAddr> {
    let ips = service.spec.as_ref().and_then(|spec| spec.cluster_ips.as_ref());
    ips.into_iter().flatten().filter_map(|ip| ip.parse().ok()).collect()
}

pub(super) fn of_family(ips: &[IpAddr], family: IpFamily) -> Option<IpAddr> {
    ips.iter().copied().find(|ip| IpFamily::from(*ip) == family)
}

/// One target of one client.
#[derive(Debug)]
struct Target {
    client: &'static str,
    /// Row title; hidden targets, which only help to find the hop, have none.
    title: Option<String>,
    family: IpFamily,
    /// Unique within the client.
    key: String,
    kind: Kind,
    /// Where the pod or node is that it asks for in the end; `None` outside the nodes.
    place: Option<Place>,
}

/// What a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// An address of a pod.
    Pod,
    /// An address of a node, or of something outside, that need not serve anything.
    Address,
    /// A cluster IP; the client's own node translates it.
    Service,
    /// A port of this node, which translates it.
    NodePort(String),
    /// A pod that a policy isolates, and whether it admits the client.
    Policed(bool),
    /// A Service without endpoints.
    Nobody,
    /// The DNS.
    Names(Question),
}

/// All targets.
#[derive(Debug)]
pub(super) struct Plan {
    families: Vec<IpFamily>,
    nodes: Vec<String>,
    targets: Vec<Target>,
    args: BTreeMap<&'static str, Vec<String>>,
    untested: Vec<Untested>,
}

impl Plan {
    pub(super) fn new(
        facts: &Facts,
        services: &BTreeMap<String, Service>,
        servers: &BTreeMap<String, Pod>,
        options: &Options,
    ) -> Result<Self, TestError> {
        let mut plan = Self {
            families: facts.families.clone(),
            nodes: facts.nodes.iter().map(|(name, _)| name.clone()).collect(),
            targets: Vec::new(),
            args: BTreeMap::new(),
            untested: Vec::new(),
        };
        if let Some(why) = &facts.no_balancer {
            plan.untested.push(Untested { title: LOAD_BALANCER.into(), why: why.clone() });
        }
        if facts.far() == Place::Here {
            let why = "there is one node only";
            for title in ["connections between nodes", "host to NodePort, source kept"] {
                plan.untested.push(Untested { title: title.into(), why: why.into() });
            }
        }
        for family in &facts.families {
            plan.add_family(*family, facts, services, servers, options)?;
        }
        plan.add_names(facts, services, servers, options);
        Ok(plan)
    }

    fn add_family(
        &mut self,
        family: IpFamily,
        facts: &Facts,
        services: &BTreeMap<String, Service>,
        servers: &BTreeMap<String, Pod>,
        options: &Options,
    ) -> Result<(), TestError> {
        let missing = |what: String| TestError::Unfit(format!("{what} has no {family} address"));
        for (place, title) in [(Place::Here, "same node"), (Place::There, "other node")] {
            let Some(pod) = servers.get(&place.server()) else { continue };
            let ip =
                of_family(&pod_ips(pod), family).ok_or_else(|| missing(format!("pod {}", place.server())))?;
            self.add(
                CLIENT,
                Some(format!("pod to pod, {title}")),
                family,
                "http",
                ip,
                PORT,
                Kind::Pod,
                Some(place),
            );
            self.add(
                CLIENT,
                Some(format!("pod to pod, {title}, UDP")),
                family,
                "udp",
                ip,
                PORT,
                Kind::Pod,
                Some(place),
            );
            self.add(HOST, None, family, "http", ip, PORT, Kind::Pod, Some(place));
            let service = &services[&place.server()];
            let vip = of_family(&addresses(service), family)
                .ok_or_else(|| missing(format!("Service {}", place.server())))?;
            self.add(
                CLIENT,
                Some(format!("pod to ClusterIP, {title}")),
                family,
                "http",
                vip,
                PORT,
                Kind::Service,
                Some(place),
            );
            self.add(
                CLIENT,
                Some(format!("pod to ClusterIP, {title}, UDP")),
                family,
                "udp",
                vip,
                PORT,
                Kind::Service,
                Some(place),
            );
            self.add(
                HOST,
                Some(format!("host to ClusterIP, {title}")),
                family,
                "http",
                vip,
                PORT,
                Kind::Service,
                Some(place),
            );
        }
        let own =
            of_family(&addresses(&services[SELF]), family).ok_or_else(|| missing("Service self".into()))?;
        self.add(
            SELF,
            Some("pod to its own Service".into()),
            family,
            "http",
            own,
            PORT,
            Kind::Service,
            Some(Place::Own),
        );
        let far = facts.far();
        let port = node_port(&services[&far.server()]);
        for (index, (name, ips)) in facts.nodes.iter().enumerate() {
            let Some(ip) = of_family(ips, family) else { continue };
            let reached = if index == 0 { Place::Here } else { Place::There };
            self.add(
                CLIENT,
                Some(format!("pod to NodePort of {name}")),
                family,
                "http",
                ip,
                port,
                Kind::NodePort(name.clone()),
                Some(far),
            );
            self.add(
                HOST,
                Some(format!("host to NodePort of {name}")),
                family,
                "http",
                ip,
                port,
                Kind::NodePort(name.clone()),
                Some(far),
            );
            if index < 2 {
                self.add(CLIENT, None, family, "reach", ip, DISCARD, Kind::Address, Some(reached));
                self.add(HOST, None, family, "reach", ip, DISCARD, Kind::Address, Some(reached));
            }
        }
        self.add_features(family, facts, services, servers)?;
        if let Some(ip) = of_family(&facts.api, family) {
            self.add(CLIENT, Some("pod to API server".into()), family, "api", ip, 443, Kind::Service, None);
        }
        for (ip, port) in options.outside.iter().filter(|(ip, _)| IpFamily::from(*ip) == family) {
            self.add(
                CLIENT,
                Some("egress to outside".into()),
                family,
                "http",
                *ip,
                *port,
                Kind::Address,
                None,
            );
        }
        Ok(())
    }

    /// What Services can do beyond a cluster IP, and policies.
    fn add_features(
        &mut self,
        family: IpFamily,
        facts: &Facts,
        services: &BTreeMap<String, Service>,
        servers: &BTreeMap<String, Pod>,
    ) -> Result<(), TestError> {
        let missing = |what: &str| TestError::Unfit(format!("{what} has no {family} address"));
        let far = facts.far();
        let vip = |feature: Feature| {
            let service = &services[feature.name()];
            of_family(&addresses(service), family).ok_or_else(|| missing(feature.name()))
        };
        let title = |text: &str| Some(text.to_owned());
        let (sticky, nobody) = (vip(Feature::Sticky)?, vip(Feature::Nobody)?);
        let (balanced, external) = (BALANCED.address(family), EXTERNAL.address(family));
        #[rustfmt::skip]
        let rows = [
            (title("session affinity, 20 connections"),   "sticky",      sticky,   Kind::Service, Some(far)),
            (title(LOAD_BALANCER),                        "http",        balanced, Kind::Service, Some(far)),
            (title("pod to external IP"),                 "http",        external, Kind::Service, Some(far)),
            (title("Service without endpoints refuses"),      "refused",     nobody, Kind::Nobody, Some(Place::Here)),
            (title("Service without endpoints refuses, UDP"), "refused-udp", nobody, Kind::Nobody, Some(Place::Here)),
        ];
        for (title, protocol, ip, kind, place) in rows {
            if ip == balanced && facts.no_balancer.is_some() {
                continue;
            }
            self.add(FEATURES, title, family, protocol, ip, PORT, kind, place);
        }
        let far_node = facts.nodes.get(usize::from(far == Place::There));
        if let Some((name, ip)) = far_node.and_then(|(name, ips)| Some((name, of_family(ips, family)?))) {
            let kind = || Kind::NodePort(name.clone());
            let title = |who: &str| Some(format!("{who} to host port of {name}"));
            self.add(FEATURES, title("pod"), family, "http", ip, HOST_PORT, kind(), Some(far));
            if far == Place::There {
                // From another machine, as from outside of the cluster.
                self.add(HOST, title("host"), family, "http", ip, HOST_PORT, kind(), Some(far));
                let port = node_port(&services[Feature::Local.name()]);
                let title = format!("host to NodePort of {name}, source kept");
                self.add(HOST, Some(title), family, "source", ip, port, kind(), Some(far));
            }
        }
        for (place, where_to) in [(Place::Here, "same node"), (Place::There, "other node")] {
            let Some(pod) = servers.get(&place.policed()) else { continue };
            let ip = of_family(&pod_ips(pod), family).ok_or_else(|| missing(&place.policed()))?;
            for (client, protocol, admits) in [(FEATURES, "http", true), (SELF, "blocked", false)] {
                let verb = if admits { "admits" } else { "blocks" };
                let title = Some(format!("NetworkPolicy {verb}, {where_to}"));
                self.add(client, title, family, protocol, ip, PORT, Kind::Policed(admits), Some(place));
            }
        }
        Ok(())
    }

    /// Questions for names, in each family at the address of the DNS.
    fn add_names(
        &mut self,
        facts: &Facts,
        services: &BTreeMap<String, Service>,
        servers: &BTreeMap<String, Pod>,
        options: &Options,
    ) {
        let name = facts.far().server();
        let service = &services[&name];
        let shared = [Place::Here, Place::There].map(|place| servers.get(&place.server()));
        let endpoints: Vec<IpAddr> = shared.into_iter().flatten().flat_map(pod_ips).collect();
        let world = World {
            namespace: service.metadata.namespace.as_deref().unwrap_or_default(),
            name: &name,
            service: &addresses(service),
            headless: Feature::Headless.name(),
            endpoints: &endpoints,
            outside: &options.names,
            has_only_v6: facts.cluster == [IpFamily::V6],
        };
        let questions = Question::ALL.into_iter().filter(|question| question.concerns(&world));
        let dns = match &facts.dns {
            Ok(dns) => dns,
            Err(why) => {
                let title = |question: Question| question.title().to_owned();
                self.untested
                    .extend(questions.map(|question| Untested { title: title(question), why: why.clone() }));
                return;
            }
        };
        for family in facts.families.iter().filter(|family| dns.server(**family).is_none()) {
            let why = format!("Service {} has no {family} address", names::SERVICE);
            self.untested.push(Untested { title: format!("DNS, {family}"), why });
        }
        for question in questions {
            for family in &facts.families {
                if let Some(target) = question.target(dns, &world, *family) {
                    let title = Some(question.title().to_owned());
                    self.push(NAMES, title, *family, &target, Kind::Names(question), None);
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one line per target reads as the table it is")]
    fn add(
        &mut self,
        client: &'static str,
        title: Option<String>,
        family: IpFamily,
        protocol: &str,
        ip: IpAddr,
        port: u16,
        kind: Kind,
        place: Option<Place>,
    ) {
        self.push(client, title, family, &format!("{protocol}://{}", SocketAddr::new(ip, port)), kind, place);
    }

    fn push(
        &mut self,
        client: &'static str,
        title: Option<String>,
        family: IpFamily,
        target: &str,
        kind: Kind,
        place: Option<Place>,
    ) {
        let key = self.targets.len().to_string();
        self.args.entry(client).or_default().push(format!("{key}={target}"));
        self.targets.push(Target { client, title, family, key, kind, place });
    }

    /// The clients with what they probe.
    pub(super) fn clients(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        self.args.iter().map(|(name, targets)| (*name, targets.as_slice()))
    }

    /// The rows, from what every client found, by client and target.
    pub(super) fn report(&self, outcomes: &BTreeMap<(String, String), Outcome>) -> Report {
        let result = |target: &Target| outcomes.get(&(target.client.to_owned(), target.key.clone()));
        let worked = |target: &Target| result(target).is_some_and(|outcome| outcome.micros.is_some());
        let mut rows: Vec<Row> = Vec::new();
        for target in &self.targets {
            let Some(title) = &target.title else { continue };
            let outcome = result(target);
            let cell = match outcome.and_then(|outcome| outcome.micros) {
                Some(micros) => Cell { family: target.family, micros: Some(micros), error: None, hop: None },
                None => {
                    let error = outcome
                        .and_then(|outcome| outcome.error.clone())
                        .unwrap_or_else(|| "no result".into());
                    Cell {
                        family: target.family,
                        micros: None,
                        error: Some(error),
                        hop: Some(self.hop(target, outcome, &worked)),
                    }
                }
            };
            match rows.iter_mut().find(|row| row.title == *title) {
                Some(row) => row.cells.push(cell),
                None => rows.push(Row { title: title.clone(), cells: vec![cell] }),
            }
        }
        Report { families: self.families.clone(), rows, untested: self.untested.clone(), seconds: 0.0 }
    }

    fn hop(&self, failed: &Target, outcome: Option<&Outcome>, worked: &dyn Fn(&Target) -> bool) -> String {
        // Whether anything of a kind got through in the same family; nothing if nothing of the kind was tried.
        let tried = |client: &str, kind: Kind, place: Option<Place>| {
            let similar = self.targets.iter().filter(|target| {
                target.client == client
                    && target.family == failed.family
                    && target.kind == kind
                    && target.place == place
            });
            similar.fold(None, |so_far: Option<bool>, target| Some(so_far.unwrap_or(false) || worked(target)))
        };
        let here = self.nodes.first().map_or("", String::as_str);
        let there = self.nodes.get(1).or(self.nodes.first()).map_or("", String::as_str);
        let of_place = if failed.place == Some(Place::There) { there } else { here };
        match failed.kind {
            Kind::Policed(false) => {
                return format!("the policy of {of_place}: it lets through what it should not");
            }
            Kind::Policed(true) if tried(CLIENT, Kind::Pod, failed.place) == Some(true) => {
                return format!("the policy of {of_place}: pods without one are reached");
            }
            Kind::Nobody => return format!("the Service rules of {here}"),
            Kind::Names(question) => {
                let asked = Kind::Names(Question::Address(failed.family));
                let told = tried(NAMES, asked, None) == Some(true);
                let pods = outcome.and_then(|outcome| outcome.pods.as_deref());
                return names::lost_at(&names::Evidence { question, pods, told }, here);
            }
            _ => {}
        }
        let evidence = Evidence {
            from_host: failed.client == HOST,
            translated_by: match &failed.kind {
                Kind::Pod | Kind::Address | Kind::Policed(_) => None,
                Kind::Service | Kind::Nobody | Kind::Names(_) => Some(here),
                Kind::NodePort(node) => Some(node),
            },
            far: failed.place == Some(Place::There),
            inside: failed.place.is_some(),
            pod_to_node: tried(CLIENT, Kind::Address, Some(Place::Here)),
            pod_to_pod: tried(CLIENT, Kind::Pod, failed.place),
            host_to_pod: tried(HOST, Kind::Pod, failed.place),
            host_to_node: tried(HOST, Kind::Address, failed.place),
        };
        lost_at(&evidence, here, there)
    }
}

fn node_port(service: &Service) -> u16 {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let port = ports.into_iter().flatten().find_map(|port| port.node_port);
    port.and_then(|port| u16::try_from(port).ok()).unwrap_or_default()
}
