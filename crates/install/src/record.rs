//! What was installed, kept in the cluster: `dyad upgrade` goes on from there.

use kube::Client;
use serde_json::{Value, json};

use crate::survey::get;
use crate::values::Ipam;
use crate::{Chosen, Error, Facts, MANAGED_BY, MANAGER, PART_OF, PART_OF_VALUE, Values, kinds};

/// The name of its ConfigMap.
pub const NAME: &str = "dyad-config";

/// What was installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The version.
    pub version: String,
    /// What was chosen, as YAML.
    pub values: String,
}

impl Record {
    /// What becomes of running pods if nodes have their ranges from elsewhere from now on.
    pub(crate) fn moved(&self, values: &Values) -> Option<String> {
        let mut before = Chosen::default();
        before.file(&self.values).ok()?;
        let before = before.known().0.values().ok()?.cni;
        let name = |ipam: Ipam| serde_json::to_value(ipam).unwrap_or_default();
        (before.enabled && values.cni.enabled && before.ipam != values.cni.ipam).then(|| {
            format!(
                "cni.ipam was {} and will be {}: pods that run keep addresses of their nodes' ranges of before, which other \
                 nodes have no routes to; make them anew (`kubectl rollout restart`)",
                name(before.ipam),
                name(values.cni.ipam)
            )
        })
    }
}

/// The ConfigMap that says it.
pub(crate) fn object(chosen: &Chosen, facts: &Facts) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": NAME,
            "namespace": facts.namespace,
            "labels": {
                "app.kubernetes.io/name": NAME, "app.kubernetes.io/version": facts.version,
                PART_OF: PART_OF_VALUE, MANAGED_BY: MANAGER,
            },
        },
        "data": {"version": facts.version, "values.yaml": chosen.to_yaml()},
    })
}

/// What a namespace's one says, if there is one.
pub(crate) async fn read(client: &Client, namespace: &str) -> Result<Option<Record>, Error> {
    let found = get(client, kinds::CONFIG_MAP, namespace, NAME).await?;
    Ok(found.map(|object| {
        let text = |key: &str| object["data"][key].as_str().unwrap_or_default().to_owned();
        Record { version: text("version"), values: text("values.yaml") }
    }))
}

/// The values to go on with, and what should be known of them. An upgrade keeps those of before where nothing else is chosen
/// now, but for those that this version does not know.
pub(crate) fn go_on(
    before: Option<&Record>,
    now: &Chosen,
    is_upgrade: bool,
    version: &str,
) -> Result<(Chosen, Vec<String>), Error> {
    let Some(before) = before else { return Ok((now.clone(), Vec::new())) };
    let mut notes = Vec::new();
    if order(&before.version) > order(version) {
        notes.push(format!("{} is installed, which is newer than {version}: nodes go back", before.version));
    }
    let mut kept = Chosen::default();
    let read = kept.file(&before.values);
    if !is_upgrade {
        if read.is_ok() && kept != *now && kept != Chosen::default() {
            notes.push(format!(
                "values that were chosen before are not kept ({}): `dyad upgrade` keeps them",
                kept.texts().join(", ")
            ));
        }
        return Ok((now.clone(), notes));
    }
    read.map_err(|error| {
        Error::Refused(format!(
            "configmap {NAME}, which has the values that were chosen: {error}; `dyad install --values FILE` writes it anew"
        ))
    })?;
    let (mut all, unknown) = kept.known();
    if !unknown.is_empty() {
        notes.push(format!(
            "{version} has no value {}, which {} has: it is left out",
            unknown.join(", "),
            before.version
        ));
    }
    all.file(&now.to_yaml())?;
    Ok((all, notes))
}

/// Versions in their order; what is no number counts as nothing.
fn order(version: &str) -> Vec<u64> {
    let numbers = version.trim_start_matches('v').split(['.', '-', '+']).take(3);
    numbers.map(|number| number.parse().unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(version: &str, values: &str) -> Record {
        Record { version: version.into(), values: values.into() }
    }

    fn now(set: &str) -> Chosen {
        let mut now = Chosen::default();
        now.set(set).unwrap();
        now
    }

    #[test]
    fn an_upgrade_keeps_what_was_chosen() {
        let before = record("0.1.0", "policy: {enabled: false}\nimage: {tag: a}\n");
        let (all, notes) = go_on(Some(&before), &now("image.tag=b"), true, "0.2.0").unwrap();
        let values = all.values().unwrap();
        assert_eq!((values.policy.enabled, values.image.tag.as_str()), (false, "b"));
        assert!(notes.is_empty(), "{notes:?}");
        let (all, notes) = go_on(Some(&before), &now("image.tag=b"), false, "0.2.0").unwrap();
        assert!(all.values().unwrap().policy.enabled);
        assert!(notes[0].contains("not kept (image.tag=a, policy.enabled=false)"), "{notes:?}");
        let same = go_on(Some(&record("0.1.0", "image: {tag: b}")), &now("image.tag=b"), false, "0.1.0");
        assert!(same.unwrap().1.is_empty(), "who is interrupted and comes again changes nothing");
    }

    #[test]
    fn pods_that_keep_other_addresses_are_told_of() {
        let moved = |before: &str, set: &str| record("0.1.0", before).moved(&now(set).values().unwrap());
        let said = moved("", "cni.ipam=dyad").unwrap();
        assert!(said.starts_with("cni.ipam was \"kubernetes\" and will be \"dyad\""), "{said}");
        assert_eq!(moved("cni: {ipam: dyad}", "cni.ipam=dyad"), None);
        assert_eq!(moved("cni: {enabled: false}", "cni.ipam=dyad"), None, "they are somebody else's");
        assert_eq!(moved("- broken", "cni.ipam=dyad"), None);
    }

    #[test]
    fn what_a_newer_version_has_chosen_is_left_out_and_said() {
        let before = record(
            "0.10.0",
            "future: {a: 1}\ncni: {mtu: 1400, warp: true}\nagent: {nodeSelector: {own: label}}\n",
        );
        let (all, notes) = go_on(Some(&before), &Chosen::default(), true, "0.9.1").unwrap();
        let values = all.values().unwrap();
        assert_eq!(values.cni.mtu, 1400);
        assert_eq!(values.agent.node_selector["own"], "label", "names of users are no values");
        assert!(notes[0].contains("0.10.0 is installed, which is newer than 0.9.1"), "{notes:?}");
        assert!(notes[1].contains("cni.warp, future"), "{notes:?}");
        let broken = go_on(Some(&record("0.1.0", "- a")), &Chosen::default(), true, "0.1.0");
        assert!(broken.unwrap_err().to_string().starts_with("configmap dyad-config"));
        assert!(go_on(Some(&record("0.1.0", "- a")), &Chosen::default(), false, "0.1.0").is_ok());
    }
}
