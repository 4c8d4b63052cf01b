//! `dyad up --install`: what `dyad install` does on any cluster, on the bare nodes of a local one, with an image made of
//! this very program.

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use dyad_cluster::paths::ClusterDir;
use dyad_cluster::spec::{API_PORT, ClusterSpec, Dataplane, Place};
use dyad_cluster::up::Site;
use dyad_images::build::Entry;
use dyad_images::manifest::Platform;
use dyad_images::{Store, archive};
use dyad_install::image::{self, Programs};
use dyad_install::survey::Allowed;
use dyad_install::{Chosen, life};
use serde_json::json;

use crate::args::UpArgs;
use crate::output::Steps;

/// The name of the plugins' program, which is beside this one.
const PLUGINS: &str = "dyad-cni";
/// Where `dyad install` puts everything.
const NAMESPACE: &str = "kube-system";

/// The values that the command line asks for, as a file: over those that follow from a cluster of this machine.
pub(super) fn chosen(args: &UpArgs) -> Result<String> {
    // What is missing or wrong should be known before anything is made.
    programs()?;
    let mut chosen = Chosen::default();
    chosen.set(&format!("proxy.dataplane={}", args.dataplane.as_str()))?;
    if let Some(pods) = dyad_cluster::pods_cgroup().filter(|_| args.dataplane != Dataplane::Nftables) {
        chosen.set(&format!("proxy.cgroupRoot={}", pods.display()))?;
    }
    if let Some(routing) = &args.routing {
        chosen.set(&format!("cni.routing={routing}"))?;
    }
    for path in &args.values {
        let named = || format!("--values {}", path.display());
        let text = std::fs::read_to_string(path).with_context(named)?;
        chosen.file(&text).with_context(named)?;
    }
    for text in &args.set {
        chosen.set(text)?;
    }
    chosen.values().context("the values of --install")?;
    Ok(chosen.to_yaml())
}

/// Installs what the cluster was asked to have; nothing where that is nothing.
pub(super) async fn install(site: Site<'_>, steps: &RefCell<Steps>) -> Result<()> {
    let Some(text) = &site.spec.install else { return Ok(()) };
    let version = env!("CARGO_PKG_VERSION");
    let mut chosen = Chosen::default();
    chosen.file(&own(site.spec)?)?;
    chosen.file(text)?;
    steps.borrow_mut().waiting("image");
    let dir = site.dir.clone();
    tokio::task::spawn_blocking(move || load_image(&dir, version)).await.context("a thread failed")??;
    steps.borrow_mut().done("Image");
    let allowed = Allowed::default();
    let plan = life::plan(site.client, NAMESPACE, version, &chosen, false, allowed).await?;
    life::install(site.client, &plan, false, |_| {}).await.context("can't install")?;
    steps.borrow_mut().done("Installed");
    steps.borrow_mut().waiting("nodes");
    Ok(())
}

/// What nothing in the cluster says: where its API server is as long as there are no Services.
fn own(spec: &ClusterSpec) -> Result<String> {
    let api: IpAddr = *spec.addresses_by_family(Place::Api)?.primary();
    // JSON is YAML.
    Ok(json!({"api": {"host": api, "port": API_PORT}}).to_string())
}

/// This program and the one beside it.
fn programs() -> Result<(PathBuf, PathBuf)> {
    let dyad = std::env::current_exe().context("can't find this program")?;
    let cni = dyad.with_file_name(PLUGINS);
    if !cni.is_file() {
        bail!(
            "{} is missing: put it beside {}, or build it with `cargo build -p {PLUGINS}`",
            cni.display(),
            dyad.display()
        );
    }
    Ok((dyad, cni))
}

/// Puts the image of a version, made of both, into the store of the cluster's nodes.
fn load_image(dir: &ClusterDir, version: &str) -> Result<()> {
    let (dyad, cni) = programs()?;
    let libraries = libraries(&dyad)?;
    let more = entries(&libraries);
    let architecture = Platform::own().architecture;
    let programs = Programs { dyad: &dyad, cni: &cni, architecture: &architecture };
    let store = Store::open(&dir.images())?;
    let (reader, writer) = std::io::pipe().context("can't make a pipe")?;
    std::thread::scope(|scope| {
        let written = scope.spawn(move || image::write_with(programs, &more, version, false, writer));
        let loaded = archive::load(&store, reader, None, |_, _| {});
        // Who writes to a reader that has given up fails, too, and not for a reason of its own.
        let loaded = loaded.context("can't load the image")?;
        written.join().map_err(|_| anyhow::anyhow!("the thread that writes the image panicked"))??;
        if loaded.is_empty() { bail!("the image is empty") } else { Ok(()) }
    })
}

/// The libraries of a program that is not static, and what loads them, by the paths they are looked for at.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    // The loader of programs lists them and runs nothing; a static program has none and says its version.
    let listed = Command::new(program).arg("--version").env("LD_TRACE_LOADED_OBJECTS", "1").output();
    let listed = listed.with_context(|| format!("can't ask which libraries {} has", program.display()))?;
    Ok(parse_libraries(&String::from_utf8_lossy(&listed.stdout)))
}

fn parse_libraries(listed: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let line = line.split_once(" => ").map_or(line, |(_, path)| path).trim();
        let path = line.split_once(" (").map_or(line, |(path, _)| path);
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    listed.lines().filter_map(path).collect()
}

/// Files at their own paths, after the directories they are in.
fn entries(files: &[PathBuf]) -> Vec<(&str, Entry<'_>)> {
    let inside = |path: &'_ Path| path.to_str().map(|text| text.trim_start_matches('/').len());
    let mut all: Vec<(&str, Entry<'_>)> = Vec::new();
    for file in files {
        let Some(text) = file.to_str() else { continue };
        let text = text.trim_start_matches('/');
        let mut folders: Vec<&str> = file
            .ancestors()
            .skip(1)
            .filter_map(|folder| text.get(..inside(folder)?).filter(|folder| !folder.is_empty()))
            .collect();
        folders.reverse();
        for folder in folders {
            if all.iter().all(|(known, _)| *known != folder) {
                all.push((folder, Entry::Directory(0o755)));
            }
        }
        all.push((text, Entry::File(file, 0o755)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_come_with_their_directories_and_their_loader() {
        let listed = "\tlinux-vdso.so.1 (0x00007f02c5570000)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f02bda1e000)\n\
            \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f02bda1e000)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f02c5572000)\n";
        let files = parse_libraries(listed);
        let paths: Vec<&str> = entries(&files).iter().map(|(path, _)| *path).collect();
        assert_eq!(
            paths,
            [
                "lib",
                "lib/x86_64-linux-gnu",
                "lib/x86_64-linux-gnu/libc.so.6",
                "lib/x86_64-linux-gnu/libm.so.6",
                "lib64",
                "lib64/ld-linux-x86-64.so.2",
            ]
        );
        assert!(parse_libraries("dyad 0.1.0\n").is_empty());
    }
}
