//! The HTTP face of the registry.

mod descriptions;
mod discovery;
mod figures;
mod flow;
mod health;
mod metrics;
mod negotiate;
mod openapi;
mod openid;
mod paced;
mod path;
mod proxy;
pub(crate) mod query;
mod relay;
mod respond;
mod reviews;
mod routes;
mod serve;
mod show;
mod stall;
mod streams;

pub use respond::Body;
pub(crate) use respond::{broken, whole};
pub(crate) use reviews::user_info;
pub use routes::Service;
pub(crate) use routes::{Api, RequestBody};
pub(crate) use serve::{Connections, keep_alive, serve};
