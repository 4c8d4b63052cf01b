//! What on a machine stands in the way of its network, or is left of another one: told, never touched.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dyad_links::Link;
use dyad_net::IpNet;
use dyad_nft::others::{Chain, Others};

use crate::cni::{Cni, OURS};

/// Links by which networks of others are told, and whose they are.
const LEFTOVERS: [(&str, &str); 10] = [
    ("flannel.", "flannel"),
    ("cni0", "a bridge plugin"),
    ("vxlan.calico", "Calico"),
    ("cilium_", "Cilium"),
    ("weave", "Weave Net"),
    ("kube-bridge", "kube-router"),
    ("antrea-gw", "Antrea"),
    ("ovn-k8s-mp", "OVN-Kubernetes"),
    ("kube-ipvs", "kube-proxy (ipvs)"),
    ("genev_sys", "Antrea"),
];
/// Tables and chains by whose names those of others are told: the start of the table's or the chain's, whose they are, what
/// they do to pods, and the way out.
const TABLES: [(Named, &str, &str, &str, &str); 8] = [
    (Named::Chain, "KUBE-SERVICES", KUBE_PROXY.0, KUBE_PROXY.1, KUBE_PROXY.2),
    (Named::Table, "kube-proxy", KUBE_PROXY.0, KUBE_PROXY.1, KUBE_PROXY.2),
    (Named::Chain, "cali-", "Calico", OTHER_NETWORK.0, OTHER_NETWORK.1),
    (Named::Table, "calico", "Calico", OTHER_NETWORK.0, OTHER_NETWORK.1),
    (Named::Chain, "CILIUM_", "Cilium", OTHER_NETWORK.0, OTHER_NETWORK.1),
    (Named::Table, "cilium", "Cilium", OTHER_NETWORK.0, OTHER_NETWORK.1),
    (Named::Chain, "FLANNEL-", "flannel", OTHER_NETWORK.0, OTHER_NETWORK.1),
    (Named::Table, "flannel-", "flannel", OTHER_NETWORK.0, OTHER_NETWORK.1),
];
const KUBE_PROXY: (&str, &str, &str) = (
    "kube-proxy",
    "it answers for Services, too",
    "take it away, then run `kube-proxy --cleanup` or restart the machine",
);
const OTHER_NETWORK: (&str, &str) = (
    "it may drop or masquerade what pods send",
    "if that network is gone, restart the machine, or delete them",
);

/// What has the name.
#[derive(Clone, Copy, Debug)]
enum Named {
    Table,
    Chain,
}

/// What the kernel asks for, by the bit of the capability, and what is missing without it.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (12, "CAP_NET_ADMIN", "tables, routes and links can't be set"),
    (21, "CAP_SYS_ADMIN", "namespaces of pods can't be entered, so no pod can be connected"),
    (39, "CAP_BPF", "eBPF can't be used"),
    (38, "CAP_PERFMON", "eBPF can't be used on some kernels"),
];

/// What there is to tell, by kind.
pub(crate) type Found = Vec<(&'static str, Vec<String>)>;

/// What there is to tell of files, links and this process.
pub(crate) fn look(cni: &Cni, links: &[Link]) -> Found {
    let leftover = |link: &Link| {
        let (_, whose) = LEFTOVERS.iter().find(|(start, _)| link.name.starts_with(start))?;
        let name = &link.name;
        Some(format!("link {name} is of another network, {whose}: if that is gone, delete the link"))
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    vec![
        ("configuration", configurations(&cni.conf_dir)),
        ("link", links.iter().filter_map(leftover).collect()),
        ("capability", missing(&status)),
    ]
}

/// Firewalls that pods in `ranges` don't pass, and what others have left in tables; kube-proxy's matters if we serve Services.
pub(crate) fn tables(others: &Others, ranges: &[IpNet], services: bool) -> Vec<String> {
    let closed = others.closed.iter().map(|(Chain { family, table, name }, hook)| {
        let of_table = |range: &&IpNet| match *family {
            "ip" => range.addr().is_ipv4(),
            "ip6" => range.addr().is_ipv6(),
            _ => true,
        };
        let pods = ranges.iter().filter(of_table).map(IpNet::to_string).collect::<Vec<_>>().join(", ");
        format!(
            "chain {name} of table {family} {table} drops what pods send and are sent ({hook}): have that firewall accept \
             what is forwarded, or what comes from {pods} and what goes there"
        )
    });
    let mut found: Vec<String> = closed.collect();
    let mut told = BTreeSet::new();
    for (named, start, whose, what, way_out) in TABLES {
        let is_theirs = |chain: &&Chain| match named {
            Named::Table => chain.table.starts_with(start),
            Named::Chain => chain.name.starts_with(start),
        };
        let Some(Chain { family, table, name }) = others.chains.iter().find(is_theirs) else { continue };
        if (whose != KUBE_PROXY.0 || services) && told.insert(whose) {
            found.push(format!(
                "rules of {whose} are there (chain {name} of table {family} {table}): {what}; {way_out}"
            ));
        }
    }
    found
}

/// Configurations of others: runtimes take the first by name.
fn configurations(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_read = |name: &String| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
    let mut others: Vec<String> = names.filter(is_read).filter(|name| name != OURS).collect();
    others.sort();
    let text = |name: String| {
        let path = dir.join(&name);
        if name.as_str() < OURS {
            format!("{} comes before {OURS}: runtimes take it instead; remove it", path.display())
        } else {
            format!(
                "{} is of another network, and is taken should {OURS} go; remove it if that network is gone",
                path.display()
            )
        }
    };
    others.into_iter().map(text).collect()
}

/// Capabilities that this process lacks, by what the kernel says of it.
fn missing(status: &str) -> Vec<String> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(has) = line.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()) else {
        return Vec::new();
    };
    let lacks = |(bit, name, what): &(u32, &str, &str)| {
        (has >> bit & 1 == 0).then(|| format!("{name} is missing: {what}"))
    };
    CAPABILITIES.iter().filter_map(lacks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_others_are_told_of_with_the_way_out() {
        let chain =
            |family, table: &str, name: &str| Chain { family, table: table.into(), name: name.into() };
        let others = Others {
            chains: [
                chain("ip", "nat", "KUBE-SERVICES"),
                chain("ip6", "nat", "KUBE-SERVICES"),
                chain("ip", "mangle", "KUBE-KUBELET-CANARY"),
                chain("ip", "filter", "cali-FORWARD"),
                chain("inet", "firewalld", "filter_FORWARD"),
                chain("ip6", "flannel-ipv6", "postrtg"),
            ]
            .into(),
            closed: [(chain("ip6", "filter", "FORWARD"), "forward")].into(),
        };
        let pods = ["10.1.0.0/16", "fd00:1::/56"].map(|range| range.parse().unwrap());
        let found = tables(&others, &pods, true);
        assert_eq!(found.len(), 4, "{found:#?}");
        for (text, parts) in found.iter().zip([
            ["chain FORWARD of table ip6 filter drops", "comes from fd00:1::/56 and"],
            ["KUBE-SERVICES of table ip nat", "kube-proxy --cleanup"],
            ["rules of Calico", "cali-FORWARD"],
            ["rules of flannel", "ip6 flannel-ipv6"],
        ]) {
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
        assert_eq!(tables(&others, &pods, false).len(), 3, "kube-proxy is wanted there");
        assert!(tables(&Others::default(), &pods, true).is_empty());
    }

    #[test]
    fn configurations_and_capabilities_are_told_of() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["00-other.conf", OURS, "10-flannel.conflist", "README"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = configurations(dir.path());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("00-other.conf comes before")
                && found[1].contains("10-flannel.conflist is of another")
        );
        assert!(configurations(Path::new("/nowhere/at/all")).is_empty());
        assert_eq!(missing("CapInh:\t0\nCapEff:\t000001ffffffffff\n"), [""; 0]);
        let found = missing("CapEff:\t0000000000001000\n");
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("CAP_SYS_ADMIN is missing"));
        assert!(missing("nonsense").is_empty());
    }
}
