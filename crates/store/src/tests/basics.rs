//! What every back end promises, one sentence each.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt, poll};

use super::*;
use crate::{Event, MemoryStore, WatchStream, spawn_compactor};

fn on_each_back_end(check: impl Fn(Box<dyn Store>)) {
    check(Box::new(MemoryStore::new()));
    let dir = tempfile::tempdir().expect("temporary directory");
    check(Box::new(RedbStore::open(dir.path().join("store")).expect("new store")));
}

fn next(stream: &mut WatchStream) -> Option<Result<Vec<Event>, StoreError>> {
    stream.next().now_or_never().expect("an item or the end is there")
}

#[test]
fn a_transaction_is_one_revision_and_all_or_nothing() {
    on_each_back_end(|store| {
        assert_eq!(write(&*store, vec![put("a", "1"), put("b", "1")]).unwrap(), 1);
        let failed = block_on(store.txn(vec![at("a", 1), at("b", 0)], vec![put("a", "2")])).unwrap();
        let b = store.get(b"b").unwrap();
        assert!(b.is_some());
        assert_eq!(failed, TxnOutcome::Failed { compare: 1, current: b });
        assert_eq!(store.current_rev(), 1);
        let a = store.get(b"a").unwrap().unwrap();
        assert_eq!((&a.value[..], a.create_rev, a.mod_rev), (&b"1"[..], 1, 1));
    });
}

#[test]
fn what_changes_nothing_takes_no_revision() {
    on_each_back_end(|store| {
        write(&*store, vec![put("a", "1")]).unwrap();
        assert_eq!(write(&*store, vec![delete("absent")]).unwrap(), 1);
        assert_eq!(block_on(store.txn(vec![at("a", 1)], vec![])).unwrap(), TxnOutcome::Committed { rev: 1 });
        assert_eq!(store.current_rev(), 1);
    });
}

#[test]
fn a_key_named_twice_is_refused() {
    on_each_back_end(|store| {
        let twice = block_on(store.txn(vec![], vec![put("a", "1"), delete("a")]));
        assert!(matches!(twice, Err(StoreError::Io { .. })), "{twice:?}");
        assert_eq!(store.current_rev(), 0);
    });
}

#[test]
fn a_key_created_again_has_a_new_create_revision() {
    on_each_back_end(|store| {
        for ops in [vec![put("a", "1")], vec![put("a", "2")], vec![delete("a")], vec![put("a", "3")]] {
            write(&*store, ops).unwrap();
        }
        let created = |rev| store.range(b"a", None, Some(rev), 0).unwrap().0.first().map(|kv| kv.create_rev);
        assert_eq!([1, 2, 3, 4].map(created), [Some(1), Some(1), None, Some(4)]);
    });
}

#[test]
fn a_watch_wakes_and_hands_out_whole_revisions_of_its_prefix() {
    on_each_back_end(|store| {
        let mut watch = store.watch(b"a/", 0).unwrap();
        block_on(async {
            assert!(matches!(poll!(watch.next()), Poll::Pending));
            store.txn(vec![], vec![put("b/1", "")]).await.unwrap();
            assert!(matches!(poll!(watch.next()), Poll::Pending), "another prefix");
            let (item, _) = futures::join!(
                watch.next(),
                store.txn(vec![], vec![put("a/1", ""), put("b/1", ""), put("a/2", "")])
            );
            let keys: Vec<_> =
                item.unwrap().unwrap().into_iter().map(|event| (event.rev, event.key)).collect();
            assert_eq!(keys, [(2, "a/1".into()), (2, "a/2".into())]);
        });
    });
}

#[test]
fn the_future_is_refused_and_the_past_once_compacted() {
    on_each_back_end(|store| {
        for n in 0..20 {
            write(&*store, vec![put("a", n.to_string())]).unwrap();
        }
        let mut overtaken = store.watch(b"", 3).unwrap();
        assert!(matches!(store.watch(b"", 21), Err(StoreError::Future { rev: 21, current: 20 })));
        assert!(matches!(store.range(b"", None, Some(21), 0), Err(StoreError::Future { .. })));
        assert!(matches!(block_on(store.compact(21)), Err(StoreError::Future { .. })));
        block_on(store.compact(15)).unwrap();
        block_on(store.compact(10)).unwrap();
        assert!(matches!(next(&mut overtaken), Some(Err(StoreError::Compacted { rev: 3, oldest: 15 }))));
        assert!(next(&mut overtaken).is_none());
        assert!(matches!(store.watch(b"", 14), Err(StoreError::Compacted { .. })));
        assert!(matches!(store.range(b"", None, Some(14), 0), Err(StoreError::Compacted { .. })));
        let (kvs, rev) = store.range(b"", None, Some(15), 0).unwrap();
        assert_eq!((&kvs[0].value[..], rev), (&b"14"[..], 15));
        assert!(next(&mut store.watch(b"", 15).unwrap()).unwrap().unwrap()[0].rev == 16);
    });
}

#[test]
fn closing_ends_watches_and_lets_go_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = RedbStore::open(&path).unwrap();
    let busy = RedbStore::open(&path).err().expect("one process at a time");
    assert!(
        matches!(&busy, StoreError::Io { source, .. } if source.to_string().contains("another process")),
        "{busy:?}"
    );
    let mut watch = store.watch(b"", 0).unwrap();
    drop(store);
    assert!(matches!(next(&mut watch), Some(Err(StoreError::Closed))));
    assert!(next(&mut watch).is_none());
    RedbStore::open(&path).expect("the lock went with the store");
}

#[test]
fn a_half_made_file_of_a_crashed_creation_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store.new"), b"redb, but").unwrap();
    RedbStore::open(dir.path().join("store")).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn compaction_gives_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = RedbStore::open(&path).unwrap();
    let size = || std::fs::metadata(&path).unwrap().len();
    let mut sizes = Vec::new();
    for _ in 0..6 {
        for _ in 0..30 {
            write(&store, vec![put("a", vec![7; 30_000])]).unwrap();
        }
        block_on(store.compact(store.current_rev())).unwrap();
        sizes.push(size());
    }
    // 5.4 MB were written.
    assert!(sizes[5] < 4_000_000 && sizes[5] <= sizes[2] * 2, "{sizes:?}");
    let newest = store.get(b"a").unwrap();
    drop(store);
    let store = RedbStore::open(&path).unwrap();
    assert!(size() < 1_000_000, "{} bytes after opening", size());
    assert_eq!((store.get(b"a").unwrap(), store.current_rev()), (newest, 180));
    write(&store, vec![put("b", "")]).unwrap();
}

#[tokio::test]
async fn the_compactor_follows_and_stops() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let compactor = spawn_compactor(&store, Duration::from_millis(2));
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.watch(b"", 1).is_ok() {
        assert!(Instant::now() < deadline, "nothing was compacted");
        store.txn(vec![], vec![put("a", "")]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(compactor);
}
