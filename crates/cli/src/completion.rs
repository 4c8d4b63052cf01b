//! `dyad completion`, and what packages have besides the programs.

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use dyad_install::image::{self, Programs};

use crate::args::Args;
use crate::output::print;

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionArgs) -> Result<ExitCode> {
    print(&script(args.shell))?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "dyad", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// What `cargo xtask dist` asks for.
#[derive(Debug, clap::Args)]
pub(crate) struct DistArgs {
    /// Where to write
    dir: PathBuf,
    /// The program `dyad` of the image
    #[arg(long, value_name = "FILE")]
    dyad: PathBuf,
    /// The program `dyad-cni` of the image
    #[arg(long, value_name = "FILE")]
    cni: PathBuf,
    /// What they are for, in Go's words: amd64, arm64
    #[arg(long)]
    architecture: String,
}

/// Writes man pages, completions and the image.
pub(crate) fn dist(args: &DistArgs) -> Result<ExitCode> {
    let dir = |name: &str| -> Result<PathBuf> {
        let dir = args.dir.join(name);
        fs::create_dir_all(&dir).with_context(|| format!("can't make {}", dir.display()))?;
        Ok(dir)
    };
    let (man, completions) = (dir("man")?, dir("completions")?);
    clap_mangen::generate_to(Args::command(), &man).context("can't write man pages")?;
    for (shell, name) in [(Shell::Bash, "dyad"), (Shell::Zsh, "_dyad"), (Shell::Fish, "dyad.fish")] {
        write(&completions.join(name), &script(shell))?;
    }
    let version = env!("CARGO_PKG_VERSION");
    let path = args.dir.join(format!("dyad-{version}-{}.tar", args.architecture));
    let file = fs::File::create(&path).with_context(|| format!("can't make {}", path.display()))?;
    let programs = Programs { dyad: &args.dyad, cni: &args.cni, architecture: &args.architecture };
    image::write(programs, version, true, BufWriter::new(file))?;
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = script(shell);
            for command in ["install", "uninstall", "sysdump", "connectivity"] {
                assert!(script.contains(command), "{shell}: {command}");
            }
        }
    }
}
