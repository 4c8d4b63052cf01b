//! Revisioned key-value store: floor 3. Bytes in, bytes out.
//!
//! One global revision counts up by one with every transaction that writes. Keys are ordered byte strings.
#![forbid(unsafe_code)]

mod api;
mod compactor;
mod disk;
mod engine;
mod log;
mod memory;
mod poison;

pub use api::{Compare, Event, Kv, Op, Store, StoreError, TxnOutcome, WatchStream};
pub use compactor::{Compactor, spawn_compactor};
pub use disk::RedbStore;
pub use memory::MemoryStore;

#[cfg(test)]
mod tests;
