//! Addresses, from whoever `ipam.type` says: ours in this process, all others by calling them.

use crate::local::{self, Local};
use crate::range::Kind;
use crate::{CniError, CniResult, Code, Request, Result, delegate};

/// The one that needs no process of its own.
const LOCAL: &str = "host-local";

/// Who manages addresses; `None` if nobody does.
fn kind(request: &Request) -> Result<Option<&str>> {
    Ok(request.config.fields().object("ipam")?.text("type")?.filter(|kind| !kind.is_empty()))
}

/// Takes addresses; `None` if the configuration wants none.
pub(crate) fn add(request: &Request) -> Result<Option<CniResult>> {
    let result = match kind(request)? {
        None => return Ok(None),
        Some(LOCAL) => Local::of(request, Kind::Shared)?.add(request)?,
        Some(other) => CniResult::parse(&delegate::run(request, other)?)?,
    };
    if result.ips.is_empty() {
        let msg = "the plugin of ipam.type gave no address: look into its part of the configuration";
        return Err(CniError::new(Code::InvalidConfig, msg));
    }
    Ok(Some(result))
}

/// Gives them back (DEL), or asks after them (CHECK, GC, STATUS): what the request says.
pub(crate) fn other(request: &Request) -> Result<()> {
    use crate::request::Command;
    match (kind(request)?, request.command) {
        (None, _) => Ok(()),
        (Some(LOCAL), Command::Check) => local::check(request),
        (Some(LOCAL), Command::Gc) => local::gc(request),
        (Some(LOCAL), Command::Status) => local::status(request),
        (Some(LOCAL), Command::Add | Command::Del) => local::del(request),
        (Some(other), _) => delegate::run(request, other).map(drop),
    }
}

/// Gives back what [`add`] took, after ADD failed.
pub(crate) fn undo(request: &Request) {
    let undo = Request { command: crate::request::Command::Del, ..request.clone() };
    // The first error is the one that counts.
    let _ = other(&undo);
}
