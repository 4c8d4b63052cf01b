//! The CNI plugins, by the name they are called under.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    ExitCode::from(dyad_cni::main(Path::new(&program)))
}
