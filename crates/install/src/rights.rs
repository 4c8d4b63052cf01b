//! Which rights what was installed lacks, asked of the API: roles that somebody has changed or removed are named, whoever
//! lacks them.

use kube::Client;
use kube::api::{DynamicObject, PostParams};
use serde_json::{Value, json};

use crate::{Chosen, Error, Facts, api, kinds, manifests, record};

/// A right that an account needs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Right {
    account: String,
    verb: String,
    group: String,
    resource: String,
    /// The only object it is for; empty for all.
    name: String,
    /// Where; empty for the whole cluster.
    namespace: String,
}

/// What lacks which right, a sentence for each account and resource. Nothing where nobody knows what was installed, or who
/// asks may not ask.
pub async fn missing(client: &Client, namespace: &str) -> Result<Vec<String>, Error> {
    let Some(record) = record::read(client, namespace).await? else { return Ok(Vec::new()) };
    let mut chosen = Chosen::default();
    chosen.file(&record.values)?;
    let facts = Facts { namespace: namespace.into(), version: record.version, ..Facts::default() };
    let mut lacking = Vec::new();
    for right in needed(&manifests(&chosen.values()?, &facts)?) {
        match is_allowed(client, namespace, &right).await {
            Ok(true) => {}
            Ok(false) => lacking.push(right),
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => return Ok(Vec::new()),
            Err(because) => return Err(api("ask for rights")(because)),
        }
    }
    Ok(sentences(&lacking))
}

async fn is_allowed(client: &Client, namespace: &str, right: &Right) -> Result<bool, kube::Error> {
    let review = json!({
        "apiVersion": kinds::ACCESS_REVIEW.api_version(),
        "kind": kinds::ACCESS_REVIEW.kind,
        "metadata": {},
        "spec": {
            "user": format!("system:serviceaccount:{namespace}:{}", right.account),
            "groups": [
                "system:serviceaccounts", format!("system:serviceaccounts:{namespace}"), "system:authenticated",
            ],
            "resourceAttributes": {
                "verb": right.verb, "group": right.group, "resource": right.resource, "name": right.name,
                "namespace": right.namespace,
            },
        },
    });
    let review: DynamicObject = serde_json::from_value(review).map_err(kube::Error::SerdeError)?;
    let answer = kinds::ACCESS_REVIEW.all(client).create(&PostParams::default(), &review).await?;
    Ok(answer.data["status"]["allowed"] == true)
}

/// What roles give to accounts, which are called as what runs with them.
fn needed(objects: &[Value]) -> Vec<Right> {
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|one| one.as_str().map(str::to_owned)).collect()
    };
    let mut needed = Vec::new();
    for role in objects.iter().filter(|one| one["kind"] == "ClusterRole" || one["kind"] == "Role") {
        let text = |field: &str| role["metadata"][field].as_str().unwrap_or_default().to_owned();
        let account = role["metadata"]["labels"]["k8s-app"].as_str().unwrap_or_default().to_owned();
        for rule in role["rules"].as_array().into_iter().flatten() {
            let mut names = texts(&rule["resourceNames"]);
            if names.is_empty() {
                names.push(String::new());
            }
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for name in &names {
                        needed.extend(texts(&rule["verbs"]).into_iter().map(|verb| Right {
                            account: account.clone(),
                            verb,
                            group: group.clone(),
                            resource: resource.clone(),
                            name: name.clone(),
                            namespace: text("namespace"),
                        }));
                    }
                }
            }
        }
    }
    needed
}

fn sentences(lacking: &[Right]) -> Vec<String> {
    let mut found: Vec<(String, String, Vec<&str>)> = Vec::new();
    for Right { account, verb, group, resource, name, .. } in lacking {
        let dot = if group.is_empty() { "" } else { "." };
        let of = if name.is_empty() { String::new() } else { format!(" {name}") };
        let what = format!("{resource}{dot}{group}{of}");
        match found.iter_mut().find(|(who, which, _)| who == account && *which == what) {
            Some((_, _, verbs)) => verbs.push(verb),
            None => found.push((account.clone(), what, vec![verb])),
        }
    }
    let sentence = |(account, what, verbs): (String, String, Vec<&str>)| {
        let verbs = verbs.join(", ");
        format!(
            "serviceaccount {account} may not {verbs} {what}: `dyad upgrade` gives it its role and binding again"
        )
    };
    found.into_iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Values;

    #[test]
    fn all_that_roles_give_is_asked_for() {
        let mut chosen = Chosen::default();
        chosen.set("cni.ipam=dyad,dns.enabled=true").unwrap();
        let rights = needed(&manifests(&chosen.values().unwrap(), &Facts::default()).unwrap());
        let has = |account: &str, verb: &str, resource: &str, name: &str, namespace: &str| {
            rights.iter().any(|one| {
                (one.account.as_str(), one.verb.as_str(), one.resource.as_str()) == (account, verb, resource)
                    && (one.name.as_str(), one.namespace.as_str()) == (name, namespace)
            })
        };
        assert!(has("dyad-agent", "patch", "nodes", "", ""), "{rights:?}");
        assert!(has("dyad-agent", "watch", "endpointslices", "", ""));
        assert!(has("dyad-controllers", "create", "leases", "", "kube-system"));
        assert!(has("dyad-controllers", "update", "leases", "dyad-network-controllers", "kube-system"));
        assert!(has("dyad-controllers", "create", "events", "", "default"), "where those of Nodes are");
        assert!(has("dyad-dns", "watch", "configmaps", "dyad-dns", "kube-system"));
        let fewer = needed(&manifests(&Values::default(), &Facts::default()).unwrap());
        assert!(fewer.iter().all(|one| one.account == "dyad-agent") && fewer.len() < rights.len());
    }

    #[test]
    fn what_is_lacked_is_said_in_one_sentence_per_resource() {
        let right = |verb: &str, group: &str, resource: &str, name: &str| Right {
            account: "dyad-agent".into(),
            verb: verb.into(),
            group: group.into(),
            resource: resource.into(),
            name: name.into(),
            namespace: String::new(),
        };
        let found = sentences(&[
            right("list", "", "services", ""),
            right("get", "coordination.k8s.io", "leases", "one"),
            right("watch", "", "services", ""),
        ]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("serviceaccount dyad-agent may not list, watch services: "),
            "{found:?}"
        );
        assert!(found[1].contains("may not get leases.coordination.k8s.io one: "), "{found:?}");
    }
}
