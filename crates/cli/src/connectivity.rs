//! `dyad connectivity test`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use dyad_cluster::config::Families;
use dyad_cluster::fabric::{OUTSIDE_HOSTS, OUTSIDE_NAMES, OUTSIDE_PORT};
use dyad_inspect::connectivity::{Options, OutsideName, test};
use dyad_net::IpFamily;

use crate::api::connect;
use crate::args::{ConnectivityArgs, ConnectivityCommand, Format, TestArgs};
use crate::output::{print, say};

pub(crate) fn run(args: ConnectivityArgs) -> Result<ExitCode> {
    let ConnectivityCommand::Test(args) = args.command;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("can't start")?;
    runtime.block_on(run_test(args))
}

async fn run_test(args: TestArgs) -> Result<ExitCode> {
    let client = connect(&args.cluster.name, args.context.as_deref()).await?;
    // Only local clusters have an outside of their own.
    let is_local = args.context.is_none();
    let names = OUTSIDE_NAMES.map(|(name, families)| OutsideName {
        name: name.into(),
        addresses: OUTSIDE_HOSTS.into_iter().filter(|ip| families.contains(&IpFamily::from(*ip))).collect(),
    });
    let options = Options {
        families: match args.ip_family {
            Some(Families::Single(family)) => vec![family],
            Some(Families::Dual) => IpFamily::BOTH.to_vec(),
            None => Vec::new(),
        },
        outside: OUTSIDE_HOSTS.map(|host| (host, OUTSIDE_PORT)).into_iter().filter(|_| is_local).collect(),
        names: names.into_iter().filter(|_| is_local).collect(),
        patience: args.timeout,
    };
    let report = test(&client, &options, |step| say(&format!(" … {step}\n"))).await?;
    if let Some(file) = &args.junit_file {
        std::fs::write(file, report.junit())
            .with_context(|| format!("--junit-file: can't write {}", file.display()))?;
    }
    print(&match args.output {
        Format::Table => format!("\n{}", report.table()),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    })?;
    Ok(if report.counts().1 == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
