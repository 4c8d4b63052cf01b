//! What can go wrong.

use std::io;

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the kernel does not do what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing of this works on this machine.
    #[error(transparent)]
    Unavailable(#[from] Why),
    /// The kernel did not take or give something.
    #[error("eBPF: {what}{}", if source.kind() == io::ErrorKind::PermissionDenied {
        " (needs root outside of user namespaces)"
    } else {
        ""
    })]
    Refused {
        /// What was tried.
        what: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel's verifier refused a program.
    #[error("the kernel refused the program {program}: {log}")]
    Verifier {
        /// Its name.
        program: String,
        /// The last words of the verifier.
        log: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The object that was built in is damaged.
    #[error("the built-in eBPF object is damaged: {0}")]
    Object(String),
}

impl Error {
    /// For `map_err`: the system refused `what`.
    pub(crate) fn refused(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Refused { what, source }
    }

    /// Whether a map was too small.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Refused { source, .. } if source.raw_os_error() == Some(libc::E2BIG))
    }
}

/// Why this machine cannot run the eBPF data plane, or part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// The object is for the other byte order.
    #[error("this machine is big-endian; the programs are built for little-endian ones")]
    ByteOrder,
    /// There is no cgroup v2 hierarchy.
    #[error("no cgroup2 file system is mounted; `mount -t cgroup2 none DIR` gives one")]
    NoCgroup,
    /// The kernel has no eBPF.
    #[error("the kernel was built without eBPF (CONFIG_BPF_SYSCALL)")]
    NotBuilt,
    /// Not allowed to load programs.
    #[error(
        "loading eBPF programs is not permitted: it needs CAP_BPF and CAP_NET_ADMIN outside of user namespaces \
         (real root)"
    )]
    NotPermitted,
    /// A program cannot be loaded.
    #[error("the kernel does not take the program {program} (Linux 5.10 or newer is needed): {reason}")]
    Refused {
        /// Its name.
        program: String,
        /// The kernel's words.
        reason: String,
    },
    /// Programs cannot be attached to links without a process that stays.
    #[error("no redirect between pods: the kernel has no tcx hooks (Linux 6.6 or newer is needed)")]
    NoTcx,
}
