use serde_json::json;

use super::*;
use crate::testing::{context, created, updated};

fn slice(kind: &str, addresses: &Value) -> Value {
    json!({"metadata": {"name": "s"}, "addressType": kind, "endpoints": [{"addresses": addresses}], "ports": [{"port": 80}]})
}

#[test]
fn ports_are_filled_in() {
    let (object, errors) = created(&ENDPOINT_SLICE, slice("IPv4", &json!(["10.0.0.1"])));
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(object["ports"], json!([{"name": "", "port": 80, "protocol": "TCP"}]), "E2");
    assert_eq!(object["metadata"]["generation"], 1, "E5");
}

#[test]
fn addresses_are_of_the_type() {
    let rows = [
        ("E4", "IPv4", json!(["10.0.0.1"]), vec![]),
        ("E4", "IPv6", json!(["fd00::1"]), vec![]),
        (
            "E4: legacy rule",
            "IPv4",
            json!(["010.0.0.1"]),
            vec!["endpoints[0].addresses[0]: Invalid value: \"010.0.0.1\": must not have leading 0s"],
        ),
        (
            "E4: canonical rule",
            "IPv6",
            json!(["FD00::1"]),
            vec![
                "endpoints[0].addresses[0]: Invalid value: \"FD00::1\": must be in canonical form (\"fd00::1\")",
            ],
        ),
        (
            "E4: no index",
            "IPv4",
            json!(["fd00::1"]),
            vec!["endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address"],
        ),
        (
            "E4: no index",
            "IPv6",
            json!(["10.0.0.1"]),
            vec!["endpoints[0].addresses: Invalid value: \"10.0.0.1\": must be an IPv6 address"],
        ),
        (
            "E4: loopback",
            "IPv6",
            json!(["::1"]),
            vec![
                "endpoints[0].addresses[0]: Invalid value: \"::1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            "E3: at least one",
            "IPv4",
            json!([]),
            vec!["endpoints[0].addresses: Required value: must contain at least 1 address"],
        ),
        ("E1: names", "FQDN", json!(["a.example.com"]), vec![]),
        (
            "E1: unknown",
            "IPv5",
            json!(["x"]),
            vec!["addressType: Unsupported value: \"IPv5\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
        ),
        ("E1: missing", "", json!(["x"]), vec!["addressType: Required value"]),
    ];
    for (row, kind, addresses, wanted) in rows {
        assert_eq!(created(&ENDPOINT_SLICE, slice(kind, &addresses)).1, wanted, "{row}: {kind} {addresses}");
    }
}

#[test]
fn limits() {
    let mut many = slice("IPv4", &json!(["10.0.0.1"]));
    many["endpoints"] = vec![json!({"addresses": ["10.0.0.1"]}); 1001].into();
    assert_eq!(
        created(&ENDPOINT_SLICE, many).1,
        ["endpoints: Too many: 1001: must have at most 1000 items"],
        "E3"
    );
    let mut hinted = slice("IPv4", &json!(["10.0.0.1"]));
    hinted["endpoints"][0]["hints"] = json!({"forZones": [{"name": "a"}, {"name": "a"}]});
    assert_eq!(
        created(&ENDPOINT_SLICE, hinted).1,
        ["endpoints[0].hints.forZones[1].name: Duplicate value: \"a\""],
        "E3"
    );
    let mut named = slice("IPv4", &json!(["10.0.0.1"]));
    named["ports"] = json!([{"port": 1}, {"port": 2}]);
    assert_eq!(created(&ENDPOINT_SLICE, named).1, ["ports[1].name: Duplicate value: \"\""], "E2");
}

#[test]
fn changes() {
    let (old, _) = created(&ENDPOINT_SLICE, slice("IPv4", &json!(["10.0.0.1"])));
    let generation = |change: Value| {
        let mut new = old.clone();
        for (key, value) in change.as_object().unwrap() {
            new[key] = value.clone();
        }
        updated(&ENDPOINT_SLICE, new, &old, "").0["metadata"]["generation"].clone()
    };
    assert_eq!(generation(json!({})), 1, "E5");
    assert_eq!(generation(json!({"ports": []})), 2, "E5");
    assert_eq!(
        generation(json!({"metadata": {"name": "s", "generation": 1, "labels": {"a": "b"}}})),
        2,
        "E5"
    );
    assert_eq!(
        generation(json!({"metadata": {"name": "s", "generation": 1, "annotations": {"a": "b"}}})),
        1,
        "E5"
    );
    let other = slice("IPv6", &json!(["fd00::1"]));
    assert_eq!(
        updated(&ENDPOINT_SLICE, other, &old, "").1,
        ["addressType: Invalid value: \"IPv6\": field is immutable"],
        "E1"
    );
    let odd = slice("IPv4", &json!(["127.0.0.1"]));
    assert_eq!(
        updated(&ENDPOINT_SLICE, odd.clone(), &odd, "").1,
        Vec::<String>::new(),
        "E4: unchanged is not looked at"
    );
    let mut topology = slice("IPv4", &json!(["10.0.0.1"]));
    topology["endpoints"][0]["deprecatedTopology"] = json!({"a": "b"});
    let dropped = created(&ENDPOINT_SLICE, topology).0;
    assert!(dropped["endpoints"][0].get("deprecatedTopology").is_none(), "E6");
}

#[test]
fn warnings() {
    let odd = slice("IPv4", &json!(["010.0.0.1"]));
    assert_eq!(ENDPOINT_SLICE.warnings(&odd, None, &context("")).len(), 1, "P6");
    let mut ours = odd;
    ours["metadata"]["labels"] = json!({ slices::MANAGED_BY_LABEL: slices::CONTROLLER });
    assert!(ENDPOINT_SLICE.warnings(&ours, None, &context("")).is_empty(), "P6");
}

#[test]
fn endpoints_have_addresses() {
    let object = json!({"subsets": [{}, {"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 0}, {"name": "b", "port": 1}]}]});
    assert_eq!(
        created(&ENDPOINTS, object).1,
        [
            "subsets[0]: Required value: must specify `addresses` or `notReadyAddresses`",
            "subsets[1].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            "subsets[1].ports[0].name: Required value",
            "subsets[1].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ]
    );
}
