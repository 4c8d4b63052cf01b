//! A StatefulSet's pods and claims, with the names that last.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use kube::api::ObjectMeta;
use kube::{Resource, ResourceExt};

/// Label of pods with the name of their revision.
pub(super) const REVISION: &str = "controller-revision-hash";

/// The number in the name of one of the set's pods.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i64> {
    let name = pod.name_any();
    let digits = name.strip_prefix(&set.name_any())?.strip_prefix('-')?;
    // What is not written as we write it is not ours.
    digits.parse::<i64>().ok().filter(|number| *number >= 0 && number.to_string() == digits)
}

/// Name of a pod's claim.
fn claim_name(set: &StatefulSet, claim: &PersistentVolumeClaim, ordinal: i64) -> String {
    format!("{}-{}-{ordinal}", claim.name_any(), set.name_any())
}

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|spec| spec.volume_claim_templates.as_deref()).unwrap_or_default()
}

/// The claims of a pod.
pub(super) fn claims(set: &StatefulSet, ordinal: i64) -> Vec<PersistentVolumeClaim> {
    let spec = set.spec.as_ref();
    let selected = spec.and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    let retention = spec.and_then(|spec| spec.persistent_volume_claim_retention_policy.as_ref());
    let goes = retention.is_some_and(|policy| policy.when_deleted.as_deref() == Some("Delete"));
    let claim = |template: &PersistentVolumeClaim| {
        let mut labels = template.labels().clone();
        labels.extend(selected.clone());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(claim_name(set, template, ordinal)),
                namespace: set.namespace(),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                owner_references: set.controller_owner_ref(&()).filter(|_| goes).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    };
    templates(set).iter().map(claim).collect()
}

/// The pod of an ordinal, of a template.
pub(super) fn of(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i64) -> Option<Pod> {
    let spec = set.spec.as_ref()?;
    let name = format!("{}-{ordinal}", set.name_any());
    let meta = template.metadata.clone().unwrap_or_default();
    let mut labels = meta.labels.unwrap_or_default();
    labels.insert("statefulset.kubernetes.io/pod-name".into(), name.clone());
    labels.insert("apps.kubernetes.io/pod-index".into(), ordinal.to_string());
    labels.insert(REVISION.into(), revision.into());
    let mut pod = template.spec.clone()?;
    pod.hostname = Some(name.clone());
    pod.subdomain = spec.service_name.clone();
    let mounted: Vec<Volume> = templates(set)
        .iter()
        .map(|claim| Volume {
            name: claim.name_any(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name(set, claim, ordinal),
                read_only: None,
            }),
            ..Volume::default()
        })
        .collect();
    if !mounted.is_empty() {
        let volumes = pod.volumes.get_or_insert_default();
        volumes.retain(|volume| mounted.iter().all(|one| one.name != volume.name));
        volumes.extend(mounted);
    }
    Some(Pod {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: set.namespace(),
            labels: Some(labels),
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![set.controller_owner_ref(&())?]),
            ..ObjectMeta::default()
        },
        spec: Some(pod),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_last() {
        let set: StatefulSet = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "u"},
            "spec": {
                "serviceName": "s",
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [], "volumes": [
                    {"name": "data", "emptyDir": {}}]}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"},
            },
        }))
        .unwrap();
        let template = &set.spec.as_ref().unwrap().template;
        let pod = of(&set, template, "web-r", 3).unwrap();
        assert_eq!((pod.name_any().as_str(), ordinal(&set, &pod)), ("web-3", Some(3)));
        let spec = pod.spec.unwrap();
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("web-3"), Some("s")));
        let volumes = spec.volumes.unwrap();
        assert_eq!(volumes.len(), 1, "a claim takes the place of a volume of its name");
        assert_eq!(volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-web-3");
        let claims = claims(&set, 3);
        assert_eq!(claims[0].name_any(), "data-web-3");
        assert_eq!(claims[0].owner_references().len(), 1, "it goes with the set");
        let named = |name: &str| {
            let pod = Pod {
                metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
                ..Pod::default()
            };
            ordinal(&set, &pod)
        };
        assert_eq!(
            (named("web-x"), named("web-03"), named("webb-3"), named("web--1")),
            (None, None, None, None)
        );
    }
}
