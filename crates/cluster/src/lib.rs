//! Local clusters: `up`, `down`, `stop`, `start`, `status`, their processes and their kubeconfig.
//!
//! A cluster is one supervisor, first process of a PID and a mount namespace of its own (and, without root, of a
//! user namespace), with one control-plane process and one process per node below it. Every network namespace
//! is pinned in the supervisor's mount namespace only. When the supervisor goes, in whatever way, the kernel
//! takes everything else with it; what remains on disk is the cluster's directory ([`paths::ClusterDir`]).

pub mod audit;
pub mod config;
mod control_plane;
mod dns;
pub mod fabric;
pub mod kubeconfig;
mod labels;
mod launch;
mod node;
mod node_cache;
pub mod paths;
mod process;
mod renewal;
mod rooms;
pub mod shell;
mod signer;
pub mod spec;
pub mod status;
mod stop;
mod supervisor;
pub mod up;

pub use rooms::pods_cgroup;
pub use stop::{down, stop};

use std::process::ExitCode;

/// Runs a hidden subcommand (`dyad internal ...`) if the arguments name one of this crate.
///
/// Must be called before any thread exists: these commands change namespaces of the whole process.
pub fn internal_main(args: &[String]) -> Option<ExitCode> {
    let state = || args.get(1).map(std::path::PathBuf::from);
    let result = match (args.first()?.as_str(), state()) {
        ("launch", Some(dir)) => launch::main(&dir),
        ("supervise", Some(dir)) => supervisor::main(&dir),
        ("control-plane", Some(dir)) => control_plane::main(&dir),
        ("node", Some(dir)) => node::main(&dir, args.get(2).map_or("", String::as_str)),
        ("outside", Some(dir)) => fabric::outside_main(&dir),
        _ => return None,
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    })
}
