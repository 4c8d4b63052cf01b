//! What can go wrong when talking to the kernel.

use std::io;

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// A refusal by the kernel, or an answer that makes no sense.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a netlink request.
    #[error("{what}{}", explain(.hint))]
    Netlink {
        /// What was asked, as a phrase: "adding route 10.0.0.0/24".
        what: String,
        /// The kernel's own words, where it gave any.
        hint: Option<String>,
        /// The error number.
        source: io::Error,
    },
    /// A system call outside netlink failed.
    #[error("{what}")]
    System {
        /// What was tried, as a phrase.
        what: String,
        /// Its error.
        source: io::Error,
    },
    /// The kernel's answer could not be read.
    #[error("{what}: the kernel's answer is malformed")]
    Malformed {
        /// What was asked.
        what: String,
    },
    /// The kernel kept changing while it was listed.
    #[error("{what}: the list changed again and again while it was read; try again")]
    Interrupted {
        /// What was asked.
        what: String,
    },
}

fn explain(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default()
}

impl Error {
    /// The error number, where there is one.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Netlink { source, .. } | Self::System { source, .. } => source.raw_os_error(),
            Self::Malformed { .. } | Self::Interrupted { .. } => None,
        }
    }

    /// Whether the thing to be changed or deleted is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.raw_os_error(),
            Some(libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO)
        )
    }

    /// Whether the thing to be made is there already.
    pub fn is_exists(&self) -> bool {
        self.raw_os_error() == Some(libc::EEXIST)
    }

    /// Whether the kernel was built without, or may not load what it needs.
    pub fn is_unsupported(&self) -> bool {
        self.raw_os_error() == Some(libc::EOPNOTSUPP)
    }

    /// Whether the kernel made no sense of what it was asked.
    pub(crate) fn is_invalid(&self) -> bool {
        self.raw_os_error() == Some(libc::EINVAL)
    }

    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::System { what: what.into(), source: errno.into() }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what: what.into(), source }
    }
}

/// Turns "it was not there" into success: for deletions, which are idempotent.
pub(crate) fn absent_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
