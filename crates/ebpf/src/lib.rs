//! The eBPF executor: load balancing at sockets and a short way between pods, from the same
//! [`Program`](dyad_program::Program) that nftables executes.
//!
//! ```text
//!   a pod's process (in our cgroup)            a pod's link, on the node
//!   connect, sendmsg   frontend -> endpoint    from an own pod to an own pod -> into that pod
//!   recvmsg, getpeername       back again      everything else              -> the node's stack, nftables
//! ```
//!
//! It serves what it can serve at once, the pods of its node that call a Service, and leaves everything else as it is:
//! other sources, frontends with source ranges, refusals, processes outside of the cgroup. nftables therefore runs
//! beside it with the whole program, as the backstop. Policy is nftables' alone: pods that a policy selects are not
//! redirected.
//!
//! Programs are attached to the cgroup and the links themselves and outlive this process. A new [`Executor`] adopts
//! them and their maps, and replaces in one step what is of another version. Nothing is pinned and nothing is written
//! to a file.
//!
//! The programs are C (`bpf/`), compiled ahead; they need Linux 5.10, the redirect 6.6, and real root. [`probe`] tells.
#![deny(unsafe_code)]

mod attach;
mod desired;
mod error;
mod executor;
mod layout;
mod map;
mod object;
mod probe;
mod sockets;
mod sys;

pub use error::{Error, Result, Why};
pub use executor::{Counters, Executor, Report};
pub use probe::{probe, redirect};

#[cfg(test)]
mod tests;
