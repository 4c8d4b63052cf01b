//! Random histories on every back end against maps that remember everything.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::{Event, Kv, MemoryStore, WatchStream};

const KEYS: [&str; 9] = ["", "a", "a/1", "a/2", "a/22", "b/1", "b/2", "b/3", "c"];
const PREFIXES: [&str; 6] = ["", "a", "a/", "a/2", "b/", "d"];

#[derive(Clone, Debug)]
enum Condition {
    Right,
    Absent,
    Wrong(u64),
}

#[derive(Clone, Debug)]
struct Txn {
    compares: Vec<(Index, Condition)>,
    /// A value to put, or nothing to delete.
    ops: BTreeMap<usize, Option<u8>>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Handed in together: may be committed as one group.
    Txns(Vec<Txn>),
    Get(Index),
    /// `at` counts back from the newest revision; sometimes before the compacted, sometimes after the newest.
    Range {
        prefix: Index,
        start: Option<Index>,
        at: Option<u64>,
        limit: usize,
    },
    Watch {
        prefix: Index,
        back: u64,
    },
    Compact {
        back: u64,
    },
    Reopen,
}

fn txn() -> impl Strategy<Value = Txn> {
    let condition = prop_oneof![
        4 => Just(Condition::Right),
        1 => Just(Condition::Absent),
        1 => (0..30_u64).prop_map(Condition::Wrong),
    ];
    let compares = prop::collection::vec((any::<Index>(), condition), 0..3);
    let ops = prop::collection::btree_map(0..KEYS.len(), prop::option::weighted(0.7, any::<u8>()), 0..4);
    (compares, ops).prop_map(|(compares, ops)| Txn { compares, ops })
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        8 => prop::collection::vec(txn(), 1..6).prop_map(Step::Txns),
        1 => index().prop_map(Step::Get),
        3 => (index(), prop::option::of(index()), prop::option::of(0..30_u64), 0..4_usize)
            .prop_map(|(prefix, start, at, limit)| Step::Range { prefix, start, at, limit }),
        3 => (index(), 0..30_u64).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        1 => (0..30_u64).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Reopen),
    ]
}

/// Every revision ever, in full.
#[derive(Default)]
struct Model {
    snapshots: Vec<BTreeMap<Bytes, Kv>>,
    events: Vec<Vec<Event>>,
    compacted: u64,
}

impl Model {
    fn new() -> Self {
        Self { snapshots: vec![BTreeMap::new()], events: vec![vec![]], compacted: 0 }
    }

    fn rev(&self) -> u64 {
        self.snapshots.len() as u64 - 1
    }

    fn newest(&self) -> &BTreeMap<Bytes, Kv> {
        self.snapshots.last().expect("there is revision 0")
    }

    fn txn(&mut self, compares: &[Compare], ops: &[Op]) -> TxnOutcome {
        for (compare, Compare { key, mod_rev }) in compares.iter().enumerate() {
            let current = self.newest().get(key).cloned();
            if current.as_ref().map_or(0, |kv| kv.mod_rev) != *mod_rev {
                return TxnOutcome::Failed { compare, current };
            }
        }
        let rev = self.rev() + 1;
        let mut after = self.newest().clone();
        let mut events = Vec::new();
        for op in ops {
            let (key, value) = match op {
                Op::Put { key, value } => (key.clone(), Some(value.clone())),
                Op::Delete { key } => (key.clone(), None),
            };
            let prev = after.remove(&key);
            let create_rev = prev.as_ref().map_or(rev, |kv| kv.create_rev);
            let value = value.map(|value| Kv { key: key.clone(), value, create_rev, mod_rev: rev });
            after.extend(value.clone().map(|kv| (key.clone(), kv)));
            if value.is_some() || prev.is_some() {
                events.push(Event { rev, key, value, prev });
            }
        }
        if !events.is_empty() {
            self.snapshots.push(after);
            self.events.push(events);
        }
        TxnOutcome::Committed { rev: self.rev() }
    }

    /// 0 for kept, else what is wrong.
    fn check(&self, rev: u64) -> Result<(), &'static str> {
        match rev {
            rev if rev > self.rev() => Err("future"),
            rev if rev < self.compacted => Err("compacted"),
            _ => Ok(()),
        }
    }

    fn watched(&self, prefix: &str, after: u64) -> Vec<Vec<Event>> {
        let wanted = |event: &&Event| event.key.starts_with(prefix.as_bytes());
        self.events[after as usize + 1..]
            .iter()
            .map(|events| events.iter().filter(wanted).cloned().collect::<Vec<_>>())
            .filter(|events| !events.is_empty())
            .collect()
    }
}

fn kind(error: &StoreError) -> &'static str {
    match error {
        StoreError::Future { .. } => "future",
        StoreError::Compacted { .. } => "compacted",
        StoreError::Closed => "closed",
        other => panic!("unexpected {other:?}"),
    }
}

struct Watcher {
    stream: WatchStream,
    prefix: &'static str,
    seen: u64,
}

impl Watcher {
    /// Everything that is there now is what the model says; then the stream waits, or has ended for good reason.
    fn drain(&mut self, model: &Model) -> Result<bool, TestCaseError> {
        let lost = self.seen < model.compacted;
        let mut items = Vec::new();
        let mut end = None;
        while let Some(Some(item)) = self.stream.next().now_or_never() {
            match item {
                Ok(events) => items.push(events),
                Err(error) => end = Some(kind(&error)),
            }
        }
        prop_assert_eq!(end, lost.then_some("compacted"));
        let expected = if lost { vec![] } else { model.watched(self.prefix, self.seen) };
        prop_assert_eq!(items, expected);
        self.seen = model.rev();
        Ok(!lost)
    }
}

fn run(
    steps: Vec<Step>,
    mut reopen: impl FnMut(Option<Box<dyn Store>>) -> Box<dyn Store>,
) -> Result<(), TestCaseError> {
    let mut model = Model::new();
    let mut store = reopen(None);
    let mut watchers: Vec<Watcher> = Vec::new();
    for step in steps {
        match step {
            Step::Txns(txns) => {
                let mut expected = Vec::new();
                let mut requests = Vec::new();
                for Txn { compares, ops } in txns {
                    let compares: Vec<Compare> = compares
                        .into_iter()
                        .map(|(key, condition)| {
                            let key = Bytes::from(*key.get(&KEYS));
                            let mod_rev = match condition {
                                Condition::Right => model.newest().get(&key).map_or(0, |kv| kv.mod_rev),
                                Condition::Absent => 0,
                                Condition::Wrong(rev) => rev,
                            };
                            Compare { key, mod_rev }
                        })
                        .collect();
                    let ops: Vec<Op> = ops
                        .into_iter()
                        .map(|(key, value)| {
                            value.map_or_else(|| delete(KEYS[key]), |value| put(KEYS[key], [value]))
                        })
                        .collect();
                    expected.push(model.txn(&compares, &ops));
                    requests.push(store.txn(compares, ops));
                }
                let outcomes = block_on(join_all(requests));
                let outcomes: Vec<_> =
                    outcomes.into_iter().map(|outcome| outcome.expect("written")).collect();
                prop_assert_eq!(outcomes, expected);
            }
            Step::Get(key) => {
                let key = *key.get(&KEYS);
                let read = store.get(key.as_bytes()).expect("read");
                prop_assert_eq!(read.as_ref(), model.newest().get(key.as_bytes()));
            }
            Step::Range { prefix, start, at, limit } => {
                let prefix = *prefix.get(&PREFIXES);
                let start = start.map(|start| *start.get(&KEYS));
                let at_rev = at.map(|back| (model.rev() + 2).saturating_sub(back));
                let read = store.range(prefix.as_bytes(), start.map(str::as_bytes), at_rev, limit);
                let rev = at_rev.unwrap_or(model.rev());
                match (read, model.check(rev)) {
                    (Ok(read), Ok(())) => {
                        let kvs = model.snapshots[rev as usize]
                            .values()
                            .filter(|kv| kv.key.starts_with(prefix.as_bytes()))
                            .filter(|kv| start.is_none_or(|start| &kv.key[..] >= start.as_bytes()))
                            .take(if limit == 0 { usize::MAX } else { limit })
                            .cloned()
                            .collect();
                        prop_assert_eq!(read, (kvs, rev));
                    }
                    (Err(error), Err(why)) => prop_assert_eq!(kind(&error), why),
                    (read, check) => prop_assert!(false, "{:?} instead of {:?}", read, check),
                }
            }
            Step::Watch { prefix, back } => {
                let prefix = *prefix.get(&PREFIXES);
                let after = (model.rev() + 2).saturating_sub(back);
                match (store.watch(prefix.as_bytes(), after), model.check(after)) {
                    (Ok(stream), Ok(())) => watchers.push(Watcher { stream, prefix, seen: after }),
                    (Err(error), Err(why)) => prop_assert_eq!(kind(&error), why),
                    (watch, check) => prop_assert!(false, "{:?} instead of {:?}", watch.err(), check),
                }
            }
            Step::Compact { back } => {
                let rev = (model.rev() + 1).saturating_sub(back);
                match block_on(store.compact(rev)) {
                    Ok(()) => {
                        prop_assert!(rev <= model.rev());
                        model.compacted = model.compacted.max(rev);
                    }
                    Err(error) => {
                        prop_assert_eq!(kind(&error), "future");
                        prop_assert!(rev > model.rev());
                    }
                }
            }
            Step::Reopen => {
                for watcher in &mut watchers {
                    watcher.drain(&model)?;
                }
                watchers.clear();
                store = reopen(Some(store));
                prop_assert_eq!(store.current_rev(), model.rev());
                let all: Vec<Kv> = model.newest().values().cloned().collect();
                prop_assert_eq!(store.range(b"", None, None, 0).expect("read"), (all, model.rev()));
            }
        }
        // Only sometimes, so that watchers fall behind the ring and the compaction.
        if model.rev().is_multiple_of(3) {
            let mut kept = Vec::new();
            for mut watcher in watchers {
                if watcher.drain(&model)? {
                    kept.push(watcher);
                }
            }
            watchers = kept;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn memory_follows_the_model(steps in prop::collection::vec(step(), 1..60)) {
        run(steps, |store| store.unwrap_or_else(|| Box::new(MemoryStore::new())))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn redb_follows_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir()?;
        run(steps, |store| {
            drop(store);
            Box::new(RedbStore::open(dir.path().join("store")).expect("opens again"))
        })?;
    }
}
