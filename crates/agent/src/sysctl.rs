//! The kernel's connection tracking, set as kube-proxy sets it.

use std::time::Duration;

use dyad_links::sysctl;
use tracing::{info, warn};

use crate::config::ConntrackLimits;
use crate::switches::{BUCKETS, Switches};

/// So many connections to a bucket are fine.
const PER_BUCKET: u64 = 4;
/// The kernel fills pages with buckets.
const PAGE_OF_BUCKETS: u64 = 512;

/// What is to be set, by the names below `net/netfilter/nf_conntrack_`.
fn wanted(limits: &ConntrackLimits, cores: u32) -> Vec<(&'static str, u64)> {
    let per_core = limits.max_per_core.filter(|per_core| *per_core > 0);
    let max = per_core.map(|per_core| (u64::from(per_core) * u64::from(cores)).max(limits.min.into()));
    let seconds =
        |timeout: Option<Duration>| timeout.map(|timeout| timeout.as_secs()).filter(|seconds| *seconds > 0);
    let all = [
        ("max", max),
        ("tcp_timeout_established", seconds(limits.tcp_established)),
        ("tcp_timeout_close_wait", seconds(limits.tcp_close_wait)),
        ("tcp_be_liberal", limits.tcp_be_liberal.then_some(1)),
        ("udp_timeout", seconds(limits.udp)),
        ("udp_timeout_stream", seconds(limits.udp_stream)),
    ];
    all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// Sets what is asked for. What the kernel does not let us set stays, and is told of.
pub(crate) fn apply(limits: &ConntrackLimits, switches: &Switches) {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
    for (key, value) in wanted(limits, cores) {
        let path = format!("net/netfilter/nf_conntrack_{key}");
        match switches.set(&path, &value.to_string()) {
            Ok(()) => info!(value, "nf_conntrack_{key} is set"),
            Err(error) => {
                warn!(
                    error = crate::with_causes(&error),
                    value, "can't set nf_conntrack_{key}; it stays as it is"
                );
            }
        }
        if key == "max" {
            widen(value, switches);
        }
    }
}

/// Gives the table as many buckets as so many connections need; never takes some away.
fn widen(max: u64, switches: &Switches) {
    let now = sysctl::read(BUCKETS).ok().and_then(|text| text.parse::<u64>().ok());
    let wanted = (max / PER_BUCKET).next_multiple_of(PAGE_OF_BUCKETS);
    if now.is_none_or(|now| now >= wanted) {
        return;
    }
    if let Err(error) = switches.set(BUCKETS, &wanted.to_string()) {
        warn!(
            error = crate::with_causes(&error),
            wanted, "can't give connection tracking more buckets; many connections will be slow to find"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_of_kube_proxy() {
        let defaults = ConntrackLimits {
            max_per_core: Some(32 * 1024),
            min: 128 * 1024,
            tcp_established: Some(Duration::from_secs(86_400)),
            tcp_close_wait: Some(Duration::from_secs(3600)),
            ..ConntrackLimits::default()
        };
        let timeouts = [("tcp_timeout_established", 86_400), ("tcp_timeout_close_wait", 3600)];
        assert_eq!(
            wanted(&defaults, 2),
            [&[("max", 131_072)], &timeouts[..]].concat(),
            "no less than the least"
        );
        assert_eq!(wanted(&defaults, 16)[0], ("max", 524_288));
        assert!(wanted(&ConntrackLimits::default(), 8).is_empty());
        let zeros = ConntrackLimits {
            max_per_core: Some(0),
            udp: Some(Duration::ZERO),
            ..ConntrackLimits::default()
        };
        assert!(wanted(&zeros, 8).is_empty(), "0 leaves it as it is");
        let liberal = ConntrackLimits { tcp_be_liberal: true, ..ConntrackLimits::default() };
        assert_eq!(wanted(&liberal, 8), [("tcp_be_liberal", 1)]);
    }
}
