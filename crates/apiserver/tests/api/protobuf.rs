//! Protobuf over the wire: J10 to J13.

use bytes::Bytes;
use dyad_schema::fields::Schema;
use dyad_schema::kinds;
use dyad_schema::protobuf::{CONTENT_TYPE, Envelope, STREAM_CONTENT_TYPE, encode_value};
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::harness::{Answer, Api, CONFIG_MAPS, PATIENCE, PODS, SERVICES, config_map, pod, rev, service};

const BOTH: [(&str, &str); 2] = [("content-type", CONTENT_TYPE), ("accept", CONTENT_TYPE)];

/// The object of a body, with what its envelope says it is.
fn opened(body: &[u8]) -> Value {
    let Envelope { api_version, kind, raw } = Envelope::open(body).unwrap();
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let schema = Schema::for_kind(group, version, &kind).unwrap();
    let mut object = schema.from_protobuf(raw).unwrap();
    object["kind"] = kind.into();
    object["apiVersion"] = api_version.into();
    object
}

#[track_caller]
fn expect(answer: &Answer, code: u16) -> Value {
    assert_eq!(answer.headers["content-type"], CONTENT_TYPE);
    let object = opened(&answer.bytes);
    assert_eq!(answer.code, code, "{object}");
    object
}

/// An object of a list, which says of itself what a list does not say of it.
fn item(list: &Value, kind: &str, api_version: &str, index: usize) -> Value {
    let mut item = list["items"][index].clone();
    item["kind"] = kind.into();
    item["apiVersion"] = api_version.into();
    item
}

async fn send(api: &Api, method: &str, path: &str, object: &Value) -> Answer {
    api.send(method, path, &BOTH, encode_value(object).unwrap()).await
}

#[tokio::test]
async fn j12_objects_are_written_and_read_in_protobuf() {
    let api = Api::start().await;
    let deployment = json!({
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {"name": "d"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    });
    let namespace = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "n"}});
    let dual = service(
        "s",
        json!({"ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80, "targetPort": "http"}]}),
    );
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    for (path, object) in [
        (CONFIG_MAPS, config_map("c")),
        (SERVICES, dual),
        (PODS, pod("p")),
        (deployments, deployment),
        ("/api/v1/namespaces", namespace),
    ] {
        let created = expect(&send(&api, "POST", path, &object).await, 201);
        let name = object["metadata"]["name"].as_str().unwrap();
        let read = api.get(&format!("{path}/{name}")).await.expect(200);
        assert_eq!(created, read, "one object in two forms");
        let same = expect(&api.get_as(&format!("{path}/{name}"), CONTENT_TYPE).await, 200);
        assert_eq!(same, read);
    }
    let mut changed = api.get(&format!("{CONFIG_MAPS}/c")).await.expect(200);
    changed["data"]["k"] = "w".into();
    let updated = expect(&send(&api, "PUT", &format!("{CONFIG_MAPS}/c"), &changed).await, 200);
    assert_eq!(updated["data"]["k"], "w");
    assert!(rev(&updated) > rev(&changed));
    let scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "d"}, "spec": {"replicas": 3},
    });
    let scaled = expect(&send(&api, "PUT", &format!("{deployments}/d/scale"), &scale).await, 200);
    assert_eq!((&scaled["kind"], &scaled["spec"]["replicas"]), (&json!("Scale"), &json!(3)));
    let binding = json!({
        "kind": "Binding", "apiVersion": "v1", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"},
    });
    let bound = expect(&send(&api, "POST", &format!("{PODS}/p/binding"), &binding).await, 201);
    assert_eq!((&bound["kind"], &bound["status"]), (&json!("Status"), &json!("Success")));
    let eviction = json!({
        "kind": "Eviction", "apiVersion": "policy/v1", "metadata": {"name": "p"},
        "deleteOptions": {"gracePeriodSeconds": 7},
    });
    expect(&send(&api, "POST", &format!("{PODS}/p/eviction"), &eviction).await, 201);
    let evicted = api.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(evicted["metadata"]["deletionGracePeriodSeconds"], 7);
}

#[tokio::test]
async fn j13_options_of_a_delete_are_read_in_any_form() {
    let api = Api::start().await;
    let path = format!("{CONFIG_MAPS}/c");
    let created = api.post(CONFIG_MAPS, config_map("c")).await.expect(201);
    let options = |uid: &str| json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": uid}, "dryRun": ["All"]});
    let refused = expect(&send(&api, "DELETE", &path, &options("other")).await, 409);
    assert_eq!(refused["reason"], "Conflict");
    let uid = created["metadata"]["uid"].as_str().unwrap();
    let deleted = expect(&send(&api, "DELETE", &path, &options(uid)).await, 200);
    assert_eq!((&deleted["status"], &deleted["details"]["uid"]), (&json!("Success"), &json!(uid)));
    api.get(&path).await.expect(200);
    #[rustfmt::skip]
    let refusals = [
        (CONTENT_TYPE, Bytes::from(encode_value(&pod("p")).unwrap()), "no kind \"Pod\" is registered for version \"v1\" in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\""),
        (CONTENT_TYPE, Bytes::from_static(b"zz"), "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"),
        ("application/json", Bytes::from_static(b"{\"gracePeriodSeconds\":\"x\"}"), "json: cannot unmarshal string into Go struct field DeleteOptions.gracePeriodSeconds of type int64"),
        ("application/json", Bytes::from_static(b" "), "couldn't get version/kind; json parse error: unexpected end of JSON input"),
    ];
    for (content_type, body, want) in refusals {
        let answer = api.send("DELETE", &path, &[("content-type", content_type)], body).await;
        assert_eq!(answer.failure(400).1, want);
    }
    let refused = api.send("DELETE", &path, &[("content-type", "text/plain")], "{}").await.failure(415).1;
    assert!(
        refused.ends_with("application/json, application/yaml, application/vnd.kubernetes.protobuf"),
        "{refused}"
    );
}

#[tokio::test]
async fn every_served_kind_is_listed_in_protobuf_as_in_json() {
    let api = Api::start().await;
    api.post(SERVICES, service("s", json!({"ipFamilyPolicy": "PreferDualStack"}))).await.expect(201);
    api.post(PODS, pod("p")).await.expect(201);
    for row in kinds::all().iter().filter(|row| row.allows("list")) {
        let path = match row.group {
            "" => format!("/api/{}/{}", row.version, row.plural),
            group => format!("/apis/{group}/{}/{}", row.version, row.plural),
        };
        let json = api.get(&path).await.expect(200);
        let metadata = format!("{CONTENT_TYPE};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
        let partial = expect(&api.get_as(&path, &metadata).await, 200);
        assert_eq!(partial["kind"], "PartialObjectMetadataList", "{path}");
        let has_form = Schema::for_kind(row.group, row.version, row.kind).unwrap().has_protobuf();
        let answer = api.get_as(&path, CONTENT_TYPE).await;
        if !has_form {
            assert_eq!(opened(&answer.bytes)["reason"], "NotAcceptable", "{path}");
            continue;
        }
        let list = expect(&answer, 200);
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json["kind"], &json["apiVersion"]));
        let items = json["items"].as_array().unwrap();
        assert_eq!(list["items"].as_array().map_or(0, Vec::len), items.len(), "{path}");
        for (index, want) in items.iter().enumerate() {
            let (kind, version) = (row.kind, row.api_version());
            assert_eq!(item(&list, kind, &version, index), item(&json, kind, &version, index), "{path}");
            assert_eq!(partial["items"][index]["metadata"], want["metadata"], "{path}");
        }
    }
}

/// Type and object of a frame, and what follows it.
fn event(frames: &[u8]) -> (String, Value, &[u8]) {
    let (length, rest) = frames.split_at(4);
    let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
    let (frame, rest) = rest.split_at(length);
    assert_eq!(frame[0], 0x0a, "field 1 is the type, of a message without an envelope");
    let name = String::from_utf8(frame[2..2 + frame[1] as usize].to_vec()).unwrap();
    let object = frame.windows(4).position(|bytes| bytes == b"k8s\0").unwrap();
    (name, opened(&frame[object..]), rest)
}

#[tokio::test]
async fn j11_watches_are_framed() {
    let api = Api::start().await;
    let before = rev(&api.get(CONFIG_MAPS).await.expect(200));
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={before}&timeoutSeconds=60");
    let metadata = format!("{CONTENT_TYPE};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    api.post(CONFIG_MAPS, config_map("c")).await.expect(201);
    api.delete(&format!("{CONFIG_MAPS}/c")).await.expect(200);
    for (accept, kind) in [(CONTENT_TYPE, "ConfigMap"), (metadata.as_str(), "PartialObjectMetadata")] {
        let request = Request::get(&path).header("accept", accept).body(Full::new(Bytes::new())).unwrap();
        let response = api.service.call(request).await;
        assert_eq!(response.headers()["content-type"], STREAM_CONTENT_TYPE);
        let mut body = response.into_body();
        let mut frames = Vec::new();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("events come").unwrap();
            frames.extend_from_slice(&frame.unwrap().into_data().unwrap());
            while !frames.is_empty() {
                let (name, object, rest) = event(&frames);
                assert_eq!(object["kind"], kind);
                seen.push((name, object["metadata"]["name"].as_str().unwrap().to_owned()));
                frames = rest.to_vec();
            }
        }
        let want = ["ADDED", "DELETED"].map(|name| (name.to_owned(), "c".to_owned()));
        assert_eq!(seen, want);
    }
    for index in 0..40 {
        // Large enough to push older changes out of the ring.
        let large = json!({"metadata": {"name": format!("c{index}")}, "data": {"k": "x".repeat(500_000)}});
        api.post(CONFIG_MAPS, large).await.expect(201);
    }
    let gone =
        api.get_as(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=1&timeoutSeconds=60"), CONTENT_TYPE).await;
    let (name, status, rest) = event(&gone.bytes);
    assert_eq!((name.as_str(), &status["reason"], rest), ("ERROR", &json!("Expired"), &[][..]));
}

#[tokio::test]
async fn bodies_that_are_none_are_refused_as_kubernetes_does() {
    let api = Api::start().await;
    let unrecognized = "the object provided is unrecognized (must be of type ConfigMap): ";
    #[rustfmt::skip]
    let cases: [(&[u8], String); 8] = [
        (b"", format!("{unrecognized}empty data (<empty>)")),
        (b"{}", format!("{unrecognized}provided data does not appear to be a protobuf message, expected prefix [107 56 115 0] ({{}})")),
        (b"k8s\0", format!("{unrecognized}empty body (6b387300)")),
        (b"k8s\0\x0a", format!("{unrecognized}unexpected EOF (6b3873000a)")),
        (b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x02\x0a\x05", "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: unexpected EOF".into()),
        (b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x02\x08\x05", "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: proto: wrong wireType = 0 for field ObjectMeta".into()),
        (b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMaq\x12\x02\x08\x05", "ConfigMaq in version \"v1\" cannot be handled as a ConfigMap: no kind \"ConfigMaq\" is registered for version \"v1\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"".into()),
        (b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x00", "Pod in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Pod) to (core.ConfigMap): unknown conversion".into()),
    ];
    for (body, want) in cases {
        let answer =
            api.send("POST", CONFIG_MAPS, &[("content-type", CONTENT_TYPE)], Bytes::from_static(body)).await;
        assert_eq!(answer.failure(400).1, want);
    }
    // Without a type it is what the path says; unknown fields are nobody's business.
    let bare: &[u8] = b"k8s\0\x12\x08\x0a\x03\x0a\x01a\xa0\x06\x01";
    let strict = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let answer = api.send("POST", &strict, &[("content-type", CONTENT_TYPE)], Bytes::from_static(bare)).await;
    assert_eq!(answer.expect(201)["metadata"]["name"], "a");
    let patch = api.send("PATCH", &format!("{CONFIG_MAPS}/a"), &BOTH, "x").await;
    assert_eq!(expect(&patch, 415)["message"], "415: Unsupported Media Type");
    let missing = expect(&api.get_as(&format!("{CONFIG_MAPS}/none"), CONTENT_TYPE).await, 404);
    assert_eq!((&missing["reason"], &missing["details"]["name"]), (&json!("NotFound"), &json!("none")));
}

#[tokio::test]
async fn discovery_comes_in_protobuf_too() {
    let api = Api::start().await;
    for (path, kind, field) in [
        ("/api", "APIVersions", "versions"),
        ("/apis", "APIGroupList", "groups"),
        ("/apis/apps", "APIGroup", "name"),
        ("/apis/apps/v1", "APIResourceList", "resources"),
    ] {
        let read = expect(&api.get_as(path, CONTENT_TYPE).await, 200);
        let json = api.get(path).await.expect(200);
        assert_eq!((&read["kind"], &read[field]), (&json!(kind), &json[field]), "{path}");
    }
    assert_eq!(expect(&api.get_as("/version", CONTENT_TYPE).await, 406)["reason"], "NotAcceptable");
}
