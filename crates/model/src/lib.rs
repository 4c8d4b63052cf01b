//! What dual-stack Kubernetes objects mean: floor 1, pure.
//!
//! Objects come in and go out as `serde_json::Value` in their wire form, already type-checked and normalised by
//! `dyad-schema`. Each kind with logic has a [`Strategy`]; rule IDs (A1, B30, ...) name the rules of the API
//! specification the code follows.
#![forbid(unsafe_code)]

mod addresses;
mod autoscaler;
mod certificate_request;
mod cluster_network_policy;
mod config;
mod cron_job;
mod disruption;
mod endpoint_slice;
mod errors;
mod event;
mod foreign;
mod ingress;
mod job;
mod lease;
mod lifecycle;
mod limits;
pub mod meta;
pub mod names;
mod namespace;
mod network_policy;
mod node;
mod pod;
mod pod_spec;
mod priority;
pub mod quantity;
pub mod rbac;
pub mod readiness;
mod registry;
mod replication;
mod revision;
pub mod schedule;
pub mod selector;
mod service;
mod service_cidr;
pub mod slices;
mod stateful_set;
mod storage;
mod strategy;
#[cfg(test)]
mod testing;
pub mod usage;
mod wire;
mod workloads;

pub use autoscaler::HORIZONTAL_POD_AUTOSCALER;
pub use certificate_request::CERTIFICATE_SIGNING_REQUEST;
pub use cluster_network_policy::CLUSTER_NETWORK_POLICY;
pub use config::{CONFIG_MAP, SECRET, SERVICE_ACCOUNT};
pub use cron_job::CRON_JOB;
pub use disruption::{POD_DISRUPTION_BUDGET, set_disruption_condition};
pub use endpoint_slice::{ENDPOINT_SLICE, ENDPOINTS};
pub use errors::{ErrorType, FieldError};
pub use event::{CORE_EVENT, EVENT};
pub use ingress::{INGRESS, INGRESS_CLASS};
pub use job::{Indexes, IndexesError, JOB};
pub use lease::LEASE;
pub use limits::{LIMIT_RANGE, RESOURCE_QUOTA};
pub use namespace::NAMESPACE;
pub use network_policy::NETWORK_POLICY;
pub use node::NODE;
pub use pod::POD;
pub use priority::PRIORITY_CLASS;
pub use rbac::{CLUSTER_ROLE, CLUSTER_ROLE_BINDING, ROLE, ROLE_BINDING};
pub use registry::strategy;
pub use replication::{POD_TEMPLATE, REPLICATION_CONTROLLER};
pub use revision::CONTROLLER_REVISION;
pub use service::{SERVICE, ServiceStrategy};
pub use service_cidr::{IP_ADDRESS, SERVICE_CIDR};
pub use stateful_set::STATEFUL_SET;
pub use storage::{PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS};
pub use strategy::{
    AllocError, Allocator, ClusterNet, Context, NoLogic, NoObjects, Objects, Refusal, Strategy,
};
pub use workloads::{DAEMON_SET, DEPLOYMENT, REPLICA_SET};
