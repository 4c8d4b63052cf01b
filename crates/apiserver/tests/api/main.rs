//! The API as clients see it, one file per group of rules. Most tests talk to the server in process; test names
//! carry the IDs of the rules.

mod allocation;
mod apply;
mod audit;
mod bootstrap;
mod custom;
mod deletion;
mod harness;
mod histories;
mod identity;
mod lists;
mod negotiation;
mod nodes;
mod policies;
mod protobuf;
mod robust;
mod subresources;
mod tls;
mod watches;
mod workloads;
mod writes;
