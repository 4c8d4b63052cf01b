//! What a start waits for: the API server, then the nodes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;

use super::Progress;
use crate::paths::ClusterDir;
use crate::process;
use crate::spec::{ClusterSpec, NodeSpec};
use crate::status::{self, Running};

/// The longest the control plane may take to answer.
const API_PATIENCE: Duration = Duration::from_secs(60);
/// So many looks in a row must miss the supervisor before it counts as gone.
const MISSES: u32 = 20;
/// Between two looks at what the start has come to.
const LOOK: Duration = Duration::from_millis(10);

/// The agents of an installation, where `dyad install` puts them.
const AGENTS: &str = "dyad-agent";
const AGENTS_NAMESPACE: &str = "kube-system";
/// The flag by which they connect pods.
const CONNECTS: &str = "--cni";

pub(super) async fn wait_for_api(dir: &ClusterDir, progress: &mut impl FnMut(Progress)) -> Result<()> {
    let deadline = Instant::now() + API_PATIENCE;
    let (mut network, mut missed) = (false, 0);
    loop {
        let running = Running::load(dir).unwrap_or_default();
        let failed = |why: String| {
            let logs = dir.path().join("logs");
            anyhow::anyhow!(
                "the cluster did not start: {why} (more in {}; `dyad down --name {}` removes what there is)",
                logs.display(),
                dir.path().file_name().unwrap_or_default().to_string_lossy()
            )
        };
        if let Some(why) = running.failed {
            return Err(failed(why));
        }
        if !network && !running.phases.is_empty() {
            network = true;
            progress(Progress::Network);
        }
        if running.api_ready {
            progress(Progress::Api);
            return Ok(());
        }
        // A process that is just becoming another program has no command line for a moment.
        missed = if process::supervisor(dir.path()).is_some() { 0 } else { missed + 1 };
        if missed > MISSES {
            // Its last word may have come after the look above.
            let last = Running::load(dir).and_then(|running| running.failed);
            return Err(failed(last.unwrap_or_else(|| "its supervisor ended without a word".into())));
        }
        if Instant::now() > deadline {
            bail!(
                "the API server did not answer within {API_PATIENCE:?}: see {}",
                dir.log("control-plane").display()
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether agents that connect pods are installed on a cluster whose nodes bring none along.
pub(super) async fn is_installed(client: &kube::Client) -> Result<bool> {
    let found = Api::<DaemonSet>::namespaced(client.clone(), AGENTS_NAMESPACE).get_opt(AGENTS).await;
    let template =
        found.context("can't look for installed agents")?.and_then(|agents| agents.spec?.template.spec);
    let mut words =
        template.iter().flat_map(|spec| &spec.containers).flat_map(|one| one.args.iter().flatten());
    Ok(words.any(|word| word == CONNECTS))
}

/// Waits for every node that the start since then has brought up; those that are missing at the end are returned by name.
pub(super) async fn wait_for_nodes(
    client: &kube::Client,
    spec: &ClusterSpec,
    has_network: bool,
    since: Timestamp,
    wait: Duration,
    progress: &mut impl FnMut(Progress),
) -> Result<Vec<String>> {
    let deadline = Instant::now() + wait;
    let mut shown = usize::MAX;
    loop {
        let nodes = status::api_nodes(client).await?;
        let is_ready = |wanted: &NodeSpec| {
            let node = nodes.iter().find(|node| node.metadata.name.as_ref() == Some(&wanted.name));
            // Without a network of ours they are ready some time after this, or never.
            let is_there =
                |node| !has_network || status::is_heard_since(node, since) && status::is_usable(node);
            node.is_some_and(|node| is_there(node) && status::has_labels(node, &wanted.labels))
        };
        let missing: Vec<String> =
            spec.nodes.iter().filter(|node| !is_ready(node)).map(|node| node.name.clone()).collect();
        let count = spec.nodes.len() - missing.len();
        if count != shown {
            shown = count;
            progress(match has_network {
                false if missing.is_empty() && count > 0 => Progress::Bare(count),
                _ => Progress::Nodes(count, spec.nodes.len()),
            });
        }
        if missing.is_empty() || Instant::now() >= deadline {
            return Ok(missing);
        }
        tokio::time::sleep(LOOK).await;
    }
}
