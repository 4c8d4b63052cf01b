//! Objects into the API, by server-side apply.

use kube::Client;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::Value;

use crate::kinds::Kind;
use crate::{Error, MANAGER, api};

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was made.
    Created,
    /// It was changed.
    Configured,
    /// It was as it should be.
    Unchanged,
    /// It was removed.
    Deleted,
}

impl Outcome {
    /// As kubectl says it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        }
    }
}

/// An object, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its kind and name, as `daemonset/dyad-agent`.
    pub object: String,
    /// What became of it.
    pub outcome: Outcome,
}

/// Applies objects in their order, as the owner of what they say, whoever else has said something. With `dry_run` the API
/// checks and changes nothing. `progress` is told of each.
pub async fn apply(
    client: &Client,
    objects: &[Value],
    dry_run: bool,
    mut progress: impl FnMut(&Step),
) -> Result<Vec<DynamicObject>, Error> {
    let params = PatchParams { dry_run, ..PatchParams::apply(MANAGER).force() };
    let mut applied = Vec::new();
    for object in objects {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let kind = Kind::of(object).ok_or_else(|| Error::Object("?", object["kind"].to_string()))?;
        let called = format!("{}/{name}", kind.kind.to_lowercase());
        let api_of = kind.api(client, object["metadata"]["namespace"].as_str().unwrap_or_default());
        let before = api_of.get_opt(name).await.map_err(api(format!("look at {called}")))?;
        let after = api_of.patch(name, &params, &Patch::Apply(object)).await;
        let after = after.map_err(api(format!("apply {called}")))?;
        let outcome = match before {
            None => Outcome::Created,
            Some(before) if before.metadata.resource_version == after.metadata.resource_version => {
                Outcome::Unchanged
            }
            Some(_) => Outcome::Configured,
        };
        progress(&Step { object: called, outcome });
        applied.push(after);
    }
    Ok(applied)
}
