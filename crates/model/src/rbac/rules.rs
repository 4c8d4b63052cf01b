//! What rules of roles allow, and whether some of them allow all that others do (J62).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// One rule of a Role or ClusterRole. `*` stands for anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    /// What may be done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<String>,
    /// To objects of which groups.
    #[serde(rename = "apiGroups", skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// Which resources: `pods`, `pods/status`, `*/scale`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Only objects of these names; all if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths that are no resources; one that ends in `*` stands for all that begin so.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// Objects that a rule may be about. Empty text means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleTarget<'a> {
    /// API group.
    pub group: &'a str,
    /// Plural name.
    pub resource: &'a str,
    /// Subresource.
    pub subresource: &'a str,
    /// Name.
    pub name: &'a str,
}

const ALL: &str = "*";

impl PolicyRule {
    /// Whether `verb` may be done to these objects.
    pub fn allows(&self, verb: &str, target: RuleTarget<'_>) -> bool {
        let RuleTarget { group, resource, subresource, name } = target;
        let named = |rule: &str| match (rule, subresource) {
            (ALL, _) => true,
            (rule, "") => rule == resource,
            (rule, below) => {
                let of = rule.strip_suffix(below).and_then(|rest| rest.strip_suffix('/'));
                of.is_some_and(|of| of == ALL || of == resource)
            }
        };
        holds(&self.verbs, verb)
            && holds(&self.api_groups, group)
            && self.resources.iter().any(|rule| named(rule))
            && (self.resource_names.is_empty() || self.resource_names.iter().any(|rule| rule == name))
    }

    /// Whether `verb` may be done to this path.
    pub fn allows_path(&self, verb: &str, path: &str) -> bool {
        holds(&self.verbs, verb) && self.non_resource_urls.iter().any(|rule| path_covers(rule, path))
    }

    /// Rules of one verb, one resource and one name each that together allow the same.
    fn atoms(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let mut atoms = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let atom = Self {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        atoms.push(atom);
                        continue;
                    }
                    let named = |name| Self { resource_names: one(name), ..atom.clone() };
                    atoms.extend(self.resource_names.iter().map(named));
                }
            }
        }
        for url in &self.non_resource_urls {
            let of = |verb| Self { verbs: one(verb), non_resource_urls: one(url), ..Self::default() };
            atoms.extend(self.verbs.iter().map(of));
        }
        atoms
    }

    /// Whether all that `atom` allows is allowed.
    fn covers(&self, atom: &Self) -> bool {
        let all = |own: &[String], wanted: &[String]| wanted.iter().all(|wanted| holds(own, wanted));
        let resource = |wanted: &String| {
            holds(&self.resources, wanted)
                || wanted.split_once('/').is_some_and(|(_, below)| {
                    self.resources.iter().any(|own| own.strip_prefix("*/") == Some(below))
                })
        };
        let path = |wanted: &String| {
            self.non_resource_urls.iter().any(|own| own == wanted || path_covers(own, wanted))
        };
        let names = match (self.resource_names.as_slice(), atom.resource_names.as_slice()) {
            ([], _) => true,
            (_, []) => false,
            (own, wanted) => wanted.iter().all(|name| own.contains(name)),
        };
        all(&self.verbs, &atom.verbs)
            && all(&self.api_groups, &atom.api_groups)
            && atom.resources.iter().all(resource)
            && atom.non_resource_urls.iter().all(path)
            && names
    }
}

fn holds(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == ALL || own == wanted)
}

fn path_covers(rule: &str, path: &str) -> bool {
    rule == path || rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*'))
}

/// What of `wanted` is not in `held`, in the words of Kubernetes, sorted; nothing if everything is.
pub fn missing(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<String> {
    let mut simple: BTreeMap<(String, String, Vec<String>), Vec<String>> = BTreeMap::new();
    let mut shown = BTreeSet::new();
    let atoms = wanted.iter().flat_map(PolicyRule::atoms);
    for atom in atoms.filter(|atom| !held.iter().any(|own| own.covers(atom))) {
        match (atom.api_groups.as_slice(), atom.resources.as_slice()) {
            ([group], [resource]) => {
                let key = (group.clone(), resource.clone(), atom.resource_names);
                simple.entry(key).or_default().extend(atom.verbs);
            }
            _ => _ = shown.insert(describe(&atom)),
        }
    }
    for ((group, resource, resource_names), verbs) in simple {
        let (api_groups, resources) = (vec![group], vec![resource]);
        shown.insert(describe(&PolicyRule {
            verbs,
            api_groups,
            resources,
            resource_names,
            ..PolicyRule::default()
        }));
    }
    shown.into_iter().collect()
}

/// As Go prints a rule: `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
fn describe(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(key, list)| format!("{key}:{}", quoted(list)))
        .collect();
    format!("{{{}}}", parts.join(", "))
}

/// A list as Go prints it with `%q`.
pub fn quoted(list: &[String]) -> String {
    let words: Vec<String> = list.iter().map(|word| format!("{word:?}")).collect();
    format!("[{}]", words.join(" "))
}

#[cfg(test)]
mod tests;
