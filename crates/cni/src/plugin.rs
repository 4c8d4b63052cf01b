//! The plugins, and how they are called.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::Path;

use serde_json::{Value, json};

use crate::request::Command;
use crate::{CniError, Code, NetConf, Request, Result, Version};

pub(crate) mod bandwidth;
mod bridge;
mod dyad;
mod host_local;
mod loopback;
mod portmap;
mod ptp;

/// No configuration is longer, in bytes.
const LIMIT: u64 = 4 << 20;

/// What a plugin does. Results are of the configuration's version.
pub(crate) trait Plugin {
    fn add(&self, request: &Request) -> Result<Value>;
    fn del(&self, request: &Request) -> Result<()>;
    fn check(&self, request: &Request) -> Result<()>;
    fn gc(&self, request: &Request) -> Result<()>;
    fn status(&self, request: &Request) -> Result<()>;
}

/// The plugins, by the names they are called under.
const PLUGINS: [(&str, &dyn Plugin); 7] = [
    ("dyad", &dyad::Dyad),
    ("ptp", &ptp::Ptp),
    ("bridge", &bridge::Bridge),
    ("host-local", &host_local::HostLocal),
    ("portmap", &portmap::Portmap),
    ("bandwidth", &bandwidth::Bandwidth),
    ("loopback", &loopback::Loopback),
];

/// The names an executable of this crate can be called under.
pub fn names() -> impl Iterator<Item = &'static str> {
    PLUGINS.into_iter().map(|(name, _)| name)
}

/// Runs the plugin that the program was called as: reads the environment and standard input, writes the answer to
/// standard output. The code to exit with.
pub fn main(program: &Path) -> u8 {
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let variable = |name: &str| std::env::var_os(name);
    let Some(command) = variable("CNI_COMMAND") else {
        // A person has called it.
        let names: Vec<_> = names().collect();
        eprintln!("dyad-cni {}: a CNI plugin, called by container runtimes.", env!("CARGO_PKG_VERSION"));
        eprintln!(
            "It speaks CNI {}, and is, by the name it is called under: {}.",
            spoken(),
            names.join(", ")
        );
        return u8::from(std::env::args_os().len() < 2);
    };
    let mut input = Vec::new();
    // What cannot be read is no JSON either, and is said to be none.
    let _ = std::io::stdin().lock().take(LIMIT).read_to_end(&mut input);
    let (answer, code) = answer(name, &command, variable, &input);
    let text = answer.map(|answer| format!("{answer}\n")).unwrap_or_default();
    // Nobody is there to be told otherwise.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    code
}

fn spoken() -> String {
    Version::ALL.map(Version::as_str).join(", ")
}

/// What to write, and the code to exit with.
fn answer(
    name: &str,
    command: &OsString,
    variable: impl Fn(&str) -> Option<OsString>,
    input: &[u8],
) -> (Option<Value>, u8) {
    if command == "VERSION" {
        return (Some(version(input)), 0);
    }
    let config = NetConf::parse(input);
    let version = config.as_ref().map_or(Version::LATEST, |config| config.version);
    match config.and_then(|config| Request::new(variable, config)).and_then(|request| run(name, &request)) {
        Ok(answer) => (answer, 0),
        Err(error) => (Some(error.to_json(version)), 1),
    }
}

/// The answer to VERSION: in the version that was asked in, if that is known.
fn version(input: &[u8]) -> Value {
    let asked = serde_json::from_slice::<Value>(input).ok();
    let asked = asked.as_ref().and_then(|value| value.get("cniVersion")?.as_str());
    let spoken = Version::ALL.map(Version::as_str);
    json!({ "cniVersion": asked.unwrap_or(Version::LATEST.as_str()), "supportedVersions": spoken })
}

/// Has the plugin called `name` do it.
fn run(name: &str, request: &Request) -> Result<Option<Value>> {
    let name = if name == "dyad-cni" { "dyad" } else { name };
    let plugin =
        PLUGINS.iter().find(|(known, _)| *known == name).map(|(_, plugin)| plugin).ok_or_else(|| {
            let known: Vec<_> = names().collect();
            let msg = format!("this program is no plugin called {name:?}: call it {}", known.join(", "));
            CniError::new(Code::InvalidEnvironment, msg)
        })?;
    match request.command {
        Command::Add => plugin.add(request).map(Some),
        Command::Del => plugin.del(request).map(|()| None),
        Command::Check => plugin.check(request).map(|()| None),
        Command::Gc => plugin.gc(request).map(|()| None),
        Command::Status => plugin.status(request).map(|()| None),
    }
}

/// Reads what each plugin has fields for, and does nothing.
#[cfg(test)]
pub(crate) fn read_fields(request: &Request) {
    let previous = request.config.previous().ok().flatten().unwrap_or_default();
    let _ = (bridge::Settings::of(request).is_ok(), bandwidth::limits(request));
    let _ = (portmap::check_fields(request), portmap::ports(request, &previous));
}
