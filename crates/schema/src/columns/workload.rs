//! Columns of Deployments, ReplicaSets, DaemonSets and ControllerRevisions.

use dyad_model::selector::LabelSelector;
use serde_json::Value;

use super::{AGE, Column, NAME, NONE, items, labels, number, or, text};

pub(crate) const DEPLOYMENT: &[Column] = &[
    NAME,
    Column::text("Ready", "Pods that are ready, of those wanted.", |deployment, _| {
        format!(
            "{}/{}",
            number(&deployment["status"]["readyReplicas"]),
            number(&deployment["spec"]["replicas"])
        )
        .into()
    }),
    // Numbers under the type string, as Kubernetes has it.
    Column::text("Up-to-date", "Pods of the current template.", |deployment, _| {
        number(&deployment["status"]["updatedReplicas"]).into()
    }),
    Column::text("Available", "Pods that have been ready for long enough to count on.", |deployment, _| {
        number(&deployment["status"]["availableReplicas"]).into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    // Unlike the others, without a placeholder for a selector that selects nothing.
    Column::text(SELECTOR.name, SELECTOR.description, |deployment, _| {
        LabelSelector::from_object(&deployment["spec"]["selector"])
            .map_or_else(|_| "<invalid>".to_owned(), |selector| selector.to_string())
            .into()
    })
    .wide(),
];

pub(crate) const REPLICA_SET: &[Column] = &[
    NAME,
    Column::integer("Desired", "Pods wanted.", |set, _| number(&set["spec"]["replicas"]).into()),
    Column::integer("Current", "Pods there are.", |set, _| number(&set["status"]["replicas"]).into()),
    Column::integer("Ready", "Pods that are ready.", |set, _| number(&set["status"]["readyReplicas"]).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const DAEMON_SET: &[Column] = &[
    NAME,
    Column::integer("Desired", "Nodes that should run a pod.", |set, _| {
        number(&set["status"]["desiredNumberScheduled"]).into()
    }),
    Column::integer("Current", "Nodes that run a pod and should.", |set, _| {
        number(&set["status"]["currentNumberScheduled"]).into()
    }),
    Column::integer("Ready", "Nodes whose pod is ready.", |set, _| {
        number(&set["status"]["numberReady"]).into()
    }),
    Column::integer("Up-to-date", "Nodes whose pod is of the current template.", |set, _| {
        number(&set["status"]["updatedNumberScheduled"]).into()
    }),
    Column::integer("Available", "Nodes whose pod has been ready for long enough to count on.", |set, _| {
        number(&set["status"]["numberAvailable"]).into()
    }),
    Column::text("Node Selector", "Labels of the nodes it runs on.", |set, _| {
        labels(&set["spec"]["template"]["spec"]["nodeSelector"]).into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(crate) const CONTROLLER_REVISION: &[Column] = &[
    NAME,
    Column::text("Controller", "What the revision is of.", |revision, _| {
        let owners = items(&revision["metadata"]["ownerReferences"]);
        let Some(owner) = owners.iter().find(|owner| owner["controller"] == true) else {
            return NONE.into();
        };
        let kind = text(&owner["kind"]).to_lowercase();
        let kind = match text(&owner["apiVersion"]).split_once('/') {
            Some((group, _)) => format!("{kind}.{group}"),
            None => kind,
        };
        format!("{kind}/{}", text(&owner["name"])).into()
    }),
    Column::integer("Revision", "Its number.", |revision, _| number(&revision["revision"]).into()),
    AGE,
];

const CONTAINERS: Column =
    Column::text("Containers", "Names of the containers in the template.", |object, _| {
        of_containers(object, "name")
    })
    .wide();

const IMAGES: Column = Column::text("Images", "Images of the containers in the template.", |object, _| {
    of_containers(object, "image")
})
.wide();

const SELECTOR: Column =
    Column::text("Selector", "Which pods belong to it.", |object, _| selector(&object["spec"]["selector"]))
        .wide();

/// A label selector, `<none>` if it selects nothing in particular.
pub(super) fn selector(selector: &Value) -> Value {
    match LabelSelector::from_object(selector) {
        Ok(selector) => or(&selector.to_string(), NONE).into(),
        Err(_) => "<error>".into(),
    }
}

fn of_containers(object: &Value, field: &str) -> Value {
    let containers = items(&object["spec"]["template"]["spec"]["containers"]);
    containers.iter().map(|container| text(&container[field])).collect::<Vec<_>>().join(",").into()
}
