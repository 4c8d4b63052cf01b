//! What a failed request is answered with: `Status` objects, word for word as Kubernetes writes them (0.3).

use dyad_model::{FieldError, Refusal};
use dyad_store::StoreError;
use http::StatusCode;
use serde::Serialize;

/// Why a request failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .0.message)]
pub struct ApiError(Box<Status>);

/// The `Status` kind, as far as failures use it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    kind: &'static str,
    api_version: &'static str,
    metadata: ListMeta,
    status: &'static str,
    message: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    code: u16,
}

#[derive(Debug, Clone, Default, Serialize)]
struct ListMeta {
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    token: String,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<Cause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u32>,
}

#[derive(Debug, Clone, Serialize)]
struct Cause {
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    field: String,
}

/// The resource a failure is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    /// API group, empty for core.
    pub(crate) group: &'a str,
    /// Plural resource name.
    pub(crate) resource: &'a str,
    /// Kind.
    pub(crate) kind: &'a str,
    /// Object name, empty if there is none.
    pub(crate) name: &'a str,
}

impl About<'_> {
    /// `deployments.apps`, as messages name a resource.
    fn qualified_resource(&self) -> String {
        qualify(self.resource, self.group)
    }

    fn by_resource(&self) -> Details {
        Details {
            name: self.name.to_owned(),
            group: self.group.to_owned(),
            kind: self.resource.to_owned(),
            ..Details::default()
        }
    }

    fn by_kind(&self) -> Details {
        Details { kind: self.kind.to_owned(), ..self.by_resource() }
    }
}

fn qualify(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Status {
            kind: "Status",
            api_version: "v1",
            metadata: ListMeta::default(),
            status: "Failure",
            message: message.into(),
            reason,
            details: None,
            code: code.as_u16(),
        }))
    }

    fn with(mut self, details: Details) -> Self {
        self.0.details = Some(details);
        self
    }

    /// The HTTP status.
    pub fn code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The machine-readable reason, e.g. `NotFound`.
    pub fn reason(&self) -> &str {
        self.0.reason
    }

    /// The `Retry-After` header, in seconds.
    pub(crate) fn retry_after(&self) -> Option<u32> {
        self.0.details.as_ref()?.retry_after_seconds
    }

    /// The `Status` object as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).expect("a Status has string keys only")
    }

    /// The `Status` object.
    pub(crate) fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(&self.0).expect("a Status has string keys only")
    }

    pub(crate) fn not_found(about: About<'_>) -> Self {
        let message = format!("{} {:?} not found", about.qualified_resource(), about.name);
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).with(about.by_resource())
    }

    /// There is no such path.
    pub(crate) fn no_such_path() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).with(Details::default())
    }

    /// The name is taken; `deleting` if by an object that is on its way out.
    pub(crate) fn already_exists(about: About<'_>, deleting: bool) -> Self {
        let prefix = if deleting { "object is being deleted: " } else { "" };
        let message = format!("{prefix}{} {:?} already exists", about.qualified_resource(), about.name);
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).with(about.by_resource())
    }

    /// No name was found for an object that has a prefix for one (J48), be it that it has a name as well.
    pub(crate) fn not_generated(about: About<'_>) -> Self {
        let message = format!(
            "{} {:?} already exists, the server was not able to generate a unique name for the object",
            about.qualified_resource(),
            about.name
        );
        let details = Details { retry_after_seconds: Some(1), ..about.by_resource() };
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).with(details)
    }

    pub(crate) fn conflict(about: About<'_>, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {:?}: {why}",
            about.qualified_resource(),
            about.name
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).with(about.by_resource())
    }

    /// What is to be deleted is not what the client meant (J49). Kubernetes names the kind here, not the resource.
    pub(crate) fn not_meant(about: About<'_>, why: &str) -> Self {
        Self::conflict(About { resource: about.kind, ..about }, why)
    }

    /// The resourceVersion of an update is not the current one (Q4).
    pub(crate) fn modified(about: About<'_>) -> Self {
        Self::conflict(
            about,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Others own some of what was to be applied (J45): the fields, and who has them.
    pub(crate) fn apply_conflict(message: &str, conflicts: impl Iterator<Item = (String, String)>) -> Self {
        let cause = |(field, message)| Cause { reason: "FieldManagerConflict", message, field };
        let details = Details { causes: conflicts.map(cause).collect(), ..Details::default() };
        Self::new(StatusCode::CONFLICT, "Conflict", message).with(details)
    }

    pub(crate) fn invalid(about: About<'_>, errors: &[FieldError]) -> Self {
        let causes = errors.iter().map(|error| Cause {
            reason: error.kind.reason(),
            message: error.body(),
            field: error.field.clone(),
        });
        // Go's aggregate of errors shows equal ones once.
        let mut texts: Vec<String> = Vec::new();
        for error in errors {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let list = if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) };
        let message = format!("{} {:?} is invalid: {list}", qualify(about.kind, about.group), about.name);
        let details = Details { causes: causes.collect(), ..about.by_kind() };
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with(details)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(about: About<'_>, why: &str) -> Self {
        let name = if about.name.is_empty() { String::new() } else { format!(" {:?}", about.name) };
        let message = format!("{}{name} is forbidden: {why}", about.qualified_resource());
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).with(about.by_resource())
    }

    /// A path that is no resource is not for this user.
    pub(crate) fn forbidden_path(path: &str, why: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", format!("forbidden: {why}"))
            .with(Details { name: path.to_owned(), ..Details::default() })
    }

    /// Nothing new may come into a namespace that is going (J52).
    pub(crate) fn namespace_terminating(about: About<'_>, namespace: &str) -> Self {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let mut error = Self::forbidden(about, &why);
        let cause = Cause {
            reason: "NamespaceTerminating",
            message: format!("namespace {namespace} is being terminated"),
            field: "metadata.namespace".to_owned(),
        };
        error.0.details.get_or_insert_default().causes.push(cause);
        error
    }

    /// No handler is there for the method.
    pub(crate) fn method_not_routed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).with(Details::default())
    }

    /// No handler is there for this type of patch.
    pub(crate) fn patch_not_routed() -> Self {
        let message = "415: Unsupported Media Type";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
            .with(Details::default())
    }

    pub(crate) fn not_acceptable(supported: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", supported.join(", "));
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    /// An object cannot be shown as what it is not.
    pub(crate) fn not_acceptable_form(why: String) -> Self {
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", why)
    }

    /// Nothing that the client accepts is there at all.
    pub(crate) fn not_available(available: &[&str]) -> Self {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", available.join(", "));
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message).with(Details::default())
    }

    pub(crate) fn unsupported_media_type(supported: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            supported.join(", ")
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// 429: the user, or all of its class, has as much as it may at once (J65).
    pub(crate) fn too_many_requests() -> Self {
        let message = "Too many requests, please try again later.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message)
            .with(Details { retry_after_seconds: Some(1), ..Details::default() })
    }

    /// 504: a body that does not come.
    pub(crate) fn request_timeout() -> Self {
        let message =
            "Timeout: request did not complete within requested timeout - context deadline exceeded";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).with(Details::default())
    }

    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    pub(crate) fn patch_too_large(why: &str) -> Self {
        let message = format!("Request entity too large: {why}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// 422 without causes: Kubernetes does not say what is wrong.
    pub(crate) fn rejected(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with(Details::default())
    }

    pub(crate) fn internal(why: impl std::fmt::Display) -> Self {
        let why = why.to_string();
        let cause = Cause { reason: "", message: why.clone(), field: String::new() };
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {why}"),
        )
        .with(Details { causes: vec![cause], ..Details::default() })
    }

    /// 500 without a reason, which is how Kubernetes answers failures that it has no name for.
    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "", message)
    }

    /// 410: what was asked for is no longer kept (J24, J26).
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 410 for a page of a list that is no longer kept, with a token to go on from there nevertheless (J24).
    pub(crate) fn continue_expired(token: String) -> Self {
        let mut error = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new \
             list without the continue parameter, or use the continue token in this response to retrieve the \
             remainder of the results. Continuing with the provided token results in an inconsistent list - objects \
             that were created, modified, or deleted between the time the first chunk was returned and now may show \
             up in the list.",
        );
        error.0.metadata.token = token;
        error
    }

    /// 410 for a watch from `wanted` when `oldest` is the first revision that can be watched from.
    pub(crate) fn too_old(wanted: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {wanted} ({oldest})"))
    }

    /// 504 for a revision that has not come yet (J23).
    pub(crate) fn rev_too_large(wanted: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
        let cause = Cause {
            reason: "ResourceVersionTooLarge",
            message: "Too large resource version".to_owned(),
            field: String::new(),
        };
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).with(Details {
            causes: vec![cause],
            retry_after_seconds: Some(1),
            ..Details::default()
        })
    }

    /// 429: a budget has nothing left (J55), and why.
    pub(crate) fn budget_spent(why: &str) -> Self {
        Self::budget(why, None)
    }

    /// 429: nobody has looked at a budget since it changed.
    pub(crate) fn budget_not_known(name: &str) -> Self {
        Self::budget(
            &format!("The disruption budget {name} is still being processed by the server."),
            Some(10),
        )
    }

    fn budget(why: &str, retry_after_seconds: Option<u32>) -> Self {
        let cause = Cause { reason: "DisruptionBudget", message: why.to_owned(), field: String::new() };
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message).with(Details {
            causes: vec![cause],
            retry_after_seconds,
            ..Details::default()
        })
    }

    /// What someone behind this server answered, in the words that Kubernetes has for the code.
    pub(crate) fn of_backend(code: StatusCode, resource: &str, name: &str, said: &str) -> Self {
        let (reason, message) = match code {
            StatusCode::NOT_FOUND => ("NotFound", "the server could not find the requested resource"),
            StatusCode::UNAUTHORIZED => {
                ("Unauthorized", "the server has asked for the client to provide credentials")
            }
            StatusCode::FORBIDDEN => ("Forbidden", said),
            StatusCode::METHOD_NOT_ALLOWED => {
                ("MethodNotAllowed", "the server does not allow this method on the requested resource")
            }
            StatusCode::UNPROCESSABLE_ENTITY => {
                ("Invalid", "the server rejected our request due to an error in our request")
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                ("ServiceUnavailable", "the server is currently unable to handle the request")
            }
            StatusCode::TOO_MANY_REQUESTS => (
                "TooManyRequests",
                "the server has received too many requests and has asked us to try again later",
            ),
            _ => ("", ""),
        };
        let message = if !message.is_empty() {
            message.to_owned()
        } else if code.is_server_error() {
            format!("an error on the server ({said:?}) has prevented the request from succeeding")
        } else {
            let code = code.as_u16();
            format!("the server responded with the status code {code} but did not return more information")
        };
        let details = Details { name: name.to_owned(), kind: resource.to_owned(), ..Details::default() };
        Self::new(code, reason, format!("{message} ( {resource} {name})")).with(details)
    }

    pub(crate) fn unavailable(message: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    /// What a strategy refused.
    pub(crate) fn refused(about: About<'_>, refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Invalid(errors) => Self::invalid(about, errors),
            Refusal::Internal(why) => Self::internal(why),
            Refusal::Forbidden(why) => Self::forbidden(about, why),
            Refusal::Conflict(why) => Self::conflict(about, why),
            Refusal::BadRequest(why) => Self::bad_request(why.as_str()),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Compacted { rev, oldest } => Self::too_old(rev, oldest),
            StoreError::Future { rev, current } => Self::rev_too_large(rev, current),
            StoreError::Closed => Self::unavailable("the server is shutting down"),
            other => {
                let mut text = other.to_string();
                let mut source = std::error::Error::source(&other);
                while let Some(cause) = source {
                    text.push_str(": ");
                    text.push_str(&cause.to_string());
                    source = cause.source();
                }
                Self::internal(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: About<'static> =
        About { group: "apps", resource: "deployments", kind: "Deployment", name: "web" };
    const CORE: About<'static> = About { group: "", resource: "services", kind: "Service", name: "x" };

    fn json(error: &ApiError) -> serde_json::Value {
        serde_json::from_slice(&error.to_json()).unwrap()
    }

    #[test]
    fn statuses_read_as_kubernetes_writes_them() {
        #[rustfmt::skip]
        let cases = [
            (ApiError::not_found(ABOUT), 404, "NotFound", "deployments.apps \"web\" not found"),
            (ApiError::already_exists(CORE, false), 409, "AlreadyExists", "services \"x\" already exists"),
            (ApiError::already_exists(CORE, true), 409, "AlreadyExists", "object is being deleted: services \"x\" already exists"),
            (ApiError::modified(CORE), 409, "Conflict", "Operation cannot be fulfilled on services \"x\": the object has been modified; please apply your changes to the latest version and try again"),
            (ApiError::forbidden(CORE, "no"), 403, "Forbidden", "services \"x\" is forbidden: no"),
            (ApiError::internal("boom"), 500, "InternalError", "Internal error occurred: boom"),
            (ApiError::too_old(3, 7), 410, "Expired", "too old resource version: 3 (7)"),
            (ApiError::rev_too_large(9, 7), 504, "Timeout", "Timeout: Too large resource version: 9, current: 7"),
            (ApiError::too_large(3 << 20), 413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728"),
        ];
        for (error, code, reason, message) in cases {
            let status = json(&error);
            assert_eq!(status["code"], code, "{message}");
            assert_eq!(status["reason"], reason, "{message}");
            assert_eq!(status["message"], message);
            assert_eq!(status["status"], "Failure");
        }
    }

    #[test]
    fn invalid_lists_every_cause_and_brackets_several() {
        let one = [FieldError::required("spec.ports", "")];
        let status = json(&ApiError::invalid(CORE, &one));
        assert_eq!(status["message"], "Service \"x\" is invalid: spec.ports: Required value");
        assert_eq!(status["details"]["kind"], "Service");
        assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueRequired");
        let two = [FieldError::required("a", ""), FieldError::invalid("b", "v", "bad")];
        let status = json(&ApiError::invalid(ABOUT, &two));
        assert_eq!(
            status["message"],
            "Deployment.apps \"web\" is invalid: [a: Required value, b: Invalid value: \"v\": bad]"
        );
    }
}
