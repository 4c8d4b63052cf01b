//! Why a user may not, in Kubernetes' words.

use super::{Attributes, Decision, ResourceTarget, Target, UserInfo};
use crate::status::{About, ApiError};

impl Decision {
    /// The 403 that follows from it, if any.
    pub fn refusal(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Option<ApiError> {
        let Self::Deny(reason) = self else { return None };
        // Kubernetes does this lest an error be taken for HTML.
        let mut why =
            denial(user, attributes).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        if !reason.is_empty() {
            why = format!("{why}: {reason}");
        }
        Some(match attributes.target {
            Target::Path(_) => ApiError::forbidden_path("", &why),
            Target::Resource(ResourceTarget { group, resource, name, .. }) => {
                ApiError::forbidden(About { group, resource, kind: "", name }, &why)
            }
        })
    }
}

fn denial(user: &UserInfo, attributes: &Attributes<'_>) -> String {
    let (user, verb) = (&user.name, attributes.verb);
    match attributes.target {
        Target::Path(path) => format!("User {user:?} cannot {verb} path {path:?}"),
        Target::Resource(ResourceTarget { group, resource, subresource, namespace, .. }) => {
            let slash = if subresource.is_empty() { "" } else { "/" };
            let place = match namespace {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace {namespace:?}"),
            };
            format!(
                "User {user:?} cannot {verb} resource \"{resource}{slash}{subresource}\" in API group {group:?} {place}"
            )
        }
    }
}
