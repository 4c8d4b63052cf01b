//! The order of authorizers: administrators may do everything, nodes what a node needs, and everyone what roles grant.

use dyad_model::rbac::{PolicyRule, RuleTarget};

use super::grants::{Binding, Grants};
use super::node::authorize_node;
use super::{Attributes, Decision, MASTERS, ResourceTarget, Surroundings, Target, UserInfo};

/// What was decided, and on what grounds.
pub(crate) enum Verdict<'a> {
    /// Yes, for what the user is.
    Always,
    /// Yes, because of this binding.
    Granted(&'a Binding),
    /// No; the reason may be empty.
    Denied(String),
}

impl Verdict<'_> {
    pub(crate) fn decision(self) -> Decision {
        match self {
            Self::Always | Self::Granted(_) => Decision::Allow,
            Self::Denied(reason) => Decision::Deny(reason),
        }
    }

    /// What reviews say of it.
    pub(crate) fn reason(&self, user: &UserInfo) -> String {
        match self {
            Self::Always => String::new(),
            Self::Granted(binding) => binding.reason(user),
            Self::Denied(reason) => reason.clone(),
        }
    }
}

/// Decides by what is granted at this moment.
pub(crate) fn decide<'a>(
    grants: &'a Grants,
    surroundings: &dyn Surroundings,
    user: &'a UserInfo,
    attributes: &Attributes<'a>,
) -> Verdict<'a> {
    if user.is_in(MASTERS) {
        return Verdict::Always;
    }
    let verb = attributes.verb;
    let mut reasons = Vec::new();
    let found = match attributes.target {
        Target::Path(path) => grants.find(user, "", |rule| rule.allows_path(verb, path)),
        Target::Resource(target) => {
            if let Some(node) = user.node() {
                match authorize_node(surroundings, &user.name, node, verb, &target) {
                    Decision::Allow => return Verdict::Always,
                    Decision::Deny(reason) => reasons.push(reason),
                }
            }
            let ResourceTarget { group, resource, subresource, namespace, name, .. } = target;
            let target = RuleTarget { group, resource, subresource, name };
            grants.find(user, namespace, |rule| rule.allows(verb, target))
        }
    };
    match found {
        Ok(binding) => Verdict::Granted(binding),
        Err(problems) => {
            if !problems.is_empty() {
                reasons.push(format!("RBAC: {problems}"));
            }
            reasons.retain(|reason| !reason.is_empty());
            Verdict::Denied(reasons.join("\n"))
        }
    }
}

/// Everything a user may do in a namespace, and why that may not be everything.
pub(crate) fn rules_for(grants: &Grants, user: &UserInfo, namespace: &str) -> (Vec<PolicyRule>, String) {
    let (rules, problems) = grants.rules_for(user, namespace);
    let node = user.node().map(|_| "node authorizer does not support user rule resolution");
    let problems: Vec<&str> =
        node.into_iter().chain(Some(problems.as_str()).filter(|text| !text.is_empty())).collect();
    match problems.as_slice() {
        [] | [_] => (rules, problems.concat()),
        many => (rules, format!("[{}]", many.join(", "))),
    }
}
