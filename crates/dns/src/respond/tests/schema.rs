//! A.2 and A.3, row by row, as CoreDNS' own table has them.

use super::*;

/// Code and answers, sorted, as `TYPE DATA` in words; SOA of negative answers aside.
fn words(snapshot: &Snapshot, asked: &str, rtype: Rtype) -> String {
    let packet = query(asked, rtype).to_bytes();
    let Ok(message) = ask_by(snapshot, &Rules::default(), &packet, &client(Transport::Tcp)) else {
        return "slow".to_owned();
    };
    let short = |name: &Name| name.to_string().replace(".svc.cluster.local.", "");
    let word = |data: &Rdata| match data {
        Rdata::A(ip) => ip.to_string(),
        Rdata::Aaaa(ip) => ip.to_string(),
        Rdata::Srv(srv) => format!("{}/{}:{}", short(&srv.target), srv.weight, srv.port),
        Rdata::Ns(to) | Rdata::Cname(to) | Rdata::Ptr(to) => short(to),
        Rdata::Txt(strings) => String::from_utf8_lossy(&strings[0]).into_owned(),
        Rdata::Soa(soa) => format!("{} {} {}", soa.mname, soa.rname, soa.minimum),
        other => panic!("{other:?}"),
    };
    let mut answers: Vec<_> = message.answers.iter().map(|record| word(&record.data)).collect();
    answers.sort();
    let mut glue: Vec<_> = message.additional.iter().map(|record| word(&record.data)).collect();
    glue.sort();
    let rcode = Some(message.header.rcode.to_string())
        .filter(|_| answers.is_empty() || message.header.rcode != Rcode::NOERROR);
    let negative = message.authority.iter().map(|record| format!("({})", record.name));
    let glue = (!glue.is_empty()).then(|| format!("+ {}", glue.join(" ")));
    let words: Vec<_> = rcode.into_iter().chain(answers).chain(glue).chain(negative).collect();
    words.join(" ")
}

#[test]
fn rows() {
    let snapshot = synced(|_| {});
    let nodata = "NOERROR (cluster.local.)";
    let nxdomain = "NXDOMAIN (cluster.local.)";
    for (row, asked, rtype, expected) in [
        ("1", "dns-version.cluster.local", Rtype::TXT, "1.1.0"),
        ("1", "dns-version.cluster.local", Rtype::A, nodata),
        ("2", "svc1.testns.svc.cluster.local", Rtype::A, "10.0.0.1"),
        ("2 other family", "svc1.testns.svc.cluster.local", Rtype::AAAA, nodata),
        ("2", "svc6.testns.svc.cluster.local", Rtype::AAAA, "fd00::6"),
        ("2 other family", "svc6.testns.svc.cluster.local", Rtype::A, nodata),
        ("2", "dual.testns.svc.cluster.local", Rtype::A, "10.0.0.3"),
        ("2", "dual.testns.svc.cluster.local", Rtype::AAAA, "fd00::3"),
        ("2 pending", "pending.testns.svc.cluster.local", Rtype::A, nodata),
        ("2 TXT", "svc1.testns.svc.cluster.local", Rtype::TXT, nodata),
        ("2 unknown", "svc0.testns.svc.cluster.local", Rtype::AAAA, nxdomain),
        ("2 unknown namespace", "svc0.nons.svc.cluster.local", Rtype::TXT, nxdomain),
        (
            "3",
            "_http._tcp.dual.testns.svc.cluster.local",
            Rtype::SRV,
            "dual.testns/100:80 + 10.0.0.3 fd00::3",
        ),
        ("3 as A", "_http._tcp.dual.testns.svc.cluster.local", Rtype::A, nodata),
        ("3 no such port", "_https._tcp.dual.testns.svc.cluster.local", Rtype::SRV, nxdomain),
        ("3 no such protocol", "_http._udp.dual.testns.svc.cluster.local", Rtype::SRV, nxdomain),
        ("3 in between", "_tcp.dual.testns.svc.cluster.local", Rtype::SRV, nodata),
        ("3 in between", "_udp.dual.testns.svc.cluster.local", Rtype::SRV, nxdomain),
        ("3 pending", "_http._tcp.pending.testns.svc.cluster.local", Rtype::SRV, nodata),
        (
            "4",
            "dual.testns.svc.cluster.local",
            Rtype::SRV,
            "dual.testns/50:443 dual.testns/50:80 + 10.0.0.3 fd00::3",
        ),
        (
            "4 same number",
            "kube-dns.kube-system.svc.cluster.local",
            Rtype::SRV,
            "kube-dns.kube-system/100:53 + 10.96.0.10 fd00:96::a",
        ),
        ("5", "3.0.0.10.in-addr.arpa", Rtype::PTR, "dual.testns"),
        (
            "5",
            "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            Rtype::PTR,
            "dual.testns",
        ),
        ("5 other type", "3.0.0.10.in-addr.arpa", Rtype::A, "NOERROR (10.in-addr.arpa.)"),
        ("6", "hdls1.testns.svc.cluster.local", Rtype::A, "10.0.1.2 10.0.1.3 10.0.1.4 10.0.1.5"),
        ("6", "hdls1.testns.svc.cluster.local", Rtype::AAAA, "::1 fd00:1:: fd00:1::1 fd00:1::4"),
        ("6 other family", "portless.testns.svc.cluster.local", Rtype::AAAA, nodata),
        ("6 none ready", "empty.testns.svc.cluster.local", Rtype::A, nxdomain),
        ("7", "dup.hdls1.testns.svc.cluster.local", Rtype::A, "10.0.1.4 10.0.1.5"),
        ("7", "dup.hdls1.testns.svc.cluster.local", Rtype::AAAA, "fd00:1::4"),
        ("7", "10-0-1-2.hdls1.testns.svc.cluster.local", Rtype::A, "10.0.1.2"),
        ("7", "10-0-1-2.hdls1.testns.svc.cluster.local", Rtype::AAAA, nodata),
        ("7 not by its address", "10-0-1-4.hdls1.testns.svc.cluster.local", Rtype::A, nxdomain),
        ("7", "fd00-1--1.hdls1.testns.svc.cluster.local", Rtype::AAAA, "fd00:1::1"),
        ("7 spelling", "FD00-0001-0-0-0-0-0-1.hdls1.testns.svc.cluster.local", Rtype::AAAA, "fd00:1::1"),
        ("7 leading zero", "0--1.hdls1.testns.svc.cluster.local", Rtype::AAAA, "::1"),
        ("7 portless", "10-0-2-20.portless.testns.svc.cluster.local", Rtype::A, "10.0.2.20"),
        ("7 not ready", "late.hdls1.testns.svc.cluster.local", Rtype::A, nxdomain),
        ("7 unknown", "bogus.hdls1.testns.svc.cluster.local", Rtype::A, nxdomain),
        ("7 of a cluster IP", "10-0-3-1.svc1.testns.svc.cluster.local", Rtype::A, "10.0.3.1"),
        (
            "8",
            "_http._tcp.hdls1.testns.svc.cluster.local",
            Rtype::SRV,
            "0--1.hdls1.testns/16:80 10-0-1-2.hdls1.testns/16:80 10-0-1-3.hdls1.testns/16:80 dup.hdls1.testns/16:80 \
             fd00-1--1.hdls1.testns/16:80 zero.hdls1.testns/16:80 \
             + 10.0.1.2 10.0.1.3 10.0.1.4 10.0.1.5 ::1 fd00:1:: fd00:1::1 fd00:1::4",
        ),
        ("8 portless", "portless.testns.svc.cluster.local", Rtype::SRV, nodata),
        ("9", "2.1.0.10.in-addr.arpa", Rtype::PTR, "10-0-1-2.hdls1.testns"),
        ("9", "4.1.0.10.in-addr.arpa", Rtype::PTR, "dup.hdls1.testns"),
        ("9 named by a slice", "2.3.0.10.in-addr.arpa", Rtype::PTR, "named.svc1.testns"),
        ("9 not named", "1.3.0.10.in-addr.arpa", Rtype::PTR, "NXDOMAIN (10.in-addr.arpa.)"),
        (
            "9 outside of ranges",
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
            Rtype::PTR,
            "0--1.hdls1.testns",
        ),
        ("10", "outside.testns.svc.cluster.local", Rtype::CNAME, "ext.interwebs.test."),
        ("10", "outside.testns.svc.cluster.local", Rtype::A, "slow"),
        ("10 within", "inside.testns.svc.cluster.local", Rtype::A, "10.0.0.1 svc1.testns"),
        (
            "10 within, other family",
            "inside.testns.svc.cluster.local",
            Rtype::AAAA,
            "svc1.testns (cluster.local.)",
        ),
        (
            "10 to nothing",
            "nowhere.testns.svc.cluster.local",
            Rtype::A,
            "NXDOMAIN none.testns (cluster.local.)",
        ),
        ("10 below", "x.outside.testns.svc.cluster.local", Rtype::A, nxdomain),
        ("10 ports", "_http._tcp.outside.testns.svc.cluster.local", Rtype::SRV, nxdomain),
        ("10 in circles", "ping.testns.svc.cluster.local", Rtype::A, "SERVFAIL"),
        ("11", "10-20-0-101.testns.pod.cluster.local", Rtype::A, "10.20.0.101"),
        ("11", "10-20-0-101.testns.pod.cluster.local", Rtype::AAAA, nodata),
        ("11", "fd00--5.bare.pod.cluster.local", Rtype::AAAA, "fd00::5"),
        ("11 no address", "web-0.testns.pod.cluster.local", Rtype::A, nxdomain),
        ("11 unknown namespace", "10-20-0-101.nons.pod.cluster.local", Rtype::A, nxdomain),
        ("12", "cluster.local", Rtype::SOA, "ns.dns.cluster.local. hostmaster.cluster.local. 30"),
        ("12", "cluster.local", Rtype::NS, "ns.dns.cluster.local. + 10.96.0.10 fd00:96::a"),
        ("12", "cluster.local", Rtype::A, nodata),
        ("12", "ns.dns.cluster.local", Rtype::AAAA, "fd00:96::a"),
        ("12", "10.in-addr.arpa", Rtype::SOA, "ns.dns.cluster.local. hostmaster.cluster.local. 30"),
        ("12", "10.in-addr.arpa", Rtype::NS, "ns.dns.cluster.local. + 10.96.0.10 fd00:96::a"),
        ("in between", "svc.cluster.local", Rtype::NS, nodata),
        ("in between", "pod.cluster.local", Rtype::A, nodata),
        ("in between", "dns.cluster.local", Rtype::A, nodata),
        ("in between", "testns.svc.cluster.local", Rtype::SRV, nodata),
        ("in between", "bare.svc.cluster.local", Rtype::A, nodata),
        ("in between", "nons.svc.cluster.local", Rtype::A, nxdomain),
        ("nothing", "foo.cluster.local", Rtype::NS, nxdomain),
        ("too deep", "a.b.c.svc1.testns.svc.cluster.local", Rtype::A, nxdomain),
        ("reverse, unknown", "9.9.9.10.in-addr.arpa", Rtype::PTR, "NXDOMAIN (10.in-addr.arpa.)"),
        ("reverse, not ours", "1.2.0.192.in-addr.arpa", Rtype::PTR, "slow"),
        ("reverse, above", "d.f.ip6.arpa", Rtype::PTR, "NOERROR (d.f.ip6.arpa.)"),
        ("reverse, not above", "e.f.ip6.arpa", Rtype::PTR, "slow"),
        ("reverse, within", "1.0.10.in-addr.arpa", Rtype::PTR, "NOERROR (10.in-addr.arpa.)"),
        ("elsewhere", "example.com", Rtype::A, "slow"),
        ("elsewhere", "xcluster.local", Rtype::A, "slow"),
    ] {
        assert_eq!(words(&snapshot, asked, rtype), expected, "{row}: {asked} {rtype}");
    }
}

#[test]
fn modes_of_pods() {
    let asked = ["10-0-0-9.testns.pod.cluster.local", "fd00-0--9.testns.pod.cluster.local"];
    let ask = |mode| {
        let mut store = store(|options| options.pods = mode);
        let pod = crate::zone::Pod { ips: ips("10.0.0.9 fd00::9") };
        store.set_pod(&object("testns/p"), Some(pod.clone()));
        store.set_pod(&object("other/p"), Some(pod.clone()));
        store.set_pod(&object("other/p"), None);
        store.set_synced();
        store.publish(1);
        let snapshot = store.published().snapshot();
        let answers = [words(&snapshot, asked[0], Rtype::A), words(&snapshot, asked[1], Rtype::AAAA)];
        (
            answers.join(" "),
            words(&snapshot, "10-0-0-8.testns.pod.cluster.local", Rtype::A),
            words(&snapshot, "testns.pod.cluster.local", Rtype::A),
        )
    };
    let (nodata, nxdomain) = ("NOERROR (cluster.local.)", "NXDOMAIN (cluster.local.)");
    let is = |one: &str, other: &str, above: &str| (one.to_owned(), other.to_owned(), above.to_owned());
    assert_eq!(ask(PodMode::Disabled), is(&format!("{nxdomain} {nxdomain}"), nxdomain, nxdomain));
    assert_eq!(ask(PodMode::Insecure), is("10.0.0.9 fd00::9", "10.0.0.8", nodata));
    // Both of its addresses, however they are spelt.
    assert_eq!(ask(PodMode::Verified), is("10.0.0.9 fd00::9", nxdomain, nodata));
}

#[test]
fn options_of_names() {
    let snapshot = synced(|options| {
        options.empty_headless_exists = true;
        options.ignore_empty_service = true;
        options.ttl = 5;
    });
    let (nodata, nxdomain) = ("NOERROR (cluster.local.)", "NXDOMAIN (cluster.local.)");
    assert_eq!(words(&snapshot, "empty.testns.svc.cluster.local", Rtype::A), nodata);
    assert_eq!(words(&snapshot, "dual.testns.svc.cluster.local", Rtype::A), nxdomain);
    assert_eq!(words(&snapshot, "svc1.testns.svc.cluster.local", Rtype::A), "10.0.0.1");
    let soa = ask(&snapshot, &query("cluster.local", Rtype::SOA)).answers.remove(0);
    assert_eq!(soa.ttl, 5);
    assert!(matches!(soa.data, Rdata::Soa(soa) if soa.minimum == 5 && soa.serial == 1_700_000_000));
    let version = ask(&snapshot, &query("dns-version.cluster.local", Rtype::TXT)).answers.remove(0);
    assert_eq!(version.ttl, 28_800);
}

/// A.4: a Service that loses a family loses its record and its PTR in the same snapshot.
#[test]
fn downgrade() {
    let mut store = store(|_| {});
    store.set_synced();
    store.set_service(&object("testns/dual"), Some(cluster("10.0.0.3", "http/80")));
    store.publish(1);
    let snapshot = store.published().snapshot();
    assert_eq!(words(&snapshot, "dual.testns.svc.cluster.local", Rtype::AAAA), "NOERROR (cluster.local.)");
    let reverse = "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    assert!(words(&snapshot, reverse, Rtype::PTR).starts_with("NXDOMAIN"));
}
