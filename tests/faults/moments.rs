//! Commands that are cut short, given twice, or meet a machine that does not help.

#[path = "../support/cluster.rs"]
mod cluster;

use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use cluster::{Cluster, assert_no_traces, down, kill, text};

fn signal(pid: i32, name: &str) {
    let status = Command::new("kill").args([name, &pid.to_string()]).status().expect("kill runs");
    assert!(status.success());
}

/// Starts `dyad up` without waiting for it.
fn begin(cluster: &Cluster, args: &[&str]) -> Child {
    let config = cluster.home.path().join("cluster.yaml");
    let words =
        [&["up", "--name", &cluster.name, "--config", config.to_str().expect("UTF-8")], args].concat();
    let mut command = cluster.dyad_command(&words);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("dyad runs")
}

fn said(mut child: Child) -> (Option<i32>, String) {
    let mut all = Vec::new();
    child.stderr.take().expect("a pipe").read_to_end(&mut all).expect("it can be read");
    (child.wait().expect("it ends").code(), text(&all))
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_interrupted_up_is_taken_back() {
    for (number, moment) in
        [(40, "cluster.json"), (41, "running.json"), (42, "store.redb"), (43, "nodes/node1/kubeconfig")]
    {
        let cluster = Cluster::prepare("interrupted", number);
        let child = begin(&cluster, &["--nodes", "2"]);
        until(moment, || cluster.dir().join(moment).exists());
        signal(child.id().cast_signed(), "-INT");
        let (code, words) = said(child);
        assert_eq!(code, Some(130), "{moment}: {words}");
        assert!(words.contains("removed again"), "{moment}: {words}");
        assert_no_traces(&cluster);
    }
}

#[test]
fn of_two_commands_at_once_one_is_told_to_wait() {
    let cluster = Cluster::prepare("twice", 44);
    let first = begin(&cluster, &["--nodes", "1"]);
    until("the first holds the lock", || cluster.dir().join("cluster.json").exists());
    let meanwhile = cluster.dyad(&["down", "--name", &cluster.name]);
    assert!(text(&meanwhile.stderr).contains("another dyad command"), "{}", text(&meanwhile.stderr));
    let (second, _) = said(begin(&cluster, &["--nodes", "1"]));
    assert_eq!(second, Some(1));
    let (first, words) = said(first);
    assert_eq!(first, Some(0), "{words}");
    assert_eq!(cluster.status()["state"], "running");
    down(&cluster);
    assert_no_traces(&cluster);
}

#[test]
fn processes_that_stand_still_do_not_hold_up_the_end() {
    let cluster = Cluster::up("still", 45, &["--nodes", "1"]);
    let begun = Instant::now();
    signal(cluster.pid("supervisor"), "-STOP");
    assert!(cluster.dyad(&["stop", "--name", &cluster.name]).status.success());
    assert!(cluster.dyad(&["start", "--name", &cluster.name]).status.success());
    for process in ["node1", "control-plane"] {
        signal(cluster.pid(process), "-STOP");
    }
    down(&cluster);
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_no_traces(&cluster);
}

#[test]
fn a_control_plane_that_is_killed_while_it_begins_begins_again() {
    let cluster = Cluster::prepare("begins", 46);
    let child = begin(&cluster, &["--nodes", "1"]);
    until("it has begun", || cluster.dir().join("pki").exists());
    let pid = cluster.status()["processes"][1]["pid"].as_i64();
    if let Some(pid) = pid {
        kill(i32::try_from(pid).expect("a PID"));
    }
    let (code, words) = said(child);
    assert_eq!(code, Some(0), "{words}\n{}", cluster.logs());
    down(&cluster);
    assert_no_traces(&cluster);
}

#[test]
fn a_kubeconfig_that_cannot_be_written_is_found_out_first_and_keeps_nothing_from_going() {
    let cluster = Cluster::prepare("unwritable", 47);
    let broken = "]] no kubeconfig";
    std::fs::write(cluster.kubeconfig(), broken).expect("a file");
    let refused = cluster.start(&["--nodes", "0"]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("is not a kubeconfig"));
    assert!(!cluster.dir().exists(), "nothing was begun");
    let mine = "# mine\napiVersion: v1\nkind: Config\nclusters: []\nusers: []  # nobody\ncontexts: []\n";
    std::fs::write(cluster.kubeconfig(), mine).expect("a file");
    assert!(cluster.start(&["--nodes", "0"]).status.success());
    let merged = std::fs::read_to_string(cluster.kubeconfig()).expect("a file");
    assert!(merged.contains("# mine") && merged.contains(&cluster.name), "{merged}");
    let spoilt = format!("{merged}\n]] dyad-{}", cluster.name);
    std::fs::write(cluster.kubeconfig(), &spoilt).expect("a file");
    let output = cluster.dyad(&["down", "--name", &cluster.name]);
    assert!(
        !output.status.success() && text(&output.stderr).contains("the cluster is gone"),
        "{}",
        text(&output.stderr)
    );
    assert!(!cluster.dir().exists());
    std::fs::write(cluster.kubeconfig(), &merged).expect("a file");
    down(&cluster);
    assert_no_traces(&cluster);
    assert!(std::fs::read_to_string(cluster.kubeconfig()).expect("a file").contains("# mine"));
}

#[test]
fn the_same_name_in_another_data_directory_leaves_the_first_alone() {
    if !is_root() {
        eprintln!("SKIPPED: without root a cluster has no link on the machine");
        return;
    }
    let first = Cluster::up("same", 48, &["--nodes", "1"]);
    let mut second = Cluster::prepare("same", 49);
    second.name.clone_from(&first.name);
    let refused = second.start(&["--nodes", "1"]);
    let words = text(&refused.stderr);
    assert!(!refused.status.success() && words.contains("another data directory"), "{words}");
    down(&second);
    let links = std::fs::read_to_string("/proc/net/dev").expect("the links");
    assert!(links.contains("dyad-"), "{links}");
    assert_eq!(first.status()["state"], "running");
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("our own status");
    status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}

#[test]
fn every_field_of_the_file_takes_effect() {
    let cluster = Cluster::prepare("fields", 50);
    let file = cluster.home.path().join("cluster.yaml");
    let text_before = std::fs::read_to_string(&file).expect("the file");
    let more = "  apiServerAddress: \"::1\"\n  dnsSearch: [corp.example]\nnodes:\n- role: control-plane\n- role: worker\n  \
                labels: {zone: a, topology.kubernetes.io/zone: b}\n";
    std::fs::write(&file, text_before + more).expect("the file");
    let started = cluster.start(&["-o", "json"]);
    assert!(started.status.success(), "{}", text(&started.stderr));
    let status: serde_json::Value = serde_json::from_slice(&started.stdout).expect("JSON and nothing else");
    assert!(status["server"].as_str().is_some_and(|url| url.starts_with("https://[::1]:")), "{status}");
    let names: Vec<_> = status["nodes"].as_array().expect("nodes").iter().map(|node| &node["name"]).collect();
    let (control_plane, worker) =
        (format!("{}-control-plane", cluster.name), format!("{}-worker", cluster.name));
    assert_eq!(names, [control_plane.as_str(), worker.as_str()]);
    if !cluster.has_kubectl() {
        return;
    }
    let first = cluster.get(&["node", &control_plane]);
    assert_eq!(first["metadata"]["labels"]["node-role.kubernetes.io/control-plane"], "");
    assert_eq!(first["spec"]["taints"][0]["key"], "node-role.kubernetes.io/control-plane");
    let second = cluster.get(&["node", &worker]);
    assert_eq!(second["metadata"]["labels"]["zone"], "a");
    assert_eq!(second["metadata"]["labels"]["topology.kubernetes.io/zone"], "b");
}

/// Runs `dyad` as an ordinary user who owns the cluster's directories.
fn as_nobody(cluster: &Cluster, program: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(args).uid(65534).gid(65534).current_dir("/").stdin(Stdio::null());
    command.env("XDG_DATA_HOME", cluster.home.path()).env("KUBECONFIG", cluster.kubeconfig());
    command.env("HOME", cluster.home.path());
    command.output().expect("dyad runs")
}

#[test]
fn an_ordinary_user_has_the_same_life() {
    if !is_root() {
        eprintln!("SKIPPED: all other tests run as an ordinary user already");
        return;
    }
    let cluster = Cluster::prepare("ordinary", 51);
    let program = cluster.home.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_dyad"), &program).expect("a copy that everybody can read");
    for path in [cluster.home.path(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("our own");
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).expect("root may");
    }
    let config = cluster.home.path().join("cluster.yaml");
    let up = ["up", "--name", &cluster.name, "--nodes", "1", "--config", config.to_str().expect("UTF-8")];
    let started = as_nobody(&cluster, &program, &up);
    assert!(started.status.success(), "{}", text(&started.stderr));
    for command in ["stop", "start", "down"] {
        let output = as_nobody(&cluster, &program, &[command, "--name", &cluster.name]);
        assert!(output.status.success(), "{command}: {}", text(&output.stderr));
    }
    assert_no_traces(&cluster);
}

#[test]
fn where_user_namespaces_are_forbidden_the_setting_is_named() {
    if !is_root() {
        eprintln!("SKIPPED: only root can make a place where they are forbidden");
        return;
    }
    let cluster = Cluster::prepare("forbidden", 52);
    let program = cluster.home.path().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_dyad"), &program).expect("a copy that everybody can read");
    for path in [cluster.home.path(), &program] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("our own");
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).expect("root may");
    }
    // A user namespace with everybody in it, in which no further one may be made.
    let mut place = Command::new("unshare").args(["-U", "sleep", "60"]).spawn().expect("unshare runs");
    let proc = format!("/proc/{}", place.id());
    let own = std::fs::read_link("/proc/self/ns/user").expect("our namespace");
    until("the namespace is there", || {
        std::fs::read_link(format!("{proc}/ns/user")).is_ok_and(|other| other != own)
    });
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("{proc}/{map}"), "0 0 65536").expect("root may");
    }
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$0\" \"$@\"";
    let output = Command::new("nsenter")
        .args(["-U", "-t", &place.id().to_string(), "sh", "-c", script])
        .arg(&program)
        .args(["up", "--name", &cluster.name, "--nodes", "0"])
        .env("XDG_DATA_HOME", cluster.home.path())
        .env("KUBECONFIG", cluster.kubeconfig())
        .output();
    place.kill().expect("ours");
    place.wait().expect("it ends");
    let output = output.expect("nsenter runs");
    let words = text(&output.stderr);
    assert!(!output.status.success() && words.contains("user.max_user_namespaces"), "{words}");
    assert!(!cluster.dir().exists(), "nothing was begun");
}

#[test]
fn readers_that_leave_and_odd_words_are_no_reason_to_panic() {
    let cluster = Cluster::prepare("odd", 53);
    let mut child = cluster
        .dyad_command(&["status"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("dyad runs");
    drop(child.stdout.take());
    assert!(child.wait().expect("it ends").success());
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let output = cluster.dyad_command(&["status"]).stdout(full).output().expect("dyad runs");
    assert!(
        text(&output.stderr).starts_with("error: can't write to standard output"),
        "{}",
        text(&output.stderr)
    );
    for words in [&[&b"\xff"[..]][..], &[b"up", b"--name", b"\xff"], &[b"internal", b"\xff"]] {
        let words = words.iter().map(|word| std::ffi::OsStr::from_bytes(word));
        let output = cluster.dyad_command(&[]).args(words).output().expect("dyad runs");
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    }
    for name in ["..", "../x", "A", "", "a_b"] {
        for command in ["up", "down", "stop", "start", "status", "logs", "shell"] {
            let output = cluster.dyad(&[command, "--name", name]);
            assert!(
                text(&output.stderr).contains("is not a cluster name"),
                "{command} {name}: {}",
                text(&output.stderr)
            );
        }
    }
    for variable in ["HOME", "KUBECONFIG"] {
        assert!(
            cluster
                .dyad_command(&["down", "--name", &cluster.name])
                .env_remove(variable)
                .status()
                .expect("dyad runs")
                .success()
        );
    }
}

#[test]
fn pods_go_on_after_stop_and_start_and_see_no_keys() {
    // Pods have a /tmp of their own, so keys there would prove nothing.
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let cluster = Cluster::prepare_at(home, "keys", 54);
    let started = cluster.start(&["--nodes", "1"]);
    assert!(started.status.success(), "{}", text(&started.stderr));
    if !cluster.has_kubectl() {
        return;
    }
    let dir = cluster.dir().display().to_string();
    assert!(cluster.kubeconfig().exists() && cluster.dir().join("pki").exists());
    // A pod that sees any of them, or that sees nothing of the machine at all, is never ready.
    let script = format!(
        "test -e {} && ! test -e {} && ! test -e {dir}/pki && ! test -e {dir}/kubeconfig",
        env!("CARGO_TARGET_TMPDIR"),
        cluster.kubeconfig().display()
    );
    let pod = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "look"},
        "spec": {"selector": {"matchLabels": {"app": "look"}}, "replicas": 3, "template": {
            "metadata": {"labels": {"app": "look"}},
            "spec": {"containers": [{"name": "look", "image": "dyad/tools", "command": ["sleep", "1000"],
                "readinessProbe": {"exec": {"command": ["sh", "-c", script]}, "periodSeconds": 1}}]}}}
    });
    cluster.apply(&pod.to_string());
    cluster.kubectl(&["rollout", "status", "deployment/look", "--timeout=20s"]);
    assert!(cluster.dyad(&["stop", "--name", &cluster.name]).status.success());
    assert!(cluster.dyad(&["start", "--name", &cluster.name]).status.success());
    cluster.kubectl(&["rollout", "status", "deployment/look", "--timeout=20s"]);
    cluster.eventually("every pod runs again", || {
        let pods = cluster.get(&["pods", "-l", "app=look"]);
        let running = pods["items"].as_array().into_iter().flatten().filter(|pod| {
            let state = &pod["status"]["containerStatuses"][0];
            state["ready"] == true && pod["metadata"]["deletionTimestamp"].is_null()
        });
        let count = running.count();
        if count == 3 { Ok(()) } else { Err(format!("{count} of 3")) }
    });
    down(&cluster);
    assert_no_traces(&cluster);
}
