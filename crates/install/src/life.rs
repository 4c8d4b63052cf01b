//! Install, upgrade, uninstall: each can be ended at any time and run again.

use std::collections::BTreeSet;

use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::apply::{Outcome, Step, apply};
use crate::kinds::{self, Kind};
use crate::survey::{Allowed, NOWHERE, Part, REPLACED_BY, Survey, list};
use crate::{
    Chosen, Error, Facts, MANAGED_BY, MANAGER, PART_OF, PART_OF_VALUE, api, manifests, owner, record,
};

mod uninstall;

pub use uninstall::{Removal, uninstall};

/// What is to be installed, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// All objects, in order.
    pub objects: Vec<Value>,
    /// What should be known before.
    pub notes: Vec<String>,
    /// What was looked at.
    pub survey: Survey,
    /// What the objects depend on.
    pub facts: Facts,
    replaces_proxy: bool,
}

/// Finds out what to install. An upgrade keeps the values of before where nothing else was chosen.
pub async fn plan(
    client: &Client,
    namespace: &str,
    version: &str,
    now: &Chosen,
    is_upgrade: bool,
    allowed: Allowed,
) -> Result<Plan, Error> {
    if let Some(owner) = owner::is_here(client, namespace).await?.first() {
        return Err(owner.refusal());
    }
    let survey = Survey::take(client, namespace).await?;
    if is_upgrade && survey.record.is_none() {
        return Err(Error::Refused(format!(
            "there is no installation in namespace {namespace}: `dyad install` makes one"
        )));
    }
    let (chosen, mut notes) = record::go_on(survey.record.as_ref(), now, is_upgrade, version)?;
    let values = chosen.values()?;
    survey.check(&values, allowed)?;
    let facts = survey.facts(namespace, version);
    let mut objects = manifests(&values, &facts)?;
    // Before what runs: who is interrupted finds what was meant.
    let first = objects.iter().position(|object| object["kind"] != "Namespace").unwrap_or_default();
    objects.insert(first, record::object(&chosen, &facts));
    notes.extend(survey.notes(&values));
    notes.extend(survey.record.as_ref().and_then(|record| record.moved(&values)));
    Ok(Plan {
        objects,
        notes,
        survey,
        facts,
        replaces_proxy: values.proxy.enabled && allowed.replace_kube_proxy,
    })
}

/// Carries a plan out: applies the objects, removes what is no longer wanted, makes kube-proxy run nowhere.
pub async fn install(
    client: &Client,
    plan: &Plan,
    dry_run: bool,
    mut progress: impl FnMut(&Step),
) -> Result<(), Error> {
    apply(client, &plan.objects, dry_run, &mut progress).await?;
    let kept: BTreeSet<String> = plan.objects.iter().map(called).collect();
    for (kind, object) in made_by(client, &[MANAGER]).await? {
        let may_go = kind != kinds::NAMESPACE && kind != kinds::CRD && !kept.contains(&called(&object));
        if may_go {
            delete(client, kind, &object, dry_run, &mut progress).await?;
        }
    }
    for other in plan.survey.others.iter().filter(|other| other.part == Part::Proxy && !other.is_parked) {
        if plan.replaces_proxy {
            let patch = json!({
                "metadata": {"annotations": {REPLACED_BY: MANAGER}},
                "spec": {"template": {"spec": {"nodeSelector": {NOWHERE: "none"}}}},
            });
            park(client, &other.namespace, &other.name, &patch, dry_run, &mut progress).await?;
        }
    }
    Ok(())
}

async fn park(
    client: &Client,
    namespace: &str,
    name: &str,
    patch: &Value,
    dry_run: bool,
    progress: &mut impl FnMut(&Step),
) -> Result<(), Error> {
    let params = PatchParams { dry_run, field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let patched = kinds::DAEMON_SET.api(client, namespace).patch(name, &params, &Patch::Merge(patch)).await;
    patched.map_err(api(format!("change daemonset {namespace}/{name}")))?;
    progress(&Step { object: format!("daemonset/{name}"), outcome: Outcome::Configured });
    Ok(())
}

/// A kind, a place and a name.
fn called(object: &Value) -> String {
    let metadata = &object["metadata"];
    format!("{} {} {}", object["kind"], metadata["namespace"], metadata["name"])
}

/// All that these look after, what runs first.
async fn made_by(client: &Client, managers: &[&str]) -> Result<Vec<(Kind, Value)>, Error> {
    let selector = format!("{PART_OF}={PART_OF_VALUE},{MANAGED_BY} in ({})", managers.join(","));
    let mut found = Vec::new();
    for kind in kinds::ALL.into_iter().rev() {
        for mut object in list(client, kind, &selector).await? {
            // Lists leave it out.
            object["kind"] = kind.kind.into();
            found.push((kind, object));
        }
    }
    Ok(found)
}

async fn delete(
    client: &Client,
    kind: Kind,
    object: &Value,
    dry_run: bool,
    progress: &mut impl FnMut(&Step),
) -> Result<(), Error> {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    remove(client, kind, text("namespace"), text("name"), dry_run, progress).await
}

async fn remove(
    client: &Client,
    kind: Kind,
    namespace: &str,
    name: &str,
    dry_run: bool,
    progress: &mut impl FnMut(&Step),
) -> Result<(), Error> {
    let params = DeleteParams { dry_run, ..DeleteParams::background() };
    let object = format!("{}/{name}", kind.kind.to_lowercase());
    match kind.api(client, namespace).delete(name, &params).await {
        Ok(_) => progress(&Step { object, outcome: Outcome::Deleted }),
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(source) => return Err(api(format!("delete {object}"))(source)),
    }
    Ok(())
}
