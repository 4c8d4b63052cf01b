//! Roles and bindings as they are asked for: by user and by group, so that a decision looks at those who have something
//! to do with it and at nothing else (J62).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dyad_model::rbac::PolicyRule;
use serde::Deserialize;
use serde_json::Value;

use super::UserInfo;
use super::defaults::RBAC;

/// Everything that was granted to anyone.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    /// By `name` or `namespace/name`.
    roles: HashMap<String, Arc<[PolicyRule]>>,
    /// By namespace; the empty one is the whole cluster.
    scopes: HashMap<String, Scope>,
}

#[derive(Debug, Default)]
struct Scope {
    users: Granted,
    groups: Granted,
}

/// Bindings by subject, then by name.
type Granted = HashMap<String, BTreeMap<String, Arc<Binding>>>;

/// One binding.
#[derive(Debug)]
pub(crate) struct Binding {
    namespace: String,
    name: String,
    kind: String,
    role: String,
    /// The key of the role.
    key: String,
    subjects: Vec<Subject>,
}

#[derive(Debug)]
struct Subject {
    group: bool,
    /// User name or group.
    name: String,
    /// As Kubernetes names it.
    shown: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Wire {
    rules: Option<Vec<PolicyRule>>,
    role_ref: Reference,
    subjects: Option<Vec<Reference>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reference {
    kind: String,
    name: String,
    namespace: String,
}

/// What is not read as it should be grants nothing.
fn read(object: &Value) -> Wire {
    Wire::deserialize(object).unwrap_or_default()
}

/// The rules of a role.
pub(crate) fn rules(role: &Value) -> Vec<PolicyRule> {
    read(role).rules.unwrap_or_default()
}

/// The key of the role that a binding in this namespace is of.
fn role_key(kind: &str, name: &str, namespace: &str) -> String {
    if kind == "Role" { format!("{namespace}/{name}") } else { name.to_owned() }
}

fn not_found(kind: &str, name: &str) -> String {
    format!("{}.{RBAC} {name:?} not found", kind.to_lowercase())
}

impl Binding {
    fn read(namespace: &str, name: &str, object: &Value) -> Self {
        let Wire { role_ref: Reference { kind, name: role, .. }, subjects, .. } = read(object);
        let key = role_key(&kind, &role, namespace);
        let subjects = subjects.unwrap_or_default().into_iter();
        let subjects = subjects.filter_map(|subject| Subject::read(subject, namespace)).collect();
        Self { namespace: namespace.to_owned(), name: name.to_owned(), kind, role, key, subjects }
    }

    /// Why `user` may what its role allows.
    pub(crate) fn reason(&self, user: &UserInfo) -> String {
        let of = |subject: &&Subject| match subject.group {
            true => user.is_in(&subject.name),
            false => user.name == subject.name,
        };
        let subject = self.subjects.iter().find(of).map_or("", |subject| &subject.shown);
        let (kind, name) = match self.namespace.as_str() {
            "" => ("ClusterRoleBinding", self.name.clone()),
            namespace => ("RoleBinding", format!("{}/{namespace}", self.name)),
        };
        format!("RBAC: allowed by {kind} {name:?} of {} {:?} to {subject}", self.kind, self.role)
    }
}

impl Subject {
    fn read(subject: Reference, binding_namespace: &str) -> Option<Self> {
        let Reference { kind, name, namespace } = subject;
        Some(match kind.as_str() {
            "User" => Self { group: false, shown: format!("User {name:?}"), name },
            "Group" => Self { group: true, shown: format!("Group {name:?}"), name },
            "ServiceAccount" => {
                let namespace = if namespace.is_empty() { binding_namespace } else { &namespace };
                if namespace.is_empty() {
                    return None;
                }
                let shown = format!("ServiceAccount {:?}", format!("{name}/{namespace}"));
                Self { group: false, name: format!("system:serviceaccount:{namespace}:{name}"), shown }
            }
            _ => return None,
        })
    }
}

impl Grants {
    /// A role is so now, or gone.
    pub(crate) fn set_role(&mut self, key: &str, role: Option<&Value>) {
        match role {
            Some(role) => _ = self.roles.insert(key.to_owned(), rules(role).into()),
            None => _ = self.roles.remove(key),
        }
    }

    /// A binding was so, and is so now.
    pub(crate) fn set_binding(
        &mut self,
        namespace: &str,
        name: &str,
        before: Option<&Value>,
        now: Option<&Value>,
    ) {
        let scope = self.scopes.entry(namespace.to_owned()).or_default();
        if let Some(before) = before {
            for subject in Binding::read(namespace, name, before).subjects {
                let granted = scope.of(subject.group);
                if let Some(bindings) = granted.get_mut(&subject.name) {
                    bindings.remove(name);
                    if bindings.is_empty() {
                        granted.remove(&subject.name);
                    }
                }
            }
        }
        if let Some(now) = now {
            let binding = Arc::new(Binding::read(namespace, name, now));
            for subject in &binding.subjects {
                let bindings = scope.of(subject.group).entry(subject.name.clone()).or_default();
                bindings.insert(name.to_owned(), Arc::clone(&binding));
            }
        }
        if scope.users.is_empty() && scope.groups.is_empty() {
            self.scopes.remove(namespace);
        }
    }

    /// The bindings of a user in a namespace and in the whole cluster; one of several subjects may come twice.
    fn bindings<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Binding>> {
        let namespace = Some(namespace).filter(|namespace| !namespace.is_empty());
        let scopes = [Some(""), namespace].into_iter().flatten().filter_map(|name| self.scopes.get(name));
        scopes.flat_map(|scope| {
            let groups = user.groups.iter().filter_map(|group| scope.groups.get(group));
            scope.users.get(&user.name).into_iter().chain(groups).flat_map(BTreeMap::values)
        })
    }

    /// The rules of a role, by its kind, its name and the namespace of the binding.
    pub(crate) fn role(&self, kind: &str, name: &str, namespace: &str) -> Option<&Arc<[PolicyRule]>> {
        self.roles.get(&role_key(kind, name, namespace))
    }

    /// A binding that allows it; else what is wrong with bindings that may have, if anything.
    pub(crate) fn find<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &'a str,
        allows: impl Fn(&PolicyRule) -> bool,
    ) -> Result<&'a Binding, String> {
        let mut problems = Vec::new();
        for binding in self.bindings(user, namespace) {
            match self.roles.get(&binding.key) {
                Some(rules) if rules.iter().any(&allows) => return Ok(binding),
                Some(_) => {}
                None => problems.push(not_found(&binding.kind, &binding.role)),
            }
        }
        Err(aggregate(problems))
    }

    /// Every rule for a user in a namespace, in the order of the bindings' names, and what is wrong with some.
    pub(crate) fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, String) {
        let each: BTreeMap<_, _> = self
            .bindings(user, namespace)
            .map(|binding| ((!binding.namespace.is_empty(), &binding.name), binding))
            .collect();
        let (mut rules, mut problems) = (Vec::new(), Vec::new());
        for binding in each.values() {
            match self.roles.get(&binding.key) {
                Some(role) => rules.extend(role.iter().cloned()),
                None => problems.push(not_found(&binding.kind, &binding.role)),
            }
        }
        (rules, aggregate(problems))
    }
}

impl Scope {
    fn of(&mut self, group: bool) -> &mut Granted {
        if group { &mut self.groups } else { &mut self.users }
    }
}

/// Several errors as Go joins them, each once.
fn aggregate(mut problems: Vec<String>) -> String {
    let mut seen = std::collections::HashSet::new();
    problems.retain(|problem| seen.insert(problem.clone()));
    match problems.as_slice() {
        [one] => one.clone(),
        [] => String::new(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests;
