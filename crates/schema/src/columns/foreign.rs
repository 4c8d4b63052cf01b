//! Columns of what is stored here for components of others, which act on it.

use serde_json::Value;

use super::{AGE, Column, NAME, items, joined, text};

const UNSET: &str = "<unset>";

/// Kinds of which nothing but the name is shown.
pub(crate) const NAMED: &[Column] = &[NAME, AGE];

pub(crate) const ATTRIBUTES_CLASS: &[Column] = &[
    NAME,
    Column::text("DriverName", "Whose attributes they are.", |class, _| text(&class["driverName"]).into()),
    AGE,
];

pub(crate) const STORAGE_CAPACITY: &[Column] = &[
    NAME,
    Column::text("StorageClassName", "For which class.", |one, _| text(&one["storageClassName"]).into()),
    Column::text("Capacity", "How much is left.", |one, _| match &one["capacity"] {
        Value::Null => UNSET.into(),
        capacity => capacity.clone(),
    }),
];

pub(crate) const RUNTIME_CLASS: &[Column] =
    &[NAME, Column::text("Handler", "What runs its pods.", |class, _| text(&class["handler"]).into()), AGE];

pub(crate) const RESOURCE_CLAIM: &[Column] = &[
    NAME,
    Column::text("State", "Whether it is allocated and reserved.", |claim, _| {
        let deleted = !claim["metadata"]["deletionTimestamp"].is_null();
        let allocated = !claim["status"]["allocation"].is_null();
        let reserved = allocated && !items(&claim["status"]["reservedFor"]).is_empty();
        let states = [
            (deleted, "deleted"),
            (!allocated && !deleted, "pending"),
            (allocated, "allocated"),
            (reserved, "reserved"),
        ];
        joined(states.into_iter().filter_map(|(is, state)| is.then_some(state))).into()
    }),
    AGE,
];

pub(crate) const RESOURCE_SLICE: &[Column] = &[
    NAME,
    Column::text("Node", "Where the devices are.", |slice, _| text(&slice["spec"]["nodeName"]).into()),
    Column::text("Driver", "Whose devices they are.", |slice, _| text(&slice["spec"]["driver"]).into()),
    Column::text("Pool", "The pool they belong to.", |slice, _| text(&slice["spec"]["pool"]["name"]).into()),
    AGE,
];

pub(crate) const ADMISSION_POLICY: &[Column] = &[
    NAME,
    Column::integer("Validations", "How many rules it has.", |policy, _| {
        items(&policy["spec"]["validations"]).len().into()
    }),
    Column::text(
        "ParamKind",
        "The kind of its parameters.",
        |policy, _| match &policy["spec"]["paramKind"] {
            Value::Null => UNSET.into(),
            kind => format!("{}/{}", text(&kind["apiVersion"]), text(&kind["kind"])).into(),
        },
    ),
    AGE,
];

pub(crate) const ADMISSION_BINDING: &[Column] = &[
    NAME,
    Column::text("PolicyName", "What is bound.", |binding, _| text(&binding["spec"]["policyName"]).into()),
    Column::text("ParamRef", "Its parameters.", |binding, _| {
        let params = &binding["spec"]["paramRef"];
        match (text(&params["namespace"]), text(&params["name"])) {
            (_, "") => UNSET.into(),
            // Whether parameters have a namespace can't be told from here.
            ("", name) => format!("*/{name}").into(),
            (namespace, name) => format!("{namespace}/{name}").into(),
        }
    }),
    AGE,
];
