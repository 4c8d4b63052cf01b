//! Programs that are built in, for pods made of built-in images: `dyad internal NAME ...`.
//!
//! Plain threads and blocking sockets: each is one small process in somebody's pod.

pub mod echo;
mod listen;
mod pktinfo;
mod tools;

use std::process::ExitCode;

/// The applets that a container's `PATH` finds by name; each becomes a script that runs this program.
pub(crate) const NAMES: [&str; 4] = ["http", "connect", "ping", "lookup"];

/// Runs the applet called `name`, if there is one.
pub(crate) fn run(name: &str, args: &[String]) -> Option<ExitCode> {
    let result = match name {
        "echo" => echo::main(args),
        "pause" => tools::pause(),
        "http" => tools::http(args),
        "connect" => tools::connect(args),
        "ping" => tools::ping(args),
        "lookup" => tools::lookup(args),
        _ => return None,
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{name}: {problem}");
            ExitCode::FAILURE
        }
    })
}
