//! What the kubelet and a sandbox's first process say to each other.
//!
//! One request and one reply per message on a `SOCK_SEQPACKET` socket in the pod's directory; JSON, so that a
//! kubelet of another version understands the sandboxes it finds. Fields are only ever added.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Name of the socket in the pod's directory.
pub(crate) const SOCKET: &str = "sandbox.sock";
/// Name of the file that says what sandbox to make.
pub(crate) const SANDBOX_FILE: &str = "sandbox.json";
/// Most bytes in a message; container specifications, which may be larger, are handed over as files.
pub(crate) const MESSAGE_BYTES: usize = 64 * 1024;

/// A sandbox to be made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Host name of the pod.
    pub hostname: String,
    /// Stay in the node's network namespace.
    pub host_network: bool,
    /// Stay in the node's IPC namespace.
    #[serde(default)]
    pub host_ipc: bool,
    /// Switches of its own namespaces, as `sysctl` names them.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
}

/// Which mounts made later on one side of a volume are seen on the other, as `mountPropagation` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// None.
    #[default]
    None,
    /// Those of the node in the container.
    HostToContainer,
    /// Those of the container on the node, too.
    Bidirectional,
}

/// Something mounted into a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// A file or directory outside.
    pub source: PathBuf,
    /// An absolute path inside.
    pub target: PathBuf,
    /// Whether writing is refused.
    pub read_only: bool,
    /// Which later mounts are seen.
    #[serde(default)]
    pub propagation: Propagation,
}

/// The image that a container runs from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRoot {
    /// Where it is unpacked.
    pub path: PathBuf,
    /// A directory for what the container writes, of this run alone.
    pub scratch: PathBuf,
    /// Whether it may write outside of volumes.
    pub read_only: bool,
}

/// A user as an image or a pod names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// A name or number, and perhaps a group after a colon; empty is root.
    pub user: String,
    /// In place of the group that the user has.
    pub group: Option<u32>,
    /// Whether the user's other groups come along.
    pub merge_groups: bool,
}

/// A container to be started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Program and arguments; a program without a slash is looked up in the container's `PATH`.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Directory to start in; the root if not given.
    pub working_dir: Option<PathBuf>,
    /// Volumes and files.
    pub mounts: Vec<Mount>,
    /// Host paths that stay hidden.
    pub masked: Vec<PathBuf>,
    /// User to run as, zero if not given.
    pub user: u32,
    /// Group to run as, zero if not given.
    pub group: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The capabilities that can be had, one bit each as in `capability.h`.
    pub capabilities: u64,
    /// Keep set-user-ID programs from raising privileges.
    pub no_new_privileges: bool,
    /// Leave `/proc` and `/sys` writable and all capabilities in place.
    pub privileged: bool,
    /// Where output goes.
    pub log: PathBuf,
    /// Keep a pipe to standard input open, for whoever attaches.
    #[serde(default)]
    pub stdin: bool,
    /// The standard streams are a terminal.
    #[serde(default)]
    pub tty: bool,
    /// The container whose processes it shall see, as one of them.
    #[serde(default)]
    pub target: Option<String>,
    /// The signal that asks it to end, where 15 is sent; zero is that.
    #[serde(default)]
    pub stop_signal: i32,
    /// Its processes are among those of the pod.
    #[serde(default)]
    pub share_processes: bool,
    /// Control groups that its processes join.
    #[serde(default)]
    pub cgroups: Vec<PathBuf>,
    /// The image it runs from; the host's root if not given.
    #[serde(default)]
    pub image: Option<ImageRoot>,
    /// Who it runs as, to be looked up in its root, in place of `user` and `group`.
    #[serde(default)]
    pub account: Option<Account>,
}

/// How a container or a command in it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status; 128 plus the signal if one killed it, 128 if it could not be started.
    pub code: i32,
    /// The signal that killed it, zero for none.
    pub signal: i32,
    /// Nanoseconds since 1970.
    pub finished_at: i64,
    /// Why it could not be started.
    pub problem: Option<String>,
}

/// A container as its sandbox sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Its name in the pod.
    pub name: String,
    /// How often it was started before.
    pub attempt: u32,
    /// Nanoseconds since 1970.
    pub started_at: i64,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
    /// The number of its first process in the sandbox; zero from sandboxes that do not say.
    #[serde(default)]
    pub pid: i32,
}

/// What the kubelet asks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    /// Start a container from the specification in this file, which is then deleted: it may hold secrets.
    Start { name: String, attempt: u32, spec: PathBuf },
    /// Send a signal to this run of a container; 9 ends all its processes.
    Signal { name: String, attempt: u32, signal: i32 },
    /// Run a command in a container, with the three descriptors that come along as standard streams; with `tty` it gets
    /// a terminal, whose other side is sent through the one socket that comes along.
    Exec {
        name: String,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        working_dir: Option<PathBuf>,
        #[serde(default)]
        tty: bool,
    },
    /// Copy what a container writes from now on to the pipes that come along, for output and error output. The answer
    /// comes with its terminal or the pipe to its input, if it has one.
    Attach { name: String },
    /// Nobody will write to the container's input any more.
    EndInput { name: String },
    /// Send the state of all containers now and the new state of each that changes.
    Watch,
}

/// What the sandbox answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reply {
    /// Done.
    Done,
    /// States, asked for or changed.
    States(Vec<ContainerState>),
    /// The command has ended.
    Exited(Exit),
    /// It could not be done.
    Problem(String),
}
