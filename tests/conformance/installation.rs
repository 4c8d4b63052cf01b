//! `dyad install`, `upgrade`, `status`, `sysdump` and `uninstall` on a control plane without nodes: what they leave there,
//! and what they do when they are run twice, half-way, or on a cluster that somebody else networks.

#[path = "../support/cluster.rs"]
mod cluster;

use std::collections::BTreeMap;
use std::path::Path;

use cluster::{Cluster, text};
use serde_json::Value;

/// Ranges of pods by our own controllers, which have to be told of which.
const POOL: &str = "cni.ipam=dyad,clusterCIDR={10.244.0.0/16,fd00:10:244::/56}";

/// Kinds whose objects come and go by themselves; a changed DaemonSet keeps its history.
const RESTLESS: [&str; 4] =
    ["events", "events.events.k8s.io", "leases.coordination.k8s.io", "controllerrevisions.apps"];

fn run(cluster: &Cluster, args: &[&str]) -> String {
    let output = cluster.dyad(args);
    assert!(output.status.success(), "dyad {}: {}", args.join(" "), text(&output.stderr));
    text(&output.stderr) + &text(&output.stdout)
}

fn fails(cluster: &Cluster, args: &[&str]) -> String {
    let output = cluster.dyad(args);
    assert!(!output.status.success(), "dyad {} succeeded", args.join(" "));
    text(&output.stderr)
}

/// Every object there is, with its resource version.
fn everything(cluster: &Cluster) -> BTreeMap<String, String> {
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"]);
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !RESTLESS.contains(kind)).collect();
    let all = cluster.get(&["-A", &kinds.join(",")]);
    let object = |one: &Value| {
        let metadata = &one["metadata"];
        let key = format!("{} {} {}", one["kind"], metadata["namespace"], metadata["name"]);
        (key, metadata["resourceVersion"].to_string())
    };
    all["items"].as_array().expect("a list").iter().map(object).collect()
}

/// What one has and the other has not.
fn difference(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let only = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>| -> Vec<String> {
        one.keys().filter(|key| !other.contains_key(*key)).cloned().collect()
    };
    [only(before, after), only(after, before)].concat()
}

/// Whether the same objects are there, once what is deleted in the background is gone.
fn is_as_before(cluster: &Cluster, before: &BTreeMap<String, String>) {
    cluster.eventually("all is as before", || match difference(before, &everything(cluster)) {
        other if other.is_empty() => Ok(()),
        other => Err(other.join(", ")),
    });
}

#[test]
fn an_installation_comes_is_kept_and_goes_without_a_trace() {
    let cluster = Cluster::up("install", 84, &["--nodes", "0"]);
    if !cluster.has_kubectl() {
        return;
    }
    let before = everything(&cluster);

    // Words alone change nothing.
    let printed = text(&cluster.dyad(&["install", "--dry-run", "-o", "yaml"]).stdout);
    assert!(printed.contains("kind: DaemonSet") && printed.contains("name: dyad-agent"), "{printed}");
    let all = format!("dns.enabled=true,{POOL},dns.upstreams={{192.0.2.53}}");
    let dry = run(&cluster, &["install", "--dry-run=server", "--set", &all]);
    assert!(dry.contains("daemonset/dyad-agent created (server dry run)"), "{dry}");
    is_as_before(&cluster, &before);
    for (args, problem) in [
        (&["--set", "proxi.enabled=false"][..], "proxi: there is no such value"),
        (&["--set", "proxy.enabled=maybe"], "proxy.enabled: \"maybe\" is a text"),
        (&["--values", "/nowhere.yaml"], "--values /nowhere.yaml"),
        (&["--context", "nowhere"], "nowhere"),
    ] {
        let error = fails(&cluster, &[&["install"], args].concat());
        assert!(error.contains(problem), "{args:?}: {error}");
    }
    assert!(fails(&cluster, &["upgrade"]).contains("there is no installation in namespace kube-system"));

    let first = run(&cluster, &["install", "--set", &all]);
    assert!(first.contains("daemonset/dyad-agent created"), "{first}");
    let installed = everything(&cluster);
    for name in ["DaemonSet", "Deployment", "ServiceAccount", "ConfigMap"] {
        assert!(installed.keys().any(|key| key.contains(name) && key.contains("dyad-")), "{name}");
    }
    // The second time finds everything as it should be.
    let second = run(&cluster, &["install", "--set", &all]);
    assert!(!second.contains(" created") && !second.contains(" configured"), "{second}");
    let own = |all: BTreeMap<String, String>| -> BTreeMap<String, String> {
        all.into_iter().filter(|(key, _)| key.contains("dyad") && !key.contains("Pod")).collect()
    };
    assert_eq!(own(installed), own(everything(&cluster)), "nothing was written");

    // An upgrade keeps what was chosen, and takes away what is chosen no more.
    let upgraded = run(&cluster, &["upgrade", "--set", "cni.ipam=kubernetes,agent.verbosity=4"]);
    for part in [
        "deployment/dyad-controllers deleted",
        "daemonset/dyad-agent configured",
        "deployment/dyad-dns unchanged",
    ] {
        assert!(upgraded.contains(part), "{part}: {upgraded}");
    }
    let agent = cluster.get(&["-n", "kube-system", "daemonset", "dyad-agent"]);
    assert_eq!(agent["spec"]["template"]["spec"]["containers"][0]["args"][0], "-v=4");

    // A control plane without nodes has no agents to wait for; its DNS has nowhere to run.
    let context = format!("dyad-{}", cluster.name);
    let output = cluster.dyad(&["status", "--context", &context, "-o", "json"]);
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((status["ready"].as_bool(), output.status.code()), (Some(false), Some(1)), "{status}");
    assert!(status["problems"].to_string().contains("dyad-dns"), "{status}");
    run(&cluster, &["upgrade", "--set", "dns.enabled=false"]);
    let waited = run(&cluster, &["status", "--context", &context, "--wait", "--wait-duration", "60s"]);
    assert!(waited.contains("in namespace kube-system") && waited.contains("dyad-agent:"), "{waited}");
    // The local cluster is still one.
    assert_eq!(cluster.status()["state"], "running");

    let dump = cluster.home.path().join("dump.tar.gz");
    run(&cluster, &["sysdump", "--output-filename", dump.to_str().unwrap()]);
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&dump).unwrap()));
    let paths: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    for name in ["/nodes-", "/daemonsets-", "/dyad-status-", "/version-", "/dyad-configmaps-"] {
        assert!(paths.iter().any(|path| path.contains(name) && path.ends_with(".yaml")), "{name}: {paths:?}");
    }

    run(&cluster, &["uninstall"]);
    is_as_before(&cluster, &before);
    run(&cluster, &["uninstall"]);
    assert!(fails(&cluster, &["status", "--context", &context]).contains("there is no installation"));
}

#[test]
fn kube_proxy_goes_when_it_is_said_and_comes_back() {
    let cluster = Cluster::up("proxy", 85, &["--nodes", "0"]);
    if !cluster.has_kubectl() {
        return;
    }
    cluster.apply(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: kube-proxy, namespace: kube-system}\nspec:\n  \
         selector: {matchLabels: {k8s-app: kube-proxy}}\n  template:\n    metadata: {labels: {k8s-app: kube-proxy}}\n    \
         spec: {nodeSelector: {kubernetes.io/os: linux}, containers: [{name: c, image: kube-proxy}]}\n---\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kube-proxy, namespace: kube-system}\ndata:\n  \
         config.conf: |\n    clusterCIDR: 10.1.0.0/16,fd00:1::/56\n  kubeconfig.conf: |\n    server: https://192.0.2.99:6443\n",
    );
    let before = everything(&cluster);
    let selector = || {
        let found = cluster.get(&["-n", "kube-system", "daemonset", "kube-proxy"]);
        found["spec"]["template"]["spec"]["nodeSelector"].to_string()
    };
    let own = selector();
    let refused = fails(&cluster, &["install"]);
    assert!(
        refused.contains("--replace-kube-proxy") && refused.contains("--set proxy.enabled=false"),
        "{refused}"
    );
    is_as_before(&cluster, &before);

    let installed = run(&cluster, &["install", "--replace-kube-proxy"]);
    assert!(installed.contains("10.1.0.0/16") && installed.contains("192.0.2.99:6443"), "{installed}");
    assert!(selector().contains("dyad.io/kube-proxy"), "{}", selector());
    // It stays away without saying it again.
    run(&cluster, &["upgrade"]);
    run(&cluster, &["install"]);
    assert!(selector().contains("dyad.io/kube-proxy"), "{}", selector());
    // Somebody's agents are gone already, and half of the rest.
    cluster.kubectl(&["-n", "kube-system", "delete", "daemonset", "dyad-agent"]);
    cluster.kubectl(&["delete", "clusterrole", "dyad-agent"]);
    run(&cluster, &["uninstall"]);
    assert_eq!(selector(), own);
    is_as_before(&cluster, &before);

    // Beside it, in a namespace of its own.
    run(&cluster, &["install", "--namespace", "network", "--set", "proxy.enabled=false"]);
    assert_eq!(selector(), own);
    // Whoever forgets where it is changes nothing.
    let there = everything(&cluster);
    for command in ["install", "upgrade", "uninstall"] {
        let error = fails(&cluster, &[command]);
        assert!(error.contains("installed in namespace network"), "{command}: {error}");
    }
    is_as_before(&cluster, &there);
    run(&cluster, &["uninstall", "--namespace", "network"]);
    is_as_before(&cluster, &before);
}

/// kubectl finds what is called so.
#[test]
fn kubectl_knows_it_as_a_plugin() {
    let cluster = Cluster::prepare("plugin", 88);
    if !cluster.has_kubectl() {
        return;
    }
    let link = cluster.home.path().join("kubectl-dyad");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dyad"), link).expect("a link");
    let path = format!("{}:{}", cluster.home.path().display(), std::env::var("PATH").unwrap_or_default());
    // kubectl looks for plugins by the first word alone.
    let mut command = cluster.kubectl_command(&[]);
    let program = command.get_program().to_owned();
    command = std::process::Command::new(program);
    let output = command.args(["dyad", "--version"]).env("PATH", path).output().expect("kubectl runs");
    assert_eq!(
        text(&output.stdout).trim(),
        format!("dyad {}", env!("CARGO_PKG_VERSION")),
        "{}",
        text(&output.stderr)
    );
}

/// Whoever ends in the middle is run again.
#[test]
fn what_was_killed_half_way_is_finished_the_next_time() {
    let cluster = Cluster::up("half", 86, &["--nodes", "0"]);
    if !cluster.has_kubectl() {
        return;
    }
    let before = everything(&cluster);
    for args in [&["install", "--set", "dns.enabled=true", "--set", POOL][..], &["uninstall"]] {
        for millis in [20u64, 60, 120, 200] {
            let mut child =
                cluster.dyad_command(args).stderr(std::process::Stdio::null()).spawn().expect("dyad runs");
            std::thread::sleep(std::time::Duration::from_millis(millis));
            // It may be done already.
            let _ = child.kill();
            let _ = child.wait();
        }
        run(&cluster, args);
        if args[0] == "install" {
            let again = run(&cluster, args);
            assert!(!again.contains(" created") && !again.contains(" configured"), "{again}");
        }
    }
    is_as_before(&cluster, &before);
}

/// Every combination of parts is something that an API server takes.
#[test]
fn every_combination_passes_validation() {
    let cluster = Cluster::up("combinations", 87, &["--nodes", "0"]);
    let switches =
        ["proxy.enabled=false", "cni.enabled=false", "policy.enabled=false", "dns.enabled=true", POOL];
    for bits in 0..1u32 << switches.len() {
        let set: Vec<&str> = switches
            .iter()
            .enumerate()
            .filter(|(at, _)| bits & (1 << at) != 0)
            .map(|(_, text)| *text)
            .collect();
        let set = set.join(",");
        let more = "proxy.cgroupRoot=/sys/fs/cgroup/kubepods.slice,image.pullSecrets={},agent.maxUnavailable=10%,api.host=::1";
        let mut args = vec!["install", "--dry-run=server", "--set", more];
        if !set.is_empty() {
            args.extend(["--set", &set]);
        }
        run(&cluster, &args);
    }
}

/// On nodes whose network is what was installed: agents do with their roles, an upgrade reaches all of them, and nothing of
/// it stays.
#[test]
fn nodes_are_upgraded_and_left_as_they_were() {
    let cluster = Cluster::prepare("taken-off", 89);
    if !Path::new(env!("CARGO_BIN_EXE_dyad")).with_file_name("dyad-cni").is_file() {
        eprintln!("SKIPPED: no dyad-cni beside dyad: `cargo build -p dyad-cni`");
        return;
    }
    if !cluster.has_kubectl() {
        return;
    }
    let log = cluster.home.path().join("audit.log");
    let config = cluster.home.path().join("cluster.yaml");
    let text_of = std::fs::read_to_string(&config).expect("the cluster's file");
    let audited = format!("{text_of}apiServer:\n  extraArgs:\n    audit-log-path: {}\n", log.display());
    std::fs::write(&config, audited).expect("the cluster's file");
    let started = cluster.start(&["--nodes", "2", "--install", "--dataplane", "nftables"]);
    assert!(started.status.success(), "{}\n{}", text(&started.stderr), cluster.logs());

    let context = format!("dyad-{}", cluster.name);
    let ranges = "clusterCIDR={10.189.0.0/16,fd00:dad:89::/56}";
    run(&cluster, &["install", "--set", ranges, "--wait", "--wait-duration", "60s"]);
    let upgraded =
        run(&cluster, &["upgrade", "--set", "agent.verbosity=4", "--wait", "--wait-duration", "60s"]);
    assert!(upgraded.contains("daemonset/dyad-agent configured"), "{upgraded}");
    let output = cluster.dyad(&["status", "--context", &context, "-o", "json"]);
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(2), "{status}");
    assert!(
        status["nodes"][0]["dataplane"].as_str().is_some_and(|plane| plane.starts_with("nftables")),
        "{status}"
    );

    let look = "nft list tables; ip route show table all proto 214; ip -6 route show table all proto 214; \
                ls /etc/cni/net.d /opt/cni/bin /var/lib/cni/networks";
    let on = |node: &str| {
        text(
            &cluster.dyad(&["shell", "--name", &cluster.name, "--node", node, "--", "sh", "-c", look]).stdout,
        )
    };
    assert!(
        on("node1").contains("table ip dyad") && on("node1").contains("05-dyad.conflist"),
        "{}",
        on("node1")
    );
    run(&cluster, &["uninstall", "--wait-duration", "60s"]);
    for node in ["node1", "node2"] {
        let left = on(node);
        for trace in ["table ", " dev ", "dyad"] {
            assert!(!left.contains(trace), "{node}: {left}");
        }
        let object = cluster.get(&["node", node]);
        assert!(object["metadata"]["annotations"]["dyad.io/dataplane"].is_null(), "{object}");
    }

    // The audit log has every request of the agents.
    let log = std::fs::read_to_string(&log).expect("an audit log");
    let (mut asked, mut refused) = (0, Vec::new());
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).expect("an event");
        if event["user"]["username"]
            .as_str()
            .is_some_and(|name| name.starts_with("system:serviceaccount:kube-system:dyad-"))
        {
            asked += 1;
            if event["responseStatus"]["code"] == 403 {
                refused.push(event["requestURI"].to_string());
            }
        }
    }
    assert!(asked > 20, "{asked} requests");
    assert!(refused.is_empty(), "{refused:?}");
}

/// Who lacks a right says so once, and `dyad status` names it, whoever lacks it.
#[test]
fn a_right_that_is_missing_is_named() {
    let cluster = Cluster::prepare("rights", 92);
    if !Path::new(env!("CARGO_BIN_EXE_dyad")).with_file_name("dyad-cni").is_file() {
        eprintln!("SKIPPED: no dyad-cni beside dyad: `cargo build -p dyad-cni`");
        return;
    }
    if !cluster.has_kubectl() {
        return;
    }
    let started = cluster.start(&[
        "--nodes",
        "1",
        "--install",
        "--dataplane",
        "nftables",
        "--set",
        "agent.verbosity=4",
    ]);
    assert!(started.status.success(), "{}\n{}", text(&started.stderr), cluster.logs());
    let context = format!("dyad-{}", cluster.name);
    let status = ["status", "--context", &context];
    let fine = run(&cluster, &status);
    assert!(!fine.contains("may not"), "{fine}");

    let role = cluster.get(&["clusterrole", "dyad-agent"]);
    let mut rules = role["rules"].as_array().expect("rules").clone();
    rules.retain(|rule| rule["resources"] != serde_json::json!(["services"]));
    let patch = serde_json::json!({"rules": rules}).to_string();
    cluster.kubectl(&["patch", "clusterrole", "dyad-agent", "--type=merge", "-p", &patch]);
    let output = cluster.dyad(&status);
    let said = text(&output.stdout);
    assert!(
        said.contains("Problem: serviceaccount dyad-agent may not list, watch services: `dyad upgrade`"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(1));

    // An agent that begins now.
    cluster.kubectl(&["-n", "kube-system", "delete", "pod", "-l", "k8s-app=dyad-agent", "--wait=true"]);
    cluster.eventually("the agent has tried again and again", || {
        let command = &["-n", "kube-system", "logs", "-l", "k8s-app=dyad-agent", "--tail=-1"];
        let output = cluster.kubectl_command(command).output().expect("kubectl runs");
        is_told_once(
            &text(&output.stdout),
            "cannot list resource \"services\" in API group \"\" at the cluster scope",
        )
    });
    run(&cluster, &["upgrade", "--wait", "--wait-duration", "60s"]);
    let fine = run(&cluster, &status);
    assert!(!fine.contains("may not"), "{fine}");

    // The controllers, with nothing but a name.
    cluster.kubectl(&["create", "serviceaccount", "poor"]);
    let token = cluster.kubectl(&["create", "token", "poor"]);
    let poor = cluster.home.path().join("poor");
    std::fs::write(&poor, cluster.kubectl(&["config", "view", "--raw", "--minify"])).expect("a kubeconfig");
    let poor = poor.to_str().expect("a path in UTF-8");
    for args in [
        &["set-credentials", "poor", "--token", token.trim()][..],
        &["set-context", "--current", "--user", "poor"],
    ] {
        cluster.kubectl(&[&["config", "--kubeconfig", poor][..], args].concat());
    }
    let log = cluster.home.path().join("controllers.log");
    let mut controllers = cluster
        .dyad_command(&["controllers", "--kubeconfig", poor, "--cluster-cidr", "10.192.0.0/16", "-v", "4"])
        .stderr(std::fs::File::create(&log).expect("a log"))
        .spawn()
        .expect("dyad runs");
    cluster.eventually("the controllers have tried again and again", || {
        is_told_once(&std::fs::read_to_string(&log).expect("a log"), "cannot get resource \"leases\"")
    });
    controllers.kill().expect("they run");
    controllers.wait().expect("they end");
}

/// Whether a log has `what` more than twice, and only one warning of it.
fn is_told_once(log: &str, what: &str) -> Result<(), String> {
    let told: Vec<&str> = log.lines().filter(|line| line.contains(what)).collect();
    if told.len() < 3 {
        return Err(log.to_owned());
    }
    let warnings = told.iter().filter(|line| line.contains(" WARN ")).count();
    assert_eq!(warnings, 1, "{log}");
    Ok(())
}
