//! `dyad`: the node agent does the work, or, where there is none, the plugin itself.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Plugin;
use crate::routed::{self, Settings};
use crate::{CniError, Code, Request, Result, wire};

pub(super) struct Dyad;

/// How long an agent may be away that is replaced by another, as in an upgrade.
const REPLACEMENT: Duration = Duration::from_secs(10);
/// Between two looks for it.
const LOOK: Duration = Duration::from_millis(50);

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
        // A node whose runtime hears that pods can't be connected is not ready at all, and Kubernetes takes its pods out of
        // Services: for an agent that is about to be there again, that would be a loss.
        let deadline = Instant::now() + REPLACEMENT;
        loop {
            let answer = ask(request);
            match (&answer, alone(request)) {
                (Ok(None), Ok(settings)) => return routed::status(&request.config.name, &settings),
                (Ok(None), Err(error)) if Instant::now() > deadline => {
                    return Err(CniError { code: Code::NotAvailableLimited as u32, ..error });
                }
                (Err(error), _) if error.code == Code::TryAgainLater as u32 && Instant::now() < deadline => {}
                (Ok(None), Err(_)) => {}
                _ => return answer.map(drop),
            }
            std::thread::sleep(LOOK);
        }
    }
}
