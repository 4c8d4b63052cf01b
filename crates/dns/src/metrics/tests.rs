use std::sync::Arc;
use std::time::Duration;

use dyad_net::IpFamily;

use super::*;
use crate::respond::{Transport, Zone};
use crate::wire::{Rcode, Rtype};

#[test]
fn counters_add_up_over_threads() {
    let registry = Registry::new();
    let counter = registry.counter("hits_total", "Hits.", &[("zone", "a\"b")]);
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| (0..100).for_each(|_| counter.increment()));
        }
    });
    // The same labels are the same counter.
    registry.counter("hits_total", "Hits.", &[("zone", "a\"b")]).add(5);
    registry.gauge("size", "Size\nnow.", &[]).set(-3);
    let text = registry.render();
    assert!(
        text.contains(
            "# HELP hits_total Hits.\n# TYPE hits_total counter\nhits_total{zone=\"a\\\"b\"} 1005\n"
        )
    );
    assert!(text.contains("# HELP size Size\\nnow.\n# TYPE size gauge\nsize -3\n"));
    assert!(text.contains("coredns_panics_total 0\n") && text.contains("coredns_build_info{"));
}

#[test]
fn histograms_are_cumulative() {
    let registry = Registry::default();
    let sizes = registry.histogram("size_bytes", "Sizes.", &[("a", "b")], Scale::One, &SIZES);
    for size in [0, 100, 101, 1_000_000] {
        sizes.observe(size);
    }
    let text = registry.render();
    for line in [
        "size_bytes_bucket{a=\"b\",le=\"0\"} 1",
        "size_bytes_bucket{a=\"b\",le=\"100\"} 2",
        "size_bytes_bucket{a=\"b\",le=\"200\"} 3",
        "size_bytes_bucket{a=\"b\",le=\"64000\"} 3",
        "size_bytes_bucket{a=\"b\",le=\"+Inf\"} 4",
        "size_bytes_sum{a=\"b\"} 1000201",
        "size_bytes_count{a=\"b\"} 4",
    ] {
        assert!(text.lines().any(|one| one == line), "{line} in {text}");
    }
}

/// The names and labels of CoreDNS.
#[test]
fn requests() {
    let registry = Arc::new(Registry::default());
    let requests = Requests::new(registry.clone(), "dns://:53", &"cluster.local".parse().unwrap());
    let mut request = Request {
        zone: Zone::Cluster,
        transport: Transport::Udp,
        family: IpFamily::V6,
        rtype: Rtype::AAAA,
        rcode: Rcode::NXDOMAIN,
        request_size: 40,
        response_size: 600,
        took: Duration::from_micros(300),
        plugin: PLUGIN,
    };
    requests.count(&request);
    requests.count(&request);
    request.rtype = Rtype(4711);
    (request.zone, request.plugin, request.transport) = (Zone::Root, "forward", Transport::Tcp);
    requests.count(&request);
    let text = registry.render();
    for line in [
        r#"coredns_dns_requests_total{family="2",proto="udp",server="dns://:53",type="AAAA",view="",zone="cluster.local."} 2"#,
        r#"coredns_dns_requests_total{family="2",proto="tcp",server="dns://:53",type="other",view="",zone="."} 1"#,
        r#"coredns_dns_responses_total{plugin="kubernetes",rcode="NXDOMAIN",server="dns://:53",view="",zone="cluster.local."} 2"#,
        r#"coredns_dns_responses_total{plugin="forward",rcode="NXDOMAIN",server="dns://:53",view="",zone="."} 1"#,
        r#"coredns_dns_request_duration_seconds_bucket{server="dns://:53",view="",zone="cluster.local.",le="0.00025"} 0"#,
        r#"coredns_dns_request_duration_seconds_bucket{server="dns://:53",view="",zone="cluster.local.",le="0.0005"} 2"#,
        r#"coredns_dns_request_size_bytes_sum{proto="udp",server="dns://:53",view="",zone="cluster.local."} 80"#,
        r#"coredns_dns_response_size_bytes_bucket{proto="udp",server="dns://:53",view="",zone="cluster.local.",le="1023"} 2"#,
    ] {
        assert!(text.lines().any(|one| one == line), "{line} in {text}");
    }
}
