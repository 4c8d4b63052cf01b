//! What can go wrong in the kubelet.

use crate::sandbox::SandboxError;

/// An error that ends the kubelet, or one thing it tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The API refused or did not answer.
    #[error("{what}")]
    Api {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        source: Box<kube::Error>,
    },
    /// Links or routes.
    #[error(transparent)]
    Links(#[from] dyad_links::Error),
    /// A sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// An image.
    #[error(transparent)]
    Images(#[from] dyad_images::Error),
    /// A file or directory.
    #[error("{what}")]
    File {
        /// What was tried.
        what: String,
        /// Its error.
        source: std::io::Error,
    },
    /// Pods cannot be connected yet.
    #[error("{0}")]
    NetworkNotReady(String),
    /// The pod asks for something that is not there, or cannot be.
    #[error("{0}")]
    Pod(String),
}

impl Error {
    pub(crate) fn api(what: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |source| Self::Api { what, source: Box::new(source) }
    }

    pub(crate) fn file(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { what: what.into(), source }
    }

    /// The error with its causes, for a status or an event.
    pub(crate) fn full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
