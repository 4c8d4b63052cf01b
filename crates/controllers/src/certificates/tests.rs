//! What is signed and what is kept, row by row as kube-controller-manager has it.

use serde_json::json;

use super::*;

fn wanted(name: &str, groups: &[&str], counts: [usize; 4]) -> Wanted {
    let [dns, addresses, emails, uris] = counts;
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    Wanted { name: name.into(), groups, dns, addresses, emails, uris }
}

#[test]
fn each_signer_signs_what_it_is_for() {
    let node = |counts| wanted("system:node:n1", &["system:nodes"], counts);
    let (serve, client) =
        (&["digital signature", "server auth"][..], &["digital signature", "client auth"][..]);
    let (serving_usages, client_usages) = (
        "usages did not match [digital signature key encipherment server auth]",
        "usages did not match [client auth digital signature key encipherment]",
    );
    #[rustfmt::skip]
    let cases = [
        (SERVING, node([1, 1, 0, 0]), serve, ""),
        (SERVING, node([0, 1, 0, 0]), &["server auth", "key encipherment", "digital signature"][..], ""),
        (SERVING, node([0, 0, 0, 0]), serve, "DNS or IP subjectAltName is required"),
        (SERVING, node([1, 0, 1, 0]), serve, "Email subjectAltNames are not allowed"),
        (SERVING, node([1, 0, 0, 1]), serve, "URI subjectAltNames are not allowed"),
        (SERVING, node([1, 0, 0, 0]), client, serving_usages),
        (SERVING, wanted("n1", &["system:nodes"], [1, 0, 0, 0]), serve, "subject common name does not begin with system:node:"),
        (SERVING, wanted("system:node:n1", &["system:nodes", "x"], [1, 0, 0, 0]), serve, "subject organization is not system:nodes"),
        (NODE_CLIENT, node([0; 4]), client, ""),
        (NODE_CLIENT, node([1, 0, 0, 0]), client, "DNS subjectAltNames are not allowed"),
        (NODE_CLIENT, node([0, 1, 0, 0]), client, "IP subjectAltNames are not allowed"),
        (NODE_CLIENT, node([0; 4]), &["client auth"], client_usages),
        (NODE_CLIENT, wanted("jane", &["system:nodes"], [0; 4]), client, "subject common name does not begin with system:node:"),
        (CLIENT, wanted("jane", &["dev"], [0; 4]), &["client auth"], ""),
        (CLIENT, wanted("jane", &["dev"], [0; 4]), &["server auth"], "invalid usage for client certificate: server auth"),
        (CLIENT, wanted("jane", &["dev"], [0; 4]), &["digital signature"], "missing required usage for client certificate: client auth"),
    ];
    for (signer, wanted, usages, why) in cases {
        let usages: Vec<String> = usages.iter().map(|usage| (*usage).to_owned()).collect();
        let expected = if why.is_empty() { Ok(()) } else { Err(why.to_owned()) };
        assert_eq!(check(signer, &wanted, &usages), Some(expected), "{signer} {wanted:?} {usages:?}");
    }
    assert_eq!(check("example.com/own", &node([0; 4]), &[]), None);
}

#[test]
fn requests_are_kept_for_as_long_as_somebody_may_look() {
    let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
    let request = |age: &str, conditions: &[(&str, &str)], certificate: &str| -> CertificateSigningRequest {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, since)| json!({"type": kind, "status": "True", "lastUpdateTime": since}))
            .collect();
        let mut object = json!({
            "metadata": {"name": "r", "creationTimestamp": age},
            "spec": {"request": "", "signerName": CLIENT},
            "status": {"conditions": conditions},
        });
        if !certificate.is_empty() {
            object["status"]["certificate"] = certificate.into();
        }
        serde_json::from_value(object).unwrap()
    };
    let (minutes, hours, days) = ("2026-01-09T23:30:00Z", "2026-01-09T21:00:00Z", "2026-01-08T00:00:00Z");
    for (request, old) in [
        (request(hours, &[], ""), false),
        (request(days, &[], ""), true),
        (request(days, &[("Denied", minutes)], ""), false),
        (request(days, &[("Denied", hours)], ""), true),
        (request(days, &[("Approved", hours)], ""), false),
        (request(days, &[("Approved", days)], ""), true),
        (request(days, &[("Approved", minutes), ("Failed", hours)], ""), true),
        (request(days, &[("Approved", minutes)], "eA=="), false),
        (request(days, &[("Approved", hours)], "eA=="), true),
        // One that is over by itself.
        (request(days, &[("Approved", minutes)], "b3Zlcg=="), true),
    ] {
        assert_eq!(is_old(&request, |pem| pem == b"over", now), old, "{request:?}");
    }
}
