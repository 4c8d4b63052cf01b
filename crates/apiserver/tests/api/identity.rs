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
