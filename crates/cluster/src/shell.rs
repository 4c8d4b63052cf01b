//! A shell inside a cluster: where pod, Service and node addresses are reached, also without root.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::paths::ClusterDir;
use crate::spec::{ClusterSpec, Shape};
use crate::{process, rooms};

/// Becomes a shell (or `command`) in the network of `node`, or of the cluster's first node.
///
/// Must run before there is a second thread: a process enters a user namespace only as a whole. Returns only
/// when it failed.
pub fn shell(name: &str, node: Option<&str>, command: &[String]) -> Result<std::convert::Infallible> {
    let dir = ClusterDir::of(name)?;
    if !dir.spec().exists() {
        bail!("there is no cluster {name:?}");
    }
    let spec = ClusterSpec::load(&dir)?;
    let first = spec.nodes.first().map(|node| node.name.as_str());
    let node = node.or(first).context("the cluster has no nodes: `dyad up --nodes 1` or more")?;
    if !spec.nodes.iter().any(|known| known.name == node) && node != crate::fabric::OUTSIDE {
        let names: Vec<&str> = spec.nodes.iter().map(|known| known.name.as_str()).collect();
        bail!("there is no node {node:?} in cluster {name:?}: it has {}", names.join(", "));
    }
    let supervisor = process::supervisor(dir.path())
        .with_context(|| format!("cluster {name:?} is not running: `dyad start --name {name}`"))?;
    let open = |kind: &str| -> Result<File> {
        let path = format!("/proc/{}/ns/{kind}", supervisor.pid);
        File::open(&path).with_context(|| format!("can't open {path}"))
    };
    let (user, mount, pid) = (open("user")?, open("mnt")?, open("pid")?);
    if !rustix::process::geteuid().is_root() {
        enter(&user, LinkNameSpaceType::User)?;
    }
    enter(&pid, LinkNameSpaceType::ProcessID)?;
    enter(&mount, LinkNameSpaceType::Mount)?;
    let room =
        (spec.shape != Shape::Whole && node != crate::fabric::OUTSIDE).then(|| rooms::open(&dir, node));
    let netns = File::open(dir.netns(node)).context("can't open the node's network namespace")?;
    enter(&netns, LinkNameSpaceType::Network)?;
    if let Some(room) = room {
        enter(&room?, LinkNameSpaceType::Mount)?;
    }
    let default = vec![std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into())];
    let words = if command.is_empty() { &default } else { command };
    // The PID namespace holds for children only; this process waits for one and becomes its exit code.
    let mut child = Command::new(&words[0]);
    child
        .args(&words[1..])
        .env("DYAD_CLUSTER", name)
        .env("DYAD_NODE", node)
        .env("KUBECONFIG", dir.kubeconfig());
    child.arg0(&words[0]);
    let status = child.status().with_context(|| format!("can't run {:?}", words[0]))?;
    std::process::exit(status.code().unwrap_or(1));
}

fn enter(namespace: &File, kind: LinkNameSpaceType) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(kind))
        .with_context(|| format!("can't enter the cluster's {kind:?} namespace"))
}
