//! Chores of the repository.

mod bench;
mod bpf;
mod lint;
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
    /// Measure, and print ours, the limit, the ratio and the spread
    Bench {
        /// Which benches; all if none is named
        names: Vec<String>,
        /// Print JSON for programs
        #[arg(long, short, value_parser = ["table", "json"], default_value = "table")]
        output: String,
    },
    /// Build the eBPF programs and compare them with the object that is checked in
    Bpf {
        /// Check in what was built
        #[arg(long)]
        write: bool,
    },
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
        Chore::Bench { names, output } => bench::run(&names, output == "json"),
        Chore::Bpf { write } => bpf::run(write),
        Chore::Lint => lint::run(),
        Chore::Schema { kubernetes, out } => schema::run(&kubernetes, &out),
    }
}
