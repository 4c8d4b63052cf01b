//! `dyad status` of what was installed on a cluster.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use dyad_install::status::{Installation, status};
use kube::Client;

use crate::api::runtime;
use crate::args::Format;
use crate::install::TargetArgs;
use crate::output::{Steps, print, table};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);
/// How long agents that are ready may take to say more.
const SAYING: Duration = Duration::from_secs(2);

/// Shows an installation, after it is ready if `patience` is given; `None` if there is none, and nobody insists on one.
pub(crate) fn show(
    target: &TargetArgs,
    patience: Option<Duration>,
    format: Format,
    insists: bool,
) -> Result<Option<ExitCode>> {
    runtime()?.block_on(async {
        let client = match target.client().await {
            Ok(client) => client,
            Err(_) if !insists => return Ok(None),
            Err(error) => return Err(error),
        };
        let found = match status(&client, &target.namespace).await {
            Ok(Some(found)) => found,
            Ok(None) if insists => {
                bail!("there is no installation in namespace {}: `dyad install` makes one", target.namespace)
            }
            Err(error) if insists => return Err(error.into()),
            Ok(None) | Err(_) => return Ok(None),
        };
        let mut found = match patience {
            Some(patience) if !found.ready => ready(&client, &target.namespace, patience).await?,
            _ => found,
        };
        found.examine(&client).await?;
        print(&match format {
            Format::Json => serde_json::to_string_pretty(&found)? + "\n",
            Format::Table => describe(&found),
        })?;
        Ok(Some(if found.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
    })
}

/// Waits after an installation.
pub(crate) async fn wait(client: &Client, namespace: &str, patience: Duration) -> Result<ExitCode> {
    let mut found = ready(client, namespace, patience).await?;
    found.examine(client).await?;
    print(&describe(&found))?;
    Ok(if found.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The installation when it is ready, or when time is up.
async fn ready(client: &Client, namespace: &str, patience: Duration) -> Result<Installation> {
    let deadline = Instant::now() + patience;
    let mut steps = Steps::new();
    let mut ready_since: Option<Instant> = None;
    loop {
        let Some(found) = status(client, namespace).await? else {
            bail!("the installation in namespace {namespace} is gone");
        };
        // Agents are ready a moment before they say on their Nodes what carries Services; older ones may never.
        let is_told = found.nodes.iter().all(|node| node.agent.is_none() || node.dataplane.is_some());
        ready_since = found.ready.then(|| ready_since.unwrap_or_else(Instant::now));
        let is_ready = ready_since.is_some_and(|since| is_told || since.elapsed() > SAYING);
        if is_ready || Instant::now() > deadline {
            return Ok(found);
        }
        steps.waiting(found.problems.first().map_or("", String::as_str));
        tokio::time::sleep(LOOK).await;
    }
}

fn describe(found: &Installation) -> String {
    let mut rows = vec![
        ["NODE", "AGENT", "VERSION", "DATA PLANE", "ADDRESSES", "POD RANGES"].map(str::to_owned).to_vec(),
    ];
    for node in &found.nodes {
        let agent = match node.agent {
            Some(true) => "ready",
            Some(false) => "not ready",
            None => "-",
        };
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let plane = or_none(&node.dataplane);
        rows.push(vec![
            node.name.clone(),
            agent.to_owned(),
            or_none(&node.version),
            plane.split(':').next().unwrap_or_default().to_owned(),
            node.addresses.join(", "),
            node.pod_cidrs.join(", "),
        ]);
    }
    let mut text = if found.nodes.is_empty() { "No nodes.\n".to_owned() } else { table(&rows) };
    let mut facts = vec![vec![
        "Installed:".to_owned(),
        format!(
            "{} by {} in namespace {}",
            found.version.as_deref().unwrap_or("an unknown version"),
            found.managed_by,
            found.namespace
        ),
    ]];
    for part in &found.parts {
        facts.push(vec![
            format!("{}:", part.name),
            format!("{} of {} ready, {}", part.ready, part.desired, part.image),
        ]);
    }
    text.push('\n');
    text.push_str(&table(&facts));
    for node in &found.nodes {
        if let Some((_, why)) = node.dataplane.as_deref().and_then(|plane| plane.split_once(": ")) {
            text.push_str(&format!("Data plane on {}: {why}\n", node.name));
        }
        for warning in &node.warnings {
            text.push_str(&format!("Warning on {}: {warning}\n", node.name));
        }
    }
    for problem in &found.problems {
        text.push_str(&format!("Problem: {problem}\n"));
    }
    text
}
