//! The first process of a sandbox: parent of its containers, keeper of their logs, and all that has to survive the
//! kubelet.
//!
//! One thread and one loop, idle unless something happens. It is number 1 in the pod's pid namespace: killing it ends
//! every process of the pod. It keeps the node's mount namespace, which no container can see, and it answers on a
//! socket in the pod's directory (see [`protocol`](super::protocol)).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType,
    accept_with, bind, listen, recvmsg, send, socket_with,
};
use rustix::process::{Pid, WaitOptions, wait};
use rustix::thread::UnshareFlags;

use super::attached::Listeners;
use super::log::{self, Lines, LogFile};
use super::protocol::{
    ContainerSpec, ContainerState, Exit, MESSAGE_BYTES, Reply, Request, SANDBOX_FILE, SOCKET, SandboxSpec,
};
use super::sys::{self, Fork};
use super::{child, root, socket_address};

/// Makes the namespaces and the first process of the sandbox described in `dir`. Its standard output and error are
/// closed when it answers.
pub(super) fn create(dir: &Path) -> Result<(), String> {
    let said = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let text = fs::read(dir.join(SANDBOX_FILE)).map_err(said("reading the sandbox's description"))?;
    let spec: SandboxSpec =
        serde_json::from_slice(&text).map_err(|error| format!("{SANDBOX_FILE}: {error}"))?;
    // A session of its own: no terminal's signals, and not the kubelet's.
    let _ = rustix::process::setsid();
    let mut namespaces = UnshareFlags::NEWUTS;
    if !spec.host_ipc {
        namespaces |= UnshareFlags::NEWIPC;
    }
    if !spec.host_network {
        namespaces |= UnshareFlags::NEWNET;
    }
    sys::unshare(namespaces).map_err(said("making namespaces"))?;
    rustix::system::sethostname(spec.hostname.as_bytes())
        .map_err(|error| format!("setting the host name: {error}"))?;
    if !spec.host_network {
        prepare_network().map_err(|error| format!("setting up loopback: {error}"))?;
    }
    for (name, value) in &spec.sysctls {
        let path = name.replace('.', "/");
        dyad_links::sysctl::write(&path, value)
            .map_err(|error| format!("setting {name} to {value:?}: {error}"))?;
    }
    let shim = Shim::new(dir).map_err(said("preparing the sandbox"))?;
    match sys::fork(libc::CLONE_NEWPID).map_err(said("starting the sandbox"))? {
        Fork::Parent(_) => Ok(()),
        Fork::Child => {
            shim.detach(dir);
            shim.run()
        }
    }
}

fn prepare_network() -> dyad_links::Result<()> {
    dyad_links::Handle::open()?.set_up("lo")?;
    // What container runtimes allow by default: low ports and ping without privileges. Not all kernels and user
    // namespaces let themselves be told, and programs with privileges need neither.
    let _ = dyad_links::sysctl::write("net/ipv4/ip_unprivileged_port_start", "0");
    let _ = dyad_links::sysctl::write("net/ipv4/ping_group_range", "0\t2147483647")
        .or_else(|_| dyad_links::sysctl::write("net/ipv4/ping_group_range", "0\t0"));
    Ok(())
}

struct Container {
    state: ContainerState,
    pid: Pid,
    spec: ContainerSpec,
    report: File,
    log: LogFile,
    outputs: Vec<Output>,
    input: Option<OwnedFd>,
    /// Keeps the image it runs from.
    _image: Option<File>,
}

struct Output {
    pipe: OwnedFd,
    stream: &'static str,
    lines: Lines,
}

struct Connection {
    socket: OwnedFd,
    watching: bool,
}

/// A command in a container: its process and who waits for it.
struct Command {
    pid: Pid,
    connection: u64,
}

/// A command that is asked for.
struct Asked {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    working_dir: Option<PathBuf>,
    tty: bool,
}

/// What a poll entry stands for.
enum Source {
    Children,
    Listener,
    Connection(u64),
    Output(String, i32),
    Attached(u64),
}

struct Shim {
    dir: PathBuf,
    listener: OwnedFd,
    children: OwnedFd,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    containers: BTreeMap<String, Container>,
    commands: Vec<Command>,
    listeners: Listeners,
    buffer: Vec<u8>,
}

impl Shim {
    fn new(dir: &Path) -> io::Result<Self> {
        sys::block_signals()?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let folder = File::open(dir)?;
        let (address, _) = socket_address(&folder)?;
        match fs::remove_file(dir.join(SOCKET)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        bind(&listener, &address)?;
        Ok(Self {
            dir: dir.to_owned(),
            listener,
            children: sys::signal_descriptor()?,
            connections: BTreeMap::new(),
            next_connection: 0,
            containers: BTreeMap::new(),
            commands: Vec::new(),
            listeners: Listeners::default(),
            buffer: vec![0; MESSAGE_BYTES],
        })
    }

    /// Starts to answer (whoever connects is shown the process that did this), then lets go of the kubelet's pipes, on
    /// the closing of which it waits; problems go to a file of the pod from here on.
    fn detach(&self, dir: &Path) {
        if let Err(error) = listen(&self.listener, 16) {
            eprintln!("listening: {error}");
            sys::exit(1);
        }
        sys::hide_memory();
        let _ = rustix::thread::set_name(c"dyad-sandbox");
        let null = File::options().read(true).write(true).open("/dev/null");
        let log = File::options().append(true).create(true).open(dir.join("sandbox.log"));
        if let (Ok(null), Ok(log)) = (null, log) {
            for (from, to) in [(&null, 0), (&null, 1), (&log, 2)] {
                let _ = sys::duplicate_to(from, to);
            }
        }
        let _ = rustix::process::chdir("/");
    }

    fn run(mut self) -> ! {
        loop {
            let (sources, ready) = match self.wait() {
                Ok(ready) => ready,
                Err(error) => {
                    eprintln!("waiting: {error}");
                    continue;
                }
            };
            for (source, ready) in sources.into_iter().zip(ready) {
                if !ready {
                    continue;
                }
                match source {
                    Source::Children => self.reap(),
                    Source::Listener => self.accept(),
                    Source::Connection(id) => self.serve(id),
                    Source::Output(name, pipe) => drop(self.copy_output(&name, pipe)),
                    Source::Attached(id) => self.listeners.flush(id),
                }
            }
        }
    }

    /// Sleeps until something can be done; what, in the order of the first list.
    fn wait(&self) -> io::Result<(Vec<Source>, Vec<bool>)> {
        let mut sources = vec![Source::Children, Source::Listener];
        let mut entries =
            vec![PollFd::new(&self.children, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        for (id, connection) in &self.connections {
            sources.push(Source::Connection(*id));
            entries.push(PollFd::new(&connection.socket, PollFlags::IN));
        }
        for (id, pipe, events) in self.listeners.entries() {
            sources.push(Source::Attached(id));
            entries.push(PollFd::new(pipe, events));
        }
        // Who listens sets the pace, as with other container runtimes: nothing is kept for them, and nothing lost.
        for (name, container) in self.containers.iter().filter(|(name, _)| !self.listeners.hold_up(name)) {
            for output in &container.outputs {
                sources.push(Source::Output(name.clone(), output.pipe.as_raw_fd()));
                entries.push(PollFd::new(&output.pipe, PollFlags::IN));
            }
        }
        poll(&mut entries, None)?;
        let ready = entries.iter().map(|entry| !entry.revents().is_empty()).collect();
        Ok((sources, ready))
    }

    fn accept(&mut self) {
        if let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            self.connections.insert(self.next_connection, Connection { socket, watching: false });
            self.next_connection += 1;
        }
    }

    fn serve(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else { return };
        match receive(&connection.socket, &mut self.buffer) {
            Ok(Some((length, streams))) => {
                let reply = match serde_json::from_slice(&self.buffer[..length]) {
                    Ok(request) => self.answer(id, request, streams),
                    Err(error) => Some(Reply::Problem(format!("not a request: {error}"))),
                };
                if let Some(reply) = reply {
                    self.reply(id, &reply);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => self.hang_up(id),
        }
    }

    /// Nobody waits for the commands of this connection any more.
    fn hang_up(&mut self, id: u64) {
        self.connections.remove(&id);
        for command in self.commands.iter().filter(|command| command.connection == id) {
            let _ = sys::kill(command.pid, libc::SIGTERM);
        }
    }

    fn reply(&mut self, id: u64, reply: &Reply) {
        let Some(connection) = self.connections.get(&id) else { return };
        let bytes = serde_json::to_vec(reply).unwrap_or_default();
        // A kubelet that does not read is as good as gone; it will connect again and get the whole state.
        if send(&connection.socket, &bytes, SendFlags::NOSIGNAL).is_err() {
            self.hang_up(id);
        }
    }

    fn answer(&mut self, id: u64, request: Request, streams: Vec<OwnedFd>) -> Option<Reply> {
        let reply = match request {
            Request::Start { name, attempt, spec } => match self.start(name, attempt, &spec) {
                Ok(state) => Reply::States(vec![state]),
                Err(problem) => Reply::Problem(problem),
            },
            Request::Signal { name, attempt, signal } => match self.containers.get(&name) {
                Some(container) if container.state.attempt == attempt && container.state.exit.is_none() => {
                    let own = container.spec.stop_signal;
                    let signal = if signal == libc::SIGTERM && own > 0 { own } else { signal };
                    match sys::kill(container.pid, signal) {
                        Ok(()) => Reply::Done,
                        Err(error) => Reply::Problem(error.to_string()),
                    }
                }
                // It has ended already, which is what most signals are sent for.
                _ => Reply::Done,
            },
            Request::Exec { name, argv, env, working_dir, tty } => {
                match self.exec(id, &name, Asked { argv, env, working_dir, tty }, &streams) {
                    Ok(()) => return None,
                    Err(problem) => Reply::Problem(problem),
                }
            }
            Request::Attach { name } => match self.attach(id, &name, streams) {
                Ok(()) => return None,
                Err(problem) => Reply::Problem(problem),
            },
            Request::EndInput { name } => {
                if let Some(container) =
                    self.containers.get_mut(&name).filter(|container| !container.spec.tty)
                {
                    container.input = None;
                }
                Reply::Done
            }
            Request::Watch => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.watching = true;
                }
                Reply::States(self.containers.values().map(|container| container.state.clone()).collect())
            }
        };
        Some(reply)
    }

    fn start(&mut self, name: String, attempt: u32, file: &Path) -> Result<ContainerState, String> {
        if self.containers.get(&name).is_some_and(|container| container.state.exit.is_none()) {
            return Err(format!("container {name} is running already"));
        }
        let text = fs::read(file).map_err(|error| format!("reading the specification of {name}: {error}"))?;
        let _ = fs::remove_file(file);
        let spec: ContainerSpec =
            serde_json::from_slice(&text).map_err(|error| format!("the specification of {name}: {error}"))?;
        let log =
            LogFile::open(&spec.log).map_err(|error| format!("opening {}: {error}", spec.log.display()))?;
        let new_root = self.dir.join("root");
        fs::create_dir_all(&new_root).map_err(|error| format!("making {}: {error}", new_root.display()))?;
        let target = match &spec.target {
            Some(target) => Some(self.running_container(target)?.pid),
            None => None,
        };
        let image = spec.image.as_ref().map(root::image::hold).transpose()?;
        let started = child::start(&spec, &new_root, target)?;
        let mut outputs = Vec::new();
        for (pipe, stream) in started.outputs {
            rustix::io::ioctl_fionbio(&pipe, true).map_err(|error| error.to_string())?;
            outputs.push(Output { pipe, stream, lines: Lines::of(stream) });
        }
        let pid = started.pid.as_raw_nonzero().get();
        let state = ContainerState { name: name.clone(), attempt, started_at: now(), exit: None, pid };
        let container = Container {
            state: state.clone(),
            pid: started.pid,
            spec,
            report: started.report,
            log,
            outputs,
            input: started.input,
            _image: image,
        };
        self.containers.insert(name, container);
        Ok(state)
    }

    fn exec(&mut self, connection: u64, name: &str, asked: Asked, streams: &[OwnedFd]) -> Result<(), String> {
        let container = self.running_container(name)?;
        let mut spec = container.spec.clone();
        spec.argv = asked.argv;
        spec.env.extend(asked.env);
        spec.working_dir = asked.working_dir.or(spec.working_dir);
        let pid = child::exec(&spec, container.pid, streams, asked.tty)?;
        self.commands.push(Command { pid, connection });
        Ok(())
    }

    /// Copies what a container writes from now on, and hands out its input with the answer.
    fn attach(&mut self, connection: u64, name: &str, streams: Vec<OwnedFd>) -> Result<(), String> {
        let container = self.running_container(name)?;
        let input: Vec<_> = container.input.iter().map(AsFd::as_fd).collect();
        let bytes = serde_json::to_vec(&Reply::Done).unwrap_or_default();
        let Some(connection) = self.connections.get(&connection) else { return Ok(()) };
        super::send_bytes(&connection.socket, &bytes, &input).map_err(|error| error.to_string())?;
        for (pipe, stream) in streams.into_iter().zip(["stdout", "stderr"]) {
            self.listeners.add(name, stream, pipe).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn running_container(&self, name: &str) -> Result<&Container, String> {
        let found = self.containers.get(name).filter(|container| container.state.exit.is_none());
        found.ok_or_else(|| format!("container {name} is not running"))
    }

    /// Takes note of everything that has ended, orphans included.
    fn reap(&mut self) {
        // The signal says only that there is something; one may stand for many.
        let _ = rustix::io::read(&self.children, &mut self.buffer[..]);
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(at) = self.commands.iter().position(|command| command.pid == pid) {
                let command = self.commands.swap_remove(at);
                let (code, signal) = child::ended(status);
                self.reply(command.connection, &Reply::Exited(exit(code, signal)));
            } else if let Some(name) = self.running(pid) {
                self.container_ended(&name, child::ended(status));
            }
        }
    }

    fn running(&self, pid: Pid) -> Option<String> {
        let mut running = self.containers.values().filter(|container| container.state.exit.is_none());
        running.find(|container| container.pid == pid).map(|container| container.state.name.clone())
    }

    fn container_ended(&mut self, name: &str, ended: (i32, i32)) {
        // What it wrote last is in the pipes; they have no writers left.
        let pipes: Vec<_> = self
            .containers
            .get(name)
            .map(|container| container.outputs.iter().map(|output| output.pipe.as_raw_fd()).collect())
            .unwrap_or_default();
        for pipe in pipes {
            while self.copy_output(name, pipe) {}
        }
        self.listeners.end(name);
        let Some(container) = self.containers.get_mut(name) else { return };
        container.input = None;
        // Of an image's program this is how it ended itself; else its first process tells.
        let is_program = container.spec.image.is_some();
        let (code, signal) = if is_program { ended } else { child::read_report(&mut container.report) };
        container.state.exit = Some(exit(code, signal));
        let change = Reply::States(vec![container.state.clone()]);
        let watching: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.watching)
            .map(|(id, _)| *id)
            .collect();
        for id in watching {
            self.reply(id, &change);
        }
    }

    /// Copies what there is from a pipe to the log; whether there may be more.
    fn copy_output(&mut self, name: &str, pipe: i32) -> bool {
        let Some(container) = self.containers.get_mut(name) else { return false };
        let Some(at) = container.outputs.iter().position(|output| output.pipe.as_raw_fd() == pipe) else {
            return false;
        };
        let output = &mut container.outputs[at];
        match rustix::io::read(&output.pipe, &mut self.buffer[..]) {
            Err(rustix::io::Errno::INTR) => true,
            Err(rustix::io::Errno::AGAIN) => false,
            Ok(0) | Err(_) => {
                let entries = output.lines.finish(&timestamp());
                log::write(&mut container.log, &entries);
                container.outputs.swap_remove(at);
                false
            }
            Ok(length) => {
                self.listeners.copy(name, output.stream, &self.buffer[..length]);
                let entries = output.lines.push(&self.buffer[..length], &timestamp());
                log::write(&mut container.log, &entries);
                true
            }
        }
    }
}

/// A message and the descriptors with it; `None` when the other side is gone.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = ancillary {
            descriptors.extend(rights);
        }
    }
    Ok((message.bytes > 0).then_some((message.bytes, descriptors)))
}

fn exit(code: i32, signal: i32) -> Exit {
    Exit { code, signal, finished_at: now(), problem: None }
}

/// Nanoseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}
