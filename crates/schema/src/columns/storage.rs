//! Columns of what volumes are made of.

use serde_json::Value;

use super::{AGE, Column, NAME, items, joined, name, or, text};

const UNSET: &str = "<unset>";

/// Where older clients name the class.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub(crate) const PERSISTENT_VOLUME: &[Column] = &[
    NAME,
    Column::text("Capacity", "How much it holds.", |volume, _| {
        or(text(&volume["spec"]["capacity"]["storage"]), "0").into()
    }),
    Column::text("Access Modes", "How it may be mounted.", |volume, _| modes(&volume["spec"]).into()),
    Column::text("Reclaim Policy", "What becomes of it when its claim has gone.", |volume, _| {
        text(&volume["spec"]["persistentVolumeReclaimPolicy"]).into()
    }),
    Column::text("Status", "Whether it is bound.", |volume, _| phase(volume)),
    Column::text("Claim", "What it is bound to.", |volume, _| match &volume["spec"]["claimRef"] {
        Value::Null => "".into(),
        claim => format!("{}/{}", text(&claim["namespace"]), text(&claim["name"])).into(),
    }),
    Column::text("StorageClass", "Its class.", |volume, _| class(volume)),
    Column::text("VolumeAttributesClass", "The class of its attributes.", |volume, _| {
        or(text(&volume["spec"]["volumeAttributesClassName"]), UNSET).into()
    }),
    Column::text("Reason", "Why it is in that status.", |volume, _| text(&volume["status"]["reason"]).into()),
    AGE,
    VOLUME_MODE,
];

pub(crate) const CLAIM: &[Column] = &[
    NAME,
    Column::text("Status", "Whether it is bound.", |claim, _| phase(claim)),
    Column::text("Volume", "What it is bound to.", |claim, _| text(&claim["spec"]["volumeName"]).into()),
    Column::text("Capacity", "How much that holds.", |claim, _| {
        if text(&claim["spec"]["volumeName"]).is_empty() {
            return "".into();
        }
        or(text(&claim["status"]["capacity"]["storage"]), "0").into()
    }),
    Column::text("Access Modes", "How that may be mounted.", |claim, _| {
        if text(&claim["spec"]["volumeName"]).is_empty() {
            return "".into();
        }
        modes(&claim["status"]).into()
    }),
    Column::text("StorageClass", "Its class.", |claim, _| class(claim)),
    Column::text("VolumeAttributesClass", "The class of its attributes.", |claim, _| {
        or(text(&claim["spec"]["volumeAttributesClassName"]), UNSET).into()
    }),
    AGE,
    VOLUME_MODE,
];

const VOLUME_MODE: Column = Column::text("VolumeMode", "Whether it is a file system.", |object, _| {
    or(text(&object["spec"]["volumeMode"]), UNSET).into()
})
.wide();

pub(crate) const STORAGE_CLASS: &[Column] = &[
    Column::text(NAME.name, NAME.description, |class, _| {
        let annotations = &class["metadata"]["annotations"];
        let is_default = ["storageclass.kubernetes.io", "storageclass.beta.kubernetes.io"]
            .iter()
            .any(|prefix| annotations[format!("{prefix}/is-default-class")] == "true");
        if is_default { format!("{} (default)", name(class)).into() } else { name(class).into() }
    })
    .identifying(),
    Column::text("Provisioner", "Who makes its volumes.", |class, _| text(&class["provisioner"]).into()),
    Column::text("ReclaimPolicy", "What becomes of them when their claims have gone.", |class, _| {
        or(text(&class["reclaimPolicy"]), "Delete").into()
    }),
    Column::text("VolumeBindingMode", "When claims are bound.", |class, _| {
        or(text(&class["volumeBindingMode"]), "Immediate").into()
    }),
    // A flag under the type string, as Kubernetes has it.
    Column::text("AllowVolumeExpansion", "Whether its volumes can grow.", |class, _| {
        (class["allowVolumeExpansion"] == true).into()
    }),
    AGE,
];

pub(crate) const CSI_DRIVER: &[Column] =
    &[
        NAME,
        Column::boolean("AttachRequired", "Whether volumes are attached to nodes.", |driver, _| {
            (driver["spec"]["attachRequired"] != false).into()
        }),
        Column::boolean("PodInfoOnMount", "Whether it is told of the pod.", |driver, _| {
            (driver["spec"]["podInfoOnMount"] == true).into()
        }),
        Column::boolean("StorageCapacity", "Whether it tells its capacity.", |driver, _| {
            (driver["spec"]["storageCapacity"] == true).into()
        }),
        Column::text("TokenRequests", "For whom it gets tokens.", |driver, _| {
            match &driver["spec"]["tokenRequests"] {
                Value::Null => UNSET.into(),
                tokens => {
                    let audiences: Vec<&str> =
                        items(tokens).iter().map(|token| text(&token["audience"])).collect();
                    audiences.join(",").into()
                }
            }
        }),
        Column::text("RequiresRepublish", "Whether it is called again and again.", |driver, _| {
            (driver["spec"]["requiresRepublish"] == true).into()
        }),
        Column::text("Modes", "How its volumes live.", |driver, _| {
            joined(items(&driver["spec"]["volumeLifecycleModes"]).iter().map(text)).into()
        }),
        AGE,
    ];

pub(crate) const CSI_NODE: &[Column] = &[
    NAME,
    Column::integer("Drivers", "Drivers on the node.", |node, _| {
        items(&node["spec"]["drivers"]).len().into()
    }),
    AGE,
];

pub(crate) const VOLUME_ATTACHMENT: &[Column] = &[
    NAME,
    Column::text("Attacher", "Who attaches.", |one, _| text(&one["spec"]["attacher"]).into()).identifying(),
    Column::text("PV", "What is attached.", |one, _| {
        text(&one["spec"]["source"]["persistentVolumeName"]).into()
    }),
    Column::text("Node", "Where to.", |one, _| text(&one["spec"]["nodeName"]).into()),
    Column::boolean("Attached", "Whether it is.", |one, _| (one["status"]["attached"] == true).into()),
    AGE,
];

fn phase(object: &Value) -> Value {
    match object["metadata"]["deletionTimestamp"].is_null() {
        true => text(&object["status"]["phase"]).into(),
        false => "Terminating".into(),
    }
}

fn class(object: &Value) -> Value {
    match object["metadata"]["annotations"][CLASS].as_str() {
        Some(class) => class.into(),
        None => text(&object["spec"]["storageClassName"]).into(),
    }
}

/// Access modes in short, in a fixed order.
fn modes(owner: &Value) -> String {
    let names = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| items(&owner["accessModes"]).iter().any(|one| one == mode);
    names.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}
