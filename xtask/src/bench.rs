//! Benches: builds what they need and runs `dyad-bench`, which does the rest.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Benches of whole processes.
const OF_PROCESSES: [&str; 3] = ["up", "effective", "agent"];

/// Runs benches with these arguments: names, and options of `dyad-bench`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let benches = build("dyad-bench")?;
    let mut command = Command::new(benches);
    command.args(arguments);
    // Names come first.
    let mut named = arguments.iter().map(String::as_str).take_while(|word| !word.starts_with('-')).peekable();
    if named.peek().is_none() || named.any(|name| OF_PROCESSES.contains(&name)) {
        command.args([OsString::from("--dyad"), build("dyad")?.into()]);
    }
    let mut named = arguments.iter().map(String::as_str).take_while(|word| !word.starts_with('-')).peekable();
    if named.peek().is_none() || named.any(|name| name == "cni") {
        command.args([OsString::from("--cni"), build("dyad-cni")?.into()]);
    }
    if !command.status().context("can't run dyad-bench")?.success() {
        bail!("the benches have failed");
    }
    Ok(())
}

/// Builds a program as it is shipped; where it is.
fn build(program: &str) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let package = if program == "dyad" { "dyad-cli" } else { program };
    let mut build = Command::new(cargo);
    build.args(["build", "--locked", "--release", "--package", package, "--bin", program]);
    if program == "dyad-cni" {
        // Static, as it is shipped: a loader takes longer than the work. With a target named, what runs while building is
        // not affected.
        build.args(["--target", "host-tuple"]).env("RUSTFLAGS", "-C target-feature=+crt-static");
    }
    let output =
        build.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let executable =
        messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    executable.filter(|_| output.status.success()).with_context(|| format!("{program} does not build"))
}
