//! Calling another plugin: address management that is not ours.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{CniError, Code, Request, Result};

/// Where plugins are if `CNI_PATH` does not say.
const PLUGINS: &str = "/opt/cni/bin";

fn find(request: &Request, kind: &str) -> Result<PathBuf> {
    let path = if request.path.is_empty() { PLUGINS.into() } else { request.path.clone() };
    let is_plain = !kind.contains('/') && kind != ".." && kind != ".";
    let found =
        std::env::split_paths(&path).map(|dir| dir.join(kind)).find(|file| is_plain && file.is_file());
    found.ok_or_else(|| {
        let way_out = format!("is no plugin of ours, and in none of {}: install it there", path.display());
        CniError::config("ipam.type", format_args!("{kind:?}"), &way_out)
    })
}

/// Has the plugin called `kind` do the same; what it answers.
pub(crate) fn run(request: &Request, kind: &str) -> Result<Value> {
    let program = find(request, kind)?;
    let what = format!("running {}", program.display());
    let args: Vec<_> = request.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut command = Command::new(&program);
    command
        .env("CNI_COMMAND", request.command.as_str())
        .env("CNI_CONTAINERID", &request.container_id)
        .env("CNI_NETNS", &request.netns)
        .env("CNI_IFNAME", &request.ifname)
        .env("CNI_ARGS", args.join(";"))
        .env("CNI_PATH", &request.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(CniError::io(&what))?;
    if let Some(mut input) = child.stdin.take() {
        // One that reads nothing may still answer.
        let _ = input.write_all(request.config.raw().to_string().as_bytes());
    }
    let output = child.wait_with_output().map_err(CniError::io(&what))?;
    let answer: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    if output.status.success() {
        return Ok(answer.unwrap_or_default());
    }
    Err(answer.as_ref().and_then(CniError::from_json).unwrap_or_else(|| {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        CniError::new(Code::Failed, format!("{what} failed with {}", output.status)).because(said)
    }))
}
