//! The HTTP face of the registry.

mod descriptions;
mod discovery;
mod flow;
mod health;
mod metrics;
mod negotiate;
mod openapi;
mod openid;
mod paced;
mod path;
pub(crate) mod query;
mod respond;
mod reviews;
mod routes;
mod serve;
mod show;
mod stall;

pub use respond::Body;
pub(crate) use routes::Api;
pub use routes::Service;
pub(crate) use serve::{Connections, serve};
