use serde_json::{Value, json};

use super::*;
use crate::testing::{created, updated};

fn claim(spec: Value) -> Value {
    let mut all = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({"metadata": {"name": "c"}, "spec": all})
}

#[test]
fn claims() {
    let (new, errors) = created(&PERSISTENT_VOLUME_CLAIM, claim(json!({})));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(new["status"], json!({"phase": "Pending"}));
    assert_eq!(new["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    #[rustfmt::skip]
    let rows = [
        (json!({"accessModes": []}), vec!["spec.accessModes: Required value: at least 1 access mode is required"]),
        (json!({"accessModes": ["ReadWriteOncePod", "ReadWriteOnce"]}), vec!["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"]),
        (json!({"resources": {}}), vec!["spec.resources[storage]: Required value"]),
        (json!({"resources": {"requests": {"storage": "0"}}}), vec!["spec.resources[storage]: Invalid value: \"0\": must be greater than zero"]),
        (json!({"volumeMode": "x"}), vec!["spec.volumeMode: Unsupported value: \"x\": supported values: \"Block\", \"Filesystem\""]),
    ];
    for (spec, wanted) in rows {
        assert_eq!(created(&PERSISTENT_VOLUME_CLAIM, claim(spec.clone())).1, wanted, "{spec}");
    }
    let source = json!({"kind": "PersistentVolumeClaim", "name": "o"});
    let filled = created(&PERSISTENT_VOLUME_CLAIM, claim(json!({"dataSource": source}))).0;
    assert_eq!(filled["spec"]["dataSourceRef"], source, "KEP-1495");
    let errors =
        updated(&PERSISTENT_VOLUME_CLAIM, claim(json!({"accessModes": ["ReadWriteMany"]})), &new, "").1;
    assert!(errors[0].starts_with("spec: Forbidden: spec is immutable"), "{errors:?}");
    assert!(
        updated(&PERSISTENT_VOLUME_CLAIM, claim(json!({"volumeName": "v"})), &new, "").1.is_empty(),
        "once"
    );
}

#[test]
fn volumes() {
    let volume = |spec: Value| {
        let mut all = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        json!({"metadata": {"name": "v"}, "spec": all})
    };
    #[rustfmt::skip]
    let rows = [
        (json!({"hostPath": {"path": "/x"}}), vec![]),
        (json!({}), vec!["spec: Required value: must specify a volume type"]),
        (json!({"hostPath": {"path": "/a/../b"}}), vec!["spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'"]),
        (json!({"hostPath": {"path": "/x"}, "nfs": {"server": "s", "path": "/"}}), vec!["spec.nfs: Forbidden: may not specify more than 1 volume type"]),
        (json!({"local": {"path": "/x"}}), vec!["spec.nodeAffinity: Required value: Local volume requires node affinity"]),
        (json!({"capacity": {"storage": "0"}, "hostPath": {"path": "/x"}}), vec!["spec.capacity[storage]: Invalid value: \"0\": must be greater than zero"]),
    ];
    for (spec, wanted) in rows {
        assert_eq!(created(&PERSISTENT_VOLUME, volume(spec.clone())).1, wanted, "{spec}");
    }
}

#[test]
fn classes() {
    let class = json!({"metadata": {"name": "c"}, "provisioner": "a.b/c"});
    let (new, errors) = created(&STORAGE_CLASS, class.clone());
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!((&new["reclaimPolicy"], &new["volumeBindingMode"]), (&json!("Delete"), &json!("Immediate")));
    let mut changed = class;
    changed["provisioner"] = json!("a.b/d");
    assert_eq!(
        updated(&STORAGE_CLASS, changed, &new, "").1,
        ["provisioner: Invalid value: \"a.b/d\": field is immutable"]
    );
}
