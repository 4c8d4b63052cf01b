//! The table of kinds and fields, and what follows from it: validation, patches, apply, discovery, OpenAPI.

#![forbid(unsafe_code)]

pub mod apply;
pub mod columns;
pub mod discovery;
pub mod fields;
#[cfg(test)]
mod fuzz;
pub mod kinds;
pub mod normalize;
pub mod openapi;
pub mod patch;
pub mod protobuf;
