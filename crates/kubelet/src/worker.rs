//! One pod: brings what runs to what the API wants, and tells the API what runs.
//!
//! A loop that looks at everything it knows, does what the pure [`plan`](crate::pod::plan) says, and sleeps until
//! something changes: the pod, a container, a probe's verdict, or the time.

mod attach;
mod hear;
mod image;
mod publish;
mod start;
mod terminate;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dyad_net::IpFamily;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::Client;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::cni::Readiness;
use crate::config::Config;
use crate::error::Error;
use crate::event::{Events, Happening};
use crate::files::Resolver;
use crate::network::{Addresses, Wiring};
use crate::pod::plan::{Action, Plan, plan};
use crate::pod::record::{Records, recover};
use crate::pod::{self, RestartPolicy, containers, status, title};
use crate::probe::Outcome;
use crate::sandbox::{ContainerState, Sandbox, Spawner};
use crate::seen::Seen;
use crate::server::Before;
use crate::volumes;

use publish::Publisher;

/// What all pods of a node share.
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) config: Config,
    pub(crate) spawner: Spawner,
    pub(crate) host_ips: Vec<IpAddr>,
    pub(crate) network: Wiring,
    /// Set when the node's ranges are known.
    pub(crate) addresses: Mutex<Option<Addresses>>,
    /// Whether pods can be connected.
    pub(crate) ready: watch::Receiver<Readiness>,
    pub(crate) events: Events,
    pub(crate) resolver: Resolver,
    pub(crate) allocatable: BTreeMap<String, String>,
    pub(crate) masked: Vec<PathBuf>,
    /// What whoever asks this node is told of its pods.
    pub(crate) seen: Seen,
    /// The last look at what pods use.
    pub(crate) before: Before,
}

impl Shared {
    /// The family that comes first in a pod's addresses: that of the node's first one (B7).
    pub(crate) fn primary_family(&self) -> IpFamily {
        self.config.node_ips.primary_family()
    }

    /// Where the state of the pod with this uid is.
    pub(crate) fn state_dir(&self, uid: &str) -> PathBuf {
        state_root(&self.config).join(uid)
    }

    /// Does something with the node's addresses, if there are any yet.
    pub(crate) fn with_addresses<T>(&self, work: impl FnOnce(&mut Addresses) -> T) -> Option<T> {
        // A panic of another pod's worker leaves the pools as they are, which is whole.
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(work)
    }
}

/// Where the state of all running pods is.
pub(crate) fn state_root(config: &Config) -> PathBuf {
    config.root_dir.join("state")
}

/// How often volumes are looked at again that may change.
const VOLUME_REFRESH: SignedDuration = SignedDuration::from_secs(60);
/// How often volumes that may hold only so much are measured.
const MEASURED: SignedDuration = SignedDuration::from_secs(10);
/// How long a pod gets that must not run on.
const EVICTION_GRACE: Duration = Duration::from_secs(1);
/// How soon something that failed is tried again: at first, and at most.
const RETRY_FIRST: SignedDuration = SignedDuration::from_millis(500);
const RETRY_LONGEST: SignedDuration = SignedDuration::from_secs(30);

/// When to try again.
#[derive(Clone, Copy, Debug, Default)]
struct Retry {
    wait: Option<SignedDuration>,
    until: Option<Timestamp>,
}

impl Retry {
    fn failed(&mut self, now: Timestamp) {
        let wait = self.wait.map_or(RETRY_FIRST, |wait| (wait * 2).min(RETRY_LONGEST));
        self.wait = Some(wait);
        self.until = now.saturating_add(wait).ok();
    }

    fn holds(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// One pod.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    wanted: watch::Receiver<Option<Pod>>,
    pod: Pod,
    spec: PodSpec,
    sandbox: Option<Arc<Sandbox>>,
    watch: Option<UnixStream>,
    ips: Vec<IpAddr>,
    records: Records,
    volumes: Option<BTreeMap<String, PathBuf>>,
    volumes_at: Timestamp,
    measured_at: Timestamp,
    retry: Retry,
    /// The images of containers that are about to start.
    fetches: BTreeMap<String, image::Fetch>,
    /// Images that could not be had.
    tries: BTreeMap<String, image::Tries>,
    fetching: JoinSet<()>,
    fetched: (mpsc::Sender<image::Fetched>, mpsc::Receiver<image::Fetched>),
    /// The last run of each container whose wait for a restart was told of.
    backoffs: BTreeMap<String, u32>,
    probers: BTreeMap<String, JoinSet<()>>,
    outcomes: (mpsc::Sender<Outcome>, mpsc::Receiver<Outcome>),
    failure: Option<(String, String)>,
    over: bool,
    publisher: Publisher,
}

impl Worker {
    /// A worker for the pod that `wanted` holds; `None` if that is gone already.
    pub(crate) fn new(shared: Arc<Shared>, mut wanted: watch::Receiver<Option<Pod>>) -> Option<Self> {
        let pod = wanted.borrow_and_update().clone()?;
        let spec = pod.spec.clone()?;
        let publisher = Publisher::new(shared.client.clone(), &pod);
        Some(Self {
            shared,
            wanted,
            spec,
            sandbox: None,
            watch: None,
            ips: Vec::new(),
            records: Records::new(),
            volumes: None,
            volumes_at: Timestamp::UNIX_EPOCH,
            measured_at: Timestamp::UNIX_EPOCH,
            retry: Retry::default(),
            fetches: BTreeMap::new(),
            tries: BTreeMap::new(),
            fetching: JoinSet::new(),
            fetched: mpsc::channel(4),
            backoffs: BTreeMap::new(),
            probers: BTreeMap::new(),
            outcomes: mpsc::channel(16),
            failure: None,
            over: false,
            publisher,
            pod,
        })
    }

    /// Serves the pod until it is gone.
    pub(crate) async fn run(self) {
        let (shared, uid) = (Arc::clone(&self.shared), self.uid().to_owned());
        self.serve().await;
        shared.seen.remove(&uid);
    }

    async fn serve(mut self) {
        self.adopt().await;
        loop {
            self.absorb();
            if self.wanted.borrow().is_none() || self.pod.metadata.deletion_timestamp.is_some() {
                return self.terminate().await;
            }
            let wake = self.step().await;
            self.publish();
            self.wait(wake).await;
        }
    }

    fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Where the sandbox, the volumes and the files of the pod are.
    fn dir(&self) -> PathBuf {
        self.shared.state_dir(self.uid())
    }

    /// Where the logs of a container are.
    fn logs(&self, container: &str) -> PathBuf {
        self.pod_logs().join(container)
    }

    fn pod_logs(&self) -> PathBuf {
        let name = format!("{}_{}_{}", self.namespace(), self.name(), self.uid());
        self.shared.config.root_dir.join("pods").join(name)
    }

    fn is_host_network(&self) -> bool {
        self.spec.host_network == Some(true)
    }

    fn tell(&self, container: Option<&str>, is_warning: bool, reason: &'static str, message: String) {
        let sort =
            |name: &str| containers(&self.spec).find(|(known, _)| known.name == name).map(|(_, init)| init);
        let field_path = container.map_or_else(String::new, |name| {
            let list = match sort(name) {
                Some(true) => "initContainers",
                Some(false) => "containers",
                None => "ephemeralContainers",
            };
            format!("spec.{list}{{{name}}}")
        });
        let pod = (self.namespace().to_owned(), self.name().to_owned(), self.uid().to_owned());
        self.shared.events.tell(Happening { pod, field_path, is_warning, reason, message });
    }

    /// Takes over what runs already, from a kubelet before this one.
    async fn adopt(&mut self) {
        let dir = self.dir();
        let now = Timestamp::now();
        let found = blocking(move || {
            let sandbox = Sandbox::adopt(&dir)?;
            let states = sandbox.as_ref().map(first_states).transpose()?;
            Ok((sandbox, states))
        });
        let mut alive = Vec::new();
        match found.await {
            Ok((Some(sandbox), states)) => {
                alive = states.unwrap_or_default();
                self.ips = if self.is_host_network() {
                    self.shared.host_ips.clone()
                } else {
                    crate::kubelet::read_addresses(&self.dir())
                };
                if self.ips.is_empty() {
                    // Its maker was ended before it was connected; another one is made.
                    let _ = sandbox.kill();
                    alive.clear();
                } else {
                    self.attach(sandbox);
                }
                self.check_network();
            }
            Ok((None, _)) => {}
            Err(error) => {
                warn!(pod = %title(&self.pod), error = %error.full(), "adopting the pod's sandbox")
            }
        }
        self.records = recover(&self.pod, &self.spec, &alive, now);
        for (name, record) in self.records.clone() {
            if record.is_running() {
                self.start_probers(&name, record.restarts, record.started);
            }
        }
    }

    /// Keeps a running sandbox, and listens to it.
    fn attach(&mut self, sandbox: Sandbox) {
        self.watch = sandbox.watch().ok().and_then(|watch| watch.into_async().ok());
        if self.watch.is_some() {
            self.sandbox = Some(Arc::new(sandbox));
        }
    }

    /// Does what is to be done now; when to look again if nothing happens.
    async fn step(&mut self) -> Option<Timestamp> {
        let now = Timestamp::now();
        let is_final = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if self.over || matches!(is_final, Some("Succeeded" | "Failed")) {
            self.over = true;
            self.tear_down(Duration::ZERO).await;
            return None;
        }
        if let Some((reason, message)) = self.forbidden(now).await {
            self.tell(None, true, reason, message.clone());
            self.failure = Some((reason.into(), message));
            self.over = true;
            self.tear_down(EVICTION_GRACE).await;
            return None;
        }
        let deadline = self.deadline();
        if deadline.is_some_and(|deadline| deadline <= now) {
            let message = "Pod was active on the node longer than the specified deadline";
            self.failure = Some(("DeadlineExceeded".into(), message.into()));
            self.tell(None, false, "DeadlineExceeded", message.into());
            self.over = true;
            self.tear_down(self.grace()).await;
            return None;
        }
        let (actions, wake) = match plan(&self.spec, &self.records, now) {
            Plan::Over => {
                self.over = true;
                self.tear_down(self.grace()).await;
                return None;
            }
            Plan::Go { actions, wake } => (actions, wake),
        };
        let mut wakes = vec![wake, deadline];
        if self.retry.holds(now) {
            wakes.push(self.retry.until);
            return wakes.into_iter().flatten().min();
        }
        if let Err(error) = self.prepare(now).await {
            self.retry.failed(now);
            wakes.push(self.retry.until);
            debug!(pod = %title(&self.pod), error = %error.full(), "preparing");
            return wakes.into_iter().flatten().min();
        }
        self.retry = Retry::default();
        for action in actions {
            match action {
                Action::Start(name) => self.start(&name).await,
                Action::Stop(name, why) => self.stop(&name, why),
            }
        }
        self.tell_backoffs();
        // Starting may have changed what comes next.
        if let Plan::Go { wake, .. } = plan(&self.spec, &self.records, Timestamp::now()) {
            wakes.push(wake);
        }
        if !pod::limited_volumes(&self.spec).is_empty() {
            wakes.push(self.measured_at.saturating_add(MEASURED).ok());
        }
        if volumes::can_change(&self.spec) {
            wakes.push(self.volumes_at.saturating_add(VOLUME_REFRESH).ok());
        }
        wakes.into_iter().flatten().min()
    }

    /// Tells of containers that have to wait for their restart, once for each run.
    fn tell_backoffs(&mut self) {
        let mut told = Vec::new();
        for (container, is_init) in containers(&self.spec) {
            let Some(record) = self.records.get(&container.name) else { continue };
            let policy = RestartPolicy::of_container(&self.spec, container, is_init);
            let waits = record.ended().is_some_and(|ended| policy.restarts(ended.code));
            if waits
                && record.backoff.wait().is_some()
                && self.backoffs.get(&container.name) != Some(&record.restarts)
            {
                told.push((container.name.clone(), record.restarts));
            }
        }
        for (name, run) in told {
            let pod = format!("{}_{}({})", self.name(), self.namespace(), self.uid());
            self.tell(
                Some(&name),
                true,
                "BackOff",
                format!("Back-off restarting failed container {name} in pod {pod}"),
            );
            self.backoffs.insert(name, run);
        }
    }

    /// Why the pod must not run on, if it must not: one word and a sentence.
    async fn forbidden(&mut self, now: Timestamp) -> Option<(&'static str, String)> {
        if let Err(problem) = pod::sysctls(&self.spec) {
            return Some(("SysctlForbidden", problem));
        }
        let limited = pod::limited_volumes(&self.spec);
        if limited.is_empty() || self.measured_at.saturating_add(MEASURED).is_ok_and(|due| now < due) {
            return None;
        }
        self.measured_at = now;
        let dir = self.dir().join("volumes");
        let measured = blocking(move || {
            let over = |(name, limit): &(String, String)| {
                let most =
                    dyad_model::quantity::Quantity::parse(limit).map(dyad_model::quantity::Quantity::whole);
                most.is_some_and(|most| most > 0 && volumes::used(&dir.join(name)) > most)
            };
            Ok(limited.into_iter().find(over))
        });
        let (name, limit) = measured.await.ok()??;
        Some(("Evicted", format!("Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. ")))
    }

    /// When `activeDeadlineSeconds` is over.
    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.spec.active_deadline_seconds?;
        let start = self.pod.status.as_ref()?.start_time.as_ref()?.0;
        start.saturating_add(SignedDuration::from_secs(seconds)).ok()
    }

    fn grace(&self) -> Duration {
        let own = self.pod.metadata.deletion_grace_period_seconds;
        let seconds = own.or(self.spec.termination_grace_period_seconds).unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    }

    /// Sleeps until something happens, and takes note of it.
    async fn wait(&mut self, wake: Option<Timestamp>) {
        let sleep = async {
            match wake {
                // A bit more than asked for: clocks and timers round.
                Some(wake) => tokio::time::sleep(until(wake) + Duration::from_millis(1)).await,
                None => std::future::pending().await,
            }
        };
        let mut ready = self.shared.ready.clone();
        let needs_network = self.sandbox.is_none() && ready.borrow_and_update().is_err();
        tokio::select! {
            // Its sender lives as long as the node's: without it there is nobody to report to either.
            _ = self.wanted.changed() => {}
            Some(outcome) = self.outcomes.1.recv() => self.heed(outcome),
            Some(fetched) = self.fetched.1.recv() => self.note_image(fetched),
            states = hear::read_states(&mut self.watch) => self.note(states),
            _ = ready.changed(), if needs_network => self.retry = Retry::default(),
            () = sleep => {}
        }
    }

    /// Tells the API what is, if it does not know.
    fn publish(&mut self) {
        let failure = self.failure.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str()));
        let status = status::status(&status::Input {
            pod: &self.pod,
            spec: &self.spec,
            records: &self.records,
            pod_ips: &self.ips,
            host_ips: &self.shared.host_ips,
            has_sandbox: self.sandbox.is_some() && !self.ips.is_empty(),
            is_over: self.over,
            failure,
            now: Timestamp::now(),
        });
        self.pod.status.get_or_insert_default().start_time.clone_from(&status.start_time);
        self.shared.seen.set(&self.pod, &status);
        self.publisher.publish(status);
        // Times of conditions follow from what was said before.
        if let Some(own) = self.publisher.last() {
            let status = self.pod.status.get_or_insert_default();
            let others = status.conditions.take().unwrap_or_default();
            status.conditions = Some(hear::with_others(&own, others));
        }
    }
}

fn until(at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
}

/// The states a sandbox gives to whoever begins to watch.
fn first_states(sandbox: &Sandbox) -> Result<Vec<ContainerState>, Error> {
    let watch = sandbox.watch()?;
    let states = watch.read().map_err(Error::file("reading the states of a sandbox"))?;
    Ok(states.unwrap_or_default())
}

/// Runs something that blocks for a moment beside the runtime.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Pod(format!("a worker thread failed: {error}"))),
    }
}
