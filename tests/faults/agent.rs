//! The data plane goes on: agents are killed at random moments while clients connect and endpoints come and go, and no
//! connection fails while an endpoint is ready.

#[path = "../support/cluster.rs"]
mod cluster;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{Cluster, kill, text};
use serde_json::json;

/// How often the agent's process is killed in each data plane.
const KILLS: u32 = 8;
/// Where a client connects to, for the process that is one.
const TARGETS: &str = "DYAD_TEST_TARGETS";
/// What a client waits for before it begins, and what ends it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Not a test by itself: connects to all targets in turn, each time anew, until its input ends; then tells how it went.
#[test]
fn client() {
    let Ok(targets) = std::env::var(TARGETS) else { return };
    let targets: Vec<SocketAddr> = targets.split(' ').map(|at| at.parse().expect("an address")).collect();
    std::io::stdin().read_exact(&mut [0]).expect("a word to begin");
    let (ended, has_ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // An error is an end, too.
        let _ = std::io::stdin().read(&mut [0]);
        let _ = ended.send(());
    });
    let (mut count, mut failures) = (0, Vec::new());
    while has_ended.try_recv().is_err() {
        for at in &targets {
            count += 1;
            let begun = Instant::now();
            if let Err(error) = ask(*at) {
                failures.push(format!("{at} after {:?}: {error}", begun.elapsed()));
            }
        }
        // So that addresses of connections that have ended are free again in time.
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("\ncount {count} failed {}", failures.len());
    failures.iter().take(20).for_each(|failure| println!("{failure}"));
}

fn ask(at: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.contains("200 OK") {
        true => Ok(()),
        false => Err(std::io::Error::other(answer)),
    }
}

/// A client in the network and the cgroup of a process; its sockets are a pod's then.
struct Client(Child);

impl Client {
    fn start(of: Option<u32>, targets: &[String]) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut command = match of {
            Some(pid) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/proc/{pid}/ns/net")).arg("--").arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(["--exact", "client", "--nocapture"]).env(TARGETS, targets.join(" "));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a client");
        if let Some(cgroup) = of.and_then(cgroup_of) {
            std::fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).expect("the pod's cgroup");
        }
        child.stdin.as_mut().expect("a pipe").write_all(b"!").expect("it waits");
        Self(child)
    }

    /// How many connections there were; the failures of those that failed.
    fn finish(mut self) -> (u32, String) {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().expect("it ends");
        let printed = text(&output.stdout);
        let line = printed
            .lines()
            .find_map(|line| line.strip_prefix("count "))
            .unwrap_or_else(|| panic!("{printed}"));
        let (count, failed) = line.split_once(" failed ").expect("both numbers");
        let failures = if failed == "0" { String::new() } else { printed.clone() };
        (count.parse().expect("a number"), failures)
    }
}

/// The version 2 cgroup of a process.
fn cgroup_of(pid: u32) -> Option<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(|root| PathBuf::from(root).join(path))
        .into_iter()
        .find(|dir| dir.join("cgroup.procs").exists())
}

/// The process that has this in its environment.
fn process_with(variable: &str) -> Option<u32> {
    let has = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|one| one == variable.as_bytes())
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(has)
}

/// A number that differs each time, but can be told: xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Both slices, with the pods ready whose bits are set.
fn slices(pods: &[Vec<String>], ready: u64) -> String {
    let slice = |family: usize, name: &str| {
        let endpoint = |(number, ips): (usize, &Vec<String>)| {
            // What is not ready terminates, and answers those that come late.
            let ready = ready & 1 << number != 0;
            json!({
                "addresses": [ips[family]], "nodeName": "node1",
                "conditions": {"ready": ready, "serving": true, "terminating": !ready},
            })
        };
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("web-{name}"), "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": name.to_uppercase().replace("IPV", "IPv"),
            "endpoints": pods.iter().enumerate().map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "http", "port": 8080}],
        })
    };
    format!("---\n{}\n---\n{}\n", slice(0, "ipv4"), slice(1, "ipv6"))
}

fn killed_under_traffic(name: &str, number: u8, dataplane: &str) {
    let cluster = Cluster::up(name, number, &["--nodes", "1", "--dataplane", dataplane]);
    if !cluster.has_kubectl() {
        return;
    }
    let pod = |name: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - name: echo\n    \
             image: dyad/echo\n    env: [{{name: POD_ID, value: {}-{name}}}]\n",
            cluster.name
        )
    };
    let names = ["web-0", "web-1", "web-2", "client"];
    cluster.apply(&names.map(pod).concat());
    cluster.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  type: NodePort\n  \
         ipFamilyPolicy: RequireDualStack\n  ports: [{name: http, port: 80}]\n",
    );
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"]);
    let ips = |object: serde_json::Value, pointer: &str| -> Vec<String> {
        let list = object.pointer(pointer).and_then(|list| list.as_array().cloned()).expect("a list");
        list.iter().map(|ip| ip["ip"].as_str().or(ip.as_str()).expect("an address").to_owned()).collect()
    };
    let pods: Vec<Vec<String>> =
        names[..3].iter().map(|name| ips(cluster.get(&["pod", name]), "/status/podIPs")).collect();
    cluster.apply(&slices(&pods, 0b111));
    let service = cluster.get(&["service", "web"]);
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().expect("a node port");
    let at = |ip: &String, port: u64| {
        if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
    };
    let vips: Vec<String> = ips(service, "/spec/clusterIPs").iter().map(|ip| at(ip, 80)).collect();
    let node = cluster.get(&["node", "node1"]);
    let addresses = node["status"]["addresses"].as_array().expect("addresses");
    let internal = addresses.iter().filter(|address| address["type"] == "InternalIP");
    let node_ports: Vec<String> = internal
        .map(|address| at(&address["address"].as_str().expect("an address").to_owned(), port))
        .collect();
    let pid = process_with(&format!("POD_ID={}-client", cluster.name)).expect("the client's process");
    // At each of its addresses: those of the node need not come together with its own.
    cluster.eventually("the Service is there", || {
        match vips.iter().chain(&node_ports).all(|at| ask(at.parse().expect("one")).is_ok()) {
            true => Ok(()),
            false => Err("not yet".into()),
        }
    });
    // The way through sockets, and the way through the node.
    let clients =
        [Client::start(Some(pid), &vips), Client::start(None, &[vips.as_slice(), &node_ports].concat())];
    let seed =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_nanos();
    let mut random = Random(seed as u64 | 1);
    let mut ready = 0b111;
    for _ in 0..KILLS {
        for _ in 0..random.below(4) {
            // One that was ready stays so: what is told is not known everywhere at once.
            let stays = (0..3).map(|bit| 1 << bit).find(|bit| ready & bit != 0).unwrap_or(1);
            ready = stays | random.below(8);
            cluster.apply(&slices(&pods, ready));
        }
        std::thread::sleep(Duration::from_millis(random.below(300)));
        let before = cluster.pid("node1");
        kill(before);
        cluster.eventually("it is started again", || {
            let status = cluster.status();
            let processes = status["processes"].as_array().cloned().unwrap_or_default();
            let now = processes.iter().find(|one| one["name"] == "node1").and_then(|one| one["pid"].as_i64());
            match now.is_some_and(|now| now != i64::from(before)) {
                true => Ok(()),
                false => Err(status.to_string()),
            }
        });
    }
    // The last one gets to its work, too.
    cluster.apply(&slices(&pods, 0b010));
    cluster.eventually("the last change arrives", || {
        let one = TcpStream::connect(&*vips[1]).map_err(|error| error.to_string());
        one.map(drop)
    });
    for (client, who) in clients.into_iter().zip(["pod", "host"]) {
        let (count, failures) = client.finish();
        eprintln!("{dataplane}: {count} connections of the {who}, seed {seed}");
        assert!(count > 100, "{who}: {count} connections only");
        assert!(failures.is_empty(), "{dataplane}, seed {seed}, {who}: {failures}\n{}", cluster.logs());
    }
}

fn is_root() -> bool {
    let is_root =
        std::fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0);
    if !is_root {
        eprintln!("SKIPPED: only root enters the network and the cgroup of a pod");
    }
    is_root
}

#[test]
fn killed_under_traffic_with_nftables() {
    if is_root() {
        killed_under_traffic("killed-nft", 54, "nftables");
    }
}

#[test]
fn killed_under_traffic_with_whatever_there_is() {
    if is_root() {
        killed_under_traffic("killed-auto", 55, "auto");
    }
}
