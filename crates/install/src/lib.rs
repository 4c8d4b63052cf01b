//! Dyad on any cluster: one chart, from which come the objects that `dyad install` applies, the kustomize base, and what
//! Helm makes of it; and their life: install, upgrade, uninstall, status.
//!
//! [`manifests`] is a pure function of what somebody chose ([`Values`]) and what the cluster is ([`Facts`]). What talks to
//! the API takes its result, so that the objects of a dry run are those that are applied.
#![forbid(unsafe_code)]

pub mod apply;
pub mod facts;
pub mod image;
mod kinds;
pub mod life;
pub mod manifests;
pub mod owner;
pub mod record;
pub mod rights;
pub mod status;
pub mod survey;
pub mod sysdump;
mod template;
pub mod values;

pub use apply::apply;
pub use facts::{Endpoint, Facts};
pub use manifests::manifests;
pub use values::{Chosen, Values};

/// Who owns fields of what is installed, and the `app.kubernetes.io/managed-by` of it.
pub const MANAGER: &str = "dyad-install";

/// The label that all objects of an installation have, with [`PART_OF_VALUE`].
pub const PART_OF: &str = "app.kubernetes.io/part-of";
/// Its value.
pub const PART_OF_VALUE: &str = "dyad";
/// The label that says who looks after an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// What can't be installed, and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Values make no sense.
    #[error(transparent)]
    Values(#[from] values::ValuesError),
    /// A template of the chart does not render, which is a bug.
    #[error("template {0}: {1}")]
    Template(&'static str, #[source] template::TemplateError),
    /// What a template makes is no object, which is a bug or a value that says more than a value.
    #[error("template {0} makes no object: {1}")]
    Object(&'static str, String),
    /// The API refused or failed a request.
    #[error("can't {what}: {}", reason(because))]
    Api {
        /// What was being done.
        what: String,
        /// The cause, which is told of above.
        because: Box<kube::Error>,
    },
    /// The image can't be written.
    #[error(transparent)]
    Image(#[from] dyad_images::Error),
    /// The cluster is not one to install on as things are.
    #[error("{0}")]
    Refused(String),
}

/// A shorthand for errors of the API.
fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let what = what.into();
    |because| Error::Api { what, because: Box::new(because) }
}

/// What an API server has said, or what kept it from saying something.
pub fn reason(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        let said = [&status.message, &status.reason].into_iter().find(|text| !text.is_empty());
        return said.cloned().unwrap_or_else(|| format!("HTTP status {}", status.code));
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match error {
        kube::Error::Service(_) | kube::Error::HyperError(_) => format!("no API server is reached: {cause}"),
        _ => cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_api_server_says_is_said_once() {
        let status =
            kube::core::Status::failure("nodes is forbidden: User \"x\"", "Forbidden").with_code(403);
        let error = api("list nodes")(kube::Error::Api(status.boxed()));
        assert_eq!(error.to_string(), "can't list nodes: nodes is forbidden: User \"x\"");
        assert!(std::error::Error::source(&error).is_none(), "who prints causes prints it once, too");
        let empty = kube::core::Status::failure("", "").with_code(502);
        assert_eq!(reason(&kube::Error::Api(empty.boxed())), "HTTP status 502");
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(
            reason(&kube::Error::Service(refused.into())),
            "no API server is reached: connection refused"
        );
    }
}
