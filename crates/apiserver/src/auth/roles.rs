//! The authorizer until there is RBAC: administrators may do everything, nodes what a node needs, the cluster's DNS
//! may read what names come from, everyone else may find out what this server is.

use super::node::authorize_node;
use super::{
    AUTHENTICATED, Attributes, Authorizer, Decision, MASTERS, NAME_SERVERS, ResourceTarget, Target, UserInfo,
};

/// Three roles, by group: `system:masters`, `system:nodes` and `system:dyad:dns`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Roles;

/// Paths that say whether the server is well and what it is; open to everyone.
const PUBLIC_PATHS: [&str; 5] = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
/// Paths that say what can be asked for; open to whoever says who they are. A `*` at the end stands for anything.
const DISCOVERY_PATHS: [&str; 6] = ["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"];
/// What everyone may ask about themselves.
const SELF_REVIEWS: [(&str, &str); 3] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];

/// What names come from.
const NAMED: [(&str, &str); 4] =
    [("", "services"), ("", "namespaces"), ("", "pods"), ("discovery.k8s.io", "endpointslices")];

impl Authorizer for Roles {
    fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Decision {
        if user.is_in(MASTERS) || is_basic(user, attributes) {
            return Decision::Allow;
        }
        match (user.node(), &attributes.target) {
            (Some(node), Target::Resource(target)) => authorize_node(user, node, attributes.verb, target),
            (None, Target::Resource(target)) if user.is_in(NAME_SERVERS) => {
                authorize_name_server(attributes.verb, target)
            }
            _ => Decision::DENY,
        }
    }
}

/// Reads what names come from, and ConfigMaps beside it, for its own configuration is one of them.
fn authorize_name_server(verb: &str, target: &ResourceTarget<'_>) -> Decision {
    let ResourceTarget { group, resource, subresource, namespace, .. } = *target;
    let named = NAMED.contains(&(group, resource))
        || (group, resource, namespace) == ("", "configmaps", "kube-system");
    match matches!(verb, "get" | "list" | "watch") && subresource.is_empty() && named {
        true => Decision::Allow,
        false => Decision::DENY,
    }
}

fn is_basic(user: &UserInfo, attributes: &Attributes<'_>) -> bool {
    let known = user.is_in(AUTHENTICATED);
    match attributes.target {
        Target::Path(path) => {
            let open = |patterns: &[&str]| patterns.iter().any(|pattern| matches(pattern, path));
            attributes.verb == "get" && (open(&PUBLIC_PATHS) || known && open(&DISCOVERY_PATHS))
        }
        Target::Resource(ResourceTarget { group, resource, subresource: "", .. }) => {
            known && attributes.verb == "create" && SELF_REVIEWS.contains(&(group, resource))
        }
        Target::Resource(_) => false,
    }
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => path == pattern,
    }
}
