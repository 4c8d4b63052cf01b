//! What is not supported is named with its line and the way out.

use super::*;

#[test]
fn faults_of_the_file() {
    for (text, want) in [
        ("", "Corefile:1: there is no server block: write one like .:53 { ... }"),
        (". {", "Corefile:1: a block that begins here never ends: add a }"),
        (". {\n}\n}", "Corefile:3: expected a server block, found \"}\": end the line with {"),
        ("example.org\n", "Corefile:1: expected a server block, found \"example.org\": end the line with {"),
        (". {\n} x {\n}", "Corefile:2: \"x\" must begin a line of its own"),
        (". { errors }", "Corefile:1: what follows a { must begin a line of its own"),
        (". {\n cache {\n }\n", "Corefile:1: a block that begins here never ends: add a }"),
        ("{\n errors\n}", "Corefile:2: a server block has no zone: write one before its {, like .:53"),
        (". {\n log \"a\n}", "Corefile:2: a quotation that begins here never ends: add a \""),
        (". {\n cache {$TTL}\n}", "Corefile:2: the environment variable TTL is not set"),
        ("import other", "Corefile:1: can't import other: no such file"),
        ("(a) {\n import a\n}\n. {\n import a\n}", "Corefile:2: a is imported by itself"),
        (
            ". {\n}\n.:53 {\n}",
            "Corefile:3: .:53 has a server block already, at Corefile:1: put both into one, or bind them apart",
        ),
        ("tls://. {\n}", "Corefile:1: tls:// is not served: use dns://, or another server"),
        (".:99999 {\n}", "Corefile:1: \"99999\" is not a number from 1 to 65535"),
        ("a..b {\n}", "Corefile:1: \"a..b\" is not a domain name"),
    ] {
        assert_eq!(error(text), want, "{text}");
    }
    // Blocks for one zone at several addresses are no contradiction.
    assert_eq!(parse(". {\n bind ::1\n}\n. {\n bind 127.0.0.1\n}").unwrap().servers.len(), 2);
}

#[test]
fn faults_of_plugins() {
    for (body, want) in [
        ("fordward . ::1", "there is no plugin \"fordward\": correct or remove it"),
        ("acl", "plugin acl is not supported: say who may ask with NetworkPolicies"),
        (
            "file db",
            "plugin file is not supported: serve the zone file with another server, and forward to it",
        ),
        ("proxy . ::1", "proxy is gone from CoreDNS, too: use forward"),
        ("cache\ncache", "cache is in this server block already: put both into one"),
        ("kubernetes {\npods all\n}", "pods \"all\": write disabled, insecure or verified"),
        (
            "kubernetes {\nnonsense\n}",
            "kubernetes has no option \"nonsense\" here: remove it, or use one of namespaces, labels, \
             namespace_labels, pods, endpoint_pod_names, ttl, noendpoints, fallthrough, ignore, empty_headless, \
             kubeconfig, endpoint, tls, multicluster, startup_timeout",
        ),
        ("kubernetes {\nttl 3601\n}", "\"3601\" is not a number from 0 to 3600"),
        ("forward .", "forward needs upstreams: write addresses, or /etc/resolv.conf"),
        ("forward . https://dns.example", "upstreams by \"https\" are not supported: use dns:// or tls://"),
        (
            "forward . ns.example.org",
            "\"ns.example.org\" is no upstream: write an address with or without a port, tls:// before it, or a file",
        ),
        (
            "forward . ::1 {\nnext NXDOMAIN\n}",
            "forward has no option next: failover asks another upstream upon a code",
        ),
        ("forward . ::1 {\nexpire soon\n}", "\"soon\" is not a duration: write one like 500ms, 30s or 1h"),
        (
            "dns64 64:ff9b::/97",
            "64:ff9b::/97 can't carry IPv4 addresses: its length must be 32, 40, 48, 56, 64 or 96 (RFC 6052 §2.2)",
        ),
        ("rewrite ttl example.org 30", "rewrite ttl is not supported: only names are rewritten"),
        (
            "template IN AAAA {\nanswer \"x\"\n}",
            "template: answers of its own are not supported: write addresses as hosts { ... }",
        ),
        ("cache {\nservfail 10m\n}", "failures are remembered for five minutes at most: write 5m or less"),
        (
            "errors {\nwhatever\n}",
            "errors has no option \"whatever\" here: remove it, or use one of consolidate, stacktrace",
        ),
        ("loop {\nx\n}", "loop has no options: remove \"x\""),
        ("loadbalance weighted file", "loadbalance takes one argument: remove \"file\""),
    ] {
        let got = error(&format!(". {{\n{body}\n}}"));
        let (at, what) = got.split_once(": ").unwrap();
        assert_eq!(what, want, "{body}");
        // The line of the offending word: its option, if it has one, else the plugin.
        let line = if body.contains('\n') { 3 } else { 2 };
        assert_eq!(at, format!("Corefile:{line}"), "{body}");
    }
}

#[test]
fn plugins_that_change_nothing_are_told() {
    let parsed = parse(". {\n any\n bufsize 1232\n}").unwrap();
    let notes: Vec<_> = parsed.notes.iter().map(|note| format!("{}: {}", note.at, note.what)).collect();
    assert_eq!(
        notes,
        [
            "Corefile:2: any changes nothing: ANY gets a minimal answer always (RFC 8482)",
            "Corefile:3: bufsize changes nothing: answers over UDP have 1232 bytes at most always",
        ]
    );
}
