//! From a request to an answer: who asks, may they, for what, and in which form.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use dyad_model::selector::FieldSelector;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::upgrade::OnUpgrade;

use super::flow::{Flow, Held, Place};
use super::metrics::{Metrics, Observation};
use super::negotiate::{self};
use super::paced::pace;
use super::path::{Path, ResourcePath};
use super::query::Query;
use super::respond::{self, Body as ResponseBody};
use super::{discovery, figures, health, openapi, openid, path};
use crate::audit::{Audit, Record, Request as AuditRequest};
use crate::auth::{self, Attributes, Authorizer, ResourceTarget, Target, UserInfo};
use crate::reach::Reach;
use crate::registry::{Body, Media, Registry, Scope, Write, WriteOptions};
use crate::status::ApiError;

mod objects;

/// The body of a request, whoever sent it.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, String>;

/// What comes with a request besides its head.
pub(super) struct Input {
    pub(super) body: RequestBody,
    /// The client's connection, for requests that go on with something else than HTTP.
    pub(super) upgrade: Option<OnUpgrade>,
}

/// Subresources that are connections to somewhere else.
const CONNECTIONS: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// Largest body of a request (J16).
const BODY_MAX: usize = 3 << 20;

/// Longest wait for a body: as long as Kubernetes gives a request.
const BODY_WAIT: Duration = Duration::from_secs(60);
/// Room that is taken at once for a body of which nobody says how long it is.
const BODY_STEP: usize = 64 << 10;

/// Everything a request needs.
pub(crate) struct Api {
    pub(crate) registry: Arc<Registry>,
    pub(crate) metrics: Metrics,
    flow: Flow,
    pub(crate) health: health::Health,
    pub(crate) discovery: discovery::Discovery,
    pub(crate) openapi: openapi::OpenApi,
    openid: openid::Documents,
    pub(crate) reach: Reach,
    audit: Option<Arc<Audit>>,
}

/// The API as a function from requests to answers, for one user: what a client in this process talks to.
///
/// It is cheap to clone.
#[derive(Clone)]
pub struct Service {
    api: Arc<Api>,
    user: Arc<UserInfo>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("user", &self.user.name).finish_non_exhaustive()
    }
}

impl Service {
    pub(crate) fn new(api: Arc<Api>, user: UserInfo) -> Self {
        Self { api, user: Arc::new(user) }
    }

    /// Answers a request. Never fails: what goes wrong is in the answer.
    pub async fn call<B>(&self, request: Request<B>) -> Response<ResponseBody>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        self.api.answer(request, Some(&self.user)).await
    }
}

/// What is noted while a request is answered.
struct Notes<'a> {
    observation: &'a mut Observation,
    warnings: &'a mut Vec<String>,
    place: &'a mut Option<Place>,
    audit: &'a mut Option<Record>,
}

/// A request taken apart.
pub(super) struct Call<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    /// The query as it was sent.
    pub(super) raw_query: Option<&'a str>,
    pub(super) query: Query,
    pub(super) headers: &'a HeaderMap,
    pub(super) accept: &'a str,
}

impl Call<'_> {
    pub(super) fn options(&self, write: Write) -> Result<WriteOptions, ApiError> {
        let agent = self.headers.get(USER_AGENT).map(|agent| String::from_utf8_lossy(agent.as_bytes()));
        WriteOptions::parse(&self.query, write, &agent.unwrap_or_default())
    }
}

impl Api {
    /// `servers` is where it can be reached.
    pub(crate) fn new(
        registry: Arc<Registry>,
        reach: Reach,
        servers: &[SocketAddr],
        audit: Option<Arc<Audit>>,
    ) -> Self {
        let openid = openid::Documents::new(registry.token_key.as_deref(), servers);
        Self {
            registry,
            metrics: Metrics::default(),
            flow: Flow::default(),
            health: health::Health::default(),
            discovery: discovery::Discovery::new(servers),
            openapi: openapi::OpenApi::default(),
            openid,
            reach,
            audit,
        }
    }

    /// Answers a request of `peer`, the user whom the connection stands for.
    pub(crate) async fn answer<B>(
        &self,
        request: Request<B>,
        peer: Option<&UserInfo>,
    ) -> Response<ResponseBody>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        let began = Instant::now();
        let (mut parts, body) = request.into_parts();
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let input = Input { body: body.map_err(|error| error.to_string()).boxed_unsync(), upgrade };
        let call = Call {
            method: &parts.method,
            path: parts.uri.path(),
            raw_query: parts.uri.query(),
            query: Query::parse(parts.uri.query().unwrap_or_default()),
            headers: &parts.headers,
            accept: parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default(),
        };
        let mut audit = self.audit.as_ref().map(|audit| {
            let peer = parts.extensions.get().copied();
            Record::begin(audit, &AuditRequest { uri: &parts.uri, headers: &parts.headers, peer })
        });
        let mut observation = Observation::new(call.method);
        let mut warnings = Vec::new();
        let mut place = None;
        let mut notes = Notes {
            observation: &mut observation,
            warnings: &mut warnings,
            place: &mut place,
            audit: &mut audit,
        };
        let result = self.dispatch(&call, input, peer, &mut notes).await;
        let mut response =
            result.unwrap_or_else(|error| respond::error(negotiate::error(call.accept), &error));
        respond::warn(&mut response, &warnings);
        self.metrics.observe(&observation, response.status(), began.elapsed());
        if let Some(audit) = audit {
            response = audit.answered(response).await;
        }
        let response = respond::compress(call.headers, response).await;
        let Some(place) = place else { return response };
        let paced = pace(response, &place).await;
        paced.unwrap_or_else(|error| respond::error(negotiate::error(call.accept), &error))
    }

    async fn dispatch(
        &self,
        call: &Call<'_>,
        input: Input,
        peer: Option<&UserInfo>,
        notes: &mut Notes<'_>,
    ) -> Result<Response<ResponseBody>, ApiError> {
        let asker = auth::authenticate(peer, call.headers, |token| self.known(token))?;
        match path::parse(call.path) {
            Path::Other => {
                let verb = call.method.as_str().to_ascii_lowercase();
                let attributes = Attributes { verb: &verb, target: Target::Path(call.path) };
                self.admit(call, &asker, &attributes, "", notes.audit).await?;
                self.other(call)
            }
            Path::Resource(path) => {
                let verb = verb(call.method, &path, &call.query)?;
                notes.observation.name(&path, verb);
                let selected = selected(&path, verb, &call.query);
                let required = |field| selected.required(field).unwrap_or_default();
                let one = if verb == "deletecollection" { "" } else { required("metadata.name") };
                let target = ResourceTarget {
                    group: &path.group,
                    resource: &path.plural,
                    subresource: &path.subresource,
                    namespace: if path.plural == "namespaces" { &path.name } else { &path.namespace },
                    name: if path.name.is_empty() { one } else { &path.name },
                    node: if path.watch { "" } else { required("spec.nodeName") },
                };
                let attributes = Attributes { verb, target: Target::Resource(target) };
                let user = self.admit(call, &asker, &attributes, &path.version, notes.audit).await?;
                if path.group == figures::GROUP {
                    return self.figures(call, &path, verb).await;
                }
                let served = self.registry.served(&path.group, &path.version, &path.plural);
                let served = &served.ok_or_else(ApiError::no_such_path)?;
                // A cluster-scoped kind is in no namespace, and an object of the other sort is in one.
                let misplaced = if served.row.namespaced {
                    path.namespace.is_empty() && !path.name.is_empty()
                } else {
                    !path.namespace.is_empty()
                };
                if misplaced {
                    return Err(ApiError::no_such_path());
                }
                let scope = Scope {
                    served,
                    namespace: &path.namespace,
                    name: &path.name,
                    subresource: &path.subresource,
                    user: &user,
                    verb,
                };
                if CONNECTIONS.contains(&scope.subresource)
                    && let Some(part) = served.row.subresource(scope.subresource)
                {
                    // What a proxy's methods mean is the business of whoever is behind it.
                    if scope.subresource == "proxy" {
                        return self.proxy(call, scope, input).await;
                    }
                    return match part.verbs.contains(&scope.verb) {
                        true => self.stream(call, scope, input).await,
                        false => Err(ApiError::method_not_routed()),
                    };
                }
                let place = notes.place.insert(self.flow.enter(&asker).await?);
                // Its memory is counted until the request is done with.
                let (body, _room) = tokio::time::timeout(BODY_WAIT, read_body(call, input.body, place))
                    .await
                    .map_err(|_| ApiError::request_timeout())??;
                let _turn = place.turn().await?;
                if let Some(audit) = notes.audit {
                    let wanted = audit.wants_body();
                    audit.sent(|| body.shown(served, scope, wanted));
                }
                self.resource(call, served, scope, &body, notes.warnings).await
            }
        }
    }

    /// Who the request is made as, if they may make it; what is known of it so far goes into the audit log.
    async fn admit(
        &self,
        call: &Call<'_>,
        asker: &UserInfo,
        attributes: &Attributes<'_>,
        version: &str,
        audit: &mut Option<Record>,
    ) -> Result<UserInfo, ApiError> {
        if let Some(audit) = audit {
            let is_long = attributes.verb == "watch"
                || matches!(attributes.target, Target::Resource(target) if CONNECTIONS.contains(&target.subresource));
            audit.received(asker, attributes, version, is_long).await;
        }
        let user = auth::impersonate(asker.clone(), call.headers, &*self.registry)?;
        if let Some(audit) = audit {
            if user != *asker {
                audit.acting_as(&user);
            }
            let (allowed, reason) = self.registry.verdict(&user, attributes);
            audit.authorized(allowed, &reason);
        }
        self.authorize(&user, attributes)?;
        Ok(user)
    }

    /// Who shows this token to this server.
    fn known(&self, token: &str) -> Option<UserInfo> {
        match self.registry.bearer(token, &[]) {
            Ok(bearer) => bearer.map(|bearer| bearer.user),
            Err(why) => {
                tracing::debug!(why, "a token is refused");
                None
            }
        }
    }

    pub(super) fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        self.registry.authorize(user, attributes).refusal(user, attributes).map_or(Ok(()), Err)
    }

    /// Paths that are no resources.
    fn other(&self, call: &Call<'_>) -> Result<Response<ResponseBody>, ApiError> {
        if !matches!(*call.method, Method::GET | Method::HEAD) {
            return Err(ApiError::no_such_path());
        }
        let path = call.path.trim_end_matches('/');
        if let Some(answer) = self.health.answer(path, &call.query, &self.registry) {
            return Ok(answer);
        }
        if path.starts_with("/openapi/") {
            let documents = self.openapi.now(&self.registry.custom());
            if let Some(answer) = documents.answer(path, call.accept, call.headers)? {
                return Ok(answer);
            }
        }
        if let Some(answer) = self.openid.answer(path) {
            return Ok(answer);
        }
        if path == "/metrics" {
            let lost = self.audit.as_ref().map(|audit| audit.lost());
            return Ok(self.metrics.answer(&self.registry, lost));
        }
        let discovery = self.discovery.now(&self.registry.custom());
        discovery.answer(path, call.accept, call.headers)?.ok_or_else(ApiError::no_such_path)
    }
}

/// The verb as authorizers and discovery know it.
fn verb(method: &Method, place: &ResourcePath, query: &Query) -> Result<&'static str, ApiError> {
    let named = !place.name.is_empty();
    let watch = place.watch || (place.subresource.is_empty() && query.flag("watch"));
    Ok(match *method {
        Method::GET | Method::HEAD if watch => "watch",
        Method::GET | Method::HEAD if named => "get",
        Method::GET | Method::HEAD => "list",
        Method::POST if !named || !place.subresource.is_empty() => "create",
        Method::PUT if named => "update",
        Method::PATCH if named => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        // Authorizers know no word for it.
        Method::OPTIONS if place.subresource == "proxy" => "",
        _ => return Err(ApiError::method_not_routed()),
    })
}

/// What a request for many objects selects by fields, for the authorizer.
fn selected(place: &ResourcePath, verb: &str, query: &Query) -> FieldSelector {
    let many = place.name.is_empty() && matches!(verb, "list" | "watch" | "deletecollection");
    FieldSelector::parse(if many { query.get("fieldSelector") } else { "" }).unwrap_or_default()
}

/// Reads the body of a request, up to the limit, and has room for it.
async fn read_body<B>(call: &Call<'_>, body: B, place: &Place) -> Result<(Body, Vec<Held>), ApiError>
where
    B: http_body::Body,
    B::Error: std::fmt::Display,
{
    let content_type =
        call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = Media::from_content_type(content_type);
    let announced = call.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > BODY_MAX) {
        return Err(ApiError::too_large(BODY_MAX));
    }
    let mut bytes = BytesMut::new();
    let (mut room, mut granted) = (Vec::new(), 0);
    let mut body = std::pin::pin!(body);
    while let Some(frame) = body.as_mut().frame().await {
        let frame = frame.map_err(|error| ApiError::bad_request(format!("can't read the body: {error}")))?;
        if let Ok(data) = frame.into_data() {
            let length = bytes.len() + data.remaining();
            if length > BODY_MAX {
                return Err(ApiError::too_large(BODY_MAX));
            }
            if length > granted {
                // What was announced, or as it comes.
                let more = announced.unwrap_or(0).max(length + BODY_STEP) - granted;
                room.push(place.room(more).await?);
                granted += more;
            }
            bytes::BufMut::put(&mut bytes, data);
        }
    }
    Ok((Body { media, bytes: Bytes::from(bytes) }, room))
}
