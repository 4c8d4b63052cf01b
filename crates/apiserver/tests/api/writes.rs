//! Creating, updating and patching: J40 to J48, Q3, Q4.

use serde_json::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, PODS, SERVICES, config_map, pod, rev, send, service};

#[tokio::test]
async fn j40_codes_of_success() {
    let api = Api::start().await;
    let created = api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    assert_eq!(created["kind"], "ConfigMap");
    let path = format!("{CONFIG_MAPS}/a");
    api.put(&path, config_map("a")).await.expect(200);
    api.merge(&path, json!({"data": {"x": "y"}})).await.expect(200);
    let deleted = api.delete(&path).await.expect(200);
    assert_eq!(deleted["kind"], "Status");
    assert_eq!(deleted["status"], "Success");
    assert_eq!(deleted["details"]["uid"], created["metadata"]["uid"]);
    api.get(&path).await.failure(404);
}

#[tokio::test]
async fn j40_services_and_pods_are_returned_when_deleted() {
    let api = Api::start().await;
    api.post(SERVICES, service("s", json!({}))).await.expect(201);
    assert_eq!(api.delete(&format!("{SERVICES}/s")).await.expect(200)["kind"], "Service");
    api.post(PODS, pod("p")).await.expect(201);
    assert_eq!(api.delete(&format!("{PODS}/p")).await.expect(200)["kind"], "Pod");
}

#[tokio::test]
async fn q3_put_creates_services_and_nothing_that_it_should_not() {
    let api = Api::start().await;
    api.put(&format!("{SERVICES}/s"), service("s", json!({}))).await.expect(201);
    let mut versioned = service("t", json!({}));
    versioned["metadata"]["resourceVersion"] = "1".into();
    api.put(&format!("{SERVICES}/t"), versioned.clone()).await.expect(201);
    versioned["metadata"]["resourceVersion"] = "x".into();
    let (reason, message) = api.put(&format!("{SERVICES}/t"), versioned).await.failure(500);
    assert_eq!((reason.as_str(), message.as_str()), ("", "strconv.ParseUint: parsing \"x\": invalid syntax"));
    let node = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n"}});
    let (reason, message) = api.put("/api/v1/nodes/n", node).await.failure(404);
    assert_eq!((reason.as_str(), message.as_str()), ("NotFound", "nodes \"n\" not found"));
}

#[tokio::test]
async fn q4_the_version_of_an_update_is_checked_if_it_is_given() {
    let api = Api::start().await;
    let created = api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    let mut first = created.clone();
    first["data"]["k"] = "first".into();
    let updated = api.put(&path, first.clone()).await.expect(200);
    assert!(rev(&updated) > rev(&created));
    let (reason, message) = api.put(&path, first).await.failure(409);
    assert_eq!(reason, "Conflict");
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes \
         to the latest version and try again"
    );
    let mut unconditional = config_map("a");
    unconditional["data"]["k"] = "any".into();
    assert_eq!(api.put(&path, unconditional).await.expect(200)["data"]["k"], "any");
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "x"}});
    let created = api.put(&format!("{leases}/l"), lease.clone()).await.expect(201);
    let (_, message) = api.put(&format!("{leases}/l"), lease).await.failure(422);
    assert_eq!(
        message,
        "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an \
         update"
    );
    api.put(&format!("{leases}/l"), created).await.expect(200);
}

#[tokio::test]
async fn j46_what_changes_nothing_writes_nothing() {
    let api = Api::start().await;
    let created = api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(rev(&api.put(&path, config_map("a")).await.expect(200)), rev(&created));
    assert_eq!(rev(&api.merge(&path, json!({"data": {"k": "v"}})).await.expect(200)), rev(&created));
    let service = api.post(SERVICES, service("s", json!({}))).await.expect(201);
    let again = api.put(&format!("{SERVICES}/s"), service.clone()).await.expect(200);
    assert_eq!(again, service);
}

#[tokio::test]
async fn j46_another_uid_is_another_object() {
    let api = Api::start().await;
    let mut object = api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    object["metadata"]["uid"] = "00000000-0000-4000-8000-000000000000".into();
    let (reason, message) = api.put(&format!("{CONFIG_MAPS}/a"), object).await.failure(409);
    assert_eq!(reason, "Conflict");
    assert!(message.contains("Precondition failed: UID in precondition"), "{message}");
}

#[tokio::test]
async fn j41_the_three_patches_and_no_other() {
    let api = Api::start().await;
    api.post(SERVICES, service("s", json!({}))).await.expect(201);
    let path = format!("{SERVICES}/s");
    let operations = json!([{"op": "add", "path": "/spec/sessionAffinity", "value": "ClientIP"}]);
    let patched = api.patch(&path, "application/json-patch+json", operations).await.expect(200);
    assert_eq!(patched["spec"]["sessionAffinity"], "ClientIP");
    let patched = api.merge(&path, json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(patched["metadata"]["labels"]["a"], "b");
    let port = json!({"spec": {"ports": [{"name": "b", "port": 81}, {"name": "a", "port": 80}]}});
    let patched = api.patch(&path, "application/strategic-merge-patch+json", port).await.expect(200);
    assert_eq!(patched["spec"]["ports"].as_array().unwrap().len(), 2, "J42: merged by port");
    let test = json!([{"op": "test", "path": "/spec/type", "value": "NodePort"}]);
    assert_eq!(api.patch(&path, "application/json-patch+json", test).await.failure(422).0, "Invalid");
    for (content_type, wanted) in [
        ("application/json", "415: Unsupported Media Type"),
        ("application/foo", "415: Unsupported Media Type"),
    ] {
        let answer = api.patch(&format!("{path}?fieldManager=m&force=true"), content_type, json!({})).await;
        let (reason, message) = answer.failure(415);
        assert_eq!(reason, "UnsupportedMediaType");
        assert!(message.contains(wanted), "{message}");
    }
}

#[tokio::test]
async fn j41_patches_without_a_version_are_applied_until_they_stick() {
    let api = Api::start().await;
    api.post(CONFIG_MAPS, json!({"metadata": {"name": "a"}})).await.expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    let patches = (0..24).map(|index| {
        let (service, path) = (api.service.clone(), path.clone());
        tokio::spawn(async move {
            let body = json!({"data": {format!("k{index}"): "v"}}).to_string();
            let headers = [("content-type", "application/merge-patch+json")];
            send(&service, "PATCH", &path, &headers, body).await.expect(200);
        })
    });
    for patch in patches.collect::<Vec<_>>() {
        patch.await.unwrap();
    }
    let object = api.get(&path).await.expect(200);
    assert_eq!(object["data"].as_object().unwrap().len(), 24, "none was lost");
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"k": "v"}});
    assert_eq!(api.merge(&path, stale).await.failure(409).0, "Conflict");
}

#[tokio::test]
async fn j43_unknown_and_duplicate_fields() {
    let api = Api::start().await;
    let mut object = service("s", json!({"colour": "red"}));
    let (reason, message) =
        api.post(&format!("{SERVICES}?fieldValidation=Strict"), object.clone()).await.failure(400);
    assert_eq!(reason, "BadRequest");
    assert!(message.ends_with("strict decoding error: unknown field \"spec.colour\""), "{message}");
    let warned = api.post(SERVICES, object.clone()).await;
    assert_eq!(warned.warnings(), ["299 - \"unknown field \\\"spec.colour\\\"\""]);
    assert!(warned.expect(201)["spec"]["colour"].is_null());
    object["metadata"]["name"] = "t".into();
    let ignored = api.post(&format!("{SERVICES}?fieldValidation=Ignore"), object).await;
    assert!(ignored.warnings().is_empty());
    ignored.expect(201);
    let twice = r#"{"metadata":{"name":"d","name":"e"}}"#;
    let headers = [("content-type", "application/json")];
    let answer = api.send("POST", &format!("{CONFIG_MAPS}?fieldValidation=Strict"), &headers, twice).await;
    assert!(answer.failure(400).1.contains("duplicate field \"metadata.name\""));
    let path = format!("{SERVICES}/s?fieldValidation=Strict");
    let (reason, message) = api.merge(&path, json!({"spec": {"colour": "red"}})).await.failure(422);
    assert_eq!(reason, "Invalid");
    assert!(message.contains("patch: Invalid value"), "{message}");
    assert_eq!(
        api.post(&format!("{SERVICES}?fieldValidation=Maybe"), json!({})).await.failure(422).0,
        "Invalid"
    );
}

#[tokio::test]
async fn j44_a_dry_run_does_all_but_write() {
    let api = Api::start().await;
    let before = api.store.current_rev();
    let created = api.post(&format!("{SERVICES}?dryRun=All"), service("s", json!({}))).await.expect(201);
    assert!(created["spec"]["clusterIP"].as_str().unwrap().starts_with("10.96."), "K3: a plausible address");
    assert!(created["metadata"]["resourceVersion"].is_null());
    api.get(&format!("{SERVICES}/s")).await.failure(404);
    let bad = service("s", json!({"ports": []}));
    assert_eq!(api.post(&format!("{SERVICES}?dryRun=All"), bad).await.failure(422).0, "Invalid");
    assert_eq!(api.store.current_rev(), before);
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let before = api.store.current_rev();
    let path = format!("{CONFIG_MAPS}/a?dryRun=All");
    assert_eq!(api.merge(&path, json!({"data": {"n": "1"}})).await.expect(200)["data"]["n"], "1");
    api.delete(&path).await.expect(200);
    api.get(&format!("{CONFIG_MAPS}/a")).await.expect(200);
    assert_eq!(api.store.current_rev(), before);
    let (reason, message) = api.delete(&format!("{CONFIG_MAPS}/a?dryRun=Some")).await.failure(422);
    assert_eq!(reason, "Invalid");
    assert!(
        message.contains("dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""),
        "{message}"
    );
}

#[tokio::test]
async fn j47_generation_counts_changes_of_the_spec_and_clients_do_not() {
    let api = Api::start().await;
    let mut object = pod("p");
    object["metadata"]["generation"] = 7.into();
    assert_eq!(api.post(PODS, object).await.expect(201)["metadata"]["generation"], 1);
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    });
    api.post(deployments, deployment).await.expect(201);
    let path = format!("{deployments}/d");
    let generation = |object: Value| object["metadata"]["generation"].clone();
    assert_eq!(
        generation(api.merge(&path, json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200)),
        1
    );
    assert_eq!(generation(api.merge(&path, json!({"spec": {"replicas": 3}})).await.expect(200)), 2);
    assert_eq!(generation(api.merge(&path, json!({"metadata": {"generation": 9}})).await.expect(200)), 2);
    let service = api.post(SERVICES, service("s", json!({}))).await.expect(201);
    assert!(service["metadata"]["generation"].is_null());
}

#[tokio::test]
async fn j48_names_are_generated() {
    let api = Api::start().await;
    let object = json!({"metadata": {"generateName": "web-"}});
    let first = api.post(CONFIG_MAPS, object.clone()).await.expect(201);
    let second = api.post(CONFIG_MAPS, object).await.expect(201);
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(name(&first).starts_with("web-") && name(&first).len() == 9);
    assert_ne!(name(&first), name(&second));
}

#[tokio::test]
async fn names_and_namespaces_must_agree() {
    let api = Api::start().await;
    let mut object = config_map("a");
    object["metadata"]["namespace"] = "other".into();
    let (reason, message) = api.post(CONFIG_MAPS, object).await.failure(400);
    assert_eq!(reason, "BadRequest");
    assert_eq!(
        message,
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let (_, message) = api.put(&format!("{CONFIG_MAPS}/a"), config_map("b")).await.failure(400);
    assert_eq!(message, "the name of the object (b) does not match the name on the URL (a)");
    let (reason, message) = api.post(CONFIG_MAPS, config_map("a")).await.failure(409);
    assert_eq!((reason.as_str(), message.as_str()), ("AlreadyExists", "configmaps \"a\" already exists"));
    let mut prefixed = config_map("a");
    prefixed["metadata"]["generateName"] = "a-".into();
    let (reason, message) = api.post(CONFIG_MAPS, prefixed).await.failure(409);
    assert_eq!(reason, "AlreadyExists");
    assert!(
        message.ends_with("the server was not able to generate a unique name for the object"),
        "{message}"
    );
    let (_, message) =
        api.post(CONFIG_MAPS, json!({"kind": "Secret", "apiVersion": "v1"})).await.failure(400);
    assert!(message.contains("cannot be handled as a ConfigMap"), "{message}");
    for (body, wanted) in [
        (json!({"apiVersion": "v2"}), "no kind \"ConfigMap\" is registered for version \"v2\" in scheme"),
        (json!({"kind": "Foo"}), "no kind \"Foo\" is registered for version \"v1\" in scheme"),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment"}),
            "converting (v1.Deployment) to (core.ConfigMap): unknown conversion",
        ),
    ] {
        let (_, message) = api.post(CONFIG_MAPS, body).await.failure(400);
        assert!(message.contains(wanted), "{message}");
    }
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}});
    let (_, message) = api.post("/api/v1/namespaces/default/events", event).await.failure(400);
    assert!(message.contains("(events.k8s.io/v1) does not match the expected API version (v1)"), "{message}");
    for (patch, wanted) in [
        (
            json!({"metadata": {"name": "b"}}),
            "the name of the object (b) does not match the name on the URL (a)",
        ),
        (
            json!({"metadata": {"name": null}}),
            "the name of the object (a based on URL) was undeterminable: name must be provided",
        ),
        (
            json!({"metadata": {"namespace": "b"}}),
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
    ] {
        assert_eq!(api.merge(&format!("{CONFIG_MAPS}/a"), patch).await.failure(400).1, wanted);
    }
    api.merge(&format!("{CONFIG_MAPS}/a"), json!({"metadata": {"namespace": null}})).await.expect(200);
    let (_, message) = api.post(CONFIG_MAPS, json!({"metadata": {"name": "A B"}})).await.failure(422);
    assert!(message.starts_with("ConfigMap \"A B\" is invalid: metadata.name: Invalid value"), "{message}");
    let mut old = config_map("z");
    old["metadata"]["resourceVersion"] = "5".into();
    let answer = api.post(CONFIG_MAPS, old).await;
    assert_eq!(answer.failure(500).1, "resourceVersion should not be set on objects to be created");
}

#[tokio::test]
async fn j52_nothing_is_created_where_there_is_no_namespace() {
    let api = Api::start().await;
    let (reason, message) =
        api.post("/api/v1/namespaces/nowhere/configmaps", config_map("a")).await.failure(404);
    assert_eq!((reason.as_str(), message.as_str()), ("NotFound", "namespaces \"nowhere\" not found"));
    let namespace = json!({"metadata": {"name": "going"}});
    let created = api.post("/api/v1/namespaces", namespace).await.expect(201);
    assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], "going");
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    let deleted = api.delete("/api/v1/namespaces/going").await.expect(200);
    assert_eq!(deleted["status"]["phase"], "Terminating");
    let answer = api.post("/api/v1/namespaces/going/configmaps", config_map("a")).await;
    let status = answer.expect(403);
    assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
    assert_eq!(
        status["message"],
        "configmaps \"a\" is forbidden: unable to create new content in namespace going because it is being terminated"
    );
}

#[tokio::test]
async fn events_are_one_kind_in_two_groups() {
    let api = Api::start().await;
    let theirs = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({
        "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default", "apiVersion": "v1"},
        "reason": "Pulled",
        "action": "Pulling",
        "note": "got it",
        "type": "Normal",
        "reportingController": "dyad.io/kubelet",
        "reportingInstance": "n1",
    });
    let created = api.post(theirs, event).await.expect(201);
    assert_eq!(created["apiVersion"], "events.k8s.io/v1");
    assert_eq!(created["note"], "got it");
    let core =
        api.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=p").await.expect(200);
    assert_eq!(core["items"][0]["message"], "got it");
    let selected = api.get(&format!("{theirs}?fieldSelector=regarding.name=p")).await.expect(200);
    assert_eq!(selected["items"][0]["note"], "got it");
    let patched = api
        .merge(
            &format!("{theirs}/e"),
            json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}}),
        )
        .await
        .expect(200);
    assert_eq!(patched["series"]["count"], 2);
}
