//! A cluster of one test's own: own data directory, own kubeconfig, own ranges, gone when dropped.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test program has this module to itself and uses what it needs of it"
)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A local cluster, run by the `dyad` program under test.
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Holds its data directory and kubeconfig.
    pub home: tempfile::TempDir,
    kubectl: Option<Kubectl>,
}

/// A kubectl, and the minor number of its version.
struct Kubectl {
    program: PathBuf,
    minor: u32,
}

/// From this version on, kubectl makes its streams before it reads what comes on them over WebSockets (Kubernetes issue
/// 131189); before, it loses what comes early.
const STEADY_WEBSOCKETS: u32 = 34;

impl Cluster {
    /// Room for a cluster with ranges that no other `number` (0 to 99) has; nothing is started.
    pub fn prepare(name: &str, number: u8) -> Self {
        Self::prepare_at(tempfile::tempdir().expect("a temporary directory"), name, number)
    }

    /// The same with its files in a place of the caller's choice.
    pub fn prepare_at(home: tempfile::TempDir, name: &str, number: u8) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let config = format!(
            "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnetworking:\n  \
             podSubnet: 10.{}.0.0/16,fd00:dad:{number}::/56\n  serviceSubnet: 10.250.{number}.0/24,fd00:dad:{number}:100::/112\n",
            100 + u16::from(number)
        );
        std::fs::write(home.path().join("cluster.yaml"), config).expect("the cluster's file");
        Self { name, home, kubectl: kubectl() }
    }

    /// A running cluster.
    pub fn up(name: &str, number: u8, args: &[&str]) -> Self {
        let cluster = Self::prepare(name, number);
        let output = cluster.start(args);
        assert!(output.status.success(), "dyad up: {}\n{}", text(&output.stderr), cluster.logs());
        cluster
    }

    /// Runs `dyad up`.
    pub fn start(&self, args: &[&str]) -> Output {
        let config = self.home.path().join("cluster.yaml");
        let config = config.to_str().expect("a path in UTF-8");
        // The same tests are for every data plane: DYAD_TEST_DATAPLANE=nftables.
        let dataplane = std::env::var("DYAD_TEST_DATAPLANE").unwrap_or_default();
        let dataplane = if dataplane.is_empty() { Vec::new() } else { vec!["--dataplane", &dataplane] };
        self.dyad(&[&["up", "--name", &self.name, "--config", config], &dataplane[..], args].concat())
    }

    /// Runs `dyad` with this cluster's directories.
    pub fn dyad(&self, args: &[&str]) -> Output {
        self.dyad_command(args).output().expect("dyad runs")
    }

    /// The command, to run in another way.
    pub fn dyad_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dyad"));
        command.args(args).env("XDG_DATA_HOME", self.home.path()).env("KUBECONFIG", self.kubeconfig());
        command.stdin(Stdio::null());
        command
    }

    /// The kubeconfig `up` merges into.
    pub fn kubeconfig(&self) -> PathBuf {
        self.home.path().join("config")
    }

    /// The cluster's directory.
    pub fn dir(&self) -> PathBuf {
        self.home.path().join("dyad").join(&self.name)
    }

    /// `dyad status -o json`.
    pub fn status(&self) -> Value {
        let output = self.dyad(&["status", "--name", &self.name, "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("status: {}", text(&output.stderr)))
    }

    /// The PID of one of the cluster's processes.
    pub fn pid(&self, process: &str) -> i32 {
        let status = self.status();
        let processes = status["processes"].as_array().expect("processes");
        let found = processes.iter().find(|one| one["name"] == process).expect("a known process");
        found["pid"].as_i64().unwrap_or_else(|| panic!("{process} is not running")) as i32
    }

    /// Whether there is a kubectl to test with; says loudly if not.
    pub fn has_kubectl(&self) -> bool {
        if self.kubectl.is_none() {
            eprintln!("SKIPPED: no kubectl 1.27 or newer in DYAD_KUBECTL or PATH");
        }
        self.kubectl.is_some()
    }

    /// A `kubectl` command for this cluster, to run in another way.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let kubectl = self.kubectl.as_ref().expect("asked before");
        let mut command = Command::new(&kubectl.program);
        if kubectl.minor < STEADY_WEBSOCKETS {
            command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
        }
        // Before what `--` may separate.
        command.args(["--context", &format!("dyad-{}", self.name)]).args(args);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.home.path());
        command
    }

    /// Runs `kubectl` with `input` on standard input.
    pub fn kubectl_with(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.kubectl_command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl runs");
        // A command that reads no input closes it.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        child.wait_with_output().expect("kubectl ends")
    }

    /// Runs `kubectl`; it must succeed. Returns what it printed.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = self.kubectl_with(args, "");
        assert!(
            output.status.success(),
            "kubectl {}: {}{}",
            args.join(" "),
            text(&output.stderr),
            text(&output.stdout)
        );
        text(&output.stdout)
    }

    /// Runs `kubectl`; it must fail. Returns what it complained.
    pub fn kubectl_fails(&self, args: &[&str]) -> String {
        let output = self.kubectl_with(args, "");
        assert!(!output.status.success(), "kubectl {} succeeded: {}", args.join(" "), text(&output.stdout));
        text(&output.stderr)
    }

    /// Applies YAML.
    pub fn apply(&self, yaml: &str) -> String {
        let output = self.kubectl_with(&["apply", "-f", "-"], yaml);
        assert!(output.status.success(), "kubectl apply: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// One object as JSON.
    pub fn get(&self, what: &[&str]) -> Value {
        let printed = self.kubectl(&[&["get", "-o", "json"], what].concat());
        serde_json::from_str(&printed).expect("JSON")
    }

    /// Tries until `done` or the deadline; then shows what it saw last.
    pub fn eventually(&self, what: &str, mut look: impl FnMut() -> Result<(), String>) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match look() {
                Ok(()) => return,
                Err(seen) if Instant::now() > deadline => panic!("{what}: {seen}\n{}", self.logs()),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// The ends of all logs, for a test that fails.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.dir().join("logs")).into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n");
            all.push_str(&format!("--- {}\n{tail}\n", entry.file_name().to_string_lossy()));
        }
        all
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let output = self.dyad(&["down", "--name", &self.name]);
        if !output.status.success() && !std::thread::panicking() {
            panic!("dyad down: {}", text(&output.stderr));
        }
    }
}

/// Ends a process without a word.
pub fn kill(pid: i32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().expect("kill runs");
    assert!(status.success());
}

/// What a cluster could leave on the machine: links, routes and cgroups by its name, processes by its directory.
pub fn traces(cluster: &Cluster) -> Vec<String> {
    let mut traces = Vec::new();
    let links = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    // The link of a name this long carries a hash; it is told apart by the routes to the cluster's ranges below.
    traces
        .extend(links.lines().filter(|line| line.contains(&cluster.name)).map(|line| format!("link {line}")));
    let config = std::fs::read_to_string(cluster.home.path().join("cluster.yaml")).unwrap_or_default();
    let range = config
        .lines()
        .find_map(|line| line.trim().strip_prefix("podSubnet: "))
        .expect("a pod range")
        .to_owned();
    for range in range.split(',') {
        let family = if range.contains(':') { "-6" } else { "-4" };
        let routes =
            Command::new("ip").args([family, "route", "show", "root", range]).output().expect("ip runs");
        traces.extend(text(&routes.stdout).lines().map(|line| format!("route {line}")));
    }
    for root in ["", "/unified", "/cpu", "/memory", "/pids"].map(|below| format!("/sys/fs/cgroup{below}")) {
        let groups = std::fs::read_dir(root).into_iter().flatten().flatten();
        let ours = groups.filter(|group| group.file_name().to_string_lossy().contains(&cluster.name));
        traces.extend(ours.map(|group| format!("cgroup {}", group.path().display())));
    }
    let dir = cluster.dir().display().to_string();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if text(&cmdline).contains(&dir) {
            traces.push(format!("process {:?} {}", entry.file_name(), text(&cmdline).replace('\0', " ")));
        }
    }
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    traces.extend(mounts.lines().filter(|line| line.contains(&dir)).map(|line| format!("mount {line}")));
    traces.extend(cluster.dir().exists().then(|| format!("directory {dir}")));
    let kubeconfig = std::fs::read_to_string(cluster.kubeconfig()).unwrap_or_default();
    traces.extend(kubeconfig.contains(&cluster.name).then(|| "an entry in the kubeconfig".to_owned()));
    traces
}

/// The kernel takes namespaces apart in its own time, a moment after the last process has gone.
#[track_caller]
pub fn assert_no_traces(cluster: &Cluster) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let traces = traces(cluster);
        if traces.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {traces:#?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs `dyad down`, which must succeed.
pub fn down(cluster: &Cluster) {
    let output = cluster.dyad(&["down", "--name", &cluster.name]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Bytes that a program printed, as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn kubectl() -> Option<Kubectl> {
    if let Some(path) = std::env::var_os("DYAD_KUBECTL").filter(|path| !path.is_empty()) {
        let program = PathBuf::from(path);
        let minor = minor(&program).unwrap_or_default();
        return Some(Kubectl { program, minor });
    }
    let path = std::env::var_os("PATH")?;
    let mut found = std::env::split_paths(&path).map(|dir| dir.join("kubectl")).filter_map(|program| {
        let minor = minor(&program)?;
        Some(Kubectl { program, minor })
    });
    found.find(|kubectl| kubectl.minor >= 27)
}

fn minor(program: &Path) -> Option<u32> {
    let output = Command::new(program).args(["version", "--client", "-o", "json"]).output().ok()?;
    let version: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    version["clientVersion"]["minor"].as_str()?.trim_end_matches('+').parse().ok()
}
