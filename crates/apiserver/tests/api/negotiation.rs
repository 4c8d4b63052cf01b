//! Forms of answers, discovery and everything that is no resource: J1 to J5, J10 to J17.

use serde_json::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, PODS, SERVICES, config_map, pod, send, service};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[tokio::test]
async fn j1_everything_that_is_served_is_discovered_and_answers() {
    let api = Api::start().await;
    assert_eq!(api.get("/api").await.expect(200)["versions"], json!(["v1"]));
    let groups = api.get("/apis").await.expect(200);
    let mut paths = vec!["/api/v1".to_owned()];
    for group in groups["groups"].as_array().unwrap() {
        let name = group["name"].as_str().unwrap();
        assert_eq!(api.get(&format!("/apis/{name}")).await.expect(200)["kind"], "APIGroup");
        paths.push(format!("/apis/{}", group["preferredVersion"]["groupVersion"].as_str().unwrap()));
    }
    let mut seen = 0;
    for path in paths {
        let list = api.get(&path).await.expect(200);
        for resource in list["resources"].as_array().unwrap() {
            let name = resource["name"].as_str().unwrap();
            let lists = resource["verbs"].as_array().unwrap().contains(&json!("list"));
            if !name.contains('/') && lists {
                let items = api.get(&format!("{path}/{name}")).await.expect(200);
                assert_eq!(items["kind"], format!("{}List", resource["kind"].as_str().unwrap()));
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "{seen}");
    assert_eq!(api.get("/apis/nowhere.example.com/v1").await.code, 404);
    assert_eq!(api.get("/api/v1/nothings").await.code, 404);
    assert_eq!(api.get("/api/v1/namespaces/default/nodes").await.code, 404, "nodes are in no namespace");
}

#[tokio::test]
async fn j2_aggregated_discovery_is_hashed() {
    let api = Api::start().await;
    let accept = format!(
        "{AGGREGATED},application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
    );
    for path in ["/api", "/apis"] {
        let answer = api.get_as(path, &accept).await;
        assert_eq!(answer.headers["content-type"], AGGREGATED);
        assert_eq!(answer.expect(200)["kind"], "APIGroupDiscoveryList");
        let etag = answer.headers["etag"].to_str().unwrap();
        let again = api.send("GET", path, &[("accept", &accept), ("if-none-match", etag)], "").await;
        assert_eq!(again.code, 304);
        assert!(again.bytes.is_empty());
    }
}

#[tokio::test]
async fn j3_version_health_and_metrics() {
    let api = Api::start().await;
    let version = api.get("/version").await.expect(200);
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.36."));
    for path in ["/livez", "/readyz", "/healthz", "/readyz/ping"] {
        assert_eq!(api.get(path).await.bytes, "ok", "{path}");
    }
    assert!(api.server.ready());
    let verbose = api.get("/readyz?verbose").await;
    assert!(String::from_utf8_lossy(&verbose.bytes).contains("[+]bootstrap ok\n"));
    assert_eq!(api.get("/readyz/nonsense").await.code, 404);
    api.get(CONFIG_MAPS).await.expect(200);
    let metrics = api.get("/metrics").await;
    let text = String::from_utf8_lossy(&metrics.bytes);
    assert!(text.contains("apiserver_request_total{code=\"200\",group=\"\",resource=\"configmaps\",scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"} 1\n"), "{text}");
    assert!(text.contains("dyad_store_revision "));
}

#[tokio::test]
async fn j4_openapi_is_hashed_and_says_what_kubectl_looks_for() {
    let api = Api::start().await;
    let index = api.get("/openapi/v3").await.expect(200);
    let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
    let answer = api.get(url).await;
    let document = answer.expect(200);
    let patch = &document["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]["patch"];
    let parameters = patch["parameters"].as_array().unwrap();
    assert!(parameters.iter().any(|parameter| parameter["name"] == "fieldValidation"));
    let etag = answer.headers["etag"].to_str().unwrap();
    assert_eq!(api.send("GET", url, &[("if-none-match", etag)], "").await.code, 304);
    let packed = api.send("GET", url, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert!(packed.bytes.len() * 3 < answer.bytes.len());
    for group in ["apis/apps/v1", "apis/discovery.k8s.io/v1", "apis/networking.k8s.io/v1"] {
        assert!(index["paths"][group].is_object(), "{group}");
    }
    assert_eq!(api.get("/openapi/v3/apis/nowhere/v1").await.code, 404);
}

#[tokio::test]
async fn j5_the_old_openapi_is_json_or_nothing() {
    let api = Api::start().await;
    let answer = api.get("/openapi/v2?timeout=32s").await;
    let document = answer.expect(200);
    assert_eq!(document["swagger"], "2.0");
    let service = &document["definitions"]["io.k8s.api.core.v1.Service"];
    assert_eq!(service["x-kubernetes-group-version-kind"][0]["kind"], "Service");
    assert!(document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments"]["post"].is_object());
    let etag = answer.headers["etag"].to_str().unwrap();
    assert_eq!(api.send("GET", "/openapi/v2", &[("if-none-match", etag)], "").await.code, 304);
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    assert_eq!(api.get_as("/openapi/v2", protobuf).await.failure(406).0, "NotAcceptable");
}

#[tokio::test]
async fn j10_yaml_in_and_out() {
    let api = Api::start().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n  labels: {answer: \"yes\"}\ndata:\n  k: |\n    one\n    two\n";
    let headers = [("content-type", "application/yaml"), ("accept", "application/yaml")];
    let answer = api.send("POST", CONFIG_MAPS, &headers, yaml).await;
    assert_eq!(answer.code, 201);
    assert_eq!(answer.headers["content-type"], "application/yaml");
    let text = String::from_utf8_lossy(&answer.bytes);
    assert!(
        text.contains("answer: \"yes\"") || text.contains("answer: 'yes'"),
        "YAML 1.1 takes it for true: {text}"
    );
    let read: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(read["data"]["k"], "one\ntwo\n");
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.expect(200)["data"]["k"], "one\ntwo\n");
    let broken = api.send("POST", CONFIG_MAPS, &headers, "a: [").await;
    assert_eq!(broken.code, 400);
}

#[tokio::test]
async fn j10_what_cannot_be_written_or_read_is_refused() {
    let api = Api::start().await;
    let (reason, message) = api.get_as(CONFIG_MAPS, "text/html").await.failure(406);
    assert_eq!(reason, "NotAcceptable");
    assert!(
        message.starts_with("406: Not Acceptable\n\nAvailable representations: application/json"),
        "{message}"
    );
    let answer = api.send("POST", CONFIG_MAPS, &[("content-type", "text/yaml")], "a: b").await;
    let (reason, message) = answer.failure(415);
    assert_eq!(reason, "UnsupportedMediaType");
    assert_eq!(
        message,
        "the body of the request was in an unknown format - accepted media types include: application/json, \
         application/yaml, application/vnd.kubernetes.protobuf"
    );
    let headers = [("content-type", "application/json; charset=utf-8")];
    api.send("POST", CONFIG_MAPS, &headers, config_map("a").to_string()).await.expect(201);
    let (reason, _) = api.send("POST", CONFIG_MAPS, &headers, "{").await.failure(400);
    assert_eq!(reason, "BadRequest");
}

#[tokio::test]
async fn j13_metadata_alone() {
    let api = Api::start().await;
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let list = "application/cbor;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
    let answer = api.get_as(CONFIG_MAPS, list).await.expect(200);
    assert_eq!(answer["kind"], "PartialObjectMetadataList");
    assert_eq!(answer["items"][0]["kind"], "PartialObjectMetadata");
    assert!(answer["items"][0]["data"].is_null());
    let one = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    assert_eq!(
        api.get_as(&format!("{CONFIG_MAPS}/a"), one).await.expect(200)["kind"],
        "PartialObjectMetadata"
    );
}

#[tokio::test]
async fn j14_tables_show_all_addresses() {
    let api = Api::start().await;
    api.post(SERVICES, service("s", json!({"ipFamilyPolicy": "RequireDualStack"}))).await.expect(201);
    let table = api.get_as(SERVICES, TABLE).await.expect(200);
    assert_eq!(table["kind"], "Table");
    let column = |name: &str| {
        let columns = table["columnDefinitions"].as_array().unwrap();
        columns.iter().position(|column| column["name"] == name).unwrap()
    };
    let rows = table["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["cells"][0] == "s").unwrap();
    let ips = row["cells"][column("Cluster-IP")].as_str().unwrap();
    assert!(ips.contains("10.96.") && ips.contains("fd00:10:96::"), "{ips}");
    assert!(table["metadata"]["resourceVersion"].is_string());
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    let none = api.get_as(&format!("{SERVICES}?includeObject=None"), TABLE).await.expect(200);
    assert!(none["rows"][0]["object"].is_null());
    let whole = api.get_as(&format!("{SERVICES}/s?includeObject=Object"), TABLE).await.expect(200);
    assert_eq!(whole["rows"][0]["object"]["kind"], "Service");
    assert_eq!(
        api.get_as(&format!("{SERVICES}?includeObject=Some"), TABLE).await.failure(400).0,
        "BadRequest"
    );
    api.post(PODS, pod("p")).await.expect(201);
    assert_eq!(api.get_as("/api/v1/pods?limit=500", TABLE).await.expect(200)["rows"][0]["cells"][0], "p");
}

#[tokio::test]
async fn j16_bodies_have_a_limit_and_large_answers_are_packed() {
    let api = Api::start().await;
    let large = json!({"metadata": {"name": "a"}, "data": {"k": "x".repeat(3 << 20)}});
    let (reason, message) = api.post(CONFIG_MAPS, large).await.failure(413);
    assert_eq!(reason, "RequestEntityTooLarge");
    assert_eq!(message, "Request entity too large: limit is 3145728");
    let fits = json!({"metadata": {"name": "a"}, "data": {"k": "x".repeat(500_000)}});
    api.post(CONFIG_MAPS, fits).await.expect(201);
    let packed = api.send("GET", CONFIG_MAPS, &[("accept-encoding", "gzip")], "").await;
    assert_eq!(packed.headers["content-encoding"], "gzip");
    assert!(packed.bytes.len() < 100_000);
}

#[tokio::test]
async fn verbs_that_a_resource_does_not_have_are_refused() {
    let api = Api::start().await;
    let (reason, _) = api.delete("/api/v1/namespaces").await.failure(405);
    assert_eq!(reason, "MethodNotAllowed");
    assert_eq!(api.send("OPTIONS", CONFIG_MAPS, &[], "").await.code, 405);
    assert_eq!(api.post("/api/v1/namespaces/default/pods/p/nothing", json!({})).await.code, 404);
}

#[tokio::test]
async fn users_may_do_what_they_may() {
    let api = Api::start().await;
    let stranger = api.as_user("jane", &[]);
    let answer = send(&stranger, "GET", PODS, &[], "").await;
    let (reason, message) = answer.failure(403);
    assert_eq!(reason, "Forbidden");
    assert_eq!(
        message,
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(send(&stranger, "GET", "/apis", &[], "").await.code, 200);
    let node = api.as_user("system:node:n1", &["system:nodes"]);
    let own = json!({"metadata": {"name": "n1"}}).to_string();
    let headers = [("content-type", "application/json")];
    send(&node, "POST", "/api/v1/nodes", &headers, own).await.expect(201);
    let other = json!({"metadata": {"name": "n2"}}).to_string();
    let (_, message) = send(&node, "POST", "/api/v1/nodes", &headers, other).await.failure(403);
    assert!(message.starts_with("nodes \"n2\" is forbidden"), "{message}");
    let impersonating = [("impersonate-user", "jane")];
    assert_eq!(api.send("GET", PODS, &impersonating, "").await.failure(403).1, answer_message());
}

fn answer_message() -> String {
    "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"".into()
}

#[tokio::test]
async fn no_body_is_too_strange_to_be_answered() {
    let api = Api::start().await;
    let bodies = [
        "",
        "null",
        "[]",
        "\"x\"",
        "1",
        "{}",
        "\u{fe}",
        "{\"metadata\":null}",
        "{\"metadata\":[]}",
        "{\"kind\":1}",
        "{\"metadata\":{\"name\":null}}",
        "{\"metadata\":{\"name\":\"f\",\"labels\":\"x\"}}",
        "{\"spec\":[]}",
        "{\"metadata\":{\"name\":\"f\",\"finalizers\":{}}}",
        "{\"spec\":null,\"status\":null}",
        "{\"target\":[]}",
        "[{\"op\":\"remove\",\"path\":\"/metadata\"}]",
        "[{\"op\":\"replace\",\"path\":\"\",\"value\":null}]",
        "[{\"op\":\"replace\",\"path\":\"\",\"value\":[1]}]",
        "{\"deleteOptions\":{\"preconditions\":\"x\"}}",
        "{\"preconditions\":[]}",
        "{\"metadata\":{\"generateName\":\"\u{e9}\u{e9}\"}}",
        "{\"spec\":{\"replicas\":\"x\"}}",
    ];
    let nested = ["[".repeat(5000), "{\"a\":".repeat(3000)];
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    for collection in [SERVICES, PODS, deployments, CONFIG_MAPS, "/api/v1/nodes", "/api/v1/namespaces"] {
        let name = format!("{collection}/x");
        for body in bodies.iter().copied().chain(nested.iter().map(String::as_str)) {
            for (method, path, content_type) in [
                ("POST", collection.to_owned(), "application/json"),
                ("POST", collection.to_owned(), "application/yaml"),
                ("PUT", name.clone(), "application/json"),
                ("PATCH", name.clone(), "application/json-patch+json"),
                ("PATCH", name.clone(), "application/merge-patch+json"),
                ("PATCH", name.clone(), "application/strategic-merge-patch+json"),
                ("PUT", format!("{name}/status"), "application/json"),
                ("PATCH", format!("{name}/scale"), "application/merge-patch+json"),
                ("POST", format!("{name}/binding"), "application/json"),
                ("POST", format!("{name}/eviction"), "application/json"),
                ("DELETE", name.clone(), "application/json"),
            ] {
                let headers = [("content-type", content_type)];
                let answer = api.send(method, &path, &headers, body.to_owned()).await;
                let code = answer.code.as_u16();
                assert!(code < 500, "{method} {path} {body:.60}: {code} {:?}", answer.bytes);
            }
        }
    }
}
