//! Which data plane runs, and the eBPF one beside nftables, which always does.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dyad_ebpf::Executor;
use dyad_links::netns;
use dyad_net::IpFamily;
use dyad_program::{Compiler, Endpoint, Entry, Frontend, Op, Program, Scope};
use tracing::{debug, info, warn};

use crate::AgentError;
use crate::cgroup::{self, NoCgroup};
use crate::config::{Config, Dataplane};

/// The file, in a directory of what is forgotten when the machine restarts, that names the cgroup with programs of ours.
const NOTE: &str = "cgroup";
/// Where container runtimes bind the namespaces of pods.
const NETNS: &str = "/run/netns";

/// What was chosen.
#[derive(Debug)]
pub(crate) struct Choice {
    /// eBPF, if that is it.
    pub(crate) sockets: Option<Sockets>,
    /// `ebpf`, or `nftables` and why.
    pub(crate) text: String,
}

/// Chooses what the configuration and this machine allow. An error only if eBPF is asked for and can't be had.
///
/// Programs that an agent before has left elsewhere are taken back: nobody would tell them of changes.
pub(crate) fn choose(config: &Config) -> Result<Choice, AgentError> {
    let choice = choose_one(config)?;
    let (before, now) =
        (noted(config.run_dir.as_deref()), choice.sockets.as_ref().map(|sockets| &*sockets.cgroup));
    if before.as_deref() != now {
        if let Some(before) = before.filter(|before| before.exists()) {
            info!(cgroup = %before.display(), detached = detach(&before), "eBPF programs of an agent before");
        }
        note(config.run_dir.as_deref(), now);
    }
    Ok(choice)
}

/// The cgroup that programs of ours were attached to last.
pub(crate) fn noted(run_dir: Option<&Path>) -> Option<PathBuf> {
    let text = fs::read(run_dir?.join(NOTE)).ok()?;
    Some(PathBuf::from(OsString::from_vec(text)))
}

/// Notes which one it is, before they are.
pub(crate) fn note(run_dir: Option<&Path>, cgroup: Option<&Path>) {
    let Some(dir) = run_dir else { return };
    let written = match cgroup {
        Some(cgroup) => fs::create_dir_all(dir)
            .and_then(|()| fs::write(dir.join(NOTE), cgroup.as_os_str().as_encoded_bytes())),
        None => fs::remove_file(dir.join(NOTE)),
    };
    if let Err(error) = written
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(dir = %dir.display(), %error, "can't note which cgroup has eBPF programs of ours");
    }
}

fn choose_one(config: &Config) -> Result<Choice, AgentError> {
    let nftables = |why: String| Choice { sockets: None, text: format!("nftables: {why}") };
    let cgroup = match &config.cgroup {
        Some(given) => Ok(given.clone()),
        None if config.find_cgroup => cgroup::pods_cgroup(),
        None => Err(NoCgroup::NotGiven),
    };
    let opened = match (config.dataplane, cgroup) {
        (Dataplane::Nftables, cgroup) => {
            // What an agent with other orders has left would go on as it was.
            if let Some(cgroup) = cgroup.ok().filter(|cgroup| cgroup.exists()) {
                detach(&cgroup);
            }
            return Ok(nftables("chosen by configuration".into()));
        }
        (Dataplane::Auto | Dataplane::Ebpf, Ok(cgroup)) => {
            info!(cgroup = %cgroup.display(), "looking whether eBPF can serve these processes");
            Sockets::open(&cgroup).map_err(AgentError::from)
        }
        (Dataplane::Auto | Dataplane::Ebpf, Err(error)) => Err(error.into()),
    };
    match opened {
        Ok(sockets) => Ok(Choice { sockets: Some(sockets), text: "ebpf".into() }),
        Err(error) if config.dataplane == Dataplane::Ebpf => Err(error),
        Err(error) => {
            // The kind of error says nothing that its causes do not.
            let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), crate::with_causes);
            Ok(nftables(why))
        }
    }
}

/// Takes programs of ours from a cgroup, where that can be done at all.
pub(crate) fn detach(cgroup: &Path) -> bool {
    match Executor::open(cgroup).and_then(|mut executor| executor.cleanup()) {
        Ok(()) => true,
        Err(error) => {
            debug!(error = crate::with_causes(&error), "looking for eBPF programs of ours");
            false
        }
    }
}

/// The eBPF data plane.
#[derive(Debug)]
pub(crate) struct Sockets {
    executor: Executor,
    cgroup: PathBuf,
    /// Whether its maps must be compared with the whole program.
    is_behind: bool,
    /// The node's ends of the pods' links, as they were told last.
    pods: BTreeMap<IpAddr, u32>,
    addresses: BTreeSet<IpAddr>,
    /// Frontends that nftables serves alone.
    left: BTreeSet<Frontend>,
    /// Endpoints that frontends led to, and that have not ended yet.
    leaving: BTreeSet<(IpFamily, Frontend, Endpoint)>,
}

impl Sockets {
    fn open(cgroup: &Path) -> Result<Self, dyad_ebpf::Error> {
        dyad_ebpf::probe()?;
        if let Err(error) = fs::create_dir_all(cgroup) {
            warn!(cgroup = %cgroup.display(), %error, "can't make the cgroup");
        }
        Ok(Self {
            executor: Executor::open(cgroup)?,
            cgroup: cgroup.to_path_buf(),
            is_behind: true,
            pods: BTreeMap::new(),
            addresses: BTreeSet::new(),
            left: BTreeSet::new(),
            leaving: BTreeSet::new(),
        })
    }

    /// Carries out what has changed. If that fails, the next time everything is compared.
    pub(crate) fn follow(&mut self, program: &Program, ops: &[Op]) -> Result<(), dyad_ebpf::Error> {
        let done = match self.is_behind {
            true => self.executor.apply(program),
            false if ops.is_empty() => return Ok(()),
            false => self.executor.update(program, ops),
        };
        if std::mem::replace(&mut self.is_behind, done.is_err()) && !self.is_behind {
            info!(report = ?done, "eBPF programs serve the sockets of pods");
        }
        done.map(drop)
    }

    /// Leaves frontends to nftables, and takes back those of before.
    pub(crate) fn leave(
        &mut self,
        program: &Program,
        left: BTreeSet<Frontend>,
    ) -> Result<(), dyad_ebpf::Error> {
        if self.left != left {
            // Half of it may be done when it fails.
            self.is_behind = true;
            self.executor.leave(program, &left)?;
            (self.left, self.is_behind) = (left, false);
        }
        Ok(())
    }

    /// Attaches again what somebody has detached; whether there was anything.
    pub(crate) fn mend(&mut self) -> Result<bool, dyad_ebpf::Error> {
        self.executor.mend()
    }

    /// The addresses of the node.
    pub(crate) fn set_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), dyad_ebpf::Error> {
        if self.addresses != *addresses {
            self.executor.set_node_addresses(addresses)?;
            self.addresses.clone_from(addresses);
        }
        Ok(())
    }

    /// The pods that packets may take the short way to: their addresses, and the node's ends of their links.
    pub(crate) fn set_pods(&mut self, pods: BTreeMap<IpAddr, u32>) -> Result<(), dyad_ebpf::Error> {
        if self.pods != pods {
            self.executor.attach_pods(&pods)?;
            self.pods = pods;
        }
        Ok(())
    }

    /// Ends connections to endpoints that have gone for good, in every network namespace of the cgroup: nobody else
    /// would tell their clients.
    pub(crate) fn reset_gone(&mut self, compiler: &Compiler, ops: &[Op]) {
        for op in ops {
            if let Op::Remove(family, Entry::Endpoint(Scope::Cluster, at, _, endpoint)) = op {
                self.leaving.insert((*family, *at, *endpoint));
            }
        }
        let ended = |(family, at, endpoint): &(IpFamily, Frontend, Endpoint)| {
            !compiler.serves(*family, *at, *endpoint)
        };
        let mut gone: BTreeSet<Endpoint> =
            self.leaving.extract_if(.., |leaving| ended(leaving)).map(|(_, _, endpoint)| endpoint).collect();
        if gone.is_empty() {
            return;
        }
        // One that has gone from one Service may serve another.
        for (_, _, endpoint) in &self.leaving {
            gone.remove(endpoint);
        }
        for endpoint in compiler.program().iter().flat_map(|(_, table)| table.endpoints.values()) {
            gone.remove(endpoint);
        }
        if gone.is_empty() {
            return;
        }
        let mut ended = 0;
        for place in namespaces(&self.cgroup, Path::new(NETNS)) {
            let (executor, gone) = (&self.executor, &gone);
            // A pod that has ended meanwhile has no connections any more.
            let Ok(netns) = fs::File::open(&place) else { continue };
            let at = place.display();
            match netns::within(netns.as_fd(), || executor.reset_sockets(gone)) {
                Ok(Ok(count)) => ended += count,
                Ok(Err(error)) => debug!(%at, error = crate::with_causes(&error), "ending connections"),
                Err(error) => debug!(%at, error = crate::with_causes(&error), "entering a pod's namespace"),
            }
        }
        if ended > 0 {
            info!(ended, "ended connections to endpoints that have gone");
        }
    }
}

/// Whether container runtimes name namespaces of pods so: `cni-...` (containerd), or by a UUID (CRI-O).
fn is_of_pod(name: &str) -> bool {
    name.starts_with("cni-") || name.len() == 36 && name.split('-').count() == 5
}

/// Where each network namespace of pods is: that of a process of the cgroup or those below it, or one that a container
/// runtime has bound to a name. In a container without the machine's processes there are only those.
fn namespaces(cgroup: &Path, bound: &Path) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    let mut add = |place: PathBuf| {
        let of = fs::metadata(&place).map(|of| (of.dev(), of.ino()));
        if of.is_ok_and(|of| seen.insert(of)) {
            found.push(place);
        }
    };
    let bound = fs::read_dir(bound).into_iter().flatten().filter_map(Result::ok);
    bound.filter(|of| of.file_name().to_str().is_some_and(is_of_pod)).for_each(|of| add(of.path()));
    let mut open = vec![cgroup.to_path_buf()];
    while let Some(dir) = open.pop() {
        let below = fs::read_dir(&dir).into_iter().flatten().filter_map(Result::ok);
        open.extend(
            below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|of| of.path()),
        );
        let processes = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        // Those that this one can't see are 0.
        for pid in processes.lines().filter(|pid| *pid != "0") {
            add(format!("/proc/{pid}/ns/net").into());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_namespace_of_pods_is_looked_into_once() {
        let (cgroup, bound) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let below = cgroup.path().join("pod");
        fs::create_dir(&below).unwrap();
        let mine = std::process::id();
        fs::write(cgroup.path().join("cgroup.procs"), "0\n0\n").unwrap();
        fs::write(below.join("cgroup.procs"), format!("{mine}\n0\n4194305\n")).unwrap();
        let by_process = [PathBuf::from(format!("/proc/{mine}/ns/net"))];
        assert_eq!(namespaces(cgroup.path(), &bound.path().join("none")), by_process);
        // Of another kind, so that they are others.
        for (name, of) in [
            ("cni-1", "net"),
            ("cni-2", "net"),
            ("7c1e3f0a-0000-4000-8000-1234567890ab", "uts"),
            ("mine", "ipc"),
        ] {
            std::os::unix::fs::symlink(format!("/proc/self/ns/{of}"), bound.path().join(name)).unwrap();
        }
        let found = namespaces(cgroup.path(), bound.path());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|place| place.starts_with(bound.path()) && !place.ends_with("mine")));
    }
}
