//! What several controllers ask about pods and workloads, and the events they leave.

use k8s_openapi::api::core::v1::{Container, Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use tracing::debug;

/// The configuration that `kubectl apply` leaves with an object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Leaves out of a pod what no controller reads: there are more pods than anything else, and most of one is about how its
/// containers run.
pub(crate) fn trim(pod: &mut Pod) {
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    let Some(spec) = &mut pod.spec else { return };
    spec.ephemeral_containers = None;
    // Claims are looked after as long as pods use them.
    if let Some(volumes) = &mut spec.volumes {
        volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
        volumes.shrink_to_fit();
    }
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let Container { name, mut ports, resources, restart_policy, .. } = std::mem::take(container);
        if let Some(ports) = &mut ports {
            ports.shrink_to_fit();
        }
        *container = Container { name, ports, resources, restart_policy, ..Container::default() };
    }
}

/// The status of a condition of a pod, if it has one of that type.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == kind).map(|one| one.status.as_str())
}

/// Whether a condition of a pod is true.
pub(crate) fn has_condition(pod: &Pod, kind: &str) -> bool {
    condition(pod, kind) == Some("True")
}

/// Whether a pod is ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    has_condition(pod, "Ready")
}

/// Whether a pod has been ready for `seconds`.
pub(crate) fn is_available(pod: &Pod, seconds: i32, now: Timestamp) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| {
        let since = one.last_transition_time.as_ref().map_or(now, |time| time.0);
        let held = now.as_second() - since.as_second();
        one.type_ == "Ready" && one.status == "True" && (seconds == 0 || held >= i64::from(seconds))
    })
}

/// The phase, `Pending` when there is none yet.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Whether a pod will never run again.
pub(crate) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether a pod counts as one of its workload's replicas.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_finished(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// The node a pod is bound to; empty before.
pub(crate) fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// The controller among an object's owners.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether `owner` controls the object.
pub(crate) fn is_controlled_by<K: Resource>(meta: &ObjectMeta, owner: &K) -> bool {
    controller_of(meta).is_some_and(|reference| Some(&reference.uid) == owner.meta().uid.as_ref())
}

/// A selector, read once to be asked often.
pub(crate) struct Selector(Option<dyad_model::selector::LabelSelector>);

impl Selector {
    /// One that can't be read matches nothing.
    pub(crate) fn of(selector: &LabelSelector) -> Self {
        let value = serde_json::to_value(selector).ok();
        Self(value.and_then(|value| dyad_model::selector::LabelSelector::from_object(&value).ok()))
    }

    /// None at all matches nothing, either.
    pub(crate) fn of_optional(selector: Option<&LabelSelector>) -> Self {
        selector.map_or(Self(None), Self::of)
    }

    /// Whether an object's labels match.
    pub(crate) fn matches(&self, meta: &ObjectMeta) -> bool {
        let label = |key: &str| meta.labels.as_ref()?.get(key).map(String::as_str);
        self.0.as_ref().is_some_and(|selector| selector.matches_by(label))
    }
}

/// Whether labels match a selector.
pub(crate) fn matches(selector: &LabelSelector, meta: &ObjectMeta) -> bool {
    Selector::of(selector).matches(meta)
}

/// FNV-1a: the same on every machine and in every version, which std's hashers don't promise.
pub(crate) fn stable_hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Leaves an event about an object, or counts it once more. Events are for people: a failure to write one fails
/// nothing else.
pub(crate) async fn event<K>(
    client: &Client,
    component: &str,
    object: &K,
    kind: &str,
    reason: &str,
    message: &str,
) where
    K: Resource<DynamicType = ()>,
{
    let reference: ObjectReference = object.object_ref(&());
    let namespace = reference.namespace.clone().unwrap_or_else(|| "default".into());
    let now = Timestamp::now();
    let message: String = message.chars().take(1024).collect();
    let uid = reference.uid.clone().unwrap_or_default();
    // The same said of the same object has the same name. Two halves, as 32 bits are few.
    let text = format!("{component}\n{kind}\n{reason}\n{message}");
    let name = format!(
        "{}.{:08x}{:08x}",
        object.name_any(),
        stable_hash(&format!("{uid}\n{text}")),
        stable_hash(&format!("{text}\n{uid}"))
    );
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: reference,
        type_: Some(kind.into()),
        reason: Some(reason.into()),
        message: Some(message),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(component.into()), host: None }),
        reporting_component: Some(component.into()),
        reporting_instance: Some(String::new()),
        ..Event::default()
    };
    let api = Api::<Event>::namespaced(client.clone(), &namespace);
    let written = match api.create(&PostParams::default(), &event).await {
        Err(kube::Error::Api(status)) if status.code == 409 => again(&api, &name, now).await,
        result => result.map(drop),
    };
    if let Err(error) = written {
        debug!(%error, reason, "can't write an event");
    }
}

async fn again(api: &Api<Event>, name: &str, now: Timestamp) -> Result<(), kube::Error> {
    let Some(mut event) = api.get_opt(name).await? else { return Ok(()) };
    event.count = Some(event.count.unwrap_or(1).saturating_add(1));
    event.last_timestamp = Some(Time(now));
    api.replace(name, &PostParams::default(), &event).await.map(drop)
}
