//! Columns of Nodes, Namespaces, configuration, Leases and roles.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{AGE, CellType, Column, NAME, age, items, joined, or, text};

pub(crate) const NODE: &[Column] = &[
    NAME,
    Column::text("Status", "Whether the node is ready and takes new pods.", |node, _| {
        let mut conditions = items(&node["status"]["conditions"]).iter();
        let ready = match conditions.rfind(|condition| condition["type"] == "Ready") {
            Some(condition) if condition["status"] == "True" => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        };
        match node["spec"]["unschedulable"] == true {
            true => format!("{ready},SchedulingDisabled").into(),
            false => ready.into(),
        }
    }),
    Column::text("Roles", "What the node is for.", |node, _| joined(roles(node)).into()),
    AGE,
    Column::text("Version", "Version of its kubelet.", |node, _| info(node, "kubeletVersion").into()),
    Column::text("Internal-IP", "Addresses inside the cluster, of every family.", |node, _| {
        addresses(node, "InternalIP").into()
    })
    .wide(),
    Column::text("External-IP", "Addresses outside the cluster, of every family.", |node, _| {
        addresses(node, "ExternalIP").into()
    })
    .wide(),
    Column::text("OS-Image", "Its operating system.", |node, _| or(info(node, "osImage"), UNKNOWN).into())
        .wide(),
    Column::text("Kernel-Version", "Its kernel and architecture.", |node, _| {
        let kernel = or(info(node, "kernelVersion"), UNKNOWN);
        match info(node, "architecture") {
            "" => kernel.into(),
            architecture => format!("{kernel} ({architecture})").into(),
        }
    })
    .wide(),
    Column::text("Container-Runtime", "What runs its containers.", |node, _| {
        or(info(node, "containerRuntimeVersion"), UNKNOWN).into()
    })
    .wide(),
];

pub(crate) const CUSTOM_RESOURCE_DEFINITION: &[Column] = &[
    NAME,
    Column::date("Created At", "When it was created.", |object, _| {
        object["metadata"]["creationTimestamp"].clone()
    }),
];

pub(crate) const NAMESPACE: &[Column] = &[
    NAME,
    Column::text("Status", "Whether it is in use or being deleted.", |namespace, _| {
        text(&namespace["status"]["phase"]).into()
    }),
    AGE,
];

// Counts are numbers under the type string, as Kubernetes has it.
pub(crate) const CONFIG_MAP: &[Column] = &[
    NAME,
    Column::text("Data", "How many entries it has.", |map, _| {
        (size(&map["data"]) + size(&map["binaryData"])).into()
    }),
    AGE,
];

pub(crate) const SECRET: &[Column] = &[
    NAME,
    Column::text("Type", "What kind of secret.", |secret, _| text(&secret["type"]).into()),
    Column::text("Data", "How many entries it has.", |secret, _| size(&secret["data"]).into()),
    AGE,
];

/// Kinds that have no more to show than that they are there.
pub(crate) const NAMED: &[Column] = &[NAME, AGE];

pub(crate) const LEASE: &[Column] = &[
    NAME,
    Column::text("Holder", "Who has it.", |lease, _| text(&lease["spec"]["holderIdentity"]).into()),
    AGE,
];

/// Roles show when they were created; the client turns that into an age.
pub(crate) const ROLE: &[Column] = &[
    NAME,
    Column {
        cell_type: CellType::Date,
        ..Column::text("Created At", "When it was created.", |role, _| {
            role["metadata"]["creationTimestamp"].clone()
        })
    },
];

pub(crate) const ROLE_BINDING: &[Column] = &[
    NAME,
    Column::text("Role", "The role that is given.", |binding, _| {
        format!("{}/{}", text(&binding["roleRef"]["kind"]), text(&binding["roleRef"]["name"])).into()
    }),
    AGE,
    Column::text("Users", "Users that have it.", |binding, _| subjects(binding, "User")).wide(),
    Column::text("Groups", "Groups that have it.", |binding, _| subjects(binding, "Group")).wide(),
    Column::text("ServiceAccounts", "Service accounts that have it.", |binding, _| {
        subjects(binding, "ServiceAccount")
    })
    .wide(),
];

const UNKNOWN: &str = "<unknown>";

fn info<'a>(node: &'a Value, field: &str) -> &'a str {
    text(&node["status"]["nodeInfo"][field])
}

fn addresses(node: &Value, kind: &str) -> String {
    let of_kind = items(&node["status"]["addresses"]).iter().filter(|address| address["type"] == kind);
    joined(of_kind.map(|address| text(&address["address"])))
}

/// Roles from the labels `node-role.kubernetes.io/<role>` and `kubernetes.io/role=<role>`, sorted.
fn roles(node: &Value) -> BTreeSet<&str> {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            None if key == "kubernetes.io/role" => Some(text(value)),
            role => role,
        })
        .filter(|role| !role.is_empty())
        .collect()
}

fn size(map: &Value) -> usize {
    map.as_object().map_or(0, |entries| entries.len())
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let of_kind = items(&binding["subjects"]).iter().filter(|subject| subject["kind"] == kind);
    let names: Vec<String> = of_kind
        .map(|subject| match kind {
            "ServiceAccount" => format!("{}/{}", text(&subject["namespace"]), text(&subject["name"])),
            _ => text(&subject["name"]).to_owned(),
        })
        .collect();
    names.join(", ").into()
}

pub(crate) const CERTIFICATE_SIGNING_REQUEST: &[Column] = &[
    NAME,
    AGE,
    Column::text("SignerName", "Who shall sign.", |request, _| {
        or(text(&request["spec"]["signerName"]), "<none>").into()
    }),
    Column::text("Requestor", "Who asks.", |request, _| text(&request["spec"]["username"]).into()),
    Column::text("RequestedDuration", "For how long.", |request, _| {
        request["spec"]["expirationSeconds"]
            .as_i64()
            .map_or("<none>".into(), |seconds| age::human(seconds).into())
    }),
    Column::text("Condition", "What was decided, and done.", |request, _| {
        let has = |kind: &str| {
            items(&request["status"]["conditions"]).iter().any(|condition| condition["type"] == kind)
        };
        let mut shown = if has("Denied") {
            "Denied".to_owned()
        } else if has("Approved") {
            "Approved".to_owned()
        } else {
            "Pending".to_owned()
        };
        if has("Failed") {
            shown.push_str(",Failed");
        }
        if !text(&request["status"]["certificate"]).is_empty() {
            shown.push_str(",Issued");
        }
        shown.into()
    }),
];
