//! The pod specification, wherever it occurs: in Pods and in the templates of workloads.

mod claims;
mod container;
mod defaults;
mod environment;
mod handler;
mod scheduling;
mod security;
mod validate;
mod volume;

pub(crate) use container::validate_quantity;
pub(crate) use defaults::{default_pod_spec, default_requests_to_limits, host_network_ports};
pub(crate) use scheduling::{validate_taints, validate_tolerations};
pub(crate) use validate::{validate_pod_spec, validate_template};

#[cfg(test)]
mod tests;
