//! Roles and bindings that every cluster has: the table `data/roles.txt`, read.

use serde_json::{Value, json};

const TABLE: &str = include_str!("../../data/roles.txt");
pub(crate) const RBAC: &str = "rbac.authorization.k8s.io";
/// What stands before the name of an aggregated role in the labels of those that it gathers.
const PART_OF: &str = "rbac.authorization.k8s.io/aggregate-to-";
/// Unless this annotation says `false`, what a role should have is put back at every start.
pub(crate) const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Every object, with its resource: ClusterRoles and Roles before their bindings.
pub(crate) fn defaults() -> Vec<(&'static str, Value)> {
    let mut all: Vec<(&'static str, Value)> = Vec::new();
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.as_slice(), all.last_mut()) {
            (["role", name], _) => all.push(role(name)),
            (["binding", name, role], _) => all.push(binding(name, role)),
            (words, Some((_, object))) => part(object, words),
            (_, None) => {}
        }
    }
    all
}

fn role(name: &str) -> (&'static str, Value) {
    let resource = if name.contains('/') { "roles" } else { "clusterroles" };
    let kind = if name.contains('/') { "Role" } else { "ClusterRole" };
    (resource, object(kind, name))
}

fn binding(name: &str, role: &str) -> (&'static str, Value) {
    let (resource, kind, of) = match name.contains('/') {
        true => ("rolebindings", "RoleBinding", "Role"),
        false => ("clusterrolebindings", "ClusterRoleBinding", "ClusterRole"),
    };
    let mut object = object(kind, name);
    object["roleRef"] = json!({"apiGroup": RBAC, "kind": of, "name": role});
    (resource, object)
}

fn object(kind: &str, name: &str) -> Value {
    let mut object = json!({"kind": kind, "apiVersion": format!("{RBAC}/v1"), "metadata": {
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    }});
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    object["metadata"]["name"] = name.into();
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

fn part(object: &mut Value, words: &[&str]) {
    let list = |words: &str| -> Vec<String> {
        words.split(',').map(|word| if word == "core" { String::new() } else { word.to_owned() }).collect()
    };
    match *words {
        ["part-of", role] => object["metadata"]["labels"][format!("{PART_OF}{role}")] = "true".into(),
        ["gathers", role] => {
            let labels = json!({format!("{PART_OF}{role}"): "true"});
            object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
        }
        ["may", verbs, groups, resources] => push(
            &mut object["rules"],
            json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources)}),
        ),
        ["may", verbs, groups, resources, names] => push(
            &mut object["rules"],
            json!({"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources),
                "resourceNames": list(names)}),
        ),
        ["paths", verbs, paths] => {
            push(&mut object["rules"], json!({"verbs": list(verbs), "nonResourceURLs": list(paths)}));
        }
        ["user", name] => {
            push(&mut object["subjects"], json!({"kind": "User", "apiGroup": RBAC, "name": name}));
        }
        ["group", name] => {
            push(&mut object["subjects"], json!({"kind": "Group", "apiGroup": RBAC, "name": name}));
        }
        ["account", name] => {
            let (namespace, name) = name.split_once('/').unwrap_or_default();
            let account = json!({"kind": "ServiceAccount", "namespace": namespace, "name": name});
            push(&mut object["subjects"], account);
        }
        _ => {}
    }
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = Value::Array(vec![item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j62_every_line_of_the_table_means_something() {
        for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let mut probe = json!({"metadata": {}});
            part(&mut probe, &words);
            let says = probe != json!({"metadata": {}});
            assert!(says || matches!(words.as_slice(), ["role", _] | ["binding", _, _]), "{line}");
        }
    }

    #[test]
    fn j62_the_well_known_roles_are_there_and_every_binding_has_its_role() {
        let all = defaults();
        let has = |resource: &str, namespace: &Value, name: &str| {
            all.iter().any(|(of, object)| {
                *of == resource
                    && object["metadata"]["namespace"] == *namespace
                    && object["metadata"]["name"] == name
            })
        };
        for name in
            ["cluster-admin", "admin", "edit", "view", "system:node", "system:basic-user", "system:discovery"]
        {
            assert!(has("clusterroles", &Value::Null, name), "{name}");
        }
        for (resource, object) in all.iter().filter(|(resource, _)| resource.ends_with("bindings")) {
            let role = object["roleRef"]["name"].as_str().unwrap();
            let of = resource.replace("bindings", "s");
            assert!(has(&of, &object["metadata"]["namespace"], role), "{role}");
        }
    }
}
