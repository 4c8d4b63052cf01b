//! Hidden subcommands: `dyad internal sandboxes`, and the programs inside pods.

use std::process::ExitCode;

/// Runs a hidden subcommand (`dyad internal ...`) if the arguments, those after `internal`, name one of this crate.
///
/// Must be called before any thread exists: a sandbox is made by forking.
pub fn internal_main(args: &[String]) -> Option<ExitCode> {
    let (name, rest) = args.split_first()?;
    match (name.as_str(), rest) {
        ("sandboxes", []) => Some(crate::sandbox::spawner::main()),
        (applet, rest) => crate::applet::run(applet, rest),
    }
}
