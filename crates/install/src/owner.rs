//! Who has installed Dyad where: not everything comes from `dyad install`.

use kube::Client;
use serde_json::Value;

use crate::survey::list;
use crate::{Error, MANAGED_BY, MANAGER, PART_OF, PART_OF_VALUE, kinds, record};

/// Who else looks after what the chart and the kustomize base make, as their objects call them.
pub(crate) const OTHERS: [&str; 2] = ["Helm", "kustomize"];
/// Helm's annotations.
const RELEASE: &str = "meta.helm.sh/release-name";
const RELEASE_NAMESPACE: &str = "meta.helm.sh/release-namespace";

/// An installation by others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Where its agents are.
    pub namespace: String,
    /// Who looks after it: `Helm`, `kustomize`.
    pub manager: String,
    /// The version of its agents.
    pub version: Option<String>,
    /// Helm's name of it, and its namespace.
    pub release: Option<(String, String)>,
}

impl Owner {
    /// Whoever has made this DaemonSet, unless it was `dyad install`.
    fn of(agents: &Value) -> Option<Self> {
        let metadata = &agents["metadata"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let manager = text(&metadata["labels"][MANAGED_BY]).unwrap_or_else(|| "others".into());
        let annotation = |key: &str| text(&metadata["annotations"][key]);
        (manager != MANAGER).then_some(Self {
            namespace: text(&metadata["namespace"])?,
            manager,
            version: text(&metadata["labels"]["app.kubernetes.io/version"]),
            release: annotation(RELEASE).zip(annotation(RELEASE_NAMESPACE)),
        })
    }

    /// What changes it in the place of `dyad install`.
    fn way(&self) -> String {
        match &self.release {
            Some((name, namespace)) => format!("`helm upgrade {name} -n {namespace}` changes it"),
            None => "apply its manifests again to change it".to_owned(),
        }
    }

    /// Why it is not for `dyad install` and `dyad upgrade`.
    pub(crate) fn refusal(&self) -> Error {
        let Self { namespace, manager, .. } = self;
        Error::Refused(format!(
            "Dyad is installed in namespace {namespace} by {manager}: {}; to go on with `dyad install`, \
             `dyad uninstall -n {namespace}` first",
            self.way()
        ))
    }

    /// What its manager remembers when everything is gone.
    pub(crate) fn remembered(&self) -> Option<String> {
        let (name, namespace) = self.release.as_ref()?;
        Some(format!(
            "Helm still knows the release {name}: `helm uninstall {name} -n {namespace}` makes it forget"
        ))
    }
}

/// Installations by others, in the whole cluster.
pub(crate) async fn others(client: &Client) -> Result<Vec<Owner>, Error> {
    let selector = format!("k8s-app=dyad-agent,{PART_OF}={PART_OF_VALUE}");
    Ok(list(client, kinds::DAEMON_SET, &selector).await?.iter().filter_map(Owner::of).collect())
}

/// Refuses what is meant for an installation in `namespace` when there is none but one in another: objects of the whole
/// cluster are the same, and nodes would not be cleaned.
pub(crate) async fn is_here(client: &Client, namespace: &str) -> Result<Vec<Owner>, Error> {
    let selector =
        format!("app.kubernetes.io/name={},{PART_OF}={PART_OF_VALUE},{MANAGED_BY}={MANAGER}", record::NAME);
    let records = list(client, kinds::CONFIG_MAP, &selector).await?;
    let owners = others(client).await?;
    let recorded = records.iter().filter_map(|record| record["metadata"]["namespace"].as_str());
    let places: Vec<&str> = recorded.chain(owners.iter().map(|owner| owner.namespace.as_str())).collect();
    match places.first() {
        Some(other) if !places.contains(&namespace) => Err(Error::Refused(format!(
            "Dyad is installed in namespace {other}, not in {namespace}: say --namespace {other}; to move it, \
             `dyad uninstall --namespace {other}` first"
        ))),
        _ => Ok(owners),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_has_installed_is_told_by_labels() {
        let agents = |manager: Value, annotations: Value| {
            json!({"metadata": {
                "namespace": "net", "annotations": annotations,
                "labels": {MANAGED_BY: manager, "app.kubernetes.io/version": "1.2.3"},
            }})
        };
        assert_eq!(Owner::of(&agents(json!(MANAGER), json!({}))), None);
        let helm = agents(json!("Helm"), json!({RELEASE: "mine", RELEASE_NAMESPACE: "tools"}));
        let helm = Owner::of(&helm).unwrap();
        let refusal = helm.refusal().to_string();
        assert!(refusal.contains("in namespace net by Helm: `helm upgrade mine -n tools`"), "{refusal}");
        assert!(helm.remembered().unwrap().contains("`helm uninstall mine -n tools`"));
        let bare = Owner::of(&agents(Value::Null, Value::Null)).unwrap();
        assert_eq!((bare.manager.as_str(), bare.version.as_deref()), ("others", Some("1.2.3")));
        assert_eq!(bare.remembered(), None);
    }
}
