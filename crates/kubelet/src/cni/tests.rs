//! A network of scripts: what they are called with, and what becomes of what they answer.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;

/// A runtime in a directory of its own, with a plugin that notes its calls and answers with addresses.
struct Site {
    dir: tempfile::TempDir,
    runtime: Runtime,
}

const PLUGIN: &str = r#"#!/bin/sh
input=$(cat)
name=$(basename "$0")
echo "${name%plug}$CNI_COMMAND ${CNI_IFNAME} ${CNI_NETNS:+netns} $CNI_ARGS $input" >> "$(dirname "$0")/calls"
case "$CNI_COMMAND$(cat "$(dirname "$0")/refuse" 2>/dev/null)" in
ADD) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.0.0.2/24"},{"address":"fd00::2/64"}]}' ;;
ADDADD) echo '{"code":11,"msg":"no ranges","details":"yet"}'; exit 1 ;;
STATUSSTATUS) echo '{"code":50,"msg":"the agent does not run"}'; exit 1 ;;
esac
"#;

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["conf", "bin", "pod"] {
            fs::create_dir(path(name)).unwrap();
        }
        for name in ["plug", "second-plug"] {
            fs::write(path("bin").join(name), PLUGIN).unwrap();
            fs::set_permissions(path("bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let paths = Plugins {
            conf_dir: path("conf"),
            bin_dirs: vec![path("bin")],
            cache_dir: path("cache"),
            netns_dir: path("netns"),
        };
        Self { runtime: Runtime::new(paths, IpFamily::V6), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn refuse(&self, verb: &str) {
        fs::write(self.path("bin/refuse"), verb).unwrap();
    }

    fn configure(&self) {
        let text = r#"{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"plug","capabilities":{"portMappings":true}}]}"#;
        fs::write(self.path("conf/10.conflist"), text).unwrap();
    }

    /// The first words of each call.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("bin/calls")).unwrap_or_default();
        text.lines().map(|line| line.split_whitespace().next().unwrap_or_default().to_owned()).collect()
    }

    /// Follows the directory until the node says what is `wanted`.
    async fn until(&self, wanted: impl Fn(&Readiness) -> bool) {
        let (sender, mut readiness) = watch::channel(Runtime::unknown());
        let seen = async { readiness.wait_for(|now| wanted(now)).await.map(drop) };
        tokio::select! {
            never = self.runtime.follow(sender) => match never {},
            seen = tokio::time::timeout(Duration::from_secs(20), seen) => seen.unwrap().unwrap(),
        }
    }
}

fn pod() -> Pod {
    let ports = json!([{"containerPort": 80, "hostPort": 8080}]);
    serde_json::from_value(json!({
        "metadata": {"namespace": "a", "name": "b", "uid": "0123-4567"},
        "spec": {"containers": [{"name": "c", "ports": ports}]},
    }))
    .unwrap()
}

/// The path of a namespace is a mount, which takes root.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: binding namespaces needs root");
    }
    root
}

fn netns() -> OwnedFd {
    fs::File::open("/proc/self/ns/net").unwrap().into()
}

#[tokio::test(flavor = "current_thread")]
async fn what_comes_last_goes_first() {
    if !is_root() {
        return;
    }
    let (site, text) = (
        Site::new(),
        r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"plug"},{"type":"second-plug"}]}"#,
    );
    fs::write(site.path("conf/10.conflist"), text).unwrap();
    site.until(Result::is_ok).await;
    let dir = site.path("pod");
    site.runtime.attach(&pod(), &dir, &netns()).await.unwrap();
    site.runtime.detach(&dir).await.unwrap();
    assert_eq!(site.calls(), ["ADD", "second-ADD", "second-DEL", "DEL"]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_pod_is_attached_and_detached_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    let dir = site.path("pod");
    let early = site.runtime.attach(&pod(), &dir, &netns()).await.unwrap_err();
    assert!(
        early.full().ends_with("message:Network plugin returns error: cni plugin not initialized"),
        "{early}"
    );
    site.configure();
    site.until(Result::is_ok).await;
    let ips = site.runtime.attach(&pod(), &dir, &netns()).await.unwrap();
    assert_eq!(ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["fd00::2", "10.0.0.2"]);
    site.runtime.check(&dir).await.unwrap();
    let kept = Kept::read(&dir).unwrap();
    assert!(kept.netns.exists() && kept.entry(&site.path("cache")).exists());
    assert_eq!(kept.container_id.len(), 64);
    // What it was made with counts, and not what is configured now.
    fs::remove_file(site.path("conf/10.conflist")).unwrap();
    site.runtime.detach(&dir).await.unwrap();
    assert!(!kept.netns.exists() && !kept.entry(&site.path("cache")).exists() && Kept::read(&dir).is_none());
    site.runtime.detach(&dir).await.unwrap();
    assert_eq!(site.calls(), ["STATUS", "ADD", "CHECK", "DEL"]);
    let calls = fs::read_to_string(site.path("bin/calls")).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    assert!(
        calls[1].starts_with("ADD eth0 netns IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;"),
        "{calls:?}"
    );
    assert!(
        calls[1].contains(r#""runtimeConfig":{"portMappings":[{"#) && !calls[1].contains("prevResult"),
        "{calls:?}"
    );
    assert!(calls[3].contains("prevResult"), "{calls:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn an_attachment_that_fails_is_taken_back_and_told_in_the_plugins_words() {
    if !is_root() {
        return;
    }
    let site = Site::new();
    site.configure();
    site.until(Result::is_ok).await;
    site.refuse("ADD");
    let error = site.runtime.attach(&pod(), &site.path("pod"), &netns()).await.unwrap_err().full();
    assert!(error.ends_with(r#"plugin type="plug" failed (add): no ranges; yet"#), "{error}");
    assert_eq!(site.calls(), ["STATUS", "ADD", "DEL"]);
    assert!(Kept::read(&site.path("pod")).is_none());
    assert_eq!(fs::read_dir(site.path("netns")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(site.path("cache/results")).unwrap().count(), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn a_node_says_why_pods_cannot_be_connected() {
    let site = Site::new();
    assert!(
        Runtime::unknown()
            .unwrap_err()
            .starts_with("container runtime network not ready: NetworkReady=false")
    );
    site.configure();
    site.refuse("STATUS");
    site.until(|now| now.as_ref().is_err_and(|problem| problem.ends_with("the agent does not run"))).await;
    site.refuse("");
    site.until(Result::is_ok).await;
    fs::remove_file(site.path("bin/plug")).unwrap();
    fs::remove_file(site.path("conf/10.conflist")).unwrap();
    site.until(|now| *now == Runtime::unknown()).await;
}
