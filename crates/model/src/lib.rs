//! What dual-stack Kubernetes objects mean: floor 1, pure.
//!
//! Objects come in and go out as `serde_json::Value` in their wire form, already type-checked and normalised by
//! `dyad-schema`. Each kind with logic has a [`Strategy`]; rule IDs (A1, B30, ...) name the rules of the API
//! specification the code follows.
#![forbid(unsafe_code)]

mod errors;
pub mod meta;
pub mod names;
pub mod selector;
mod strategy;
mod wire;

pub use errors::{ErrorType, FieldError};
pub use strategy::{AllocError, Allocator, ClusterNet, Context, NoLogic, Refusal, Strategy};
