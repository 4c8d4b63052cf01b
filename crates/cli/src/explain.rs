//! `dyad explain`.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use dyad_cluster::config::Families;
use dyad_cluster::fabric::OUTSIDE_HOSTS;
use dyad_cluster::paths::ClusterDir;
use dyad_cluster::spec::ClusterSpec;
use dyad_inspect::explain::counters::Counted;
use dyad_inspect::explain::{End, ExplainError, Question, Report, Settings, Target, explain, fetch};
use dyad_program::Protocol;

use crate::api::connect;
use crate::args::{ExplainArgs, ExplainCommand, Format, PathArgs, ProtocolName};
use crate::output::{print, say, warning};

/// What the exit status says of a question that makes no sense, as clap has it.
const USAGE: u8 = 2;

pub(crate) fn run(args: ExplainArgs) -> Result<ExitCode> {
    let ExplainCommand::Path(args) = args.command;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("can't start")?;
    match runtime.block_on(path(&args)) {
        Err(error) if error.is::<BadQuestion>() => {
            say(&format!("error: {error:#}\n"));
            Ok(ExitCode::from(USAGE))
        }
        result => result,
    }
}

/// What was typed makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadQuestion(String);

async fn path(args: &PathArgs) -> Result<ExitCode> {
    let question = Question {
        from: End::parse(&args.from, &args.namespace).map_err(BadQuestion)?,
        to: Target::parse(&args.to, &args.namespace).map_err(BadQuestion)?,
        families: match args.ip_family {
            Some(Families::Single(family)) => vec![family],
            Some(Families::Dual) => dyad_net::IpFamily::BOTH.to_vec(),
            None => Vec::new(),
        },
        protocol: args.protocol.map(|name| match name {
            ProtocolName::Tcp => Protocol::Tcp,
            ProtocolName::Udp => Protocol::Udp,
            ProtocolName::Sctp => Protocol::Sctp,
        }),
        via: args.via.clone(),
    };
    let client = connect(&args.cluster.name, args.context.as_deref()).await?;
    let mut settings = Settings {
        pod_ranges: args.cluster_cidr.clone(),
        service_ranges: args.service_cluster_ip_range.clone(),
        ..Settings::default()
    };
    if args.context.is_none() {
        let spec = ClusterSpec::load(&ClusterDir::of(&args.cluster.name)?)?;
        (settings.pod_ranges, settings.service_ranges) = (spec.pod_ranges, spec.service_ranges);
        settings.outside = OUTSIDE_HOSTS.to_vec();
    }
    let objects = fetch(&client).await?;
    let mut report = explain(&objects, &settings, &question).map_err(|error| match error {
        ExplainError::Question(text) => anyhow::Error::from(BadQuestion(text)),
        error => error.into(),
    })?;
    if args.context.is_none() {
        count(&mut report, &args.cluster.name);
    }
    print(&match args.output {
        Format::Table => report.text(),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    })?;
    Ok(if report.delivered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Puts the kernels' counters beside the answer. What can't be read is told of, and the answer stands without.
fn count(report: &mut Report, cluster: &str) {
    for node in report.nodes() {
        match counters(cluster, &node) {
            Ok(counted) => report.count(&node, &counted),
            Err(error) => warning(&format!("no counters of {node}: {error:#}")),
        }
    }
}

/// The counters of a node of a local cluster. They are read by a process of its own, for entering a cluster takes a
/// process without threads.
fn counters(cluster: &str, node: &str) -> Result<Vec<Counted>> {
    let program = std::env::current_exe().context("can't find this program")?;
    let mut command = Command::new(&program);
    command
        .args(["shell", "--name", cluster, "--node", node, "--"])
        .arg(&program)
        .args(["internal", "counters"]);
    let output = command.output().context("can't run this program again")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("they can't be read")
}
