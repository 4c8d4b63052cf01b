//! Benches: each prints a line with our figure, what it is held against, the ratio and the spread.
//!
//! What is held against each other is measured in the same run, turn by turn: absolute figures move with the machine and
//! with its neighbours, ratios hold. `bench/README.md` has the last table.
#![forbid(unsafe_code)]

mod apiserver;
mod cluster;
mod cni;
mod compiling;
mod conntrack;
mod dns;
mod figure;
mod path;
mod process;
mod programming;
mod up;
mod world;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;

use figure::Figure;

/// Measures, and prints ours, the peer's or the limit's figure, the ratio and the spread.
#[derive(Parser)]
struct Args {
    /// Which benches; all if none is named
    names: Vec<String>,
    /// Print JSON for programs
    #[arg(long, short, value_parser = ["table", "json"], default_value = "table")]
    output: String,
    /// Numbers of Services
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 5_000, 30_000])]
    sizes: Vec<u32>,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The `dyad` program, for benches of whole processes
    #[arg(long, value_name = "FILE", default_value = "target/release/dyad")]
    dyad: PathBuf,
    /// The `dyad-cni` program, for its bench
    #[arg(long, value_name = "FILE", default_value = "target/release/dyad-cni")]
    cni: PathBuf,
}

/// What benches are told.
struct Plan {
    sizes: Vec<u32>,
    rounds: usize,
    dyad: PathBuf,
    cni: PathBuf,
}

/// A bench: its name, and what runs it.
type Bench = (&'static str, fn(&Plan, &mut Report) -> Result<()>);

const BENCHES: [Bench; 10] = [
    ("compile", compiling::run),
    ("programming", programming::run),
    ("conntrack", conntrack::run),
    ("path", path::run),
    ("up", up::run),
    ("effective", cluster::effective),
    ("agent", cluster::agent),
    ("dns", dns::run),
    ("apiserver", apiserver::run),
    ("cni", cni::run),
];

/// Takes figures as they come.
struct Report {
    as_json: bool,
    figures: Vec<Figure>,
}

impl Report {
    fn add(&mut self, figure: Figure) {
        if !self.as_json {
            println!("{}", figure.line());
            // Whoever reads a pipe wants to see how far it is.
            let _ = std::io::stdout().flush();
        }
        self.figures.push(figure);
    }

    /// What was not measured, and why.
    fn skip(&mut self, name: &str, why: &str) {
        self.add(Figure::skipped(name, why));
    }
}

fn main() -> Result<()> {
    // The ends of paths are processes of their own: cgroups hold processes, not threads.
    if let Some(cpu) = std::env::args().skip_while(|arg| arg != path::WORKER).nth(1) {
        return path::work(&cpu);
    }
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(dns::WORKER) {
        return dns::work(&arguments.collect::<Vec<_>>());
    }
    let args = Args::parse();
    let names = BENCHES.map(|(name, _)| name);
    if let Some(unknown) = args.names.iter().find(|name| !names.contains(&name.as_str())) {
        bail!("there is no bench {unknown:?}: there is {}", names.join(", "));
    }
    let plan = Plan { sizes: args.sizes, rounds: args.rounds.max(1), dyad: args.dyad, cni: args.cni };
    let mut report = Report { as_json: args.output == "json", figures: Vec::new() };
    for (name, bench) in BENCHES {
        if args.names.is_empty() || args.names.iter().any(|wanted| wanted == name) {
            bench(&plan, &mut report).with_context(|| format!("bench {name}"))?;
        }
    }
    if report.as_json {
        let all: Vec<_> = report.figures.iter().map(Figure::json).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}
