//! Chores of the repository.

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
        Chore::Lint => lint::run(),
        Chore::Schema { kubernetes, out } => schema::run(&kubernetes, &out),
    }
}
