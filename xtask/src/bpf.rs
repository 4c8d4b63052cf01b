//! The object of the eBPF executor: built from its C sources, and compared with the one that is checked in.
//!
//! Debian 12's clang 14 decides: another compiler makes other instructions of the same sources. What the kernel gets is
//! compared (instructions, maps, licence and which instruction means which map), not bytes that say where and when.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget};

/// The compiler, as Debian names it.
const CLANG: &str = "clang-14";
const SOURCE: &str = "crates/ebpf/bpf/dyad.bpf.c";
const OBJECT: &str = "crates/ebpf/bpf/dyad.bpf.o";

/// Builds the object, and compares it with or puts it in place of the one that is there.
pub(crate) fn run(write: bool) -> Result<()> {
    let built = build()?;
    if write {
        return std::fs::write(OBJECT, built).with_context(|| format!("writing {OBJECT}"));
    }
    let kept = std::fs::read(OBJECT).with_context(|| format!("reading {OBJECT}"))?;
    let (kept, built) = (contents(&kept)?, contents(&built)?);
    for name in kept.keys().chain(built.keys()) {
        ensure!(
            kept.get(name) == built.get(name),
            "{name} in {OBJECT} is not what its sources say: run `cargo xtask bpf --write` and commit it"
        );
    }
    Ok(())
}

fn build() -> Result<Vec<u8>> {
    let target = std::env::temp_dir().join(format!("dyad-bpf-{}.o", std::process::id()));
    let headers = format!("/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let built = Command::new(CLANG)
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-target", "bpfel", "-mcpu=v3", "-I", &headers])
        .args(["-c", SOURCE, "-o"])
        .arg(&target)
        .status()
        .with_context(|| {
            format!("running {CLANG}: install the Debian packages {CLANG} and linux-libc-dev")
        })?;
    if !built.success() {
        bail!("{CLANG} did not compile {SOURCE}");
    }
    let object = read_and_remove(&target);
    object.with_context(|| format!("reading {}", target.display()))
}

fn read_and_remove(path: &Path) -> std::io::Result<Vec<u8>> {
    let bytes = std::fs::read(path)?;
    std::fs::remove_file(path)?;
    Ok(bytes)
}

/// What the kernel gets, by the names of sections and what they define.
fn contents(object: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    let file = object::File::parse(object)?;
    let mut found = BTreeMap::new();
    for section in file.sections() {
        let name = section.name()?;
        if !matches!(name, "maps" | "license" | "classifier") && !name.starts_with("cgroup/") {
            continue;
        }
        found.insert(name.to_owned(), section.data()?.to_vec());
        for (at, relocation) in section.relocations() {
            let RelocationTarget::Symbol(index) = relocation.target() else { continue };
            let meant = file.symbol_by_index(index)?.name()?.as_bytes().to_vec();
            found.insert(format!("{name} at {at}"), meant);
        }
        for symbol in file
            .symbols()
            .filter(|symbol| symbol.section_index() == Some(section.index()) && symbol.is_global())
        {
            found.insert(format!("{name}: {}", symbol.name()?), symbol.address().to_le_bytes().to_vec());
        }
    }
    Ok(found)
}
