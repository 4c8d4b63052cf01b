//! All back ends against one model, and the faults of the one with a disk.

mod basics;
mod crash;
mod damage;
mod full_disk;
mod model;

use std::future::Future;
use std::process::Command;

use crate::{Compare, Op, RedbStore, Store, StoreError, TxnOutcome};

fn put(key: &str, value: impl AsRef<[u8]>) -> Op {
    Op::Put { key: key.to_owned().into(), value: value.as_ref().to_vec().into() }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_owned().into() }
}

fn at(key: &str, mod_rev: u64) -> Compare {
    Compare { key: key.to_owned().into(), mod_rev }
}

/// Writes and tells the revision.
fn write(store: &dyn Store, ops: Vec<Op>) -> Result<u64, StoreError> {
    match block_on(store.txn(vec![], ops))? {
        TxnOutcome::Committed { rev } => Ok(rev),
        failed @ TxnOutcome::Failed { .. } => panic!("{failed:?} without a condition"),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without a driver");
    runtime.block_on(future)
}

/// This test binary, to be run with one of its ignored tests as the body of a child process.
fn child_args(test: &str) -> [String; 5] {
    let exe = std::env::current_exe().expect("a test knows its binary");
    [
        exe.to_string_lossy().into_owned(),
        test.into(),
        "--exact".into(),
        "--ignored".into(),
        "--nocapture".into(),
    ]
}

fn child(test: &str) -> Command {
    let args = child_args(test);
    let mut command = Command::new(&args[0]);
    command.args(&args[1..]);
    command
}
