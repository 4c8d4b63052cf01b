//! Requests for certificates: what is asked, approved or denied, and at last signed.

use serde_json::{Value, json};

use crate::meta::{self, Checks};
use crate::{Context, FieldError, Strategy, names, wire};

/// The strategy of CertificateSigningRequests.
pub static CERTIFICATE_SIGNING_REQUEST: CertificateSigningRequest = CertificateSigningRequest;

/// See [`CERTIFICATE_SIGNING_REQUEST`].
#[derive(Clone, Copy, Debug)]
pub struct CertificateSigningRequest;

const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";
/// Of old; nobody may ask for it any more.
const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// Shortest life of a certificate that can be asked for.
const EXPIRATION_MIN: i64 = 600;
/// Longest host name, and longest label in it (RFC 1035 section 2.3.4).
const DOMAIN_MAX: usize = 253;
const LABEL_MAX: usize = 63;

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

fn conditions(object: &Value) -> &[Value] {
    wire::list(wire::at(object, &["status"]), "conditions")
}

fn of_type<'a>(object: &'a Value, kind: &str) -> Vec<&'a Value> {
    conditions(object).iter().filter(|condition| wire::text(condition, "type") == kind).collect()
}

fn certificate(object: &Value) -> &str {
    wire::text(wire::at(object, &["status"]), "certificate")
}

fn repeats<'a>(mut values: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = std::collections::BTreeSet::new();
    values.any(|value| !seen.insert(value))
}

fn types(object: &Value) -> impl Iterator<Item = &str> {
    conditions(object).iter().map(|condition| wire::text(condition, "type"))
}

impl CertificateSigningRequest {
    /// What is wrong with a request; what was already wrong with it before is let be.
    fn validate(&self, new: &Value, old: Option<&Value>, cx: &Context<'_>) -> Vec<FieldError> {
        let spec = wire::at(new, &["spec"]);
        let mut errors = Vec::new();
        let request = wire::text(spec, "request");
        if let Some(fault) = cx.objects.request_fault(request) {
            errors.push(FieldError::invalid("spec.request", request, fault));
        }
        let old_spec = old.map_or(&Value::Null, |old| wire::at(old, &["spec"]));
        let usages: Vec<&str> = wire::texts(spec, "usages").collect();
        if usages.is_empty() {
            errors.push(FieldError::required("spec.usages", ""));
        }
        if wire::texts(old_spec, "usages").all(|usage| USAGES.contains(&usage)) {
            let unknown = usages.iter().enumerate().filter(|(_, usage)| !USAGES.contains(usage));
            errors.extend(
                unknown.map(|(i, usage)| {
                    FieldError::not_supported(format!("spec.usages[{i}]"), *usage, &USAGES)
                }),
            );
        }
        if !repeats(wire::texts(old_spec, "usages")) {
            let again = usages.iter().enumerate().filter(|(i, usage)| usages[..*i].contains(usage));
            errors.extend(again.map(|(i, usage)| FieldError::duplicate(format!("spec.usages[{i}]"), *usage)));
        }
        let signer = wire::text(spec, "signerName");
        if signer == LEGACY && wire::text(old_spec, "signerName") != LEGACY {
            let text = "the legacy signerName is not allowed via this API version";
            errors.push(FieldError::invalid("spec.signerName", signer, text));
        } else {
            errors.extend(signer_errors(signer, "spec.signerName"));
        }
        if let Some(seconds) =
            wire::int(spec, "expirationSeconds").filter(|seconds| *seconds < EXPIRATION_MIN)
        {
            let text = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.push(FieldError::invalid("spec.expirationSeconds", seconds, text));
        }
        errors.extend(condition_errors(new, old));
        let (issued, before) = (certificate(new), old.map_or("", certificate));
        let let_be = old.is_some() && (issued == before || cx.objects.certificate_fault(before).is_some());
        if let Some(fault) = cx.objects.certificate_fault(issued).filter(|_| !let_be) {
            errors.push(FieldError::invalid("status.certificate", "<certificate data>", fault));
        }
        errors
    }
}

fn condition_errors(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    const FIELD: &str = "status.conditions";
    let old_has = |kind: &str| old.is_some_and(|old| types(old).any(|of| of == kind));
    let mut errors = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (index, condition) in conditions(new).iter().enumerate() {
        let (kind, status) = (wire::text(condition, "type"), wire::text(condition, "status"));
        let field = |key: &str| format!("{FIELD}[{index}].{key}");
        if kind.is_empty() && !old_has("") {
            errors.push(FieldError::required(field("type"), ""));
        }
        let allowed: &[&str] = match kind {
            APPROVED | DENIED | FAILED => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        if status.is_empty() {
            errors.push(FieldError::required(field("status"), ""));
        } else if !allowed.contains(&status) {
            errors.push(FieldError::not_supported(field("status"), status, allowed));
        }
        let opposite = if kind == APPROVED { DENIED } else { APPROVED };
        if matches!(kind, APPROVED | DENIED)
            && seen.contains(&opposite)
            && !(old_has(APPROVED) && old_has(DENIED))
        {
            let text = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(FIELD, kind, text));
        }
        if seen.contains(&kind) && !old.is_some_and(|old| repeats(types(old))) {
            errors.push(FieldError::duplicate(field("type"), kind));
        }
        seen.push(kind);
    }
    errors
}

/// `domain/path`, the domain with a dot in it.
fn signer_errors(signer: &str, field: &str) -> Vec<FieldError> {
    if signer.is_empty() {
        return vec![FieldError::required(field, "")];
    }
    let Some((domain, path)) = signer.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let text = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return vec![FieldError::invalid(field, signer, text)];
    };
    let mut errors = Vec::new();
    if domain.len() > DOMAIN_MAX {
        errors.push(meta::too_long(field, DOMAIN_MAX));
    }
    errors.extend(label_errors(domain, field, names::dns1123_label));
    if !domain.contains('.') {
        let text = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(field, domain, text));
    }
    errors.extend(label_errors(path, field, names::dns1123_subdomain));
    if signer.len() > 2 * DOMAIN_MAX + LABEL_MAX + 2 {
        errors.push(meta::too_long(field, 2 * DOMAIN_MAX + LABEL_MAX + 2));
    }
    errors
}

/// What is wrong with the first label that is.
fn label_errors(whole: &str, field: &str, valid: fn(&str) -> Vec<String>) -> Vec<FieldError> {
    let faults = whole.split('.').map(|label| (label, valid(label))).find(|(_, faults)| !faults.is_empty());
    let (label, faults) = faults.unwrap_or_default();
    let said = faults.iter().map(|fault| format!("validating label {label:?}: {fault}"));
    said.map(|said| FieldError::invalid(field, whole, said)).collect()
}

impl Strategy for CertificateSigningRequest {
    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        wire::set(new, "status", json!({}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        wire::copy(new, old, "spec");
        match cx.subresource {
            "" => wire::copy(new, old, "status"),
            "status" => {
                keep_decisions(new, old);
                fill_times(new, old, cx.now);
            }
            _ => {
                fill_times(new, old, cx.now);
                let decided = wire::at(new, &["status", "conditions"]).clone();
                wire::copy(new, old, "status");
                wire::set(wire::child(new, "status"), "conditions", decided);
            }
        }
    }

    fn validate_create(&self, new: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        self.validate(new, None, cx)
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        const FIELD: &str = "status.conditions";
        let mut errors = self.validate(new, Some(old), cx);
        let forbidden = |what: &str, kind: &str| {
            FieldError::forbidden(FIELD, format!("updates may not {what} a condition of type {kind:?}"))
        };
        for kind in [APPROVED, DENIED, FAILED] {
            if of_type(new, kind).len() < of_type(old, kind).len() {
                errors.push(forbidden("remove", kind));
            }
        }
        for kind in [APPROVED, DENIED].into_iter().filter(|_| cx.subresource != "approval") {
            let (now, before) = (of_type(new, kind), of_type(old, kind));
            if now.len() > before.len() {
                errors.push(forbidden("add", kind));
            } else if now.len() == before.len() && now != before {
                errors.push(forbidden("modify", kind));
            }
        }
        if certificate(new) != certificate(old) {
            let text = match cx.subresource {
                "status" if certificate(old).is_empty() => "",
                "status" => "updates may not modify existing certificate content",
                _ => "updates may not set certificate content",
            };
            if !text.is_empty() {
                errors.push(FieldError::forbidden("status.certificate", text));
            }
        }
        errors
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        Checks::WHOLE_AND_CHANGE
    }
}

/// Whoever writes the status leaves what was decided as it is, unless the decisions are others: that is refused later.
fn keep_decisions(new: &mut Value, old: &Value) {
    for kind in [APPROVED, DENIED] {
        let before: Vec<Value> = of_type(old, kind).into_iter().cloned().collect();
        if before.len() != of_type(new, kind).len() {
            continue;
        }
        let now = wire::items_mut(wire::child(new, "status"), "conditions");
        let now = now.filter(|condition| wire::text(condition, "type") == kind);
        now.zip(before).for_each(|(now, before)| *now = before);
    }
}

/// Every condition says when it was written, and since when it is so.
fn fill_times(new: &mut Value, old: &Value, now: &str) {
    for condition in wire::items_mut(wire::child(new, "status"), "conditions") {
        if wire::text(condition, "lastUpdateTime").is_empty() {
            wire::set(condition, "lastUpdateTime", now);
        }
        if wire::text(condition, "lastTransitionTime").is_empty() {
            let same = |of: &&Value| {
                ["type", "status"].iter().all(|key| wire::text(of, key) == wire::text(condition, key))
            };
            let since = conditions(old).iter().find(same).map(|of| wire::text(of, "lastTransitionTime"));
            let since = since.filter(|since| !since.is_empty()).unwrap_or(now).to_owned();
            wire::set(condition, "lastTransitionTime", since);
        }
    }
}

#[cfg(test)]
mod tests;
