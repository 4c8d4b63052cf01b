//! The cluster's DNS as programs see it: resolvers of C libraries in pods, with their search lists and their questions for
//! both families at once; the cases of Kubernetes' own end-to-end tests; and names that stay while things break.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/network.rs"]
mod network;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cluster::{Cluster, kill, text};
use network::{ANY, Talk, ips, script};
use serde_json::{Value, json};

/// C libraries, and what builds a program with each.
const LIBRARIES: [(&str, &[&str]); 2] = [("glibc", &["cc"]), ("musl", &["musl-gcc", "-static"])];
/// The program that asks them.
const RESOLVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/support/resolve.c");

/// A pod that does nothing, with the machine's own programs; `spec` goes into its spec.
fn client(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{{name: sleep, image: \"host:\", command: [sleep, infinity], env: [{{name: POD_ID, value: {name}}}]}}]\n{spec}"
    )
}

/// A web server with a name of its own in Service `headless`.
fn server(name: &str, node: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  nodeName: {node}\n  hostname: {name}\n  subdomain: headless\n  \
         containers: [{{name: echo, image: dyad/echo, env: [{{name: POD_ID, value: {name}}}]}}]\n"
    )
}

/// A Service; `spec` goes into its spec.
fn service(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}"
    )
}

const DUAL: &str = "  ipFamilyPolicy: RequireDualStack\n";
const PORT: &str = "  ports: [{name: http, port: 80, targetPort: 8080}]\n  selector: {app: web}\n";

struct Lab {
    cluster: Cluster,
    libraries: Vec<&'static str>,
}

impl Lab {
    /// A cluster with two nodes, hence two DNS pods, and a pod `client`.
    fn up(cluster: Cluster) -> Option<Self> {
        if !cluster.has_kubectl() {
            return None;
        }
        let started = cluster.start(&["--nodes", "2"]);
        assert!(started.status.success(), "dyad up: {}\n{}", text(&started.stderr), cluster.logs());
        let libraries = LIBRARIES.iter().filter(|(library, compiler)| {
            let program = program(&cluster, library);
            let built =
                Command::new(compiler[0]).args(&compiler[1..]).arg("-o").arg(program).arg(RESOLVE).status();
            match &built {
                Ok(status) => assert!(status.success(), "{RESOLVE} can't be built with {compiler:?}"),
                Err(error) => eprintln!("SKIPPED: names asked by {library}: {}: {error}", compiler[0]),
            }
            built.is_ok()
        });
        let libraries = libraries.map(|(library, _)| *library).collect();
        let lab = Self { cluster, libraries };
        lab.cluster.apply(&client("client", ""));
        lab.ready();
        Some(lab)
    }

    fn ready(&self) {
        self.cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    }

    /// Puts the programs into a pod.
    fn furnish(&self, pod: &str) -> String {
        let copy = |library: &&str| {
            let from = program(&self.cluster, library);
            format!("cp -u {} /proc/$(pid_of {pod})/root/tmp/\n", from.display())
        };
        self.libraries.iter().map(copy).collect()
    }

    /// What each C library in a pod makes of names and addresses: lines like `web 4: 10.96.0.7`.
    fn resolved(&self, pod: &str, library: &str, names: &[&str]) -> BTreeMap<String, String> {
        let ask = format!("{}inside {pod} /tmp/resolve-{library} {}", self.furnish(pod), names.join(" "));
        let printed = script(&self.cluster, ANY, &ask);
        let line =
            |line: &str| line.split_once(": ").map(|(asked, told)| (asked.to_owned(), told.to_owned()));
        printed.lines().filter_map(line).collect()
    }

    /// Waits until every C library in a pod says so.
    #[track_caller]
    fn resolves(&self, pod: &str, rows: &[(&str, &str, &str)]) {
        let mut names: Vec<&str> = rows.iter().map(|(name, ..)| *name).collect();
        names.dedup();
        for library in &self.libraries {
            self.cluster.eventually(&format!("{library} in {pod}"), || {
                let found = self.resolved(pod, library, &names);
                let wrong = rows.iter().filter_map(|(name, kind, wanted)| {
                    let told = found.get(&format!("{name} {kind}")).map(String::as_str).unwrap_or_default();
                    (told != *wanted).then(|| format!("{name} {kind}: {told:?} and not {wanted:?}"))
                });
                let wrong: Vec<String> = wrong.collect();
                if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
            });
        }
    }

    /// What a name server says to questions of a pod: the response code and the sorted data of the answers.
    fn asked(&self, pod: &str, server: &str, more: &str, questions: &[(&str, &str)]) -> Vec<String> {
        let one = |(name, rtype): &(&str, &str)| {
            format!("inside {pod} /run/dyad/bin/dyad dns query {name} {rtype} --server {server} {more}\n")
        };
        let printed = script(&self.cluster, ANY, &questions.iter().map(one).collect::<String>());
        let mut told: Vec<(String, Vec<String>)> = Vec::new();
        for line in printed.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match (line.starts_with("  "), words.as_slice()) {
                (false, [_, _, rcode, ..]) => told.push((rcode.trim_end_matches(',').to_owned(), Vec::new())),
                (true, [_, ttl, _, data @ ..]) if ttl.parse::<u32>().is_ok() => {
                    told.last_mut().expect("a header").1.push(data.join(" "));
                }
                _ => {}
            }
        }
        let join = |(rcode, mut data): (String, Vec<String>)| {
            data.sort();
            data.insert(0, rcode);
            data.join(" ")
        };
        told.into_iter().map(join).collect()
    }

    fn vips(&self, namespace: &str, service: &str) -> Vec<String> {
        ips(&self.cluster.get(&["service", service, "-n", namespace]), "/spec/clusterIPs")
    }

    fn pod_ips(&self, pod: &str) -> Vec<String> {
        let pod = self.cluster.get(&["pod", pod]);
        let ips = pod["status"]["podIPs"].as_array().expect("addresses").iter();
        ips.filter_map(|ip| ip["ip"].as_str().map(str::to_owned)).collect()
    }

    /// Asks for a name again and again by every C library while something happens: no question fails, and none takes longer
    /// than `slowest`.
    #[track_caller]
    fn asking(&self, what: &str, name: &str, slowest: Duration, act: impl FnOnce()) {
        const SECONDS: u32 = 8;
        let ask = |library: &&str| {
            format!("inside client /tmp/resolve-{library} -t {SECONDS} {name} | sed -u 's/^/{library} /' &\n")
        };
        let asking: String = self.libraries.iter().map(ask).collect();
        let mut talk = Talk::start(&self.cluster, &format!("{}{asking}wait", self.furnish("client")));
        for _ in &self.libraries {
            talk.wait(what, |line| line.ends_with(" begun"));
        }
        act();
        for _ in &self.libraries {
            let mut summary = String::new();
            let mut failures = Vec::new();
            talk.wait(what, |line| {
                let is_last = line.contains(" asked ");
                if is_last {
                    summary = line.to_owned()
                } else {
                    failures.push(line.to_owned())
                }
                is_last
            });
            let numbers: Vec<u128> = summary.split(' ').filter_map(|word| word.parse().ok()).collect();
            let [asked, failed, took] = numbers[..] else { panic!("{what}: {summary}") };
            eprintln!("{what}: {summary} ms");
            assert!(asked > 20 && failed == 0, "{what}: {summary}: {failures:?}\n{}", self.cluster.logs());
            assert!(took <= slowest.as_millis(), "{what}: {summary} ms");
        }
    }

    /// Changes the Corefile.
    fn configure(&self, change: impl Fn(&str) -> String) {
        let map = self.cluster.get(&["configmap", "coredns", "-n", "kube-system"]);
        let corefile = change(map["data"]["Corefile"].as_str().expect("a Corefile"));
        self.patch("kube-system", "configmap", "coredns", &json!({"data": {"Corefile": corefile}}));
    }

    fn patch(&self, namespace: &str, kind: &str, name: &str, patch: &Value) {
        let patch = patch.to_string();
        self.cluster.kubectl(&["patch", kind, name, "-n", namespace, "--type=merge", "-p", &patch]);
    }
}

fn program(cluster: &Cluster, library: &str) -> std::path::PathBuf {
    Path::new(cluster.home.path()).join(format!("resolve-{library}"))
}

/// Addresses as the resolvers print them.
fn sorted(ips: &[String]) -> String {
    let mut ips = ips.to_vec();
    ips.sort();
    ips.join(" ")
}

/// The outside's names (`dyad_cluster::fabric`).
const V4: &str = "203.0.113.80";
const V6: &str = "2001:db8:113::80";
const BOTH: &str = "2001:db8:113::80 203.0.113.80";

#[test]
fn names_of_services_and_pods() {
    let Some(lab) = Lab::up(Cluster::prepare("names", 70)) else { return };
    let cluster = &lab.cluster;
    cluster.apply(&format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: other}}\n{}{}{}{}{}{}{}{}",
        server("web-1", "node1"),
        server("web-2", "node2"),
        service("web", "default", &format!("{DUAL}{PORT}")),
        service("v4-only", "default", &format!("  ipFamilies: [IPv4]\n{PORT}")),
        service("v6-only", "default", &format!("  ipFamilies: [IPv6]\n{PORT}")),
        service("db", "other", &format!("{DUAL}{PORT}")),
        service("headless", "default", &format!("  clusterIP: None\n{DUAL}{PORT}")),
        service("elsewhere", "default", "  type: ExternalName\n  externalName: dual.outside.example\n"),
    ));
    lab.ready();
    let (web, db) = (lab.vips("default", "web"), lab.vips("other", "db"));
    let (v4_only, v6_only) = (lab.vips("default", "v4-only"), lab.vips("default", "v6-only"));
    let (one, two) = (lab.pod_ips("web-1"), lab.pod_ips("web-2"));
    let headless = sorted(&[&one[..], &two[..]].concat());
    let (web_any, db_any, one_any) = (sorted(&web), sorted(&db), sorted(&one));
    let web_name = "web.default.svc.cluster.local";
    let one_name = "web-1.headless.default.svc.cluster.local";
    #[rustfmt::skip]
    let rows = [
        // "should provide DNS for the cluster", "... for services", "should resolve ... partial qualified names"
        ("kubernetes.default",                 "any", &*sorted(&lab.vips("default", "kubernetes"))),
        ("web",                                "any", &web_any),
        ("web",                                "4",   &web[0]),
        ("web",                                "6",   &web[1]),
        ("web.default",                        "any", &web_any),
        ("web.default.svc",                    "any", &web_any),
        (web_name,                             "any", &web_any),
        ("web.default.svc.cluster.local.",     "any", &web_any),
        ("WEB.Default.svc",                    "any", &web_any),
        ("db",                                 "any", "none"),
        ("db.other",                           "any", &db_any),
        ("db.other.svc",                       "6",   &db[1]),
        ("v4-only",                            "any", &v4_only[0]),
        ("v4-only",                            "6",   "none"),
        ("v6-only",                            "any", &v6_only[0]),
        ("v6-only",                            "4",   "none"),
        // "should provide DNS for pods for Hostname", "... for Subdomain", headless
        ("headless",                           "any", &headless),
        ("web-1.headless",                     "any", &one_any),
        ("web-1.headless",                     "6",   &one[1]),
        ("web-3.headless",                     "any", "none"),
        (one_name,                             "any", &one_any),
        // "should provide DNS for ExternalName services", and names outside
        ("elsewhere",                          "any", BOTH),
        ("elsewhere",                          "4",   V4),
        ("dual.outside.example",               "any", BOTH),
        ("v4.outside.example",                 "any", V4),
        ("v4.outside.example",                 "6",   "none"),
        ("v6.outside.example",                 "6",   V6),
        ("nothing.outside.example",            "any", "none"),
        // Reverse names, in both trees
        (&*web[0],                             "name", web_name),
        (&*web[1],                             "name", web_name),
        (&*one[0],                             "name", one_name),
        (&*one[1],                             "name", one_name),
    ];
    lab.resolves("client", &rows);
    wire(&lab, &web, &one, &two);
    changing_types(&lab);
}

/// The same on the wire: UDP and TCP, at the addresses of both families; what exists without records is told from what
/// does not exist.
fn wire(lab: &Lab, web: &[String], one: &[String], two: &[String]) {
    let zone = "default.svc.cluster.local.";
    let name = |name: &str| format!("{name}.{zone}");
    let all = |family: usize| sorted(&[one[family].clone(), two[family].clone()]);
    #[rustfmt::skip]
    let rows = [
        (name("web"),                   "A",    format!("NOERROR {}", web[0])),
        (name("web"),                   "AAAA", format!("NOERROR {}", web[1])),
        (name("_http._tcp.web"),        "SRV",  format!("NOERROR 0 100 80 web.{zone}")),
        (name("_http._tcp.headless"),   "SRV",  format!("NOERROR 0 50 8080 web-1.headless.{zone} 0 50 8080 web-2.headless.{zone}")),
        (name("headless"),              "A",    format!("NOERROR {}", all(0))),
        (name("headless"),              "AAAA", format!("NOERROR {}", all(1))),
        (name("elsewhere"),             "CNAME", "NOERROR dual.outside.example.".into()),
        (name("elsewhere"),             "AAAA", format!("NOERROR {V6} dual.outside.example.")),
        ("dns-version.cluster.local.".into(), "TXT", "NOERROR \"1.1.0\"".into()),
        // They exist, and have no such records: NXDOMAIN would hide the other family.
        (name("v4-only"),               "AAAA", "NOERROR".into()),
        (name("v6-only"),               "A",    "NOERROR".into()),
        (name("web"),                   "MX",   "NOERROR".into()),
        (name("_tcp.web"),              "SRV",  "NOERROR".into()),
        (zone.into(),                   "A",    "NOERROR".into()),
        ("svc.cluster.local.".into(),   "AAAA", "NOERROR".into()),
        ("v4.outside.example.".into(),  "AAAA", "NOERROR".into()),
        // They do not exist.
        (name("nobody"),                "AAAA", "NXDOMAIN".into()),
        (name("x.web"),                 "A",    "NXDOMAIN".into()),
        (name("_gopher._tcp.web"),      "SRV",  "NXDOMAIN".into()),
        ("web.nowhere.svc.cluster.local.".into(), "A", "NXDOMAIN".into()),
        ("nothing.outside.example.".into(), "A", "NXDOMAIN".into()),
    ];
    let questions: Vec<(&str, &str)> = rows.iter().map(|(name, rtype, _)| (&**name, *rtype)).collect();
    for server in lab.vips("kube-system", "kube-dns") {
        for transport in ["", "--tcp"] {
            let found = lab.asked("client", &server, transport, &questions);
            assert_eq!(found.len(), rows.len(), "{server} {transport}: {found:?}");
            for ((name, rtype, wanted), told) in rows.iter().zip(found) {
                assert_eq!(told, *wanted, "{name} {rtype} at {server} {transport}");
            }
        }
    }
}

/// "should provide DNS for ExternalName services": its name changes, its type does, and changes back.
fn changing_types(lab: &Lab) {
    let change = |spec: Value| lab.patch("default", "service", "elsewhere", &json!({"spec": spec}));
    change(json!({"externalName": "v6.outside.example"}));
    lab.resolves("client", &[("elsewhere", "any", V6), ("elsewhere", "4", "none")]);
    change(json!({
        "type": "ClusterIP", "externalName": null, "ipFamilyPolicy": "RequireDualStack",
        "ports": [{"name": "http", "port": 80}],
    }));
    let vips = lab.vips("default", "elsewhere");
    assert_eq!(vips.len(), 2);
    lab.resolves("client", &[("elsewhere", "any", &sorted(&vips)), ("elsewhere", "6", &vips[1])]);
    change(json!({"type": "ExternalName", "externalName": "dual.outside.example", "ipFamilyPolicy": null}));
    lab.resolves("client", &[("elsewhere", "any", BOTH)]);
}

#[test]
fn pods_choose_whom_they_ask() {
    let Some(lab) = Lab::up(Cluster::prepare("policies", 71)) else { return };
    let cluster = &lab.cluster;
    let none = format!(
        "  dnsPolicy: None\n  dnsConfig:\n    nameservers: [{V4}, \"{V6}\"]\n    searches: [outside.example, nowhere.example]\n    \
         options: [{{name: ndots, value: \"2\"}}, {{name: edns0}}]\n"
    );
    let more = "  dnsConfig: {searches: [outside.example], options: [{name: ndots, value: \"3\"}]}\n";
    let host = "  hostNetwork: true\n";
    cluster.apply(&format!(
        "{}{}{}{}",
        client("none", &none),
        client("more", more),
        client("host", &format!("{host}  dnsPolicy: ClusterFirstWithHostNet\n")),
        client("plain-host", host),
    ));
    lab.ready();
    let resolver = |pod: &str| script(cluster, ANY, &format!("inside {pod} cat /etc/resolv.conf"));
    let text = resolver("none");
    for line in [
        &format!("nameserver {V4}\n"),
        &format!("nameserver {V6}\n"),
        "search outside.example nowhere.example\n",
        "options ndots:2 edns0\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in {text:?}");
    }
    let vips = lab.vips("kube-system", "kube-dns");
    for pod in ["more", "host", "client"] {
        let text = resolver(pod);
        let servers: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("nameserver ")).collect();
        assert_eq!(servers, vips, "{pod}: both families, the primary one first");
        assert!(text.contains("search default.svc.cluster.local svc.cluster.local cluster.local"), "{text}");
    }
    assert!(resolver("more").contains("options ndots:3\n"), "{}", resolver("more"));
    let kubernetes = sorted(&lab.vips("default", "kubernetes"));
    // "should support configurable pod DNS nameservers", "... resolv.conf"
    lab.resolves(
        "none",
        &[("dual", "any", BOTH), ("v6", "4", "none"), ("kubernetes.default", "any", "none")],
    );
    lab.resolves("more", &[("dual", "any", BOTH), ("kubernetes.default", "any", &kubernetes)]);
    lab.resolves("host", &[("kubernetes.default", "any", &kubernetes), ("v6.outside.example", "6", V6)]);
    let text = resolver("plain-host");
    assert!(
        !vips.iter().any(|vip| text.contains(vip)),
        "a pod on the node's network asks whom the node asks: {text}"
    );
}

#[test]
fn names_stay_while_things_break() {
    let Some(lab) = Lab::up(Cluster::prepare("stay", 72)) else { return };
    let cluster = &lab.cluster;
    let name = "kubernetes.default.svc.cluster.local";
    // Shorter than what a resolver waits before it asks again: nothing was lost.
    let at_once = Duration::from_millis(1500);
    let pause = || std::thread::sleep(Duration::from_millis(1500));

    lab.asking("the Corefile changes", name, at_once, || {
        let block = "new.example:53 {\n    hosts {\n        192.0.2.7 a.new.example\n        2001:db8::7 a.new.example\n    }\n}\n";
        lab.configure(|corefile| format!("{corefile}{block}"));
        lab.resolves("client", &[("a.new.example", "any", "192.0.2.7 2001:db8::7")]);
        // What can't be read is not taken.
        lab.configure(|corefile| format!("{corefile}broken {{\n    no-such-plugin\n}}\n"));
        pause();
        lab.configure(|corefile| corefile.replace("broken {\n    no-such-plugin\n}\n", "").replace("192.0.2.7", "192.0.2.8"));
        lab.resolves("client", &[("a.new.example", "4", "192.0.2.8")]);
    });

    // Resolvers that are refused or not answered go on with the other name server.
    lab.asking("a DNS pod dies", name, Duration::from_secs(7), || {
        let pods = cluster.get(&["pods", "-n", "kube-system", "-l", "k8s-app=kube-dns"]);
        for pod in pods["items"].as_array().expect("pods") {
            let name = pod["metadata"]["name"].as_str().expect("a name");
            let printed = script(
                cluster,
                ANY,
                &format!("kill -9 $(grep -lzx 'HOSTNAME={name}' /proc/[0-9]*/environ | head -1 | cut -d/ -f3) && echo dead"),
            );
            assert_eq!(printed.trim(), "dead", "{name}");
            pause();
        }
    });

    lab.asking("the API server is away", name, at_once, || {
        for _ in 0..3 {
            kill(cluster.pid("control-plane"));
            pause();
        }
    });
    lab.resolves("client", &[("dual.outside.example", "any", BOTH)]);
}

#[test]
fn pods_without_ipv4_find_names_with_ipv4_only() {
    let cluster = Cluster::prepare("synthesis", 73);
    let networking = "ipFamily: ipv6\n  podSubnet: fd00:dad:73::/56\n  serviceSubnet: fd00:dad:73:100::/112";
    let config = format!("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnetworking:\n  {networking}\n");
    std::fs::write(cluster.home.path().join("cluster.yaml"), config).expect("the cluster's file");
    let Some(lab) = Lab::up(cluster) else { return };
    let made = "64:ff9b:1:fffe::cb00:7150";
    #[rustfmt::skip]
    let rows = [
        ("kubernetes.default",      "6",    &*sorted(&lab.vips("default", "kubernetes"))),
        ("kubernetes.default",      "4",    "none"),
        ("v4.outside.example",      "6",    made),
        ("v6.outside.example",      "6",    V6),
        ("dual.outside.example",    "6",    V6),
        ("nothing.outside.example", "any",  "none"),
    ];
    lab.resolves("client", &rows);
    // Any of the names of the IPv4 address.
    for library in &lab.libraries {
        let name = lab.resolved("client", library, &[made])[&format!("{made} name")].clone();
        assert!(name.ends_with(".outside.example"), "{library}: {made} is {name}");
    }
}
