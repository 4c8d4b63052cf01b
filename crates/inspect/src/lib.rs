//! Looks into a cluster: the connectivity test, and what becomes of a connection and why.
#![forbid(unsafe_code)]

pub mod connectivity;
pub mod explain;
mod probe;

use std::process::ExitCode;

/// Runs a hidden subcommand (`dyad internal ...`) if the arguments name one of this crate.
pub fn internal_main(args: &[String]) -> Option<ExitCode> {
    match args.first()?.as_str() {
        "probe" => Some(probe::main(&args[1..])),
        "counters" => Some(explain::counters::main()),
        _ => None,
    }
}
