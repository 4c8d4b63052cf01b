//! The roles and bindings of the beginning (J62): made or completed at every start, and roles that gather others kept so.

use dyad_model::rbac;
use dyad_model::selector::LabelSelector;
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::Bootstrap;
use crate::auth::defaults::{AUTOUPDATE, RBAC, defaults};
use crate::auth::grants::rules;
use crate::status::ApiError;

/// How deep roles gather roles at once; what is deeper, or goes in a circle, comes with the next look.
const ROUNDS: usize = 8;

impl Bootstrap {
    /// Makes what is missing. What was taken from a role or a binding is put back, unless it is marked to be left alone;
    /// what was added stays.
    pub(crate) async fn ensure_roles(&self) -> Result<(), ApiError> {
        let all = defaults();
        // Side by side, so that the store writes many at once; bindings only once their roles are there.
        for bindings in [false, true] {
            let part = all.iter().filter(|(plural, _)| plural.ends_with("bindings") == bindings);
            try_join_all(part.map(|(plural, desired)| self.ensure_role(plural, desired))).await?;
        }
        Ok(())
    }

    async fn ensure_role(&self, plural: &str, desired: &Value) -> Result<(), ApiError> {
        let text = |key: &str| desired["metadata"][key].as_str().unwrap_or_default();
        let (namespace, name) = (text("namespace"), text("name"));
        let Some(current) = self.get(RBAC, plural, namespace, name) else {
            return self.create_if_missing(RBAC, plural, desired.clone()).await;
        };
        if current["metadata"]["annotations"][AUTOUPDATE] == "false"
            || completed(&current, desired) == current
        {
            return Ok(());
        }
        self.change((RBAC, plural, ""), namespace, name, &|object| {
            *object = completed(object, desired);
            Ok(())
        })
        .await
    }

    /// Gives every role that gathers others their rules; those may gather too.
    pub(super) async fn gather_roles(&self) -> Result<(), ApiError> {
        for _ in 0..ROUNDS {
            self.registry.until_as_new_as(None).await?;
            if !self.gather_once().await? {
                break;
            }
        }
        Ok(())
    }

    /// Whether something has changed.
    async fn gather_once(&self) -> Result<bool, ApiError> {
        let mut changed = false;
        let cache = &self.registry.builtin_served(RBAC, "clusterroles").resource.cache;
        let mut roles: Vec<Value> = cache.snapshot("").items.iter().map(|stored| stored.bare()).collect();
        for at in 0..roles.len() {
            let role = &roles[at];
            if role["aggregationRule"].is_null() {
                continue;
            }
            let gathered = gathered(role, &roles);
            if rules(role) == rules(&json!({"rules": gathered})) {
                continue;
            }
            let name = role["metadata"]["name"].as_str().unwrap_or_default();
            self.change((RBAC, "clusterroles", ""), "", name, &|object| {
                object["rules"] = gathered.clone();
                Ok(())
            })
            .await?;
            // Two that gather each other would swap their rules for ever if the second one saw the first as it was.
            roles[at]["rules"] = gathered;
            changed = true;
        }
        Ok(changed)
    }
}

/// The rules of the roles that `role` gathers, each once.
fn gathered(role: &Value, roles: &[Value]) -> Value {
    let mut gathered: Vec<&Value> = Vec::new();
    for wanted in role["aggregationRule"]["clusterRoleSelectors"].as_array().into_iter().flatten() {
        let others = roles.iter().filter(|other| other["metadata"]["name"] != role["metadata"]["name"]);
        let Ok(selector) = LabelSelector::from_object(wanted) else { continue };
        let selected = others.filter(|other| selector.matches(&other["metadata"]["labels"]));
        for rule in selected.flat_map(|other| other["rules"].as_array().into_iter().flatten()) {
            if !gathered.contains(&rule) {
                gathered.push(rule);
            }
        }
    }
    json!(gathered)
}

/// `current` with what it lacks of `desired`.
fn completed(current: &Value, desired: &Value) -> Value {
    let mut object = current.clone();
    for map in ["labels", "annotations"] {
        for (key, value) in desired["metadata"][map].as_object().into_iter().flatten() {
            object["metadata"][map][key] = value.clone();
        }
    }
    if !desired["aggregationRule"].is_null() {
        object["aggregationRule"] = desired["aggregationRule"].clone();
        return object;
    }
    let held = rules(current);
    for (rule, wire) in rules(desired).iter().zip(desired["rules"].as_array().into_iter().flatten()) {
        if !rbac::missing(&held, std::slice::from_ref(rule)).is_empty() {
            push(&mut object["rules"], wire);
        }
    }
    for subject in desired["subjects"].as_array().into_iter().flatten() {
        if !current["subjects"].as_array().is_some_and(|subjects| subjects.contains(subject)) {
            push(&mut object["subjects"], subject);
        }
    }
    object
}

fn push(list: &mut Value, item: &Value) {
    match list {
        Value::Array(items) => items.push(item.clone()),
        other => *other = json!([item]),
    }
}
