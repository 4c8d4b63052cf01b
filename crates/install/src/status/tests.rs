use serde_json::json;

use super::*;

fn agents(desired: u64, ready: u64, updated: u64, observed: u64) -> Value {
    json!({
        "metadata": {"name": "dyad-agent", "generation": 2},
        "spec": {"template": {"spec": {"containers": [{"image": "dyad:1"}]}}},
        "status": {
            "desiredNumberScheduled": desired, "numberReady": ready, "updatedNumberScheduled": updated,
            "observedGeneration": observed,
        },
    })
}

#[test]
fn an_installation_is_ready_when_nothing_is_missing() {
    for (agents, problem) in [
        (agents(3, 3, 3, 2), None),
        (agents(0, 0, 0, 2), None),
        (agents(3, 2, 3, 2), Some("dyad-agent: 2 of 3 are ready")),
        (agents(3, 3, 1, 2), Some("dyad-agent: 1 of 3 are of its latest version")),
        (agents(3, 3, 3, 1), Some("dyad-agent: its controller has not looked")),
    ] {
        let found = judge("kube-system", None, vec![daemon_set(&agents)], Vec::new(), true);
        assert_eq!(found.ready, problem.is_none(), "{agents}");
        assert!(problem.is_none_or(|problem| found.problems[0].starts_with(problem)), "{:?}", found.problems);
    }
    assert!(!judge("kube-system", None, Vec::new(), Vec::new(), false).ready);
    let dns = json!({"metadata": {"name": "dyad-dns"}, "spec": {"replicas": 2}, "status": {"updatedReplicas": 2, "readyReplicas": 1}});
    assert_eq!(
        judge("a", None, vec![deployment(&dns)], Vec::new(), true).problems,
        ["dyad-dns: 1 of 2 are ready"]
    );
}

#[test]
fn a_node_tells_of_its_agent_and_both_families() {
    let node = json!({
        "metadata": {"name": "n1", "annotations": {DATAPLANE: "nftables: no BPF here", WARNINGS: "[\"one\",\"two\\nlines\"]"}},
        "spec": {"podCIDRs": ["fd00::/64", "10.0.0.0/24"]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "2001:db8::1"}, {"type": "Hostname", "address": "n1"},
            {"type": "InternalIP", "address": "192.0.2.1"},
        ]},
    });
    let pod = |name: &str, ready: &str, going: Value| {
        json!({
            "metadata": {"labels": {"app.kubernetes.io/version": name}, "deletionTimestamp": going},
            "spec": {"nodeName": "n1"},
            "status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [{"lastState": {"terminated": {"message": "starting\nerror: no WireGuard\n\n"}}}],
            },
        })
    };
    let pods = [pod("1", "True", json!("2026-01-01T00:00:00Z")), pod("2", "False", Value::Null)];
    let found = of_node(&node, &pods);
    assert_eq!((found.agent, found.version.as_deref()), (Some(false), Some("2")), "the one that stays");
    assert_eq!(found.addresses, ["2001:db8::1", "192.0.2.1"]);
    assert_eq!(found.pod_cidrs.len(), 2);
    let mut others = node.clone();
    others["metadata"]["annotations"][POD_RANGES] = json!("10.0.0.0/24,fd00::/64,fd00:1::/80");
    assert_eq!(of_node(&others, &pods).pod_cidrs[1..], ["fd00::/64", "fd00:1::/80"], "its agent's");
    others["metadata"]["annotations"][ADDRESSES] = json!("192.0.2.1,2001:db8::2");
    assert_eq!(of_node(&others, &pods).addresses, ["192.0.2.1", "2001:db8::2"], "what agents use");
    let image =
        |image: &str| json!({"spec": {"containers": [{"image": image}]}, "metadata": pods[0]["metadata"]});
    for (name, tag) in
        [("dyad:2", "2"), ("r:5000/dyad:2.1", "2.1"), ("r:5000/dyad", "1"), ("dyad@sha256:ab", "1")]
    {
        assert_eq!(version(&image(name)).as_deref(), Some(tag), "{name}");
    }
    assert_eq!(found.warnings, ["one", "two\nlines"]);
    assert_eq!(warnings("of another version"), ["of another version"]);
    assert_eq!(of_node(&node, &[]).agent, None);
    let judged = judge("a", None, Vec::new(), vec![found], true);
    assert_eq!(judged.problems, ["agents are not ready on n1", "agent on n1: error: no WireGuard"]);
}

#[test]
fn what_pods_wait_for_is_told_unless_they_are_about_to_start() {
    let waits = |state: Value| json!({"status": {"containerStatuses": [{"state": {"waiting": state}}]}});
    let missing =
        waits(json!({"reason": "ImagePullBackOff", "message": "Back-off pulling image \"dyad:2\""}));
    let node = json!({"metadata": {"name": "n1"}});
    let mut agent = missing.clone();
    agent["spec"]["nodeName"] = json!("n1");
    let judged = judge("a", None, Vec::new(), vec![of_node(&node, &[agent])], true);
    let said = "ImagePullBackOff Back-off pulling image \"dyad:2\"";
    assert_eq!(judged.problems[1..], [format!("agent on n1: {said}")]);
    let part = Part { waiting: waiting(&missing), ..daemon_set(&agents(3, 2, 3, 2)) };
    let judged = judge("a", None, vec![part], Vec::new(), true);
    assert_eq!(judged.problems[1..], [format!("dyad-agent: {said}")]);
    for (pod, said) in [
        (waits(json!({"reason": "ContainerCreating"})), None),
        (waits(json!({"reason": "CrashLoopBackOff", "message": "back-off"})), None),
        (json!({"status": {"containerStatuses": [{"state": {"running": {}}}]}}), None),
        (waits(json!({"reason": "CreateContainerError"})), Some("CreateContainerError")),
        (
            json!({"status": {"conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"},
            ]}}),
            Some("Unschedulable 0/1 nodes"),
        ),
        (json!({}), None),
    ] {
        assert_eq!(waiting(&pod).as_deref(), said, "{pod}");
    }
}

#[test]
fn why_pods_are_not_made_is_told_while_they_are_missing() {
    let event = |name: &str, namespace: &str, time: &str, message: &str| {
        json!({
            "reason": "FailedCreate", "message": message, "lastTimestamp": time,
            "involvedObject": {"name": name, "namespace": namespace},
        })
    };
    let events = [
        event("dyad-agent", "a", "2026-01-01T00:00:02Z", "quota"),
        event("dyad-agent", "a", "2026-01-01T00:00:01Z", "earlier"),
        event("dyad-agent", "b", "2026-01-01T00:00:03Z", "elsewhere"),
        event("dyad-agents", "a", "2026-01-01T00:00:03Z", "another"),
    ];
    let short = daemon_set(&agents(3, 0, 3, 2));
    assert_eq!(refusal("a", &short, &events).as_deref(), Some("quota"));
    assert_eq!(refusal("a", &daemon_set(&agents(3, 3, 3, 2)), &events), None, "it is over");
    assert_eq!(refusal("a", &short, &[]), None);
    let part = Part { refusal: Some("quota".into()), ..short };
    let judged = judge("a", None, vec![part], Vec::new(), true);
    assert_eq!(judged.problems[1], "dyad-agent: quota");
}
