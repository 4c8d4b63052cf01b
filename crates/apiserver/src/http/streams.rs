//! `pods/log`, `exec`, `attach` and `portforward`: what the API knows of them, which is where they are (J55).

use dyad_model::FieldError;
use futures::StreamExt;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyStream;
use hyper::body::Incoming;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

use super::query::Query;
use super::relay::{self, Relayed, Vigil};
use super::respond::{self, Body};
use super::routes::{Api, Call, Input};
use crate::auth::{Attributes, Target};
use crate::reach::{Peer, Scheme};
use crate::registry::Scope;
use crate::status::{About, ApiError};

/// Where kubelets listen that do not say.
const KUBELET_PORT: u16 = 10250;
/// Addresses of nodes, in the order in which they are tried.
const ADDRESS_TYPES: [&str; 2] = ["InternalIP", "ExternalIP"];
/// Most bytes of an error that are read.
const ERROR_BYTES: usize = 50_000;
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Text that goes into a query as it is, in a form that it can.
pub(crate) fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") })
        .collect()
}

fn query_of(pairs: &[(&str, String)]) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={}", encode(value))).collect::<Vec<_>>().join("&")
}

/// A text in an object, `""` if there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

impl Api {
    /// An object of the core group, `None` if it is not there.
    pub(crate) fn core_object(&self, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let resource = &self.registry.builtin_served("", plural).resource;
        resource.cache.get(&resource.cache_key(namespace, name)).map(|stored| stored.value())
    }

    /// Where the kubelet of a node is.
    pub(crate) fn kubelet(&self, node: &str) -> Result<Peer, ApiError> {
        let object = self.core_object("nodes", "", node).ok_or_else(|| {
            ApiError::not_found(About { group: "", resource: "nodes", kind: "Node", name: node })
        })?;
        let port = object.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
        let port =
            port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).unwrap_or(KUBELET_PORT);
        let of_type = |wanted: &'static str| {
            let addresses =
                list(&object, "/status/addresses").filter(move |one| text(one, "/type") == wanted);
            addresses.filter_map(|one| text(one, "/address").parse::<IpAddr>().ok())
        };
        let at: Vec<SocketAddr> =
            ADDRESS_TYPES.into_iter().flat_map(of_type).map(|ip| SocketAddr::new(ip, port)).collect();
        if at.is_empty() {
            let known: Vec<String> = list(&object, "/status/addresses").map(Value::to_string).collect();
            let known = known.join(" ");
            return Err(ApiError::unknown(format!(
                "no preferred addresses found; known addresses: [{known}]"
            )));
        }
        Ok(Peer { scheme: Scheme::Kubelet, at })
    }

    /// Streams of a pod.
    pub(super) async fn stream(
        &self,
        call: &Call<'_>,
        scope: Scope<'_>,
        input: Input,
    ) -> Result<Response<Body>, ApiError> {
        if scope.subresource == "log" {
            return self.log(call, scope).await;
        }
        // Who may only read pods may not do anything in them, be it that a WebSocket begins with a GET.
        if scope.verb != "create" {
            let Target::Resource(target) = scope.attributes().target else {
                return Err(ApiError::no_such_path());
            };
            self.authorize(scope.user, &Attributes { verb: "create", target: Target::Resource(target) })?;
        }
        let pod = self.registry.get(scope, None).await?.value();
        let query = &call.query;
        let container = match scope.subresource {
            "portforward" => String::new(),
            _ => container(&pod, query.get("container"))?,
        };
        let node = text(&pod, "/spec/nodeName");
        if node.is_empty() {
            let name = scope.name;
            return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
        }
        let kubelet = self.kubelet(node)?;
        let (namespace, name) = (scope.namespace, scope.name);
        let target = match scope.subresource {
            "portforward" => {
                let ports: Vec<&str> = query.all("ports").collect();
                let pairs = if ports.is_empty() { Vec::new() } else { vec![("port", ports.join(","))] };
                format!("/portForward/{namespace}/{name}?{}", query_of(&pairs))
            }
            what => {
                let pairs = query_of(&command_parameters(query, what == "exec"));
                format!("/{what}/{namespace}/{name}/{container}?{pairs}")
            }
        };
        if !relay::wants_upgrade(call.headers) {
            return Err(ApiError::bad_request("Upgrade request required"));
        }
        let relayed = Relayed {
            method: call.method.clone(),
            target,
            headers: call.headers.clone(),
            body: relay::empty(),
            upgrade: input.upgrade,
        };
        let vigil = Vigil::new(&self.reach, &kubelet);
        relay::upgrade(&self.reach, &kubelet, relayed, Some(vigil)).await
    }

    async fn log(&self, call: &Call<'_>, scope: Scope<'_>) -> Result<Response<Body>, ApiError> {
        let query = &call.query;
        let parameters = log_parameters(query, scope.name)?;
        let pod = self.registry.get(scope, None).await?.value();
        let container = container(&pod, query.get("container"))?;
        let node = text(&pod, "/spec/nodeName");
        if node.is_empty() {
            return Ok(respond::full(StatusCode::OK, "text/plain", ""));
        }
        let mut kubelet = self.kubelet(node)?;
        if query.flag("insecureSkipTLSVerifyBackend") {
            kubelet.scheme = Scheme::Https;
        }
        let path = format!("/containerLogs/{}/{}/{container}", scope.namespace, scope.name);
        let target = format!("{path}?{}", query_of(&parameters));
        let relayed = Relayed {
            method: Method::GET,
            target: target.clone(),
            headers: http::HeaderMap::new(),
            body: relay::empty(),
            upgrade: None,
        };
        let answered = relay::ask_kubelet(&self.reach, &kubelet, relayed).await;
        let answered = answered
            .map_err(|why| ApiError::unknown(format!("Get \"https://{}{target}\": {why}", kubelet.host())))?;
        if !(200..=206).contains(&answered.status().as_u16()) {
            return Err(refused(answered, scope).await);
        }
        let mut response =
            Response::new(relay::body(answered.into_body(), Some(Vigil::new(&self.reach, &kubelet))));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Ok(response)
    }
}

/// What a kubelet's refusal is to the client.
async fn refused(answered: Response<Incoming>, scope: Scope<'_>) -> ApiError {
    let code = answered.status();
    let mut text = Vec::new();
    let mut frames = BodyStream::new(answered.into_body());
    while let Ok(Some(Ok(frame))) =
        tokio::time::timeout(std::time::Duration::from_secs(10), frames.next()).await
    {
        text.extend_from_slice(frame.data_ref().map(|data| &**data).unwrap_or_default());
        if text.len() >= ERROR_BYTES {
            break;
        }
    }
    text.truncate(ERROR_BYTES);
    let text = String::from_utf8_lossy(&text).into_owned();
    match code {
        StatusCode::INTERNAL_SERVER_ERROR => ApiError::internal(text),
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        code => ApiError::of_backend(code, &format!("pods/{}", scope.subresource), scope.name, &text),
    }
}

/// The container that is meant: the one that is named, or the only one.
fn container(pod: &Value, named: &str) -> Result<String, ApiError> {
    let name = text(pod, "/metadata/name");
    let names = |field: &str| {
        list(pod, &format!("/spec/{field}")).map(|one| text(one, "/name").to_owned()).collect::<Vec<_>>()
    };
    if !named.is_empty() {
        return match CONTAINER_LISTS.iter().any(|field| names(field).iter().any(|known| known == named)) {
            true => Ok(named.to_owned()),
            false => Err(ApiError::bad_request(format!("container {named} is not valid for pod {name}"))),
        };
    }
    let mut own = names("containers");
    match own.len() {
        0 => Err(ApiError::bad_request(format!("a container name must be specified for pod {name}"))),
        1 => Ok(own.remove(0)),
        _ => {
            let all: Vec<String> = CONTAINER_LISTS.iter().flat_map(|field| names(field)).collect();
            let all = all.join(" ");
            Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{all}]"
            )))
        }
    }
}

/// What a kubelet calls the options of a command.
fn command_parameters(query: &Query, has_command: bool) -> Vec<(&'static str, String)> {
    let given = |name: &str| query.all(name).next().is_some();
    // Who asks for no output at all wants both.
    let neither = !given("stdout") && !given("stderr");
    let wanted = [
        ("input", query.flag("stdin")),
        ("output", neither || query.flag("stdout")),
        ("error", neither || query.flag("stderr")),
        ("tty", query.flag("tty")),
    ];
    let mut pairs: Vec<_> =
        wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| (name, "1".to_owned())).collect();
    if has_command {
        pairs.extend(query.all("command").map(|word| ("command", word.to_owned())));
    }
    pairs
}

/// What of a log is wanted, checked and in the words of kubelets.
fn log_parameters(query: &Query, name: &str) -> Result<Vec<(&'static str, String)>, ApiError> {
    let (tail, limit, seconds) =
        (query.number("tailLines")?, query.number("limitBytes")?, query.number("sinceSeconds")?);
    let (time, stream) = (query.get("sinceTime"), query.get("stream"));
    let stream = if stream.is_empty() { "All" } else { stream };
    let positive = "must be greater than 0";
    let mut errors = Vec::new();
    if let Some(tail) = tail.filter(|tail| *tail < 0) {
        errors.push(FieldError::invalid("tailLines", tail, "must be greater than or equal to 0"));
    }
    if let Some(limit) = limit.filter(|limit| *limit < 1) {
        errors.push(FieldError::invalid("limitBytes", limit, positive));
    }
    match seconds {
        Some(_) if !time.is_empty() => {
            let text = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.push(FieldError::forbidden("", text));
        }
        Some(seconds) if seconds < 1 => errors.push(FieldError::invalid("sinceSeconds", seconds, positive)),
        _ => {}
    }
    if !matches!(stream, "All" | "Stdout" | "Stderr") {
        errors.push(FieldError::not_supported("stream", stream, &["All", "Stderr", "Stdout"]));
    }
    if stream != "All" && tail.is_some() {
        let text = "`tailLines` and specific `stream` are mutually exclusive for now";
        errors.push(FieldError::forbidden("", text));
    }
    if !errors.is_empty() {
        let about = About { group: "", resource: "pods/log", kind: "PodLogOptions", name };
        return Err(ApiError::invalid(about, &errors));
    }
    if !time.is_empty() && time.parse::<jiff::Timestamp>().is_err() {
        let layout = "\"2006-01-02T15:04:05Z07:00\"";
        return Err(ApiError::bad_request(format!(
            "parsing time {time:?} as {layout}: cannot parse {time:?} as \"2006\""
        )));
    }
    let flag = |name: &'static str| query.flag(name).then(|| (name, "true".to_owned()));
    let number = |name: &'static str, value: Option<i64>| value.map(|value| (name, value.to_string()));
    let pairs = [
        flag("follow"),
        flag("previous"),
        flag("timestamps"),
        number("sinceSeconds", seconds),
        (!time.is_empty()).then(|| ("sinceTime", time.to_owned())),
        number("tailLines", tail),
        number("limitBytes", limit),
        Some(("stream", stream.to_owned())),
    ];
    Ok(pairs.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(error: &ApiError) -> String {
        let status: Value = serde_json::from_slice(&error.to_json()).unwrap();
        text(&status, "/message").to_owned()
    }

    #[test]
    fn j55_the_container_is_the_named_or_the_only_one() {
        let pod = |names: &[&str]| {
            let list: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"metadata": {"name": "p"}, "spec": {"containers": list, "initContainers": [{"name": "i"}]}})
        };
        assert_eq!(container(&pod(&["a"]), "").unwrap(), "a");
        assert_eq!(container(&pod(&["a", "b"]), "i").unwrap(), "i");
        let error = container(&pod(&["a", "b"]), "").unwrap_err();
        assert_eq!(message(&error), "a container name must be specified for pod p, choose one of: [i a b]");
        let error = container(&pod(&["a"]), "x").unwrap_err();
        assert_eq!(message(&error), "container x is not valid for pod p");
    }

    #[test]
    fn j55_options_are_checked_and_in_a_kubelets_words() {
        let read = |text: &str| log_parameters(&Query::parse(text), "p");
        assert_eq!(
            query_of(&read("follow=true&tailLines=3&sinceTime=2026-01-02T03:04:05Z").unwrap()),
            "follow=true&sinceTime=2026-01-02T03%3A04%3A05Z&tailLines=3&stream=All"
        );
        for (query, code, want) in [
            (
                "tailLines=-1",
                422,
                "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "limitBytes=0",
                422,
                "PodLogOptions \"p\" is invalid: limitBytes: Invalid value: 0: must be greater than 0",
            ),
            ("tailLines=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ] {
            let error = read(query).unwrap_err();
            assert_eq!((error.code().as_u16(), message(&error).as_str()), (code, want));
        }
        let command = command_parameters(
            &Query::parse("stdin=true&tty=true&stdout=true&command=a&command=b%20c"),
            true,
        );
        assert_eq!(query_of(&command), "input=1&output=1&tty=1&command=a&command=b%20c");
    }
}
