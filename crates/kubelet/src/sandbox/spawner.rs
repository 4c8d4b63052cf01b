//! The process that sandboxes are forked from.
//!
//! It is this program, started once and idle; each sandbox is a copy of it and not a program of its own, so that all of
//! them share its memory (what the dynamic linker writes alone would be megabytes for each) and cost a fork instead of
//! an exec. It has one thread, as forking demands, and ends with the kubelet; sandboxes do not.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::protocol::{SANDBOX_FILE, SandboxSpec};
use super::sys::{self, Fork};
use super::{Result, Sandbox, SandboxError, send_bytes, shim, system};

/// Longest path that is taken.
const PATH_BYTES: usize = 4096;

/// `dyad internal sandboxes`: forks a sandbox for each directory that comes in on standard input, a socket.
pub(crate) fn main() -> ExitCode {
    let prepared = sys::close_from(3, false).map(|()| sys::ignore_children());
    if let Err(error) = prepared {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    let mut buffer = vec![0; PATH_BYTES];
    loop {
        let (length, answers) = match shim::receive(io::stdin().as_fd(), &mut buffer) {
            Ok(Some(message)) => message,
            Ok(None) => return ExitCode::SUCCESS,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::FAILURE;
            }
        };
        let Some(answer) = answers.first() else { continue };
        match sys::fork(0) {
            Ok(Fork::Parent(_)) => {}
            Ok(Fork::Child) => become_sandbox(&buffer[..length], answer),
            Err(error) => {
                let _ = rustix::io::write(answer, error.to_string().as_bytes());
            }
        }
    }
}

/// Makes the sandbox; what goes wrong is written to `answer`, which is closed when all is ready.
fn become_sandbox(dir: &[u8], answer: &OwnedFd) -> ! {
    use std::os::unix::ffi::OsStrExt;
    let dir = Path::new(std::ffi::OsStr::from_bytes(dir));
    let made = fs::File::open("/dev/null")
        .and_then(|null| sys::duplicate_to(&null, 0))
        .and_then(|()| sys::duplicate_to(answer, 1))
        .and_then(|()| sys::duplicate_to(answer, 2))
        .and_then(|()| sys::close_from(3, false))
        .and_then(|()| sys::reset_signals())
        .map_err(|error| error.to_string())
        .and_then(|()| shim::create(dir));
    if let Err(problem) = made {
        let _ = io::stdout().write_all(problem.as_bytes()).and_then(|()| io::stdout().flush());
        sys::exit(1);
    }
    sys::exit(0)
}

/// Makes sandboxes.
#[derive(Debug)]
pub struct Spawner {
    program: PathBuf,
    process: Mutex<Option<Process>>,
}

#[derive(Debug)]
struct Process {
    socket: OwnedFd,
    child: Child,
}

impl Spawner {
    /// With `program`, which must answer to `internal sandboxes` as this one does; it is started when it is needed.
    pub const fn new(program: PathBuf) -> Self {
        Self { program, process: Mutex::new(None) }
    }

    /// Makes a sandbox in `dir`, the pod's directory, where it keeps its socket; `cgroup` is a control group that it
    /// and all its containers join. Blocks for some milliseconds.
    pub fn create(&self, dir: &Path, spec: &SandboxSpec, cgroup: Option<&Path>) -> Result<Sandbox> {
        let text = serde_json::to_vec(spec).map_err(|error| SandboxError::Refused(error.to_string()))?;
        fs::write(dir.join(SANDBOX_FILE), text).map_err(system("describing the sandbox"))?;
        let sandbox = match self.try_create(dir)? {
            Some(sandbox) => sandbox,
            None => {
                // Asked of a process that was about to end and took no notice.
                *self.process.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.try_create(dir)?.ok_or(SandboxError::Gone)?
            }
        };
        if let Some(cgroup) = cgroup {
            // Pods work without; not every machine lets one have a control group.
            let _ = fs::write(cgroup.join("cgroup.procs"), sandbox.pid().to_string());
        }
        Ok(sandbox)
    }

    /// `None` if there is no sandbox, and nothing that would have kept it from being made.
    fn try_create(&self, dir: &Path) -> Result<Option<Sandbox>> {
        let (answer, inside) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| system("making a pipe")(errno.into()))?;
        self.ask(dir, &inside)?;
        drop(inside);
        let mut problem = String::new();
        fs::File::from(answer).read_to_string(&mut problem).map_err(system("waiting for the sandbox"))?;
        if problem.is_empty() {
            Sandbox::adopt(dir)
        } else {
            Err(SandboxError::Refused(problem.trim_end().to_owned()))
        }
    }

    /// Hands a directory to the process, a new one if the old one has ended.
    fn ask(&self, dir: &Path, answer: &OwnedFd) -> Result<()> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let path = dir.as_os_str().as_encoded_bytes();
        if let Some(running) = &*process
            && send_bytes(&running.socket, path, &[answer.as_fd()]).is_ok()
        {
            return Ok(());
        }
        let started = process.insert(Process::start(&self.program)?);
        send_bytes(&started.socket, path, &[answer.as_fd()])
    }
}

impl Process {
    fn start(program: &Path) -> Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| system("making a socket")(errno.into()))?;
        let child = Command::new(program)
            .args(["internal", "sandboxes"])
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .env_clear()
            .spawn()
            .map_err(system(format!("running {}", program.display())))?;
        Ok(Self { socket, child })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends when nobody can ask it any more.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}
