//! What dual-stack Kubernetes objects mean: floor 1, pure.
//!
//! Objects come in and go out as `serde_json::Value` in their wire form, already type-checked and normalised by
//! `dyad-schema`. Each kind with logic has a [`Strategy`]; rule IDs (A1, B30, ...) name the rules of the API
//! specification the code follows.
#![forbid(unsafe_code)]

mod addresses;
mod cluster_network_policy;
mod config;
mod endpoint_slice;
mod errors;
mod event;
mod ingress;
mod lease;
mod lifecycle;
pub mod meta;
pub mod names;
mod namespace;
mod network_policy;
mod node;
mod pod;
mod pod_spec;
pub mod quantity;
mod rbac;
mod registry;
pub mod selector;
mod service;
mod service_cidr;
pub mod slices;
mod strategy;
#[cfg(test)]
mod testing;
mod wire;
mod workloads;

pub use cluster_network_policy::CLUSTER_NETWORK_POLICY;
pub use config::{CONFIG_MAP, SECRET, SERVICE_ACCOUNT};
pub use endpoint_slice::{ENDPOINT_SLICE, ENDPOINTS};
pub use errors::{ErrorType, FieldError};
pub use event::{CORE_EVENT, EVENT};
pub use ingress::{INGRESS, INGRESS_CLASS};
pub use lease::LEASE;
pub use namespace::NAMESPACE;
pub use network_policy::NETWORK_POLICY;
pub use node::NODE;
pub use pod::POD;
pub use rbac::{CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING};
pub use registry::strategy;
pub use service::{SERVICE, ServiceStrategy};
pub use service_cidr::{IP_ADDRESS, SERVICE_CIDR};
pub use strategy::{AllocError, Allocator, ClusterNet, Context, NoLogic, Refusal, Strategy};
pub use workloads::{DAEMON_SET, DEPLOYMENT, REPLICA_SET};
