//! Every option of every plugin.

use std::time::Duration;

use dyad_net::Pref64;

use super::*;

#[test]
fn kubernetes_with_all_its_options() {
    let server = server(
        "kubernetes cluster.local 10.96.0.0/16 fd00:10:96::/112 {
            namespaces a b
            labels app in (x, y)
            pods verified
            endpoint_pod_names
            ttl 0
            noendpoints
            fallthrough
            ignore empty_service
            empty_headless nodata
            kubeconfig /etc/kubeconfig admin
            endpoint https://api:6443
            tls cert key ca
            multicluster clusterset.local
            startup_timeout 1m
            resyncperiod 5m
            upstream
        }",
    );
    let read = server.kubernetes.unwrap();
    assert_eq!(read.zones[..2], ["cluster.local.", "96.10.in-addr.arpa."]);
    assert_eq!(read.zones[2], "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa.");
    assert_eq!(read.namespaces, ["a", "b"]);
    assert_eq!(read.labels.as_deref(), Some("app in (x, y)"));
    assert_eq!((read.pods, read.ttl), (Pods::Verified, 0));
    assert!(read.endpoint_pod_names && read.no_endpoints);
    assert!(read.ignore_empty_service && read.empty_headless_exists);
    assert_eq!(read.fallthrough, ["."]);
    assert_eq!(read.kubeconfig, Some(("/etc/kubeconfig".to_owned(), Some("admin".to_owned()))));
    assert_eq!(read.multicluster, ["clusterset.local."]);
    assert_eq!(read.startup_timeout, Duration::from_secs(60));
}

#[test]
fn forward_with_all_its_options() {
    let server = server(
        "forward Example.org 192.0.2.1 {
            except a.example.org b.example.org
            force_tcp
            prefer_udp
            expire 1m30s
            max_fails 0
            policy lowest_rtt
            health_check 250ms no_rec domain example.org
            max_concurrent 0
            tls cert key ca
            tls_servername dns.example.org
            failover SERVFAIL refused
            failfast_all_unhealthy_upstreams
            qname_case keep
        }",
    );
    let read = &server.forwards[0];
    assert_eq!(read.from, "example.org.");
    assert_eq!(read.except, ["a.example.org.", "b.example.org."]);
    assert!(read.force_tcp && read.prefer_udp && read.fail_fast && !read.random_case);
    assert_eq!(read.expire, Duration::from_secs(90));
    assert_eq!((read.max_fails, read.policy, read.max_concurrent), (0, Policy::LowestRtt, None));
    assert_eq!(read.health_check, Duration::from_millis(250));
    assert_eq!((read.health_recursion, read.health_domain.as_str()), (false, "example.org."));
    assert_eq!(read.tls_servername.as_deref(), Some("dns.example.org"));
    assert_eq!(read.failover, [2, 5]);
}

#[test]
fn validation_begins_with_anchors() {
    for (text, want) in [("dnssec", Anchors::Iana), ("dnssec root.key", Anchors::File("root.key".to_owned()))]
    {
        let parsed = parse(&format!(". {{\nforward . ::1 {{\n{text}\n}}\n}}"));
        if cfg!(feature = "dnssec") {
            assert_eq!(parsed.unwrap().servers[0].forwards[0].dnssec, Some(want));
        } else {
            let error = parsed.unwrap_err().to_string();
            assert_eq!(error, "Corefile:3: this build does not validate: build with --features dnssec");
        }
    }
}

#[test]
fn upstreams_in_every_spelling() {
    let address = |transport, at: &str, link: Option<&str>, name: Option<&str>| Upstream::Address {
        transport,
        at: at.parse().unwrap(),
        link: link.map(str::to_owned),
        name: name.map(str::to_owned),
    };
    use Transport::{Dns, Tls};
    for (text, want) in [
        ("192.0.2.1", Some(address(Dns, "192.0.2.1:53", None, None))),
        ("192.0.2.1:5353", Some(address(Dns, "192.0.2.1:5353", None, None))),
        ("2001:db8::1", Some(address(Dns, "[2001:db8::1]:53", None, None))),
        ("[2001:db8::1]", Some(address(Dns, "[2001:db8::1]:53", None, None))),
        ("[2001:db8::1]:5353", Some(address(Dns, "[2001:db8::1]:5353", None, None))),
        ("dns://192.0.2.1", Some(address(Dns, "192.0.2.1:53", None, None))),
        ("tls://192.0.2.1", Some(address(Tls, "192.0.2.1:853", None, None))),
        ("tls://[2001:db8::1]:8853", Some(address(Tls, "[2001:db8::1]:8853", None, None))),
        ("tls://192.0.2.1%dns.example", Some(address(Tls, "192.0.2.1:853", None, Some("dns.example")))),
        ("fe80::1%eth0", Some(address(Dns, "[fe80::1]:53", Some("eth0"), None))),
        ("[fe80::1%eth0]:5353", Some(address(Dns, "[fe80::1]:5353", Some("eth0"), None))),
        ("/run/resolv.conf", Some(Upstream::File("/run/resolv.conf".to_owned()))),
        ("192.0.2.1%eth0", None),
        ("[192.0.2.1", None),
        ("tls:///etc/resolv.conf", None),
        ("192.0.2.1:", None),
    ] {
        let parsed = parse(&format!(". {{\n forward . {text}\n}}"));
        assert_eq!(parsed.ok().map(|parsed| parsed.servers[0].forwards[0].to[0].clone()), want, "{text}");
    }
}

#[test]
fn cache_with_all_its_options() {
    let read = server(
        "cache 60 example.org {
            success 5000 300 10
            denial 2500 30 5
            prefetch 10 1m 20%
            serve_stale 2h verify
            servfail 10s
            disable denial a.example.org b.example.org
            keepttl
        }",
    );
    let read = read.cache.unwrap();
    assert_eq!(read.zones, ["example.org."]);
    let of = |keep: &Keep| (keep.capacity, keep.max_ttl, keep.min_ttl, keep.disabled.clone());
    assert_eq!(of(&read.success), (5000, 300, 10, Vec::new()));
    let disabled = ["a.example.org.", "b.example.org."].map(str::to_owned).to_vec();
    assert_eq!(of(&read.denial), (2500, 30, 5, disabled));
    assert_eq!(read.prefetch, Prefetch { amount: 10, window: Duration::from_secs(60), percentage: 20 });
    assert_eq!((read.serve_stale, read.stale_at_once), (Some(Duration::from_secs(7200)), false));
    assert_eq!(read.servfail, Duration::from_secs(10));
    assert!(read.keep_ttl);
    assert_eq!(read.bytes, 7500 * 512);
    assert_eq!(server("cache {\nbytes 3MiB\n}").cache.unwrap().bytes, 3 << 20);
    // CoreDNS' bounds.
    let read = server("cache").cache.unwrap();
    assert_eq!((read.success.max_ttl, read.denial.max_ttl, read.serve_stale), (3600, 1800, None));
    assert!(server("cache {\nserve_stale\n}").cache.unwrap().stale_at_once);
}

#[test]
fn dns64_with_all_its_options() {
    let read = server("dns64").dns64.unwrap();
    assert_eq!(read.prefixes[0].prefix, Pref64::WELL_KNOWN);
    assert_eq!(read.clients, ["::/0".parse().unwrap()]);
    assert_eq!(server("dns64 2001:db8::/32").dns64.unwrap().prefixes[0].prefix.to_string(), "2001:db8::/32");
    let read = server(
        "dns64 {
            prefix 64:ff9b:1:fffe::/96 for 10.0.0.0/8 192.168.0.0/16 clients fd00::/8
            prefix 64:ff9b::/96
            synthesize first
            translate_all
            allow_ipv4
            exclude 2001:db8:dead::/48
            deny 192.0.2.0/24 198.51.100.7
            namespaces a b
            except_namespaces c
            cluster_zones
            ptr off
            checking_disabled synthesize
        }",
    );
    let read = read.dns64.unwrap();
    assert_eq!(read.prefixes.len(), 2);
    assert_eq!(read.prefixes[0].targets.len(), 2);
    assert_eq!(read.prefixes[0].clients, ["fd00::/8".parse().unwrap()]);
    assert_eq!(read.synthesize, Synthesize::First);
    assert!(read.translate_all && read.cluster_zones && !read.ptr && !read.strict_cd);
    assert_eq!(read.clients.len(), 2);
    assert_eq!(read.exclude, ["2001:db8:dead::/48".parse().unwrap()]);
    assert_eq!(read.deny, ["192.0.2.0/24".parse().unwrap(), "198.51.100.7/32".parse().unwrap()]);
    assert_eq!((read.namespaces.len(), read.except_namespaces.len()), (2, 1));
}

#[test]
fn hosts_with_all_its_options() {
    let read = server("hosts").hosts.unwrap();
    assert_eq!(read.file.as_deref(), Some("/etc/hosts"));
    let read = server(
        "hosts {
            192.0.2.1 A.example.org b.example.org
            2001:db8::1 a.example.org
            ttl 60
            no_reverse
            reload 1m
            fallthrough example.org
        }",
    );
    let read = read.hosts.unwrap();
    assert_eq!((read.file, read.ttl, read.no_reverse), (None, 60, true));
    assert_eq!(read.inline[0].1, ["a.example.org.", "b.example.org."]);
    assert_eq!(read.inline.len(), 2);
    assert_eq!(read.fallthrough, ["example.org."]);
    let read = server("hosts /etc/other example.org example.net").hosts.unwrap();
    assert_eq!((read.file.as_deref(), read.zones.len()), (Some("/etc/other"), 2));
}

#[test]
fn rewrites_in_every_form() {
    let server = server(
        r"rewrite name a.example.org b.example.org
        rewrite continue name prefix a- b-
        rewrite stop name suffix .Example.org .example.net answer auto
        rewrite name substring foo bar
        rewrite name regex (.*)\.x\.org {1}.y.org answer name (.*)\.y\.org {1}.x.org answer value (.*)\.y {1}.x
        rewrite stop {
            name regex (.*)\.z\.org {1}.y.org
            answer name (.*)\.y\.org {1}.z.org
            answer value regex a b
        }",
    );
    let shape: Vec<_> = server
        .rewrites
        .iter()
        .map(|rule| {
            let matcher = match &rule.matcher {
                Matcher::Exact(text) => format!("exact {text}"),
                Matcher::Prefix(text) => format!("prefix {text}"),
                Matcher::Suffix(text) => format!("suffix {text}"),
                Matcher::Substring(text) => format!("substring {text}"),
                Matcher::Regex(regex) => format!("regex {regex}"),
            };
            (rule.goes_on, matcher, rule.to.as_str(), rule.answer_auto, rule.answers.len())
        })
        .collect();
    let want = [
        (false, "exact a.example.org.", "b.example.org.", false, 0),
        (true, "prefix a-", "b-", false, 0),
        (false, "suffix .example.org.", ".example.net.", true, 0),
        (false, "substring foo", "bar", false, 0),
        (false, r"regex (.*)\.x\.org", "{1}.y.org", false, 2),
        (false, r"regex (.*)\.z\.org", "{1}.y.org", false, 2),
    ];
    let want = want.map(|(on, matcher, to, auto, answers)| (on, matcher.to_owned(), to, auto, answers));
    assert_eq!(shape, want);
    assert!(server.rewrites[4].answers[1].value && !server.rewrites[5].answers[0].value);
}

#[test]
fn templates_that_answer_nothing() {
    let server = server(
        "template IN AAAA example.org {
            match ^v4only\\.
            rcode NOERROR
            authority \"{{ .Zone }} 60 IN SOA ns hostmaster 1 60 60 60 60\"
            fallthrough
        }
        template ANY ANY test {
            rcode NXDOMAIN
        }",
    );
    let [first, second] = server.templates.as_slice() else { panic!("two") };
    assert_eq!((first.kind, first.rcode, first.matches.len()), (Some(28), 0, 1));
    assert_eq!(
        (first.zones.as_slice(), first.fallthrough.as_slice()),
        (&["example.org.".to_owned()][..], &[".".to_owned()][..])
    );
    assert_eq!((second.kind, second.rcode), (None, 3));
}

#[test]
fn the_small_ones() {
    let server = server(
        "log example.org \"{remote} {name}\" {
            class denial error
        }
        errors {
            consolidate 5m \".* timeout$\"
        }
        health localhost:8081 {
            lameduck 5s
        }
        ready [::1]:8182
        prometheus 0.0.0.0:9154
        reload 10s 3s
        loadbalance round_robin
        bind lo 192.0.2.1 {
            except 127.0.0.1
        }
        nodecache 10.96.0.10 fd00:10:96::a",
    );
    let log = server.log.unwrap();
    assert_eq!(
        (log.zones, log.classes),
        (vec!["example.org.".to_owned()], vec!["denial".to_owned(), "error".to_owned()])
    );
    assert_eq!(server.health.unwrap().listen, "127.0.0.1:8081".parse().unwrap());
    assert_eq!(server.ready, Some("[::1]:8182".parse().unwrap()));
    assert_eq!(server.prometheus, Some("0.0.0.0:9154".parse().unwrap()));
    assert_eq!(
        server.reload,
        Some(Reload { interval: Duration::from_secs(10), jitter: Duration::from_secs(3) })
    );
    assert_eq!((server.bind.on.len(), server.bind.except.len()), (2, 1));
    assert_eq!(server.nodecache.unwrap().addresses.len(), 2);
    assert_eq!(super::server("reload off").reload, None);
}
