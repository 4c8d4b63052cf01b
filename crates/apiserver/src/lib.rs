//! A Kubernetes-compatible API server over the store.

pub mod auth;
pub mod pki;
mod status;
pub mod tls;

pub use status::ApiError;
