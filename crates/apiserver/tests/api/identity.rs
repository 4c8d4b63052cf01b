//! Who may do what, and how one asks (J62, J63). Texts are those of a 1.36 API server.

use serde_json::{Value, json};

use crate::harness::{Answer, Api, send};

const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";
const AUTHENTICATION: &str = "/apis/authentication.k8s.io/v1";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn post_as(api: &Api, user: (&str, &[&str]), path: &str, body: &Value) -> Answer {
    let service = api.as_user(user.0, user.1);
    send(&service, "POST", path, &[("content-type", "application/json")], body.to_string()).await
}

#[tokio::test]
async fn j63_access_reviews_answer_with_the_binding() {
    let api = Api::start().await;
    let version = json!({"nonResourceAttributes": {"verb": "get", "path": "/api"}});
    let pods = json!({"resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "x"}});
    let because = "RBAC: allowed by ClusterRoleBinding \"system:discovery\" of ClusterRole \
                   \"system:discovery\" to Group \"system:authenticated\"";
    let own = format!("{AUTHORIZATION}/selfsubjectaccessreviews");
    for (user, spec, status) in [
        (("jane", &[][..]), &version, json!({"allowed": true, "reason": because})),
        (("jane", &[]), &pods, json!({"allowed": false})),
        (("root", &["system:masters"]), &pods, json!({"allowed": true})),
    ] {
        let answer = post_as(&api, user, &own, &json!({"spec": spec})).await.expect(201);
        assert_eq!(answer["status"], status, "{user:?} {spec}");
        assert_eq!(answer["spec"], *spec);
        assert_eq!(answer["metadata"]["resourceVersion"], Value::Null, "nothing is stored");
    }
    let about = |user: Value| {
        let mut spec = pods.clone();
        spec["user"] = user;
        json!({"spec": spec})
    };
    let of_others = format!("{AUTHORIZATION}/subjectaccessreviews");
    assert_eq!(
        api.post(&of_others, about(json!("jane"))).await.expect(201)["status"],
        json!({"allowed": false})
    );
    let local = format!("{AUTHORIZATION}/namespaces/x/localsubjectaccessreviews");
    api.post(&local, about(json!("jane"))).await.expect(201);
    let both = json!({"spec": {"resourceAttributes": {"verb": "get"}, "nonResourceAttributes": {"verb": "get", "path": "/v"}}});
    #[rustfmt::skip]
    let wrong = [
        (&own, json!({"spec": {}}), "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified"),
        (&own, both, "spec.nonResourceAttributes: Invalid value: {\"Path\":\"/v\",\"Verb\":\"get\"}: cannot be specified in combination with resourceAttributes"),
        (&of_others, about(Value::Null), "spec.user: Invalid value: \"\": at least one of user or group must be specified"),
        (&format!("{AUTHORIZATION}/namespaces/y/localsubjectaccessreviews"), about(json!("jane")), "spec.resourceAttributes.namespace: Invalid value: \"x\": must match metadata.namespace"),
    ];
    for (path, body, why) in wrong {
        let (_, message) = api.post(path, body).await.failure(422);
        assert_eq!(message, format!(".authorization.k8s.io \"\" is invalid: {why}"));
    }
    let (_, message) = post_as(&api, ("jane", &[]), &of_others, &about(json!("bob"))).await.failure(403);
    assert_eq!(
        message,
        "subjectaccessreviews.authorization.k8s.io is forbidden: User \"jane\" cannot create resource \
         \"subjectaccessreviews\" in API group \"authorization.k8s.io\" at the cluster scope"
    );
}

#[tokio::test]
async fn j63_everyone_can_ask_who_they_are_and_what_they_may() {
    let api = Api::start().await;
    let who =
        post_as(&api, ("jane", &["dev"]), &format!("{AUTHENTICATION}/selfsubjectreviews"), &json!({})).await;
    let status = who.expect(201)["status"].clone();
    assert_eq!(status, json!({"userInfo": {"username": "jane", "groups": ["dev", "system:authenticated"]}}));
    let path = format!("{AUTHORIZATION}/selfsubjectrulesreviews");
    let rules =
        post_as(&api, ("jane", &[]), &path, &json!({"spec": {"namespace": "default"}})).await.expect(201);
    assert_eq!(rules["spec"], json!({}));
    let status = &rules["status"];
    assert_eq!(status["incomplete"], false);
    let first = json!({"verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]});
    assert_eq!(status["resourceRules"][0], first);
    assert!(
        status["nonResourceRules"][0]["nonResourceURLs"].as_array().unwrap().contains(&json!("/openapi/*"))
    );
    let (_, message) = post_as(&api, ("jane", &[]), &path, &json!({"spec": {}})).await.failure(400);
    assert_eq!(message, "no namespace on request");
}

#[tokio::test]
async fn j62_roles_grant_at_once_and_gather() {
    let api = Api::start().await;
    let list = || async {
        send(&api.as_user("jane", &[]), "GET", "/api/v1/namespaces/default/pods", &[], "").await.code
    };
    assert_eq!(list().await, 403);
    let binding = json!({"metadata": {"name": "v"}, "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "jane"}]});
    let path = format!("{RBAC}/namespaces/default/rolebindings");
    api.post(&path, binding).await.expect(201);
    assert_eq!(list().await, 200, "the rules of view are gathered");
    let secrets = send(&api.as_user("jane", &[]), "GET", "/api/v1/namespaces/default/secrets", &[], "").await;
    assert_eq!(secrets.code, 403);
    api.delete(&format!("{path}/v")).await.expect(200);
    assert_eq!(list().await, 403);
}

#[tokio::test]
async fn j62_nobody_gives_away_what_they_have_not() {
    let api = Api::start().await;
    let writer = json!({"metadata": {"name": "writer"}, "rules": [{"verbs": ["create", "update", "patch"],
        "apiGroups": ["rbac.authorization.k8s.io"],
        "resources": ["roles", "rolebindings", "clusterroles", "clusterrolebindings"]}]});
    api.post(&format!("{RBAC}/clusterroles"), writer).await.expect(201);
    let subjects = json!([{"kind": "User", "name": "bob"}]);
    let bind = |name: &str, role: &str| json!({"metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": subjects});
    let bindings = format!("{RBAC}/clusterrolebindings");
    api.post(&bindings, bind("writer", "writer")).await.expect(201);
    let roles = format!("{RBAC}/clusterroles");
    let wanted = json!({"metadata": {"name": "x"}, "rules": [
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "secrets"]},
        {"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]});
    let gathers = json!({"metadata": {"name": "x"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]}});
    let held = "user \"bob\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:";
    #[rustfmt::skip]
    let refused = [
        (&roles, wanted, 403, format!("clusterroles.rbac.authorization.k8s.io \"x\" is forbidden: {held}\n{{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}}\n{{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}}\n{{NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}}")),
        (&roles, gathers, 403, "clusterroles.rbac.authorization.k8s.io \"x\" is forbidden: must have cluster-admin privileges to use the aggregationRule".into()),
        (&bindings, bind("x", "nope"), 404, "clusterrolebindings.rbac.authorization.k8s.io \"nope\" not found".into()),
        (&bindings, bind("x", "cluster-admin"), 403, format!("clusterrolebindings.rbac.authorization.k8s.io \"x\" is forbidden: {held}\n{{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}}\n{{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}}")),
    ];
    for (path, body, code, message) in refused {
        assert_eq!(post_as(&api, ("bob", &[]), path, &body).await.failure(code).1, message);
    }
    // What bob holds bob gives, and what bob is explicitly allowed to bind.
    post_as(&api, ("bob", &[]), &bindings, &bind("y", "writer")).await.expect(201);
    let binder = json!({"metadata": {"name": "binder"}, "rules": [{"verbs": ["bind"],
        "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["view"]}]});
    api.post(&roles, binder).await.expect(201);
    api.post(&bindings, bind("binder", "binder")).await.expect(201);
    post_as(&api, ("bob", &[]), &bindings, &bind("z", "view")).await.expect(201);
}

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}})
}

async fn review(api: &Api, spec: Value) -> Value {
    let answer = api.post(&format!("{AUTHENTICATION}/tokenreviews"), json!({"spec": spec})).await;
    answer.expect(201)["status"].clone()
}

#[tokio::test]
async fn j61_tokens_are_given_out_known_and_end_with_their_account() {
    let api = Api::with_tokens().await;
    let given =
        api.post(&format!("{ACCOUNT}/token"), json!({"spec": {"expirationSeconds": 700}})).await.expect(201);
    assert_eq!((&given["kind"], &given["metadata"]["name"]), (&json!("TokenRequest"), &json!("default")));
    assert_eq!(given["spec"]["audiences"], json!(["https://kubernetes.default.svc"]));
    let token = given["status"]["token"].as_str().unwrap().to_owned();
    let status = review(&api, json!({"token": token})).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default");
    let groups = json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]);
    assert_eq!(status["user"]["groups"], groups);
    let other = review(&api, json!({"token": token, "audiences": ["x"]})).await;
    let why = "[invalid bearer token, token audiences [\"https://kubernetes.default.svc\"] is invalid for the target audiences [\"x\"]]";
    assert_eq!(other, json!({"user": {}, "error": why}));
    assert_eq!(
        review(&api, json!({"token": "bad"})).await,
        json!({"user": {}, "error": "invalid bearer token"})
    );
    #[rustfmt::skip]
    let wrong = [
        ("default", json!({"expirationSeconds": 10}), 422, "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 10: may not specify a duration less than 10 minutes"),
        ("default", json!({"expirationSeconds": 99_999_999_999_i64}), 422, "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 99999999999: may not specify a duration larger than 2^32 seconds"),
        ("default", json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "x"}}), 404, "pods \"x\" not found"),
        ("default", json!({"boundObjectRef": {"kind": "Foo", "apiVersion": "v1", "name": "x"}}), 400, "cannot bind token to object of type /v1, Kind=Foo"),
        ("none", json!({}), 404, "serviceaccounts \"none\" not found"),
    ];
    for (account, spec, code, message) in wrong {
        let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
        assert_eq!(api.post(&path, json!({"spec": spec})).await.failure(code).1, message);
    }
    api.delete(ACCOUNT).await.expect(200);
    // A read waits until the deletion is known.
    let again = api.get(ACCOUNT).await;
    assert!(again.code == 404 || again.json()["metadata"]["uid"] != status["user"]["uid"]);
    assert_eq!(
        review(&api, json!({"token": token})).await["authenticated"],
        Value::Null,
        "its account is gone"
    );
}

#[tokio::test]
async fn j64_pods_get_a_token_that_is_theirs() {
    let api = Api::with_tokens().await;
    let made = api.post("/api/v1/namespaces/default/pods", pod("p")).await.expect(201);
    let volume = &made["spec"]["volumes"][0];
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(
        volume["projected"]["sources"][0],
        json!({"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}})
    );
    let mount = json!({"name": volume["name"], "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    assert_eq!(made["spec"]["containers"][0]["volumeMounts"], json!([mount]));
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    let mut without = pod("q");
    without["spec"]["automountServiceAccountToken"] = false.into();
    let without = api.post("/api/v1/namespaces/default/pods", without).await.expect(201);
    assert_eq!(without["spec"].get("volumes"), None);
    let mut unknown = pod("r");
    unknown["spec"]["serviceAccountName"] = "none".into();
    let (_, message) = api.post("/api/v1/namespaces/default/pods", unknown).await.failure(403);
    assert_eq!(
        message,
        "pods \"r\" is forbidden: error looking up service account default/none: serviceaccount \"none\" not found"
    );
    // A node asks for its own pods, bound to them.
    let node = |name: &'static str| (name, &["system:nodes"][..]);
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": made["metadata"]["uid"]});
    let request = json!({"spec": {"expirationSeconds": 3607, "boundObjectRef": bound}});
    let path = format!("{ACCOUNT}/token");
    let given = post_as(&api, node("system:node:n1"), &path, &request).await.expect(201);
    let token = given["status"]["token"].as_str().unwrap().to_owned();
    let status = review(&api, json!({"token": token})).await;
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    let (_, message) = post_as(&api, node("system:node:n2"), &path, &request).await.failure(403);
    assert!(message.ends_with("no relationship found between node 'n2' and this object"), "{message}");
    api.delete("/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0").await.expect(200);
    let status = review(&api, json!({"token": token})).await;
    let why = "[invalid bearer token, service account token has been invalidated]";
    assert_eq!(status, json!({"user": {}, "error": why}));
}

#[tokio::test]
async fn j61_others_find_the_keys() {
    let api = Api::with_tokens().await;
    let service = api.as_user("system:serviceaccount:default:default", &["system:serviceaccounts"]);
    let get = async |path: &str| send(&service, "GET", path, &[], "").await;
    let found = get("/.well-known/openid-configuration").await.expect(200);
    assert_eq!(found["issuer"], "https://kubernetes.default.svc");
    assert_eq!(found["jwks_uri"], "https://192.0.2.1:6443/openid/v1/jwks");
    let keys = get("/openid/v1/jwks").await;
    assert_eq!(keys.headers["content-type"], "application/jwk-set+json");
    assert_eq!(keys.expect(200)["keys"][0]["alg"], "ES256");
    let jane = send(&api.as_user("jane", &[]), "GET", "/openid/v1/jwks", &[], "").await;
    assert_eq!(jane.code, 403);
}
