//! Readiness per family: what Services that ask for it get, and that nobody else gets anything.

use proptest::prelude::*;

use super::*;
use crate::readiness::{ANNOTATION, condition};

const ADDRESSES: [&str; 2] = ["10.7.0.1", "fd00:7::1"];

fn asking(mut service: Value) -> Value {
    service["metadata"]["annotations"] = json!({ ANNOTATION: "true" });
    service
}

/// A pod of both families whose conditions say what is given; nothing where it says nothing.
fn saying(ready: Option<bool>, by_family: [Option<bool>; 2]) -> Value {
    let kinds = std::iter::once("Ready".to_owned()).chain(IpFamily::BOTH.map(condition));
    let said = std::iter::once(ready).chain(by_family);
    let conditions: Vec<Value> = kinds
        .zip(said)
        .filter_map(|(kind, status)| Some((kind, if status? { "True" } else { "False" })))
        .map(|(kind, status)| json!({"type": kind, "status": status}))
        .collect();
    with(pod("p", &ADDRESSES), "/status/conditions", json!(conditions))
}

/// `ready` and `serving` of the pod's endpoint in each family.
fn conditions(service: &Value, pod: &Value) -> [[bool; 2]; 2] {
    let changes = desired(service, std::slice::from_ref(pod), &zones(), &[], None, 100);
    IpFamily::BOTH.map(|family| {
        let slice = changes.create.iter().find(|slice| slice["addressType"] == family.as_str()).unwrap();
        let conditions = &slice["endpoints"][0]["conditions"];
        [&conditions["ready"], &conditions["serving"]].map(|value| value.as_bool().unwrap())
    })
}

#[test]
fn a_pod_is_ready_in_the_families_it_answers_in() {
    const YES: [bool; 2] = [true, true];
    const NO: [bool; 2] = [false, false];
    #[rustfmt::skip]
    let rows = [
        // Ready,       of IPv4,     of IPv6,     IPv4, IPv6
        (Some(true),  [None,        None],        YES, YES),
        (Some(false), [None,        None],        NO,  NO),
        (None,        [None,        None],        NO,  NO),
        (Some(true),  [Some(true),  Some(false)], YES, NO),
        (Some(false), [Some(false), Some(true)],  NO,  YES),
        (Some(true),  [Some(false), Some(true)],  NO,  YES),
        (Some(true),  [None,        Some(false)], YES, NO),
    ];
    for (ready, by_family, v4, v6) in rows {
        let pod = saying(ready, by_family);
        assert_eq!(conditions(&asking(service(json!({}))), &pod), [v4, v6], "{ready:?} {by_family:?}");
        let plain = if ready == Some(true) { YES } else { NO };
        assert_eq!(conditions(&service(json!({})), &pod), [plain, plain], "unasked: {ready:?} {by_family:?}");
    }
}

#[test]
fn what_is_published_or_on_its_way_out_stays_so_in_each_family() {
    let pod = saying(Some(true), [Some(true), Some(false)]);
    let gone = with(pod.clone(), "/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z"));
    let rows = [
        ("E16: published anyway", &pod, true, [[true, true], [true, false]]),
        ("E16: terminating", &gone, false, [[false, true], [false, false]]),
        ("E16: terminating, published anyway", &gone, true, [[true, true], [true, false]]),
    ];
    for (row, pod, publish, wanted) in rows {
        let service = asking(service(json!({"publishNotReadyAddresses": publish})));
        assert_eq!(conditions(&service, pod), wanted, "{row}");
    }
}

#[test]
fn endpoints_go_by_their_own_family() {
    let pod = saying(Some(true), [Some(true), Some(false)]);
    for (families, list) in [(["IPv4", "IPv6"], "addresses"), (["IPv6", "IPv4"], "notReadyAddresses")] {
        let service = asking(service(json!({"ipFamilies": families})));
        let object = endpoints(&service, std::slice::from_ref(&pod), None, None).unwrap();
        assert_eq!(wire::list(&object["subsets"][0], list).len(), 1, "E60: {families:?}");
    }
}

proptest! {
    /// Without the annotation, or with another value of it, what pods say of their families changes nothing: slices
    /// and Endpoints are the same to the byte.
    #[test]
    fn nobody_who_did_not_ask_sees_a_difference(
        pods in prop::collection::vec((any::<Option<bool>>(), any::<[Option<bool>; 2]>()), 0..6),
        publish: bool,
        families in prop::sample::select(vec![json!(["IPv4"]), json!(["IPv6"]), json!(["IPv6", "IPv4"])]),
        annotations in prop::sample::select(vec![Value::Null, json!({ANNOTATION: "false"}), json!({"other": "true"})]),
    ) {
        let mut service = service(json!({"publishNotReadyAddresses": publish, "ipFamilies": families}));
        service["metadata"]["annotations"] = annotations;
        let list = |with_families: bool| -> Vec<Value> {
            let said = |(ready, by_family): &(_, _)| saying(*ready, if with_families { *by_family } else { [None; 2] });
            pods.iter().map(said).collect()
        };
        let (with, without) = (list(true), list(false));
        let bytes = |pods: &[Value]| {
            let changes = desired(&service, pods, &zones(), &[], None, 100);
            serde_json::to_string(&[json!(changes.create), json!(endpoints(&service, pods, None, None))]).unwrap()
        };
        prop_assert_eq!(bytes(&with), bytes(&without));
    }
}
