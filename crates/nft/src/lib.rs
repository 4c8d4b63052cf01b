//! The nftables executor: makes the kernel's tables equal to a [`Program`](dyad_program::Program), over netlink.
//!
//! One table named `dyad` per family, in the network namespace the [`Executor`] was opened in. Its chains and rules
//! hardly ever change (`layout`); Services are elements of maps (`element`), and a change of a Service is a change of
//! elements. Policies have chains of their own, shared by all pods that they say the same about, and their peers are
//! elements. Everything is a batch: the kernel takes all of it or nothing.
//!
//! Nothing is remembered across restarts: an executor reads the kernel's tables, and changes what differs. It never
//! flushes what is right, so connections and new connections alike survive restarts of everything of ours. What
//! somebody else does to our tables is noticed (`watch`) and undone; what they do to others is no matter.
//!
//! Beside them, an [`Interception`] has tables of its own that go with the process that made them, and [`nat`] and
//! [`guard`] have some for single containers.
//!
//! Needs Linux 5.10 or newer and `CAP_NET_ADMIN` in the namespace; not the `nft` program, whose `list table ip dyad` can
//! be used to look at what is there.
#![forbid(unsafe_code)]

mod attribute;
mod batch;
pub mod conntrack;
mod element;
mod error;
mod executor;
mod expression;
pub mod guard;
mod intercept;
mod layout;
pub mod nat;
pub mod others;
mod read;
mod socket;
mod watch;

pub use error::{Error, Result};
pub use executor::{CounterKey, Executor, Report};
pub use intercept::Interception;

/// The name of the tables.
pub const TABLE: &str = "dyad";
/// The name of the tables of an [`Interception`].
pub const DNS_TABLE: &str = "dyad-dns";

#[cfg(test)]
mod tests;
