//! The processes of a container: its first process, and the program below it.
//!
//! The first process has number 1 in the container's pid namespace. It builds the root directory, starts the program
//! as its child, passes signals on, reaps orphans and reports how the program ended; when it goes, the kernel ends
//! whatever is left in the container. That the program is not number 1 itself lets signals have their default
//! action, as they have outside containers. Programs of images are made to be number 1, and are it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, wait, waitpid};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces};

use super::protocol::ContainerSpec;
use super::sys::{self, Fork};
use super::{account, root, terminal};

/// How a process ended: exit status and signal.
pub(super) type Ended = (i32, i32);

/// A container's first process, seen from outside.
pub(super) struct Started {
    /// Its number in the sandbox.
    pub(super) pid: Pid,
    /// Where [`Ended`] of the program can be read once the process is gone.
    pub(super) report: File,
    /// What the program writes, with the name of the stream; one of a terminal, else two.
    pub(super) outputs: Vec<(OwnedFd, &'static str)>,
    /// What it reads: its terminal, or a pipe if one was wanted.
    pub(super) input: Option<OwnedFd>,
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// What the program is to have as its standard streams.
enum Streams {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A terminal, whose other side goes through this socket.
    Terminal(OwnedFd),
}

/// Starts a container with its root built at `new_root`, among the processes of `target` if there is one; the error
/// says what could not be done.
pub(super) fn start(spec: &ContainerSpec, new_root: &Path, target: Option<Pid>) -> Result<Started, String> {
    let text = |error: io::Error| error.to_string();
    let (report, report_inside) = pipe().map_err(text)?;
    let (problem, problem_inside) = pipe().map_err(text)?;
    let (mut outputs, mut input, mut terminal) = (Vec::new(), None, None);
    let streams = if spec.tty {
        let (outside, inside) = terminal::socket_pair().map_err(text)?;
        terminal = Some(outside);
        Streams::Terminal(inside)
    } else {
        let (out, stdout) = pipe().map_err(text)?;
        let (err, stderr) = pipe().map_err(text)?;
        outputs.extend([(out, "stdout"), (err, "stderr")]);
        let mut stdin = None;
        if spec.stdin {
            let (inside, outside) = pipe().map_err(text)?;
            (stdin, input) = (Some(inside), Some(outside));
        }
        Streams::Pipes { stdin, stdout, stderr }
    };
    match fork_beside(spec, target).map_err(text)? {
        Fork::Child => {
            first_process(spec, new_root, streams, report_inside.into(), problem_inside.into());
        }
        Fork::Parent(pid) => {
            drop((streams, report_inside, problem_inside));
            match read_problem(problem.into()) {
                None => {
                    if let Some(socket) = terminal {
                        let terminal = terminal::receive(&socket).map_err(text)?;
                        outputs.push((terminal.try_clone().map_err(text)?, "stdout"));
                        input = Some(terminal);
                    }
                    Ok(Started { pid, report: report.into(), outputs, input })
                }
                Some(problem) => {
                    // Not even started: gone, or about to go.
                    let _ = sys::kill(pid, libc::SIGKILL);
                    let _ = waitpid(Some(pid), WaitOptions::empty());
                    Err(problem)
                }
            }
        }
    }
}

/// Forks the first process of a container: number 1 of a pid namespace, or one of those in the `target`'s or the pod's.
fn fork_beside(spec: &ContainerSpec, target: Option<Pid>) -> io::Result<Fork> {
    let Some(target) = target else {
        let own = if spec.share_processes { 0 } else { libc::CLONE_NEWPID };
        return sys::fork(own | libc::CLONE_NEWNS);
    };
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let target = pidfd_open(target, PidfdFlags::empty())?;
    // It takes effect for children only, and no other is forked before it is undone.
    move_into_thread_name_spaces(target.as_fd(), ThreadNameSpaceType::PROCESS_ID)?;
    let forked = sys::fork(libc::CLONE_NEWNS);
    if !matches!(forked, Ok(Fork::Child)) {
        move_into_thread_name_spaces(own.as_fd(), ThreadNameSpaceType::PROCESS_ID)?;
    }
    forked
}

/// Waits until the other side has executed its program (and with that closed the pipe), or says why it could not.
fn read_problem(mut pipe: File) -> Option<String> {
    let mut problem = String::new();
    match pipe.read_to_string(&mut problem) {
        Ok(_) if problem.is_empty() => None,
        Ok(_) => Some(problem),
        Err(error) => Some(error.to_string()),
    }
}

fn fail(mut pipe: File, problem: &str) -> ! {
    // The reader takes an empty pipe for success, so this must not be; a full or broken pipe cannot be here.
    let _ = pipe.write_all(problem.as_bytes());
    sys::exit(128)
}

/// Never returns: what the copied stack frames above own is closed with the process.
fn first_process(spec: &ContainerSpec, new_root: &Path, streams: Streams, report: File, problem: File) -> ! {
    if let Err(error) = sys::block_signals() {
        fail(problem, &error.to_string());
    }
    join_groups(spec);
    if spec.image.is_some()
        && let Err(error) = sys::unshare(UnshareFlags::NEWCGROUP)
    {
        fail(problem, &format!("making a namespace for control groups: {error}"));
    }
    if let Err(error) = root::enter(spec, new_root) {
        fail(problem, &error);
    }
    let null = match File::options().read(true).write(true).open("/dev/null") {
        Ok(null) => null,
        Err(error) => fail(problem, &format!("opening /dev/null: {error}")),
    };
    let (stdin, stdout, stderr) = match streams {
        Streams::Pipes { stdin, stdout, stderr } => (stdin, stdout, stderr),
        Streams::Terminal(socket) => {
            match terminal::open(&socket).and_then(|side| Ok((side.try_clone()?, side))) {
                Ok((again, side)) => match side.try_clone() {
                    Ok(first) => (Some(first), side, again),
                    Err(error) => fail(problem, &format!("copying a terminal: {error}")),
                },
                Err(error) => fail(problem, &format!("making a terminal: {error}")),
            }
        }
    };
    if spec.image.is_some() {
        // It is the first process itself, as images expect.
        let stdin = stdin.as_ref().map_or(null.as_fd(), |stdin| stdin.as_fd());
        let error = run_program(spec, [stdin, stdout.as_fd(), stderr.as_fd()], spec.tty);
        fail(problem, &error)
    }
    match sys::fork(0) {
        Err(error) => fail(problem, &error.to_string()),
        Ok(Fork::Child) => {
            if spec.target.is_some() || spec.share_processes {
                // Who is not number 1 takes nobody with it when it goes.
                sys::end_with_parent();
            }
            let stdin = stdin.as_ref().map_or(null.as_fd(), |stdin| stdin.as_fd());
            let error = run_program(spec, [stdin, stdout.as_fd(), stderr.as_fd()], spec.tty);
            fail(problem, &error)
        }
        Ok(Fork::Parent(program)) => {
            // Only the report stays open: the pipes end when the program ends, and not when this process does.
            let kept = sys::keep_one(&null, &report);
            let (code, signal) = tend(program);
            if let Ok(mut report) = kept {
                // Nobody else can be told.
                let _ = report.write_all(&encode((code, signal)));
            }
            sys::exit(code)
        }
    }
}

/// Joins the container's control groups. Their limits are not what keeps it from running: the kubelet has told of those
/// that cannot be enforced.
fn join_groups(spec: &ContainerSpec) {
    for group in &spec.cgroups {
        if let Err(error) = std::fs::write(group.join("cgroup.procs"), "0") {
            eprintln!("joining {}: {error}", group.display());
        }
    }
}

/// Passes signals on to the program and reaps until it ends.
fn tend(program: Pid) -> Ended {
    loop {
        match sys::wait_for_signal() {
            libc::SIGCHLD => {
                while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
                    if pid == program {
                        return ended(status);
                    }
                }
            }
            signal if signal > 0 => {
                // It has not been reaped, so its number is still its own; it may be about to end.
                let _ = sys::kill(program, signal);
            }
            _ => {}
        }
    }
}

/// Waits for a command, and ends it and what it started when a signal says so.
fn tend_command(program: Pid) -> i32 {
    loop {
        if sys::wait_for_signal() != libc::SIGCHLD {
            // It leads a group of its own once it has begun; before that there is nothing to end.
            let _ = sys::kill_group(program);
        }
        if let Ok(Some((_, status))) = waitpid(Some(program), WaitOptions::NOHANG) {
            return ended(status).0;
        }
    }
}

/// Exit status as a shell gives it, and the signal.
pub(super) fn ended(status: rustix::process::WaitStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code, 0),
        (None, Some(signal)) => (128 + signal, signal),
        (None, None) => (128, 0),
    }
}

fn encode((code, signal): Ended) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&code.to_ne_bytes());
    bytes[4..].copy_from_slice(&signal.to_ne_bytes());
    bytes
}

/// What the first process reported; nothing if it was killed itself.
pub(super) fn read_report(report: &mut File) -> Ended {
    let mut bytes = [0; 8];
    match report.read_exact(&mut bytes) {
        Ok(()) => {
            let [a, b, c, d, e, f, g, h] = bytes;
            (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]))
        }
        Err(_) => (128 + libc::SIGKILL, libc::SIGKILL),
    }
}

/// Becomes the program of `spec`; returns only if that fails, and says why.
fn run_program(spec: &ContainerSpec, streams: [BorrowedFd<'_>; 3], tty: bool) -> String {
    match prepare_program(spec, streams, tty) {
        Err(problem) => problem,
        Ok((program, argv, env)) => {
            format!("exec: {:?}: {}", program, sys::execute(&program, &argv, &env))
        }
    }
}

type Program = (CString, Vec<CString>, Vec<CString>);

fn prepare_program(spec: &ContainerSpec, streams: [BorrowedFd<'_>; 3], tty: bool) -> Result<Program, String> {
    let said = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    for (at, stream) in streams.iter().enumerate() {
        sys::duplicate_to(stream, at as i32).map_err(said("setting up standard streams"))?;
    }
    sys::close_from(3, true).map_err(said("closing descriptors"))?;
    sys::reset_signals().map_err(said("resetting signals"))?;
    // Fails only for the leader of a process group, which a fresh process is not.
    let _ = rustix::process::setsid();
    if tty {
        terminal::control(io::stdin().as_fd()).map_err(said("taking control of the terminal"))?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    if let Some(dir) = &spec.working_dir {
        rustix::process::chdir(dir).map_err(|error| format!("workingDir {}: {error}", dir.display()))?;
    }
    if !spec.privileged {
        sys::limit_capabilities(spec.capabilities);
    }
    let (mut env, mut who) = (spec.env.clone(), (spec.user, spec.group, spec.groups.clone()));
    if let Some(account) = &spec.account {
        let found = account::find(account, &spec.groups)?;
        if env.iter().all(|(name, _)| name != "HOME") {
            env.push(("HOME".into(), found.home));
        }
        who = (found.user, found.group, found.groups);
    }
    let (user, group, groups) = who;
    sys::become_user(user, group, &groups, !spec.groups.is_empty()).map_err(|error| {
        format!("running as user {user} and group {group}: {error} (a cluster without root has user 0 only)")
    })?;
    if spec.no_new_privileges {
        sys::no_new_privileges().map_err(said("allowPrivilegeEscalation: false"))?;
    }
    let name = spec.argv.first().ok_or("no command given")?;
    let path = spec.env.iter().find(|(name, _)| name == "PATH").map_or("", |(_, value)| value);
    let program = root::find_program(name, path).map_err(|error| format!("exec: {name:?}: {error}"))?;
    let string = |text: &str| CString::new(text).map_err(|_| format!("{text:?} contains a NUL byte"));
    let argv = spec.argv.iter().map(|text| string(text)).collect::<Result<_, _>>()?;
    let env = env.iter().map(|(name, value)| string(&format!("{name}={value}"))).collect::<Result<_, _>>()?;
    Ok((string(&program.to_string_lossy())?, argv, env))
}

/// Runs a program inside a running container. The process returned waits for it outside and ends as it ends; `SIGTERM`
/// to that one ends the program and all in its process group. Signals are blocked in the caller, and so in that one.
pub(super) fn exec(
    spec: &ContainerSpec,
    container: Pid,
    streams: &[OwnedFd],
    tty: bool,
) -> Result<Pid, String> {
    let text = |error: io::Error| error.to_string();
    let pidfd = pidfd_open(container, PidfdFlags::empty()).map_err(|error| error.to_string())?;
    let (problem, problem_inside) = pipe().map_err(text)?;
    match sys::fork(0).map_err(text)? {
        Fork::Parent(pid) => {
            drop(problem_inside);
            match read_problem(problem.into()) {
                None => Ok(pid),
                Some(problem) => {
                    let _ = waitpid(Some(pid), WaitOptions::empty());
                    Err(problem)
                }
            }
        }
        Fork::Child => {
            let problem = File::from(problem_inside);
            join_groups(spec);
            let mut inside = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::PROCESS_ID;
            if spec.image.is_some() {
                inside |= ThreadNameSpaceType::CONTROL_GROUP;
            }
            if let Err(error) = move_into_thread_name_spaces(pidfd.as_fd(), inside) {
                fail(problem, &format!("entering the container: {error}"));
            }
            let side;
            let streams = match streams {
                [socket] if tty => match terminal::open(socket) {
                    Ok(opened) => {
                        side = opened;
                        [side.as_fd(); 3]
                    }
                    Err(error) => fail(problem, &format!("making a terminal: {error}")),
                },
                [stdin, stdout, stderr] => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
                _ => fail(problem, "one descriptor must come along for a terminal, else three"),
            };
            match sys::fork(0) {
                Err(error) => fail(problem, &error.to_string()),
                Ok(Fork::Child) => {
                    let error = run_program(spec, streams, tty);
                    fail(problem, &error)
                }
                Ok(Fork::Parent(program)) => {
                    let _ = sys::close_from(3, false);
                    sys::exit(tend_command(program))
                }
            }
        }
    }
}
