//! The `dyad` command.

mod agent;
mod api;
mod args;
mod completion;
mod connectivity;
mod controllers;
mod dns;
mod explain;
mod image;
mod install;
mod installed;
mod local;
mod output;

use std::process::ExitCode;

use clap::Parser;
use dyad_cluster::up::Interrupted;

use crate::args::{Args, Command};

fn main() -> ExitCode {
    // Dyad's own processes are given text only; clap says of other arguments what is wrong with them.
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    // Processes of a cluster and of its pods are this program too; they change namespaces, so they are
    // told apart before anything else happens.
    if words.first().is_some_and(|word| word == "internal") {
        let run = dyad_cluster::internal_main(&words[1..])
            .or_else(|| dyad_kubelet::internal_main(&words[1..]))
            .or_else(|| dyad_inspect::internal_main(&words[1..]));
        return run.unwrap_or_else(|| {
            eprintln!("error: `dyad internal` is for Dyad's own processes: see `dyad --help`");
            ExitCode::from(2)
        });
    }
    match run(Args::parse().command) {
        Ok(code) => code,
        Err(error) => {
            output::error(&error);
            // As shells have it for what ended by Ctrl-C.
            if error.is::<Interrupted>() { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(args) => local::up(args),
        Command::Start(args) => local::start(args),
        Command::Stop(args) => local::stop(args),
        Command::Down(args) => local::down(args),
        Command::Status(args) => local::status(*args),
        Command::Logs(args) => local::logs(args),
        Command::Shell(args) => {
            match dyad_cluster::shell::shell(&args.cluster.name, args.node.as_deref(), &args.command)? {}
        }
        Command::Connectivity(args) => connectivity::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Image(args) => image::run(args),
        Command::Install(args) => install::install(*args, false),
        Command::Upgrade(args) => install::install(*args, true),
        Command::Uninstall(args) => install::uninstall(args),
        Command::Sysdump(args) => install::sysdump(args),
        Command::Completion(args) => completion::run(&args),
        Command::Dist(args) => completion::dist(&args),
        Command::Agent(args) => agent::run(*args),
        Command::Controllers(args) => controllers::run(*args),
        Command::Dns(args) => dns::run(*args),
    }
}
