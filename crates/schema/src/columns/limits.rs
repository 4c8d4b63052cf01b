//! Columns of priorities, quotas, limits and autoscalers.

use serde_json::Value;

use super::{AGE, Column, NAME, NONE, cluster, first_some, items, number, or, text};

pub(crate) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    Column::integer("Value", "What its pods are worth.", |class, _| number(&class["value"]).into()),
    Column::boolean("Global-Default", "Whether pods that name none have it.", |class, _| {
        (class["globalDefault"] == true).into()
    }),
    AGE,
    Column::text("PreemptionPolicy", "Whether its pods drive others out.", |class, _| {
        text(&class["preemptionPolicy"]).into()
    })
    .wide(),
];

/// Kubernetes has no columns for them.
pub(crate) const LIMIT_RANGE: &[Column] = cluster::ROLE;

pub(crate) const RESOURCE_QUOTA: &[Column] = &[
    NAME,
    Column::text("Request", "What is used, of what may be asked for.", |quota, _| used(quota, false).into()),
    Column::text("Limit", "What is used, of what may be granted.", |quota, _| used(quota, true).into()),
    AGE,
];

/// Used and hard of the resources that are limits, or of those that are not.
fn used(quota: &Value, limits: bool) -> String {
    let status = &quota["status"];
    let hard = status["hard"].as_object().into_iter().flatten();
    let shown = hard
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| format!("{name}: {}/{}", or(text(&status["used"][name]), "0"), text(hard)));
    shown.collect::<Vec<_>>().join(", ")
}

pub(crate) const AUTOSCALER: &[Column] = &[
    NAME,
    Column::text("Reference", "What it scales.", |scaler, _| {
        let target = &scaler["spec"]["scaleTargetRef"];
        format!("{}/{}", text(&target["kind"]), text(&target["name"])).into()
    }),
    Column::text("Targets", "What is, of what should be.", |scaler, _| targets(scaler).into()),
    Column::text("MinPods", "Fewest pods.", |scaler, _| match scaler["spec"]["minReplicas"].as_i64() {
        Some(least) => least.to_string().into(),
        None => "<unset>".into(),
    }),
    // Numbers under the type string, as Kubernetes has it.
    Column::text("MaxPods", "Most pods.", |scaler, _| number(&scaler["spec"]["maxReplicas"]).into()),
    Column::text("Replicas", "Pods there are.", |scaler, _| {
        number(&scaler["status"]["currentReplicas"]).into()
    }),
    AGE,
];

fn targets(scaler: &Value) -> String {
    let metrics = items(&scaler["spec"]["metrics"]);
    if metrics.is_empty() {
        return NONE.to_owned();
    }
    let now = items(&scaler["status"]["currentMetrics"]);
    let shown = metrics.iter().enumerate().map(|(index, metric)| target(metric, now.get(index)));
    first_some(shown, 2, ", ")
}

/// One metric, and what it is now.
fn target(metric: &Value, status: Option<&Value>) -> String {
    let (key, prefixed) = match text(&metric["type"]) {
        "External" => ("external", false),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        _ => return "<unknown type>".to_owned(),
    };
    let target = &metric[key]["target"];
    let now = |field: &str| match status.map(|status| &status[key]["current"][field]) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(percent)) => format!("{percent}%"),
        _ => "<unknown>".to_owned(),
    };
    let name = if prefixed { format!("{}: ", text(&metric[key]["name"])) } else { String::new() };
    match (target["averageValue"].as_str(), prefixed) {
        (Some(wanted), true) => format!("{name}{}/{wanted}", now("averageValue")),
        (Some(wanted), false) if key == "pods" => format!("{}/{wanted}", now("averageValue")),
        (Some(wanted), false) => format!("{}/{wanted} (avg)", now("averageValue")),
        (None, true) => {
            let wanted = target["averageUtilization"]
                .as_i64()
                .map_or_else(|| "<auto>".to_owned(), |one| format!("{one}%"));
            format!("{name}{}/{wanted}", now("averageUtilization"))
        }
        (None, false) => format!("{}/{}", now("value"), or(text(&target["value"]), "0")),
    }
}
