//! Files that are not ours or are damaged: refused, and left as they are.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use redb::{Database, TableDefinition};

use super::*;

/// A store with some history, closed.
fn store_file(dir: &Path) -> PathBuf {
    let path = dir.join("store");
    let store = RedbStore::open(&path).unwrap();
    for n in 0..50_u32 {
        write(&store, vec![put(&format!("key/{}", n % 20), vec![n as u8; 200])]).unwrap();
    }
    block_on(store.compact(30)).unwrap();
    path
}

/// The refusal's reason; the file has not changed.
fn refusal(path: &Path) -> String {
    let before = std::fs::read(path).unwrap();
    let why = match RedbStore::open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(StoreError::Unusable { path: named, why }) => {
            assert_eq!(named, path.display().to_string());
            why
        }
        Err(other) => panic!("{other:?}"),
    };
    assert!(std::fs::read(path).unwrap() == before, "{} was changed", path.display());
    why
}

#[test]
fn foreign_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (name, content, expected) in [
        ("empty", &b""[..], "empty"),
        ("short", b"redb", "no store"),
        ("text", b"apiVersion: v1\nkind: ConfigMap\n", "no store"),
        ("zeros", &[0; 100_000], "no store"),
        ("magic alone", b"redb\x1a\x0a\xa9\x0d\x0a", "damaged"),
        ("magic and zeros", &[&b"redb\x1a\x0a\xa9\x0d\x0a"[..], &[0; 20_000]].concat(), "damaged"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let why = refusal(&path);
        assert!(why.contains(expected), "{name}: {why}");
    }
}

#[test]
fn another_programs_database_is_refused() {
    const THEIRS: TableDefinition<'_, &str, u64> = TableDefinition::new("theirs");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let theirs = Database::create(&path).unwrap();
    let txn = theirs.begin_write().unwrap();
    txn.open_table(THEIRS).unwrap().insert("a", 1).unwrap();
    txn.commit().unwrap();
    // As a crash would leave it, and as closing does.
    let crashed = dir.path().join("crashed");
    std::fs::copy(&path, &crashed).unwrap();
    drop(theirs);
    for path in [path, crashed] {
        assert!(refusal(&path).contains("another program"));
    }
}

#[test]
fn a_newer_format_is_refused() {
    const META: TableDefinition<'_, &str, u64> = TableDefinition::new("dyad-store");
    let dir = tempfile::tempdir().unwrap();
    let path = store_file(dir.path());
    let database = Database::open(&path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(META).unwrap().insert("format", 2).unwrap();
    txn.commit().unwrap();
    drop(database);
    assert!(refusal(&path).contains("format 2"));
}

#[test]
fn a_missing_revision_is_noticed() {
    const RECORDS: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("records");
    for lost in [35, 50] {
        let dir = tempfile::tempdir().unwrap();
        let path = store_file(dir.path());
        block_on(RedbStore::open(&path).unwrap().compact(50)).unwrap();
        let database = Database::open(&path).unwrap();
        let txn = database.begin_write().unwrap();
        txn.open_table(RECORDS).unwrap().remove((lost, 0)).unwrap();
        txn.commit().unwrap();
        drop(database);
        // Compacted at 50: that 35 is gone is a matter of course, that the newest is gone is not.
        if lost == 50 {
            assert!(refusal(&path).contains("missing"));
        } else {
            RedbStore::open(&path).unwrap();
        }
    }
}

#[test]
fn the_message_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    std::fs::write(&path, "hello").unwrap();
    let text = RedbStore::open(&path).err().unwrap().to_string();
    assert!(text.contains("move it away") && text.contains(&path.display().to_string()), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_truncated_file_is_refused(part in 0.0..1.0_f64) {
        let dir = tempfile::tempdir()?;
        let path = store_file(dir.path());
        let file = std::fs::OpenOptions::new().write(true).open(&path)?;
        file.set_len((file.metadata()?.len() as f64 * part) as u64)?;
        drop(file);
        refusal(&path);
    }

    #[test]
    fn a_changed_byte_is_refused_or_does_not_matter(part in 0.0..1.0_f64, early: bool, mask in 1..=255_u8) {
        let dir = tempfile::tempdir()?;
        let path = store_file(dir.path());
        let content = |store: &RedbStore| (store.range(b"", None, None, 0).unwrap(), store.range(b"", None, Some(40), 0).unwrap());
        let whole = content(&RedbStore::open(&path).unwrap());
        let mut bytes = std::fs::read(&path)?;
        // Half of the time in the header, where each byte means something.
        let within = if early { 320 } else { bytes.len() };
        let index = (within as f64 * part) as usize;
        bytes[index] ^= mask;
        std::fs::write(&path, &bytes)?;
        match RedbStore::open(&path) {
            Ok(store) => prop_assert!(content(&store) == whole, "byte {} made a difference", index),
            Err(_) => { refusal(&path); }
        }
    }
}
