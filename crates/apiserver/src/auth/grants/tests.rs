use dyad_model::rbac::RuleTarget;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Everything as it was stored, asked one after the other.
#[derive(Clone, Debug, Default)]
struct Slow {
    roles: BTreeMap<String, Value>,
    bindings: BTreeMap<(String, String), Value>,
}

impl Slow {
    fn allows(&self, user: &UserInfo, namespace: &str, verb: &str, target: RuleTarget<'_>) -> bool {
        self.bindings.iter().any(|((of, _), binding)| {
            let subject = |subject: &Value| {
                let name = subject["name"].as_str().unwrap();
                match subject["kind"].as_str().unwrap() {
                    "User" => user.name == name,
                    "Group" => user.is_in(name),
                    _ => {
                        let own = subject["namespace"].as_str().unwrap_or(of);
                        !own.is_empty() && user.name == format!("system:serviceaccount:{own}:{name}")
                    }
                }
            };
            let role = binding["roleRef"]["name"].as_str().unwrap();
            let key = match binding["roleRef"]["kind"] == "Role" {
                true => format!("{of}/{role}"),
                false => role.to_owned(),
            };
            (of.is_empty() || of == namespace)
                && binding["subjects"].as_array().unwrap().iter().any(subject)
                && self
                    .roles
                    .get(&key)
                    .is_some_and(|role| rules(role).iter().any(|rule| rule.allows(verb, target)))
        })
    }
}

#[derive(Clone, Debug)]
enum Step {
    Role(&'static str, Option<Value>),
    Binding(&'static str, &'static str, Option<Value>),
}

fn pick(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(words)
}

fn step() -> impl Strategy<Value = Step> {
    let words = |of: &'static [&'static str]| proptest::collection::vec(pick(of), 1..3);
    let rule =
        (words(&["get", "list", "*"]), words(&["", "apps", "*"]), words(&["a", "b", "a/s", "*/s", "*"]));
    let rule = rule.prop_map(
        |(verbs, groups, resources)| json!({"verbs": verbs, "apiGroups": groups, "resources": resources}),
    );
    let role = proptest::collection::vec(rule, 0..3).prop_map(|rules| json!({"rules": rules}));
    let subject = (pick(&["User", "Group", "ServiceAccount"]), pick(&["u", "v", "g"]), pick(&["", "n", "m"]));
    let subject = subject.prop_map(|(kind, name, namespace)| match namespace {
        "" => json!({"kind": kind, "name": name}),
        namespace => json!({"kind": kind, "name": name, "namespace": namespace}),
    });
    let binding =
        (proptest::collection::vec(subject, 0..4), pick(&["Role", "ClusterRole"]), pick(&["r", "s"]));
    let binding = binding.prop_map(
        |(subjects, kind, role)| json!({"subjects": subjects, "roleRef": {"kind": kind, "name": role}}),
    );
    prop_oneof![
        (pick(&["r", "s", "n/r", "m/r", "n/s"]), proptest::option::weighted(0.8, role))
            .prop_map(|(key, role)| Step::Role(key, role)),
        (pick(&["", "n", "m"]), pick(&["x", "y", "z"]), proptest::option::weighted(0.8, binding))
            .prop_map(|(namespace, name, binding)| Step::Binding(namespace, name, binding)),
    ]
}

proptest! {
    /// After any sequence of changes the index says what a look at every object says.
    #[test]
    fn j62_the_index_decides_as_a_scan_does(steps in proptest::collection::vec(step(), 0..24)) {
        let (mut grants, mut slow) = (Grants::default(), Slow::default());
        for step in steps {
            match step {
                Step::Role(key, now) => {
                    grants.set_role(key, now.as_ref());
                    slow.roles.remove(key);
                    slow.roles.extend(now.map(|role| (key.to_owned(), role)));
                }
                Step::Binding(namespace, name, now) => {
                    let key = (namespace.to_owned(), name.to_owned());
                    let before = slow.bindings.remove(&key);
                    grants.set_binding(namespace, name, before.as_ref(), now.as_ref());
                    slow.bindings.extend(now.map(|binding| (key, binding)));
                }
            }
        }
        let users = [
            UserInfo::new("u", &[]),
            UserInfo::new("v", &["g", "u"]),
            UserInfo::new("system:serviceaccount:n:u", &["system:serviceaccounts"]),
        ];
        for user in &users {
            for namespace in ["", "n", "m"] {
                for verb in ["get", "list", "odd"] {
                    for (group, resource, subresource) in [("", "a", ""), ("apps", "a", "s"), ("odd", "b", "s")] {
                        let target = RuleTarget { group, resource, subresource, name: "" };
                        let found = grants.find(user, namespace, |rule| rule.allows(verb, target)).is_ok();
                        prop_assert_eq!(found, slow.allows(user, namespace, verb, target));
                        let (rules, _) = grants.rules_for(user, namespace);
                        prop_assert_eq!(found, rules.iter().any(|rule| rule.allows(verb, target)));
                    }
                }
            }
        }
    }
}

#[test]
fn j62_reasons_name_the_binding() {
    let mut grants = Grants::default();
    grants.set_role(
        "r",
        Some(&json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})),
    );
    let subjects = json!([{"kind": "ServiceAccount", "name": "s"}, {"kind": "Group", "name": "g"}]);
    let binding = json!({"subjects": subjects, "roleRef": {"kind": "ClusterRole", "name": "r"}});
    grants.set_binding("n", "b", None, Some(&binding));
    let lost =
        json!({"subjects": [{"kind": "User", "name": "u"}], "roleRef": {"kind": "Role", "name": "gone"}});
    grants.set_binding("n", "c", None, Some(&lost));
    let target = RuleTarget { resource: "pods", ..RuleTarget::default() };
    let why = |user: &UserInfo| match grants.find(user, "n", |rule| rule.allows("get", target)) {
        Ok(binding) => binding.reason(user),
        Err(problems) => problems,
    };
    assert_eq!(
        why(&UserInfo::new("system:serviceaccount:n:s", &[])),
        r#"RBAC: allowed by RoleBinding "b/n" of ClusterRole "r" to ServiceAccount "s/n""#
    );
    assert_eq!(
        why(&UserInfo::new("u", &["g"])),
        r#"RBAC: allowed by RoleBinding "b/n" of ClusterRole "r" to Group "g""#
    );
    assert_eq!(why(&UserInfo::new("u", &[])), r#"role.rbac.authorization.k8s.io "gone" not found"#);
}
