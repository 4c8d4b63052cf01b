//! Row by row, with the texts of a 1.36 API server.

use super::*;
use crate::testing::{created, updated};

fn request(signer: &str, usages: &[&str]) -> Value {
    json!({"spec": {"request": "eA==", "signerName": signer, "usages": usages}})
}

#[test]
fn what_is_asked_is_checked() {
    let client = &["client auth"][..];
    let supported = USAGES.map(|usage| format!("{usage:?}")).join(", ");
    let unknown = format!("spec.usages[2]: Unsupported value: \"x\": supported values: {supported}");
    let (form, label) = (
        "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        "spec.signerName: Invalid value: \"\": validating label \"\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
    );
    let domain = |domain: &str| {
        format!(
            "spec.signerName: Invalid value: {domain:?}: should be a domain with at least two segments separated by dots"
        )
    };
    #[rustfmt::skip]
    let cases: Vec<(Value, Vec<String>)> = vec![
        (request("kubernetes.io/kube-apiserver-client", client), vec![]),
        (request("a.b/c.d", &[]), vec!["spec.usages: Required value".into()]),
        (request("a.b/c", &["client auth", "client auth", "x"]), vec![unknown, "spec.usages[1]: Duplicate value: \"client auth\"".into()]),
        (request("foo", client), vec![format!("spec.signerName: Invalid value: \"foo\": {form}")]),
        (request("a_b.c/x/y", client), vec![format!("spec.signerName: Invalid value: \"a_b.c/x/y\": {form}")]),
        (request("foo/", client), vec![domain("foo"), label.into()]),
        (request("a/b", client), vec![domain("a")]),
        (request("", client), vec!["spec.signerName: Required value".into()]),
        (request(LEGACY, client), vec!["spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version".into()]),
    ];
    for (object, errors) in cases {
        let (made, found) = created(&CERTIFICATE_SIGNING_REQUEST, object.clone());
        assert_eq!(found, errors, "{object}");
        assert_eq!(made["status"], json!({}), "nobody approves what they ask for");
    }
    let mut short = request("a.b/c", client);
    short["spec"]["expirationSeconds"] = 1.into();
    assert_eq!(
        created(&CERTIFICATE_SIGNING_REQUEST, short).1,
        [
            "spec.expirationSeconds: Invalid value: 1: may not specify a duration less than 600 seconds (10 minutes)"
        ]
    );
}

#[test]
fn each_endpoint_changes_what_it_is_for() {
    let conditions = |types: &[&str]| -> Value {
        types.iter().map(|kind| json!({"type": kind, "status": "True"})).collect()
    };
    let mut old = request("a.b/c", &["client auth"]);
    old["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "r",
        "lastUpdateTime": "2020-01-01T00:00:00Z", "lastTransitionTime": "2020-01-01T00:00:00Z"}]});
    let with = |key: &str, value: Value| {
        let mut new = old.clone();
        new["spec"]["signerName"] = "x.y/z".into();
        new["status"][key] = value;
        new
    };
    let plain = |what: &str| format!("status.conditions: Forbidden: updates may not {what}");
    #[rustfmt::skip]
    let cases = [
        ("", with("conditions", conditions(&["Denied"])), vec![]),
        ("approval", with("conditions", conditions(&["Denied"])), vec![plain("remove a condition of type \"Approved\"")]),
        ("approval", with("conditions", conditions(&["Approved", "Denied"])), vec!["status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive".into()]),
        ("approval", with("certificate", "eA==".into()), vec![]),
        ("status", with("conditions", conditions(&["Approved", "Denied"])), vec![
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive".into(),
            plain("add a condition of type \"Denied\""),
        ]),
        ("status", with("conditions", conditions(&["Approved", "Failed", "Failed"])), vec!["status.conditions[2].type: Duplicate value: \"Failed\"".into()]),
        ("status", with("certificate", "eA==".into()), vec![]),
    ];
    for (endpoint, object, errors) in cases {
        let (made, found) = updated(&CERTIFICATE_SIGNING_REQUEST, object.clone(), &old, endpoint);
        assert_eq!(found, errors, "{endpoint} {object}");
        assert_eq!(made["spec"], old["spec"], "what is asked stays");
        if endpoint != "status" {
            assert_eq!(certificate(&made), "", "{endpoint}");
        }
        if endpoint == "status" && errors.is_empty() {
            assert_eq!(of_type(&made, "Approved"), of_type(&old, "Approved"), "a decision stays as it was");
        }
    }
    let mut issued = old.clone();
    issued["status"]["certificate"] = "eA==".into();
    let mut other = issued.clone();
    other["status"]["certificate"] = "eQ==".into();
    assert_eq!(
        updated(&CERTIFICATE_SIGNING_REQUEST, other, &issued, "status").1,
        ["status.certificate: Forbidden: updates may not modify existing certificate content"]
    );
    let (made, _) = updated(
        &CERTIFICATE_SIGNING_REQUEST,
        with("conditions", conditions(&["Approved", "X"])),
        &old,
        "approval",
    );
    assert_eq!(made["status"]["conditions"][0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
    assert_eq!(made["status"]["conditions"][1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
}
