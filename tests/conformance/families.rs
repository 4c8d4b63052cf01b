//! Pods that listen in one family only, in a cluster of both: readiness per family (`dyad.io/readiness-per-family`), what
//! reaches them, and what is said of it. In either order of families.

#[path = "../support/cluster.rs"]
mod cluster;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use cluster::{Cluster, text};
use serde_json::Value;

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

fn pod(name: &str, args: &str, probe: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: mixed}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    image: dyad/echo\n    args: [{args}]\n    \
         ports: [{{name: http, containerPort: 8080}}]\n    readinessProbe: {{periodSeconds: 1, failureThreshold: 1, {probe}}}\n"
    )
}

fn service(name: &str, annotations: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec:\n  \
         ipFamilyPolicy: RequireDualStack\n  selector: {{app: mixed}}\n  ports: [{{port: 80, targetPort: http}}]\n"
    )
}

/// The pods whose endpoints are ready in a family.
fn ready(cluster: &Cluster, service: &str, family: &str) -> BTreeSet<String> {
    let label = format!("kubernetes.io/service-name={service}");
    let list = cluster.get(&["endpointslices", "-l", &label]);
    let slices =
        list["items"].as_array().expect("items").iter().filter(|slice| slice["addressType"] == family);
    let endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    ready.map(|endpoint| endpoint["targetRef"]["name"].as_str().expect("a pod").to_owned()).collect()
}

fn condition(pod: &Value, kind: &str) -> Option<String> {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind)?;
    found["status"].as_str().map(str::to_owned)
}

#[test]
fn pods_of_one_family_in_a_cluster_of_both() {
    let cluster = Cluster::up("families", 75, &["--nodes", "1"]);
    if cluster.has_kubectl() {
        look(&cluster, "IPv4");
    }
}

#[test]
fn pods_of_one_family_where_ipv6_comes_first() {
    let cluster = Cluster::prepare("families6", 76);
    let file = cluster.home.path().join("cluster.yaml");
    let config = std::fs::read_to_string(&file).unwrap();
    let turned: Vec<String> = config
        .lines()
        .map(|line| {
            match line.split_once("Subnet: ").map(|(key, pair)| (key, pair.split_once(',').unwrap())) {
                Some((key, (first, second))) => format!("{key}Subnet: {second},{first}\n"),
                None => format!("{line}\n"),
            }
        })
        .collect();
    std::fs::write(&file, turned.concat()).unwrap();
    let output = cluster.start(&["--nodes", "1"]);
    assert!(output.status.success(), "dyad up: {}\n{}", text(&output.stderr), cluster.logs());
    if cluster.has_kubectl() {
        look(&cluster, "IPv6");
    }
}

fn look(cluster: &Cluster, primary: &str) {
    let http = "httpGet: {path: /healthz, port: http}";
    let objects = [
        pod("v4", "--family, ipv4", http),
        pod("v6", "--family, ipv6", "tcpSocket: {port: http}"),
        pod("both", "", http),
        service("asks", "dyad.io/readiness-per-family: \"true\""),
        service("plain", ""),
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: client}\nspec:\n  containers:\n  - \
         {name: c, image: dyad/tools, command: [sleep, \"100000\"], env: [\
         {name: PODS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}, \
         {name: HOSTS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}, \
         {name: POD, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]}\n  hostAliases:\n  - \
         {ip: \"2001:db8::7\", hostnames: [seven]}\n  - {ip: 192.0.2.7, hostnames: [seven]}\n"
            .to_owned(),
    ];
    cluster.apply(&objects.concat());
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/both", "pod/client", "--timeout=60s"]);
    servers(cluster, primary);
    inside(cluster);
    slices(cluster, primary);
    reach(cluster);
    told(cluster, primary);
}

/// The API server has a certificate for either loopback, and the kubeconfig that of the primary family.
fn servers(cluster: &Cluster, primary: &str) {
    let server = cluster.status()["server"].as_str().expect("a URL").to_owned();
    let own = if primary == "IPv6" { "https://[::1]:" } else { "https://127.0.0.1:" };
    let port = server.strip_prefix(own).unwrap_or_else(|| panic!("{server}"));
    for host in ["127.0.0.1", "[::1]"] {
        let url = format!("https://{host}:{port}");
        assert!(
            cluster.kubectl(&["--server", &url, "get", "--raw", "/version"]).contains("gitVersion"),
            "{url}"
        );
    }
    for kind in ["services/kubernetes", "nodes/node1"] {
        let line = cluster.kubectl(&["get", kind, "-o", "wide", "--no-headers"]);
        let pair = line.split_whitespace().find(|word| word.contains(',') && word.contains(':'));
        let pair = pair.unwrap_or_else(|| panic!("{line}"));
        assert_eq!(
            pair.split(',').next().is_some_and(|first| first.contains(':')),
            primary == "IPv6",
            "{line}"
        );
    }
}

/// What a pod is told of its addresses, its node's, and the API server's (B20 to B23): in the order of its status.
fn inside(cluster: &Cluster) {
    let run =
        |command: &str| cluster.kubectl(&["exec", "client", "--", "sh", "-c", command]).trim().to_owned();
    let status = cluster.get(&["pod", "client"])["status"].clone();
    let ips = |list: &str| -> Vec<String> {
        let list = status[list].as_array().expect("addresses").iter();
        list.map(|one| one["ip"].as_str().expect("text").to_owned()).collect()
    };
    let (pods, hosts) = (ips("podIPs"), ips("hostIPs"));
    assert_eq!((pods.len(), hosts.len()), (2, 2), "{status}");
    assert_eq!(run("echo $PODS $HOSTS $POD"), format!("{} {} {}", pods.join(","), hosts.join(","), pods[0]));
    let file = run("cat /etc/hosts");
    let own: Vec<&str> = file.lines().filter_map(|line| line.strip_suffix("\tclient")).collect();
    assert_eq!(own, pods, "B22: {file}");
    assert!(file.ends_with("2001:db8::7\tseven\n192.0.2.7\tseven"), "{file}");
    let service = cluster.get(&["service", "kubernetes"]);
    let first = service["spec"]["clusterIPs"][0].as_str().expect("an address");
    let at = if first.contains(':') { format!("tcp://[{first}]:443") } else { format!("tcp://{first}:443") };
    assert_eq!(run("echo $KUBERNETES_SERVICE_HOST $KUBERNETES_PORT"), format!("{first} {at}"), "B23");
}

fn slices(cluster: &Cluster, primary: &str) {
    let of = |family: &str| if family == "IPv4" { "v4" } else { "v6" };
    let set = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|&name| name.to_owned()).collect() };
    cluster.eventually("endpoints", || {
        for family in FAMILIES {
            for (service, wanted) in [("asks", of(family)), ("plain", of(primary))] {
                let found = ready(cluster, service, family);
                if found != set(&["both", wanted]) {
                    return Err(format!("{service} in {family}: {found:?}"));
                }
            }
        }
        Ok(())
    });
    for name in ["v4", "v6", "both"] {
        let pod = cluster.get(&["pod", name]);
        let own = FAMILIES.map(|family| condition(&pod, &format!("dyad.io/Ready{family}")));
        let says = |family| Some(if of(family) == name { "True" } else { "False" }.to_owned());
        let wanted = if name == "both" { [None, None] } else { FAMILIES.map(says) };
        assert_eq!(own, wanted, "{name}: {pod:#}");
        let is_ready = name == "both" || name == of(primary);
        assert_eq!(
            condition(&pod, "Ready").as_deref(),
            Some(if is_ready { "True" } else { "False" }),
            "B25: {name}"
        );
        let first = pod["status"]["podIP"].as_str().unwrap();
        assert_eq!(pod["status"]["podIPs"][0]["ip"], first, "B7");
        assert_eq!(first.contains(':'), primary == "IPv6", "B7: {first}");
    }
}

/// A process that ends with this.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Services, commands, ports and proxies lead to a pod in the family in which it listens.
fn reach(cluster: &Cluster) {
    let service = cluster.get(&["service", "asks"]);
    for ip in service["spec"]["clusterIPs"].as_array().unwrap() {
        let ip = ip.as_str().unwrap();
        let (url, other) = if ip.contains(':') {
            (format!("http://[{ip}]/hostname"), "v4")
        } else {
            (format!("http://{ip}/hostname"), "v6")
        };
        let mut seen = BTreeSet::new();
        cluster.eventually("both endpoints", || {
            let name = cluster.kubectl(&["exec", "client", "--", "http", &url]).trim().to_owned();
            assert_ne!(name, other, "{url}: it does not listen in that family");
            seen.insert(name);
            if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }
    for name in ["v4", "v6"] {
        assert_eq!(cluster.kubectl(&["exec", name, "--", "cat", "/etc/hostname"]).trim(), name);
        let path = format!("/api/v1/namespaces/default/pods/{name}:http/proxy/hostname");
        assert_eq!(cluster.kubectl(&["get", "--raw", &path]).trim(), name);
        let mut forward = cluster.kubectl_command(&["port-forward", &format!("pod/{name}"), ":8080"]);
        let mut child = Ends(forward.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let mut line = String::new();
        let mut lines = BufReader::new(child.0.stdout.take().unwrap());
        lines.read_line(&mut line).unwrap();
        let at = line.split_whitespace().nth(2).unwrap_or_else(|| panic!("{line:?}"));
        let mut stream = TcpStream::connect(at).unwrap();
        stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with(&format!("{name}\n")), "{answer:?}");
    }
    for service in ["asks", "plain"] {
        let path = format!("/api/v1/namespaces/default/services/{service}:80/proxy/healthz");
        assert_eq!(cluster.kubectl(&["get", "--raw", &path]), "ok\n");
    }
}

/// `dyad explain path` tells why a family has no endpoint; and what comes back is an endpoint again.
fn told(cluster: &Cluster, primary: &str) {
    let name = if primary == "IPv4" { "v4" } else { "v6" };
    let other = if primary == "IPv4" { "IPv6" } else { "IPv4" };
    cluster.kubectl(&["label", "pod", "both", if primary == "IPv4" { "v6" } else { "v4" }, "app-"]);
    let explain = || {
        let args = ["explain", "path", "--name", &cluster.name, "pod/client", "svc/asks", "--ip-family"];
        let output = cluster.dyad(&[&args[..], &[&other.to_lowercase()]].concat());
        text(&output.stdout)
    };
    cluster.eventually("the reason", || {
        let said = explain();
        let wanted =
            format!("no pod that Service default/asks selects is ready in {other}: default/{name} (");
        if said.contains(&wanted) { Ok(()) } else { Err(said) }
    });
    cluster.kubectl(&["annotate", "service", "asks", "dyad.io/readiness-per-family-"]);
    cluster.eventually("endpoints by Ready", || {
        let found = ready(cluster, "asks", other);
        if found == BTreeSet::from([name.to_owned()]) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    assert!(
        explain().contains(&format!("but the pod says that it is not ready in {other}")),
        "{}",
        explain()
    );
}
