//! Runs pods on the nodes of local clusters.
#![deny(unsafe_code)]

mod applet;
mod internal;
pub mod sandbox;

pub use internal::internal_main;
