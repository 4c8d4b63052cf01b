//! Container images: a store on disk that all nodes of a cluster share, archives, registries.
//!
//! ```text
//! images/index.json        which name means which manifest: an OCI image layout, as others read it too
//! images/blobs/sha256/     manifests, configurations and layers, each verified before it gets its name
//! images/roots/            images unpacked, one directory per image, for overlay mounts to lie on
//! ```
//!
//! Everything gets its place by a rename, so that a process which ends at any time leaves nothing half done; processes
//! keep out of each other's way by file locks, which end with them. What comes out of an archive or a registry is not
//! trusted: see [`unpack`].

pub mod archive;
pub mod build;
mod collect;
mod digest;
mod error;
pub mod manifest;
pub mod name;
pub mod registry;
mod root;
pub mod store;
pub mod unpack;

pub use digest::Digest;
pub use error::Error;
pub use manifest::ImageConfig;
pub use name::Name;
pub use root::Root;
pub use store::{Image, Store};

type Result<T> = std::result::Result<T, Error>;
