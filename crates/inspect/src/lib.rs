//! Looks into a cluster, through nothing but the Kubernetes API: the connectivity test.
#![forbid(unsafe_code)]

pub mod connectivity;
mod probe;

use std::process::ExitCode;

/// Runs a hidden subcommand (`dyad internal ...`) if the arguments name one of this crate.
pub fn internal_main(args: &[String]) -> Option<ExitCode> {
    match args.first()?.as_str() {
        "probe" => Some(probe::main(&args[1..])),
        _ => None,
    }
}
