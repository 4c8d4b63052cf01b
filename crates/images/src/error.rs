//! What can go wrong with images.

use std::io;
use std::path::Path;

/// An error with what it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory.
    #[error("{what}")]
    File {
        /// What was tried.
        what: String,
        /// Its error.
        source: io::Error,
    },
    /// An image, an archive or an answer that is not as it should be.
    #[error("{0}")]
    Content(String),
    /// Not in the store.
    #[error("image {0:?} is not there: `dyad image list` shows what is")]
    Missing(String),
    /// A registry refused or did not answer.
    #[error("{0}")]
    Registry(String),
}

impl Error {
    pub(crate) fn file(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{what} {}", path.display());
        move |source| Self::File { what, source }
    }

    pub(crate) fn content(text: impl Into<String>) -> Self {
        Self::Content(text.into())
    }
}
