//! Who may do what, row by row, with the words of the refusal.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::grants::Grants;
use super::*;
use crate::ApiError;

fn resource<'a>(verb: &'a str, path: &'a str) -> Attributes<'a> {
    // group/resource[:subresource]@namespace#name, the core group being "core".
    let (path, name) = path.split_once('#').unwrap_or((path, ""));
    let (path, namespace) = path.split_once('@').unwrap_or((path, ""));
    let (group, resource) = path.split_once('/').expect("a group");
    let (resource, subresource) = resource.split_once(':').unwrap_or((resource, ""));
    let group = if group == "core" { "" } else { group };
    Attributes {
        verb,
        target: Target::Resource(ResourceTarget { group, resource, subresource, namespace, name, node: "" }),
    }
}

fn path<'a>(verb: &'a str, path: &'a str) -> Attributes<'a> {
    Attributes { verb, target: Target::Path(path) }
}

fn status(error: &ApiError) -> Value {
    serde_json::from_slice(&error.to_json()).unwrap()
}

/// What is granted at the beginning.
struct Beginning(Grants);

impl Authorizer for Beginning {
    fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Decision {
        rbac::decide(&self.0, &Own, user, attributes).decision()
    }
}

/// Every node has to do with what is called `own`.
struct Own;

impl Surroundings for Own {
    fn related(&self, _node: &str, _thing: Thing, _namespace: &str, name: &str) -> bool {
        name == "own"
    }

    fn node_uid(&self, _name: &str) -> Option<String> {
        Some("u".into())
    }
}

fn everyone() -> &'static Beginning {
    static BEGINNING: std::sync::OnceLock<Beginning> = std::sync::OnceLock::new();
    BEGINNING.get_or_init(|| {
        let mut grants = Grants::default();
        for (plural, object) in defaults::defaults() {
            let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
            let (namespace, name) = (text("namespace"), text("name"));
            match plural {
                "clusterroles" => grants.set_role(name, Some(&object)),
                "roles" => grants.set_role(&format!("{namespace}/{name}"), Some(&object)),
                _ => grants.set_binding(namespace, name, None, Some(&object)),
            }
        }
        Beginning(grants)
    })
}

fn node() -> UserInfo {
    UserInfo::new("system:node:n1", &[NODES])
}

#[test]
fn name_servers_read_what_names_come_from_and_nothing_else() {
    let user = UserInfo::new("system:dyad:dns", &[NAME_SERVERS]);
    for (verb, what, allowed) in [
        ("watch", "core/services", true),
        ("list", "discovery.k8s.io/endpointslices", true),
        ("list", "core/pods", true),
        ("get", "core/namespaces#default", true),
        ("watch", "core/configmaps@kube-system#coredns", true),
        ("list", "core/configmaps", false),
        ("get", "core/configmaps@default#x", false),
        ("get", "core/secrets@kube-system#x", false),
        ("get", "core/pods:log@default#x", false),
        ("list", "core/nodes", false),
        ("patch", "core/services@default#x", false),
    ] {
        let decision = everyone().authorize(&user, &resource(verb, what));
        assert_eq!(decision == Decision::Allow, allowed, "{verb} {what}");
    }
}

#[test]
fn agents_see_what_packets_depend_on_and_write_nothing() {
    let user = UserInfo::new("system:dyad:agent:n1", &[AGENTS]);
    for (verb, what, allowed) in [
        ("watch", "core/nodes", true),
        ("list", "core/pods", true),
        ("watch", "policy.networking.k8s.io/clusternetworkpolicies", true),
        ("get", "core/configmaps@default#x", false),
        ("get", "core/secrets@default#x", false),
        ("patch", "core/nodes#n1", false),
        ("delete", "core/pods@default#x", false),
    ] {
        let decision = everyone().authorize(&user, &resource(verb, what));
        assert_eq!(decision == Decision::Allow, allowed, "{verb} {what}");
    }
}

#[test]
fn refusals_read_as_kubernetes_writes_them() {
    let user = UserInfo::new("jane", &[]);
    let cases = [
        (
            resource("list", "core/pods@y"),
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "y""#,
            json!({"kind": "pods"}),
        ),
        (
            resource("get", "apps/deployments@y#web"),
            r#"deployments.apps "web" is forbidden: User "jane" cannot get resource "deployments" in API group "apps" in the namespace "y""#,
            json!({"name": "web", "group": "apps", "kind": "deployments"}),
        ),
        (
            resource("list", "core/nodes"),
            r#"nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope"#,
            json!({"kind": "nodes"}),
        ),
        (
            resource("patch", "core/nodes:status#n1"),
            r#"nodes "n1" is forbidden: User "jane" cannot patch resource "nodes/status" in API group "" at the cluster scope"#,
            json!({"name": "n1", "kind": "nodes"}),
        ),
        (path("get", "/metrics"), r#"forbidden: User "jane" cannot get path "/metrics""#, json!({})),
        (path("get", "/<b>&"), r#"forbidden: User "jane" cannot get path "/&lt;b&gt;&amp;""#, json!({})),
    ];
    for (attributes, message, details) in cases {
        let decision = everyone().authorize(&user, &attributes);
        assert_eq!(decision, Decision::DENY, "{attributes:?}");
        let expected = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden",
            "code": 403, "message": message, "details": details,
        });
        assert_eq!(status(&decision.refusal(&user, &attributes).unwrap()), expected);
    }
}

#[test]
fn everyone_sees_health_and_the_known_see_what_there_is() {
    let (anonymous, known, admin) =
        (UserInfo::anonymous(), UserInfo::new("jane", &[]), UserInfo::new("root", &[MASTERS]));
    // Path, and whether anonymous users, known users and administrators may get it.
    for (get, may) in [
        ("/livez", [true, true, true]),
        ("/readyz", [true, true, true]),
        ("/healthz", [true, true, true]),
        ("/version", [true, true, true]),
        ("/version/", [true, true, true]),
        ("/livez/ping", [false, false, true]),
        ("/versions", [false, false, true]),
        ("/api", [false, true, true]),
        ("/api/v1", [false, true, true]),
        ("/apis/apps/v1", [false, true, true]),
        ("/apisx", [false, false, true]),
        ("/openapi/v3", [false, true, true]),
        ("/metrics", [false, false, true]),
        ("/", [false, false, true]),
        ("", [false, false, true]),
    ] {
        let allowed = [&anonymous, &known, &admin]
            .map(|user| everyone().authorize(user, &path("get", get)) == Decision::Allow);
        assert_eq!(allowed, may, "{get}");
        assert_eq!(everyone().authorize(&known, &path("post", get)), Decision::DENY, "{get}");
    }
    for user in [&anonymous, &known] {
        for verb in ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"] {
            assert_eq!(everyone().authorize(user, &resource(verb, "core/pods@default#x")), Decision::DENY);
        }
    }
    let own = resource("create", "authorization.k8s.io/selfsubjectaccessreviews");
    assert_eq!(
        [&anonymous, &known].map(|user| everyone().authorize(user, &own)),
        [Decision::DENY, Decision::Allow]
    );
}

#[test]
fn j62_a_node_may_do_what_a_node_needs() {
    let deny = |reason: &str| Decision::Deny(reason.into());
    let no = || Decision::DENY;
    let yes = || Decision::Allow;
    let unrelated = || deny("no relationship found between node 'n1' and this object");
    let own_csi = || deny("can only access CSINode with the same name as the requesting node");
    let own_lease = || deny("can only access node lease with the same name as the requesting node");
    let tokens = || deny("can only create tokens for individual service accounts");
    let selected = || deny("can only list/watch pods with spec.nodeName field selector");
    #[rustfmt::skip]
    let cases = [
        ("list", "core/nodes", deny("node 'n1' cannot read all nodes, only its own Node object")),
        ("get", "core/nodes#n2", deny("node 'n1' cannot read 'n2', only its own Node object")),
        ("watch", "core/nodes#n1", yes()),
        ("create", "core/nodes", yes()),
        ("patch", "core/nodes#n1", yes()),
        ("patch", "core/nodes:status#n1", yes()),
        ("get", "core/nodes:status#n1", no()),
        ("delete", "core/nodes#n1", no()),
        ("watch", "core/pods", selected()),
        ("list", "core/pods@a#own", yes()),
        ("list", "core/pods@a#b", unrelated()),
        ("get", "core/pods@a#own", yes()),
        ("get", "core/pods@a#b", unrelated()),
        ("get", "core/pods:log@a#own", no()),
        ("create", "core/pods@a", yes()),
        ("update", "core/pods@a#own", no()),
        ("delete", "core/pods@a#b", yes()),
        ("deletecollection", "core/pods@a", no()),
        ("patch", "core/pods:status@a#b", yes()),
        ("create", "core/pods:eviction@a#b", yes()),
        ("create", "core/pods:binding@a#b", no()),
        ("get", "core/secrets@a#own", yes()),
        ("watch", "core/secrets@a#own", yes()),
        ("get", "core/secrets@a#b", unrelated()),
        ("list", "core/secrets@a", deny("No Object name found")),
        ("list", "core/secrets", deny("can only read namespaced object of this type")),
        ("create", "core/secrets@a", deny("can only read resources of this type")),
        ("get", "core/secrets:x@a#own", deny("cannot read subresource")),
        ("get", "core/configmaps@a#own", yes()),
        ("list", "core/configmaps@a", deny("No Object name found")),
        ("get", "core/persistentvolumeclaims@a#own", yes()),
        ("list", "core/persistentvolumeclaims@a", deny("can only get individual resources of this type")),
        ("patch", "core/persistentvolumeclaims:status@a#own", yes()),
        ("patch", "core/persistentvolumeclaims:status@a#b", unrelated()),
        ("get", "core/persistentvolumeclaims:status@a#own", deny("can only get/update/patch this type")),
        ("get", "core/persistentvolumes#own", yes()),
        ("get", "core/persistentvolumes:status#own", deny("cannot get subresource")),
        ("get", "resource.k8s.io/resourceclaims@a#b", unrelated()),
        ("get", "storage.k8s.io/volumeattachments#own", yes()),
        ("get", "core/serviceaccounts@a#own", yes()),
        ("list", "core/serviceaccounts@a", tokens()),
        ("create", "core/serviceaccounts:token@a#own", yes()),
        ("create", "core/serviceaccounts:token@a#b", unrelated()),
        ("create", "core/serviceaccounts:x@a#own", deny("can only create token subresource of serviceaccount")),
        ("update", "core/serviceaccounts@a#own", tokens()),
        ("create", "storage.k8s.io/csinodes", yes()),
        ("get", "storage.k8s.io/csinodes#n1", yes()),
        ("delete", "storage.k8s.io/csinodes#n2", own_csi()),
        ("list", "storage.k8s.io/csinodes", deny("can only get, create, update, patch, or delete a CSINode")),
        ("create", "resource.k8s.io/resourceslices", yes()),
        ("list", "resource.k8s.io/resourceslices", deny("can only list/watch/deletecollection resourceslices with nodeName field selector")),
        ("update", "resource.k8s.io/resourceslices#own", yes()),
        ("get", "core/services@a#b", yes()),
        ("watch", "core/services", yes()),
        ("create", "core/services@a", no()),
        ("watch", "discovery.k8s.io/endpointslices", no()),
        ("list", "networking.k8s.io/networkpolicies", no()),
        ("list", "core/namespaces", no()),
        ("list", "apps/deployments", no()),
        ("list", "extensions/pods", no()),
        ("create", "core/events@a", yes()),
        ("patch", "events.k8s.io/events@a#b", yes()),
        ("delete", "core/events@a#b", no()),
        ("create", "certificates.k8s.io/certificatesigningrequests", yes()),
        ("create", "authorization.k8s.io/subjectaccessreviews", yes()),
        ("create", "coordination.k8s.io/leases@kube-node-lease", yes()),
        ("update", "coordination.k8s.io/leases@kube-node-lease#n1", yes()),
        ("update", "coordination.k8s.io/leases@kube-node-lease#n2", own_lease()),
        ("get", "coordination.k8s.io/leases@kube-system#n1", deny(r#"can only access leases in the "kube-node-lease" system namespace"#)),
        ("list", "coordination.k8s.io/leases@kube-node-lease", deny("can only get, create, update, patch, or delete a node lease")),
    ];
    for (verb, what, expected) in cases {
        assert_eq!(everyone().authorize(&node(), &resource(verb, what)), expected, "{verb} {what}");
    }
    for (verb, what, of, expected) in [
        ("list", "core/pods", "n1", yes()),
        ("watch", "core/pods", "n2", selected()),
        ("deletecollection", "resource.k8s.io/resourceslices", "n1", yes()),
    ] {
        let mut attributes = resource(verb, what);
        if let Target::Resource(target) = &mut attributes.target {
            target.node = of;
        }
        assert_eq!(everyone().authorize(&node(), &attributes), expected, "{verb} {what} of {of}");
    }
    let stranger = UserInfo::new("mallory", &[NODES]);
    assert_eq!(
        everyone().authorize(&stranger, &resource("list", "core/pods")),
        deny(r#"unknown node for user "mallory""#)
    );
    // The name alone makes no node.
    assert_eq!(
        everyone().authorize(&UserInfo::new("system:node:n1", &[]), &resource("list", "core/pods")),
        no()
    );
    assert_eq!(everyone().authorize(&node(), &path("get", "/api")), yes());
    assert_eq!(everyone().authorize(&node(), &path("get", "/metrics")), no());
}

#[test]
fn a_node_writes_only_its_own() {
    let pod =
        |node: &str, label: &str| json!({"metadata": {"labels": {"a": label}}, "spec": {"nodeName": node}});
    let own = |labels: Value, taints: Value| json!({"metadata": {"name": "n1", "labels": labels}, "spec": {"taints": taints}});
    let lease = |name: &str| json!({"metadata": {"name": name}});
    let allowed_labels = json!({"kubernetes.io/hostname": "n1", "example.com/x": "y", "node.kubernetes.io/a": "b", "plain": ""});
    let reserved = json!({"node-role.kubernetes.io/control-plane": "", "node-restriction.kubernetes.io/x": "", "k8s.io/a": ""});
    type Row = (&'static str, &'static str, Option<Value>, Option<Value>, Result<(), &'static str>);
    let cases: Vec<Row> = vec![
        ("create", "core/nodes", None, Some(own(allowed_labels.clone(), json!([{"key": "a"}]))), Ok(())),
        (
            "create",
            "core/nodes",
            None,
            Some(json!({"metadata": {"name": "n2"}})),
            Err(r#"node "n1" is not allowed to modify node "n2""#),
        ),
        ("create", "core/nodes", None, Some(json!({})), Err(r#"node "n1" is not allowed to modify node """#)),
        (
            "create",
            "core/nodes",
            None,
            Some(own(reserved.clone(), json!([]))),
            Err(
                r#"node "n1" is not allowed to set the following labels: k8s.io/a, node-restriction.kubernetes.io/x, node-role.kubernetes.io/control-plane"#,
            ),
        ),
        (
            "patch",
            "core/nodes:status#n2",
            Some(json!({})),
            Some(json!({})),
            Err(r#"node "n1" is not allowed to modify node "n2""#),
        ),
        (
            "patch",
            "core/nodes#n1",
            Some(own(json!({}), json!([]))),
            Some(own(allowed_labels, Value::Null)),
            Ok(()),
        ),
        (
            "patch",
            "core/nodes#n1",
            Some(own(reserved.clone(), json!([{"key": "a"}]))),
            Some(own(reserved.clone(), json!([{"key": "a"}]))),
            Ok(()),
        ),
        (
            "patch",
            "core/nodes#n1",
            Some(own(json!({}), json!([]))),
            Some(own(reserved.clone(), json!([]))),
            Err(
                "is not allowed to modify labels: k8s.io/a, node-restriction.kubernetes.io/x, node-role.kubernetes.io/control-plane",
            ),
        ),
        (
            "patch",
            "core/nodes#n1",
            Some(own(json!({"k8s.io/a": "1"}), json!([]))),
            Some(own(json!({}), json!([]))),
            Err("is not allowed to modify labels: k8s.io/a"),
        ),
        (
            "update",
            "core/nodes#n1",
            Some(own(json!({}), json!([{"key": "a"}]))),
            Some(own(json!({}), json!([]))),
            Err(r#"node "n1" is not allowed to modify taints"#),
        ),
        ("patch", "core/pods:status@a#b", Some(pod("n1", "x")), Some(pod("n1", "x")), Ok(())),
        (
            "patch",
            "core/pods:status@a#b",
            Some(pod("n2", "x")),
            Some(pod("n2", "x")),
            Err(r#"node "n1" can only update pod status for pods with spec.nodeName set to itself"#),
        ),
        (
            "patch",
            "core/pods:status@a#b",
            Some(pod("n1", "x")),
            Some(pod("n1", "y")),
            Err(r#"node "n1" cannot update labels through pod status"#),
        ),
        ("delete", "core/pods@a#b", Some(pod("n1", "x")), None, Ok(())),
        (
            "delete",
            "core/pods@a#b",
            Some(pod("n2", "x")),
            None,
            Err(r#"node "n1" can only delete pods with spec.nodeName set to itself"#),
        ),
        (
            "delete",
            "core/pods@a#b",
            Some(json!({"spec": {}})),
            None,
            Err(r#"node "n1" can only delete pods with spec.nodeName set to itself"#),
        ),
        ("create", "coordination.k8s.io/leases@kube-node-lease", None, Some(lease("n1")), Ok(())),
        (
            "create",
            "coordination.k8s.io/leases@kube-node-lease",
            None,
            Some(lease("n2")),
            Err("can only access node lease with the same name as the requesting node"),
        ),
        ("create", "core/events@a", None, Some(json!({})), Ok(())),
    ];
    for (verb, what, old, new, expected) in cases {
        let attributes = resource(verb, what);
        let answer = restrict_node(&node(), &Own, &attributes, old.as_ref(), new.as_ref());
        assert_eq!(answer, expected.map_err(str::to_owned), "{verb} {what}");
        // Others are none of its business.
        assert_eq!(
            restrict_node(&UserInfo::new("root", &[MASTERS]), &Own, &attributes, old.as_ref(), new.as_ref()),
            Ok(())
        );
    }
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let parsed = lines.iter().map(|(name, value)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
    });
    let mut headers = HeaderMap::new();
    for (name, value) in parsed {
        headers.append(name, value);
    }
    headers
}

#[test]
fn credentials_make_the_user() {
    let jane = UserInfo::new("jane", &["dev"]);
    let anonymous = Some(UserInfo::anonymous());
    for (certificate, authorization, expected) in [
        (None, None, anonymous.clone()),
        (Some(&jane), None, Some(jane.clone())),
        // A good certificate is asked first.
        (Some(&jane), Some("Bearer x"), Some(jane.clone())),
        (None, Some("Bearer x"), None),
        (None, Some("bearer x y"), None),
        (None, Some("  BEARER x"), None),
        (None, Some("Bearer"), anonymous.clone()),
        (None, Some("Bearer "), anonymous.clone()),
        (None, Some("Bearer  x"), anonymous.clone()),
        (None, Some("Basic eDp5"), anonymous.clone()),
        (None, Some(""), anonymous.clone()),
    ] {
        let lines: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
        let user = authenticate(certificate, &headers(&lines), |_| None);
        match (user, expected) {
            (Ok(user), Some(expected)) => assert_eq!(user, expected, "{authorization:?}"),
            (Err(error), None) => {
                let expected = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "Unauthorized", "reason": "Unauthorized", "code": 401,
                });
                assert_eq!(status(&error), expected);
            }
            (user, expected) => panic!("{authorization:?}: {user:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn administrators_act_as_others_and_others_do_not() {
    let admin = UserInfo::new("root", &[MASTERS]);
    let acting = |lines: &[(&str, &str)]| impersonate(admin.clone(), &headers(lines), everyone());
    assert_eq!(acting(&[]).unwrap(), admin);
    assert_eq!(acting(&[("impersonate-user", "jane")]).unwrap(), UserInfo::new("jane", &[]));
    assert_eq!(acting(&[("impersonate-user", ANONYMOUS)]).unwrap(), UserInfo::anonymous());
    assert_eq!(
        acting(&[("impersonate-user", "system:node:n1"), ("impersonate-group", NODES)]).unwrap(),
        node()
    );
    assert_eq!(
        acting(&[("impersonate-user", "system:serviceaccount:a:b")]).unwrap(),
        UserInfo::new("system:serviceaccount:a:b", &["system:serviceaccounts", "system:serviceaccounts:a"])
    );
    let whole = acting(&[
        ("impersonate-user", "jane"),
        ("impersonate-group", "dev"),
        ("impersonate-group", AUTHENTICATED),
        ("impersonate-uid", "7"),
        ("impersonate-extra-acme%2Fproject", "p1"),
        ("impersonate-extra-acme%2Fproject", "p2"),
        ("impersonate-extra-bad%zz", "q"),
    ]);
    let extra = [("acme/project", vec!["p1", "p2"]), ("bad%zz", vec!["q"])];
    assert_eq!(
        whole.unwrap(),
        UserInfo {
            name: "jane".into(),
            uid: "7".into(),
            groups: vec!["dev".into(), AUTHENTICATED.into()],
            extra: extra
                .into_iter()
                .map(|(key, values)| (key.to_owned(), values.into_iter().map(str::to_owned).collect()))
                .collect(),
        }
    );
    assert_eq!(status(&acting(&[("impersonate-group", "dev")]).unwrap_err())["code"], 400);

    let refused = impersonate(node(), &headers(&[("impersonate-user", "root")]), everyone()).unwrap_err();
    assert_eq!(
        status(&refused)["message"],
        r#"users "root" is forbidden: User "system:node:n1" cannot impersonate resource "users" in API group "" at the cluster scope"#
    );
}
