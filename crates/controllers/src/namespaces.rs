//! Deletion of namespaces: everything in them goes first, then they are finalized (J52).

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::discovery::{Scope, verbs};
use kube::{Api, Discovery, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};

/// Shortest and longest time between two looks while something in the namespace takes its time.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));
/// Pods take this long to end; before that nobody needs to be told what is left.
const PATIENCE: Duration = Duration::from_secs(5);

struct Namespaces(Shared);

pub(crate) fn start(world: &Shared, tasks: &mut JoinSet<()>) {
    spawn(tasks, Namespaces(world.clone()), |queue| {
        let queue = queue.clone();
        world.namespaces.on_change(move |_, new| {
            if let Some(namespace) = new.filter(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
                queue.add(Key::of(namespace));
            }
        });
    });
}

/// The namespaced kinds that can be listed and deleted.
async fn kinds(world: &Shared) -> Result<Vec<ApiResource>, Error> {
    let discovery = Discovery::new(world.client.clone()).run_aggregated().await?;
    let all = discovery.groups().flat_map(|group| group.recommended_resources());
    let usable = all.filter(|(_, capabilities)| {
        capabilities.scope == Scope::Namespaced
            && capabilities.supports_operation(verbs::LIST)
            && capabilities.supports_operation(verbs::DELETE)
    });
    Ok(usable.map(|(resource, _)| resource).collect())
}

impl Controller for Namespaces {
    const NAME: &'static str = "namespaces";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(namespace) = self.0.namespaces.named(&key.name) else { return Ok(None) };
        if namespace.metadata.deletion_timestamp.is_none() {
            return Ok(None);
        }
        let (mut left, mut holders) = (BTreeMap::new(), BTreeMap::<String, usize>::new());
        for kind in kinds(&self.0).await? {
            let api = Api::<DynamicObject>::namespaced_with(self.0.client.clone(), &key.name, &kind);
            if api.list_metadata(&ListParams::default()).await?.items.is_empty() {
                continue;
            }
            api.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
            let items = api.list_metadata(&ListParams::default()).await?.items;
            for finalizer in items.iter().flat_map(|item| item.metadata.finalizers.iter().flatten()) {
                *holders.entry(finalizer.clone()).or_default() += 1;
            }
            if !items.is_empty() {
                let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
                left.insert(format!("{}{group}", kind.plural), items.len());
            }
        }
        if left.is_empty() {
            self.tell(&namespace, &left, &holders).await?;
            self.finalize(&namespace).await?;
            return Ok(None);
        }
        let since =
            namespace.metadata.deletion_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let age = Timestamp::now().duration_since(since).unsigned_abs();
        if age >= PATIENCE || !holders.is_empty() {
            self.tell(&namespace, &left, &holders).await?;
        }
        // The longer it takes, the less often it is looked at.
        Ok(Some((age / 8).clamp(AGAIN.0, AGAIN.1)))
    }
}

/// The conditions that say what a namespace waits for; only those that say so or said so before.
fn conditions(
    known: &[NamespaceCondition],
    left: &BTreeMap<String, usize>,
    holders: &BTreeMap<String, usize>,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let list = |counts: &BTreeMap<String, usize>, join: &str| {
        let parts: Vec<String> =
            counts.iter().map(|(what, count)| format!("{what}{join}{count} resource instances")).collect();
        parts.join(", ")
    };
    let told = [
        (
            "NamespaceContentRemaining",
            "SomeResourcesRemain",
            format!("Some resources are remaining: {}", list(left, " has ")),
            "ContentRemoved",
            "All content successfully removed",
            left.is_empty(),
        ),
        (
            "NamespaceFinalizersRemaining",
            "SomeFinalizersRemain",
            format!("Some content in the namespace has finalizers remaining: {}", list(holders, " in ")),
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
            holders.is_empty(),
        ),
    ];
    let stamp = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    let of = |(type_, reason, message, fine_reason, fine, done): (&str, &str, String, &str, &str, bool)| {
        let (status, reason, message) =
            if done { ("False", fine_reason, fine.to_owned()) } else { ("True", reason, message) };
        let before = known.iter().find(|one| one.type_ == type_).filter(|one| one.status == status);
        NamespaceCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: before.map_or(Some(stamp.clone()), |one| one.last_transition_time.clone()),
        }
    };
    told.into_iter().map(of).collect()
}

impl Namespaces {
    async fn tell(
        &self,
        namespace: &Namespace,
        left: &BTreeMap<String, usize>,
        holders: &BTreeMap<String, usize>,
    ) -> Result<(), Error> {
        let known = namespace.status.as_ref().and_then(|status| status.conditions.clone());
        if left.is_empty() && known.is_none() {
            return Ok(());
        }
        let known = known.unwrap_or_default();
        let wanted = conditions(&known, left, holders, Timestamp::now());
        if wanted != known {
            let patch = json!({"metadata": {"uid": namespace.uid()}, "status": {"conditions": wanted}});
            let api = Api::<Namespace>::all(self.0.client.clone());
            api.patch_status(&namespace.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(())
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<(), Error> {
        let mut wanted = namespace.clone();
        let finalizers = wanted.spec.get_or_insert_default().finalizers.get_or_insert_default();
        finalizers.retain(|finalizer| finalizer != "kubernetes");
        let api = Api::<Namespace>::all(self.0.client.clone());
        let done: Result<Namespace, _> =
            api.replace_subresource("finalize", &namespace.name_any(), &PostParams::default(), &wanted).await;
        match done {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            result => Ok(result.map(drop)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_name_what_holds_a_namespace() {
        let counts =
            |list: &[(&str, usize)]| list.iter().map(|(key, count)| ((*key).to_owned(), *count)).collect();
        let at = |second| Timestamp::from_second(second).unwrap();
        let told = conditions(&[], &counts(&[("configmaps", 1)]), &counts(&[("example.com/hold", 1)]), at(1));
        let texts: Vec<_> = told.iter().filter_map(|one| one.message.as_deref()).collect();
        assert_eq!(
            texts,
            [
                "Some resources are remaining: configmaps has 1 resource instances",
                "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
            ]
        );
        let later = conditions(&told, &counts(&[("configmaps", 2)]), &counts(&[]), at(9));
        assert_eq!(later[0].last_transition_time, told[0].last_transition_time);
        assert_eq!(
            (later[1].status.as_str(), later[1].last_transition_time.clone()),
            ("False", Some(Time(at(9))))
        );
    }
}
