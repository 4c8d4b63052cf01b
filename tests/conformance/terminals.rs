//! What goes on with something else than HTTP, beyond `exec` and `port-forward`: terminals and their sizes, upgrades and
//! TLS through the proxies of pods, Services and nodes, and what kubelets let others than the API server do.

#[path = "../support/cluster.rs"]
mod cluster;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cluster::{Cluster, text};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talk, labels: {app: talk}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: dyad/echo, ports: [{name: http, containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: talk}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: talk}
  ports: [{name: web, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: host}}
spec:
  terminationGracePeriodSeconds: 1
  hostNetwork: true
  containers:
  - {name: c, image: dyad/tools, command: [sleep, "100000"]}
---
apiVersion: v1
kind: Service
metadata: {name: host}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {app: host}
  ports: [{name: kubelet, port: 443, targetPort: 10250}]
"#;

#[test]
fn terminals_upgrades_and_callers() {
    let cluster = Cluster::up("terminals", 77, &["--nodes", "1"]);
    if !cluster.has_kubectl() {
        return;
    }
    cluster.apply(PODS);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/talk", "pod/host", "--timeout=60s"]);
    if Command::new("script").arg("--version").output().is_ok() {
        sizes(&cluster);
        started_with_a_terminal(&cluster);
    } else {
        eprintln!("SKIPPED: no `script` to have a terminal from");
    }
    upgrades(&cluster);
    over_tls(&cluster);
    if is_root() {
        callers(&cluster);
    } else {
        eprintln!("SKIPPED: nodes are not reached from this machine without root");
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

/// A process that ends with this.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A shell script on a terminal of its own, in which `kubectl` is that of the cluster.
fn on_a_terminal(cluster: &Cluster, websockets: &str, script: &str) -> Ends {
    let kubectl = cluster.kubectl_command(&[]);
    let quoted = |text: &std::ffi::OsStr| format!("'{}'", text.to_str().expect("UTF-8"));
    let words: Vec<String> =
        std::iter::once(kubectl.get_program()).chain(kubectl.get_args()).map(quoted).collect();
    let file = cluster.home.path().join("terminal.sh");
    let text = format!("kubectl() {{ {} \"$@\"; }}\nstty rows 31 cols 97\n{script}", words.join(" "));
    std::fs::write(&file, text).expect("a script");
    let mut command = Command::new("script");
    command.args(["-qec", &format!("sh {}", file.display()), "/dev/null"]);
    for (name, value) in kubectl.get_envs() {
        command.env(name, value.expect("a value"));
    }
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets).env("TERM", "dumb");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    Ends(command.spawn().expect("script runs"))
}

/// The size of the terminal is that of the pod's, also when it changes.
fn sizes(cluster: &Cluster) {
    for websockets in ["true", "false"] {
        let seen = cluster.home.path().join(format!("seen-{websockets}"));
        // The first size may come after the command has begun.
        let inside = "awaits() { for _ in $(seq 300); do test \"$(stty size)\" = \"$1\" && return; sleep 0.1; done; stty size; }\n\
                      awaits \"31 97\"; echo sized; awaits \"50 120\"; echo resized";
        let script = format!(
            "(until test -e {}; do sleep 0.1; done; stty rows 50 cols 120) < /dev/tty &\n\
             kubectl exec -it talk -- sh -c '{inside}'\necho status $?\n",
            seen.display()
        );
        let mut child = on_a_terminal(cluster, websockets, &script);
        let mut lines = BufReader::new(child.0.stdout.take().expect("a pipe"));
        let (mut first, mut rest) = (String::new(), String::new());
        lines.read_line(&mut first).expect("a size");
        assert_eq!(first, "sized\r\n", "WebSockets {websockets}");
        std::fs::write(&seen, "").expect("a file");
        lines.read_to_string(&mut rest).expect("its output");
        assert_eq!(rest, "resized\r\nstatus 0\r\n", "WebSockets {websockets}");
    }
}

/// `kubectl run -it`: attached to a terminal, its end is that of the pod, which is removed.
fn started_with_a_terminal(cluster: &Cluster) {
    let inside = "while read word; do echo heard $word; test $word = end && exit 7; done";
    let script = format!(
        "kubectl run shell -it --rm --restart=Never --image=dyad/tools --command -- sh -c '{inside}'\necho status $?\n"
    );
    let mut child = on_a_terminal(cluster, "true", &script);
    let mut stdin = child.0.stdin.take().expect("a pipe");
    let mut lines = BufReader::new(child.0.stdout.take().expect("a pipe"));
    // Whatever is typed before anybody is attached may be lost.
    let typing = std::thread::spawn(move || {
        while stdin.write_all(b"me\n").is_ok() {
            std::thread::sleep(Duration::from_millis(300));
            if stdin.write_all(b"end\n").is_err() {
                break;
            }
        }
    });
    let mut output = Vec::new();
    lines.read_to_end(&mut output).expect("its output");
    drop(child);
    typing.join().expect("typing");
    let output = text(&output);
    assert!(output.contains("heard end"), "{output:?}");
    assert!(output.contains("pod \"shell\" deleted"), "{output:?}");
    assert!(output.contains("exit code 7") || output.contains("status 7"), "{output:?}");
    let why = cluster.kubectl_fails(&["get", "pod", "shell"]);
    assert!(why.contains("not found"), "{why}");
}

/// `kubectl proxy`, and where it listens.
fn local_proxy(cluster: &Cluster) -> (Ends, String) {
    let mut command = cluster.kubectl_command(&["proxy", "--port=0"]);
    let mut child = Ends(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("kubectl runs"));
    let mut line = String::new();
    // Starting to serve on 127.0.0.1:40001
    BufReader::new(child.0.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let at = line.split_whitespace().last().unwrap_or_else(|| panic!("{line:?}")).to_owned();
    (child, at)
}

/// Asks to go on with another protocol; the connection, and the answer's head.
fn upgrade(at: &str, path: &str, headers: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(at).expect("the proxy");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a time-out");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: Upgrade\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).expect("asking");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).expect("an answer") == 0 {
            break;
        }
        head.push(byte[0]);
    }
    (stream, text(&head))
}

/// Connections that are upgraded carry bytes both ways, whoever is behind the proxy.
fn upgrades(cluster: &Cluster) {
    let (_proxy, at) = local_proxy(cluster);
    for place in ["pods/talk:8080", "pods/talk:http", "services/talk:80", "services/talk:web"] {
        let path = format!("/api/v1/namespaces/default/{place}/proxy/upgrade");
        let (mut stream, head) = upgrade(&at, &path, "Upgrade: echo\r\n");
        assert!(head.starts_with("HTTP/1.1 101 "), "{place}: {head}");
        for word in ["hello", "again"] {
            stream.write_all(word.as_bytes()).expect("writing");
            let mut back = [0; 5];
            stream.read_exact(&mut back).expect("an echo");
            assert_eq!(text(&back), word, "{place}");
        }
        let (_, head) = upgrade(&at, &path, "Upgrade: something\r\n");
        assert!(head.starts_with("HTTP/1.1 400 "), "a refusal is handed on: {place}: {head}");
    }
    // A command through the node's proxy: a WebSocket over TLS, whose channel 1 is what it writes.
    let path = "/api/v1/nodes/node1/proxy/exec/default/talk/c?command=echo&command=hi&output=1";
    let headers = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n";
    let (mut stream, head) = upgrade(&at, path, headers);
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("v5.channel.k8s.io"), "{head}");
    let mut frames = Vec::new();
    // Its end may be a reset; what counts has come before.
    let _ = stream.read_to_end(&mut frames);
    assert!(frames.windows(4).any(|window| window == b"\x01hi\n"), "{frames:?}");
}

/// `https:NAME:PORT` speaks TLS with whoever is there: a kubelet, in whose network the pod is, and who does not know us.
fn over_tls(cluster: &Cluster) {
    for place in ["pods/https:host:10250", "services/https:host:443", "services/https:host:kubelet"] {
        let path = format!("/api/v1/namespaces/default/{place}/proxy/healthz");
        let why = cluster.kubectl_fails(&["get", "--raw", &path]);
        assert!(why.contains("Unauthorized") || why.contains("must be logged in"), "{place}: {why}");
        // In the clear it is no HTTP.
        let path = path.replace("https:", "http:");
        let why = cluster.kubectl_fails(&["get", "--raw", &path]);
        assert!(!why.contains("Unauthorized"), "{place}: {why}");
    }
    assert_eq!(cluster.kubectl(&["get", "--raw", "/api/v1/nodes/https:node1:10250/proxy/healthz"]), "ok");
}

/// Who may ask kubelets, the API decides: by certificate, and by the token of a service account; in both families.
fn callers(cluster: &Cluster) {
    let node = cluster.get(&["node", "node1"]);
    let addresses = node["status"]["addresses"].as_array().expect("addresses");
    let urls: Vec<String> =
        addresses
            .iter()
            .filter(|one| one["type"] == "InternalIP")
            .map(|one| one["address"].as_str().expect("text"))
            .map(|ip| {
                if ip.contains(':') { format!("https://[{ip}]:10250") } else { format!("https://{ip}:10250") }
            })
            .collect();
    assert_eq!(urls.len(), 2, "{urls:?}");
    let kubeconfig = cluster.dir().join("nodes/node1/kubeconfig");
    let kubeconfig = kubeconfig.to_str().expect("UTF-8");
    let ask = |args: &[&str]| {
        let mut command = cluster.kubectl_command(&[]);
        command.env("KUBECONFIG", kubeconfig).args(args).output().expect("kubectl runs")
    };
    let by_certificate = |url: &str, path: &str| ask(&["--server", url, "get", "--raw", path]);
    for url in &urls {
        let output = by_certificate(url, "/pods");
        let why = text(&output.stderr);
        assert!(!output.status.success() && why.to_lowercase().contains("forbidden"), "{url}: {why}");
    }
    cluster.kubectl(&["create", "clusterrole", "looks", "--verb=get", "--resource=nodes/pods,nodes/metrics"]);
    cluster.kubectl(&[
        "create",
        "clusterrolebinding",
        "looks",
        "--clusterrole=looks",
        "--user=system:node:node1",
        "--serviceaccount=default:default",
    ]);
    let token = cluster.kubectl(&["create", "token", "default"]).trim().to_owned();
    // Roles are looked up in what has been watched, a moment behind.
    cluster.eventually("what the role gives", || {
        for url in &urls {
            let output = by_certificate(url, "/pods");
            if !text(&output.stdout).contains("\"talk\"") {
                return Err(format!("{url} by certificate: {}", text(&output.stderr)));
            }
            let output = with_token(cluster, url, &token, "/metrics");
            if !text(&output.stdout).contains("# TYPE") {
                return Err(format!("{url} by token: {}{}", text(&output.stdout), text(&output.stderr)));
            }
        }
        Ok(())
    });
    let output = by_certificate(&urls[0], "/stats/summary");
    assert!(text(&output.stderr).to_lowercase().contains("forbidden"), "{}", text(&output.stderr));
    let output = with_token(cluster, &urls[1], "nonsense", "/metrics");
    assert!(text(&output.stderr).contains("Unauthorized") || text(&output.stderr).contains("logged in"));
}

/// `kubectl` as nobody but the bearer of a token.
fn with_token(cluster: &Cluster, url: &str, token: &str, path: &str) -> std::process::Output {
    let authority = cluster.dir().join("pki/ca.crt");
    let mut command = cluster.kubectl_command(&[]);
    let program = command.get_program().to_owned();
    command = Command::new(program);
    command.env("KUBECONFIG", "/dev/null").env("HOME", cluster.home.path());
    command.args(["--server", url, "--token", token, "--certificate-authority"]).arg(authority);
    command.args(["get", "--raw", path]).output().expect("kubectl runs")
}
