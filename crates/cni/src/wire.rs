//! What goes over the socket between the plugin `dyad` and the node agent: one JSON document each way.
//!
//! The plugin writes its request and shuts down its writing side; the agent answers and closes.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::{CniError, Code, NetConf, Request, Result};

/// Where the agent listens if nobody says otherwise.
pub const SOCKET: &str = "/run/dyad/cni.sock";
/// No document is longer, in bytes.
pub const LIMIT: u64 = 4 << 20;
/// Runtimes give up after minutes; the agent needs milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request as it is sent.
pub fn encode_request(request: &Request) -> Vec<u8> {
    let args: Vec<_> = request.args.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let document = json!({
        "command": request.command.as_str(),
        "containerId": request.container_id,
        "netns": request.netns.to_string_lossy(),
        "ifname": request.ifname,
        "args": args.join(";"),
        "path": request.path.to_string_lossy(),
        "config": request.config.raw(),
    });
    document.to_string().into_bytes()
}

/// Reads a request; it is checked as one from the environment is.
pub fn decode_request(bytes: &[u8]) -> Result<Request> {
    let malformed = |what: &str| CniError::new(Code::Decode, format!("the request over the socket {what}"));
    let mut document: Value =
        serde_json::from_slice(bytes).map_err(|error| malformed("is no JSON").because(error))?;
    let config = document.get_mut("config").map(Value::take).ok_or_else(|| malformed("has no config"))?;
    let config = NetConf::from_value(config)?;
    let variable = |name: &str| {
        let key = match name {
            "CNI_COMMAND" => "command",
            "CNI_CONTAINERID" => "containerId",
            "CNI_NETNS" => "netns",
            "CNI_IFNAME" => "ifname",
            "CNI_ARGS" => "args",
            _ => "path",
        };
        document.get(key).and_then(Value::as_str).map(Into::into)
    };
    Request::new(variable, config)
}

/// An answer: a result in the version of the configuration, nothing for commands without one, or an error.
pub fn encode_answer(answer: &Result<Option<Value>>) -> Vec<u8> {
    let document = match answer {
        Ok(result) => json!({ "result": result }),
        Err(error) => json!({ "error": error.to_object() }),
    };
    document.to_string().into_bytes()
}

/// Reads an answer.
pub fn decode_answer(bytes: &[u8]) -> Result<Option<Value>> {
    let malformed = || CniError::new(Code::Decode, "the node agent's answer is none");
    let mut document: Value = serde_json::from_slice(bytes).map_err(|error| malformed().because(error))?;
    match document.get("error") {
        Some(error) => Err(CniError::from_json(error).ok_or_else(malformed)?),
        None => match document.get_mut("result").map(Value::take) {
            None => Err(malformed()),
            Some(Value::Null) => Ok(None),
            Some(result) => Ok(Some(result)),
        },
    }
}

/// Has the agent do it; `None` if there is no agent.
pub fn ask(socket: &Path, request: &Request) -> Result<Option<Option<Value>>> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let mut stream = match UnixStream::connect(socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => return Ok(None),
        Err(error) => return Err(later(socket, "cannot be connected to", error)),
    };
    let talk = |stream: &mut UnixStream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&encode_request(request))?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        stream.take(LIMIT).read_to_end(&mut answer).map(|_| answer)
    };
    let answer = talk(&mut stream).map_err(|error| later(socket, "has not answered", error))?;
    if answer.is_empty() {
        // It went away in the middle: whatever it did, the same request may be made again.
        return Err(later(socket, "has gone without an answer", "it may be restarting"));
    }
    decode_answer(&answer).map(Some)
}

fn later(socket: &Path, what: &str, why: impl std::fmt::Display) -> CniError {
    let msg = format!("the node agent at {} {what}: try again later", socket.display());
    CniError::new(Code::TryAgainLater, msg).because(why)
}
