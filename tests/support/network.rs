//! Packets in a cluster: who reaches whom, asked from within pods, nodes and the outside.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test program has this module to itself and uses what it needs of it"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, text};

/// How long a connection may take that is to succeed, in seconds; one that policy drops takes as long.
const PATIENCE: &str = "0.6";

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum From<'a> {
    /// A pod whose process has `POD_ID` with this value in its environment.
    Pod(&'a str),
    /// A process of a node.
    Node(&'a str),
    /// The rest of the world.
    Outside,
}

/// What came of an HTTP request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The echo server's answer, line by line.
    Echo(BTreeMap<String, String>),
    /// Some other status than 200.
    Status(u16),
    /// A refusal.
    Refused,
    /// Nothing in time.
    Silence,
    /// Something else that curl knows by number.
    Failed(i32),
}

impl Answer {
    /// A line of the echo server's answer, empty if there is none.
    pub fn told(&self, key: &str) -> &str {
        match self {
            Self::Echo(lines) => lines.get(key).map(String::as_str).unwrap_or_default(),
            _ => "",
        }
    }

    /// The name of the pod that answered.
    pub fn hostname(&self) -> &str {
        self.told("hostname")
    }

    /// The address that the server saw.
    pub fn peer(&self) -> &str {
        let peer = self.told("peer");
        peer.rsplit_once(':').map_or(peer, |(ip, _)| ip).trim_matches(['[', ']'])
    }
}

/// `in_pod ID COMMAND...` and `inside ID COMMAND...` for scripts.
const IN_POD: &str = r#"pid_of() { grep -lzx "POD_ID=$1" /proc/[0-9]*/environ 2>/dev/null | head -1 | cut -d/ -f3; }
in_pod() { local pid=$(pid_of "$1"); shift; [ -n "$pid" ] && nsenter -t "$pid" -n "$@"; }
inside() { local pid=$(pid_of "$1"); shift; [ -n "$pid" ] && nsenter -t "$pid" -n -m "$@"; }"#;

/// Any node: its shell sees the processes of all pods.
pub const ANY: &str = "";

/// Runs a script of bash in the network of a node (or of `outside`). In it, `in_pod ID COMMAND...` runs a command in the
/// network of a pod, `inside ID COMMAND...` among its files, too.
pub fn script(cluster: &Cluster, node: &str, script: &str) -> String {
    let script = format!("{IN_POD}\n{script}");
    let node = if node == ANY { Vec::new() } else { vec!["--node", node] };
    let command = ["--", "bash", "-c", &script];
    let output = cluster.dyad(&[&["shell", "--name", &cluster.name], &node[..], &command].concat());
    text(&output.stdout)
}

impl From<'_> {
    fn node(self) -> String {
        match self {
            Self::Node(node) => node.to_owned(),
            Self::Pod(_) => ANY.to_owned(),
            Self::Outside => "outside".to_owned(),
        }
    }

    /// What makes `here COMMAND...` run a command there.
    fn here(self) -> String {
        match self {
            Self::Pod(id) => format!("pid=$(pid_of {id}); here() {{ nsenter -t \"$pid\" -n \"$@\"; }}"),
            Self::Node(_) | Self::Outside => "here() { \"$@\"; }".to_owned(),
        }
    }
}

/// Asks `http://ADDRESS:PORT/` as often as told, each on a connection of its own.
pub fn ask(cluster: &Cluster, from: From<'_>, at: &str, times: usize) -> Vec<Answer> {
    let curl = format!(
        "here curl -s --connect-timeout {PATIENCE} --max-time 2 -w '\\nstatus: %{{http_code}}\\n' http://{at}/; echo \"code: $?\"; echo '--- end'"
    );
    let printed =
        script(cluster, &from.node(), &format!("{}\nfor i in $(seq {times}); do {curl}; done", from.here()));
    printed.split("--- end\n").filter(|part| !part.is_empty()).map(answer).collect()
}

/// Asks once.
pub fn ask_once(cluster: &Cluster, from: From<'_>, at: &str) -> Answer {
    ask(cluster, from, at, 1).pop().unwrap_or(Answer::Failed(-1))
}

fn answer(printed: &str) -> Answer {
    let lines = printed.lines().filter_map(|line| line.split_once(": "));
    let lines: BTreeMap<String, String> =
        lines.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect();
    let number = |key: &str| lines.get(key).and_then(|text| text.parse::<i32>().ok());
    match (number("code"), number("status")) {
        (Some(0), Some(200)) => Answer::Echo(lines),
        (Some(0), Some(status)) => Answer::Status(status.try_into().unwrap_or_default()),
        (Some(7), _) => Answer::Refused,
        (Some(28), _) => Answer::Silence,
        (code, _) => Answer::Failed(code.unwrap_or(-1)),
    }
}

/// Sends a datagram to an echo server and waits for the answer.
pub fn ask_udp(cluster: &Cluster, from: From<'_>, ip: &str, port: u16) -> bool {
    let ask = format!("exec 3<>/dev/udp/{ip}/{port}; echo hello >&3; head -c 8 <&3");
    let printed = script(
        cluster,
        &from.node(),
        &format!("{}\nhere timeout {PATIENCE} bash -c '{ask}' 2>/dev/null", from.here()),
    );
    printed.starts_with("protocol")
}

/// A URL's address of an IP address and a port.
pub fn at(ip: &str, port: u16) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// The addresses at a place in an object: strings, or objects with `ip`.
pub fn ips(object: &Value, pointer: &str) -> Vec<String> {
    let list = object.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
    list.iter().filter_map(|item| Some(item["ip"].as_str().or_else(|| item.as_str())?.to_owned())).collect()
}

/// One connection of a truth table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// The pod that connects.
    pub from: String,
    /// The pod that is connected to.
    pub to: String,
    /// The port there.
    pub port: u16,
    /// Whether in IPv6.
    pub v6: bool,
}

/// Which of these connections work. `pods` are all pods with their addresses; every one asks every one, in parallel.
pub fn table(cluster: &Cluster, pods: &BTreeMap<String, Vec<String>>, ports: &[u16]) -> BTreeMap<Flow, bool> {
    let mut all = String::new();
    let mut urls: BTreeMap<String, (String, u16, bool)> = BTreeMap::new();
    for (to, ips) in pods {
        for ip in ips {
            for port in ports {
                urls.insert(format!("http://{}/", at(ip, *port)), (to.clone(), *port, ip.contains(':')));
            }
        }
    }
    let arguments: Vec<String> = urls.keys().map(|url| format!("-o /dev/null {url}")).collect();
    let arguments = arguments.join(" ");
    for from in pods.keys() {
        all.push_str(&format!(
            "(in_pod {from} curl -g -s -S --no-progress-meter --parallel --parallel-immediate --parallel-max 200 \
             --connect-timeout {PATIENCE} --max-time 2 -w '{from} %{{url}} %{{http_code}}\\n' {arguments} 2>/dev/null) &\n"
        ));
    }
    let printed = script(cluster, ANY, &format!("{all}wait"));
    let mut found = BTreeMap::new();
    for line in printed.lines() {
        let mut words = line.split(' ');
        let (Some(from), Some(url), Some(code)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let Some((to, port, v6)) = urls.get(url) else { continue };
        let flow = Flow { from: from.to_owned(), to: to.clone(), port: *port, v6: *v6 };
        found.insert(flow, code == "200");
    }
    found
}

/// A script that runs beside the test and tells line by line how it goes.
pub struct Talk {
    child: std::process::Child,
    lines: std::sync::mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Talk {
    /// Starts a [`script`] in any node's network.
    pub fn start(cluster: &Cluster, script: &str) -> Self {
        let mut command = cluster.dyad_command(&["shell", "--name", &cluster.name, "--", "bash", "-c"]);
        command.arg(format!("{IN_POD}\n{script}")).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().expect("dyad runs");
        let output = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in std::io::BufRead::lines(output) {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for a line, from now on.
    #[track_caller]
    pub fn wait(&mut self, what: &str, mut is_it: impl FnMut(&str) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if is_it(&line) => return,
                Ok(line) => self.seen.push(line),
                Err(_) => {
                    let last = &self.seen[self.seen.len().saturating_sub(5)..];
                    panic!("{what}: not in {} lines that end with {last:?}", self.seen.len());
                }
            }
        }
    }

    /// Forgets the lines that are there already.
    pub fn skip(&mut self) {
        self.seen.extend(self.lines.try_iter());
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // What runs in the pod's network ends with its output.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
