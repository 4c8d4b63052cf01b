//! `dyad`: the node agent does the work, or, where there is none, the plugin itself.

use std::path::Path;

use serde_json::Value;

use super::Plugin;
use crate::routed::{self, Settings};
use crate::{CniError, Code, Request, Result, wire};

pub(super) struct Dyad;

/// The agent's answer; `None` if there is no agent.
fn ask(request: &Request) -> Result<Option<Option<Value>>> {
    let socket = request.config.fields().text("socket")?.unwrap_or(wire::SOCKET);
    wire::ask(Path::new(socket), request)
}

/// What the configuration says by itself, which needs ranges to be worth anything.
fn alone(request: &Request) -> Result<Settings> {
    let settings = Settings::of(request)?;
    if settings.ranges.is_empty() {
        let socket = request.config.fields().text("socket")?.unwrap_or(wire::SOCKET).to_owned();
        let msg = format!("nobody listens at {socket}: the node agent is starting, or is not installed");
        let way_out = "without it the configuration needs `ipam.ranges`";
        return Err(CniError::new(Code::TryAgainLater, msg).because(way_out));
    }
    Ok(settings)
}

impl Plugin for Dyad {
    fn add(&self, request: &Request) -> Result<Value> {
        match ask(request)? {
            Some(Some(result)) => Ok(result),
            Some(None) => Err(CniError::new(Code::Decode, "the node agent answered ADD without a result")),
            None => {
                let made = routed::add(request, &alone(request)?)?;
                Ok(made.result.to_json(request.config.version))
            }
        }
    }

    fn del(&self, request: &Request) -> Result<()> {
        match ask(request)? {
            Some(_) => Ok(()),
            None => routed::del(request, &routed::data_dir(request)?),
        }
    }

    fn check(&self, request: &Request) -> Result<()> {
        match ask(request)? {
            Some(_) => Ok(()),
            None => routed::check(request, &routed::data_dir(request)?),
        }
    }

    fn gc(&self, request: &Request) -> Result<()> {
        match ask(request)? {
            Some(_) => Ok(()),
            None => routed::gc(&request.config.name, &request.valid()?, &routed::data_dir(request)?),
        }
    }

    fn status(&self, request: &Request) -> Result<()> {
        match ask(request)? {
            Some(_) => Ok(()),
            None => {
                let settings = alone(request)
                    .map_err(|error| CniError { code: Code::NotAvailableLimited as u32, ..error })?;
                routed::status(&request.config.name, &settings)
            }
        }
    }
}
