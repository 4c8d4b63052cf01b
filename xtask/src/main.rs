//! Chores of the repository.

mod bench;
mod bpf;
mod deploy;
mod dist;
mod lint;
mod metadata;
mod schema;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Chores of the repository")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Measure, and print ours, the peer's or the limit, the ratio and the spread
    #[command(disable_help_flag = true)]
    Bench {
        /// Names of benches, all if there is none, and options: `-o json`, `--sizes 1000,5000`, `--rounds 5`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build the eBPF programs and compare them with the object that is checked in
    Bpf {
        /// Check in what was built
        #[arg(long)]
        write: bool,
    },
    /// Write the kustomize base and the table of values from the chart in deploy/helm
    Deploy,
    /// Build all that is released: static programs, image, Debian package, man pages, completions, SBOM, checksums
    Dist(dist::DistArgs),
    /// Check that dependencies run downward only and that their licences allow what is shipped
    Lint,
    /// Write the table of fields from the Go API types of a Kubernetes checkout
    Schema {
        /// Root of the checkout
        #[arg(long, value_name = "DIR")]
        kubernetes: PathBuf,
        /// Where to write
        #[arg(long, value_name = "FILE", default_value = "crates/schema/data/fields.txt")]
        out: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Args::parse().chore {
        Chore::Bench { arguments } => bench::run(&arguments),
        Chore::Bpf { write } => bpf::run(write),
        Chore::Deploy => deploy::run(),
        Chore::Dist(args) => dist::run(&args),
        Chore::Lint => lint::run(),
        Chore::Schema { kubernetes, out } => schema::run(&kubernetes, &out),
    }
}
