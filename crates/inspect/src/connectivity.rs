//! `dyad connectivity test`: pods that connect to each other, to Services, nodes, the API and the outside, in
//! each family, with the time each took and, where one fails, the hop that lost the packet.
//!
//! The test makes a namespace, lets probes run in pods, reads their termination messages and removes the
//! namespace. It needs nothing but the API, so it runs against any cluster that has the images.

mod diagnose;
mod names;
mod objects;
mod plan;
mod report;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dyad_net::{IpFamily, IpNet};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

pub use names::OutsideName;
pub use report::{Cell, Report, Row, Untested};

use crate::probe::Outcome;
use names::Dns;
use plan::{BALANCED, Facts, Feature, Place, Plan};

/// The label of EndpointSlices that names their Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What to test.
#[derive(Clone, Debug)]
pub struct Options {
    /// Families to test; empty for those of the cluster.
    pub families: Vec<IpFamily>,
    /// Addresses outside the cluster that answer HTTP, with their port.
    pub outside: Vec<(IpAddr, u16)>,
    /// Names outside the cluster that its DNS is to find.
    pub names: Vec<OutsideName>,
    /// How long pods may take to be ready, and probes to be done.
    pub patience: Duration,
}

/// Why a test could not be carried out; a failed connection is not an error but a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestError {
    /// The API refused or failed a request.
    #[error("can't {what}: {source}")]
    Api {
        /// What was being done.
        what: String,
        /// The cause.
        #[source]
        source: kube::Error,
    },
    /// The cluster has nothing to test with.
    #[error("{0}")]
    Unfit(String),
    /// A pod did not do its part in time.
    #[error("pod {pod} on {node}: {why}")]
    Pod {
        /// The pod's name.
        pod: String,
        /// Its node.
        node: String,
        /// Its state as far as the API tells.
        why: String,
    },
}

/// A shorthand for errors of the API.
fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> TestError {
    let what = what.into();
    |source| TestError::Api { what, source }
}

/// The families Services can have, as far as the API tells: pods may have more.
async fn service_families(client: &Client) -> Result<Vec<IpFamily>, TestError> {
    match Api::<ServiceCIDR>::all(client.clone()).list(&ListParams::default()).await {
        Ok(found) => {
            let cidrs = found.items.into_iter().filter_map(|one| one.spec?.cidrs).flatten();
            Ok(cidrs.filter_map(|cidr| cidr.parse::<IpNet>().ok().map(IpFamily::from)).collect())
        }
        // Older ones do not have the kind.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
        Err(error) => Err(api("list the ServiceCIDRs")(error)),
    }
}

/// Runs the test; `progress` is told each step.
pub async fn test(
    client: &Client,
    options: &Options,
    mut progress: impl FnMut(&str),
) -> Result<Report, TestError> {
    let begun = Instant::now();
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default())
        .await
        .map_err(api("list the nodes"))?
        .items;
    let api_service = Api::<Service>::namespaced(client.clone(), "default")
        .get("kubernetes")
        .await
        .map_err(api("read Service kubernetes"))?;
    let services = service_families(client).await?;
    let facts = Facts::read(&nodes, &services, &api_service, dns(client).await?, options)?;
    let namespace = create_namespace(client).await?;
    progress(&format!("namespace {namespace}"));
    let result = run(client, &namespace, facts, options, &mut progress).await;
    // Also after an error; the first one is what the caller wants to know.
    let removed = Api::<Namespace>::all(client.clone()).delete(&namespace, &DeleteParams::background()).await;
    let mut report = result?;
    removed.map_err(api(format!("delete namespace {namespace}")))?;
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// Who answers for names, or why nobody does.
async fn dns(client: &Client) -> Result<Result<Dns, String>, TestError> {
    let (namespace, name) = (names::NAMESPACE, names::SERVICE);
    let service = Api::<Service>::namespaced(client.clone(), namespace).get_opt(name).await;
    let Some(service) = service.map_err(api(format!("read Service {name}")))? else {
        return Ok(Err(format!("the cluster has no Service {name} in {namespace}")));
    };
    let of = ListParams::default().labels(&format!("{SERVICE_NAME}={name}"));
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace).list(&of).await;
    Ok(Ok(Dns::read(&service, &slices.map_err(api(format!("list the EndpointSlices of {name}")))?.items)))
}

async fn create_namespace(client: &Client) -> Result<String, TestError> {
    let namespace = objects::namespace();
    let created = Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &namespace).await;
    let created = created.map_err(api("create a namespace"))?;
    created.metadata.name.ok_or_else(|| TestError::Unfit("the API made a namespace without a name".into()))
}

async fn run(
    client: &Client,
    namespace: &str,
    mut facts: Facts,
    options: &Options,
    progress: &mut impl FnMut(&str),
) -> Result<Report, TestError> {
    let services = Api::<Service>::namespaced(client.clone(), namespace);
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let mut made = BTreeMap::new();
    for place in facts.servers() {
        let service = objects::service(&place.server(), &facts.families, &Value::Null);
        made.insert(place.server(), create_service(&services, &service).await?);
    }
    for feature in Feature::ALL {
        let spec = feature.spec(&facts.far().server(), &facts.families);
        let service = objects::service(feature.name(), &facts.families, &spec);
        made.insert(feature.name().into(), create_service(&services, &service).await?);
    }
    let balanced = facts.families.iter().map(|family| json!({"ip": BALANCED.address(*family)}));
    let status = json!({"status": {"loadBalancer": {"ingress": balanced.collect::<Vec<_>>()}}});
    let patched = services
        .patch_status(Feature::LoadBalancer.name(), &PatchParams::default(), &Patch::Merge(status))
        .await;
    match patched {
        Err(kube::Error::Api(status)) if status.code == 403 => facts.no_balancer = Some(status.message),
        patched => drop(patched.map_err(api("give a load balancer its addresses"))?),
    }
    Api::<NetworkPolicy>::namespaced(client.clone(), namespace)
        .create(&PostParams::default(), &objects::policy())
        .await
        .map_err(api("create a NetworkPolicy"))?;
    for place in [Place::Here, Place::There] {
        if let Some(node) = facts.node(place) {
            create_pod(&pods, objects::server(&place.server(), node, place == facts.far())).await?;
            create_pod(&pods, objects::policed(&place.policed(), node)).await?;
        }
    }
    progress("waiting for the servers");
    let mut servers = BTreeMap::new();
    for place in [Place::Here, Place::There] {
        let Some(node) = facts.node(place) else { continue };
        for name in [place.server(), place.policed()] {
            let pod = wait(&pods, &name, node, options.patience, is_ready).await?;
            servers.insert(name, pod);
        }
    }
    // All but that of nobody, and that of the pod that is yet to be its own client.
    let served =
        made.iter().filter(|(name, _)| ![Feature::Nobody.name(), plan::SELF].contains(&name.as_str()));
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
    wait_for_endpoints(&slices, served, options.patience).await?;
    let plan = Plan::new(&facts, &made, &servers, options)?;
    let node = facts.node(Place::Here).unwrap_or_default();
    for (name, targets) in plan.clients() {
        create_pod(&pods, objects::client(name, node, targets)).await?;
    }
    progress("connecting");
    let mut outcomes: BTreeMap<(String, String), Outcome> = BTreeMap::new();
    for (name, _) in plan.clients() {
        let pod = wait(&pods, name, node, options.patience, |pod| message(pod).is_some()).await?;
        let text = message(&pod).unwrap_or_default();
        let found: Vec<Outcome> = serde_json::from_str(&text).map_err(|_| TestError::Pod {
            pod: name.into(),
            node: node.into(),
            why: format!("its probe left no result: {text:?}"),
        })?;
        outcomes.extend(found.into_iter().map(|outcome| ((name.to_owned(), outcome.name.clone()), outcome)));
    }
    Ok(plan.report(&outcomes))
}

async fn create_service(services: &Api<Service>, service: &Service) -> Result<Service, TestError> {
    services.create(&PostParams::default(), service).await.map_err(api("create a Service"))
}

async fn create_pod(pods: &Api<Pod>, pod: Pod) -> Result<(), TestError> {
    pods.create(&PostParams::default(), &pod).await.map(drop).map_err(api("create a pod"))
}

/// Waits until a pod is as it should be.
async fn wait(
    pods: &Api<Pod>,
    name: &str,
    node: &str,
    patience: Duration,
    done: impl Fn(&Pod) -> bool,
) -> Result<Pod, TestError> {
    let deadline = Instant::now() + patience;
    loop {
        let pod = pods.get(name).await.map_err(api(format!("read pod {name}")))?;
        if done(&pod) {
            return Ok(pod);
        }
        if Instant::now() > deadline {
            return Err(TestError::Pod { pod: name.into(), node: node.into(), why: state(&pod) });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until each Service has an endpoint in each of its families: whoever writes slices may just be starting.
async fn wait_for_endpoints(
    slices: &Api<EndpointSlice>,
    services: impl Iterator<Item = (&String, &Service)>,
    patience: Duration,
) -> Result<(), TestError> {
    let deadline = Instant::now() + patience;
    let families = |service: &Service| service.spec.as_ref().and_then(|spec| spec.ip_families.clone());
    let mut waiting: Vec<(String, String)> = services
        .flat_map(|(name, service)| {
            families(service).into_iter().flatten().map(move |family| (name.clone(), family))
        })
        .collect();
    loop {
        let found = slices.list(&ListParams::default()).await.map_err(api("list the EndpointSlices"))?;
        waiting.retain(|(service, family)| !found.iter().any(|slice| serves(slice, service, family)));
        let Some((service, family)) = waiting.first() else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(TestError::Unfit(format!(
                "Service {service} has no endpoint in {family} after {} s, though its pod is ready: \
                 the controller that writes EndpointSlices does not run",
                patience.as_secs()
            )));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether a slice has a ready endpoint of a Service in a family.
fn serves(slice: &EndpointSlice, service: &str, family: &str) -> bool {
    let labels = slice.metadata.labels.as_ref();
    let of = labels.and_then(|labels| labels.get(SERVICE_NAME));
    let ready = |conditions: &Option<_>| {
        conditions.as_ref().and_then(|is: &EndpointConditions| is.ready).unwrap_or(true)
    };
    of.is_some_and(|of| of == service)
        && slice.address_type == family
        && slice.endpoints.iter().flatten().any(|endpoint| ready(&endpoint.conditions))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|list| list.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

/// The termination message of the container called `probe`.
fn message(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let state = statuses.iter().find(|status| status.name == objects::PROBE)?.state.as_ref()?;
    state.terminated.as_ref()?.message.clone()
}

/// Why a pod is not what it should be, in one line.
fn state(pod: &Pod) -> String {
    let Some(status) = &pod.status else { return "it has no status".into() };
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        Some(format!("{}: {}", waiting.reason.clone()?, waiting.message.clone().unwrap_or_default()))
    });
    let phase = status.phase.clone().unwrap_or_else(|| "without phase".into());
    let condition = status
        .conditions
        .iter()
        .flatten()
        .find(|one| one.status == "False")
        .and_then(|one| one.message.clone());
    [Some(format!("still {phase}")), waiting, condition].into_iter().flatten().collect::<Vec<_>>().join("; ")
}
