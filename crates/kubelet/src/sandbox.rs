//! Sandboxes: the namespaces of a pod, and the containers in them.
//!
//! A sandbox is one process (`shim`) that outlives the kubelet; the kubelet finds it again by the socket in the pod's
//! directory. Everything here blocks, for a few milliseconds at most except where said.

mod account;
mod attached;
mod child;
mod log;
pub(crate) mod protocol;
pub mod root;
mod shim;
pub(crate) mod spawner;
mod sys;
pub(crate) mod terminal;

use std::fs::File;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recv, sendmsg, socket_with,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

pub use protocol::{
    Account, ContainerSpec, ContainerState, Exit, ImageRoot, Mount, Propagation, SandboxSpec,
};
use protocol::{MESSAGE_BYTES, Reply, Request, SOCKET};
pub use spawner::Spawner;

/// What can go wrong with a sandbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A system call failed.
    #[error("{what}")]
    System {
        /// What was tried.
        what: String,
        /// Its error.
        source: io::Error,
    },
    /// The sandbox, or the container's first process, refused and said why.
    #[error("{0}")]
    Refused(String),
    /// The sandbox has ended.
    #[error("the pod's sandbox has ended")]
    Gone,
    /// A command took too long and was ended.
    #[error("the command took longer than {0:?}")]
    TooLong(Duration),
}

type Result<T> = std::result::Result<T, SandboxError>;

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> SandboxError {
    move |source| SandboxError::System { what: what.into(), source }
}

/// The address of the socket in `folder`, and the path it is reached by: through the open directory, because a
/// socket's address holds no more than 107 bytes and a pod's directory may well be longer.
fn socket_address(folder: &File) -> io::Result<(SocketAddrUnix, PathBuf)> {
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()));
    Ok((SocketAddrUnix::new(&path)?, path))
}

/// A running sandbox.
#[derive(Debug)]
pub struct Sandbox {
    dir: PathBuf,
    pid: Pid,
    /// Holds on to the process, whose number may mean another one some day.
    process: OwnedFd,
}

impl Sandbox {
    /// The sandbox that lives in `dir`, if there is one.
    pub fn adopt(dir: &Path) -> Result<Option<Self>> {
        let Some(socket) = open_socket(dir)? else { return Ok(None) };
        let peer = rustix::net::sockopt::socket_peercred(&socket)
            .map_err(|errno| system("asking who answers for the sandbox")(errno.into()))?;
        // Whoever listens is alive while the connection is open, so the number is still its own here.
        let process = pidfd_open(peer.pid, PidfdFlags::empty())
            .map_err(|errno| system("taking hold of the sandbox")(errno.into()))?;
        Ok(Some(Self { dir: dir.to_owned(), pid: peer.pid, process }))
    }

    /// The number of its first process, as the kubelet sees it.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Its network namespace.
    pub fn netns(&self) -> Result<OwnedFd> {
        let file = File::open(format!("/proc/{}/ns/net", self.pid()));
        file.map(Into::into).map_err(system("opening the pod's network namespace"))
    }

    /// Starts a container, or starts it again.
    pub fn start(&self, name: &str, attempt: u32, spec: &ContainerSpec) -> Result<ContainerState> {
        use std::os::unix::fs::OpenOptionsExt;
        let text = serde_json::to_vec(spec).map_err(|error| SandboxError::Refused(error.to_string()))?;
        let path = self.dir.join(format!("start-{name}.json"));
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&path).and_then(|mut file| io::Write::write_all(&mut file, &text));
        written.map_err(system(format!("describing container {name}")))?;
        match self.ask(&Request::Start { name: name.into(), attempt, spec: path })? {
            Reply::States(mut states) if states.len() == 1 => Ok(states.remove(0)),
            _ => Err(SandboxError::Refused("the sandbox gave another answer than was asked for".into())),
        }
    }

    /// Sends a signal to a run of a container; no error if it has ended. 9 ends all its processes.
    pub fn signal(&self, name: &str, attempt: u32, signal: i32) -> Result<()> {
        self.ask(&Request::Signal { name: name.into(), attempt, signal }).map(drop)
    }

    /// Runs a command in a container for at most `limit` and gives how it ended and the first bytes of its output
    /// and error output. Blocks that long.
    pub fn exec(&self, name: &str, argv: &[String], limit: Duration) -> Result<(Exit, String)> {
        let deadline = Instant::now() + limit;
        let null = File::open("/dev/null").map_err(system("opening /dev/null"))?;
        let (output, inside) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| system("making a pipe")(errno.into()))?;
        let socket = open_socket(&self.dir)?.ok_or(SandboxError::Gone)?;
        let request = Request::Exec {
            name: name.into(),
            argv: argv.to_vec(),
            env: Vec::new(),
            working_dir: None,
            tty: false,
        };
        send_request(&socket, &request, &[null.as_fd(), inside.as_fd(), inside.as_fd()])?;
        drop(inside);
        let mut said = Vec::new();
        let mut output = Some(output);
        loop {
            let left = deadline.checked_duration_since(Instant::now()).ok_or(SandboxError::TooLong(limit))?;
            let mut entries = vec![PollFd::new(&socket, PollFlags::IN)];
            entries.extend(output.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
            let timeout = Timespec::try_from(left).ok();
            match poll(&mut entries, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(system("waiting for a command")(errno.into())),
            }
            let ready: Vec<bool> = entries.iter().map(|entry| !entry.revents().is_empty()).collect();
            if ready.get(1) == Some(&true)
                && let Some(pipe) = &output
            {
                let mut part = [0; 4096];
                match rustix::io::read(pipe, &mut part[..]) {
                    Ok(0) | Err(_) => output = None,
                    Ok(length) if said.len() < OUTPUT_BYTES => said.extend_from_slice(&part[..length]),
                    Ok(_) => {}
                }
            } else if ready[0] {
                return match receive_reply(&socket)? {
                    Reply::Exited(exit) => Ok((exit, String::from_utf8_lossy(&said).into_owned())),
                    Reply::Problem(problem) => Err(SandboxError::Refused(problem)),
                    _ => Err(SandboxError::Refused(
                        "the sandbox gave another answer than was asked for".into(),
                    )),
                };
            }
        }
    }

    /// Starts a command in a container with these standard streams; it is ended when the result is dropped.
    pub fn run(&self, name: &str, argv: Vec<String>, streams: [BorrowedFd<'_>; 3]) -> Result<Running> {
        let (env, tty) = (Vec::new(), false);
        let request = Request::Exec { name: name.into(), argv, env, working_dir: None, tty };
        let socket = open_socket(&self.dir)?.ok_or(SandboxError::Gone)?;
        send_request(&socket, &request, &streams)?;
        Ok(Running { socket })
    }

    /// Starts a command in a container with a terminal, whose outer side can be received from the second result once
    /// the command has begun.
    pub fn run_in_terminal(&self, name: &str, argv: Vec<String>) -> Result<(Running, HandedOut)> {
        let (outside, inside) = terminal::socket_pair().map_err(system("making a socket"))?;
        let (env, tty) = (vec![("TERM".into(), "xterm".into())], true);
        let request = Request::Exec { name: name.into(), argv, env, working_dir: None, tty };
        let socket = open_socket(&self.dir)?.ok_or(SandboxError::Gone)?;
        send_request(&socket, &request, &[inside.as_fd()])?;
        Ok((Running { socket }, HandedOut { socket: outside }))
    }

    /// Has what a container writes from now on copied to pipes, for output and error output, and gives its terminal or
    /// the pipe to its input, if it has one.
    pub fn attach(&self, name: &str, streams: [BorrowedFd<'_>; 2]) -> Result<Option<OwnedFd>> {
        let socket = open_socket(&self.dir)?.ok_or(SandboxError::Gone)?;
        send_request(&socket, &Request::Attach { name: name.into() }, &streams)?;
        let mut buffer = vec![0; MESSAGE_BYTES];
        let received = shim::receive(&socket, &mut buffer).map_err(system("hearing from the sandbox"))?;
        let (length, mut descriptors) = received.ok_or(SandboxError::Gone)?;
        match serde_json::from_slice(&buffer[..length]) {
            Ok(Reply::Problem(problem)) => Err(SandboxError::Refused(problem)),
            Ok(_) => Ok(descriptors.pop()),
            Err(error) => Err(SandboxError::Refused(error.to_string())),
        }
    }

    /// Ends the input of a container that has a pipe for it.
    pub fn end_input(&self, name: &str) -> Result<()> {
        self.ask(&Request::EndInput { name: name.into() }).map(drop)
    }

    /// A connection that yields the state of all containers, and then each change.
    pub fn watch(&self) -> Result<Watch> {
        let socket = open_socket(&self.dir)?.ok_or(SandboxError::Gone)?;
        send_request(&socket, &Request::Watch, &[])?;
        Ok(Watch { socket })
    }

    /// Ends every process of the pod. The kernel does it in its own time; [`wait`](Self::wait) waits for it.
    pub fn kill(&self) -> Result<()> {
        match pidfd_send_signal(&self.process, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(system("ending the sandbox")(errno.into())),
        }
    }

    /// Waits until every process of the pod is gone; false if that takes longer than `limit`.
    pub fn wait(&self, limit: Duration) -> bool {
        let timeout = Timespec::try_from(limit).ok();
        let mut entries = [PollFd::new(&self.process, PollFlags::IN)];
        // Readable when it has ended, and its namespace's other processes end before it does.
        poll(&mut entries, timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }

    fn ask(&self, request: &Request) -> Result<Reply> {
        let socket = open_socket(&self.dir)?.ok_or(SandboxError::Gone)?;
        send_request(&socket, request, &[])?;
        match receive_reply(&socket)? {
            Reply::Problem(problem) => Err(SandboxError::Refused(problem)),
            reply => Ok(reply),
        }
    }
}

/// A command in a container.
#[derive(Debug)]
pub struct Running {
    socket: OwnedFd,
}

impl Running {
    /// A connection for the runtime of the caller; the one read that it has gives a message for [`decode`](Self::decode).
    pub fn into_async(self) -> io::Result<tokio::net::UnixStream> {
        into_async(self.socket)
    }

    /// How the command ended, or why it did not begin; an empty message says that the sandbox has ended.
    pub fn decode(message: &[u8]) -> Result<Exit> {
        match serde_json::from_slice(message) {
            _ if message.is_empty() => Err(SandboxError::Gone),
            Ok(Reply::Exited(exit)) => Ok(exit),
            Ok(Reply::Problem(problem)) => Err(SandboxError::Refused(problem)),
            Ok(_) => Err(SandboxError::Refused("the sandbox gave another answer than was asked for".into())),
            Err(error) => Err(SandboxError::Refused(error.to_string())),
        }
    }
}

/// A terminal on its way out of a container.
#[derive(Debug)]
pub struct HandedOut {
    socket: OwnedFd,
}

impl HandedOut {
    /// Takes it; blocks until the command has begun, and fails if it does not.
    pub fn receive(&self) -> io::Result<OwnedFd> {
        terminal::receive(&self.socket)
    }
}

fn into_async(socket: OwnedFd) -> io::Result<tokio::net::UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(socket);
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

/// Most bytes that [`Sandbox::exec`] keeps of what a command says.
const OUTPUT_BYTES: usize = 10 * 1024;

/// States of containers as they change; readable when there is something to [`read`](Self::read).
#[derive(Debug)]
pub struct Watch {
    socket: OwnedFd,
}

impl Watch {
    /// Most bytes of a message.
    pub const MESSAGE_BYTES: usize = MESSAGE_BYTES;

    /// The next states; blocks. `None` when the sandbox has ended.
    pub fn read(&self) -> io::Result<Option<Vec<ContainerState>>> {
        let mut buffer = vec![0; MESSAGE_BYTES];
        let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
        Self::decode(&buffer[..length])
    }

    /// What a message says; an empty one says that the sandbox has ended.
    pub fn decode(message: &[u8]) -> io::Result<Option<Vec<ContainerState>>> {
        match serde_json::from_slice(message) {
            _ if message.is_empty() => Ok(None),
            Ok(Reply::States(states)) => Ok(Some(states)),
            Ok(_) => Ok(Some(Vec::new())),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// The connection for the runtime of the caller; each read gives one message for [`decode`](Self::decode).
    pub fn into_async(self) -> io::Result<tokio::net::UnixStream> {
        into_async(self.socket)
    }
}

/// A connection to the sandbox in `dir`; `None` if nobody answers there.
fn open_socket(dir: &Path) -> Result<Option<OwnedFd>> {
    let folder = match File::open(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(system("opening the pod's directory"))?,
    };
    let (address, _) = socket_address(&folder).map_err(system("addressing the sandbox"))?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| system("making a socket")(errno.into()))?;
    match connect(&socket, &address) {
        Ok(()) => Ok(Some(socket)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::CONNREFUSED) => Ok(None),
        Err(errno) => Err(system("connecting to the sandbox")(errno.into())),
    }
}

fn send_request(socket: &OwnedFd, request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let bytes = serde_json::to_vec(request).map_err(|error| SandboxError::Refused(error.to_string()))?;
    send_bytes(socket, &bytes, descriptors)
}

fn send_bytes(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Err(SandboxError::Gone),
        Err(errno) => Err(system("asking the sandbox")(errno.into())),
    }
}

fn receive_reply(socket: &OwnedFd) -> Result<Reply> {
    let mut buffer = vec![0; MESSAGE_BYTES];
    match recv(socket, &mut buffer[..], RecvFlags::empty()) {
        Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => Err(SandboxError::Gone),
        Ok((length, _)) => serde_json::from_slice(&buffer[..length])
            .map_err(|error| SandboxError::Refused(error.to_string())),
        Err(errno) => Err(system("hearing from the sandbox")(errno.into())),
    }
}
