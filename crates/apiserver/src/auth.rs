//! Who asks, and may they? Authentication (J60), authorization behind a trait, and what both answer when the answer
//! is no, word for word as Kubernetes does.
//!
//! The order for a request: [`authenticate`] it, let it [`impersonate`] someone if it asks to, ask the
//! [`Authorizer`], and for writes of nodes [`restrict_node`] once the object is known.

pub(crate) mod defaults;
pub(crate) mod grants;
mod impersonation;
mod node;
pub(crate) mod rbac;
mod request;
mod status;
pub mod token;

use std::collections::BTreeMap;

pub use impersonation::impersonate;
pub(crate) use node::{Graph, mirror_fault, of_pod, of_volume, settled};
pub use node::{Surroundings, Thing, restrict_node};
pub use request::authenticate;

/// Group of everyone who has said who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Group of everyone who has not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Name of everyone who has not.
pub const ANONYMOUS: &str = "system:anonymous";
/// Group that may do everything.
pub const MASTERS: &str = "system:masters";
/// Name of the administrator.
pub const ADMINISTRATOR: &str = "kubernetes-admin";
/// Group of the nodes.
pub const NODES: &str = "system:nodes";
/// Group of the nodes' network agents.
pub const AGENTS: &str = "system:dyad:agents";
/// Group of the cluster's name servers.
pub const NAME_SERVERS: &str = "system:dyad:dns";
const NODE_PREFIX: &str = "system:node:";

/// Who makes a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// User name.
    pub name: String,
    /// Tells users of one name apart over time; empty if unknown.
    pub uid: String,
    /// Groups, [`AUTHENTICATED`] or [`UNAUTHENTICATED`] among them.
    pub groups: Vec<String>,
    /// What else the authenticator knows.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user in these groups and in [`AUTHENTICATED`].
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let groups = groups.iter().chain(&[AUTHENTICATED]).map(|group| (*group).to_owned()).collect();
        Self { name: name.into(), groups, ..Self::default() }
    }

    /// Who has not said who they are.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.into(), groups: vec![UNAUTHENTICATED.into()], ..Self::default() }
    }

    /// The API server itself.
    pub(crate) fn server() -> Self {
        Self::new("system:apiserver", &[MASTERS])
    }

    /// The cluster's administrator.
    pub fn administrator() -> Self {
        Self::new(ADMINISTRATOR, &[MASTERS])
    }

    /// A controller that runs beside the API server: the ServiceAccount of its name in `kube-system`, by which the
    /// well-known bindings call it.
    pub fn controller(name: &str) -> Self {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        Self::new(format!("system:serviceaccount:kube-system:{name}"), &groups)
    }

    /// Whether the user is in the group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The node whose agent this is, `Some("")` for one of the group whose name is no node's.
    pub fn node(&self) -> Option<&str> {
        self.is_in(NODES).then(|| self.name.strip_prefix(NODE_PREFIX).unwrap_or_default())
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths the method in
    /// lower case.
    pub verb: &'a str,
    /// Of what.
    pub target: Target<'a>,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// Objects.
    Resource(ResourceTarget<'a>),
    /// Anything else, by its path without the query.
    Path(&'a str),
}

/// Objects that a request is about. Empty text means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourceTarget<'a> {
    /// API group, empty for the core group.
    pub group: &'a str,
    /// Plural name.
    pub resource: &'a str,
    /// Subresource.
    pub subresource: &'a str,
    /// Namespace; empty for cluster-scoped kinds and for all namespaces.
    pub namespace: &'a str,
    /// Name; for lists and watches the one that a field selector `metadata.name=x` selects.
    pub name: &'a str,
    /// The node whose objects a field selector `spec.nodeName=x` selects.
    pub node: &'a str,
}

/// May they?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No; the reason may be empty.
    Deny(String),
}

impl Decision {
    /// No, without a reason.
    pub const DENY: Self = Self::Deny(String::new());
}

/// Decides what users may do.
pub trait Authorizer: Send + Sync {
    /// Whether `user` may do what `attributes` say.
    fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Decision;
}

#[cfg(test)]
mod tests;
