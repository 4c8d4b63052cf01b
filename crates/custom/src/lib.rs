//! Custom resources: what a CustomResourceDefinition may say, and what it makes of objects.
//!
//! Everything here is pure. A definition is a Kubernetes object like any other ([`DEFINITION`] is its strategy); each of its
//! versions is read into a [`Version`], which is the strategy of the objects of that version.
#![forbid(unsafe_code)]

mod columns;
mod defaults;
mod definition;
mod embedded;
mod format;
mod lists;
mod old;
mod openapi;
mod path;
mod pattern;
mod prune;
mod rules;
mod schema;
#[cfg(test)]
mod tests;
mod types;
mod validate;
mod version;

pub use columns::{Column, table};
pub use definition::{
    DEFINITION, FINALIZER, GROUP, KIND, PLURAL, accepted, condition, is_established, mark_deleted,
    set_condition, settle,
};
pub use version::{Decoded, Scale, Version, at};
