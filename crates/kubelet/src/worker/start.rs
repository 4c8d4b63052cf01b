//! Starting containers in a sandbox.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Service};
use kube::Api;
use kube::api::ListParams;

use super::terminate::run_hook;
use super::{Worker, blocking};
use crate::cgroup::{Limits, PodGroups};
use crate::error::Error;
use crate::files::{self, ResolverInput};
use crate::pod::record::{Ended, timestamp};
use crate::pod::{self, containers};
use crate::probe::{self, Kind, Outcome, Target};
use crate::sandbox::{Mount, Propagation, SandboxError};
use crate::{image, launch, volumes};

/// How long one waits whose configuration is incomplete.
const CONFIG_WAIT: SignedDuration = SignedDuration::from_secs(5);
/// A `postStart` hook that takes longer has failed.
const POST_START_LIMIT: Duration = Duration::from_secs(120);
/// Host names have no more bytes.
const HOSTNAME_BYTES: usize = 63;

/// Objects by name, their values as text.
type Texts = BTreeMap<String, BTreeMap<String, String>>;

/// With the value `false`, a pod sees Service addresses on its sockets as they were asked for.
const SOCKET_LOAD_BALANCING: &str = "dyad.io/socket-load-balancing";

/// With the value `true`, a pod's liveness probes have to be answered at each of its addresses.
const LIVENESS: &str = "dyad.io/liveness-in-all-families";

impl Worker {
    /// Has directories, sandbox and volumes ready.
    pub(super) async fn prepare(&mut self, now: Timestamp) -> Result<(), Error> {
        if self.sandbox.is_none() {
            let made = self.make_sandbox().await;
            match &made {
                Ok(()) => {}
                Err(Error::NetworkNotReady(problem)) => {
                    let text = format!("network is not ready: {problem}");
                    self.tell(None, true, "NetworkNotReady", text);
                }
                Err(error) => {
                    let text = format!("Failed to create pod sandbox: {}", error.full());
                    self.tell(None, true, "FailedCreatePodSandBox", text);
                }
            }
            made?;
        }
        let due = self.volumes_at.saturating_add(super::VOLUME_REFRESH).is_ok_and(|due| due <= now);
        if self.volumes.is_none() || due && volumes::can_change(&self.spec) {
            let dir = self.dir().join("volumes");
            let input = volumes::Input {
                client: &self.shared.client,
                pod: &self.pod,
                spec: &self.spec,
                dir: &dir,
                pod_ips: &self.ips,
                host_ips: &self.shared.host_ips,
                allocatable: &self.shared.allocatable,
            };
            self.volumes_at = now;
            match volumes::prepare(&input).await {
                Ok(paths) => self.volumes = Some(paths),
                Err(error) => {
                    self.tell(None, true, "FailedMount", error.full());
                    // Containers that run keep what they have.
                    if self.volumes.is_none() {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn hostname(&self) -> String {
        if self.is_host_network() {
            return self.shared.config.node_name.clone();
        }
        let own = self.spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(self.name());
        own.chars().take(HOSTNAME_BYTES).collect::<String>().trim_end_matches(['-', '.']).to_owned()
    }

    /// The control groups of the pod: connections of those below `pods` may be translated where they are opened.
    pub(super) fn groups(&self) -> PodGroups {
        let annotations = self.pod.metadata.annotations.as_ref();
        let wants_none =
            annotations.and_then(|all| all.get(SOCKET_LOAD_BALANCING)).is_some_and(|value| value == "false");
        let below = if wants_none { "plain" } else { "pods" };
        let (config, pod) = (&self.shared.config, format!("pod-{}", self.uid()));
        let single = config.cgroup_controllers.iter().map(|(name, root)| (name.clone(), root.join(&pod)));
        PodGroups {
            unified: config.cgroup_root.as_ref().map(|root| root.join(below).join(&pod)),
            single: single.collect(),
        }
    }

    /// Starts a container; what keeps it from starting goes into its record.
    pub(super) async fn start(&mut self, name: &str) {
        let Some(container) = pod::find(&self.spec, name) else { return };
        let now = Timestamp::now();
        let Some(ready) = self.image(&container, now).await else { return };
        let attempt = self.records.get(name).map_or(0, |record| record.next_attempt());
        let spec = match self.container_spec(&ready, &container, attempt).await {
            Ok(spec) => spec,
            Err(error) => {
                let problem = error.full();
                self.tell(Some(name), true, "Failed", format!("Error: {problem}"));
                return self.hold(name, "CreateContainerConfigError", problem, now, CONFIG_WAIT);
            }
        };
        let reference = image::reference(&container);
        let Some(sandbox) = self.sandbox.clone() else { return };
        let (own, copy) = (name.to_owned(), spec.image.as_ref().map(|image| image.scratch.join("copy")));
        let started = blocking(move || Ok(sandbox.start(&own, attempt, &spec)?)).await;
        // The sandbox holds the image now; another run asks for it anew.
        self.fetches.remove(name);
        let Some(record) = self.records.get_mut(name) else { return };
        record.image_id.clone_from(&ready.id);
        match started {
            Ok(state) => {
                let since = timestamp(state.started_at);
                let (startup, readiness) =
                    (container.startup_probe.is_some(), container.readiness_probe.is_some());
                record.begin(attempt, since, reference, startup, readiness);
                self.probers.remove(name);
                self.tell(Some(name), false, "Created", "Container created".into());
                if copy.is_some_and(|copy| copy.exists()) {
                    let text = "The image was copied for this container: the kernel refuses an overlay file system here";
                    self.tell(Some(name), false, "ImageCopied", text.into());
                }
                self.tell(Some(name), false, "Started", "Container started".into());
                self.start_probers(name, attempt, !startup);
                self.run_post_start(&container, attempt);
            }
            Err(Error::Sandbox(SandboxError::Gone)) => self.lose_sandbox(),
            Err(error) => {
                // A run that ended as it began: restart policy and back-off take it from here.
                let message = error.full();
                record.begin(attempt, now, reference, false, false);
                record.end(Ended {
                    code: 128,
                    signal: 0,
                    reason: "StartError".into(),
                    message: message.clone(),
                    started: now,
                    finished: now,
                });
                self.tell(Some(name), true, "Failed", format!("Error: {message}"));
            }
        }
    }

    fn hold(&mut self, name: &str, reason: &str, message: String, now: Timestamp, wait: SignedDuration) {
        let until = now.saturating_add(wait).unwrap_or(now);
        if let Some(record) = self.records.get_mut(name) {
            record.hold(reason, message, until);
        }
    }

    async fn container_spec(
        &self,
        ready: &image::Ready,
        container: &Container,
        attempt: u32,
    ) -> Result<crate::sandbox::ContainerSpec, Error> {
        let (config_maps, secrets) = self.read_objects(container).await?;
        let services = self.read_services().await?;
        let (etc, logs) = (self.dir().join("etc"), self.logs(&container.name));
        let scratch = self.make_scratch(&container.name, attempt)?;
        let hostname = self.hostname();
        self.write_files(&etc, &logs, &hostname)
            .map_err(Error::file(format!("writing the files of container {}", container.name)))?;
        let none = BTreeMap::new();
        let input = launch::Input {
            pod: &self.pod,
            spec: &self.spec,
            container,
            attempt,
            pod_ips: &self.ips,
            host_ips: &self.shared.host_ips,
            hostname: &hostname,
            volumes: self.volumes.as_ref().unwrap_or(&none),
            config_maps: &config_maps,
            secrets: &secrets,
            services: &services,
            allocatable: &self.shared.allocatable,
            masked: &self.shared.masked,
            etc: &etc,
            logs: &logs,
            scratch: &scratch,
            target: pod::target_of(&self.spec, &container.name),
        };
        let mut spec = launch::container_spec(ready, &input).map_err(Error::Pod)?;
        if spec.image.is_some() && spec.mounts.iter().all(|mount| mount.target != Path::new("/dev/shm")) {
            let source = volumes::shared_memory(&self.spec, &self.dir())?;
            let propagation = Propagation::None;
            spec.mounts.push(Mount { source, target: "/dev/shm".into(), read_only: false, propagation });
        }
        let groups = self.groups().make_container(&container.name, Limits::of(container));
        spec.cgroups = groups.joined;
        if let Some(problem) = groups.problem {
            let text = format!("The limits of container {} are not enforced: {problem}", container.name);
            self.tell(Some(&container.name), true, "LimitsNotEnforced", text);
        }
        Ok(spec)
    }

    /// A place for what a run of a container writes; what runs before it wrote goes.
    fn make_scratch(&self, name: &str, attempt: u32) -> Result<PathBuf, Error> {
        let dir = self.dir().join("containers").join(name);
        let scratch = dir.join(attempt.to_string());
        let made = match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => fs::create_dir_all(&scratch),
        };
        made.map_err(Error::file(format!("making {}", scratch.display())))?;
        Ok(scratch)
    }

    /// The ConfigMaps and Secrets that a container's environment names; those that do not exist are left out.
    async fn read_objects(&self, container: &Container) -> Result<(Texts, Texts), Error> {
        let (mut maps, mut secrets) = (Texts::new(), Texts::new());
        let mut names: (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        for source in container.env_from.iter().flatten() {
            names.0.extend(source.config_map_ref.as_ref().map(|from| from.name.as_str()));
            names.1.extend(source.secret_ref.as_ref().map(|from| from.name.as_str()));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            names.0.extend(source.config_map_key_ref.as_ref().map(|from| from.name.as_str()));
            names.1.extend(source.secret_key_ref.as_ref().map(|from| from.name.as_str()));
        }
        let texts = |data: volumes::Data| -> BTreeMap<String, String> {
            data.into_iter().map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned())).collect()
        };
        for name in names.0 {
            if let Some(data) = volumes::config_map(&self.shared.client, &self.pod, name).await? {
                maps.insert(name.to_owned(), texts(data));
            }
        }
        for name in names.1 {
            if let Some(data) = volumes::secret(&self.shared.client, &self.pod, name).await? {
                secrets.insert(name.to_owned(), texts(data));
            }
        }
        Ok((maps, secrets))
    }

    /// The Services that go into the environment (B23): the API's own, and those of the namespace if wanted.
    async fn read_services(&self) -> Result<Vec<Service>, Error> {
        let client = &self.shared.client;
        let reading = || Error::api("reading Services");
        let mut services = Vec::new();
        if self.spec.enable_service_links != Some(false) {
            let api: Api<Service> = Api::namespaced(client.clone(), self.namespace());
            services = api.list(&ListParams::default()).await.map_err(reading())?.items;
        }
        let is_api = |service: &Service| {
            service.metadata.name.as_deref() == Some("kubernetes")
                && service.metadata.namespace.as_deref() == Some("default")
        };
        if !services.iter().any(is_api) {
            let api: Api<Service> = Api::namespaced(client.clone(), "default");
            services.extend(api.get_opt("kubernetes").await.map_err(reading())?);
        }
        Ok(services)
    }

    /// `hosts` (B22), `resolv.conf` (B24), `hostname`, and the file for last words, anew for every start.
    fn write_files(&self, etc: &Path, logs: &Path, hostname: &str) -> std::io::Result<()> {
        fs::create_dir_all(etc)?;
        fs::create_dir_all(logs)?;
        let aliases = self.spec.host_aliases.as_deref().unwrap_or_default();
        let hosts = if self.is_host_network() {
            files::host_network_hosts(&fs::read_to_string("/etc/hosts").unwrap_or_default(), aliases)
        } else {
            let domain = self.spec.subdomain.as_deref().filter(|name| !name.is_empty());
            let cluster = &self.shared.config.cluster_domain;
            let domain = domain.map(|name| format!("{name}.{}.svc.{cluster}", self.namespace()));
            files::hosts(&self.ips, hostname, domain.as_deref(), aliases)
        };
        let resolver = files::resolver(&ResolverInput {
            policy: self.spec.dns_policy.as_deref().unwrap_or_default(),
            host_network: self.is_host_network(),
            namespace: self.namespace(),
            config: self.spec.dns_config.as_ref(),
            cluster_dns: &self.shared.config.cluster_dns,
            cluster_domain: &self.shared.config.cluster_domain,
            node: &self.shared.resolver,
        });
        for (name, text) in
            [("hosts", hosts), ("resolv.conf", resolver.render()), ("hostname", format!("{hostname}\n"))]
        {
            // Written in place: containers that run have the very file mounted.
            fs::write(etc.join(name), text)?;
        }
        let words = launch::termination_log(logs);
        fs::write(&words, "")?;
        // Whoever the container runs as may have last words.
        fs::set_permissions(words, fs::Permissions::from_mode(0o666))
    }

    /// Starts asking a container; before it has started only whether it has.
    pub(super) fn start_probers(&mut self, name: &str, attempt: u32, has_started: bool) {
        let found = containers(&self.spec).find(|(container, _)| container.name == name);
        let Some((container, _)) = found else { return };
        let target = self.target(container, attempt);
        let kinds: &[Kind] = if has_started { &[Kind::Liveness, Kind::Readiness] } else { &[Kind::Startup] };
        // The tasks of a run before ended with that run.
        let tasks = self.probers.entry(name.to_owned()).or_default();
        for &kind in kinds {
            if let Some(probe) = kind.of(container) {
                tasks.spawn(probe::run(kind, probe.clone(), target.clone(), self.outcomes.0.clone()));
            }
        }
    }

    /// Whom probes and hooks of a container ask.
    pub(super) fn target(&self, container: &Container, attempt: u32) -> Target {
        let annotations = self.pod.metadata.annotations.as_ref();
        let ports = container.ports.iter().flatten();
        let named =
            ports.filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)));
        Target {
            container: container.name.clone(),
            attempt,
            ips: self.ips.clone(),
            sandbox: self.dir(),
            ports: named.collect(),
            alive_everywhere: annotations
                .and_then(|all| all.get(LIVENESS))
                .is_some_and(|value| value == "true"),
        }
    }

    /// Runs the `postStart` hook beside the container, which is ended if that fails.
    fn run_post_start(&mut self, container: &Container, attempt: u32) {
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone());
        let Some(hook) = hook else { return };
        let (target, outcomes) = (self.target(container, attempt), self.outcomes.0.clone());
        let run = async move {
            if let Err(problem) = run_hook(hook, &target, POST_START_LIMIT).await {
                let outcome = Outcome {
                    container: target.container,
                    attempt,
                    kind: Kind::PostStart,
                    verdict: Some(false),
                    failure: Some(problem),
                    beside: Vec::new(),
                };
                // Nobody listens: the pod is ending anyway.
                let _ = outcomes.send(outcome).await;
            }
        };
        self.probers.entry(container.name.clone()).or_default().spawn(run);
    }
}
