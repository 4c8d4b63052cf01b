//! How much of which request is written: an `audit.k8s.io/v1` Policy.

use serde::Deserialize;

use crate::auth::{Attributes, ResourceTarget, Target, UserInfo};

const GROUP_VERSION: &str = "audit.k8s.io/v1";

/// A policy that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It is no YAML, or no Policy.
    #[error("the audit policy can't be read: {0}")]
    Unreadable(String),
    /// It is of another kind.
    #[error(
        "the audit policy has kind {kind:?}, apiVersion {version:?}: use kind: Policy, apiVersion: audit.k8s.io/v1"
    )]
    Other {
        /// Its kind.
        kind: String,
        /// Its version.
        version: String,
    },
    /// There is no rule in it.
    #[error("the audit policy has no rules: add one, e.g. `- level: Metadata`")]
    Empty,
    /// A field has a value that it can't have.
    #[error("audit policy: {field}: {why}")]
    Field {
        /// Which one.
        field: String,
        /// What is wrong, and what would be right.
        why: String,
    },
}

/// How much is written of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) enum Level {
    /// Nothing.
    None,
    /// Everything but bodies.
    #[default]
    Metadata,
    /// The request's body too.
    Request,
    /// Both bodies.
    RequestResponse,
}

/// The moments of a request that can be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// Which requests are written down, and how much of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    kind: String,
    api_version: String,
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs", default)]
    paths: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What a policy says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) level: Level,
    pub(crate) omit: Vec<Stage>,
    pub(crate) omit_managed_fields: bool,
    /// Whether bodies of this kind hold secrets, so that there are none in the log.
    pub(crate) secret: bool,
}

/// Kinds whose bodies, and errors that show parts of them, are nobody's business.
const SECRET: [(&str, &str, &str); 4] = [
    ("", "secrets", ""),
    ("", "configmaps", ""),
    ("", "serviceaccounts", "token"),
    ("authentication.k8s.io", "tokenreviews", ""),
];

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    ///
    /// If it is none, or says what makes no sense.
    pub fn read(text: &str) -> Result<Self, PolicyError> {
        let policy: Self =
            serde_saphyr::from_str(text).map_err(|error| PolicyError::Unreadable(error.to_string()))?;
        if (policy.kind.as_str(), policy.api_version.as_str()) != ("Policy", GROUP_VERSION) {
            return Err(PolicyError::Other { kind: policy.kind, version: policy.api_version });
        }
        if policy.rules.is_empty() {
            return Err(PolicyError::Empty);
        }
        policy
            .rules
            .iter()
            .enumerate()
            .try_for_each(|(index, rule)| rule.check(&format!("rules[{index}]")))?;
        Ok(policy)
    }

    /// What it says of a request: the first rule that is about it decides. A policy without rules wants metadata.
    pub(crate) fn of(&self, user: Option<&UserInfo>, attributes: &Attributes<'_>) -> Decided {
        let rule = self.rules.iter().find(|rule| rule.matches(user, attributes));
        let secret = match attributes.target {
            Target::Resource(target) => SECRET.iter().any(|(group, resource, subresource)| {
                (*group, *resource) == (target.group, target.resource)
                    && (subresource.is_empty() || *subresource == target.subresource)
            }),
            Target::Path(_) => false,
        };
        let level = rule.map_or(Level::default(), |rule| rule.level);
        let stages = rule.map(|rule| &rule.omit_stages).into_iter().flatten();
        Decided {
            level: if secret { level.min(Level::Metadata) } else { level },
            omit: self.omit_stages.iter().chain(stages).copied().collect(),
            omit_managed_fields: rule
                .and_then(|rule| rule.omit_managed_fields)
                .unwrap_or(self.omit_managed_fields),
            secret,
        }
    }
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|one| one == value)
}

impl Rule {
    fn check(&self, field: &str) -> Result<(), PolicyError> {
        let wrong = |key: &str, why: String| Err(PolicyError::Field { field: format!("{field}.{key}"), why });
        for path in self.paths.iter().filter(|path| *path != "*") {
            if !path.starts_with('/') {
                return wrong("nonResourceURLs", format!("{path:?} must begin with a '/', or be \"*\""));
            }
            if path[..path.len() - 1].contains('*') {
                return wrong("nonResourceURLs", format!("{path:?}: '*' can only be the last character"));
            }
        }
        let of_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if of_resources && !self.paths.is_empty() {
            let why = "rules cannot apply to both regular resources and non-resource URLs: write two rules";
            return wrong("nonResourceURLs", why.into());
        }
        for of in &self.resources {
            let group = &of.group;
            if !group.is_empty() && group != "*" && !dyad_model::names::dns1123_subdomain(group).is_empty() {
                return wrong("resources.group", format!("{group:?} is no API group: leave out the version"));
            }
            if !of.resource_names.is_empty() && of.resources.is_empty() {
                return wrong("resources.resourceNames", "needs at least one entry in `resources`".into());
            }
        }
        Ok(())
    }

    fn matches(&self, user: Option<&UserInfo>, attributes: &Attributes<'_>) -> bool {
        let named = || user.is_some_and(|user| has(&self.users, &user.name));
        let grouped =
            || user.is_some_and(|user| user.groups.iter().any(|group| has(&self.user_groups, group)));
        if !self.users.is_empty() && !named()
            || !self.user_groups.is_empty() && !grouped()
            || !self.verbs.is_empty() && !has(&self.verbs, attributes.verb)
        {
            return false;
        }
        match attributes.target {
            _ if self.namespaces.is_empty() && self.resources.is_empty() && self.paths.is_empty() => true,
            Target::Resource(target) => {
                self.paths.is_empty()
                    && (self.namespaces.is_empty() || has(&self.namespaces, target.namespace))
                    && (self.resources.is_empty() || self.resources.iter().any(|of| of.matches(&target)))
            }
            Target::Path(path) => self.paths.iter().any(|spec| {
                spec == "*"
                    || spec == path
                    || spec
                        .strip_suffix('*')
                        .is_some_and(|prefix| path.starts_with(prefix.trim_end_matches('*')))
            }),
        }
    }
}

impl Resources {
    fn matches(&self, target: &ResourceTarget<'_>) -> bool {
        if self.group != target.group && self.group != "*" {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !has(&self.resource_names, target.name) {
            return false;
        }
        self.resources.iter().any(|wanted| match wanted.split_once('/') {
            _ if wanted == "*" => true,
            None => wanted == target.resource && target.subresource.is_empty(),
            Some(("*", subresource)) => !subresource.is_empty() && subresource == target.subresource,
            Some((resource, "*")) => resource == target.resource,
            Some((resource, subresource)) => (resource, subresource) == (target.resource, target.subresource),
        })
    }
}
