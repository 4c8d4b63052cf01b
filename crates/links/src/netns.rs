//! Network namespaces: make, name, enter, delete.
//!
//! The namespace of a thread that others use is never changed: [`within`] enters on a thread of its own.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::{Error, Handle, Result};

/// The namespace of the calling thread.
pub fn current() -> Result<OwnedFd> {
    open(Path::new("/proc/thread-self/ns/net"))
}

/// The namespace of a process.
pub fn of_process(pid: u32) -> Result<OwnedFd> {
    open(Path::new(&format!("/proc/{pid}/ns/net")))
}

/// The namespace bound to `path`.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let what = || format!("opening network namespace {}", path.display());
    Ok(File::open(path).map_err(Error::io(what()))?.into())
}

/// Makes a namespace that lives as long as the descriptor, or something in it, does. Its loopback is up.
pub fn create() -> Result<OwnedFd> {
    on_thread(|| {
        unshare_network()?;
        Handle::open()?.set_up("lo")?;
        current()
    })
}

/// Makes a namespace and binds it to `path`, which is created, so that it lives until [`delete`]. Its loopback is up.
pub fn create_at(path: &Path) -> Result<OwnedFd> {
    let what = || format!("binding a network namespace to {}", path.display());
    File::options().write(true).create_new(true).open(path).map_err(Error::io(what()))?;
    let made = on_thread(|| {
        unshare_network()?;
        Handle::open()?.set_up("lo")?;
        // The name of the thread's own namespace, resolved by the thread itself: another thread would bind its own.
        mount_bind("/proc/thread-self/ns/net", path).map_err(Error::system(what()))?;
        current()
    });
    if made.is_err() {
        // Nothing refers to the file, and the error that matters is the first one.
        let _ = std::fs::remove_file(path);
    }
    made
}

/// Takes the name away; the namespace goes when nothing is in it any more.
pub fn delete(path: &Path) -> Result<()> {
    let what = || format!("deleting network namespace {}", path.display());
    match unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(Error::system(what())(errno)),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(what())(error)),
        _ => Ok(()),
    }
}

/// Runs `work` on a fresh thread inside `netns` and waits for it. What it opens there (sockets) keeps the namespace.
pub fn within<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T> {
    on_thread(|| {
        enter_for_good(netns)?;
        Ok(work())
    })
}

/// Moves the calling thread into `netns`. Only for threads and processes that never come back.
pub fn enter_for_good(netns: BorrowedFd<'_>) -> Result<()> {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(Error::system("entering a network namespace"))
}

/// Runs `work` on a thread that nobody else uses; a panic there goes on here.
fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, work);
        match thread.map_err(Error::io("starting a thread"))?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[allow(unsafe_code, reason = "unshare is unsafe for descriptor tables, which are left alone")]
fn unshare_network() -> Result<()> {
    // SAFETY: only CLONE_NEWNET is given; the unsafety is about CLONE_FILES.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(Error::system("making a network namespace (needs root or a user namespace)"))
}
