//! EndpointSlices per family, the legacy Endpoints, and slices mirrored from Endpoints that people write (section E).
//!
//! What is wanted is computed in `dyad_model::slices`; this is the shell around it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dyad_model::quantity::Quantity;
use dyad_model::readiness;
use dyad_model::slices::{self, MAX_PER_SLICE, SERVICE_NAME_LABEL, SliceChanges};
use dyad_net::IpFamily;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::pods;
use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};

const ZONE: &str = "topology.kubernetes.io/zone";

/// Labels of nodes that are kept for the control plane.
const CONTROL_PLANE: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// Who the events are from, as Kubernetes calls it.
const COMPONENT: &str = "endpoint-slice-mirroring-controller";
/// The same of events about slices of selected pods.
const SLICES: &str = "endpoint-slice-controller";

/// Three controllers in Kubernetes, and three names to act under here: the world's is for slices of selected pods.
struct EndpointSlices {
    world: Shared,
    by_service: Arc<ByService>,
    /// For Endpoints.
    endpoints: Client,
    /// For slices that mirror Endpoints of people.
    mirroring: Client,
}

/// The names of slices by Service, so that one that changes costs no look at those of all others.
#[derive(Default)]
struct ByService(Mutex<BTreeMap<Key, BTreeSet<String>>>);

impl ByService {
    fn follow(&self, old: Option<&EndpointSlice>, new: Option<&EndpointSlice>) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (slice, is_there) in [(old, false), (new, true)] {
            let Some((slice, service)) = slice.and_then(|slice| Some((slice, service_of(slice)?))) else {
                continue;
            };
            let of_service = names.entry(service.clone()).or_default();
            match is_there {
                true => of_service.insert(slice.name_any()),
                false => of_service.remove(&slice.name_any()),
            };
            if of_service.is_empty() {
                names.remove(&service);
            }
        }
    }

    fn of(&self, service: &Key) -> Vec<Key> {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_service = names.get(service).into_iter().flatten();
        of_service.map(|name| Key::new(&service.namespace, name)).collect()
    }
}

fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let service = slice.labels().get(SERVICE_NAME_LABEL)?;
    Some(Key::new(slice.namespace().unwrap_or_default(), service))
}

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    let by_service = Arc::new(ByService::default());
    let names = by_service.clone();
    world.slices.on_change(move |old, new| names.follow(old, new));
    let controller = EndpointSlices {
        by_service,
        endpoints: world.acting("endpoint-controller").client.clone(),
        mirroring: world.acting("endpointslicemirroring-controller").client.clone(),
        world: world.clone(),
    };
    spawn(tasks, controller, |queue| {
        let services = queue.clone();
        world.services.on_change(move |old, new| {
            if let Some(service) = new.or(old) {
                services.add(Key::of(service));
            }
        });
        let (pods, weak) = (queue.clone(), Arc::downgrade(world));
        world.pods.on_change(move |old, new| {
            let Some(world) = weak.upgrade().filter(|_| matters(old, new)) else { return };
            let Some(namespace) = old.or(new).and_then(ResourceExt::namespace) else { return };
            for service in world.services.in_namespace(&namespace) {
                if [old, new].into_iter().flatten().any(|pod| selects(&service, pod)) {
                    pods.add(Key::of(&*service));
                }
            }
        });
        let (nodes, weak) = (queue.clone(), Arc::downgrade(world));
        world.nodes.on_change(move |old, new| {
            if let Some(world) = weak.upgrade().filter(|_| old.map(view) != new.map(view)) {
                world.services.all().iter().for_each(|service| nodes.add(Key::of(&**service)));
            }
        });
        let slices = queue.clone();
        world.slices.on_change(move |old, new| {
            [old, new].into_iter().flatten().filter_map(service_of).for_each(|service| slices.add(service));
        });
        let endpoints = queue.clone();
        world.endpoints.on_change(move |old, new| {
            if let Some(endpoints_of) = new.or(old) {
                endpoints.add(Key::of(endpoints_of));
            }
        });
    });
}

/// Whether a change of a pod can change endpoints (E26).
fn matters(old: Option<&Pod>, new: Option<&Pod>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return true };
    let view = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        (
            pod.metadata.labels.clone(),
            pod.metadata.deletion_timestamp.clone(),
            spec.and_then(|spec| spec.node_name.clone()),
            spec.and_then(|spec| spec.hostname.clone()),
            status.and_then(|status| status.pod_ips.clone()),
            pods::is_ready(pod),
            IpFamily::BOTH
                .map(|family| pods::condition(pod, &readiness::condition(family)).map(str::to_owned)),
            pods::is_finished(pod),
        )
    };
    view(old) != view(new)
}

/// What of a node slices depend on (E15, E28).
fn view(node: &Node) -> slices::Node {
    let status = node.status.as_ref();
    let ready = status.and_then(|status| status.conditions.as_ref()).is_some_and(|conditions| {
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    });
    let cpu = status.and_then(|status| status.allocatable.as_ref()?.get("cpu"));
    slices::Node {
        zone: node.labels().get(ZONE).cloned().unwrap_or_default(),
        cpu_millis: cpu.and_then(|cpu| Quantity::parse(&cpu.0)).map_or(0, Quantity::millis),
        counts: ready && !CONTROL_PLANE.iter().any(|label| node.labels().contains_key(*label)),
    }
}

/// Whether these are the Endpoints of a Service's pods, and not hand-made.
fn is_ours(endpoints: &Endpoints) -> bool {
    endpoints.labels().contains_key(slices::ENDPOINTS_MANAGED_BY_LABEL)
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| {
        !selector.is_empty() && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
    })
}

/// The wire form, which leaves out what k8s-openapi does not: kind and version are put in.
fn wire<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Result<Value, Error> {
    let mut value = serde_json::to_value(object)?;
    value["apiVersion"] = K::api_version(&()).into();
    value["kind"] = K::kind(&()).into();
    Ok(value)
}

fn typed<K: DeserializeOwned>(value: Value) -> Result<K, Error> {
    Ok(serde_json::from_value(value)?)
}

impl Controller for EndpointSlices {
    const NAME: &'static str = "endpoints";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let client = &self.world.client;
        let service = self.world.services.get(key);
        let service_value = service.as_deref().map(wire).transpose()?;
        let api = Api::<EndpointSlice>::namespaced(client.clone(), &key.namespace);
        // The cache has what this controller wrote: each pass waits for that before it ends.
        let existing = self.by_service.of(key).into_iter().filter_map(|slice| self.world.slices.get(&slice));
        let existing = existing.map(|slice| wire(&*slice)).collect::<Result<Vec<_>, _>>()?;
        let mut skipped = false;
        if let Some(value) = &service_value {
            let pods = self.world.pods.in_namespace(&key.namespace);
            let selected =
                pods.iter().filter(|pod| service.as_deref().is_some_and(|service| selects(service, pod)));
            let selected = selected.map(|pod| wire(&**pod)).collect::<Result<Vec<_>, _>>()?;
            let nodes = self.world.nodes.all();
            let nodes = nodes.iter().map(|node| (node.name_any(), view(node))).collect();
            if service.as_deref().is_some_and(|service| service.metadata.deletion_timestamp.is_none()) {
                let mut changes = slices::desired(value, &selected, &nodes, &existing, None, MAX_PER_SLICE);
                skipped = !changes.skipped.is_empty();
                let notices = std::mem::take(&mut changes.notices);
                self.write(&api, changes).await?;
                for notice in notices {
                    let kind = if notice.warning { "Warning" } else { "Normal" };
                    if let Some(service) = &service {
                        pods::event(client, SLICES, &**service, kind, notice.reason, &notice.message).await;
                    }
                }
                self.write_endpoints(key, value, &selected).await?;
            }
        } else if self.world.endpoints.get(key).is_some_and(|endpoints| is_ours(&endpoints)) {
            // The object of a Service goes with it (E64); what people write may be there before its Service.
            let endpoints = Api::<Endpoints>::namespaced(self.endpoints.clone(), &key.namespace);
            ignore(404, endpoints.delete(&key.name, &DeleteParams::default()).await.map(drop))?;
        }
        let api = Api::<EndpointSlice>::namespaced(self.mirroring.clone(), &key.namespace);
        self.mirror(key, service_value.as_ref(), &existing, &api).await?;
        Ok(skipped.then(|| Duration::from_secs(1)))
    }
}

impl EndpointSlices {
    async fn write_endpoints(&self, key: &Key, service: &Value, pods: &[Value]) -> Result<(), Error> {
        let api = Api::<Endpoints>::namespaced(self.endpoints.clone(), &key.namespace);
        let existing = self.world.endpoints.get(key).as_deref().map(wire).transpose()?;
        let Some(wanted) = slices::endpoints(service, pods, existing.as_ref(), None) else { return Ok(()) };
        let wanted: Endpoints = typed(wanted)?;
        match existing {
            Some(_) => api.replace(&key.name, &PostParams::default(), &wanted).await?,
            None => api.create(&PostParams::default(), &wanted).await?,
        };
        Ok(())
    }

    async fn mirror(
        &self,
        key: &Key,
        service: Option<&Value>,
        existing: &[Value],
        api: &Api<EndpointSlice>,
    ) -> Result<(), Error> {
        let object = self.world.endpoints.get(key);
        let endpoints = object.as_deref().map(wire).transpose()?;
        let mirrored = slices::mirror(endpoints.as_ref(), service, existing);
        let changed = !mirrored.changes.is_empty();
        self.write(api, mirrored.changes).await?;
        let Some(object) = object.filter(|_| changed) else { return Ok(()) };
        for (count, reason, what) in [
            (mirrored.invalid, "InvalidIPAddress", "are not IP addresses"),
            (mirrored.surplus, "TooManyAddressesToMirror", "are more than a subset may have"),
        ] {
            if count > 0 {
                let message = format!("{count} addresses were not mirrored: they {what}");
                pods::event(&self.mirroring, COMPONENT, &*object, "Warning", reason, &message).await;
            }
        }
        Ok(())
    }

    /// Deletes first, so that nothing is ever there twice.
    async fn write(&self, api: &Api<EndpointSlice>, changes: SliceChanges) -> Result<(), Error> {
        let (mut written, mut deleted) = (None, None);
        for slice in changes.delete {
            let slice: EndpointSlice = typed(slice)?;
            let preconditions = Preconditions { uid: slice.uid(), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            ignore(404, api.delete(&slice.name_any(), &params).await.map(drop))?;
            deleted = Some(slice);
        }
        for slice in changes.update {
            let slice: EndpointSlice = typed(slice)?;
            written = Some(api.replace(&slice.name_any(), &PostParams::default(), &slice).await?);
        }
        for slice in changes.create {
            match api.create(&PostParams::default(), &typed::<EndpointSlice>(slice)?).await {
                Ok(created) => written = Some(created),
                // A namespace that is on its way out takes nothing new, and needs nothing (E24).
                refused => ignore(403, refused.map(drop))?,
            }
        }
        // What comes last is seen last.
        match (&written, &deleted) {
            (Some(written), _) => self.world.slices.reaches(written).await,
            (None, Some(deleted)) => self.world.slices.sees_deleted(deleted).await,
            (None, None) => {}
        }
        Ok(())
    }
}

fn ignore(code: u16, result: Result<(), kube::Error>) -> Result<(), Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == code => Ok(()),
        result => Ok(result?),
    }
}
