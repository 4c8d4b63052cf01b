//! `host-local`: addresses from ranges, noted on disk.

use serde_json::Value;

use super::Plugin;
use crate::local::{self, Local};
use crate::range::Kind;
use crate::{Request, Result};

pub(super) struct HostLocal;

impl Plugin for HostLocal {
    fn add(&self, request: &Request) -> Result<Value> {
        let result = Local::of(request, Kind::Shared)?.add(request)?;
        Ok(result.to_json(request.config.version))
    }

    fn del(&self, request: &Request) -> Result<()> {
        local::del(request)
    }

    fn check(&self, request: &Request) -> Result<()> {
        local::check(request)
    }

    fn gc(&self, request: &Request) -> Result<()> {
        local::gc(request)
    }

    fn status(&self, request: &Request) -> Result<()> {
        local::status(request)
    }
}
