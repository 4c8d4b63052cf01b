use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

mod errors;
mod plugins;

/// A world of its own.
#[derive(Default)]
struct World {
    variables: BTreeMap<&'static str, &'static str>,
    files: BTreeMap<&'static str, &'static str>,
}

impl Outside for World {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(|value| (*value).to_owned())
    }

    fn files(&self, _: &str, pattern: &str) -> io::Result<Vec<(String, String)>> {
        let (before, after) = pattern.split_once('*').unwrap_or((pattern, ""));
        let fits = |name: &str| match pattern.contains('*') {
            true => name.starts_with(before) && name.ends_with(after),
            false => name == pattern,
        };
        let found: Vec<_> = self.files.iter().filter(|(name, _)| fits(name)).collect();
        if found.is_empty() && !pattern.contains('*') {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no such file"));
        }
        Ok(found.into_iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
    }
}

fn parse(text: &str) -> Result<Corefile, CorefileError> {
    Corefile::parse("Corefile", text, &World::default())
}

fn error(text: &str) -> String {
    parse(text).map(drop).unwrap_err().to_string()
}

/// The one server of a Corefile that has a single block with `body`.
fn server(body: &str) -> Server {
    let mut parsed = parse(&format!(".:53 {{\n{body}\n}}\n")).unwrap();
    assert_eq!(parsed.servers.len(), 1);
    parsed.servers.remove(0)
}

fn zones(server: &Server) -> Vec<String> {
    server.zones.iter().map(ToString::to_string).collect()
}

const KUBEADM: &str = "
.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30 {
       disable success cluster.local
       disable denial cluster.local
    }
    loop
    reload
    loadbalance
}
";

const K3S: &str = "
.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
      pods insecure
      fallthrough in-addr.arpa ip6.arpa
    }
    hosts /etc/coredns/NodeHosts {
      ttl 60
      reload 15s
      fallthrough
    }
    prometheus :9153
    cache 30
    loop
    reload
    loadbalance
    import /etc/coredns/custom/*.override
    forward . /etc/resolv.conf
}
import /etc/coredns/custom/*.server
";

const NODE_CACHE: &str = "
cluster.local:53 {
    errors
    cache {
            success 9984 30
            denial 9984 5
    }
    reload
    loop
    bind 169.254.20.10 10.0.0.10
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    prometheus :9253
    health 169.254.20.10:8080
    }
in-addr.arpa:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10 10.0.0.10
    forward . __PILLAR__CLUSTER__DNS__ {
            force_tcp
    }
    prometheus :9253
    }
.:53 {
    errors
    cache 30
    reload
    loop
    bind 169.254.20.10 10.0.0.10
    forward . __PILLAR__UPSTREAM__SERVERS__
    prometheus :9253
    }
";

#[test]
fn kubeadms_corefile_is_taken_as_it_is() {
    let parsed = parse(KUBEADM).unwrap();
    assert_eq!(parsed.notes, []);
    let [server] = parsed.servers.as_slice() else { panic!("one block") };
    assert_eq!(zones(server), [".:53"]);
    assert!(server.errors && server.loop_detection && server.loadbalance);
    assert_eq!(server.health.as_ref().unwrap().lameduck.as_secs(), 5);
    assert_eq!(server.health.as_ref().unwrap().listen, "[::]:8080".parse().unwrap());
    assert_eq!(server.ready, Some("[::]:8181".parse().unwrap()));
    assert_eq!(server.prometheus, Some("[::]:9153".parse().unwrap()));
    assert_eq!(server.reload.unwrap().interval.as_secs(), 30);
    let kubernetes = server.kubernetes.as_ref().unwrap();
    assert_eq!(kubernetes.zones, ["cluster.local.", "in-addr.arpa.", "ip6.arpa."]);
    assert_eq!(kubernetes.fallthrough, ["in-addr.arpa.", "ip6.arpa."]);
    assert_eq!((kubernetes.pods, kubernetes.ttl), (Pods::Insecure, 30));
    let [forward] = server.forwards.as_slice() else { panic!("one forward") };
    assert_eq!(forward.from, ".");
    assert_eq!(forward.to, [Upstream::File("/etc/resolv.conf".to_owned())]);
    assert_eq!(forward.max_concurrent, Some(1000));
    let cache = server.cache.as_ref().unwrap();
    assert_eq!((cache.success.max_ttl, cache.denial.max_ttl), (30, 30));
    assert_eq!(cache.success.disabled, ["cluster.local."]);
    assert_eq!(cache.denial.disabled, ["cluster.local."]);
}

#[test]
fn k3s_imports_what_its_users_add() {
    let world = World {
        files: BTreeMap::from([
            (
                "/etc/coredns/custom/a.override",
                "rewrite name foo.example.com bar.default.svc.cluster.local\nlog",
            ),
            ("/etc/coredns/custom/b.server", "example.net:53 {\n forward . 192.0.2.1 2001:db8::1\n}"),
            ("/etc/coredns/custom/b.txt", "no Corefile at all {"),
        ]),
        ..World::default()
    };
    let parsed = Corefile::parse("Corefile", K3S, &world).unwrap();
    let [all, stub] = parsed.servers.as_slice() else { panic!("two blocks") };
    assert_eq!(all.rewrites.len(), 1);
    assert_eq!(all.log.as_ref().unwrap().classes, ["all"]);
    assert_eq!(all.hosts.as_ref().unwrap().file.as_deref(), Some("/etc/coredns/NodeHosts"));
    assert_eq!(stub.forwards[0].to.len(), 2);
    assert_eq!(stub.at.to_string(), "/etc/coredns/custom/b.server:1");
    // Without a volume there is nothing to import.
    assert_eq!(parse(K3S).unwrap().servers.len(), 1);
}

#[test]
fn node_caches_get_their_addresses_from_outside() {
    let world = World {
        variables: BTreeMap::from([
            ("__PILLAR__CLUSTER__DNS__", "10.96.0.11"),
            ("__PILLAR__UPSTREAM__SERVERS__", "192.0.2.1 2001:db8::1"),
        ]),
        ..World::default()
    };
    let parsed = Corefile::parse("Corefile", NODE_CACHE, &world).unwrap();
    let [cluster, reverse, all] = parsed.servers.as_slice() else { panic!("three blocks") };
    assert!(cluster.forwards[0].force_tcp && reverse.forwards[0].force_tcp);
    assert_eq!(cluster.cache.as_ref().unwrap().denial.max_ttl, 5);
    assert_eq!(cluster.bind.on, ["169.254.20.10", "10.0.0.10"]);
    assert_eq!(all.forwards[0].to.len(), 2);
    assert_eq!(
        error(NODE_CACHE),
        "Corefile:11: __PILLAR__CLUSTER__DNS__ is not known here: write the addresses"
    );
}

#[test]
fn the_longest_zone_answers() {
    let text = "
        . { forward . 192.0.2.1
        }
        example.org, sub.example.com example.com:5353 {
            forward . 192.0.2.2
        }
        b.a.example.org {
            forward . 192.0.2.3
        }
        10.0.0.0/8 fd00::/8 {
            forward . 192.0.2.4
        }";
    let text = text.replace(". { forward", ". {\n forward");
    let parsed = parse(&text).unwrap();
    for (port, name, want) in [
        (53, ".", Some("192.0.2.1:53")),
        (53, "example.com.", Some("192.0.2.1:53")),
        (53, "example.org.", Some("192.0.2.2:53")),
        (53, "badexample.org.", Some("192.0.2.1:53")),
        (53, "a.example.org.", Some("192.0.2.2:53")),
        (53, "b.a.example.org.", Some("192.0.2.3:53")),
        (53, "x.b.a.example.org.", Some("192.0.2.3:53")),
        (5353, "x.example.com.", Some("192.0.2.2:53")),
        (5353, "example.org.", None),
        (53, "1.2.3.10.in-addr.arpa.", Some("192.0.2.4:53")),
        (53, "1.2.3.11.in-addr.arpa.", Some("192.0.2.1:53")),
        (53, "0.d.f.ip6.arpa.", Some("192.0.2.4:53")),
    ] {
        let found = parsed.server(port, name).map(|server| match &server.forwards[0].to[0] {
            Upstream::Address { at, .. } => at.to_string(),
            Upstream::File(file) => file.clone(),
        });
        assert_eq!(found.as_deref(), want, "{name} at {port}");
    }
}

#[test]
fn keys_of_blocks() {
    for (key, want) in [
        (".", vec![".:53"]),
        (":1053", vec![".:1053"]),
        ("dns://Example.ORG.", vec!["example.org.:53"]),
        ("dns://example.org:5353", vec!["example.org.:5353"]),
        ("10.1.0.0/16", vec!["1.10.in-addr.arpa.:53"]),
        ("10.1.0.0/16:5353", vec!["1.10.in-addr.arpa.:5353"]),
        ("10.8.0.0/15", vec!["8.10.in-addr.arpa.:53", "9.10.in-addr.arpa.:53"]),
        ("2001:db8::/32", vec!["8.b.d.0.1.0.0.2.ip6.arpa.:53"]),
        ("2001:db8::/32:5353", vec!["8.b.d.0.1.0.0.2.ip6.arpa.:5353"]),
        ("fd00::/7", vec!["c.f.ip6.arpa.:53", "d.f.ip6.arpa.:53"]),
        ("a.b, c.d", vec!["a.b.:53", "c.d.:53"]),
        ("a.b,c.d:54", vec!["a.b.:53", "c.d.:54"]),
        ("a.b,\nc.d", vec!["a.b.:53", "c.d.:53"]),
    ] {
        let parsed = parse(&format!("{key} {{\n}}")).unwrap();
        assert_eq!(zones(&parsed.servers[0]), want, "{key}");
    }
}

#[test]
fn snippets_variables_quotes_and_comments() {
    let world = World {
        variables: BTreeMap::from([("ZONE", "example.org"), ("TTL", "17"), ("TO", "192.0.2.1 192.0.2.2")]),
        ..World::default()
    };
    let text = "
        # A snippet
        (common) {
            errors   # said once
            cache {$TTL}
        }
        {$ZONE}:5300 sub.{%ZONE%} {
            import common
            forward . {$TO}
            rewrite name regex \"a b\\\"\" \"{1}\"
        }";
    let parsed = Corefile::parse("Corefile", text, &world).unwrap();
    let server = &parsed.servers[0];
    assert_eq!(zones(server), ["example.org.:5300", "sub.example.org.:53"]);
    assert!(server.errors);
    assert_eq!(server.cache.as_ref().unwrap().success.max_ttl, 17);
    assert_eq!(server.forwards[0].to.len(), 2);
    let Matcher::Regex(regex) = &server.rewrites[0].matcher else { panic!("an expression") };
    assert_eq!(regex.as_str(), "a b\"");
}

#[test]
fn files_of_a_directory_are_imported_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("b.server", "b {\n}\n");
    write("a.server", "a {\n import inner.conf\n}\n");
    write("inner.conf", "errors");
    write("other", "{{{");
    let main = directory.path().join("Corefile");
    let read = |text| Corefile::parse(main.to_str().unwrap(), text, &Disk::default());
    let parsed = read("import ?.serv*\nimport none/*.server").unwrap();
    let zones: Vec<_> = parsed.servers.iter().flat_map(zones).collect();
    assert_eq!(zones, ["a.:53", "b.:53"]);
    assert!(parsed.servers[0].errors && !parsed.servers[1].errors);
    let missing = read("import none.server").unwrap_err().to_string();
    assert!(missing.contains("Corefile:1: can't import none.server: "), "{missing}");
}

proptest! {
    /// Nothing that is written makes the parser fall over, and what it says names a line that is there.
    #[test]
    fn any_text_is_read_or_refused(
        words in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "\n", "\n", "\n", ".", ".:53", "a.b", "10.0.0.0/9", "fd00::/8", "\"", "\\", "#", "import", "x", "(x)",
            "{$A}", "{%A", "kubernetes", "forward", "cache", "dns64", "hosts", "rewrite", "name", "regex",
            "(.*)", "template", "IN", "AAAA", "prefix", "64:ff9b::/96", "tls://1.1.1.1", "[::1]:53", "ttl",
            "30", "99999999999", "-1", "5s", "1.5h", "answer", "auto", "policy", "random", "bind", "log", "é",
        ]), 0..60),
    ) {
        let text = words.join(" ");
        if let Err(error) = parse(&text) {
            prop_assert!((1..=text.lines().count().max(1) + 1).contains(&error.at.line), "{error}");
        }
    }

    #[test]
    fn any_characters_are_read_or_refused(text in "[ -~\n\té{}]{0,200}") {
        let _ = parse(&text);
        let _ = parse(&format!(". {{\n{text}\n}}"));
    }
}
