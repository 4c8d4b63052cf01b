//! The pod specification, wherever it occurs: in Pods and in the templates of workloads.

mod claims;
mod container;
mod defaults;
mod environment;
mod handler;
mod scheduling;
mod security;
mod total;
mod validate;
mod volume;

pub(crate) use container::{resource_name as validate_resource_name, validate_quantity};
pub(crate) use defaults::{default_pod_spec, default_requests_to_limits, host_network_ports};
pub(crate) use scheduling::{validate_node_selector, validate_taints, validate_tolerations};
pub(crate) use total::total_resources;
pub(crate) use validate::{validate_pod_spec, validate_template, validate_template_meta};

#[cfg(test)]
mod tests;
