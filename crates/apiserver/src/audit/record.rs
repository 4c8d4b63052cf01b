//! One request in the log: what is known of it when it comes, what is learned on the way, and how it ends, whichever way
//! that is.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::Audit;
use super::policy::{Decided, Level, Stage};
use crate::auth::{Attributes, Target, UserInfo};
use crate::http::{Body as ResponseBody, user_info};

/// Largest event; of one that is larger the bodies are left out.
const EVENT_MAX: usize = 100 << 10;
const AGENT_MAX: usize = 1024;
/// Longest identifier that a client may give its request.
const ID_MAX: usize = 64;
const ID: &str = "audit-id";

/// Where a request came from, among its extensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// What is known of a request when it comes.
pub(crate) struct Request<'a> {
    pub(crate) uri: &'a http::Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) peer: Option<Peer>,
}

/// A request in the log. Dropped before its end, it says so: the client has gone, or the server has panicked.
pub(crate) struct Record {
    audit: Arc<Audit>,
    event: Map<String, Value>,
    /// Once it is known who asks for what.
    decided: Option<Decided>,
    /// Its answer goes on for as long as both sides want.
    is_long: bool,
    is_over: bool,
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn sources(request: &Request<'_>) -> Vec<String> {
    let header =
        |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let forwarded = header("x-forwarded-for").split(',').chain([header("x-real-ip")]);
    let mut ips: Vec<IpAddr> = Vec::new();
    let said = forwarded.filter_map(|text| text.trim().parse().ok());
    for ip in said.chain(request.peer.map(|Peer(ip)| ip.to_canonical())) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips.iter().map(IpAddr::to_string).collect()
}

impl Record {
    /// A request has come.
    pub(crate) fn begin(audit: &Arc<Audit>, request: &Request<'_>) -> Self {
        let given = request.headers.get(ID).and_then(|value| value.to_str().ok());
        let id = given.filter(|id| !id.is_empty() && id.len() <= ID_MAX).map(str::to_owned);
        let mut event = Map::new();
        let mut put = |key: &str, value: Value| _ = event.insert(key.to_owned(), value);
        put("kind", "Event".into());
        put("apiVersion", "audit.k8s.io/v1".into());
        put("auditID", id.unwrap_or_else(crate::registry::uid).into());
        put("requestURI", request.uri.path_and_query().map_or("/", |path| path.as_str()).into());
        let sources = sources(request);
        if !sources.is_empty() {
            put("sourceIPs", sources.into());
        }
        if let Some(agent) = request.headers.get(USER_AGENT) {
            let agent = String::from_utf8_lossy(agent.as_bytes());
            let cut: String = agent.chars().take(AGENT_MAX).collect();
            let suffix = if cut.len() < agent.len() { "...TRUNCATED" } else { "" };
            put("userAgent", format!("{cut}{suffix}").into());
        }
        put("requestReceivedTimestamp", now().into());
        Self { audit: Arc::clone(audit), event, decided: None, is_long: false, is_over: false }
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.event.insert(key.to_owned(), value.into());
    }

    fn level(&self) -> Level {
        self.decided.as_ref().map_or(Level::None, |decided| decided.level)
    }

    /// It is known who asks, and for what.
    pub(crate) async fn received(
        &mut self,
        user: &UserInfo,
        attributes: &Attributes<'_>,
        version: &str,
        is_long: bool,
    ) {
        self.decide(Some(user), attributes, version);
        self.is_long = is_long;
        self.stage(Stage::RequestReceived).await;
    }

    fn decide(&mut self, user: Option<&UserInfo>, attributes: &Attributes<'_>, version: &str) {
        self.decided = Some(self.audit.policy.of(user, attributes));
        self.set("verb", attributes.verb);
        self.set("user", user.map_or_else(|| json!({}), user_info));
        if let Target::Resource(target) = attributes.target {
            let mut about = Map::new();
            for (key, value) in [
                ("resource", target.resource),
                ("namespace", target.namespace),
                ("name", target.name),
                ("apiGroup", target.group),
                ("apiVersion", version),
                ("subresource", target.subresource),
            ] {
                if !value.is_empty() {
                    about.insert(key.to_owned(), value.into());
                }
            }
            self.set("objectRef", about);
        }
    }

    /// Who asks is somebody else from now on.
    pub(crate) fn acting_as(&mut self, user: &UserInfo) {
        self.set("impersonatedUser", user_info(user));
    }

    /// Whether they may, and why.
    pub(crate) fn authorized(&mut self, allowed: bool, reason: &str) {
        let decision = if allowed { "allow" } else { "forbid" };
        let said = json!({"authorization.k8s.io/decision": decision, "authorization.k8s.io/reason": reason});
        self.set("annotations", said);
    }

    /// What was sent; only asked for where it is wanted.
    pub(crate) fn sent(&mut self, body: impl FnOnce() -> Option<Value>) {
        if self.level() < Level::Metadata || self.decided.as_ref().is_some_and(|decided| decided.secret) {
            return;
        }
        let Some(object) = body() else { return };
        if let Some(Value::Object(about)) = self.event.get_mut("objectRef") {
            for key in ["namespace", "name", "uid", "resourceVersion"] {
                let said = object["metadata"][key].as_str().filter(|said| !said.is_empty());
                if let Some(said) = said.filter(|_| !about.contains_key(key)) {
                    about.insert(key.to_owned(), said.into());
                }
            }
        }
        if self.level() >= Level::Request {
            self.set("requestObject", object);
        }
    }

    /// Whether the body that was sent is to be written down.
    pub(crate) fn wants_body(&self) -> bool {
        self.level() >= Level::Request
    }

    /// It is answered.
    pub(crate) async fn answered(mut self, response: Response<ResponseBody>) -> Response<ResponseBody> {
        let (mut parts, body) = response.into_parts();
        if let Some(id) = self.event["auditID"].as_str().and_then(|id| HeaderValue::from_str(id).ok()) {
            parts.headers.insert(ID, id);
        }
        if self.decided.is_none() {
            // Nobody knows who it was.
            if parts.status == StatusCode::UNAUTHORIZED {
                let path = self.event["requestURI"].as_str().unwrap_or_default().to_owned();
                self.decide(None, &Attributes { verb: "", target: Target::Path(&path) }, "");
                let message = "Authentication failed, attempted: bearer";
                self.set(
                    "responseStatus",
                    json!({"metadata": {}, "status": "Failure", "message": message,
                    "reason": "Unauthorized", "code": 401}),
                );
                self.stage(Stage::ResponseStarted).await;
            }
            self.is_over = true;
            return Response::from_parts(parts, body);
        }
        if self.level() == Level::None {
            self.is_over = true;
            return Response::from_parts(parts, body);
        }
        if self.is_long && parts.status.is_success() || parts.status == StatusCode::SWITCHING_PROTOCOLS {
            self.set("responseStatus", json!({"metadata": {}, "code": parts.status.as_u16()}));
            self.stage(Stage::ResponseStarted).await;
            let followed = Followed { body, _record: self };
            return Response::from_parts(parts, followed.boxed_unsync());
        }
        let is_json = parts
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
        let wanted = is_json && (self.level() >= Level::RequestResponse || !parts.status.is_success());
        let small = body.size_hint().upper().is_some_and(|size| size <= EVENT_MAX as u64);
        let (body, object) = match wanted && small {
            true => match body.collect().await {
                Ok(whole) => {
                    let bytes = whole.to_bytes();
                    let object = serde_json::from_slice(&bytes).ok();
                    (crate::http::whole(bytes), object)
                }
                Err(error) => (crate::http::broken(error), None),
            },
            false => {
                if wanted {
                    self.cut();
                }
                (body, None)
            }
        };
        self.end(parts.status, object).await;
        Response::from_parts(parts, body)
    }

    async fn end(&mut self, code: StatusCode, object: Option<Value>) {
        let mut status = json!({"metadata": {}, "code": code.as_u16()});
        let secret = self.decided.as_ref().is_some_and(|decided| decided.secret);
        if let Some(Value::Object(said)) = object.as_ref().filter(|object| object["kind"] == "Status") {
            // Errors about values show them.
            let shows = secret && !matches!(code.as_u16(), 401 | 403 | 404 | 409);
            for key in ["status", "message", "reason", "details"] {
                if let Some(value) = said.get(key).filter(|_| !shows || matches!(key, "status" | "reason")) {
                    status[key] = value.clone();
                }
            }
        }
        self.set("responseStatus", status);
        if let Some(object) = object.filter(|_| self.level() >= Level::RequestResponse) {
            self.set("responseObject", object);
        }
        self.is_over = true;
        self.stage(Stage::ResponseComplete).await;
    }

    /// Says that something was left out.
    fn cut(&mut self) {
        let annotations = self.event.entry("annotations").or_insert_with(|| json!({}));
        annotations["audit.k8s.io/truncated"] = "true".into();
    }

    async fn stage(&mut self, stage: Stage) {
        if let Some(line) = self.line(stage) {
            self.audit.log.put(line).await;
        }
    }

    /// The event as it is now, unless nobody wants to know.
    fn line(&mut self, stage: Stage) -> Option<Vec<u8>> {
        let decided = self.decided.as_ref()?;
        if decided.level == Level::None || decided.omit.contains(&stage) {
            return None;
        }
        if decided.omit_managed_fields {
            for key in ["requestObject", "responseObject"] {
                if let Some(object) = self.event.get_mut(key) {
                    without_managed_fields(object);
                }
            }
        }
        let level = match self.level() {
            Level::None | Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        };
        self.set("level", level);
        self.set("stage", stage.name());
        let at = match stage {
            Stage::RequestReceived => self.event["requestReceivedTimestamp"].clone(),
            _ => now().into(),
        };
        self.set("stageTimestamp", at);
        let mut line = written(&self.event);
        if line.len() > EVENT_MAX {
            self.event.remove("requestObject");
            self.event.remove("responseObject");
            self.cut();
            line = written(&self.event);
        }
        (line.len() <= EVENT_MAX).then_some(line)
    }
}

/// Fields in the order of Kubernetes.
fn written(event: &Map<String, Value>) -> Vec<u8> {
    const ORDER: [&str; 18] = [
        "kind",
        "apiVersion",
        "level",
        "auditID",
        "stage",
        "requestURI",
        "verb",
        "user",
        "impersonatedUser",
        "sourceIPs",
        "userAgent",
        "objectRef",
        "responseStatus",
        "requestObject",
        "responseObject",
        "requestReceivedTimestamp",
        "stageTimestamp",
        "annotations",
    ];
    let mut line = Vec::with_capacity(1024);
    for (key, value) in ORDER.iter().filter_map(|key| event.get(*key).map(|value| (key, value))) {
        line.extend_from_slice(if line.is_empty() { b"{\"" } else { b",\"" });
        line.extend_from_slice(key.as_bytes());
        line.extend_from_slice(b"\":");
        line.extend_from_slice(value.to_string().as_bytes());
    }
    line.extend_from_slice(b"}\n");
    line
}

fn without_managed_fields(object: &mut Value) {
    let mut strip = |object: &mut Value| {
        if let Some(Value::Object(meta)) = object.get_mut("metadata") {
            meta.remove("managedFields");
        }
    };
    strip(object);
    for (list, inner) in [("items", ""), ("rows", "object")] {
        for item in object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            match inner {
                "" => strip(item),
                inner => item.get_mut(inner).into_iter().for_each(&mut strip),
            }
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let (stage, status) = match std::thread::panicking() {
            true => (
                Stage::Panic,
                json!({"metadata": {}, "status": "Failure", "message": "APIServer panic'd",
                    "reason": "InternalError", "code": 500}),
            ),
            false => (
                Stage::ResponseComplete,
                json!({"metadata": {}, "status": "Success", "message": "Connection closed early", "code": 200}),
            ),
        };
        if !self.event.contains_key("responseStatus") || stage == Stage::Panic {
            self.set("responseStatus", status);
        }
        if let Some(line) = self.line(stage) {
            self.audit.log.put_now(line);
        }
    }
}

/// An answer that goes on; its end is that of the request.
struct Followed {
    body: ResponseBody,
    _record: Record,
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
