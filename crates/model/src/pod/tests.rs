use super::*;
use crate::testing::{created, updated};

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "default"},
        "spec": {"nodeName": "nowhere", "containers": [{"name": "c", "image": "x"}]}})
}

fn stored() -> Value {
    created(&POD, pod()).0
}

#[test]
fn a_created_pod() {
    let mut new = pod();
    new["status"] = json!({"phase": "Running", "podIP": "10.0.0.1"});
    let (pod, errors) = created(&POD, new);
    assert_eq!(errors, Vec::<String>::new());
    let wanted = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "default", "generation": 1},
        "spec": {"containers": [{"image": "x", "imagePullPolicy": "Always", "name": "c", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "nodeName": "nowhere",
            "preemptionPolicy": "PreemptLowerPriority", "priority": 0, "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
            "tolerations": [
                {"effect": "NoExecute", "key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 300},
                {"effect": "NoExecute", "key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 300}]},
        "status": {"phase": "Pending", "qosClass": "BestEffort"}});
    assert_eq!(pod, wanted, "B5: a created pod has no status of its own");
}

#[test]
fn addresses_are_one_field() {
    let rows = [
        ("B1: singular only", json!({"podIP": "10.0.0.1"}), json!("10.0.0.1"), json!([{"ip": "10.0.0.1"}])),
        (
            "B2: plural only",
            json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}),
            json!("10.0.0.1"),
            json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]),
        ),
        (
            "B1: alike",
            json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}),
            json!("10.0.0.1"),
            json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]),
        ),
        (
            "B1: the singular wins",
            json!({"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}),
            json!("10.0.0.2"),
            json!([{"ip": "10.0.0.2"}]),
        ),
        ("none", json!({}), Value::Null, Value::Null),
    ];
    for (row, mut status, ip, ips) in rows {
        status::synchronise_addresses(&mut status);
        assert_eq!((wire::at(&status, &["podIP"]), wire::at(&status, &["podIPs"])), (&ip, &ips), "{row}");
    }
}

#[test]
fn addresses_are_checked() {
    let old = stored();
    let rows = [
        ("B4: one of each", json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}), vec![]),
        (
            "B4: no address",
            json!({"podIP": "x"}),
            vec![
                "status.podIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            "B4: one family twice",
            json!({"podIPs": [{"ip": "fd00::1"}, {"ip": "fd00::2"}]}),
            vec![
                "status.podIPs: Invalid value: [{\"IP\":\"fd00::1\"},{\"IP\":\"fd00::2\"}]: may specify no more than one IP for \
                 each IP family",
            ],
        ),
        (
            "B4: no address among two",
            json!({"podIPs": [{"ip": "x"}, {"ip": "fd00::2"}]}),
            vec![
                "status.podIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "status.podIPs: Internal error: failed to check for dual stack with error:invalid IP[0]: x",
                "status.podIPs: Invalid value: [{\"IP\":\"x\"},{\"IP\":\"fd00::2\"}]: may specify no more than one IP for each IP \
                 family",
            ],
        ),
        ("B3: hostIP alone is free", json!({"hostIP": "x"}), vec![]),
        (
            "B3: hostIP is hostIPs[0]",
            json!({"hostIP": "10.0.0.2", "hostIPs": [{"ip": "10.0.0.1"}]}),
            vec!["status.hostIPs[0].ip: Invalid value: \"10.0.0.1\": must be equal to `hostIP`"],
        ),
    ];
    for (row, status, wanted) in rows {
        let mut new = old.clone();
        for (key, value) in status.as_object().unwrap() {
            new["status"][key] = value.clone();
        }
        assert_eq!(updated(&POD, new, &old, "status").1, wanted, "{row}");
    }
    let mut odd = old.clone();
    odd["status"]["podIPs"] = json!([{"ip": "010.0.0.1"}]);
    assert_eq!(
        updated(&POD, odd.clone(), &odd, "status").1,
        Vec::<String>::new(),
        "P4: what was there stays"
    );
}

#[test]
fn endpoints_keep_to_their_half() {
    let old = stored();
    let mut new = old.clone();
    new["status"]["phase"] = json!("Running");
    assert_eq!(updated(&POD, new.clone(), &old, "").0, old, "B5: main keeps the status");
    new["spec"]["containers"][0]["image"] = json!("y");
    new["metadata"]["ownerReferences"] = json!([{"name": "o"}]);
    let status = updated(&POD, new, &old, "status").0;
    assert_eq!(status["spec"], old["spec"], "B5: status keeps the specification");
    assert_eq!(status["metadata"], old["metadata"], "B5: and owners");
    assert_eq!(status["status"]["phase"], "Running");
}

#[test]
fn little_of_a_pod_changes() {
    let old = stored();
    let changed = |pointer: &str, value: Value| {
        let mut new = old.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = new.pointer_mut(parent).unwrap();
        match parent.as_array_mut() {
            Some(list) => list[key.parse::<usize>().unwrap()] = value,
            None => parent[key] = value,
        }
        updated(&POD, new, &old, "")
    };
    let (pod, errors) = changed("/spec/containers/0/image", json!("y"));
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(pod["metadata"]["generation"], 2, "J47");
    let (pod, errors) = changed("/metadata/labels", json!({"a": "b"}));
    assert_eq!((errors, &pod["metadata"]["generation"]), (vec![], &json!(1)), "J47");
    assert_eq!(changed("/spec/activeDeadlineSeconds", json!(5)).1, Vec::<String>::new());
    for (pointer, value) in [
        ("/spec/nodeName", json!("other")),
        ("/spec/containers/0/command", json!(["x"])),
        ("/spec/hostNetwork", json!(true)),
    ] {
        let (_, errors) = changed(pointer, value);
        let wanted = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
            `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
            tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n";
        assert!(errors.iter().any(|error| error.starts_with(wanted)), "{pointer}: {errors:?}");
    }
    let two = json!([{"name": "c", "image": "x"}, {"name": "d", "image": "x"}]);
    assert_eq!(
        changed("/spec/containers", two).1,
        ["spec.containers: Forbidden: pod updates may not add or remove containers"]
    );
    let other = json!({"key": "k", "operator": "Exists"});
    let (pod, errors) = changed("/spec/tolerations", json!([other]));
    assert_eq!(errors, Vec::<String>::new(), "admission brings the default tolerations back");
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 3);
}

#[test]
fn terminated_containers_stay_so() {
    let mut old = stored();
    old["spec"]["restartPolicy"] = json!("OnFailure");
    let status = |state: Value| json!([{"name": "c", "state": state}]);
    let mut new = old.clone();
    new["status"]["containerStatuses"] = status(json!({"running": {}}));
    for (code, wanted) in [(1, 0), (0, 1)] {
        old["status"]["containerStatuses"] = status(json!({"terminated": {"exitCode": code}}));
        let (_, errors) = updated(&POD, new.clone(), &old, "status");
        assert_eq!(errors.len(), wanted, "exit code {code}: {errors:?}");
    }
}

#[test]
fn priorities_are_of_classes() {
    let mut new = pod();
    new["spec"]["priorityClassName"] = json!("system-node-critical");
    assert_eq!(created(&POD, new).0["spec"]["priority"], 2_000_001_000);
    let mut new = pod();
    new["spec"]["priority"] = json!(5);
    let refused = admission::on_create(&mut new, &crate::testing::context("")).unwrap_err();
    assert!(
        matches!(refused, Refusal::Forbidden(text) if text.starts_with("the integer value of priority (5)"))
    );
    let mut new = pod();
    new["spec"]["runtimeClassName"] = json!("none");
    let refused = admission::on_create(&mut new, &crate::testing::context("")).unwrap_err();
    assert_eq!(refused, Refusal::Forbidden("pod rejected: RuntimeClass \"none\" not found".to_owned()));
}
