//! Making a pod's sandbox, and connecting it to the network: by the kubelet itself, or by plugins.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dyad_net::DualStack;
use tracing::warn;

use super::{Worker, blocking};
use crate::error::Error;
use crate::kubelet::{forget_addresses, read_addresses, write_addresses};
use crate::network::Wiring;
use crate::pod;
use crate::pod::title;
use crate::sandbox::{Sandbox, SandboxError, SandboxSpec};

/// How often plugins are asked to take a pod off the network that do not, and after how long again.
const DETACH_TRIES: u32 = 5;
const DETACH_WAIT: Duration = Duration::from_secs(1);
/// How long the kernel is waited for when it ends a sandbox that could not be connected.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Worker {
    pub(super) async fn make_sandbox(&mut self) -> Result<(), Error> {
        let dir = self.dir();
        fs::create_dir_all(&dir).map_err(Error::file(format!("making {}", dir.display())))?;
        if self.spec.host_pid == Some(true) {
            let text = "hostPID is not supported: containers see the processes of their pod only";
            self.tell(None, true, "HostPIDNotSupported", text.into());
        }
        let spec = SandboxSpec {
            hostname: self.hostname(),
            host_network: self.is_host_network(),
            host_ipc: self.spec.host_ipc == Some(true),
            sysctls: pod::sysctls(&self.spec).map_err(Error::Pod)?,
        };
        let made = match &self.shared.network {
            Wiring::Plugins(_) if !spec.host_network => self.make_attached(dir, spec).await,
            _ => self.make_connected(dir, spec).await,
        };
        let (sandbox, ips) = made.inspect_err(|_| self.release_addresses())?;
        self.ips = ips;
        self.attach(sandbox);
        if self.sandbox.is_none() { Err(SandboxError::Gone.into()) } else { Ok(()) }
    }

    /// With addresses of the node's ranges and a link of our own, or the node's network.
    async fn make_connected(
        &mut self,
        dir: PathBuf,
        spec: SandboxSpec,
    ) -> Result<(Sandbox, Vec<IpAddr>), Error> {
        let addresses = self.take_addresses()?;
        let ips: Vec<IpAddr> = match &addresses {
            Some(addresses) => addresses.iter().map(|(_, ip)| *ip).collect(),
            None => self.shared.host_ips.clone(),
        };
        if let (Some(gate), Some(_)) = (&self.shared.config.gate, &addresses) {
            let passed = gate.pass(&self.pod, &ips).await;
            passed.map_err(|problem| Error::Pod(format!("network is not ready: {problem}")))?;
        }
        let (shared, key, cgroup) = (Arc::clone(&self.shared), self.uid().to_owned(), self.groups().make());
        let made = blocking(move || {
            let sandbox = shared.spawner.create(&dir, &spec, cgroup.as_deref())?;
            let connected = match (&shared.network, &addresses) {
                (Wiring::Own(network), Some(addresses)) => {
                    network.connect(&key, &sandbox.netns()?, addresses)
                }
                _ => Ok(()),
            };
            if connected.is_err() {
                // The error that counts is the first one.
                let _ = sandbox.kill();
            }
            connected.map(|()| sandbox)
        });
        Ok((made.await?, ips))
    }

    /// With what the plugins of the node's configuration give.
    async fn make_attached(
        &mut self,
        dir: PathBuf,
        spec: SandboxSpec,
    ) -> Result<(Sandbox, Vec<IpAddr>), Error> {
        let shared = Arc::clone(&self.shared);
        let Wiring::Plugins(runtime) = &shared.network else {
            return Err(Error::Pod("the node has no plugins".into()));
        };
        if let Err(problem) = &*shared.ready.borrow() {
            return Err(Error::NetworkNotReady(problem.clone()));
        }
        // Of a sandbox that is gone: another one is another container.
        runtime.detach(&dir).await?;
        forget_addresses(&dir);
        let (own, place, cgroup) = (Arc::clone(&shared), dir.clone(), self.groups().make());
        let made = blocking(move || {
            let sandbox = own.spawner.create(&place, &spec, cgroup.as_deref())?;
            let netns = sandbox.netns();
            Ok((sandbox, netns?))
        });
        let (sandbox, netns) = made.await?;
        let attached = match runtime.attach(&self.pod, &dir, &netns).await {
            Ok(ips) => write_addresses(&dir, &ips).map(|()| ips),
            Err(error) => Err(error),
        };
        match attached {
            Ok(ips) => Ok((sandbox, ips)),
            Err(error) => {
                let ended = blocking(move || {
                    sandbox.kill()?;
                    Ok(sandbox.wait(KILL_PATIENCE))
                });
                // The error that counts is the first one.
                let _ = ended.await;
                Err(error)
            }
        }
    }

    /// Has plugins take the pod off the network, if they are to and it is on it.
    pub(super) async fn detach(&mut self) {
        let (shared, dir) = (Arc::clone(&self.shared), self.dir());
        let Wiring::Plugins(runtime) = &shared.network else { return };
        for attempt in 1..=DETACH_TRIES {
            let Err(error) = runtime.detach(&dir).await else { return };
            self.tell(None, true, "FailedKillPod", format!("error killing pod: {}", error.full()));
            if attempt < DETACH_TRIES {
                tokio::time::sleep(DETACH_WAIT).await;
            }
        }
        warn!(pod = %title(&self.pod), "the plugins do not take the pod off the network; what they keep of it stays");
        runtime.abandon(&dir);
    }

    /// Asks plugins whether a pod that was found running is still on the network, and tells if it is not.
    pub(super) fn check_network(&self) {
        let (shared, dir, pod) = (Arc::clone(&self.shared), self.dir(), title(&self.pod));
        tokio::spawn(async move {
            let Wiring::Plugins(runtime) = &shared.network else { return };
            if let Err(problem) = runtime.check(&dir).await {
                warn!(pod, problem, "a pod that was found running is not on the network as it was");
            }
        });
    }

    /// Addresses for a pod with its own network, those it had if it had some; written down before they are used, so
    /// that a kubelet that comes after a crash knows them.
    fn take_addresses(&mut self) -> Result<Option<DualStack<IpAddr>>, Error> {
        if self.is_host_network() {
            return Ok(None);
        }
        let dir = self.dir();
        let had = read_addresses(&dir);
        if let Some(had) = DualStack::from_ordered(had.into_iter().map(|ip| (ip.into(), ip))) {
            return Ok(Some(had));
        }
        let family = self.shared.primary_family();
        let taken = self.shared.with_addresses(|addresses| addresses.take(family));
        let taken = taken.ok_or_else(|| {
            Error::Pod("network is not ready: the node has no pod ranges yet (spec.podCIDRs)".into())
        })?;
        let taken = taken
            .map_err(|family| Error::Pod(format!("no {family} address is left in the node's pod range")))?;
        let list: Vec<_> = taken.iter().map(|(_, ip)| *ip).collect();
        write_addresses(&dir, &list)?;
        Ok(Some(taken))
    }

    /// Gives the pod's addresses back.
    pub(super) fn release_addresses(&mut self) {
        let dir = self.dir();
        for ip in read_addresses(&dir) {
            self.shared.with_addresses(|addresses| addresses.release(ip));
        }
        forget_addresses(&dir);
    }
}
