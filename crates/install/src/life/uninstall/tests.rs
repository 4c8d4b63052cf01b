use super::*;

#[test]
fn cleaning_is_done_with_what_agents_have() {
    let objects = manifests(&crate::Values::default(), &Facts::default()).unwrap();
    let agent = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    let cleanup = cleanup_of(agent, "kube-system");
    let (before, after) = (&agent["spec"]["template"]["spec"], &cleanup["spec"]["template"]["spec"]);
    assert_eq!(before["volumes"], after["volumes"]);
    assert_eq!(before["tolerations"], after["tolerations"]);
    let (before, after) = (&before["containers"][0], &after["containers"][0]);
    for field in ["image", "securityContext", "volumeMounts", "env"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(after["args"].as_array().unwrap().last().unwrap(), "--cleanup");
    assert!(after["livenessProbe"].is_null(), "nobody answers");
    assert_ne!(cleanup["spec"]["selector"], agent["spec"]["selector"], "pods are told apart");
}

#[test]
fn a_node_is_clean_when_the_work_was_done_once() {
    let pod = |status: Value| json!({"status": {"containerStatuses": [status]}});
    assert!(is_done(&pod(json!({"state": {"terminated": {"exitCode": 0}}}))));
    assert!(is_done(&pod(json!({"state": {"waiting": {}}, "lastState": {"terminated": {"exitCode": 0}}}))));
    assert!(!is_done(&pod(json!({"state": {"running": {}}}))));
    assert!(!is_done(&pod(json!({"state": {"terminated": {"exitCode": 1}}}))));
    assert!(!is_done(&json!({})));
    let stuck = pod(json!({"state": {"waiting": {"reason": "ErrImagePull", "message": "not there"}}}));
    assert_eq!(trouble(&stuck).as_deref(), Some("ErrImagePull not there"));
}

#[test]
fn only_what_agents_have_written_is_taken_from_nodes() {
    let node = json!({"metadata": {
        "annotations": {"dyad.io/dataplane": "ebpf", "dyad.io/pod-cidrs": "10.0.0.0/24", "dyad.io/extra": "x", "dyad.io/node-ip": "192.0.2.1", "other": "x"},
        "managedFields": [
            {"manager": "dyad-agent", "fieldsV1": {"f:metadata": {"f:annotations": {
                "f:dyad.io/dataplane": {}, "f:dyad.io/extra": {}, "f:dyad.io/gone": {}, "f:other": {},
            }}}},
            {"manager": "kubectl", "fieldsV1": {"f:metadata": {"f:annotations": {"f:dyad.io/node-ip": {}}}}},
        ],
    }});
    assert_eq!(Vec::from_iter(written(&node)), ["dyad.io/dataplane", "dyad.io/extra", "dyad.io/pod-cidrs"]);
    assert!(written(&json!({})).is_empty());
}
