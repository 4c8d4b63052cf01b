//! Clients that ask too much, too slowly, or nonsense: memory stays bounded, and others are served.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use dyad_apiserver::Service;
use dyad_schema::protobuf;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::json;

use crate::harness::{Api, CONFIG_MAPS, PODS, config_map, send};

const MASTERS: &[&str] = &["system:masters"];
/// Requests that a user can have at once, and how long one waits for a place.
const AT_ONCE: usize = 200;

/// A request whose body begins, and never ends.
async fn endless(service: Service) -> Response<dyad_apiserver::Body> {
    let start = futures::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{")))]);
    let body = StreamBody::new(futures::StreamExt::chain(start, futures::stream::pending()));
    service
        .call(Request::post(CONFIG_MAPS).header("content-type", "application/json").body(body).unwrap())
        .await
}

#[tokio::test(start_paused = true)]
async fn j65_a_client_that_holds_requests_open_is_refused_and_others_are_not() {
    let api = Api::start().await;
    let greedy = api.as_user("greedy", MASTERS);
    let held: Vec<_> = (0..AT_ONCE).map(|_| tokio::spawn(endless(greedy.clone()))).collect();
    // All of them are waiting for the rest of a body.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let refused = send(&greedy, "GET", CONFIG_MAPS, &[], "").await;
    assert_eq!(refused.headers["retry-after"], "1");
    let (reason, message) = refused.failure(429);
    assert_eq!(
        (reason.as_str(), message.as_str()),
        ("TooManyRequests", "Too many requests, please try again later.")
    );
    for (name, groups) in
        [("other", MASTERS), ("system:node:n1", &["system:nodes"]), ("system:kube-scheduler", MASTERS)]
    {
        assert_eq!(
            send(&api.as_user(name, groups), "GET", "/api/v1/services", &[], "").await.code,
            200,
            "{name}"
        );
    }
    // A body that does not come is given up, and its place is free again.
    for request in held {
        let response = request.await.unwrap();
        assert_eq!(response.status(), 504);
    }
    assert_eq!(send(&greedy, "GET", CONFIG_MAPS, &[], "").await.code, 200);
}

#[tokio::test(start_paused = true)]
async fn j65_watches_are_not_counted() {
    let api = Api::start().await;
    let greedy = api.as_user("greedy", MASTERS);
    let mut watches = Vec::new();
    for _ in 0..AT_ONCE * 2 {
        let request = Request::get(format!("{CONFIG_MAPS}?watch=1"))
            .body(http_body_util::Empty::<Bytes>::new())
            .unwrap();
        watches.push(greedy.call(request).await);
    }
    assert!(watches.iter().all(|watch| watch.status() == 200));
    assert_eq!(send(&greedy, "GET", CONFIG_MAPS, &[], "").await.code, 200);
}

#[tokio::test]
async fn small_bodies_do_not_become_large_objects() {
    let api = Api::start().await;
    let containers = vec!["{}"; 200_000].join(",");
    let body = format!("{{\"metadata\":{{\"name\":\"p\"}},\"spec\":{{\"containers\":[{containers}]}}}}");
    let answer = api.send("POST", PODS, &[("content-type", "application/json")], body).await;
    let (_, message) = answer.failure(400);
    assert!(message.ends_with("the object has more than 1048576 values: send smaller objects"), "{message}");
    let mut raw = vec![0x12, 0x80, 0xb5, 0x18];
    raw.extend([0x12, 0x00].repeat(200_000));
    let body = protobuf::envelope("v1", "Pod", &raw);
    let answer = api.send("POST", PODS, &[("content-type", protobuf::CONTENT_TYPE)], body).await;
    assert!(answer.failure(400).1.ends_with("send smaller objects"));
}

#[tokio::test]
async fn huge_selectors_are_answered() {
    let api = Api::start().await;
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let many = (0..8_000).map(|index| format!("v{index}")).collect::<Vec<_>>().join(",");
    let list = api.get(&format!("{CONFIG_MAPS}?labelSelector=a+notin+({many})")).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 2, "the authority's ConfigMap is there, too");
    for selector in ["labelSelector=", "fieldSelector="] {
        let terms = (0..1001).map(|index| format!("metadata.name!=n{index}")).collect::<Vec<_>>().join(",");
        let (_, message) = api.get(&format!("{CONFIG_MAPS}?{selector}{terms}")).await.failure(400);
        assert_eq!(message, "a selector has at most 1000 requirements: ask more than once");
    }
    let nested = "(".repeat(60_000);
    api.get(&format!("{CONFIG_MAPS}?labelSelector=a+in+{nested}")).await.failure(400);
}

#[tokio::test]
async fn paths_that_play_tricks_name_nothing_else() {
    let api = Api::start().await;
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let stranger = api.as_user("jane", &[]);
    #[rustfmt::skip]
    let paths = [
        "/api/v1/namespaces/default/../kube-system/secrets", "/api/v1/namespaces/default/configmaps/..%2fa",
        "/api/v1/namespaces/default/configmaps/%2e%2e", "/api/v1/namespaces/default/configmaps/a%00",
        "/api/v1/namespaces/default/configmaps/a/../b", "/livez/../api/v1/secrets", "/livez%2f..%2fapi/v1/secrets",
        "/api/v1//namespaces//default//configmaps", "/api/v1/namespaces/%ff/configmaps/a", "/api/v1/./secrets",
        "/api/v1/namespaces/default%2fconfigmaps/a", "/apis/../api/v1/secrets", "/API/v1/secrets", "/api/V1/secrets",
        "//api/v1/secrets", "/api/v1/namespaces/default/configmaps/a/status/../../../kube-system",
    ];
    for path in paths {
        let answer = send(&stranger, "GET", path, &[], "").await;
        assert!(matches!(answer.code.as_u16(), 403 | 404), "{path}: {}", answer.code);
        let answer = api.get(path).await;
        assert!(answer.code != 500, "{path}: {:?}", answer.bytes);
        let write = api.put(path, json!({"metadata": {"name": "a"}})).await;
        assert!(write.code.is_client_error(), "{path}: {} {:?}", write.code, write.bytes);
    }
}

/// A generator of numbers (splitmix64): the same for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed ^ (mixed >> 29)) % limit as u64) as usize
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

/// Time stands still until nothing else is to be done, so that waiting for a future revision takes none.
#[tokio::test(start_paused = true)]
async fn any_path_query_and_token_is_answered() {
    let api = Api::start().await;
    let started = api.get(&format!("{PODS}?limit=1")).await.expect(200);
    assert_eq!(started["kind"], "PodList");
    let token = {
        api.post(CONFIG_MAPS, config_map("b")).await.expect(201);
        let page = api.get(&format!("{CONFIG_MAPS}?limit=1")).await.expect(200);
        page["metadata"]["continue"].as_str().unwrap().to_owned()
    };
    let parts = [
        "/",
        "api",
        "apis",
        "v1",
        "namespaces",
        "default",
        "configmaps",
        "pods",
        "a",
        "status",
        "scale",
        "watch",
        "%2f",
        "%00",
        "%ff",
        "..",
        "apps",
        "deployments",
        "openapi",
        "v3",
        "readyz",
    ];
    let keys = [
        "limit",
        "continue",
        "labelSelector",
        "fieldSelector",
        "resourceVersion",
        "resourceVersionMatch",
        "timeoutSeconds",
        "sendInitialEvents",
        "allowWatchBookmarks",
        "dryRun",
        "fieldValidation",
        "fieldManager",
        "propagationPolicy",
        "gracePeriodSeconds",
        "orphanDependents",
        "pretty",
        "includeObject",
        "force",
        "%6cimit",
    ];
    let values = [
        "",
        "0",
        "1",
        "-1",
        "true",
        "false",
        "Exact",
        "NotOlderThan",
        "All",
        "99999999999999999999",
        "a=b",
        "a+in+(b,c)",
        "!a",
        "metadata.name=a",
        "a%3Db%2C",
        "%e2%82",
        "((((",
        ",,,",
        "\\,",
        "=",
        "!=",
        "x%00y",
        token.as_str(),
    ];
    let mut random = Random(21);
    for _ in 0..3000 {
        let mut path = String::from(random.pick(&["/api/v1", CONFIG_MAPS, "/apis/apps/v1", ""]));
        for _ in 0..random.below(4) {
            path.push('/');
            path.push_str(random.pick(&parts));
        }
        let mut mark = '?';
        for _ in 0..random.below(5) {
            let mut value = random.pick(&values).to_owned();
            if value == token {
                let at = random.below(value.len());
                value.replace_range(at..=at, random.pick(&["A", "_", "-", "", "e30"]));
            }
            path.push_str(&format!("{mark}{}={value}", random.pick(&keys)));
            mark = '&';
        }
        if path.parse::<http::Uri>().is_err() {
            continue;
        }
        let method = random.pick(&["GET", "GET", "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]);
        let type_of_body =
            random.pick(&["application/json", "application/yaml", "application/merge-patch+json", "x"]);
        let answer = api.send(method, &path, &[("content-type", type_of_body)], "{}").await;
        // A revision that has not come is waited for a while, and Kubernetes has a 500 for one that is no number.
        let code = answer.code.as_u16();
        let known = code == 504 || String::from_utf8_lossy(&answer.bytes).contains("strconv.ParseUint");
        assert!(code < 500 || known, "{method} {path}: {code} {:?}", answer.bytes);
    }
}

#[tokio::test]
async fn any_body_is_answered() {
    let api = Api::start().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: &a x\n  labels: {k: *a, ? l : \"m\"}\ndata:\n  k: |\n    t\n  <<: {a: b}\n";
    let json = config_map("x").to_string();
    let wire = protobuf::encode_value(&config_map("x")).unwrap();
    let bodies: [(&str, &[u8]); 3] = [
        ("application/yaml", yaml.as_bytes()),
        ("application/json", json.as_bytes()),
        (protobuf::CONTENT_TYPE, &wire),
    ];
    let pieces: [&[u8]; 10] =
        [b"&a", b"*a", b"!!binary ", b"---\n", b": ", b"- ", b"\xff", b"{", b"\"", b"? "];
    let mut random = Random(22);
    for _ in 0..1500 {
        let (content_type, whole) = bodies[random.below(bodies.len())];
        let mut body = whole.to_vec();
        for _ in 0..=random.below(4) {
            let at = random.below(body.len() + 1);
            match random.below(3) {
                0 => body.truncate(at.max(1)),
                1 => body.splice(at..at, pieces[random.below(pieces.len())].iter().copied()).for_each(drop),
                _ => body[at.min(whole.len()).saturating_sub(1)..]
                    .iter_mut()
                    .take(1)
                    .for_each(|byte| *byte ^= 1 << random.below(8)),
            }
        }
        let path = format!("{CONFIG_MAPS}?dryRun=All");
        let answer = api.send("POST", &path, &[("content-type", content_type)], body.clone()).await;
        assert!(
            answer.code.as_u16() < 500,
            "{content_type} {:?}: {:?}",
            String::from_utf8_lossy(&body),
            answer.bytes
        );
    }
}

#[tokio::test]
async fn yaml_that_refers_to_itself_does_not_grow() {
    let api = Api::start().await;
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let below = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    let answer = api.send("POST", CONFIG_MAPS, &[("content-type", "application/yaml")], bomb).await;
    assert_eq!(answer.failure(400).0, "BadRequest");
}
