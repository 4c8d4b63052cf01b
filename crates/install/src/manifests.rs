//! From values and facts to objects.

use serde_json::{Value, json};

use crate::kinds::{self, Kind};
use crate::survey::ENFORCE;
use crate::template::{render, root};
use crate::{Error, Facts, MANAGED_BY, MANAGER, PART_OF, PART_OF_VALUE, Values};

/// The chart's templates.
const TEMPLATES: [(&str, &str); 4] = [
    ("rbac.yaml", include_str!("../../../deploy/helm/dyad/templates/rbac.yaml")),
    ("agent.yaml", include_str!("../../../deploy/helm/dyad/templates/agent.yaml")),
    ("controllers.yaml", include_str!("../../../deploy/helm/dyad/templates/controllers.yaml")),
    ("dns.yaml", include_str!("../../../deploy/helm/dyad/templates/dns.yaml")),
];
const CRD_FILE: &str = "policy.networking.k8s.io_clusternetworkpolicies.yaml";
/// The definition of ClusterNetworkPolicy.
const CRD: &str = include_str!("../../../deploy/crds/policy.networking.k8s.io_clusternetworkpolicies.yaml");

/// The objects of an installation, in the order in which they are to be applied.
pub fn manifests(values: &Values, facts: &Facts) -> Result<Vec<Value>, Error> {
    let mut objects = of_templates(&completed(values, facts), &facts.namespace, MANAGER, &facts.version)?;
    if facts.makes_namespace {
        objects.push(namespace(facts));
    }
    if values.crds.enabled && values.policy.enabled && !facts.has_cluster_policies {
        objects.extend(definition(facts)?);
    }
    let place = |object: &Value| kinds::ALL.iter().position(|kind| Kind::of(object) == Some(*kind));
    objects.sort_by_key(place);
    Ok(objects)
}

/// The same for whoever applies them by other means, as `manager`: without definitions of kinds.
pub fn of_templates(
    values: &Values,
    namespace: &str,
    manager: &str,
    version: &str,
) -> Result<Vec<Value>, Error> {
    let root = root(&values.to_json(), namespace, manager, version);
    let mut objects = Vec::new();
    for (name, template) in TEMPLATES {
        let text = render(template, &root).map_err(|error| Error::Template(name, error))?;
        objects.extend(documents(name, &text)?);
    }
    Ok(objects)
}

/// The values with what is known of the cluster where nothing was chosen.
fn completed(values: &Values, facts: &Facts) -> Values {
    let mut values = values.clone();
    if values.cluster_cidr.is_empty() {
        values.cluster_cidr.clone_from(&facts.pod_ranges);
    }
    if values.dns.cluster_ips.is_empty() {
        values.dns.cluster_ips.clone_from(&facts.dns_ips);
    }
    if let (true, Some(api)) = (values.api.host.is_empty(), &facts.api) {
        values.api.host.clone_from(&api.host);
        values.api.port = api.port;
    }
    values
}

/// The objects in a text.
fn documents(name: &'static str, text: &str) -> Result<Vec<Value>, Error> {
    let mut objects = Vec::new();
    for document in text.split("\n---\n") {
        let object =
            serde_saphyr::from_str(document).map_err(|error| Error::Object(name, error.to_string()))?;
        match object {
            Value::Null => {}
            Value::Object(_) if Kind::of(&object).is_some() => objects.push(object),
            other => return Err(Error::Object(name, format!("{} {}", other["apiVersion"], other["kind"]))),
        }
    }
    Ok(objects)
}

fn labels(facts: &Facts, name: &str) -> Value {
    json!({
        "app.kubernetes.io/name": name, "app.kubernetes.io/version": facts.version,
        PART_OF: PART_OF_VALUE, MANAGED_BY: MANAGER,
    })
}

fn namespace(facts: &Facts) -> Value {
    let mut labels = labels(facts, &facts.namespace);
    // Agents are what this level is for.
    labels[ENFORCE] = "privileged".into();
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": facts.namespace, "labels": labels}})
}

fn definition(facts: &Facts) -> Result<Vec<Value>, Error> {
    let mut objects = documents(CRD_FILE, CRD)?;
    for object in &mut objects {
        object["metadata"]["labels"] = labels(facts, "clusternetworkpolicies");
    }
    Ok(objects)
}

/// Objects as one YAML text.
pub fn to_yaml(objects: &[Value]) -> String {
    // Plain data always is YAML.
    let texts = objects.iter().map(|object| serde_saphyr::to_string(object).unwrap_or_default());
    texts.collect::<Vec<_>>().join("---\n")
}

#[cfg(test)]
mod tests;
