use proptest::prelude::*;
use serde_json::json;

use super::*;

fn rule(value: serde_json::Value) -> PolicyRule {
    serde_json::from_value(value).unwrap()
}

#[test]
fn j62_rules_allow_as_the_table_says() {
    let pods = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log", "*/scale"]});
    let named = json!({"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"], "resourceNames": ["a"]});
    #[rustfmt::skip]
    let cases = [
        // rule, verb, group, resource, subresource, name, allowed
        (&pods, ["get", "", "pods", "", "p"], true),
        (&pods, ["get", "", "pods", "", ""], true),
        (&pods, ["list", "", "pods", "", ""], false),
        (&pods, ["get", "apps", "pods", "", ""], false),
        (&pods, ["get", "", "pods", "log", "p"], true),
        (&pods, ["get", "", "pods", "status", "p"], false),
        (&pods, ["get", "", "nodes", "log", "n"], false),
        (&pods, ["get", "", "anything", "scale", "n"], true),
        (&pods, ["get", "", "scale", "", "n"], false),
        (&pods, ["get", "", "anything", "autoscale", "n"], false),
        (&named, ["delete", "apps", "deployments", "", "a"], true),
        (&named, ["delete", "apps", "deployments", "status", "a"], true),
        (&named, ["delete", "apps", "deployments", "", "b"], false),
        (&named, ["list", "apps", "deployments", "", ""], false),
    ];
    for (given, [verb, group, resource, subresource, name], allowed) in cases {
        let target = RuleTarget { group, resource, subresource, name };
        assert_eq!(rule(given.clone()).allows(verb, target), allowed, "{given} {verb} {target:?}");
    }
}

#[test]
fn j62_paths_are_allowed_by_name_and_by_beginning() {
    let given = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/apis/*"]}));
    for (path, allowed) in [("/healthz", true), ("/healthz/", false), ("/apis/", true), ("/apis", false)] {
        assert_eq!(given.allows_path("get", path), allowed, "{path}");
    }
    assert!(!given.allows_path("post", "/healthz"));
    assert!(rule(json!({"verbs": ["*"], "nonResourceURLs": ["*"]})).allows_path("post", "/x"));
}

#[test]
fn j62_what_is_missing_is_said_as_kubernetes_does() {
    let held = [rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}))];
    let wanted = [
        rule(json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "secrets"]})),
        rule(json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]})),
        rule(
            json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["x"], "resourceNames": ["a", "b"]}),
        ),
    ];
    assert_eq!(
        missing(&held, &wanted),
        [
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["list"]}"#,
            r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}"#,
            r#"{APIGroups:["apps"], Resources:["x"], ResourceNames:["a"], Verbs:["get"]}"#,
            r#"{APIGroups:["apps"], Resources:["x"], ResourceNames:["b"], Verbs:["get"]}"#,
            r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#,
        ]
    );
}

fn some(words: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(proptest::sample::select(words).prop_map(str::to_owned), 1..3)
}

fn rules() -> impl Strategy<Value = Vec<PolicyRule>> {
    let names = prop_oneof![Just(Vec::new()), some(&["x", "y"])];
    let one =
        (some(&["get", "list", "*"]), some(&["", "apps", "*"]), some(&["a", "b", "a/s", "*/s", "*"]), names);
    let one = one.prop_map(|(verbs, api_groups, resources, resource_names)| PolicyRule {
        verbs,
        api_groups,
        resources,
        resource_names,
        ..PolicyRule::default()
    });
    proptest::collection::vec(one, 0..4)
}

proptest! {
    /// Who holds all of it can do all of it.
    #[test]
    fn j62_nothing_missing_means_nothing_more_is_allowed(held in rules(), wanted in rules()) {
        prop_assert!(missing(&wanted, &wanted).is_empty());
        if !missing(&held, &wanted).is_empty() {
            return Ok(());
        }
        for verb in ["get", "list", "odd"] {
            for group in ["", "apps", "odd"] {
                for (resource, subresource) in [("a", ""), ("b", ""), ("a", "s"), ("c", "s"), ("a", "t")] {
                    for name in ["", "x", "y"] {
                        let target = RuleTarget { group, resource, subresource, name };
                        let allows = |rules: &[PolicyRule]| rules.iter().any(|rule| rule.allows(verb, target));
                        prop_assert!(!allows(&wanted) || allows(&held), "{} {:?}", verb, target);
                    }
                }
            }
        }
    }
}
