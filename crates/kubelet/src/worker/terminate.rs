//! Ending containers and pods.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Probe};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, warn};

use super::hear::read_states;
use super::{Worker, blocking};
use crate::network::Wiring;
use crate::pod::{containers, is_sidecar, title};
use crate::probe::{self, Target};
use crate::volumes;

const TERM: i32 = 15;
const KILL: i32 = 9;
/// What sidecars get at least once the others have ended.
const SIDECAR_GRACE: Duration = Duration::from_secs(2);
/// How long the kernel is waited for when it ends a pod's processes.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait until the API is asked again to forget the pod.
const DELETE_RETRY: Duration = Duration::from_secs(1);

impl Worker {
    /// Ends one container, which its restart policy may then start again.
    pub(super) fn stop(&mut self, name: &str, why: &str) {
        let Some(record) = self.records.get(name).filter(|record| record.is_running()) else { return };
        let Some(sandbox) = self.sandbox.clone() else { return };
        let (attempt, own, grace) = (record.restarts, name.to_owned(), self.grace());
        self.tell(Some(name), false, "Killing", format!("Container {name} {why}, will be restarted"));
        // It will not be asked any more; a verdict of before would end it twice.
        self.probers.remove(name);
        let hook = self.pre_stop(name);
        tokio::spawn(async move {
            let deadline = Instant::now() + grace;
            if let Some(hook) = hook {
                let _ = timeout_at(deadline, hook).await;
            }
            send(&sandbox, &own, attempt, TERM).await;
            sleep_until(deadline).await;
            // Ended long ago, most likely: then this does nothing.
            send(&sandbox, &own, attempt, KILL).await;
        });
    }

    /// Ends the whole pod within `grace`, or at once when it is gone from the API; then frees what it had.
    pub(super) async fn tear_down(&mut self, grace: Duration) {
        self.probers.clear();
        if self.sandbox.is_some() {
            let mut deadline = Instant::now() + grace;
            let hooks: Vec<_> =
                self.running(false).iter().filter_map(|(name, _)| self.pre_stop(name)).collect();
            if !hooks.is_empty() && !grace.is_zero() {
                let _ = timeout_at(deadline, futures::future::join_all(hooks)).await;
            }
            if !grace.is_zero() {
                self.end(false, deadline).await;
                if !self.running(true).is_empty() {
                    deadline = deadline.max(Instant::now() + SIDECAR_GRACE);
                    self.end(true, deadline).await;
                }
            }
        }
        self.detach().await;
        if let Some(sandbox) = self.sandbox.take() {
            let (shared, key) = (Arc::clone(&self.shared), self.uid().to_owned());
            let ended = blocking(move || {
                if let Wiring::Own(network) = &shared.network {
                    network.disconnect(&key)?;
                }
                sandbox.kill()?;
                Ok(sandbox.wait(KILL_PATIENCE))
            });
            match ended.await {
                Ok(true) => {}
                Ok(false) => {
                    warn!(pod = %title(&self.pod), "the kernel takes its time to end the pod's processes")
                }
                Err(error) => warn!(pod = %title(&self.pod), error = %error.full(), "ending the pod"),
            }
            self.lose_sandbox();
        }
        self.release_addresses();
        self.groups().remove();
    }

    /// Names and runs of the containers that run, sidecars or others.
    fn running(&self, sidecars: bool) -> Vec<(String, u32)> {
        let kind = |container: &Container, is_init: bool| (is_init && is_sidecar(container)) == sidecars;
        containers(&self.spec)
            .filter(|(container, is_init)| kind(container, *is_init))
            .filter_map(|(container, _)| {
                let record = self.records.get(&container.name)?;
                record.is_running().then(|| (container.name.clone(), record.restarts))
            })
            .collect()
    }

    /// Asks containers to end, and waits until they have or the time is up.
    async fn end(&mut self, sidecars: bool, mut deadline: Instant) {
        let running = self.running(sidecars);
        for (name, attempt) in &running {
            self.tell(Some(name), false, "Killing", format!("Stopping container {name}"));
            if let Some(sandbox) = self.sandbox.clone() {
                send(&sandbox, name, *attempt, TERM).await;
            }
        }
        while !self.running(sidecars).is_empty() {
            tokio::select! {
                states = read_states(&mut self.watch) => {
                    self.note(states);
                    if self.sandbox.is_none() {
                        return;
                    }
                }
                changed = self.wanted.changed() => {
                    // A shorter grace period counts from now; no pod means none at all.
                    self.absorb();
                    if changed.is_err() || self.wanted.borrow().is_none() {
                        return;
                    }
                    deadline = deadline.min(Instant::now() + self.grace());
                }
                () = sleep_until(deadline) => return,
            }
        }
    }

    /// Ends the pod, tells the API how it ended, and has it forgotten.
    pub(super) async fn terminate(mut self) {
        let is_gone = |worker: &Self| worker.wanted.borrow().is_none();
        let grace = if is_gone(&self) { Duration::ZERO } else { self.grace() };
        // Nothing of it is to run again, init containers included.
        self.over = true;
        self.tear_down(grace).await;
        if !is_gone(&self) {
            self.publish();
            self.publisher.flush().await;
            self.forget().await;
        }
        volumes::release(&self.dir());
        for dir in [self.dir(), self.pod_logs()] {
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    warn!(dir = %dir.display(), %error, "removing a pod's directory");
                }
                _ => {}
            }
        }
        debug!(pod = %title(&self.pod), "ended");
    }

    /// Deletes the pod from the API for good, unless it is another one of the same name by now.
    async fn forget(&self) {
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), self.namespace());
        let uid = self.pod.metadata.uid.clone();
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid, resource_version: None }),
            ..DeleteParams::default()
        };
        loop {
            match api.delete(self.name(), &now).await {
                Ok(_) => return,
                Err(kube::Error::Api(answer)) if answer.is_not_found() || answer.is_conflict() => return,
                Err(error) => {
                    warn!(pod = %title(&self.pod), %error, "deleting an ended pod");
                    if self.wanted.borrow().is_none() {
                        return;
                    }
                    tokio::time::sleep(DELETE_RETRY).await;
                }
            }
        }
    }

    /// The container's `preStop` hook, ready to be awaited.
    fn pre_stop(&self, name: &str) -> Option<impl Future<Output = ()> + Send + use<>> {
        let (container, _) = containers(&self.spec).find(|(container, _)| container.name == name)?;
        let handler = container.lifecycle.as_ref()?.pre_stop.clone()?;
        let target = self.target(container, 0);
        let grace = self.grace();
        Some(async move {
            if let Err(problem) = run_hook(handler, &target, grace).await {
                debug!(container = %target.container, %problem, "preStop hook");
            }
        })
    }
}

/// Runs a hook: the same questions as probes ask, or a sleep.
pub(super) async fn run_hook(
    handler: LifecycleHandler,
    target: &Target,
    limit: Duration,
) -> Result<(), String> {
    if let Some(sleep) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or_default())).await;
        return Ok(());
    }
    let question = Probe {
        exec: handler.exec,
        http_get: handler.http_get,
        tcp_socket: handler.tcp_socket,
        ..Probe::default()
    };
    probe::ask(&question, target, target.ips.first().copied(), limit).await
}

async fn send(sandbox: &Arc<crate::sandbox::Sandbox>, name: &str, attempt: u32, signal: i32) {
    let (sandbox, own) = (Arc::clone(sandbox), name.to_owned());
    // Gone: which is what the signal is for.
    let _ = blocking(move || Ok(sandbox.signal(&own, attempt, signal)?)).await;
}
