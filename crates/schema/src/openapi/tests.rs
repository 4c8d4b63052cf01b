use super::*;

const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const STATUS: &[&str] = &["get", "patch", "update"];
fn resource<'a>(plural: &'a str, kind: &'a str, namespaced: bool) -> Resource<'a> {
    Resource {
        plural,
        kind,
        namespaced,
        verbs: ALL.to_vec(),
        delete_returns_object: kind == "Pod",
        subresources: Vec::new(),
    }
}

fn apps() -> Value {
    let scale = GroupVersionKind { group: "autoscaling", version: "v1", kind: "Scale" };
    let mut deployments = resource("deployments", "Deployment", true);
    deployments.subresources.push(Subresource { name: "scale", kind: scale, verbs: STATUS.to_vec() });
    document("apps", "v1", &[deployments, resource("daemonsets", "DaemonSet", true)], Options::default())
}

fn core() -> Value {
    let eviction = GroupVersionKind { group: "policy", version: "v1", kind: "Eviction" };
    let mut pods = resource("pods", "Pod", true);
    pods.subresources.push(Subresource { name: "eviction", kind: eviction, verbs: vec!["create"] });
    let all = [pods, resource("services", "Service", true), resource("nodes", "Node", false)];
    document("", "v1", &all, Options::default())
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_resolves_and_every_schema_is_referred_to() {
    let gateways = resource("gateways", "Gateway", true);
    let custom = document("gateway.networking.k8s.io", "v1", &[gateways], Options::default());
    let documents = kinds::all()
        .iter()
        .map(|row| built_in(row.group, row.version, Options::default()).expect("the row itself is in it"));
    for document in documents.chain([apps(), core(), custom]) {
        let mut found = Vec::new();
        references(&document, &mut found);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for reference in &found {
            let name = reference.strip_prefix("#/components/schemas/").unwrap();
            assert!(schemas.contains_key(name), "{name}");
        }
        for name in schemas.keys() {
            assert!(found.contains(&format!("#/components/schemas/{name}").as_str()), "{name}");
        }
    }
}

/// J4: what the strategic merge of kubectl looks for.
#[test]
fn schemas_say_how_fields_merge() {
    let document = core();
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"],
        json!({"type": "array", "items": {"$ref": "#/components/schemas/io.k8s.api.core.v1.ServicePort"},
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
            "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "port"})
    );
    assert_eq!(
        schemas["io.k8s.api.core.v1.ServicePort"],
        json!({"type": "object", "required": ["port"], "properties": {
            "name": {"type": "string"},
            "protocol": {"type": "string", "enum": ["SCTP", "TCP", "UDP"], "default": "TCP"},
            "appProtocol": {"type": "string"},
            "port": {"type": "integer", "format": "int32", "default": 0},
            "targetPort": {"allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.util.intstr.IntOrString"}]},
            "nodePort": {"type": "integer", "format": "int32"},
        }})
    );
    let service = &schemas["io.k8s.api.core.v1.Service"];
    assert_eq!(
        service["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "Service"}])
    );
    assert_eq!(
        service["properties"]["spec"],
        json!({"allOf": [{"$ref": "#/components/schemas/io.k8s.api.core.v1.ServiceSpec"}], "default": {}})
    );
    assert_eq!(
        schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"]["x-kubernetes-patch-strategy"],
        "merge,retainKeys"
    );
    assert_eq!(schemas["io.k8s.api.core.v1.LocalObjectReference"]["x-kubernetes-map-type"], "atomic");
}

/// control.md 0.2: without this parameter kubectl goes back to the old document.
#[test]
fn patch_operations_take_field_validation() {
    let document = apps();
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let names: Vec<_> =
        patch["parameters"].as_array().unwrap().iter().map(|one| one["name"].as_str()).collect();
    assert_eq!(names, [Some("dryRun"), Some("fieldManager"), Some("fieldValidation"), Some("force")]);
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    assert!(patch["requestBody"]["content"]["application/strategic-merge-patch+json"].is_object());
}

#[test]
fn paths_follow_scope_and_verbs() {
    let document = core();
    let paths: Vec<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        [
            "/api/v1/",
            "/api/v1/namespaces/{namespace}/pods",
            "/api/v1/namespaces/{namespace}/pods/{name}",
            "/api/v1/namespaces/{namespace}/pods/{name}/eviction",
            "/api/v1/namespaces/{namespace}/services",
            "/api/v1/namespaces/{namespace}/services/{name}",
            "/api/v1/nodes",
            "/api/v1/nodes/{name}",
            "/api/v1/pods",
            "/api/v1/services",
        ]
    );
    let eviction = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/eviction"];
    assert_eq!(
        eviction["post"]["x-kubernetes-group-version-kind"],
        json!({"group": "policy", "version": "v1", "kind": "Eviction"})
    );
    assert!(eviction.get("get").is_none());
    let exec = GroupVersionKind { group: "", version: "v1", kind: "PodExecOptions" };
    let exec = Subresource { name: "exec", kind: exec, verbs: vec!["create", "get"] };
    let pods = Resource { subresources: vec![exec], ..resource("pods", "Pod", true) };
    let document = super::document("", "v1", &[pods], Options::default());
    let exec = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"];
    assert_eq!(exec["get"]["operationId"], "connectCoreV1GetNamespacedPodExec");
    assert_eq!(exec["post"]["x-kubernetes-action"], "connect");
    let scale = &apps()["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"];
    assert_eq!(scale["operationId"], "readAppsV1NamespacedDeploymentScale");
}

#[test]
fn descriptions_come_from_outside() {
    fn describe(schema: &str, field: &str) -> Option<&'static str> {
        (schema.ends_with(".Node") && field == "spec").then_some("What the node should be.")
    }
    let options = Options { descriptions: Some(describe), ..Options::default() };
    let document = document("", "v1", &[resource("nodes", "Node", false)], options);
    let node = &document["components"]["schemas"]["io.k8s.api.core.v1.Node"];
    assert_eq!(node["properties"]["spec"]["description"], "What the node should be.");
    assert!(node.get("description").is_none());
}

#[test]
fn the_index_names_every_document_by_its_hash() {
    let text = core().to_string();
    let hash = hash(text.as_bytes());
    assert_eq!(hash, super::hash(core().to_string().as_bytes()), "the same tables give the same text");
    assert_ne!(hash, super::hash(apps().to_string().as_bytes()));
    let index = index([("api/v1", hash.as_str())]);
    assert_eq!(index["paths"]["api/v1"]["serverRelativeURL"], format!("/openapi/v3/api/v1?hash={hash}"));
    assert_eq!(path_of("", "v1"), "api/v1");
    assert_eq!(path_of("apps", "v1"), "apis/apps/v1");
}
