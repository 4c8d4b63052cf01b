//! Runs pods on the nodes of local clusters.
//!
//! [`run`] is a node's kubelet: it registers the Node, takes the pods that are bound to it, gives them addresses of both
//! families, runs their containers in [sandboxes](sandbox) and reports. What decides is pure (`pod`, `env`, `files`,
//! `image`, the verdicts of `probe`); what acts is thin. Pods do not notice when the kubelet goes: each sandbox is kept
//! by a process of its own, and the next kubelet finds it.
//!
//! Not here: services and policy (the agent), and what images are (`dyad-images`).
#![deny(unsafe_code)]

mod applet;
mod cgroup;
mod cni;
mod config;
mod env;
mod error;
mod event;
mod figures;
mod files;
pub mod host;
mod image;
mod internal;
mod kubelet;
mod launch;
mod logs;
mod network;
mod node;
mod pod;
mod probe;
pub mod sandbox;
mod seen;
mod server;
mod volumes;
mod worker;

pub use applet::echo;
pub use config::{Caller, Config, Identify, NetworkGate, Plugins, Serving};
pub use error::Error;
pub use internal::internal_main;
pub use kubelet::run;
