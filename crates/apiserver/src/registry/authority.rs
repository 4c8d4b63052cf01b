//! Who may do what, by the roles and bindings that are stored, and what nobody may give away that has not got it.

use std::sync::Arc;

use dyad_model::rbac::{self as model, PolicyRule};
use serde_json::{Value, json};

use super::cache::Cache;
use super::kept::{Kept, Sum};
use super::write::{Scope, meta_text};
use super::{Registry, Stored};
use crate::auth::defaults::RBAC;
use crate::auth::grants::{Grants, rules};
use crate::auth::rbac::{Verdict, decide, rules_for};
use crate::auth::{Attributes, Authorizer, Decision, MASTERS, ResourceTarget, Target, UserInfo};
use crate::status::ApiError;

/// What grants come from.
const SOURCES: [&str; 4] = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"];
/// Grants, as far as their sources have been read.
pub(super) type Authority = Kept<Grants, 4>;

impl Registry {
    fn rbac_caches(&self) -> [&Cache; 4] {
        SOURCES.map(|plural| &self.builtin(RBAC, plural).cache)
    }

    /// Calls `with` with the grants of this moment.
    fn with_grants<T>(&self, with: impl FnOnce(&Grants) -> T) -> T {
        self.authority.with(self.rbac_caches(), with)
    }

    /// What a review of `attributes` answers: whether it is allowed, and why.
    pub(crate) fn verdict(&self, user: &UserInfo, attributes: &Attributes<'_>) -> (bool, String) {
        self.with_grants(|grants| {
            let verdict = decide(grants, self, user, attributes);
            (!matches!(verdict, Verdict::Denied(_)), verdict.reason(user))
        })
    }

    /// Everything a user may do in a namespace, and why that may not be everything.
    pub(crate) fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, String) {
        self.with_grants(|grants| rules_for(grants, user, namespace))
    }

    /// Refuses roles and bindings that give away what their writer has not got (J62), unless it may `escalate` or
    /// `bind`.
    pub(super) fn check_escalation(
        &self,
        scope: Scope<'_>,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<(), ApiError> {
        if scope.served.row.group != RBAC || scope.user.is_in(MASTERS) {
            return Ok(());
        }
        let same = |old: &Value| {
            ["rules", "aggregationRule", "roleRef", "subjects"].iter().all(|key| old[key] == new[key])
        };
        let labelled = |old: &Value| {
            ["labels", "annotations"].iter().all(|key| old["metadata"][key] == new["metadata"][key])
        };
        if old.is_some_and(|old| same(old) && labelled(old)) {
            // Owners and finalizers alone grant nothing.
            return Ok(());
        }
        if scope.served.row.plural.ends_with("bindings") {
            return self.check_binding(scope, new);
        }
        if self.may(scope, "escalate", scope.served.row.plural, scope.name) {
            return Ok(());
        }
        self.check_grant(scope, new, &rules(new))?;
        let gathers = |role: &Value| {
            role["aggregationRule"]["clusterRoleSelectors"].as_array().is_some_and(|list| !list.is_empty())
        };
        if gathers(new) || old.is_some_and(gathers) {
            let everything = json!({"rules": [
                {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]},
                {"verbs": ["*"], "nonResourceURLs": ["*"]},
            ]});
            let why = "must have cluster-admin privileges to use the aggregationRule";
            self.check_grant(scope, new, &rules(&everything))
                .map_err(|_| ApiError::forbidden(scope.served.about(meta_text(new, "name")), why))?;
        }
        Ok(())
    }

    fn check_binding(&self, scope: Scope<'_>, new: &Value) -> Result<(), ApiError> {
        let text = |key: &str| new["roleRef"][key].as_str().unwrap_or_default();
        let (kind, name) = (text("kind"), text("name"));
        let plural = match (text("apiGroup"), kind) {
            (RBAC, "ClusterRole") => "clusterroles",
            (RBAC, "Role") => "roles",
            // Refused by validation.
            _ => return Ok(()),
        };
        if self.may(scope, "bind", plural, name) {
            return Ok(());
        }
        let role = self.with_grants(|grants| grants.role(kind, name, scope.namespace).cloned());
        match role {
            Some(role) => self.check_grant(scope, new, &role),
            None => Err(ApiError::not_found(scope.served.about(name))),
        }
    }

    fn may(&self, scope: Scope<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let namespace = scope.namespace;
        let target = ResourceTarget { group: RBAC, resource, namespace, name, ..ResourceTarget::default() };
        let attributes = Attributes { verb, target: Target::Resource(target) };
        self.authorize(scope.user, &attributes) == Decision::Allow
    }

    fn check_grant(&self, scope: Scope<'_>, new: &Value, wanted: &[PolicyRule]) -> Result<(), ApiError> {
        let user = scope.user;
        let (held, problems) = self.with_grants(|grants| grants.rules_for(user, scope.namespace));
        let missing = model::missing(&held, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            model::quoted(&user.groups),
            missing.join("\n")
        );
        if !problems.is_empty() {
            why = format!("{why}; resolution errors: [{problems}]");
        }
        Err(ApiError::forbidden(scope.served.about(meta_text(new, "name")), &why))
    }
}

impl Authorizer for Registry {
    fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Decision {
        self.with_grants(|grants| decide(grants, self, user, attributes).decision())
    }
}

impl Sum for Grants {
    fn change(&mut self, source: usize, before: Option<&Arc<Stored>>, now: Option<&Arc<Stored>>) {
        let Some(meta) = now.or(before).map(|stored| &stored.meta) else { return };
        let (namespace, name) = (&*meta.namespace, &*meta.name);
        let [before, now] = [before, now].map(|stored| stored.map(|stored| stored.bare()));
        if SOURCES[source].ends_with("bindings") {
            return self.set_binding(namespace, name, before.as_ref(), now.as_ref());
        }
        let key = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        self.set_role(&key, now.as_ref());
    }
}
