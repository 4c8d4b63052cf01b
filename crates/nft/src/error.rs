//! What can go wrong.

use std::io;

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the kernel does not hold what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No netlink socket to be had.
    #[error("opening a netfilter socket (the kernel needs nf_tables)")]
    Open(#[source] io::Error),
    /// Talking to the kernel failed.
    #[error("talking to netfilter: {what}")]
    Exchange {
        /// What was tried.
        what: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The kernel refused a change; nothing of its batch was applied.
    #[error("nf_tables refused {what}{}", if source.kind() == io::ErrorKind::PermissionDenied {
        " (needs CAP_NET_ADMIN in this network namespace)"
    } else {
        ""
    })]
    Refused {
        /// The message that was refused.
        what: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel knows no tables that go with who has made them.
    #[error("the kernel has no tables with an owner, which interception needs (Linux 5.12 or newer)")]
    NoOwners(#[source] io::Error),
    /// Another process intercepts.
    #[error("another process holds the table {table}; will be tried again")]
    Held {
        /// Its name.
        table: &'static str,
    },
    /// Others keep changing the kernel's tables.
    #[error("the tables changed again and again while they were read or written; will be tried again")]
    Contended,
    /// The kernel's answer could not be read.
    #[error("the kernel's answer to {what} is malformed")]
    Malformed {
        /// What was asked.
        what: &'static str,
    },
}

impl Error {
    /// The error number, where there is one.
    pub(crate) fn errno(&self) -> Option<rustix::io::Errno> {
        match self {
            Self::Open(source)
            | Self::NoOwners(source)
            | Self::Exchange { source, .. }
            | Self::Refused { source, .. } => rustix::io::Errno::from_io_error(source),
            Self::Held { .. } | Self::Contended | Self::Malformed { .. } => None,
        }
    }
}
