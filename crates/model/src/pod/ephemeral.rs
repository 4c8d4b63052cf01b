//! Ephemeral containers: added to a pod that is there already, and never changed or removed again (J55).

use serde_json::Value;

use crate::{FieldError, lifecycle, wire};

const FIELD: &str = "spec.ephemeralContainers";

/// Keeps everything but the ephemeral containers.
pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    let list = wire::at(new, &["spec", "ephemeralContainers"]).clone();
    wire::copy(new, old, "spec");
    wire::copy(new, old, "status");
    lifecycle::keep_meta(new, old);
    if list.is_null() {
        wire::remove(wire::child(new, "spec"), "ephemeralContainers");
    } else {
        wire::set(wire::child(new, "spec"), "ephemeralContainers", list);
    }
    lifecycle::next_generation_if_spec_changed(new, old);
}

/// Every error of a change: what is there stays as it is.
pub(super) fn validate_change(new: &Value, old: &Value) -> Vec<FieldError> {
    let annotations = wire::at(old, &["metadata", "annotations"]);
    if annotations.get("kubernetes.io/config.mirror").is_some() {
        return vec![FieldError::forbidden("", "static pods do not support ephemeral containers")];
    }
    let new = wire::list(wire::at(new, &["spec"]), "ephemeralContainers");
    let mut errors = Vec::new();
    for old in wire::list(wire::at(old, &["spec"]), "ephemeralContainers") {
        let name = wire::text(old, "name");
        match new.iter().rfind(|one| wire::text(one, "name") == name) {
            None => {
                let text = format!("existing ephemeral containers {name:?} may not be removed\n");
                errors.push(FieldError::forbidden(FIELD, text));
            }
            Some(new) if new != old => {
                let differences = super::update::differences(new, old);
                let text =
                    format!("existing ephemeral containers {name:?} may not be changed\n{differences}");
                errors.push(FieldError::forbidden(FIELD, text));
            }
            Some(_) => {}
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod_spec::validate_pod_spec;

    fn container(name: &str) -> Value {
        json!({
            "name": name, "image": "i", "terminationMessagePolicy": "File", "imagePullPolicy": "Always",
        })
    }

    fn pod(ephemeral: Value) -> Value {
        json!({
            "metadata": {"name": "p", "labels": {"a": "b"}, "generation": 1},
            "spec": {
                "containers": [container("c")], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
                "terminationGracePeriodSeconds": 30, "ephemeralContainers": ephemeral,
            },
            "status": {"phase": "Running"},
        })
    }

    #[test]
    fn only_ephemeral_containers_change() {
        let old = pod(json!([]));
        let mut new = pod(json!([container("e")]));
        new["spec"]["nodeName"] = "elsewhere".into();
        new["metadata"]["labels"] = json!({});
        new["status"] = json!({});
        prepare_update(&mut new, &old);
        let mut want = pod(json!([container("e")]));
        want["metadata"]["generation"] = 2.into();
        assert_eq!(new, want);
    }

    #[test]
    fn what_is_there_stays() {
        let texts = |new: Value, old: Value| -> Vec<String> {
            validate_change(&pod(new), &pod(old)).iter().map(ToString::to_string).collect()
        };
        let mut changed = container("e");
        changed["image"] = "other".into();
        assert!(texts(json!([container("f"), container("e")]), json!([container("e")])).is_empty());
        assert_eq!(
            texts(json!([]), json!([container("e")])),
            ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n"]
        );
        let found = texts(json!([changed]), json!([container("e")]));
        assert!(found[0].starts_with(
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be changed\n"
        ));
    }

    #[test]
    fn ephemeral_containers_have_rules_of_their_own() {
        let errors = |change: Value| -> Vec<String> {
            let mut one = container("e");
            one.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let spec = &pod(json!([one]))["spec"];
            validate_pod_spec(spec, "spec", true).iter().map(ToString::to_string).collect()
        };
        let at = |text: &str| format!("spec.ephemeralContainers[0].{text}");
        let not = "Forbidden: cannot be set for an Ephemeral Container";
        #[rustfmt::skip]
        let rows = [
            (json!({"resources": {}, "targetContainerName": "c"}), vec![]),
            (json!({"name": "c"}), vec![at("name: Duplicate value: \"c\"")]),
            (json!({"targetContainerName": "x"}), vec![at("targetContainerName: Not found: \"x\"")]),
            (json!({"ports": [{"containerPort": 1, "protocol": "TCP"}]}), vec![at(&format!("ports: {not}"))]),
            (json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}), vec![at(&format!("lifecycle: {not}"))]),
        ];
        for (change, want) in rows {
            assert_eq!(errors(change.clone()), want, "{change}");
        }
    }
}
