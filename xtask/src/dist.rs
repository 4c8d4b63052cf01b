//! `cargo xtask dist`: all that is released, in one directory: static programs, the image, a Debian package, man pages,
//! completions, the list of what is inside, checksums.

mod deb;
mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::read::elf::{ElfFile64, ProgramHeader};
use sha2::{Digest, Sha256};

/// What is built for: Rust's name, Go's and Debian's, and the linker where it is another machine's.
const TARGETS: [(&str, &str, Option<&str>); 2] = [
    ("x86_64-unknown-linux-gnu", "amd64", None),
    ("aarch64-unknown-linux-gnu", "arm64", Some("aarch64-linux-gnu-gcc")),
];
/// The programs.
const PROGRAMS: [&str; 2] = ["dyad", "dyad-cni"];

/// Options of the chore.
#[derive(Debug, clap::Args)]
pub(crate) struct DistArgs {
    /// Where to write
    #[arg(long, value_name = "DIR", default_value = "target/dist")]
    out: PathBuf,
    /// The profile to build with
    #[arg(long, default_value = "release")]
    profile: String,
}

pub(crate) fn run(args: &DistArgs) -> Result<()> {
    let metadata = crate::metadata::read()?;
    let version = sbom::version(&metadata)?;
    let target_dir = PathBuf::from(metadata["target_directory"].as_str().context("no target directory")?);
    fs::create_dir_all(&args.out)?;
    let time = time();
    let mut host = None;
    for (target, architecture, linker) in TARGETS {
        if let Some(why) = missing(target, linker)? {
            eprintln!("skipped {architecture}: {why}");
            continue;
        }
        build(target, linker, &args.profile)?;
        let built = if args.profile == "dev" { "debug" } else { &args.profile };
        let programs = target_dir.join(target).join(built);
        for program in PROGRAMS {
            is_static(&programs.join(program))?;
            let name = format!("{program}-{version}-linux-{architecture}");
            fs::copy(programs.join(program), args.out.join(name))?;
        }
        // What runs here writes for all.
        let dyad = host.get_or_insert_with(|| programs.join("dyad")).clone();
        let status = Command::new(&dyad)
            .arg("dist")
            .arg(&args.out)
            .args(["--architecture", architecture])
            .arg("--dyad")
            .arg(programs.join("dyad"))
            .arg("--cni")
            .arg(programs.join("dyad-cni"))
            .status()
            .with_context(|| format!("can't run {}", dyad.display()))?;
        if !status.success() {
            bail!("{} dist failed", dyad.display());
        }
        let package = args.out.join(format!("dyad_{version}_{architecture}.deb"));
        let of =
            deb::Contents { version: &version, architecture, programs: &programs, extras: &args.out, time };
        deb::write(&package, &of)?;
    }
    fs::write(args.out.join(format!("dyad-{version}.cdx.json")), sbom::write(&metadata, &version)?)?;
    checksums(&args.out)?;
    for entry in sorted(&args.out)? {
        println!("{}", entry.display());
    }
    Ok(())
}

/// The time of everything that is written, so that the same sources make the same bytes: as `SOURCE_DATE_EPOCH` says it, else
/// that of the last commit.
fn time() -> u64 {
    let said = std::env::var("SOURCE_DATE_EPOCH").ok();
    let committed = || {
        let log = Command::new("git").args(["log", "-1", "--format=%ct"]).output().ok()?;
        Some(String::from_utf8_lossy(&log.stdout).into_owned())
    };
    let text = said.or_else(committed).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

/// Why nothing can be built for a target here.
fn missing(target: &str, linker: Option<&str>) -> Result<Option<String>> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().context("can't run rustc")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    if !sysroot.join("lib/rustlib").join(target).join("lib").exists() {
        return Ok(Some(format!("there is no standard library: `rustup target add {target}`")));
    }
    let runs = |linker: &str| Command::new(linker).arg("--version").output().is_ok();
    Ok(linker.filter(|linker| !runs(linker)).map(|linker| format!("there is no linker {linker}")))
}

fn build(target: &str, linker: Option<&str>, profile: &str) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--profile", profile, "--target", target]);
    command.args(["-p", "dyad-cli", "-p", "dyad-cni"]);
    command.env("RUSTFLAGS", "-C target-feature=+crt-static");
    if let Some(linker) = linker {
        let variable = format!("CARGO_TARGET_{}_LINKER", target.to_uppercase().replace('-', "_"));
        command.env(variable, linker);
    }
    if !command.status().context("can't run cargo build")?.success() {
        bail!("building for {target} failed");
    }
    Ok(())
}

/// A program that asks for no loader needs nothing of the machine it runs on.
fn is_static(path: &Path) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    let elf = ElfFile64::<object::Endianness>::parse(&*bytes)?;
    let endian = elf.endian();
    if elf.elf_program_headers().iter().any(|part| part.p_type(endian) == object::elf::PT_INTERP) {
        bail!("{} is not static: it asks for a loader", path.display());
    }
    Ok(())
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut all = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    all.retain(|path| path.is_file());
    all.sort();
    Ok(all)
}

/// As `sha256sum --check SHA256SUMS` reads it.
fn checksums(dir: &Path) -> Result<()> {
    let mut text = String::new();
    for path in sorted(dir)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name != "SHA256SUMS" {
            let digest = Sha256::digest(fs::read(&path)?);
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            text.push_str(&format!("{hex}  {name}\n"));
        }
    }
    Ok(fs::write(dir.join("SHA256SUMS"), text)?)
}
