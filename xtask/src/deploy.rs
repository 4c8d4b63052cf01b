//! Writes what is made from the chart in `deploy/helm`: the kustomize base, copies of definitions, the table of values.

use std::process::Command;

use anyhow::{Context, Result, bail};

/// The tests that compare these files write them when they are asked to.
pub(crate) fn run() -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let status = Command::new(cargo)
        .args(["test", "--quiet", "-p", "dyad-install", "--test", "deploy"])
        .env("DYAD_WRITE_DEPLOY", "1")
        .status()
        .context("can't run cargo test")?;
    if !status.success() {
        bail!("the files in deploy/ can't be written");
    }
    Ok(())
}
