//! Kinds that are defined while the server runs: J6, J41, J47.

use serde_json::{Value, json};

use crate::harness::{Api, PATIENCE};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// A definition in the style of those of Gateway API: lists with keys, defaults, alternatives and rules.
fn widgets() -> Value {
    let schema = json!({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "replicas": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 10, "default": 1},
                    "mode": {"type": "string", "enum": ["Fast", "Slow"], "default": "Slow"},
                    "host": {"type": "string", "maxLength": 20, "pattern": r"^[a-z.]+$"},
                    "port": {"x-kubernetes-int-or-string": true},
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "maybe": {"type": "string", "nullable": true},
                    "listeners": {
                        "type": "array",
                        "maxItems": 4,
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name", "protocol"],
                        "items": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {
                                "name": {"type": "string"},
                                "protocol": {"type": "string", "default": "TCP"},
                                "port": {"type": "integer"},
                            },
                        },
                    },
                    "source": {
                        "type": "object",
                        "properties": {"file": {"type": "string"}, "url": {"type": "string", "format": "uri"}},
                        "oneOf": [{"required": ["file"]}, {"required": ["url"]}],
                    },
                },
                "x-kubernetes-validations": [
                    {
                        "rule": "!has(self.host) || self.replicas > 0",
                        "message": "a host needs a replica",
                        "fieldPath": ".replicas",
                    },
                    {"rule": "self.mode == oldSelf.mode", "messageExpression": "'mode was ' + oldSelf.mode"},
                ],
            },
            "status": {
                "type": "object",
                "properties": {
                    "replicas": {"type": "integer"},
                    "selector": {"type": "string"},
                    "phase": {"type": "string", "enum": ["Up", "Down"]},
                },
            },
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [{
                "name": "v1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": schema},
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.replicas",
                        "statusReplicasPath": ".status.replicas",
                        "labelSelectorPath": ".status.selector",
                    },
                },
                "selectableFields": [{"jsonPath": ".spec.mode"}],
                "additionalPrinterColumns": [
                    {"name": "Replicas", "type": "integer", "jsonPath": ".spec.replicas"},
                    {"name": "First", "type": "string", "jsonPath": ".spec.listeners[0].name", "priority": 1},
                ],
            }],
        },
    })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

/// Waits until what `look` says is so.
async fn until<F: Future<Output = bool>>(look: impl Fn() -> F) {
    let wait = async {
        while !look().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("it comes about in time");
}

/// Writes a definition and waits until it is served.
async fn define(api: &Api, definition: Value) {
    let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
    api.post(DEFINITIONS, definition).await.expect(201);
    established(api, &name).await;
}

async fn established(api: &Api, name: &str) {
    let path = format!("{DEFINITIONS}/{name}");
    until(async || {
        let definition = api.get(&path).await.expect(200);
        condition(&definition, "Established") == ("True".to_owned(), "InitialNamesAccepted".to_owned())
    })
    .await;
}

/// Status and reason of a condition.
fn condition(definition: &Value, kind: &str) -> (String, String) {
    let all = definition["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = all.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

async fn with_widgets() -> Api {
    let api = Api::start().await;
    define(&api, widgets()).await;
    api
}

#[tokio::test]
async fn j6_a_definition_is_served_at_once() {
    let api = Api::start().await;
    assert_eq!(api.get(WIDGETS).await.code, 404);
    let created = api.post(DEFINITIONS, widgets()).await.expect(201);
    assert_eq!(created["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(created["status"]["conditions"], Value::Null);
    assert_eq!(created["spec"]["names"]["singular"], "widget");
    assert_eq!(created["spec"]["conversion"], json!({"strategy": "None"}));
    established(&api, "widgets.example.com").await;
    let list = api.get(WIDGETS).await.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("WidgetList"), &json!("example.com/v1")));

    let resources = api.get("/apis/example.com/v1").await.expect(200);
    let names: Vec<&str> =
        resources["resources"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/scale"]);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["wd"]));
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let groups = api.get_as("/apis", aggregated).await.expect(200);
    assert!(
        groups["items"].as_array().unwrap().iter().any(|group| group["metadata"]["name"] == "example.com")
    );

    let index = api.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["apis/example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let document = api.get(&url).await.expect(200);
    let schema = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert_eq!(schema["properties"]["spec"]["properties"]["mode"]["default"], "Slow");
    assert!(
        document["paths"].get("/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/scale").is_some()
    );
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    assert!(document["components"]["schemas"].get(meta).is_some());
}

#[tokio::test]
async fn j6_objects_are_defaulted_pruned_and_validated() {
    let api = with_widgets().await;
    let spec = json!({
        "listeners": [{"name": "a"}], "free": {"x": {"y": 1}}, "color": "red", "maybe": null, "host": null,
    });
    let answer = api.post(&format!("{WIDGETS}?fieldValidation=Warn"), widget("a", spec.clone())).await;
    assert_eq!(answer.warnings(), [r#"299 - "unknown field \"spec.color\"""#]);
    let created = answer.expect(201);
    assert_eq!(
        created["spec"],
        json!({
            "replicas": 1, "mode": "Slow", "listeners": [{"name": "a", "protocol": "TCP"}],
            "free": {"x": {"y": 1}}, "maybe": null,
        })
    );
    assert_eq!(created["metadata"]["generation"], 1);
    let strict = api.post(&format!("{WIDGETS}?fieldValidation=Strict"), widget("b", spec)).await.failure(400);
    assert!(strict.1.ends_with(r#"strict decoding error: unknown field "spec.color""#), "{}", strict.1);

    #[rustfmt::skip]
    let refused = [
        (json!({"replicas": 11}), "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10"),
        (json!({"replicas": "x"}), "spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\""),
        (json!({"mode": "Odd"}), "spec.mode: Unsupported value: \"Odd\": supported values: \"Fast\", \"Slow\""),
        (json!({"host": "A"}), "spec.host: Invalid value: \"A\": spec.host in body should match '^[a-z.]+$'"),
        (json!({"port": true}), "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\""),
        (json!({"listeners": [{"port": 1}]}), "spec.listeners[0].name: Required value"),
        (json!({"tags": ["a", "a"]}), "spec.tags[1]: Duplicate value: \"a\""),
        (json!({"listeners": [{"name": "a"}, {"name": "a"}]}), "spec.listeners[1]: Duplicate value: {\"name\":\"a\",\"protocol\":\"TCP\"}"),
        (json!({"source": {"file": "a", "url": "/b"}}), "<nil>: Invalid value: \"\": \"spec.source\" must validate one and only one schema (oneOf). Found 2 valid alternatives"),
        (json!({"source": {"url": "no"}}), "spec.source.url: Invalid value: \"no\": spec.source.url in body must be of type uri: \"no\""),
        (json!({"labels": {"a": 1}}), "spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\""),
        (json!({"host": "a", "replicas": 0}), "spec.replicas: Invalid value: a host needs a replica"),
    ];
    for (spec, why) in refused {
        let (reason, message) = api.post(WIDGETS, widget("c", spec.clone())).await.failure(422);
        assert_eq!(reason, "Invalid");
        assert!(message.contains(why), "{spec}\n{message}\n{why}");
    }
    let missing = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "c"}});
    let (_, message) = api.post(WIDGETS, missing).await.failure(422);
    assert!(
        message.starts_with("Widget.example.com \"c\" is invalid: [spec: Required value, <nil>: "),
        "{message}"
    );
}

#[tokio::test]
async fn j6_rules_see_what_was_before() {
    let api = with_widgets().await;
    let path = format!("{WIDGETS}/a");
    api.post(WIDGETS, widget("a", json!({"mode": "Fast"}))).await.expect(201);
    let (_, message) = api.merge(&path, json!({"spec": {"mode": "Slow"}})).await.failure(422);
    assert_eq!(message, "Widget.example.com \"a\" is invalid: spec: Invalid value: mode was Fast");
    // What is wrong and stays as it was is let be (ratcheting); what changes is not.
    let mut narrow = widgets();
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    *narrow.pointer_mut(&format!("{spec}/host")).unwrap() = json!({"type": "string", "maxLength": 2});
    api.merge(&path, json!({"spec": {"host": "abc"}})).await.expect(200);
    api.merge(&format!("{DEFINITIONS}/widgets.example.com"), json!({"spec": narrow["spec"]}))
        .await
        .expect(200);
    until(async || api.post(WIDGETS, widget("b", json!({"host": "abcd"}))).await.code == 422).await;
    api.merge(&path, json!({"spec": {"replicas": 3}})).await.expect(200);
    let (_, message) = api.merge(&path, json!({"spec": {"host": "abcd"}})).await.failure(422);
    assert!(message.contains("spec.host: Too long: may not be more than 2 bytes"), "{message}");
}

#[tokio::test]
async fn j47_j55_status_and_scale_have_their_own_endpoints() {
    let api = with_widgets().await;
    let path = format!("{WIDGETS}/a");
    let mut both = widget("a", json!({"replicas": 2}));
    both["status"] = json!({"phase": "Up"});
    let created = api.post(WIDGETS, both).await.expect(201);
    assert!(created.get("status").is_none(), "a client does not say so");
    let on_status =
        json!({"spec": {"replicas": 5}, "status": {"phase": "Up", "replicas": 2, "selector": "a=b"}});
    let changed = api.merge(&format!("{path}/status"), on_status).await.expect(200);
    assert_eq!((&changed["spec"]["replicas"], &changed["status"]["phase"]), (&json!(2), &json!("Up")));
    assert_eq!(changed["metadata"]["generation"], 1);
    let (_, message) =
        api.merge(&format!("{path}/status"), json!({"status": {"phase": "Odd"}})).await.failure(422);
    assert!(message.contains("status.phase: Unsupported value: \"Odd\""), "{message}");
    let changed = api.merge(&path, json!({"spec": {"replicas": 3}, "status": null})).await.expect(200);
    assert_eq!((&changed["status"]["phase"], &changed["metadata"]["generation"]), (&json!("Up"), &json!(2)));
    let labelled = api.merge(&path, json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(labelled["metadata"]["generation"], 2, "labels are not what is wanted");

    let scale = api.get(&format!("{path}/scale")).await.expect(200);
    assert_eq!(scale["spec"], json!({"replicas": 3}));
    assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=b"}));
    api.merge(&format!("{path}/scale"), json!({"spec": {"replicas": 7}})).await.expect(200);
    assert_eq!(api.get(&path).await.expect(200)["spec"]["replicas"], 7);
    let (_, message) =
        api.merge(&format!("{path}/scale"), json!({"spec": {"replicas": 70}})).await.failure(422);
    assert!(message.contains("should be less than or equal to 10"), "{message}");
}

#[tokio::test]
async fn j41_patches_and_applies_know_the_schema() {
    let api = with_widgets().await;
    let path = format!("{WIDGETS}/a");
    api.post(WIDGETS, widget("a", json!({"listeners": [{"name": "x", "port": 1}]}))).await.expect(201);
    let strategic = api.patch(&path, "application/strategic-merge-patch+json", json!({})).await;
    assert_eq!(strategic.failure(415).0, "UnsupportedMediaType");
    let json_patch = json!([{"op": "add", "path": "/spec/odd", "value": 1}, {"op": "replace", "path": "/spec/replicas", "value": 4}]);
    let patched = api.patch(&path, "application/json-patch+json", json_patch).await.expect(200);
    assert_eq!((&patched["spec"]["replicas"], patched["spec"].get("odd")), (&json!(4), None));

    let applied = |manager: &str, listeners: Value| {
        let path = format!("{path}?fieldManager={manager}");
        let body = widget("a", json!({"listeners": listeners}));
        let api = &api;
        async move { api.patch(&path, "application/apply-patch+yaml", body).await }
    };
    applied("one", json!([{"name": "y", "port": 2}])).await.expect(200);
    let both = applied("two", json!([{"name": "y", "protocol": "UDP", "port": 3}])).await.expect(200);
    assert_eq!(
        both["spec"]["listeners"],
        json!([
            {"name": "x", "port": 1, "protocol": "TCP"},
            {"name": "y", "port": 2, "protocol": "TCP"},
            {"name": "y", "port": 3, "protocol": "UDP"},
        ])
    );
    let (reason, message) = applied("two", json!([{"name": "y", "port": 9}])).await.failure(409);
    assert_eq!(reason, "Conflict");
    assert!(message.contains("conflict with \"one\""), "{message}");
    let left = applied("two", json!([])).await.expect(200);
    assert_eq!(left["spec"]["listeners"].as_array().unwrap().len(), 2, "what nobody applies any more goes");
}

#[tokio::test]
async fn j14_j53_tables_selectors_and_watches() {
    let api = with_widgets().await;
    let mut events = api.watch(&format!("{WIDGETS}?watch=true")).await;
    for (name, mode) in [("a", "Fast"), ("b", "Slow")] {
        let spec = json!({"mode": mode, "listeners": [{"name": "first"}]});
        api.post(WIDGETS, widget(name, spec)).await.expect(201);
    }
    assert_eq!(events.next().await.unwrap()["object"]["metadata"]["name"], "a");
    let fast = api.get(&format!("{WIDGETS}?fieldSelector=spec.mode%3DFast")).await.expect(200);
    assert_eq!(fast["items"].as_array().unwrap().len(), 1);
    assert_eq!(fast["items"][0]["kind"], "Widget");
    let refused = api.get(&format!("{WIDGETS}?fieldSelector=spec.host%3Da")).await.failure(400);
    assert_eq!(refused.1, "field label not supported: spec.host");
    let table = api.get_as(WIDGETS, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    let headers: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(headers, ["Name", "Replicas", "First"]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", 1, "first"]));
    let metadata = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let list = api.get_as(WIDGETS, metadata).await.expect(200);
    assert_eq!(list["items"][1]["metadata"]["name"], "b");
}

#[tokio::test]
async fn j6_versions_differ_in_name_only() {
    let api = Api::start().await;
    let mut definition = widgets();
    let mut beta = definition["spec"]["versions"][0].clone();
    beta["name"] = "v1beta1".into();
    beta["storage"] = false.into();
    beta["deprecated"] = true.into();
    let spec = "/schema/openAPIV3Schema/properties/spec/properties";
    beta.pointer_mut(spec).unwrap()["replicas"]["default"] = 2.into();
    definition["spec"]["versions"].as_array_mut().unwrap().push(beta);
    define(&api, definition.clone()).await;
    let old = WIDGETS.replace("v1", "v1beta1");
    let mut one = widget("a", json!({"host": "a"}));
    one["apiVersion"] = "example.com/v1beta1".into();
    let answer = api.post(&old, one).await;
    assert_eq!(answer.warnings(), [r#"299 - "example.com/v1beta1 Widget is deprecated""#]);
    let created = answer.expect(201);
    assert_eq!(
        (&created["apiVersion"], &created["spec"]["replicas"]),
        (&json!("example.com/v1beta1"), &json!(2))
    );
    let seen = api.get(&format!("{WIDGETS}/a")).await.expect(200);
    assert_eq!((&seen["apiVersion"], &seen["spec"]["replicas"]), (&json!("example.com/v1"), &json!(2)));
    assert_eq!(seen["metadata"]["managedFields"][0]["apiVersion"], "example.com/v1beta1");
    let group = api.get("/apis/example.com").await.expect(200);
    assert_eq!(group["preferredVersion"]["version"], "v1");

    // The version that was stored stays among those that were, and cannot be taken away.
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let mut versions = definition["spec"]["versions"].clone();
    versions[0]["storage"] = false.into();
    versions[1]["storage"] = true.into();
    let moved = api.merge(&path, json!({"spec": {"versions": versions}})).await.expect(200);
    assert_eq!(moved["status"]["storedVersions"], json!(["v1", "v1beta1"]));
    assert_eq!(moved["metadata"]["generation"], 2);
    let only = json!({"spec": {"versions": [versions[1]]}});
    let (_, message) = api.merge(&path, only).await.failure(422);
    assert!(
        message.contains("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"),
        "{message}"
    );
    assert_eq!(api.get(&format!("{WIDGETS}/a")).await.expect(200)["apiVersion"], "example.com/v1");
}

#[tokio::test]
async fn j6_names_are_accepted_once() {
    let api = with_widgets().await;
    let mut other = widgets();
    other["metadata"]["name"] = "gadgets.example.com".into();
    other["spec"]["names"] = json!({"plural": "gadgets", "kind": "Widget", "shortNames": ["wd"]});
    api.post(DEFINITIONS, other).await.expect(201);
    let path = format!("{DEFINITIONS}/gadgets.example.com");
    until(async || {
        let definition = api.get(&path).await.expect(200);
        condition(&definition, "NamesAccepted") == ("False".to_owned(), "ListKindConflict".to_owned())
    })
    .await;
    let gadgets = "/apis/example.com/v1/namespaces/default/gadgets";
    assert_eq!(api.get(gadgets).await.code, 404);
    // The names are free once who has them is gone.
    api.delete(&format!("{DEFINITIONS}/widgets.example.com")).await.expect(200);
    established(&api, "gadgets.example.com").await;
    assert_eq!(api.get(gadgets).await.code, 200);
}

#[tokio::test]
async fn j6_objects_go_with_their_definition() {
    let api = with_widgets().await;
    let mut held = widget("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    api.post(WIDGETS, held).await.expect(201);
    api.post(WIDGETS, widget("free", json!({}))).await.expect(201);
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let going = api.delete(&path).await.expect(200);
    assert_eq!(going["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(condition(&going, "Terminating").0, "True");
    until(async || api.get(&format!("{WIDGETS}/free")).await.code == 404).await;
    let (_, message) = api.post(WIDGETS, widget("late", json!({}))).await.failure(403);
    assert!(
        message.contains("create not allowed while custom resource definition is terminating"),
        "{message}"
    );
    let resources = api.get("/apis/example.com/v1").await.expect(200);
    assert!(!resources["resources"][0]["verbs"].as_array().unwrap().contains(&json!("create")));
    api.merge(&format!("{WIDGETS}/held"), json!({"metadata": {"finalizers": null}})).await.expect(200);
    until(async || api.get(&path).await.code == 404).await;
    assert_eq!(api.get(WIDGETS).await.code, 404);
    assert_eq!(api.get("/apis/example.com").await.code, 404);
    // What comes back under the same name has none of the old objects.
    define(&api, widgets()).await;
    assert_eq!(api.get(WIDGETS).await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn j6_definitions_and_objects_outlive_the_server() {
    let api = with_widgets().await;
    api.post(WIDGETS, widget("a", json!({"free": {"x": 1}}))).await.expect(201);
    let store = std::sync::Arc::clone(&api.store);
    api.server.shutdown().await;
    let api = Api::with(crate::harness::DUAL, store).await;
    let kept = api.get(&format!("{WIDGETS}/a")).await.expect(200);
    assert_eq!(kept["spec"]["free"], json!({"x": 1}));
}

#[tokio::test]
async fn j6_definitions_are_checked() {
    let api = Api::start().await;
    let with = |change: fn(&mut Value)| {
        let mut definition = widgets();
        change(&mut definition);
        definition
    };
    #[rustfmt::skip]
    let cases: [(Value, &str); 9] = [
        (with(|d| d["metadata"]["name"] = "x.example.com".into()), "metadata.name: Invalid value: \"x.example.com\": must be spec.names.plural+\".\"+spec.group"),
        (with(|d| d["spec"]["scope"] = "Galaxy".into()), "spec.scope: Unsupported value: \"Galaxy\": supported values: \"Cluster\", \"Namespaced\""),
        (with(|d| d["spec"]["versions"][0]["storage"] = false.into()), "must have exactly one version marked as storage version"),
        (with(|d| d["spec"]["versions"][0]["schema"] = Value::Null), "spec.versions[0].schema.openAPIV3Schema: Required value"),
        (with(|d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["type"] = "".into()), "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields"),
        (with(|d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["mode"]["default"] = "Odd".into()), "properties[mode].default: Unsupported value: \"Odd\": supported values: \"Fast\", \"Slow\""),
        (with(|d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"][0]["rule"] = "self.replicas >".into()), "x-kubernetes-validations[0].rule: Invalid value"),
        (with(|d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"][0]["rule"] = "self.odd > 1".into()), "undefined field 'odd'"),
        (with(|d| d["spec"]["versions"][0]["subresources"]["scale"]["specReplicasPath"] = ".status.x".into()), "spec.subresources.scale.specReplicasPath: Invalid value: \".status.x\": should be a json path under .spec"),
    ];
    for (definition, why) in cases {
        let (reason, message) = api.post(DEFINITIONS, definition).await.failure(422);
        assert_eq!(reason, "Invalid");
        assert!(message.contains(why), "{message}\n{why}");
    }
}
