//! Requests for certificates: those of nodes for their own are approved, approved ones are signed, old ones removed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use tokio::task::JoinSet;

use crate::queue::{Controller, Error, Key, Next};
use crate::{Shared, spawn};

const SERVING: &str = "kubernetes.io/kubelet-serving";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const GROUP: &str = "certificates.k8s.io";
/// How long requests are kept that are decided, and those that nobody has decided or signed.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const WAITING: SignedDuration = SignedDuration::from_hours(24);
/// Between two looks at how old a request is.
const AGAIN: Duration = Duration::from_secs(3600);

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The common name.
    pub name: String,
    /// The organizations.
    pub groups: Vec<String>,
    /// How many host names, addresses, mail addresses and URIs.
    pub dns: usize,
    /// See [`Self::dns`].
    pub addresses: usize,
    /// See [`Self::dns`].
    pub emails: usize,
    /// See [`Self::dns`].
    pub uris: usize,
}

/// Reads requests, and signs what was approved.
pub trait Signer: Send + Sync {
    /// What a request asks for, in PEM.
    ///
    /// # Errors
    ///
    /// If it is none.
    fn wanted(&self, request: &[u8]) -> Result<Wanted, String>;

    /// The certificate, in PEM, for these usages and at most as many seconds.
    ///
    /// # Errors
    ///
    /// Why not.
    fn sign(&self, request: &[u8], usages: &[String], seconds: Option<u64>) -> Result<String, String>;

    /// A detached JSON Web Signature of a text (RFC 7515), with the secret of the token of this identifier.
    fn detached(&self, content: &str, id: &str, secret: &str) -> String;

    /// Whether certificates are over, at `now` in seconds since 1970.
    fn is_over(&self, certificates: &[u8], now: i64) -> bool;
}

/// Who signs.
#[derive(Clone)]
pub struct Authority(pub Arc<dyn Signer>);

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

struct Certificates(Shared, Authority);

pub(crate) fn start(world: &Shared, authority: &Authority, tasks: &mut JoinSet<()>) {
    spawn(tasks, Certificates(world.clone(), authority.clone()), |queue| {
        let requests = queue.clone();
        world.requests.on_change(move |_, new| {
            if let Some(request) = new {
                requests.add(Key::of(request));
            }
        });
    });
}

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).iter().any(|condition| condition.type_ == kind)
}

fn certificate(request: &CertificateSigningRequest) -> &[u8] {
    let status = request.status.as_ref();
    status.and_then(|status| status.certificate.as_ref()).map_or(&[], |bytes| &bytes.0)
}

fn add(request: &mut CertificateSigningRequest, kind: &str, reason: &str, message: &str) {
    let condition = CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..CertificateSigningRequestCondition::default()
    };
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
}

/// Why a request is not what its signer signs; `None` for signers that are others'.
fn check(signer: &str, wanted: &Wanted, usages: &[String]) -> Option<Result<(), String>> {
    let set: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    // Keys that are no RSA keys encipher nothing.
    let exactly = |of: &str| {
        let needed = ["digital signature", of];
        match set == needed.into() || set == [needed[0], needed[1], "key encipherment"].into() {
            true => Ok(()),
            false => {
                let shown: BTreeSet<&str> = [needed[0], needed[1], "key encipherment"].into();
                Err(format!("usages did not match [{}]", shown.into_iter().collect::<Vec<_>>().join(" ")))
            }
        }
    };
    let refuse = |wrong: bool, why: &str| if wrong { Err(why.to_owned()) } else { Ok(()) };
    let nodes = || refuse(wanted.groups != ["system:nodes"], "subject organization is not system:nodes");
    let named = || {
        let why = "subject common name does not begin with system:node:";
        refuse(!wanted.name.starts_with("system:node:"), why)
    };
    let emails = || refuse(wanted.emails > 0, "Email subjectAltNames are not allowed");
    let uris = || refuse(wanted.uris > 0, "URI subjectAltNames are not allowed");
    Some(match signer {
        SERVING => nodes()
            .and_then(|()| refuse(wanted.dns + wanted.addresses == 0, "DNS or IP subjectAltName is required"))
            .and_then(|()| emails())
            .and_then(|()| uris())
            .and_then(|()| exactly("server auth"))
            .and_then(|()| named()),
        NODE_CLIENT => nodes()
            .and_then(|()| refuse(wanted.dns > 0, "DNS subjectAltNames are not allowed"))
            .and_then(|()| emails())
            .and_then(|()| refuse(wanted.addresses > 0, "IP subjectAltNames are not allowed"))
            .and_then(|()| uris())
            .and_then(|()| named())
            .and_then(|()| exactly("client auth")),
        CLIENT => {
            let allowed = ["digital signature", "key encipherment", "client auth"];
            match usages.iter().find(|usage| !allowed.contains(&usage.as_str())) {
                Some(usage) => Err(format!("invalid usage for client certificate: {usage}")),
                None if !set.contains("client auth") => {
                    Err("missing required usage for client certificate: client auth".into())
                }
                None => Ok(()),
            }
        }
        _ => return None,
    })
}

/// Whether a request has been kept for long enough.
fn is_old(request: &CertificateSigningRequest, is_over: impl Fn(&[u8]) -> bool, now: Timestamp) -> bool {
    let older = |time: Option<&Time>, than| time.is_some_and(|time| now.duration_since(time.0) > than);
    let written = |kind: &str, than| {
        let of = conditions(request).iter().filter(|condition| condition.type_ == kind);
        of.into_iter().any(|condition| older(condition.last_update_time.as_ref(), than))
    };
    let issued = !certificate(request).is_empty();
    (conditions(request).is_empty() && older(request.metadata.creation_timestamp.as_ref(), WAITING))
        || written("Denied", DECIDED)
        || written("Failed", DECIDED)
        || written("Approved", if issued { DECIDED } else { WAITING })
        || (issued && has(request, "Approved") && is_over(certificate(request)))
}

impl Certificates {
    fn api(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.0.client.clone())
    }

    async fn write(&self, part: &str, request: &CertificateSigningRequest) -> Result<(), Error> {
        let params = PostParams::default();
        self.api().replace_subresource(part, &request.name_any(), &params, request).await?;
        Ok(())
    }

    /// A node's request for itself, or for a node by somebody whom a role lets ask for one.
    async fn approve(&self, request: &CertificateSigningRequest) -> Result<(), Error> {
        let spec = &request.spec;
        let Ok(wanted) = self.1.0.wanted(&spec.request.0) else { return Ok(()) };
        if spec.signer_name != NODE_CLIENT
            || check(NODE_CLIENT, &wanted, spec.usages.as_deref().unwrap_or_default()) != Some(Ok(()))
        {
            return Ok(());
        }
        let own = spec.username.as_deref() == Some(wanted.name.as_str());
        let ways = [
            (
                own,
                "selfnodeclient",
                "Auto approving self kubelet client certificate after SubjectAccessReview.",
            ),
            (true, "nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
        ];
        for (_, part, message) in ways.into_iter().filter(|(applies, ..)| *applies) {
            if self.may(request, part).await? {
                let mut approved = request.clone();
                add(&mut approved, "Approved", "AutoApproved", message);
                return self.write("approval", &approved).await;
            }
        }
        Ok(())
    }

    async fn may(&self, request: &CertificateSigningRequest, part: &str) -> Result<bool, Error> {
        let spec = &request.spec;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.into()),
                    resource: Some("certificatesigningrequests".into()),
                    subresource: Some(part.into()),
                    verb: Some("create".into()),
                    version: Some("*".into()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews = Api::<SubjectAccessReview>::all(self.0.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn sign(&self, request: &CertificateSigningRequest) -> Result<(), Error> {
        let spec = &request.spec;
        let Ok(wanted) = self.1.0.wanted(&spec.request.0) else { return Ok(()) };
        let usages = spec.usages.as_deref().unwrap_or_default();
        let Some(checked) = check(&spec.signer_name, &wanted, usages) else { return Ok(()) };
        let seconds = spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let signed = checked.map_err(|why| ("SignerValidationFailure", why)).and_then(|()| {
            let signed = self.1.0.sign(&spec.request.0, usages, seconds);
            signed.map_err(|why| ("SigningFailure", why))
        });
        let mut done = request.clone();
        match signed {
            Ok(pem) => done.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes())),
            Err((reason, why)) => add(&mut done, "Failed", reason, &why),
        }
        self.write("status", &done).await
    }
}

impl Controller for Certificates {
    const NAME: &'static str = "certificates";

    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(request) = self.0.requests.get(key) else { return Ok(None) };
        let now = Timestamp::now();
        if is_old(&request, |pem| self.1.0.is_over(pem, now.as_second()), now) {
            let preconditions = Preconditions { uid: request.uid(), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            self.api().delete(&key.name, &params).await?;
            return Ok(None);
        }
        if certificate(&request).is_empty() {
            match (has(&request, "Approved"), has(&request, "Denied"), has(&request, "Failed")) {
                (true, _, false) => self.sign(&request).await?,
                (false, false, _) => self.approve(&request).await?,
                _ => {}
            }
        }
        Ok(Some(AGAIN))
    }
}

#[cfg(test)]
mod tests;
