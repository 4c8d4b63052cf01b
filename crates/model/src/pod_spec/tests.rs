use serde_json::{Value, json};

use super::*;

/// The errors of a specification with one container `c`, to which `change` is merged.
fn errors(change: Value) -> Vec<String> {
    fn merge(target: &mut Value, change: Value) {
        match (target, change) {
            (Value::Object(target), Value::Object(change)) => {
                for (key, value) in change {
                    merge(target.entry(key).or_insert(Value::Null), value);
                }
            }
            (target, change) => *target = change,
        }
    }
    let mut spec = json!({"containers": [{"name": "c", "image": "x"}]});
    merge(&mut spec, change);
    default_pod_spec(&mut spec);
    validate_pod_spec(&spec, "spec", true).iter().map(ToString::to_string).collect()
}

fn container(change: Value) -> Vec<String> {
    let mut container = json!({"name": "c", "image": "x"});
    for (key, value) in change.as_object().unwrap() {
        container[key] = value.clone();
    }
    errors(json!({ "containers": [container] }))
}

#[test]
fn specifications() {
    let rows = [
        ("plain", json!({}), vec![]),
        ("no container", json!({"containers": []}), vec!["spec.containers: Required value"]),
        (
            "names twice",
            json!({"containers": [{"name": "c", "image": "x"}, {"name": "c", "image": "x"}]}),
            vec!["spec.containers[1].name: Duplicate value: \"c\""],
        ),
        (
            "nameless",
            json!({"containers": [{}]}),
            vec!["spec.containers[0].name: Required value", "spec.containers[0].image: Required value"],
        ),
        (
            "restart policy",
            json!({"restartPolicy": "Sometimes"}),
            vec![
                "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            ],
        ),
        (
            "DNS policy None wants a configuration",
            json!({"dnsPolicy": "None"}),
            vec!["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            "one spread twice",
            json!({"topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": ["x"]},
                {"maxSkew": 2, "topologyKey": "a", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}},
            ]}),
            vec![
                "spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{a, \
                 DoNotSchedule}\"",
                "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is \
                 not set",
            ],
        ),
        (
            "users and groups of the pod",
            json!({"securityContext": {"runAsUser": -5, "supplementalGroups": [-1], "fsGroupChangePolicy": "x"}}),
            vec![
                "spec.securityContext.runAsUser: Invalid value: -5: must be between 0 and 2147483647, inclusive",
                "spec.securityContext.supplementalGroups[0]: Invalid value: -1: must be between 0 and 2147483647, \
                 inclusive",
                "spec.securityContext.fsGroupChangePolicy: Unsupported value: \"x\": supported values: \"Always\", \
                 \"OnRootMismatch\"",
            ],
        ),
        (
            "kernel parameters",
            json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net.a/b"}, {"name": "kernel.sem"},
                {"name": "kernel.sem"}, {"name": "a..b"}]}}),
            vec![
                "spec.securityContext.sysctls[0].name: Invalid value: \"net.a/b\": may not be specified when \
                 'hostNetwork' is true",
                "spec.securityContext.sysctls[2].name: Duplicate value: \"kernel.sem\"",
                r#"spec.securityContext.sysctls[3].name: Invalid value: "a..b": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"#,
            ],
        ),
        (
            "claims",
            json!({"resourceClaims": [{"name": "a"}, {"name": "a", "resourceClaimName": "b"}]}),
            vec![
                "spec.resourceClaims[0]: Invalid value: {\"name\":\"a\"}: must specify one of: `resourceClaimName`, \
                 `resourceClaimTemplateName`",
                "spec.resourceClaims[1].name: Duplicate value: \"a\"",
            ],
        ),
        (
            "operating system",
            json!({"os": {"name": "x"}}),
            vec!["spec.os: Unsupported value: \"x\": supported values: \"linux\", \"windows\""],
        ),
        (
            "deadline",
            json!({"activeDeadlineSeconds": 0}),
            vec!["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"],
        ),
        (
            "subdomain",
            json!({"subdomain": "a.b"}),
            vec!["spec.subdomain: Invalid value: \"a.b\": must not contain dots"],
        ),
        (
            "alias",
            json!({"hostAliases": [{"ip": "x", "hostnames": ["a"]}]}),
            vec![
                "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            ],
        ),
        (
            "host network ports",
            json!({"hostNetwork": true, "containers": [{"name": "c", "image": "x",
                "ports": [{"containerPort": 80, "hostPort": 81}]}]}),
            vec![
                "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
            ],
        ),
        (
            "init containers have no probes",
            json!({"initContainers": [{"name": "i", "image": "x", "readinessProbe": {"tcpSocket": {"port": 1}}}]}),
            vec![
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without \
                 restartPolicy=Always",
            ],
        ),
        (
            "but sidecars do",
            json!({"initContainers": [{"name": "i", "image": "x", "restartPolicy": "Always",
                "readinessProbe": {"tcpSocket": {"port": 1}}}]}),
            vec![],
        ),
        (
            "volumes",
            json!({"volumes": [{"name": "v"}, {"name": "v"}, {"name": "w", "secret": {}}, {"name": "x", "emptyDir": {},
                "hostPath": {"path": "/"}}]}),
            vec![
                "spec.volumes[1].name: Duplicate value: \"v\"",
                "spec.volumes[2].secret.secretName: Required value",
                "spec.volumes[3].hostPath: Forbidden: may not specify more than 1 volume type",
            ],
        ),
        (
            "tolerations",
            json!({"tolerations": [{"operator": "Equal"}, {"key": "k", "operator": "Exists", "value": "v"}]}),
            vec![
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \
                 \"match all values and all keys\"",
                "spec.tolerations[1].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
            ],
        ),
        (
            "node affinity",
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}}),
            vec![
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: \
                 must have at least one node selector term",
            ],
        ),
        (
            "spread",
            json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}),
            vec!["spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"],
        ),
        (
            "users of its own",
            json!({"hostUsers": false, "hostPID": true}),
            vec!["spec.HostPID: Forbidden: when `hostUsers` is false"],
        ),
    ];
    for (row, change, wanted) in rows {
        assert_eq!(errors(change), wanted, "{row}");
    }
}

#[test]
fn containers() {
    let rows = [
        (
            "port names twice",
            json!({"ports": [{"name": "p", "containerPort": 1}, {"name": "p", "containerPort": 2}]}),
            vec!["spec.containers[0].ports[1].name: Duplicate value: \"p\""],
        ),
        (
            "port numbers",
            json!({"ports": [{"containerPort": 65536}, {}]}),
            vec![
                "spec.containers[0].ports[0].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
                "spec.containers[0].ports[1].containerPort: Required value",
            ],
        ),
        (
            "protocol",
            json!({"ports": [{"containerPort": 1, "protocol": "ICMP"}]}),
            vec![
                "spec.containers[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (
            "one port, two protocols",
            json!({"ports": [{"containerPort": 53}, {"containerPort": 53, "protocol": "UDP"}]}),
            vec![],
        ),
        (
            "host ports twice",
            json!({"ports": [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]}),
            vec!["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//5\""],
        ),
        (
            "mounts",
            json!({"volumeMounts": [{"name": "v", "mountPath": "/a"}]}),
            vec!["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
        ),
        (
            "variables",
            json!({"env": [{"name": "A=B"}, {"value": "x"}, {"name": "C", "valueFrom": {}}]}),
            vec![
                "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only of \
                 printable ASCII characters other than '='",
                "spec.containers[0].env[1].name: Required value",
                "spec.containers[0].env[2].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, \
                 `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ],
        ),
        (
            "B20: fields",
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIPs"}}},
            {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}}]}),
            vec![],
        ),
        (
            "B20: other fields",
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}},
                {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}]}),
            vec![
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \
                 \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \
                 \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: \
                 field label not supported: spec.x",
            ],
        ),
        (
            "probes",
            json!({"livenessProbe": {"successThreshold": 2, "exec": {"command": ["x"]}}, "readinessProbe": {},
                "startupProbe": {"httpGet": {"port": 0}}}),
            vec![
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
                "spec.containers[0].readinessProbe: Required value: must specify a handler type",
                "spec.containers[0].startupProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            "requests beyond limits",
            json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1500m"}}}),
            vec![
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1500m",
            ],
        ),
        (
            "resources nobody knows",
            json!({"resources": {"limits": {"gpu": "1"}}}),
            vec![
                "spec.containers[0].resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully \
                 qualified",
                "spec.containers[0].resources.limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
            ],
        ),
        (
            "pull policy",
            json!({"imagePullPolicy": "Maybe"}),
            vec![
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \
                 \"IfNotPresent\", \"Never\"",
            ],
        ),
    ];
    for (row, change, wanted) in rows {
        assert_eq!(container(change), wanted, "{row}");
    }
}

#[test]
fn templates_have_paths_of_their_own() {
    let template =
        json!({"metadata": {"labels": {"-": "a"}}, "spec": {"ephemeralContainers": [{"name": "e"}]}});
    let errors: Vec<String> =
        validate_template(&template, "spec.template").iter().map(ToString::to_string).collect();
    assert!(errors[0].starts_with("spec.template.labels: Invalid value: \"-\""), "{errors:?}");
    assert!(errors.contains(&"spec.template.spec.containers: Required value".to_owned()));
    assert!(errors.contains(
        &"spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template".to_owned()
    ));
}

#[test]
fn what_containers_may_not_be() {
    let at = |field: &str, text: &str| vec![format!("spec.containers[0].{field}: {text}")];
    let rows = [
        (
            json!({"volumeDevices": [{"name": "v", "devicePath": "/a"}]}),
            at("volumeDevices[0].name", "Not found: \"v\""),
        ),
        (
            json!({"resizePolicy": [{"resourceName": "x", "restartPolicy": "NotRequired"}]}),
            at("resizePolicy", "Unsupported value: \"x\": supported values: \"cpu\", \"memory\""),
        ),
        (
            json!({"restartPolicy": "x"}),
            at(
                "restartPolicy",
                "Unsupported value: \"x\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ),
        ),
        (
            json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}}),
            at("resources", "Forbidden: HugePages require cpu or memory"),
        ),
        (
            json!({"resources": {"claims": [{"name": "x"}]}}),
            at(
                "resources.claims[0]",
                "Not found: \"x\": must be one of the names in pod.spec.resourceClaims which is empty",
            ),
        ),
        (
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": -5}}}}),
            at(
                "lifecycle.preStop.sleep",
                "Invalid value: -5: must be non-negative and less than terminationGracePeriodSeconds (30)",
            ),
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
            at(
                "securityContext.seccompProfile.localhostProfile",
                "Required value: must be set when seccomp type is Localhost",
            ),
        ),
        (
            json!({"securityContext": {"procMount": "x"}}),
            at(
                "securityContext.procMount",
                "Unsupported value: \"x\": supported values: \"Default\", \"Unmasked\"",
            ),
        ),
        (
            json!({"securityContext": {"privileged": true, "allowPrivilegeEscalation": false}}),
            at(
                "securityContext",
                "Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set \
                 `allowPrivilegeEscalation` to false and `privileged` to true",
            ),
        ),
    ];
    for (change, wanted) in rows {
        assert_eq!(container(change.clone()), wanted, "{change}");
    }
}

#[test]
fn what_is_filled_in_and_left_out() {
    let mut spec = json!({"serviceAccountName": "s", "resources": {"limits": {"memory": "1Gi"}},
        "containers": [{"lifecycle": {"stopSignal": "SIGTERM"}}]});
    default_requests_to_limits(&mut spec);
    default_pod_spec(&mut spec);
    assert_eq!(spec["serviceAccount"], "s");
    assert_eq!(spec["resources"]["requests"]["memory"], "1Gi");
    assert!(spec["containers"][0]["lifecycle"].is_null());
}
