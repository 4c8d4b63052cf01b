//! Requests for certificates: who asks is written down, and who approves and signs must be allowed to for the signer
//! (the admission plugins CertificateSubjectRestriction, CertificateApproval and CertificateSigning, J64).

use serde_json::{Value, json};

use super::Registry;
use super::write::{Scope, meta_text};
use crate::auth::{Attributes, Authorizer, Decision, MASTERS, ResourceTarget, Target};
use crate::pki::Request;
use crate::status::ApiError;

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// Writes down who asks: nobody asks in another's name.
pub(super) fn note_requestor(scope: Scope<'_>, object: &mut Value) {
    if !scope.resource().is(GROUP, PLURAL) || !object["spec"].is_object() {
        return;
    }
    let user = scope.user;
    let said = [
        ("username", json!(user.name), user.name.is_empty()),
        ("uid", json!(user.uid), user.uid.is_empty()),
        ("groups", json!(user.groups), user.groups.is_empty()),
        ("extra", json!(user.extra), user.extra.is_empty()),
    ];
    for (key, value, is_empty) in said {
        match (&mut object["spec"], is_empty) {
            (Value::Object(spec), true) => _ = spec.remove(key),
            (spec, _) => spec[key] = value,
        }
    }
}

impl Registry {
    /// Nobody gets a certificate of an administrator from the signer of clients.
    pub(super) fn check_requested_subject(&self, scope: Scope<'_>, object: &Value) -> Result<(), ApiError> {
        let spec = &object["spec"];
        if !scope.resource().is(GROUP, PLURAL)
            || !scope.subresource.is_empty()
            || spec["signerName"] != CLIENT
        {
            return Ok(());
        }
        let name = meta_text(object, "name");
        // What is no request is refused by validation.
        let Ok(request) = Request::parse(spec["request"].as_str().unwrap_or_default()) else { return Ok(()) };
        if request.organizations.iter().any(|group| group == MASTERS) {
            let why = format!("use of {CLIENT} signer with {MASTERS} group is not allowed");
            return Err(ApiError::forbidden(scope.served.about(name), &why));
        }
        Ok(())
    }

    /// Whoever decides, or signs, must be one whom a role lets do that for the signer.
    pub(super) fn check_signer(&self, scope: Scope<'_>, old: &Value, new: &Value) -> Result<(), ApiError> {
        if !scope.resource().is(GROUP, PLURAL) {
            return Ok(());
        }
        let changed = |key: &str| old["status"][key] != new["status"][key];
        let verb = match scope.subresource {
            "approval" => "approve",
            "status" if changed("certificate") || changed("conditions") => "sign",
            _ => return Ok(()),
        };
        let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
        let domain = signer.split('/').next().unwrap_or_default();
        // For this signer, or for all of its domain.
        let may = |name: &str| {
            let target =
                ResourceTarget { group: GROUP, resource: "signers", name, ..ResourceTarget::default() };
            self.authorize(scope.user, &Attributes { verb, target: Target::Resource(target) })
                == Decision::Allow
        };
        if may(signer) || may(&format!("{domain}/*")) {
            return Ok(());
        }
        let why = format!("user not permitted to {verb} requests with signerName {signer:?}");
        Err(ApiError::forbidden(scope.about(), &why))
    }
}
