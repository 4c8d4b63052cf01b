//! What dual-stack Kubernetes objects mean: floor 1, pure.
//!
//! Objects come in and go out as `serde_json::Value` in their wire form, already type-checked and normalised by
//! `dyad-schema`. Each kind with logic has a [`Strategy`]; rule IDs (A1, B30, ...) name the rules of the API
//! specification the code follows.
#![forbid(unsafe_code)]

mod addresses;
mod config;
mod errors;
mod event;
mod lease;
mod lifecycle;
pub mod meta;
pub mod names;
mod namespace;
mod node;
mod pod;
mod pod_spec;
pub mod quantity;
mod rbac;
mod registry;
pub mod selector;
mod service;
pub mod slices;
mod strategy;
#[cfg(test)]
mod testing;
mod wire;
mod workloads;

pub use config::{CONFIG_MAP, SECRET, SERVICE_ACCOUNT};
pub use errors::{ErrorType, FieldError};
pub use event::{CORE_EVENT, EVENT};
pub use lease::LEASE;
pub use namespace::NAMESPACE;
pub use node::NODE;
pub use pod::POD;
pub use rbac::{CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING};
pub use registry::strategy;
pub use service::{SERVICE, ServiceStrategy};
pub use strategy::{AllocError, Allocator, ClusterNet, Context, NoLogic, Refusal, Strategy};
pub use workloads::{DAEMON_SET, DEPLOYMENT, REPLICA_SET};
