use serde_json::json;

use super::*;
use crate::fields::Schema;

#[test]
fn names_are_unique_and_regular() {
    let mut seen = std::collections::HashSet::new();
    for row in all() {
        assert!(seen.insert((row.group, row.version, row.plural)), "{} twice", row.plural);
        assert_eq!(row.singular, row.kind.to_lowercase());
        assert!(row.subresources.is_sorted_by_key(|below| below.name), "{}", row.plural);
        assert!(row.verbs.is_sorted(), "{}", row.plural);
        assert!(!row.columns.is_empty(), "{}", row.plural);
    }
}

#[test]
fn groups_stand_together() {
    let mut groups: Vec<&str> = all().iter().map(|row| row.group).collect();
    groups.dedup();
    let mut once = groups.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(groups.len(), once.len(), "a group is split: {groups:?}");
}

#[test]
fn every_row_has_its_fields() {
    for row in all() {
        let schema = Schema::for_kind(row.group, row.version, row.kind);
        assert!(schema.is_some(), "no fields for {} {}", row.api_version(), row.kind);
    }
}

#[test]
fn lookups_find_rows_by_path_and_by_kind() {
    let pods = by_resource("", "v1", "pods").unwrap();
    assert_eq!((pods.kind, pods.api_version().as_str(), pods.list_kind().as_str()), ("Pod", "v1", "PodList"));
    assert_eq!(by_kind("apps", "Deployment").unwrap().plural, "deployments");
    assert!(by_resource("apps", "v1", "pods").is_none());
    assert!(by_kind("", "Deployment").is_none());
    let scale = by_kind("apps", "ReplicaSet").unwrap().subresource("scale").unwrap();
    assert_eq!(scale.kind_of(pods), "Scale");
    assert_eq!(scale.group_version_of(pods), ("autoscaling", "v1"));
    assert!(!by_kind("", "Namespace").unwrap().allows("deletecollection"));
}

#[test]
fn j40_pods_services_namespaces_and_accounts_are_returned_when_deleted() {
    let returned: Vec<&str> =
        all().iter().filter(|row| row.deleted == Deleted::Object).map(|row| row.kind).collect();
    assert_eq!(
        returned,
        [
            "Namespace",
            "PersistentVolumeClaim",
            "PersistentVolume",
            "Pod",
            "PodTemplate",
            "ResourceQuota",
            "ServiceAccount",
            "Service",
            "CSIDriver",
            "CSINode",
            "StorageClass",
            "VolumeAttachment",
            "VolumeAttributesClass",
            "DeviceClass",
            "ResourceClaim",
            "ResourceClaimTemplate",
            "ResourceSlice",
        ]
    );
}

#[test]
fn views_are_stored_where_their_kind_is() {
    for row in all() {
        assert!(row.stored().view.is_none(), "{} is a view of a view", row.kind);
    }
    let events = by_kind("events.k8s.io", "Event").unwrap();
    assert_eq!(events.store_prefix(), "/registry/core/events/");
    assert_eq!(by_kind("apps", "Deployment").unwrap().store_prefix(), "/registry/apps/deployments/");
}

#[test]
fn events_are_the_same_in_both_forms() {
    let view = by_kind("events.k8s.io", "Event").unwrap().view.unwrap();
    let theirs = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "kubelet", "reportingInstance": "n1",
        "action": "Pull", "reason": "Pulled", "regarding": {"kind": "Pod", "name": "p"}, "note": "got it",
        "type": "Normal", "deprecatedSource": {"component": "kubelet"}, "deprecatedCount": 2,
    });
    let core = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingComponent": "kubelet", "reportingInstance": "n1",
        "action": "Pull", "reason": "Pulled", "involvedObject": {"kind": "Pod", "name": "p"}, "message": "got it",
        "type": "Normal", "source": {"component": "kubelet"}, "count": 2,
    });
    let mut object = theirs.clone();
    (view.to_stored)(&mut object);
    assert_eq!(object, core);
    (view.from_stored)(&mut object);
    assert_eq!(object, theirs);
}

#[test]
fn events_do_not_keep_fields_of_the_other_form() {
    let view = by_kind("events.k8s.io", "Event").unwrap().view.unwrap();
    let mut object = json!({"kind": "Event", "message": "not a field of this form"});
    (view.to_stored)(&mut object);
    assert_eq!(
        object,
        json!({"apiVersion": "v1", "kind": "Event", "reportingComponent": "", "reportingInstance": ""})
    );
    (view.from_stored)(&mut object);
    assert_eq!(object, json!({"apiVersion": "events.k8s.io/v1", "kind": "Event"}));
}

#[test]
fn j53_event_fields_are_selected_by_their_own_names() {
    let view = by_kind("events.k8s.io", "Event").unwrap().view.unwrap();
    assert_eq!((view.stored_field)("regarding.uid"), Some("involvedObject.uid"));
    assert_eq!((view.stored_field)("involvedObject.uid"), None);
}
