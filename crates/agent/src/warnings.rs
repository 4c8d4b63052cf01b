//! What on a machine stands in the way of its network, or is left of another one: told, never touched.

use std::fs;
use std::path::Path;

use dyad_links::Link;

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
/// What the kernel asks for, by the bit of the capability, and what is missing without it.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (12, "CAP_NET_ADMIN", "tables, routes and links can't be set"),
    (21, "CAP_SYS_ADMIN", "namespaces of pods can't be entered, so no pod can be connected"),
    (39, "CAP_BPF", "eBPF can't be used"),
    (38, "CAP_PERFMON", "eBPF can't be used on some kernels"),
];

/// What there is to tell.
pub(crate) fn look(cni: &Cni, links: &[Link]) -> Vec<String> {
    let mut found = configurations(&cni.conf_dir);
    for link in links {
        if let Some((_, whose)) = LEFTOVERS.iter().find(|(start, _)| link.name.starts_with(start)) {
            found.push(format!(
                "link {} is of another network, {whose}: if that is gone, delete the link",
                link.name
            ));
        }
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    found.extend(missing(&status));
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
