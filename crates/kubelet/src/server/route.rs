//! From a request to whoever answers it.

use std::sync::Arc;

use http::header::{ALLOW, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::auth::{self, Refusal};
use super::{Body, exec, figures, files, forward, json, logs, text};
use crate::config::Caller;
use crate::seen;
use crate::worker::Shared;

/// Parameters of a query string, decoded.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value, `""` if there is none.
    pub(super) fn get(&self, key: &str) -> &str {
        self.all(key).next().unwrap_or_default()
    }

    pub(super) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// Undoes percent encoding; what is none stays as it is.
pub(super) fn decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        rest = after;
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            (b'+', ..) => bytes.push(b' '),
            _ => bytes.push(first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Answers; what goes wrong is in the answer.
pub(super) async fn answer(
    shared: Arc<Shared>,
    caller: Option<Arc<Caller>>,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let caller = auth::caller(&shared, caller, request.headers()).await;
    match auth::check(&shared, caller.as_deref(), request.method(), &path).await {
        Ok(()) => {}
        Err(Refusal::Unauthorized) => {
            let mut response = text(StatusCode::UNAUTHORIZED, "Unauthorized");
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return response;
        }
        Err(Refusal::Forbidden(why)) => return text(StatusCode::FORBIDDEN, why),
    }
    let parts: Vec<String> = path.trim_matches('/').split('/').map(decode).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let streams = matches!(*request.method(), Method::GET | Method::POST);
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match *parts.as_slice() {
        ["exec" | "attach" | "portForward", ..] if !streams => not_allowed("GET, POST"),
        ["exec", namespace, pod, ref rest @ .., container] if rest.len() < 2 => {
            let place = Place { namespace, pod, uid: rest.first().copied().unwrap_or_default(), container };
            exec::exec(&shared, &place, &query, request)
        }
        ["attach", namespace, pod, ref rest @ .., container] if rest.len() < 2 => {
            let place = Place { namespace, pod, uid: rest.first().copied().unwrap_or_default(), container };
            exec::attach(&shared, &place, &query, request)
        }
        ["portForward", namespace, pod, ref rest @ ..] if rest.len() < 2 => {
            let uid = rest.first().copied().unwrap_or_default();
            forward::forward(&shared, &Place { namespace, pod, uid, container: "" }, &query, request)
        }
        _ if !reads => not_allowed("GET"),
        ["containerLogs", namespace, pod, container] => {
            logs::logs(&shared, &Place { namespace, pod, uid: "", container }, &query).await
        }
        ["healthz"] | ["healthz", "ping" | "syncloop"] => text(StatusCode::OK, "ok"),
        ["pods"] => pods(shared.seen.all().iter().map(|pod| &**pod)),
        ["runningpods"] => {
            let all = shared.seen.all();
            let runs = |pod: &&Pod| {
                pod.spec.iter().flat_map(|spec| &spec.containers).any(|one| seen::is_running(pod, &one.name))
            };
            pods(all.iter().map(|pod| &**pod).filter(runs))
        }
        ["stats", "summary"] => figures::summary(&shared).await,
        ["metrics"] => figures::metrics(&shared),
        ["metrics", "resource"] => figures::resource_metrics(&shared).await,
        ["logs", ref below @ ..] => files::file(&shared, below, path.ends_with('/')).await,
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn pods<'a>(pods: impl Iterator<Item = &'a Pod>) -> Response<Body> {
    let items: Vec<&Pod> = pods.collect();
    json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// A container of a pod; the uid may be empty.
pub(super) struct Place<'a> {
    pub(super) namespace: &'a str,
    pub(super) pod: &'a str,
    pub(super) uid: &'a str,
    pub(super) container: &'a str,
}

impl Place<'_> {
    /// The pod, if it is here and is the one that is meant.
    pub(super) fn find(&self, shared: &Shared) -> Option<Arc<Pod>> {
        let pod = shared.seen.find(self.namespace, self.pod)?;
        (self.uid.is_empty() || pod.metadata.uid.as_deref() == Some(self.uid)).then_some(pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%26b&tty=1&x=%zz");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo a&b"]);
        assert_eq!((query.get("tty"), query.get("x"), query.get("none")), ("1", "%zz", ""));
    }
}
