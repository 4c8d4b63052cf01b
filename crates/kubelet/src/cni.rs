//! Pods connected by CNI plugins, as the container runtimes of other clusters have it: the CNI specification, and what
//! libcni and containerd do where it leaves a choice.
//!
//! The namespace of a pod has a path (`/var/run/netns/cni-...`), by which the plugins find it, and by which a pod of the
//! node's network finds it too, where the directory is shared with that one.

mod conf;
mod exec;
mod kept;
mod request;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dyad_net::IpFamily;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::Plugins;
use crate::error::Error;
use conf::List;
use exec::Call;
use kept::{Entry, Kept};
use request::Sandbox;

/// Between two looks at the directory with configurations, while there is none and later.
const FIRST_LOOKS: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_secs(1);
/// How often plugins that can tell are asked how they are.
const ASK: Duration = Duration::from_secs(10);
/// What a node says that has no network, in the words of kubelet and containerd.
const NOT_READY: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: ";
const NOT_INITIALIZED: &str = "cni plugin not initialized";

/// Whether pods can be connected, or why not.
pub(crate) type Readiness = Result<(), String>;

/// Calls the plugins of one node.
#[derive(Debug)]
pub(crate) struct Runtime {
    paths: Plugins,
    primary: IpFamily,
    network: watch::Sender<Option<Arc<List>>>,
}

impl Runtime {
    /// For the plugins at `paths`, and a node whose first address is of family `primary`.
    pub(crate) fn new(paths: Plugins, primary: IpFamily) -> Self {
        Self { paths, primary, network: watch::Sender::new(None) }
    }

    /// Follows the directory with configurations; never ends.
    pub(crate) async fn follow(&self, readiness: watch::Sender<Readiness>) -> std::convert::Infallible {
        let (mut said, mut next_question) = (None, Instant::now());
        loop {
            let found = match conf::load(&self.paths.conf_dir) {
                Ok(found) => found,
                Err(problem) => {
                    if said.as_ref() != Some(&problem) {
                        warn!(problem, "the network configuration cannot be used");
                        said = Some(problem);
                    }
                    None
                }
            };
            let changed = self.network.borrow().as_deref() != found.as_ref();
            if changed {
                info!(network = found.as_ref().map(|list| list.name.as_str()), "the network of pods");
                self.network.send_replace(found.map(Arc::new));
            }
            let list = self.network.borrow().clone();
            if changed || next_question <= Instant::now() || list.is_none() {
                next_question = Instant::now() + ASK;
                let now = match &list {
                    None => Err(NOT_INITIALIZED.to_owned()),
                    Some(list) => self.status(list).await,
                };
                let now = now.map_err(|problem| format!("{NOT_READY}{problem}"));
                readiness.send_if_modified(|known| {
                    let changed = *known != now;
                    *known = now;
                    changed
                });
            }
            let is_ready = readiness.borrow().is_ok();
            tokio::time::sleep(if is_ready { LOOK } else { FIRST_LOOKS }).await;
            if !is_ready && list.is_some() {
                // Who is not ready may be at any time, but is not asked all the time.
                next_question = next_question.min(Instant::now() + LOOK);
            }
        }
    }

    /// What a node says before anybody has looked.
    pub(crate) fn unknown() -> Readiness {
        Err(format!("{NOT_READY}{NOT_INITIALIZED}"))
    }

    /// Asks the plugins whether they can connect pods, where their version has words for that.
    async fn status(&self, list: &List) -> Result<(), String> {
        if !list.has_status() {
            return Ok(());
        }
        for plugin in &list.plugins {
            let call = Call { verb: "STATUS", sandbox: None, args: &[], bin_dirs: &self.paths.bin_dirs };
            let input = request::input(list, plugin, None, &Map::new());
            call.run(plugin, &input).await?;
        }
        Ok(())
    }

    /// Attaches a pod whose state is in `dir` to the network; its addresses, the node's primary family first.
    pub(crate) async fn attach(&self, pod: &Pod, dir: &Path, netns: &OwnedFd) -> Result<Vec<IpAddr>, Error> {
        let list = self.network.borrow().clone();
        let list = list.ok_or_else(|| Error::NetworkNotReady(format!("{NOT_READY}{NOT_INITIALIZED}")))?;
        let container_id = container_id(pod);
        let kept = Kept {
            netns: self.paths.netns_dir.join(format!("cni-{container_id}")),
            network: list.name.clone(),
            container_id: container_id.clone(),
        };
        let mut entry = Entry::new(
            &list,
            &container_id,
            request::args(pod, &container_id),
            request::capability_args(pod),
        );
        let attached = async {
            let written = kept.write(dir).and_then(|()| entry.write(&kept.entry(&self.paths.cache_dir)));
            written.map_err(|error| format!("writing down the attachment: {error}"))?;
            bind(netns, &kept.netns)
                .map_err(|error| format!("naming the namespace {}: {error}", kept.netns.display()))?;
            let result = self.add(&list, &kept, &entry).await?;
            let ips = request::addresses(&result, self.primary)?;
            entry.result = Some(result);
            let written = entry.write(&kept.entry(&self.paths.cache_dir));
            written.map_err(|error| format!("writing down the result: {error}"))?;
            Ok(ips)
        };
        let attached: Result<Vec<IpAddr>, String> = attached.await;
        match attached {
            Ok(ips) => Ok(ips),
            Err(problem) => {
                // What was made of it is taken back; the error that counts is the first one.
                if let Err(error) = self.detach(dir).await {
                    warn!(error = %error.full(), container_id, "taking a failed attachment back");
                }
                Err(Error::Pod(format!("failed to setup network for sandbox {container_id:?}: {problem}")))
            }
        }
    }

    async fn add(&self, list: &List, kept: &Kept, entry: &Entry) -> Result<Value, String> {
        let mut result = None;
        for plugin in &list.plugins {
            let call = self.call("ADD", kept, entry);
            let input = request::input(list, plugin, result.as_ref(), &entry.capability_args);
            result = Some(call.run(plugin, &input).await?);
        }
        result.filter(Value::is_object).ok_or_else(|| "the plugins gave no result".into())
    }

    fn call<'a>(&'a self, verb: &'static str, kept: &Kept, entry: &'a Entry) -> Call<'a> {
        let netns = kept.netns.exists().then(|| kept.netns.display().to_string());
        let sandbox = Some(Sandbox { container_id: kept.container_id.clone(), netns });
        Call { verb, sandbox, args: &entry.cni_args, bin_dirs: &self.paths.bin_dirs }
    }

    /// Takes the pod whose state is in `dir` off the network; nothing to do if it was not on it.
    pub(crate) async fn detach(&self, dir: &Path) -> Result<(), Error> {
        let Some(kept) = Kept::read(dir) else { return Ok(()) };
        let path = kept.entry(&self.paths.cache_dir);
        // Without an entry no plugin was ever called: it is written before.
        if let Some(entry) = Entry::read(&path) {
            let failed = |problem: String| {
                Error::Pod(format!(
                    "failed to destroy network for sandbox {:?}: {problem}",
                    kept.container_id
                ))
            };
            let list = entry.list().map_err(failed)?;
            let previous = entry.result.as_ref().filter(|_| list.hands_results_on());
            for plugin in list.plugins.iter().rev() {
                let input = request::input(&list, plugin, previous, &entry.capability_args);
                self.call("DEL", &kept, &entry).run(plugin, &input).await.map_err(failed)?;
            }
        }
        self.forget(dir, &kept);
        Ok(())
    }

    /// Gives up what is left of an attachment that its plugins do not take back.
    pub(crate) fn abandon(&self, dir: &Path) {
        if let Some(kept) = Kept::read(dir) {
            self.forget(dir, &kept);
        }
    }

    fn forget(&self, dir: &Path, kept: &Kept) {
        // Not there, or not mounted: both are what is wanted.
        let _ = fs::remove_file(kept.entry(&self.paths.cache_dir));
        let _ = unmount(&kept.netns, UnmountFlags::DETACH);
        let _ = fs::remove_file(&kept.netns);
        Kept::forget(dir);
    }

    /// Asks the plugins whether a pod is still attached as it was; what they complain of.
    pub(crate) async fn check(&self, dir: &Path) -> Result<(), String> {
        let Some(kept) = Kept::read(dir) else { return Ok(()) };
        let Some(entry) = Entry::read(&kept.entry(&self.paths.cache_dir)) else { return Ok(()) };
        let list = entry.list()?;
        if !list.can_check {
            return Ok(());
        }
        for plugin in &list.plugins {
            let input = request::input(&list, plugin, entry.result.as_ref(), &entry.capability_args);
            self.call("CHECK", &kept, &entry).run(plugin, &input).await?;
        }
        Ok(())
    }
}

/// An identifier that no sandbox has had: the pod's, and the time.
fn container_id(pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let digits: String = uid.chars().filter(char::is_ascii_hexdigit).collect();
    format!("{digits:0>32.32}{:032x}", Timestamp::now().as_nanosecond())
}

/// Gives a namespace a path.
fn bind(netns: &OwnedFd, path: &PathBuf) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::File::create(path)?;
    Ok(mount_bind(format!("/proc/self/fd/{}", netns.as_raw_fd()), path)?)
}

#[cfg(test)]
mod tests;
