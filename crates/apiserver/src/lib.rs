//! A Kubernetes-compatible API server over the store.
//!
//! [`Server`] is the door. Behind it, `http` turns requests into calls of `registry`, which is generic REST over the
//! store for every kind of the table in `dyad-schema`; what a kind means is its strategy in `dyad-model`.
#![forbid(unsafe_code)]

pub mod audit;
pub mod auth;
mod bootstrap;
mod http;
pub mod pki;
mod reach;
mod registry;
mod server;
mod status;
pub mod tls;

pub use crate::http::{Body, Service};
pub use reach::Reach;
pub use server::{Server, ServerConfig, Services, StartError};
pub use status::ApiError;
