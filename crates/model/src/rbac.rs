//! Roles and their bindings.

mod rules;

pub use rules::{PolicyRule, RuleTarget, missing, quoted};
use serde_json::Value;

use crate::meta::Checks;
use crate::{Context, FieldError, Strategy, names, selector, wire};

/// The strategy of Roles.
pub static ROLE: Role = Role { namespaced: true };
/// The strategy of ClusterRoles.
pub static CLUSTER_ROLE: Role = Role { namespaced: false };
/// The strategy of RoleBindings.
pub static ROLE_BINDING: RoleBinding = RoleBinding { namespaced: true };
/// The strategy of ClusterRoleBindings.
pub static CLUSTER_ROLE_BINDING: RoleBinding = RoleBinding { namespaced: false };

const GROUP: &str = "rbac.authorization.k8s.io";

/// See [`ROLE`] and [`CLUSTER_ROLE`].
#[derive(Clone, Copy, Debug)]
pub struct Role {
    namespaced: bool,
}

impl Role {
    fn rule(&self, rule: &Value, field: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let required = |key: &str, text: &str| FieldError::required(format!("{field}.{key}"), text);
        let lacks = |key: &str| wire::list(rule, key).is_empty();
        if lacks("verbs") {
            errors.push(required("verbs", "verbs must contain at least one value"));
        }
        if !lacks("nonResourceURLs") {
            let urls = wire::at(rule, &["nonResourceURLs"]);
            let invalid =
                |text: &str| FieldError::invalid(format!("{field}.nonResourceURLs"), urls.clone(), text);
            if self.namespaced {
                errors.push(invalid("namespaced rules cannot apply to non-resource URLs"));
            }
            if !(lacks("apiGroups") && lacks("resources") && lacks("resourceNames")) {
                errors.push(invalid("rules cannot apply to both regular resources and non-resource URLs"));
            }
            return errors;
        }
        if lacks("apiGroups") {
            errors.push(required("apiGroups", "resource rules must supply at least one api group"));
        }
        if lacks("resources") {
            errors.push(required("resources", "resource rules must supply at least one resource"));
        }
        errors
    }
}

impl Strategy for Role {
    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (index, rule) in wire::list(new, "rules").iter().enumerate() {
            errors.extend(self.rule(rule, &format!("rules[{index}]")));
        }
        let aggregation = wire::at(new, &["aggregationRule"]);
        if !self.namespaced && !aggregation.is_null() {
            const FIELD: &str = "aggregationRule.clusterRoleSelectors";
            let selectors = wire::list(aggregation, "clusterRoleSelectors");
            if selectors.is_empty() {
                let text = "at least one clusterRoleSelector required if aggregationRule is non-nil";
                errors.push(FieldError::required(FIELD, text));
            }
            for (index, object) in selectors.iter().enumerate() {
                errors.extend(selector::validate(object, &format!("{FIELD}[{index}]")));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, _old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        self.validate_create(new, cx)
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        Checks::WHOLE_AND_CHANGE
    }
}

/// See [`ROLE_BINDING`] and [`CLUSTER_ROLE_BINDING`].
#[derive(Clone, Copy, Debug)]
pub struct RoleBinding {
    namespaced: bool,
}

impl RoleBinding {
    fn subject(&self, subject: &Value, field: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (name, kind, group) =
            (wire::text(subject, "name"), wire::text(subject, "kind"), wire::text(subject, "apiGroup"));
        if name.is_empty() {
            errors.push(FieldError::required(format!("{field}.name"), ""));
        }
        match kind {
            "ServiceAccount" => {
                if !name.is_empty() {
                    let problems = names::dns1123_subdomain(name).into_iter();
                    errors.extend(
                        problems.map(|text| FieldError::invalid(format!("{field}.name"), name, text)),
                    );
                }
                if !group.is_empty() {
                    errors.push(FieldError::not_supported(format!("{field}.apiGroup"), group, &[""]));
                }
                if !self.namespaced && wire::text(subject, "namespace").is_empty() {
                    errors.push(FieldError::required(format!("{field}.namespace"), ""));
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    errors.push(FieldError::not_supported(format!("{field}.apiGroup"), group, &[GROUP]));
                }
            }
            _ => {
                let kinds = ["ServiceAccount", "User", "Group"];
                errors.push(FieldError::not_supported_in_order(format!("{field}.kind"), kind, &kinds));
            }
        }
        errors
    }
}

impl Strategy for RoleBinding {
    fn default(&self, object: &mut Value) {
        wire::default_zero(wire::child(object, "roleRef"), "apiGroup", GROUP);
        for subject in wire::items_mut(object, "subjects") {
            if matches!(wire::text(subject, "kind"), "User" | "Group") {
                wire::default_zero(subject, "apiGroup", GROUP);
            }
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let role = wire::at(new, &["roleRef"]);
        let (group, kind, name) =
            (wire::text(role, "apiGroup"), wire::text(role, "kind"), wire::text(role, "name"));
        if group != GROUP {
            errors.push(FieldError::not_supported("roleRef.apiGroup", group, &[GROUP]));
        }
        let kinds: &[&str] = if self.namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
        if !kinds.contains(&kind) {
            errors.push(FieldError::not_supported_in_order("roleRef.kind", kind, kinds));
        }
        if name.is_empty() {
            errors.push(FieldError::required("roleRef.name", ""));
        } else {
            let problems = names::path_segment(name).into_iter();
            errors.extend(problems.map(|text| FieldError::invalid("roleRef.name", name, text)));
        }
        for (index, subject) in wire::list(new, "subjects").iter().enumerate() {
            errors.extend(self.subject(subject, &format!("subjects[{index}]")));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = self.validate_create(new, cx);
        if !wire::same(new, old, "roleRef") {
            let role = wire::at(new, &["roleRef"]);
            // The internal type has no JSON names, so its Go ones are shown.
            let shown = serde_json::json!({
                "APIGroup": wire::text(role, "apiGroup"),
                "Kind": wire::text(role, "kind"),
                "Name": wire::text(role, "name"),
            });
            errors.push(FieldError::invalid("roleRef", shown, "cannot change roleRef"));
        }
        errors
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        Checks::WHOLE_AND_CHANGE
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{created, updated};

    #[test]
    fn rules_name_what_they_allow() {
        let rules = json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}, {},
            {"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]}]});
        assert_eq!(
            created(&CLUSTER_ROLE, rules.clone()).1,
            [
                "rules[1].verbs: Required value: verbs must contain at least one value",
                "rules[1].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[1].resources: Required value: resource rules must supply at least one resource",
                "rules[2].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and \
                 non-resource URLs",
            ]
        );
        assert!(created(&ROLE, rules).1.iter().any(|error| error.contains("namespaced rules cannot apply")));
    }

    #[test]
    fn bindings_are_filled_in_and_keep_their_role() {
        let binding = json!({"roleRef": {"kind": "ClusterRole", "name": "a"}, "subjects": [{"kind": "User", "name": "u"}]});
        let (old, errors) = created(&CLUSTER_ROLE_BINDING, binding);
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(
            (&old["roleRef"]["apiGroup"], &old["subjects"][0]["apiGroup"]),
            (&json!(GROUP), &json!(GROUP))
        );
        let mut new = old.clone();
        new["roleRef"]["name"] = json!("b");
        let (_, errors) = updated(&CLUSTER_ROLE_BINDING, new, &old, "");
        assert_eq!(errors.len(), 1);
        assert!(errors[0].ends_with("cannot change roleRef"), "{errors:?}");
        let role = json!({"roleRef": {"kind": "Role", "name": "a"}, "subjects": [{"kind": "ServiceAccount", "name": "s"}]});
        assert_eq!(
            created(&CLUSTER_ROLE_BINDING, role).1,
            [
                "roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
                "subjects[0].namespace: Required value",
            ]
        );
    }
}
