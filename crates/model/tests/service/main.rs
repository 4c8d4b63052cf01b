//! Services as the API server sees them: whole requests through the strategy and an allocator that counts.
//!
//! Rows name the rule of the API specification they pin; "most often got wrong" marks those that people and other
//! servers trip over.

mod create;
mod errors;
mod histories;
mod node_ports;
mod property;
mod shown;
mod update;
mod update_fields;
mod world;
