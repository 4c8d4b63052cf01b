//! kill -9 in the midst of ten thousand writes loses nothing that was acknowledged.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use super::*;

const WRITERS: usize = 8;
const ACKNOWLEDGED: usize = 10_000;

/// Not a test: the process that is killed. Every writer puts its next number, and beside it the newest, and says so
/// once the store has.
#[test]
#[ignore = "body of the child process of the test below"]
fn writing_child() {
    let path = std::env::var("DYAD_STORE_PATH").expect("set by the parent");
    let store = RedbStore::open(path).expect("opens");
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || {
                let newest = format!("newest/{writer}");
                let known = store.get(newest.as_bytes()).expect("reads").map(|kv| kv.value);
                let first = known.map_or(0, |known| number(&known) + 1);
                for n in first.. {
                    let rev = write(
                        store,
                        vec![put(&format!("all/{writer}/{n}"), n.to_string()), put(&newest, n.to_string())],
                    )
                    .expect("written");
                    // One write to the pipe: a kill leaves it whole or out.
                    let line = format!("ack {writer} {n} {rev}\n");
                    std::io::stdout().lock().write_all(line.as_bytes()).expect("the parent listens");
                    if n % 64 == 0 {
                        block_on(store.compact(rev.saturating_sub(100))).expect("compacted");
                    }
                }
            });
        }
    });
}

fn number(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).expect("a number was put")
}

#[test]
fn a_kill_loses_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut acknowledged: HashMap<(String, u64), u64> = HashMap::new();
    let mut round = 0_usize;
    while acknowledged.len() < ACKNOWLEDGED {
        // Spread over beginnings, groups, compactions; the moment within a commit is up to the scheduler.
        let lines = 1 + round * 409 % 1700;
        round += 1;
        write_and_kill(&path, lines, &mut acknowledged);
        let store = RedbStore::open(&path).expect("a killed process leaves a usable store");
        for ((writer, n), rev) in &acknowledged {
            let kv = store.get(format!("all/{writer}/{n}").as_bytes()).unwrap();
            let kv = kv.unwrap_or_else(|| panic!("write {n} of writer {writer} at revision {rev} is lost"));
            assert_eq!((number(&kv.value), kv.mod_rev), (*n, *rev));
        }
        for writer in 0..WRITERS {
            let written =
                store.range(format!("all/{writer}/").as_bytes(), None, None, 0).unwrap().0.len() as u64;
            let newest = store.get(format!("newest/{writer}").as_bytes()).unwrap();
            assert_eq!(
                newest.map_or(0, |kv| number(&kv.value) + 1),
                written,
                "a transaction is whole or absent"
            );
        }
    }
    assert!(round > 5, "killed only {round} times");
}

fn write_and_kill(path: &Path, lines: usize, acknowledged: &mut HashMap<(String, u64), u64>) {
    let mut process = child("tests::crash::writing_child")
        .env("DYAD_STORE_PATH", path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this binary runs");
    let output = BufReader::new(process.stdout.take().expect("piped"));
    let mut seen = 0;
    for line in output.lines() {
        let line = line.unwrap();
        // The first one may follow what the test harness says on the same line.
        let Some((_, ack)) = line.split_once("ack ") else { continue };
        let words: Vec<&str> = ack.split(' ').collect();
        let [writer, n, rev] = words[..] else { panic!("{line}") };
        acknowledged.insert((writer.to_owned(), n.parse().unwrap()), rev.parse().unwrap());
        seen += 1;
        if seen == lines {
            process.kill().unwrap();
        }
    }
    process.wait().unwrap();
    assert!(seen >= lines, "the child ended by itself after {seen} writes");
}
