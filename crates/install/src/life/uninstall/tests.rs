use super::*;

#[test]
fn cleaning_is_done_with_what_agents_have() {
    let objects = manifests(&crate::Values::default(), &Facts::default()).unwrap();
    let agent = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    let cleanup = cleanup_of(agent, "kube-system");
    let (before, after) = (&agent["spec"]["template"]["spec"], &cleanup["spec"]["template"]["spec"]);
    assert_eq!(before["tolerations"], after["tolerations"]);
    // All the same, but for one directory that is to go.
    let run = json!({"name": "run", "hostPath": {"path": "/run", "type": "Directory"}});
    let volumes = |pod: &Value| Vec::from_iter(pod["volumes"].as_array().unwrap().clone());
    assert_eq!(volumes(after)[1..], volumes(before)[1..]);
    assert_eq!(volumes(after)[0], run);
    let (before, after) = (&before["containers"][0], &after["containers"][0]);
    for field in ["image", "securityContext", "env"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    let mounts = |container: &Value| container["volumeMounts"].as_array().unwrap().clone();
    assert_eq!(mounts(after)[0], json!({"name": "run", "mountPath": "/host/run"}));
    assert_eq!(mounts(after)[1..], mounts(before)[1..]);
    let args = |container: &Value| container["args"].as_array().unwrap().clone();
    let more = ["--run-dir=/host/run/dyad", "--cni-socket=/host/run/dyad/cni.sock", "--cleanup"];
    assert_eq!(args(after), [args(before), more.map(Value::from).to_vec()].concat());
    assert!(after["livenessProbe"].is_null(), "nobody answers");
    assert_ne!(cleanup["spec"]["selector"], agent["spec"]["selector"], "pods are told apart");
}

#[test]
fn agents_that_were_told_of_another_directory_clean_that() {
    let mut chosen = Chosen::default();
    chosen.set("agent.extraArgs={--run-dir=/run/other}").unwrap();
    let agent = agents(&chosen, "kube-system", "1").unwrap().unwrap();
    let cleanup = cleanup_of(&agent, "kube-system");
    let (before, after) = (&agent["spec"]["template"]["spec"], &cleanup["spec"]["template"]["spec"]);
    assert_eq!(before["volumes"], after["volumes"]);
    assert_eq!(before["containers"][0]["volumeMounts"], after["containers"][0]["volumeMounts"]);
    assert_eq!(after["containers"][0]["args"].as_array().unwrap().last().unwrap(), "--cleanup");
    let flags = after["containers"][0]["args"].as_array().unwrap().iter();
    assert_eq!(flags.filter(|flag| flag.as_str().unwrap().starts_with("--run-dir")).count(), 1);
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
