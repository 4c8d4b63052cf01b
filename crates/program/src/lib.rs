//! Services, policy and masquerade compiled to one plain-data [`Program`], and its simulator: floor 2, pure.
//!
//! [`compile`] turns Services, EndpointSlices, pods, policies and what a node knows of its cluster into the tables that
//! node's kernel should hold. [`Compiler`] does the same step by step and tells the difference of each step as [`Op`]s.
//! Executors carry out the program; [`simulate`] says, from the same data, what becomes of a packet, and [`trace`] also
//! why: the oracle of the executors' tests and the engine of explanations.
#![forbid(unsafe_code)]

mod compile;
mod hash;
mod input;
mod part;
pub mod policy;
mod program;
mod ranges;
pub mod rule;
mod service;
mod simulate;
mod slots;
#[cfg(test)]
mod testing;
pub mod wire;

pub use compile::{Compiler, HealthCheck, Inputs, Owner, compile};
pub use input::{
    Egress, EndpointSlice, Hints, HostPort, Name, NodeView, Port, Protocol, Service, SliceEndpoint,
    SlicePort, Traffic,
};
pub use program::{
    Action, Endpoint, Entry, Frontend, Op, Program, RangeSet, Scope, Slot, Table, apply, diff,
};
pub use simulate::{Onward, Origin, Packet, Payload, Refusal, Stage, Step, Trace, Verdict, simulate, trace};
pub use slots::MAX_SLOTS;
