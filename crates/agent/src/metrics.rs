//! What is counted and timed, under kube-proxy's names, in the Prometheus text format.
//!
//! Both families go to the kernel in one batch, so what is said of its time is the same for each of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dyad_net::{DualStack, IpFamily};
use jiff::Timestamp;

#[cfg(test)]
mod dashboard;
mod process;
mod text;

use text::{Histogram, Text};

/// A status code of `/healthz` or `/livez`.
pub(crate) type Code = u16;

/// Whose traffic finds no endpoint on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Traffic {
    Internal,
    External,
}

/// A round of programming.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sync {
    /// How long it took.
    pub(crate) took: Duration,
    /// Whether all of the kernel's tables were compared.
    pub(crate) is_full: bool,
}

/// All that is counted.
#[derive(Debug)]
pub(crate) struct Metrics(Mutex<Counts>);

#[derive(Debug)]
struct Counts {
    sync: Histogram,
    full: Histogram,
    partial: Histogram,
    network: DualStack<Histogram>,
    last_sync: Option<Timestamp>,
    last_queued: Option<Timestamp>,
    services: Changes,
    endpoints: Changes,
    failures: u64,
    no_local: DualStack<BTreeMap<Traffic, usize>>,
    conntrack: Histogram,
    conntrack_deleted: DualStack<u64>,
    healthz: BTreeMap<Code, u64>,
    livez: BTreeMap<Code, u64>,
    repairs: u64,
    dataplane: Option<(&'static str, String)>,
    /// What stands in the way, by kind; empty where nobody looks.
    warnings: BTreeMap<&'static str, usize>,
    /// Where a DNS server of the node is configured.
    intercepts: Option<bool>,
}

/// Changes that were heard.
#[derive(Clone, Copy, Debug, Default)]
struct Changes {
    pending: u64,
    total: u64,
}

impl Changes {
    fn hear(&mut self) {
        self.pending += 1;
        self.total += 1;
    }
}

impl Metrics {
    /// Nothing yet, for the families of `of`.
    pub(crate) fn new<T>(of: &DualStack<T>) -> Self {
        let sync = || Histogram::new((0..15).map(|power| 0.001 * f64::from(1 << power)));
        let network = || {
            let steps =
                |from: u32, step: u32, count: u32| (0..count).map(move |n| f64::from(from + n * step));
            let bounds = [0.25, 0.5].into_iter().chain(steps(1, 1, 59)).chain(steps(60, 5, 12));
            Histogram::new(bounds.chain(steps(120, 30, 7)))
        };
        Self(Mutex::new(Counts {
            sync: sync(),
            full: sync(),
            partial: sync(),
            network: of.map(|_, _| network()),
            last_sync: None,
            last_queued: None,
            services: Changes::default(),
            endpoints: Changes::default(),
            failures: 0,
            no_local: of.map(|_, _| BTreeMap::from([(Traffic::Internal, 0), (Traffic::External, 0)])),
            conntrack: sync(),
            conntrack_deleted: of.map(|_, _| 0),
            healthz: BTreeMap::from([(200, 0), (503, 0)]),
            livez: BTreeMap::from([(200, 0), (503, 0)]),
            repairs: 0,
            dataplane: None,
            warnings: BTreeMap::new(),
            intercepts: None,
        }))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Every change is a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn service_changed(&self) {
        let mut counts = self.counts();
        counts.services.hear();
        counts.last_queued = Some(Timestamp::now());
    }

    pub(crate) fn endpoints_changed(&self) {
        let mut counts = self.counts();
        counts.endpoints.hear();
        counts.last_queued = Some(Timestamp::now());
    }

    /// Everything heard so far is in the kernel.
    pub(crate) fn synced(&self, sync: Sync) {
        let mut counts = self.counts();
        counts.sync.observe(sync.took.as_secs_f64());
        let kind = if sync.is_full { &mut counts.full } else { &mut counts.partial };
        kind.observe(sync.took.as_secs_f64());
        counts.last_sync = Some(Timestamp::now());
        (counts.services.pending, counts.endpoints.pending) = (0, 0);
    }

    /// What was heard changes nothing in the kernel.
    pub(crate) fn settled(&self) {
        let mut counts = self.counts();
        (counts.services.pending, counts.endpoints.pending) = (0, 0);
    }

    pub(crate) fn failed(&self) {
        self.counts().failures += 1;
    }

    pub(crate) fn repaired(&self) {
        self.counts().repairs += 1;
    }

    /// How long ago something happened that the kernel has been told of now.
    pub(crate) fn programmed(&self, family: IpFamily, since: Timestamp) {
        let mut counts = self.counts();
        let seconds = Timestamp::now().duration_since(since).as_secs_f64();
        let of_family = counts.network.iter_mut().find(|(of, _)| *of == family);
        if let Some((_, histogram)) = of_family.filter(|_| seconds >= 0.0) {
            histogram.observe(seconds);
        }
    }

    pub(crate) fn set_no_local(&self, no_local: &BTreeMap<(IpFamily, Traffic), usize>) {
        let mut counts = self.counts();
        for (family, by_traffic) in counts.no_local.iter_mut() {
            for (traffic, count) in by_traffic {
                *count = no_local.get(&(family, *traffic)).copied().unwrap_or_default();
            }
        }
    }

    pub(crate) fn reconciled(&self, took: Duration, deleted: impl IntoIterator<Item = (IpFamily, u64)>) {
        let mut counts = self.counts();
        counts.conntrack.observe(took.as_secs_f64());
        for (family, deleted) in deleted {
            counts.conntrack_deleted.iter_mut().filter(|(of, _)| *of == family).for_each(|(_, count)| {
                *count += deleted;
            });
        }
    }

    pub(crate) fn asked_healthz(&self, code: Code) {
        *self.counts().healthz.entry(code).or_default() += 1;
    }

    pub(crate) fn asked_livez(&self, code: Code) {
        *self.counts().livez.entry(code).or_default() += 1;
    }

    pub(crate) fn set_dataplane(&self, dataplane: &'static str, reason: &str) {
        self.counts().dataplane = Some((dataplane, reason.to_owned()));
    }

    /// How much of each kind stands in the way.
    pub(crate) fn set_warnings(&self, counts: impl Iterator<Item = (&'static str, usize)>) {
        self.counts().warnings = counts.collect();
    }

    pub(crate) fn set_intercepts(&self, intercepts: bool) {
        self.counts().intercepts = Some(intercepts);
    }

    /// Everything, as `/metrics` shows it.
    pub(crate) fn render(&self) -> String {
        let counts = self.counts();
        let mut text = Text::default();
        let families = || counts.network.families();
        for (name, help, histogram) in [
            ("sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", &counts.sync),
            (
                "sync_full_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for full resyncs",
                &counts.full,
            ),
            (
                "sync_partial_proxy_rules_duration_seconds",
                "SyncProxyRules latency in seconds for partial resyncs",
                &counts.partial,
            ),
            (
                "conntrack_reconciler_sync_duration_seconds",
                "ReconcileConntrackFlowsLatency latency in seconds",
                &counts.conntrack,
            ),
        ] {
            text.histogram(&format!("kubeproxy_{name}"), help, families().map(|family| (family, histogram)));
        }
        text.histogram(
            "kubeproxy_network_programming_duration_seconds",
            "In Cluster Network Programming Latency in seconds",
            counts.network.iter(),
        );
        let seconds = |at: Option<Timestamp>| at.map_or(0.0, |at| at.as_millisecond() as f64 / 1000.0);
        for (name, help, at) in [
            (
                "sync_proxy_rules_last_timestamp_seconds",
                "The last time proxy rules were successfully synced",
                counts.last_sync,
            ),
            (
                "sync_proxy_rules_last_queued_timestamp_seconds",
                "The last time a sync of proxy rules was queued",
                counts.last_queued,
            ),
        ] {
            let samples = families().map(|family| (of_family(family), seconds(at)));
            text.gauge(&format!("kubeproxy_{name}"), help, samples);
        }
        for (name, what, changes) in
            [("endpoint", "Endpoint", counts.endpoints), ("service", "Service", counts.services)]
        {
            let name = format!("kubeproxy_sync_proxy_rules_{name}_changes");
            let (pending, total) = (changes.pending as f64, changes.total as f64);
            let help = format!("Pending proxy rules {what} changes");
            text.gauge(&format!("{name}_pending"), &help, [(String::new(), pending)]);
            let help = format!("Cumulative proxy rules {what} changes");
            text.counter(&format!("{name}_total"), &help, [(String::new(), total)]);
        }
        for (name, help, count) in [
            ("sync", "Cumulative proxy nftables sync failures", counts.failures),
            // What is stale goes in the same batch in which what is new comes.
            ("cleanup", "Cumulative proxy nftables cleanup failures", 0),
        ] {
            let name = format!("kubeproxy_sync_proxy_rules_nftables_{name}_failures_total");
            text.counter(&name, help, families().map(|family| (of_family(family), count as f64)));
        }
        let no_local = counts.no_local.iter().flat_map(|(family, by_traffic)| {
            by_traffic.iter().map(move |(traffic, count)| {
                let traffic = match traffic {
                    Traffic::Internal => "internal",
                    Traffic::External => "external",
                };
                (format!("{},traffic_policy=\"{traffic}\"", of_family(family)), *count as f64)
            })
        });
        text.gauge(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Number of services with a Local traffic policy and no endpoints",
            no_local,
        );
        text.counter(
            "kubeproxy_conntrack_reconciler_deleted_entries_total",
            "Cumulative conntrack flows deleted by conntrack reconciler",
            counts.conntrack_deleted.iter().map(|(family, count)| (of_family(family), *count as f64)),
        );
        for (name, codes) in [("healthz", &counts.healthz), ("livez", &counts.livez)] {
            let samples = codes.iter().map(|(code, count)| (format!("code=\"{code}\""), *count as f64));
            text.counter(
                &format!("kubeproxy_proxy_{name}_total"),
                &format!("Cumulative proxy {name} HTTP status"),
                samples,
            );
        }
        text.counter(
            "dyad_agent_repairs_total",
            "How often changes that others had made to our rules were undone",
            [(String::new(), counts.repairs as f64)],
        );
        if !counts.warnings.is_empty() {
            let warnings =
                counts.warnings.iter().map(|(kind, count)| (format!("kind=\"{kind}\""), *count as f64));
            text.gauge("dyad_agent_warnings", "What stands in the way on this node", warnings);
        }
        if let Some((dataplane, reason)) = &counts.dataplane {
            let mut labels = format!("dataplane=\"{dataplane}\",reason=\"");
            // Writing to a string can't fail.
            let _ = write!(labels, "{}\"", text::escape(reason));
            text.gauge("dyad_agent_dataplane_info", "What executes the program, and why", [(labels, 1.0)]);
        }
        if let Some(intercepts) = counts.intercepts {
            text.gauge(
                "dyad_agent_intercepts_dns",
                "Whether queries to the cluster's DNS are taken to the server of this node",
                [(String::new(), f64::from(u8::from(intercepts)))],
            );
        }
        drop(counts);
        process::write(&mut text);
        text.finish()
    }
}

/// The label of a family.
fn of_family(family: IpFamily) -> String {
    format!("ip_family=\"{}\"", family.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_family_is_shown_and_samples_add_up() {
        let both = DualStack::dual(IpFamily::V6, (), ());
        let metrics = Metrics::new(&both);
        metrics.service_changed();
        metrics.endpoints_changed();
        metrics.endpoints_changed();
        let before = metrics.render();
        assert!(before.contains("\nkubeproxy_sync_proxy_rules_endpoint_changes_pending 2\n"), "{before}");
        metrics.synced(Sync { took: Duration::from_micros(1500), is_full: false });
        metrics.set_no_local(&BTreeMap::from([((IpFamily::V6, Traffic::External), 3)]));
        metrics.set_dataplane("nftables", "a \"reason\"\nin two lines");
        metrics.set_warnings([("table", 2), ("link", 0)].into_iter());
        let text = metrics.render();
        for line in [
            "# TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.001\"} 0",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv6\",le=\"0.002\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv6\",le=\"+Inf\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 1",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 0",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total 2",
            "kubeproxy_sync_proxy_rules_service_changes_total 1",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"external\"} 3",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"internal\"} 0",
            "dyad_agent_warnings{kind=\"table\"} 2",
            "dyad_agent_warnings{kind=\"link\"} 0",
            "dyad_agent_dataplane_info{dataplane=\"nftables\",reason=\"a \\\"reason\\\"\\nin two lines\"} 1",
        ] {
            assert!(text.lines().any(|of| of == line), "{line} is not in\n{text}");
        }
        // What happened after now has not been programmed yet: clocks differ.
        metrics.programmed(IpFamily::V4, Timestamp::MAX);
        assert!(
            metrics.render().contains("network_programming_duration_seconds_count{ip_family=\"IPv4\"} 0")
        );
    }
}
