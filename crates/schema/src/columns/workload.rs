//! Columns of what runs pods, and of what bounds how many of them may be missing.

use dyad_model::selector::LabelSelector;
use serde_json::Value;

use super::{AGE, Column, NAME, NONE, age, items, labels, number, or, text};

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

pub(crate) const STATEFUL_SET: &[Column] = &[
    NAME,
    Column::text("Ready", "Pods that are ready, of those wanted.", |set, _| {
        format!("{}/{}", number(&set["status"]["readyReplicas"]), number(&set["spec"]["replicas"])).into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
];

pub(crate) const REPLICATION_CONTROLLER: &[Column] = &[
    NAME,
    Column::integer("Desired", "Pods wanted.", |set, _| number(&set["spec"]["replicas"]).into()),
    Column::integer("Current", "Pods there are.", |set, _| number(&set["status"]["replicas"]).into()),
    Column::integer("Ready", "Pods that are ready.", |set, _| number(&set["status"]["readyReplicas"]).into()),
    AGE,
    CONTAINERS,
    IMAGES,
    Column::text("Selector", "Which pods belong to it.", |set, _| labels(&set["spec"]["selector"]).into())
        .wide(),
];

pub(crate) const POD_TEMPLATE: &[Column] = &[
    NAME,
    Column::text("Containers", "Names of its containers.", |template, _| {
        containers(&template["template"], "name")
    }),
    Column::text("Images", "Images of its containers.", |template, _| {
        containers(&template["template"], "image")
    }),
    Column::text("Pod Labels", "Labels of its pods.", |template, _| {
        labels(&template["template"]["metadata"]["labels"]).into()
    }),
];

pub(crate) const JOB: &[Column] = &[
    NAME,
    Column::text("Status", "What it is doing, or how it ended.", |job, _| job_status(job).into()),
    Column::text("Completions", "Pods that succeeded, of those that have to.", |job, _| {
        let done = number(&job["status"]["succeeded"]);
        match (job["spec"]["completions"].as_i64(), number(&job["spec"]["parallelism"])) {
            (Some(wanted), _) => format!("{done}/{wanted}").into(),
            (None, at_once @ 2..) => format!("{done}/1 of {at_once}").into(),
            (None, _) => format!("{done}/1").into(),
        }
    }),
    Column::text("Duration", "How long it has run, or ran.", |job, now| {
        let at = |key: &str| age::seconds(&job["status"][key]);
        at("startTime")
            .map_or_else(String::new, |start| age::human(at("completionTime").unwrap_or(now) - start))
            .into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn job_status(job: &Value) -> &'static str {
    let conditions = items(&job["status"]["conditions"]);
    let has = |kind: &str| conditions.iter().any(|one| one["type"] == kind && one["status"] == "True");
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if !job["metadata"]["deletionTimestamp"].is_null() {
        "Terminating"
    } else {
        let ways = ["Suspended", "FailureTarget", "SuccessCriteriaMet"];
        ways.into_iter().find(|kind| has(kind)).unwrap_or("Running")
    }
}

pub(crate) const CRON_JOB: &[Column] = &[
    NAME,
    Column::text("Schedule", "When it makes Jobs.", |job, _| text(&job["spec"]["schedule"]).into()),
    Column::text("Timezone", "Where the schedule's clock hangs.", |job, _| {
        job["spec"]["timeZone"].as_str().unwrap_or(NONE).into()
    }),
    Column::boolean("Suspend", "Whether it makes no more Jobs.", |job, _| match &job["spec"]["suspend"] {
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        _ => "<unset>".into(),
    }),
    Column::integer("Active", "Jobs of it that run.", |job, _| items(&job["status"]["active"]).len().into()),
    Column::text("Last Schedule", "How long ago it last made one.", |job, now| {
        match &job["status"]["lastScheduleTime"] {
            Value::Null => NONE.into(),
            time => age::since(time, now).into(),
        }
    }),
    AGE,
    Column::text(CONTAINERS.name, CONTAINERS.description, |job, _| {
        containers(&job["spec"]["jobTemplate"]["spec"]["template"], "name")
    })
    .wide(),
    Column::text(IMAGES.name, IMAGES.description, |job, _| {
        containers(&job["spec"]["jobTemplate"]["spec"]["template"], "image")
    })
    .wide(),
    Column::text(SELECTOR.name, SELECTOR.description, |job, _| {
        selector(&job["spec"]["jobTemplate"]["spec"]["selector"])
    })
    .wide(),
];

pub(crate) const DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    Column::text("Min Available", "Pods that must stay.", |budget, _| {
        amount(&budget["spec"]["minAvailable"])
    }),
    Column::text("Max Unavailable", "Pods that may be missing.", |budget, _| {
        amount(&budget["spec"]["maxUnavailable"])
    }),
    Column::integer("Allowed Disruptions", "Pods that may go now.", |budget, _| {
        number(&budget["status"]["disruptionsAllowed"]).into()
    }),
    AGE,
];

/// A number or a percentage.
fn amount(value: &Value) -> Value {
    match value {
        Value::Null => "N/A".into(),
        Value::String(text) => text.as_str().into(),
        number => number.to_string().into(),
    }
}

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
    containers(&object["spec"]["template"], field)
}

/// A field of the containers of a template.
fn containers(template: &Value, field: &str) -> Value {
    let containers = items(&template["spec"]["containers"]);
    containers.iter().map(|container| text(&container[field])).collect::<Vec<_>>().join(",").into()
}
