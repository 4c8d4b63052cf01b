//! Rules in CEL: what they see, what they say, and what they may cost.

use serde_json::{Value, json};

use super::random::Random;
use super::{definition, errors_of};
use crate::rules::validate;
use crate::schema::Schema;

/// What a rule on `spec` says of an object, and what it was before.
fn said(rule: Value, properties: Value, new: Value, old: Option<Value>) -> Vec<String> {
    let schema = json!({
        "type": "object",
        "properties": {
            "spec": {"type": "object", "properties": properties, "x-kubernetes-validations": [rule]},
        },
    });
    let of = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "x"}, "spec": spec});
    let errors = validate(&of(new), old.map(of).as_ref(), &Schema::read(&schema));
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn rules_see_values_as_their_schemas_say() {
    let properties = json!({
        "n": {"type": "integer"}, "f": {"type": "number"}, "s": {"type": "string"},
        "when": {"type": "string", "format": "date-time"}, "long": {"type": "string", "format": "duration"},
        "list": {"type": "array", "items": {"type": "string"}},
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "namespace": {"type": "string"}, "a-b": {"type": "string"}, "x_y": {"type": "string"},
        "port": {"x-kubernetes-int-or-string": true},
    });
    let object = json!({
        "n": 3, "f": 1, "s": "abc", "when": "2026-01-02T03:04:05Z", "long": "1h", "list": ["a", "b"],
        "map": {"in": 1, "a-b": 2}, "namespace": "n", "a-b": "c", "x_y": "z", "port": 80,
    });
    for rule in [
        "self.n > 2",
        "self.f + 0.5 == 1.5",
        "self.s.startsWith('a') && self.s.size() == 3",
        "self.s.matches('^[a-c]+$')",
        "self.when < timestamp('2027-01-01T00:00:00Z')",
        "self.long >= duration('30m')",
        "self.list.all(x, x in ['a', 'b'])",
        "self.list.exists_one(x, x == 'a')",
        "self.list.map(x, x + 'x') == ['ax', 'bx']",
        "self.map['in'] == 1 && self.map['a-b'] == 2",
        "self.__namespace__ == 'n' && self.a__dash__b == 'c' && self.x_y == 'z'",
        "has(self.s) && !has(self.map.missing)",
        "type(self.port) == int ? self.port == 80 : self.port == '80'",
        "quantity('1Gi').isGreaterThan(quantity('500Mi'))",
        "isIP('fd00::1') && !isIP('x') && cidr('10.0.0.0/8').containsIP('10.1.2.3')",
        "isURL('https://example.com')",
        "self.list.isSorted()",
    ] {
        let errors = said(json!({"rule": rule}), properties.clone(), object.clone(), None);
        assert_eq!(errors, [""; 0], "{rule}");
    }
}

#[test]
fn rules_say_where_and_why() {
    let properties = json!({"a": {"type": "string"}, "n": {"type": "integer"}});
    let (yes, no) = (json!({"a": "b", "n": 1}), json!({"a": "c", "n": 1}));
    let of = |more: Value| {
        let mut rule = json!({"rule": "self.a == 'b'"});
        for (key, value) in more.as_object().unwrap() {
            rule[key] = value.clone();
        }
        rule
    };
    #[rustfmt::skip]
    let cases = [
        (json!({}), "spec: Invalid value: failed rule: self.a == 'b'"),
        (json!({"message": "a is b"}), "spec: Invalid value: a is b"),
        (json!({"messageExpression": "'a is ' + self.a"}), "spec: Invalid value: a is c"),
        (json!({"messageExpression": "self.missing", "message": "m"}), "spec: Invalid value: m"),
        (json!({"fieldPath": ".a", "message": "m"}), "spec.a: Invalid value: m"),
        (json!({"reason": "FieldValueForbidden", "message": "m"}), "spec: Forbidden: m"),
        (json!({"reason": "FieldValueRequired", "message": "m", "fieldPath": ".a"}), "spec.a: Required value: m"),
        (json!({"rule": "self.n / 0 == 1"}), "spec: Invalid value: \"object\": division by zero evaluating rule: self.n / 0 == 1"),
        (json!({"rule": "self.missing == 1"}), "spec: Invalid value: \"object\": no such key: missing evaluating rule: self.missing == 1"),
        (json!({"rule": "size(self.missing) > 1"}), "spec: Invalid value: \"object\": no such key: missing evaluating rule: size(self.missing) > 1"),
        (json!({"rule": "1 < size(string(self.missing))"}), "spec: Invalid value: \"object\": no such key: missing evaluating rule: 1 < size(string(self.missing))"),
        (json!({"rule": "(self.n < 0 && size(self.other) > 1) || size(self.missing) > 1"}), "spec: Invalid value: \"object\": no such key: missing evaluating rule: (self.n < 0 && size(self.other) > 1) || size(self.missing) > 1"),
        (json!({"rule": "self.n == 1 && size(self.missing) > 1"}), "spec: Invalid value: \"object\": no such key: missing evaluating rule: self.n == 1 && size(self.missing) > 1"),
        (json!({"rule": "self.n > 0 ? size(self.missing) > 1 : size(self.other) > 1"}), "spec: Invalid value: \"object\": no such key: missing evaluating rule: self.n > 0 ? size(self.missing) > 1 : size(self.other) > 1"),
        (json!({"rule": "self.n < 0 ? size(self.other) > 1 : size(self.missing) > 1"}), "spec: Invalid value: \"object\": no such key: missing evaluating rule: self.n < 0 ? size(self.other) > 1 : size(self.missing) > 1"),
        (json!({"rule": "[size(self.missing)] == [1]"}), "spec: Invalid value: \"object\": no such key: missing evaluating rule: [size(self.missing)] == [1]"),
    ];
    for (more, expected) in cases {
        let rule = of(more);
        assert_eq!(said(rule.clone(), properties.clone(), no.clone(), None), [expected], "{rule}");
    }
    assert_eq!(said(of(json!({})), properties, yes, None), [""; 0]);
}

#[test]
fn transitions_are_judged_if_there_was_something() {
    let properties = json!({"n": {"type": "integer"}});
    let up = json!({"rule": "self.n >= oldSelf.n", "message": "up"});
    let n = |n: i64| json!({"n": n});
    assert_eq!(said(up.clone(), properties.clone(), n(1), None), [""; 0]);
    assert_eq!(said(up.clone(), properties.clone(), n(2), Some(n(1))), [""; 0]);
    assert_eq!(said(up, properties.clone(), n(1), Some(n(2))), ["spec: Invalid value: up"]);
    let first =
        json!({"rule": "oldSelf.hasValue() || self.n == 1", "optionalOldSelf": true, "message": "first"});
    assert_eq!(said(first.clone(), properties.clone(), n(2), None), ["spec: Invalid value: first"]);
    assert_eq!(said(first, properties.clone(), n(2), Some(n(1))), [""; 0]);
    // Ratcheting: what breaks a rule and stays is let be.
    let never = json!({"rule": "self.n < 0", "message": "never"});
    assert_eq!(said(never.clone(), properties.clone(), n(1), Some(n(1))), [""; 0]);
    assert_eq!(said(never, properties, n(2), Some(n(1))), ["spec: Invalid value: never"]);
}

/// Errors of a definition with this rule on a list and a number.
fn compiled(rule: &str) -> Vec<String> {
    errors_of(definition(json!({
        "type": "object",
        "properties": {"spec": {
            "type": "object",
            "properties": {
                "n": {"type": "integer"},
                "list": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
            },
            "x-kubernetes-validations": [{"rule": rule, "message": "m"}],
        }},
    })))
}

#[test]
fn rules_are_checked_when_they_are_defined() {
    let cases = [
        ("self.n > 1", ""),
        ("self.list.all(x, x.a != '')", ""),
        ("self.list.all(x, self.list.exists(y, x.a == y.a))", ""),
        ("oldSelf.n <= self.n", ""),
        ("self.n >", "compilation failed: ERROR: <input>:1:9"),
        ("foo > 1", "undeclared reference to 'foo'"),
        ("self.missing > 1", "undefined field 'missing'"),
        ("a.b.C{x: 1} == 1", "messages are not supported"),
    ];
    for (rule, why) in cases {
        let errors = compiled(rule);
        if why.is_empty() {
            assert_eq!(errors, [""; 0], "{rule}");
        } else {
            assert!(errors.iter().any(|error| error.contains(why)), "{rule}: {errors:?}");
        }
    }
    let deep = format!("{}1{} == 1", "(-".repeat(5000), ")".repeat(5000));
    assert!(compiled(&deep)[0].contains("compilation failed: "), "whoever finds it too deep");
    let wide = format!("{}1 == 1", "1 + ".repeat(200));
    assert!(compiled(&wide)[0].contains("levels deep"), "{:?}", compiled(&wide));
    let long = format!("self.n == {}", "1".repeat(20_000));
    assert!(compiled(&long)[0].contains("may have at most"));
}

#[test]
fn a_rule_that_takes_too_long_ends() {
    let properties = json!({"list": {"type": "array", "items": {"type": "integer"}}});
    let list: Vec<u64> = (0..1000).collect();
    for rule in [
        "self.list.all(a, self.list.all(b, self.list.all(c, a + b + c >= 0)))",
        "self.list.map(a, self.list.map(b, b)).size() > 0",
    ] {
        let errors = said(json!({"rule": rule}), properties.clone(), json!({"list": list.clone()}), None);
        assert!(errors[0].contains("running out of cost budget"), "{errors:?}");
    }
    assert_eq!(
        said(json!({"rule": "self.list.all(a, a >= 0)"}), properties, json!({"list": list}), None),
        [""; 0]
    );
}

#[test]
fn any_expression_is_answered() {
    const PIECES: [&str; 30] = [
        "self",
        ".",
        "n",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "'",
        "\"",
        "a",
        "1",
        "1.5e9",
        "==",
        "&&",
        "||",
        "!",
        "?",
        ":",
        "has(",
        ".all(x,",
        ".map(x, x)",
        "+",
        "/ 0",
        "oldSelf",
        "9223372036854775807",
        "\\",
        "é",
        " in ",
    ];
    for seed in 0..150 {
        let mut random = Random(seed);
        let rule: String = (0..random.below(12)).map(|_| PIECES[random.below(PIECES.len())]).collect();
        let _ = compiled(&rule);
        let properties = json!({"n": {"type": "integer"}});
        let _ = said(json!({"rule": rule}), properties, json!({"n": 1}), Some(json!({"n": 2})));
    }
}
