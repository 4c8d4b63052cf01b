//! Clusters that are started, stopped, broken and removed: objects survive, and nothing stays behind.

#[path = "../support/cluster.rs"]
mod cluster;

use std::time::Duration;

use cluster::{Cluster, assert_no_traces, down, kill, text};

#[test]
fn objects_survive_stop_and_start_and_down_leaves_nothing() {
    let cluster = Cluster::up("life", 10, &["--nodes", "1"]);
    assert_eq!(cluster.status()["state"], "running");
    let again = cluster.start(&[]);
    assert!(!again.status.success() && text(&again.stderr).contains("is running"), "{}", text(&again.stderr));
    let uid = |cluster: &Cluster| cluster.get(&["namespace", "kept"])["metadata"]["uid"].clone();
    let before = cluster.has_kubectl().then(|| {
        cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: kept}\n");
        uid(&cluster)
    });
    let stopped = cluster.dyad(&["stop", "--name", &cluster.name]);
    assert!(stopped.status.success(), "{}", text(&stopped.stderr));
    assert_eq!(cluster.status()["state"], "stopped");
    let started = cluster.dyad(&["start", "--name", &cluster.name]);
    assert!(started.status.success(), "{}\n{}", text(&started.stderr), cluster.logs());
    assert_eq!(cluster.status()["state"], "running");
    if let Some(before) = before {
        assert_eq!(uid(&cluster), before);
    }
    down(&cluster);
    assert_no_traces(&cluster);
    down(&cluster);
}

#[test]
fn what_is_killed_comes_back_and_down_works_after_any_death() {
    let cluster = Cluster::up("killed", 11, &["--nodes", "2"]);
    for process in ["node1", "control-plane", "outside"] {
        let before = cluster.pid(process);
        kill(before);
        cluster.eventually(&format!("{process} comes back"), || {
            let status = cluster.status();
            let processes = status["processes"].as_array().expect("processes");
            let now = processes.iter().find(|one| one["name"] == process).and_then(|one| one["pid"].as_i64());
            match now {
                Some(pid) if pid != i64::from(before) && status["state"] == "running" => Ok(()),
                _ => Err(status.to_string()),
            }
        });
    }
    kill(cluster.pid("supervisor"));
    cluster.eventually("everything ends with the supervisor", || {
        let status = cluster.status();
        if status["state"] == "stopped" { Ok(()) } else { Err(status.to_string()) }
    });
    let started = cluster.dyad(&["start", "--name", &cluster.name]);
    assert!(started.status.success(), "{}\n{}", text(&started.stderr), cluster.logs());
    kill(cluster.pid("supervisor"));
    down(&cluster);
    assert_no_traces(&cluster);
}

#[test]
fn a_start_that_is_cut_short_leaves_nothing_after_down() {
    for (number, milliseconds) in [(12, 15), (13, 60), (14, 200)] {
        let cluster = Cluster::prepare("cut", number);
        let config = cluster.home.path().join("cluster.yaml");
        let args = ["up", "--name", &cluster.name, "--config", config.to_str().expect("UTF-8")];
        let mut child = cluster
            .dyad_command(&args)
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("dyad runs");
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().expect("a child can be killed");
        child.wait().expect("a killed child ends");
        down(&cluster);
        assert_no_traces(&cluster);
    }
}

#[test]
fn a_store_that_is_not_ours_is_refused_and_left_as_it_is() {
    let cluster = Cluster::up("foreign", 15, &["--nodes", "0"]);
    assert!(cluster.dyad(&["stop", "--name", &cluster.name]).status.success());
    let store = cluster.dir().join("store.redb");
    std::fs::write(&store, "this is a letter, not a database").expect("the store is a file");
    let started = cluster.dyad(&["start", "--name", &cluster.name]);
    let said = text(&started.stderr);
    assert!(
        !started.status.success() && said.contains("store.redb") && said.contains("move it away"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(&store).expect("still there"), "this is a letter, not a database");
}

#[test]
fn overlapping_clusters_are_refused_by_name() {
    let first = Cluster::up("first", 16, &["--nodes", "0"]);
    let config = first.home.path().join("cluster.yaml");
    let second = first.dyad(&["up", "--name", "second", "--config", config.to_str().expect("UTF-8")]);
    let said = text(&second.stderr);
    assert!(!second.status.success(), "{said}");
    for part in [first.name.as_str(), "\"second\"", "10.116.0.0/16"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert!(first.dyad(&["down", "--name", "second"]).status.success());
}
