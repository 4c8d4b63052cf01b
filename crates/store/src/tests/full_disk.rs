//! A full disk: writers get errors, readers go on, and once there is space so do writers.

use std::path::Path;
use std::process::Stdio;

use futures::{FutureExt, StreamExt};

use super::*;

/// Not a test: runs where space is short, and makes space by the command it was given.
#[test]
#[ignore = "body of the child process of the tests below"]
fn writing_child() {
    let dir = std::env::var("DYAD_STORE_DIR").expect("set by the parent");
    let make_space = std::env::var("DYAD_MAKE_SPACE").expect("set by the parent");
    let path = Path::new(&dir).join("store");
    let store = RedbStore::open(&path).expect("an empty store fits");
    let mut written = 0_u64;
    let refused = loop {
        match write(&store, vec![put(&format!("key/{written}"), vec![written as u8; 40_000])]) {
            Ok(rev) => written = rev,
            Err(error) => break error,
        }
        assert!(written < 10_000, "the disk was to be full by now");
    };
    assert!(written > 5, "only {written} writes fitted");
    let check = |store: &dyn Store| {
        assert_eq!(store.current_rev(), written);
        assert_eq!(store.range(b"key/", None, None, 0).unwrap().0.len() as u64, written);
        assert_eq!(store.range(b"key/", None, Some(3), 0).unwrap().0.len(), 3);
        let mut watch = store.watch(b"key/", 1).unwrap();
        let events = std::iter::from_fn(|| watch.next().now_or_never().flatten());
        let revs: Vec<u64> = events.map(|item| item.unwrap()[0].rev).collect();
        assert_eq!(revs, (2..=written).collect::<Vec<_>>());
    };
    assert!(matches!(refused, StoreError::Io { .. }), "{refused:?}");
    check(&store);
    for _ in 0..5 {
        let again = write(&store, vec![put("key/large", vec![0; 300_000])]);
        assert!(matches!(again, Err(StoreError::Io { .. })), "{again:?}");
        check(&store);
    }

    let status =
        Command::new("sh").arg("-c").arg(&make_space).env("PID", std::process::id().to_string()).status();
    assert!(status.unwrap().success(), "could not make space");
    let rev = write(&store, vec![put("after", "")]).expect("writes work again");
    assert_eq!(rev, written + 1, "nothing of the refused transactions was applied");
    block_on(store.compact(1)).expect("so does compaction");
    drop(store);
    let store = RedbStore::open(&path).expect("opens again");
    assert_eq!(store.current_rev(), written + 1);
    assert_eq!(store.range(b"key/", None, None, 0).unwrap().0.len() as u64, written);
    assert!(store.get(b"after").unwrap().is_some());
    // To tell a pass from a harness that ran nothing.
    println!("full disk survived");
}

fn run(mut command: Command, dir: &Path, make_space: &str) {
    let output = command
        .args(child_args("tests::full_disk::writing_child"))
        .env("DYAD_STORE_DIR", dir)
        .env("DYAD_MAKE_SPACE", make_space)
        .stderr(Stdio::piped())
        .output()
        .expect("runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("full disk survived"), "{out}\n{err}");
}

#[test]
fn no_space_on_the_file_system() {
    // A namespace of the child's own: nothing to clean up. Without root it takes a user namespace.
    let flags = [&["--mount"][..], &["--user", "--map-root-user", "--mount"]].into_iter().find(|flags| {
        let probe = ["sh", "-c", "mount -t tmpfs none /tmp"];
        Command::new("unshare").args(*flags).args(probe).output().is_ok_and(|output| output.status.success())
    });
    let Some(flags) = flags else {
        eprintln!(
            "SKIPPED no_space_on_the_file_system: neither root nor user namespaces; the limit below is tested"
        );
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=6m none "$DYAD_STORE_DIR" &&
        head -c 3000000 /dev/zero >"$DYAD_STORE_DIR/ballast" && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(flags).args(["sh", "-c", script, "sh"]);
    run(command, dir.path(), r#"rm "$DYAD_STORE_DIR/ballast""#);
}

#[test]
fn a_limit_on_the_size_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    // In units of 512 bytes; the signal that goes with it is ignored, as a server would.
    command.args(["-c", r#"trap '' XFSZ && ulimit -S -f 6000 && exec "$@""#, "sh"]);
    run(command, dir.path(), r#"prlimit --pid "$PID" --fsize=unlimited:unlimited"#);
}
