//! From a program to the kernel: from nothing, and a change of one endpoint; beside kube-proxy's layout in `nft -f`.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dyad_links::netns;
use dyad_net::IpFamily;
use dyad_nft::Executor;
use dyad_program::Compiler;

use crate::figure::Figure;
use crate::world::{self, words};
use crate::{Plan, Report};

mod kube_proxy;

/// A peer that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many changes of ours at each size, and of the peer, which are thousands of times slower.
const CHANGES: u32 = 200;
const PEER_CHANGES: u32 = 5;
const PEER: &str = "kube-proxy's";

/// Services and endpoints of each family: the sizes asked for with two each, and 5,000 with fifty.
pub(crate) fn sizes(plan: &Plan) -> Vec<(u32, u32)> {
    let mut sizes: Vec<(u32, u32)> = plan.sizes.iter().map(|size| (*size, 2)).collect();
    if plan.sizes.contains(&5_000) {
        sizes.push((5_000, 50));
    }
    sizes
}

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    for (services, endpoints) in sizes(plan) {
        let mut compiler = world::compiler(services, endpoints);
        compiler.step();
        let text = kube_proxy::layout(compiler.program());
        let (mut loads, mut cpu, mut changes) = (vec![], vec![], vec![]);
        let (mut load_pairs, mut change_pairs) = (vec![], vec![]);
        let mut gave_up = false;
        for _ in 0..plan.rounds {
            let (load, used, change) = ours(&mut compiler, services, endpoints)?;
            loads.push(load);
            cpu.push(used);
            changes.push(change);
            let theirs = if gave_up { None } else { theirs(&text, services, endpoints)? };
            gave_up |= theirs.is_none();
            if let Some((their_load, their_change)) = theirs {
                load_pairs.push((load, their_load));
                change_pairs.push((change / 1e3, their_change * 1e3));
            }
        }
        let words = words(services, endpoints);
        // The targets are for these two; smaller ones take less.
        let limit = if endpoints > 2 { 5.0 } else { 1.0 };
        report.add(Figure::limited(format!("programming: {words}"), "s", &loads, limit));
        report.add(Figure::limited(format!("programming: {words}, CPU"), "s", &cpu, limit));
        report.add(Figure::limited(format!("programming: {words}, one slice"), "us", &changes, 1_000.0));
        let name = format!("programming: {words}, beside nft -f");
        if load_pairs.is_empty() {
            let why = format!("{PEER} layout takes more than {} s", PATIENCE.as_secs());
            report.skip(&name, &why);
        } else {
            report.add(Figure::paired(name, "s", PEER, &load_pairs));
            let name = format!("programming: {words}, one slice, beside nft -f");
            report.add(Figure::paired(name, "ms", PEER, &change_pairs));
        }
    }
    Ok(())
}

/// Seconds to load everything into an empty kernel, those of them that a CPU worked for it, and microseconds for a change
/// of one slice in the median, compiler included.
fn ours(compiler: &mut Compiler, services: u32, endpoints: u32) -> Result<(f64, f64, f64)> {
    let namespace = netns::create().context("needs root, or `unshare --user --map-root-user`")?;
    netns::within(namespace.as_fd(), || {
        let mut executor = Executor::open()?;
        let (begun, used) = (Instant::now(), crate::process::thread_seconds()?);
        executor.apply(compiler.program())?;
        let (load, used) = (begun.elapsed().as_secs_f64(), crate::process::thread_seconds()? - used);
        let mut changes = Vec::new();
        for round in 0..CHANGES {
            let number = round * 7 % services;
            // There and back, so that the next round begins where this one did.
            for port in [9000, world::ENDPOINT_PORT] {
                let (name, slice) = world::slice(number, endpoints, IpFamily::V4, port);
                let begun = Instant::now();
                compiler.set_slice(name, Some(slice));
                let ops = compiler.step();
                let done = executor.update(compiler.program(), &ops)?;
                changes.push(begun.elapsed().as_secs_f64() * 1e6);
                ensure!(
                    done.changes > 0 && done.rebuilt.is_empty(),
                    "a change that was none, or all: {done:?}"
                );
            }
        }
        ensure!(executor.is_current()?, "somebody else changes the tables");
        Ok((load, used, crate::figure::median(&changes)))
    })?
}

/// Seconds to load the text, and for a change of one Service in the median; nothing if that takes too long.
fn theirs(text: &str, services: u32, endpoints: u32) -> Result<Option<(f64, f64)>> {
    let namespace = netns::create()?;
    netns::within(namespace.as_fd(), || {
        let Some(load) = nft(text)? else { return Ok(None) };
        let mut changes = Vec::new();
        for round in 0..PEER_CHANGES {
            let number = round * 7 % services;
            let (_, slice) = world::slice(number, endpoints, IpFamily::V4, 9000);
            let Some(change) = nft(&kube_proxy::change(number, &slice))? else { return Ok(None) };
            changes.push(change);
        }
        Ok(Some((load, crate::figure::median(&changes))))
    })?
}

/// Seconds that `nft -f` takes.
fn nft(text: &str) -> Result<Option<f64>> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(text.as_bytes())?;
    let begun = Instant::now();
    let mut errors = tempfile::tempfile()?;
    let mut child = Command::new("nft")
        .arg("-f")
        .arg(file.path())
        .stdout(Stdio::null())
        .stderr(File::try_clone(&errors)?)
        .spawn()
        .context("the nft program, from the package nftables, is needed for the comparison")?;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let took = begun.elapsed().as_secs_f64();
    if !status.success() {
        let mut text = String::new();
        std::io::Seek::rewind(&mut errors)?;
        std::io::Read::read_to_string(&mut errors, &mut text)?;
        bail!("nft: {}", text.lines().take(4).collect::<Vec<_>>().join("; "));
    }
    Ok(Some(took))
}
