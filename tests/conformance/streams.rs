//! Logs, commands, ports and proxies through `kubectl` (J55), and that a node which does not answer is not waited for.

#[path = "../support/cluster.rs"]
mod cluster;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{Cluster, text};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talk}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: one, image: dyad/echo, command: [sh, -c, "echo first; echo second >&2; sleep 1000"]}
  - {name: two, image: dyad/echo, ports: [{containerPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: hears}
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers:
  - {name: c, image: dyad/echo, stdin: true, stdinOnce: true, command: [sh, -c, "while read word; do echo heard $word; done"]}
---
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: dyad/echo, command: [sh, -c, "echo run; exit 1"]}
"#;

/// Waits for something that is bound to happen.
#[track_caller]
fn until(what: &str, mut happens: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !happens() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn streams_of_pods() {
    let cluster = Cluster::up("streams", 74, &["--nodes", "1"]);
    if !cluster.has_kubectl() {
        return;
    }
    cluster.apply(PODS);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/talk", "pod/hears", "--timeout=60s"]);
    logs(&cluster);
    for websockets in ["true", "false"] {
        commands(&cluster, websockets);
        ports(&cluster, websockets);
    }
    attached(&cluster);
    proxies(&cluster);
    debugged(&cluster);
    figures(&cluster);
    silent_node(&cluster);
}

fn logs(cluster: &Cluster) {
    assert_eq!(cluster.kubectl(&["logs", "talk", "-c", "one"]), "first\nsecond\n");
    assert_eq!(cluster.kubectl(&["logs", "talk", "-c", "one", "--tail=1"]), "second\n");
    assert_eq!(cluster.kubectl(&["logs", "talk", "-c", "one", "--limit-bytes=3"]), "fir");
    let stamped = cluster.kubectl(&["logs", "talk", "-c", "one", "--timestamps"]);
    assert!(stamped.lines().all(|line| line.starts_with("20") && line.contains("Z ")), "{stamped}");
    let all = cluster.kubectl(&["logs", "talk", "--all-containers", "--prefix"]);
    assert!(all.contains("[pod/talk/one] first") && all.contains("[pod/talk/two] "), "{all}");
    let why = cluster.kubectl_fails(&["logs", "talk", "-c", "none"]);
    assert!(why.contains("container none is not valid for pod talk"), "{why}");
    let why = cluster.kubectl_fails(&["logs", "talk", "-c", "one", "--previous"]);
    assert!(why.contains("previous terminated container \"one\" in pod \"talk\" not found"), "{why}");
    until("a second run", || {
        text(&cluster.kubectl_with(&["logs", "again", "--previous"], "").stdout) == "run\n"
    });
}

/// Runs `kubectl` with WebSockets or without.
fn kubectl(cluster: &Cluster, websockets: &str, args: &[&str]) -> Command {
    let mut command = cluster.kubectl_command(args);
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
    command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn commands(cluster: &Cluster, websockets: &str) {
    let run = |args: &[&str], input: &[u8]| {
        let args = [&["exec", "-i", "talk", "-c", "one", "--"], args].concat();
        let mut child = kubectl(cluster, websockets, &args).spawn().unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
        let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writing.join().unwrap();
        output
    };
    let output = run(&["sh", "-c", "echo out; echo err >&2; exit 7"], b"");
    assert_eq!((output.status.code(), &*output.stdout), (Some(7), &b"out\n"[..]), "{}", text(&output.stderr));
    let errors = text(&output.stderr);
    assert!(errors.contains("err\n") && errors.contains("exit code 7"), "{errors}");
    // All of it arrives, both ways, and its end too.
    let bytes: Vec<u8> = (0..2_000_000u32).map(|number| (number % 251) as u8).collect();
    let output = run(&["cat"], &bytes);
    assert!(
        output.status.success() && output.stdout == bytes,
        "{} bytes: {}",
        output.stdout.len(),
        text(&output.stderr)
    );
    let output = run(&["no-such-program"], b"");
    assert!(!output.status.success() && text(&output.stderr).contains("no-such-program"));
}

/// A process that ends with this.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ports(cluster: &Cluster, websockets: &str) {
    let child = kubectl(cluster, websockets, &["port-forward", "pod/talk", ":8080"]).spawn().unwrap();
    let mut child = Ends(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    // Forwarding from 127.0.0.1:40321 -> 8080
    let at = line.split_whitespace().nth(2).unwrap_or_else(|| panic!("{line:?}")).to_owned();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(&at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.") && answer.contains("200"), "{answer:?}");
    }
}

fn attached(cluster: &Cluster) {
    let output = cluster.kubectl_with(&["attach", "-i", "hears"], "me\n");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("heard me\n"), "{}", text(&output.stdout));
    cluster.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/hears", "--timeout=60s"]);
}

fn proxies(cluster: &Cluster) {
    let raw = |path: &str| cluster.kubectl(&["get", "--raw", path]);
    assert!(raw("/api/v1/namespaces/default/pods/talk:8080/proxy/healthz").contains("ok"));
    assert_eq!(raw("/api/v1/nodes/node1/proxy/healthz"), "ok");
    assert!(raw("/api/v1/nodes/node1/proxy/pods").contains("\"talk\""));
    let why = cluster.kubectl_fails(&["get", "--raw", "/api/v1/namespaces/default/services/none/proxy/"]);
    assert!(why.contains("endpoints \"none\" not found"), "{why}");
    let why = cluster.kubectl_fails(&["get", "--raw", "/api/v1/namespaces/default/pods/talk:9/proxy/"]);
    assert!(why.contains("error trying to reach service: dial tcp"), "{why}");
}

fn debugged(cluster: &Cluster) {
    let command = "tr '\\0' ' ' < /proc/1/cmdline; echo; echo looked";
    cluster.kubectl(&[
        "debug",
        "talk",
        "--image=dyad/echo",
        "--target=one",
        "--container=look",
        "--",
        "sh",
        "-c",
        command,
    ]);
    until("the debugger's end", || {
        text(&cluster.kubectl_with(&["logs", "talk", "-c", "look"], "").stdout).contains("looked")
    });
    let pod = cluster.get(&["pod", "talk"]);
    assert_eq!(pod["status"]["ephemeralContainerStatuses"][0]["name"], "look", "{pod}");
    let change = r#"{"spec":{"ephemeralContainers":null}}"#;
    let why = cluster.kubectl_fails(&[
        "patch",
        "pod",
        "talk",
        "--subresource=ephemeralcontainers",
        "--type=merge",
        "-p",
        change,
    ]);
    assert!(why.contains("may not be removed") || why.contains("not"), "{why}");
}

fn figures(cluster: &Cluster) {
    let nodes = cluster.kubectl(&["top", "nodes"]);
    assert!(nodes.lines().any(|line| line.starts_with("node1 ")), "{nodes}");
    let pods = cluster.kubectl(&["top", "pods", "--containers"]);
    for container in ["one", "two"] {
        let row = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>() == ["talk", container];
        assert!(pods.lines().any(row), "{container} is not in:\n{pods}");
    }
}

/// A node's process that was stopped answers nothing, and is not waited for without an end.
fn silent_node(cluster: &Cluster) {
    let node = cluster.pid("node1").to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &node]).status().unwrap().success());
    let mut follower = Ends(kubectl(cluster, "true", &["logs", "-f", "talk", "-c", "one"]).spawn().unwrap());
    let mut lines = BufReader::new(follower.0.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    signal("-STOP");
    let why = cluster.kubectl_with(&["logs", "talk", "-c", "one"], "");
    // What was under way is cut as well.
    let mut rest = String::new();
    let ended = lines.read_to_string(&mut rest).map(|_| follower.0.wait());
    signal("-CONT");
    assert!(
        !why.status.success() && text(&why.stderr).contains("TLS handshake timeout"),
        "{}",
        text(&why.stderr)
    );
    assert!(!ended.unwrap().unwrap().success());
    until("the node's answer", || cluster.kubectl_with(&["logs", "talk", "-c", "one"], "").status.success());
}
