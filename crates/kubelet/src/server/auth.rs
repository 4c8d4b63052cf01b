//! Who may ask a node for what (J60, J62): members of `system:masters` for everything, whoever else the API lets. Who has no
//! certificate is who the API says the bearer of his token is.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use std::time::Duration;

use crate::config::Caller;
use crate::worker::Shared;

const MASTERS: &str = "system:masters";
/// How long the API may think about it.
const REVIEW_MAX: Duration = Duration::from_secs(10);

/// Why not.
pub(super) enum Refusal {
    /// Nobody is known.
    Unauthorized,
    /// Somebody is, but may not.
    Forbidden(String),
}

/// Who asks: whoever his certificate names, or else the bearer of a token.
pub(super) async fn caller(
    shared: &Shared,
    certified: Option<Arc<Caller>>,
    headers: &HeaderMap,
) -> Option<Arc<Caller>> {
    match (certified, bearer(headers)) {
        (Some(caller), _) => Some(caller),
        (None, Some(token)) => bearer_of(shared, token).await.map(Arc::new),
        (None, None) => None,
    }
}

/// The token of a request (RFC 6750, 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

async fn bearer_of(shared: &Shared, token: &str) -> Option<Caller> {
    let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
    let review = TokenReview { spec, ..TokenReview::default() };
    let api: Api<TokenReview> = Api::all(shared.client.clone());
    let answered = tokio::time::timeout(REVIEW_MAX, api.create(&PostParams::default(), &review)).await;
    // Nobody is known while the API can't be asked.
    let status = answered.ok()?.ok()?.status.filter(|status| status.authenticated == Some(true))?;
    let user = status.user?;
    Some(Caller { name: user.username?, groups: user.groups.unwrap_or_default() })
}

/// Lets a caller pass, or says why not.
pub(super) async fn check(
    shared: &Shared,
    caller: Option<&Caller>,
    method: &Method,
    path: &str,
) -> Result<(), Refusal> {
    let Some(caller) = caller else { return Err(Refusal::Unauthorized) };
    if caller.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    let (verb, parts) = (verb(method), subresources(path));
    let mut why = String::new();
    for part in &parts {
        match review(shared, caller, verb, part).await {
            Ok(()) => return Ok(()),
            Err(reason) => why = reason,
        }
    }
    let node = &shared.config.node_name;
    let why = if why.is_empty() { why } else { format!(": {why}") };
    Err(Refusal::Forbidden(format!(
        "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}]), node {node}{why}",
        caller.name,
        parts.join(" ")
    )))
}

async fn review(shared: &Shared, caller: &Caller, verb: &str, part: &str) -> Result<(), String> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(caller.name.clone()),
            groups: Some(caller.groups.clone()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.to_owned()),
                version: Some("v1".to_owned()),
                resource: Some("nodes".to_owned()),
                subresource: Some(part.to_owned()),
                name: Some(shared.config.node_name.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(shared.client.clone());
    let params = PostParams::default();
    match tokio::time::timeout(REVIEW_MAX, api.create(&params, &review)).await {
        Ok(Ok(SubjectAccessReview { status: Some(status), .. })) if status.allowed => Ok(()),
        Ok(Ok(answer)) => Err(answer.status.and_then(|status| status.reason).unwrap_or_default()),
        Ok(Err(error)) => Err(format!("the API can't be asked: {error}")),
        Err(_) => Err("the API did not answer in time".into()),
    }
}

/// The verb as authorizers know it.
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// What of the node a path asks for; one of them suffices.
fn subresources(path: &str) -> Vec<&'static str> {
    let below =
        |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    let fine = [("/pods", "pods"), ("/healthz", "healthz"), ("/runningpods", "pods")];
    let own = [("/stats", "stats"), ("/metrics", "metrics"), ("/logs", "log")];
    if let Some((_, part)) = own.iter().find(|(root, _)| below(root)) {
        return vec![*part];
    }
    let mut parts: Vec<_> = fine.iter().filter(|(root, _)| below(root)).map(|(_, part)| *part).collect();
    parts.push("proxy");
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_those_of_bearers() {
        for (value, want) in [
            ("Bearer a.b.c", Some("a.b.c")),
            ("bearer  x ", Some("x")),
            ("Bearer ", None),
            ("Bearer", None),
            ("Basic eDp5", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            assert_eq!(bearer(&headers), want, "{value:?}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn paths_are_parts_of_the_node() {
        for (path, want) in [
            ("/pods", &["pods", "proxy"][..]),
            ("/healthz/ping", &["healthz", "proxy"]),
            ("/runningpods/", &["pods", "proxy"]),
            ("/metrics/resource", &["metrics"]),
            ("/stats/summary", &["stats"]),
            ("/logs/", &["log"]),
            ("/logsx", &["proxy"]),
            ("/exec/default/p/c", &["proxy"]),
        ] {
            assert_eq!(subresources(path), want, "{path}");
        }
    }
}
