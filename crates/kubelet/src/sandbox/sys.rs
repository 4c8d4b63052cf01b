//! System calls that rustix has not, or whose safety depends on the process having a single thread.
//!
//! Everything here is called in the single-threaded processes of a sandbox only.
#![allow(unsafe_code, reason = "fork, exec and process attributes are unsafe by nature")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::process::Pid;

/// Which side of a fork this is.
pub(super) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the number of the new one.
    Parent(Pid),
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Forks; `namespaces` are `CLONE_NEW*` flags for the child.
pub(super) fn fork(namespaces: libc::c_int) -> io::Result<Fork> {
    let flags = libc::c_long::from(namespaces | libc::SIGCHLD);
    // SAFETY: without CLONE_VM and with a null stack this is fork(2): the child gets a copy of everything. There is
    // one thread, so no lock is held by a thread that the child lacks.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    match Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?) {
        None => Ok(Fork::Child),
        Some(pid) => Ok(Fork::Parent(pid)),
    }
}

/// Leaves the given namespaces for new ones.
pub(super) fn unshare(namespaces: rustix::thread::UnshareFlags) -> io::Result<()> {
    // SAFETY: the unsafety is about CLONE_FILES, which is never among them.
    Ok(unsafe { rustix::thread::unshare_unsafe(namespaces) }?)
}

/// Ends the process at once, running nothing.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: always sound; no destructors or exit handlers of the copied parent run.
    unsafe { libc::_exit(code) }
}

/// Becomes another program; returns only if that fails.
pub(super) fn execute(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists are null-terminated arrays of pointers to strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Closes every descriptor from `first` on, or marks it to be closed by the next program.
pub(super) fn close_from(first: u32, at_exec: bool) -> io::Result<()> {
    let flags = if at_exec { libc::CLOSE_RANGE_CLOEXEC } else { 0 };
    // SAFETY: the caller owns the process; owners of these descriptors are never dropped (the process ends in
    // `exit` or `execute`).
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// Makes `to` a copy of `from`, kept open by the next program.
pub(super) fn duplicate_to(from: &impl AsRawFd, to: i32) -> io::Result<()> {
    // SAFETY: replaces one of the standard streams, which nothing here owns.
    check(libc::c_long::from(unsafe { libc::dup2(from.as_raw_fd(), to) })).map(drop)
}

/// Leaves this process nothing but `null` as its standard streams and `report`, which is returned under its new number.
/// For processes that end in [`exit`]: owners of anything else must never be dropped.
pub(super) fn keep_one(null: &impl AsRawFd, report: &impl AsRawFd) -> io::Result<std::fs::File> {
    for stream in 0..3 {
        duplicate_to(null, stream)?;
    }
    duplicate_to(report, 3)?;
    close_from(4, false)?;
    // SAFETY: descriptor 3 was opened by dup2 above, and whoever owned it before is never dropped.
    Ok(unsafe { std::fs::File::from_raw_fd(3) })
}

/// Blocks all signals, to be received by [`wait_for_signal`] or [`signal_descriptor`].
pub(super) fn block_signals() -> io::Result<()> {
    set_mask(libc::SIG_BLOCK, &full_set())
}

/// Unblocks all signals and gives each its default action.
pub(super) fn reset_signals() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL is a valid action; signals that cannot be changed are refused without harm.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    set_mask(libc::SIG_UNBLOCK, &full_set())
}

/// Has ended children forgotten at once; [`reset_signals`] in a child undoes it there.
pub(super) fn ignore_children() {
    // SAFETY: SIG_IGN is a valid action for SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

fn full_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set it is given.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn set_mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `set` is initialised and the old mask is not asked for.
    check(libc::c_long::from(unsafe { libc::sigprocmask(how, set, std::ptr::null_mut()) })).map(drop)
}

/// A descriptor that is readable when a child has ended. Signals must be blocked.
pub(super) fn signal_descriptor() -> io::Result<OwnedFd> {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: the set is initialised by sigemptyset; -1 asks for a new descriptor, which nothing else owns.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(libc::c_long::from(fd))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Waits for any signal; signals must be blocked.
pub(super) fn wait_for_signal() -> i32 {
    // SAFETY: the set is initialised; no details are asked for.
    unsafe { libc::sigwaitinfo(&full_set(), std::ptr::null_mut()) }
}

/// Sends a signal to a child that has not been waited for.
pub(super) fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: always sound; the number cannot have been reused before it is waited for.
    check(libc::c_long::from(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) })).map(drop)
}

/// Ends a child that leads a process group, and all in the group.
pub(super) fn kill_group(leader: Pid) -> io::Result<()> {
    // SAFETY: as above.
    check(libc::c_long::from(unsafe { libc::kill(-leader.as_raw_nonzero().get(), libc::SIGKILL) })).map(drop)
}

/// Sets groups, group and user of the process, in the order that works.
///
/// A namespace that maps one user refuses to set groups, which matters only if some were `asked` for.
pub(super) fn become_user(user: u32, group: u32, groups: &[u32], asked: bool) -> io::Result<()> {
    // SAFETY: the pointer and length describe `groups`.
    let set = check(libc::c_long::from(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }));
    if asked || !groups.is_empty() && !in_user_namespace() {
        set?;
    }
    // SAFETY: always sound.
    check(libc::c_long::from(unsafe { libc::setresgid(group, group, group) }))?;
    // SAFETY: always sound.
    check(libc::c_long::from(unsafe { libc::setresuid(user, user, user) })).map(drop)
}

/// Whether this process knows only some of the machine's users.
pub(super) fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().ne(["0", "0", "4294967295"])
}

/// Leaves only the capabilities in `keep` to whatever is executed next.
pub(super) fn limit_capabilities(keep: u64) {
    for capability in 0..64u64 {
        if keep >> capability & 1 == 0 {
            // SAFETY: plain numbers; the kernel refuses those it does not know, which need no dropping.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
    }
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
}

/// Keeps set-user-ID programs from raising privileges.
pub(super) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: plain numbers.
    check(libc::c_long::from(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })).map(drop)
}

/// Has this process killed when the one that forked it ends.
pub(super) fn end_with_parent() {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
}

/// Keeps others of the same user from looking into this process.
pub(super) fn hide_memory() {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// Sets attributes (`MOUNT_ATTR_*`) on a mount, or on it and all below (Linux 5.12).
pub(super) fn set_mount_attributes(path: &Path, attributes: u64, recursive: bool) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    change_mount(libc::AT_FDCWD, &path, attributes, if recursive { libc::AT_RECURSIVE } else { 0 })
}

/// Sets attributes on a tree of mounts that is not mounted yet.
pub(super) fn set_tree_attributes(tree: &impl AsRawFd, attributes: u64) -> io::Result<()> {
    change_mount(tree.as_raw_fd(), c"", attributes, libc::AT_RECURSIVE | libc::AT_EMPTY_PATH)
}

fn change_mount(dir: i32, path: &CStr, attributes: u64, flags: i32) -> io::Result<()> {
    // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
    let change: [u64; 4] = [attributes, 0, 0, 0];
    // SAFETY: the path is a terminated string, and the size is that of the structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir,
            path.as_ptr(),
            flags,
            change.as_ptr(),
            size_of_val(&change),
        )
    };
    check(result).map(drop)
}
