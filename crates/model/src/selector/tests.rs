use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

#[test]
fn label_selectors_select() {
    let rows = [
        ("", json!({}), true),
        ("a=b", json!({"a": "b"}), true),
        ("a==b", json!({"a": "b"}), true),
        ("a=b", json!({"a": "c"}), false),
        ("a=b", json!({}), false),
        ("a!=b", json!({"a": "b"}), false),
        ("a!=b", json!({}), true),
        ("a=", json!({"a": ""}), true),
        ("a=,b", json!({"a": "", "b": ""}), true),
        ("a", json!({"a": ""}), true),
        ("!a", json!({"a": ""}), false),
        ("! a", json!({}), true),
        ("a in (b, c)", json!({"a": "c"}), true),
        ("a in (b,)", json!({"a": ""}), true),
        ("a in ()", json!({"a": ""}), true),
        ("a in (in,notin)", json!({"a": "notin"}), true),
        ("a notin (b,c)", json!({"a": "c"}), false),
        ("a notin (b,c)", json!({}), true),
        ("a=b , c = d", json!({"a": "b", "c": "d"}), true),
        ("a=b,c=d", json!({"a": "b"}), false),
        ("a>1", json!({"a": "2"}), true),
        ("a<1", json!({"a": "x"}), false),
        ("example.com/a=b", json!({"example.com/a": "b"}), true),
        ("in=in", json!({"in": "in"}), true),
    ];
    for (text, labels, wanted) in rows {
        let selector = LabelSelector::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(selector.matches(&labels), wanted, "J54: {text:?} on {labels}");
        assert_eq!(
            LabelSelector::parse(&selector.to_string()).unwrap(),
            selector,
            "J54: {text:?} prints as itself"
        );
    }
}

#[test]
fn label_selectors_are_refused() {
    let rows = [
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        (",a", "found ',', expected: !, identifier, or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a=(", "unable to parse requirement: found '(', expected: identifier"),
    ];
    for (text, wanted) in rows {
        assert_eq!(LabelSelector::parse(text).unwrap_err().to_string(), wanted, "J54: {text:?}");
    }
    for (text, wanted) in [
        ("-a=b", "unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist of"),
        ("a=-b", "unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label must be"),
        ("a>b", "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators"),
    ] {
        let error = LabelSelector::parse(text).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "J54: {text:?}: {error}");
    }
}

#[test]
fn selector_objects() {
    let object = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
        {"key": "c", "operator": "In", "values": ["e", "d"]}, {"key": "f", "operator": "DoesNotExist"}]});
    let selector = LabelSelector::from_object(&object).unwrap();
    assert_eq!(selector.to_string(), "a=b,c in (d,e),!f");
    assert!(selector.matches(&json!({"a": "b", "c": "d"})));
    assert!(!selector.matches(&json!({"a": "b", "c": "d", "f": ""})));
    assert!(!LabelSelector::from_object(&Value::Null).unwrap().matches(&json!({})), "absent selects nothing");
    assert!(
        LabelSelector::from_object(&json!({})).unwrap().matches(&json!({"a": "b"})),
        "empty selects everything"
    );
    assert!(LabelSelector::from_map(&json!({"a": "b"})).matches(&json!({"a": "b", "c": "d"})));
    let bad = json!({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]});
    assert_eq!(
        LabelSelector::from_object(&bad).unwrap_err().to_string(),
        "\"Gt\" is not a valid label selector operator"
    );
}

#[test]
fn selector_objects_are_validated() {
    let object = json!({"matchLabels": {"a": "-"}, "matchExpressions": [{"key": "a", "operator": "In"},
        {"key": "a", "operator": "Exists", "values": ["b"]}, {"key": "a", "operator": "Gt"}]});
    let errors: Vec<String> = validate(&object, "spec.selector").iter().map(ToString::to_string).collect();
    assert!(
        errors[0].starts_with("spec.selector.matchLabels: Invalid value: \"-\": a valid label"),
        "{errors:?}"
    );
    assert_eq!(
        errors[1..],
        [
            "spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "spec.selector.matchExpressions[1].values: Forbidden: may not be specified when `operator` is 'Exists' or \
             'DoesNotExist'",
            "spec.selector.matchExpressions[2].operator: Invalid value: \"Gt\": not a valid selector operator",
        ]
    );
}

#[test]
fn field_selectors() {
    let value_of = |field: &str| match field {
        "metadata.name" => "a",
        "spec.odd" => "x,y=z\\",
        _ => "",
    };
    let rows = [
        ("", true),
        ("metadata.name=a", true),
        ("metadata.name==a", true),
        ("metadata.name!=a", false),
        ("metadata.name=b", false),
        ("metadata.name=a,spec.nodeName=", true),
        ("metadata.name=a,spec.nodeName!=", false),
        ("spec.odd=x\\,y\\=z\\\\", true),
    ];
    for (text, wanted) in rows {
        let selector = FieldSelector::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(selector.matches(value_of), wanted, "J53: {text:?}");
    }
    for (text, wanted) in [
        ("a", "invalid selector: 'a'; can't understand 'a'"),
        ("a=b\\c", "invalid field selector: invalid escape sequence: \\c"),
        ("a=b=c", "invalid field selector: unescaped character in value: 61"),
    ] {
        assert_eq!(FieldSelector::parse(text).unwrap_err().to_string(), wanted, "J53: {text:?}");
    }
    assert_eq!(FieldSelector::parse("spec.nodeName=n").unwrap().required("spec.nodeName"), Some("n"));
}

proptest! {
    #[test]
    fn parsers_take_any_text(text in ".{0,40}") {
        let _ = LabelSelector::parse(&text);
        let _ = FieldSelector::parse(&text);
    }

    #[test]
    fn what_parses_prints_as_itself(text in "[ab!=,()<> in]{0,20}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
        }
    }
}
