//! The layout that kube-proxy's nftables mode has in Kubernetes 1.36, as text for `nft -f`.
//!
//! For each family one table with verdict maps from addresses and ports to chains, and for each port of a Service one
//! chain with one rule, which picks an endpoint at random. Names and comments are of the length they have there.

use std::fmt::Write;

use dyad_net::IpFamily;
use dyad_program::{EndpointSlice, Frontend, Program, Scope, Table};

use crate::world;

/// So many elements in one command; all commands are one transaction.
const ELEMENTS: usize = 1000;

/// The word for addresses in `nft`, and for their type.
const fn words(family: IpFamily) -> (&'static str, &'static str) {
    match family {
        IpFamily::V4 => ("ip", "ipv4_addr"),
        IpFamily::V6 => ("ip6", "ipv6_addr"),
    }
}

/// The whole state of both families.
pub(super) fn layout(program: &Program) -> String {
    let mut text = String::new();
    for (family, table) in program.iter() {
        frame(&mut text, family);
        services(&mut text, family, table);
    }
    text
}

/// What is always there.
fn frame(text: &mut String, family: IpFamily) {
    let (ip, address) = words(family);
    let pods = world::node().cluster_pods.get(family).map(ToString::to_string).unwrap_or_default();
    let ranges = world::node().services;
    let of_family = ranges.iter().filter(|range| IpFamily::from(range.addr()) == family);
    let service_range = of_family.map(ToString::to_string).collect::<Vec<_>>().join(" , ");
    let by_address = format!("{address} . inet_proto . inet_service");
    let lines = [
        format!("add table {ip} kube-proxy"),
        format!("add set {ip} kube-proxy cluster-ips {{ type {address} ; }}"),
        format!("add set {ip} kube-proxy nodeport-ips {{ type {address} ; }}"),
        format!("add set {ip} kube-proxy hairpin-connections {{ type {address} . {by_address} ; }}"),
        format!("add map {ip} kube-proxy firewall-ips {{ type {by_address} : verdict ; }}"),
        format!("add map {ip} kube-proxy no-endpoint-services {{ type {by_address} : verdict ; }}"),
        format!(
            "add map {ip} kube-proxy no-endpoint-nodeports {{ type inet_proto . inet_service : verdict ; }}"
        ),
        format!("add map {ip} kube-proxy service-ips {{ type {by_address} : verdict ; }}"),
        format!("add map {ip} kube-proxy service-nodeports {{ type inet_proto . inet_service : verdict ; }}"),
    ];
    lines.iter().for_each(|line| text.extend([line, "\n"]));
    let chains = [
        ("cluster-ips-check", ""),
        ("firewall-check", ""),
        ("masquerading", ""),
        ("nodeport-endpoints-check", ""),
        ("service-endpoints-check", ""),
        ("services", ""),
        ("filter-prerouting-pre-dnat", "filter hook prerouting priority -110"),
        ("filter-output-pre-dnat", "filter hook output priority -110"),
        ("filter-forward", "filter hook forward priority 0"),
        ("filter-input", "filter hook input priority 0"),
        ("filter-output", "filter hook output priority 0"),
        ("nat-output", "nat hook output priority -100"),
        ("nat-postrouting", "nat hook postrouting priority 100"),
        ("nat-prerouting", "nat hook prerouting priority -100"),
    ];
    for (chain, hook) in chains {
        let hook = if hook.is_empty() { String::new() } else { format!(" {{ type {hook} ; }}") };
        text.extend([&format!("add chain {ip} kube-proxy {chain}{hook}"), "\n"]);
    }
    let key = format!("{ip} daddr . meta l4proto . th dport");
    let rules = [
        format!("cluster-ips-check {ip} daddr @cluster-ips reject"),
        format!("cluster-ips-check {ip} daddr {{ {service_range} }} drop"),
        "filter-prerouting-pre-dnat ct state new jump firewall-check".into(),
        "filter-output-pre-dnat ct state new jump firewall-check".into(),
        "filter-forward ct state new jump service-endpoints-check".into(),
        "filter-forward ct state new jump cluster-ips-check".into(),
        "filter-input ct state new jump nodeport-endpoints-check".into(),
        "filter-input ct state new jump service-endpoints-check".into(),
        "filter-output ct state new jump service-endpoints-check".into(),
        "filter-output ct state new jump cluster-ips-check".into(),
        format!("firewall-check {key} vmap @firewall-ips"),
        "masquerading mark and 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random".into(),
        format!(
            "masquerading ct status dnat {ip} saddr . {key} @hairpin-connections masquerade fully-random"
        ),
        "nat-output jump services".into(),
        "nat-prerouting jump services".into(),
        "nat-postrouting jump masquerading".into(),
        format!(
            "nodeport-endpoints-check {ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"
        ),
        format!("service-endpoints-check {key} vmap @no-endpoint-services"),
        format!("services {ip} daddr @cluster-ips {ip} saddr != {pods} mark set mark or 0x4000"),
        format!("services {key} vmap @service-ips"),
        format!("services {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports"),
    ];
    for rule in rules {
        text.extend([&format!("add rule {ip} kube-proxy {rule}"), "\n"]);
    }
}

/// A chain's name: a hash of eight letters, namespace, name, protocol, port.
fn chain(number: u32) -> String {
    format!("service-{number:08X}-default/service-{number}/tcp/p80")
}

fn rule(family: IpFamily, number: u32, endpoints: &[String]) -> String {
    let (ip, _) = words(family);
    let map: Vec<String> =
        (0..).zip(endpoints).map(|(slot, to): (u32, _)| format!("{slot} : {to}")).collect();
    format!(
        "add rule {ip} kube-proxy {} meta l4proto tcp dnat {ip} addr . port to numgen random mod {} map {{ {} }}\n",
        chain(number),
        endpoints.len(),
        map.join(" , ")
    )
}

fn services(text: &mut String, family: IpFamily, table: &Table) {
    let (ip, _) = words(family);
    let (mut ips, mut verdicts) = (Vec::new(), Vec::new());
    for (number, (scope, at)) in (0..).zip(table.frontends.keys()) {
        let (Scope::Cluster, Frontend::Address(address, _, port)) = (scope, at) else { continue };
        let endpoints: Vec<String> =
            table.slots(*scope, *at).map(|(_, to)| format!("{} . {}", to.ip, to.port)).collect();
        let _ = writeln!(text, "add chain {ip} kube-proxy {}", chain(number));
        text.push_str(&rule(family, number, &endpoints));
        ips.push(address.to_string());
        verdicts.push(format!("{address} . tcp . {port} : goto {}", chain(number)));
    }
    for (set, elements) in [("cluster-ips", ips), ("service-ips", verdicts)] {
        for some in elements.chunks(ELEMENTS) {
            let _ = writeln!(text, "add element {ip} kube-proxy {set} {{ {} }}", some.join(" , "));
        }
    }
}

/// The transaction after a change of one slice of IPv4.
pub(super) fn change(number: u32, slice: &EndpointSlice) -> String {
    let port = slice.ports.first().map_or(0, |port| port.port);
    let endpoints: Vec<String> =
        slice.endpoints.iter().map(|endpoint| format!("{} . {port}", endpoint.ip)).collect();
    format!("flush chain ip kube-proxy {}\n{}", chain(number), rule(IpFamily::V4, number, &endpoints))
}
