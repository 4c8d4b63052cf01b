//! Requests that are handed on: to kubelets, pods and endpoints, with their bodies and upgrades.
//!
//! Whatever was opened is not trusted to end by itself: a [`Vigil`] asks a silent kubelet every now and then whether it
//! still lives, and cuts the stream if it does not say so.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::RequestBody;
use super::respond::{self, Body};
use crate::reach::{Peer, Reach};
use crate::status::ApiError;

/// Longest wait for a kubelet to begin to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a stream may be silent before its kubelet is asked.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How often in a row it may leave that unanswered.
const CHANCES: u32 = 2;
/// Longest wait for an answer to that.
const PROBE_MAX: Duration = Duration::from_secs(10);
/// Headers that are of one connection only (RFC 9110, 7.6.1), and those that say who asks.
const OWN_HEADERS: [HeaderName; 8] = [
    CONNECTION,
    UPGRADE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    HOST,
    AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
];

/// A request to be handed on.
pub(crate) struct Relayed {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: RequestBody,
    /// The client's connection, if it wants to go on with something else than HTTP.
    pub(crate) upgrade: Option<OnUpgrade>,
}

/// A body without anything in it.
pub(crate) fn empty() -> RequestBody {
    Empty::new().map_err(|impossible| match impossible {}).boxed_unsync()
}

/// Whether a request wants to go on with something else than HTTP.
pub(crate) fn wants_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    connection.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

/// Headers of another's request or answer, without what is of that connection only.
fn handed_on(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|word| word.trim().to_ascii_lowercase())
        .collect();
    let own = |name: &HeaderName| {
        OWN_HEADERS.contains(name)
            || name.as_str().starts_with("impersonate-")
            || named.iter().any(|own| own == name.as_str())
    };
    headers.iter().filter(|(name, _)| !own(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn request(peer: &Peer, relayed: &mut Relayed, upgrades: bool) -> Result<Request<RequestBody>, String> {
    let mut headers = handed_on(&relayed.headers);
    if upgrades {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        for value in relayed.headers.get_all(UPGRADE) {
            headers.append(UPGRADE, value.clone());
        }
    }
    let host = HeaderValue::from_str(&peer.host()).map_err(|error| error.to_string())?;
    headers.insert(HOST, relayed.headers.get(HOST).filter(|_| !upgrades).cloned().unwrap_or(host));
    let body = std::mem::replace(&mut relayed.body, empty());
    let mut request = Request::new(if upgrades { empty() } else { body });
    *request.method_mut() = relayed.method.clone();
    *request.uri_mut() =
        relayed.target.parse().map_err(|error| format!("parse {:?}: {error}", relayed.target))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// Sends a request and gives the answer's head and body as they come; the error is in words.
pub(crate) async fn ask(
    reach: &Reach,
    peer: &Peer,
    mut relayed: Relayed,
) -> Result<Response<Incoming>, String> {
    let request = request(peer, &mut relayed, false)?;
    let mut sender = reach.connect(peer).await?;
    sender.send_request(request).await.map_err(|error| full_text(&error))
}

/// The same for a kubelet, which has to begin to answer in bounded time.
pub(crate) async fn ask_kubelet(
    reach: &Reach,
    peer: &Peer,
    relayed: Relayed,
) -> Result<Response<Incoming>, String> {
    match tokio::time::timeout(ANSWER_MAX, ask(reach, peer, relayed)).await {
        Ok(answer) => answer,
        Err(_) => Err("net/http: timeout awaiting response headers".into()),
    }
}

fn full_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// An answer's body, cut when the vigil ends.
pub(crate) fn body(incoming: Incoming, vigil: Option<Vigil>) -> Body {
    let state = Some((BodyStream::new(incoming), vigil));
    let frames = futures::stream::unfold(state, |state| async move {
        let (mut incoming, mut vigil) = state?;
        let next = tokio::select! {
            next = incoming.next() => next?.map_err(io::Error::other),
            error = until_dead(&mut vigil) => Err(error),
        };
        if let Some(vigil) = &vigil {
            vigil.alive.store(true, Ordering::Relaxed);
        }
        let state = next.is_ok().then_some((incoming, vigil));
        Some((next.map(|frame: Frame<Bytes>| frame), state))
    });
    StreamBody::new(frames).boxed_unsync()
}

async fn until_dead(vigil: &mut Option<Vigil>) -> io::Error {
    match vigil {
        Some(vigil) => vigil.until_dead().await,
        None => std::future::pending().await,
    }
}

/// An answer of a pod or a node, handed on with its headers.
pub(crate) fn answer(answer: Response<Incoming>, vigil: Option<Vigil>) -> Response<Body> {
    let (parts, incoming) = answer.into_parts();
    let mut response = Response::new(body(incoming, vigil));
    *response.status_mut() = parts.status;
    *response.headers_mut() = handed_on(&parts.headers);
    response
}

/// Hands on a request that goes on with something else than HTTP. A refusal of the peer is handed on, too.
pub(crate) async fn upgrade(
    reach: &Reach,
    peer: &Peer,
    mut relayed: Relayed,
    vigil: Option<Vigil>,
) -> Result<Response<Body>, ApiError> {
    let Some(client) = relayed.upgrade.take() else {
        return Err(ApiError::bad_request("Upgrade request required"));
    };
    let dialing = |why: String| ApiError::unknown(format!("error dialing backend: {why}"));
    let request = request(peer, &mut relayed, true).map_err(dialing)?;
    let opened = async {
        let mut sender = reach.connect(peer).await?;
        sender.send_request(request).await.map_err(|error| full_text(&error))
    };
    let mut answered = match tokio::time::timeout(ANSWER_MAX, opened).await {
        Ok(answered) => answered.map_err(dialing)?,
        Err(_) => return Err(dialing("net/http: timeout awaiting response headers".into())),
    };
    if answered.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = answered.status().as_u16();
        if code < 400 {
            return Err(ApiError::unknown(format!("invalid upgrade response: status code {code}")));
        }
        return Ok(answer(answered, None));
    }
    let mut response = respond::full(StatusCode::SWITCHING_PROTOCOLS, "", Bytes::new());
    response.headers_mut().clear();
    for (name, value) in answered.headers() {
        response.headers_mut().append(name, value.clone());
    }
    let peer = hyper::upgrade::on(&mut answered);
    tokio::spawn(async move {
        let (client, peer) = match tokio::try_join!(client, peer) {
            Ok((client, peer)) => (TokioIo::new(client), TokioIo::new(peer)),
            Err(error) => return tracing::debug!(%error, "a stream did not begin"),
        };
        splice(client, peer, vigil).await;
    });
    Ok(response)
}

/// Copies both ways until one side has said all, or the vigil ends.
async fn splice<C, P>(client: C, peer: P, mut vigil: Option<Vigil>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    P: AsyncRead + AsyncWrite + Unpin,
{
    let alive = vigil.as_ref().map(|vigil| Arc::clone(&vigil.alive)).unwrap_or_default();
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (from_peer, mut to_peer) = tokio::io::split(peer);
    let mut from_peer = Heard { io: from_peer, alive };
    tokio::select! {
        _ = tokio::io::copy(&mut from_peer, &mut to_client) => {
            // All has been handed on; an end without this is an error to the client.
            let _ = tokio::time::timeout(PROBE_MAX, to_client.shutdown()).await;
        }
        _ = tokio::io::copy(&mut from_client, &mut to_peer) => {
            let _ = tokio::time::timeout(PROBE_MAX, to_peer.shutdown()).await;
        }
        error = until_dead(&mut vigil) => tracing::warn!(%error, "cutting a stream"),
    }
}

/// Takes note of everything that is read.
struct Heard<T> {
    io: T,
    alive: Arc<AtomicBool>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Heard<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, into);
        if read.is_ready() {
            self.alive.store(true, Ordering::Relaxed);
        }
        read
    }
}

/// Watches over a stream from a kubelet.
pub(crate) struct Vigil {
    reach: Reach,
    kubelet: Peer,
    /// Something was heard lately.
    alive: Arc<AtomicBool>,
}

impl Vigil {
    pub(crate) fn new(reach: &Reach, kubelet: &Peer) -> Self {
        Self { reach: reach.clone(), kubelet: kubelet.clone(), alive: Arc::default() }
    }

    /// Waits until the kubelet is silent and does not answer either when it is asked.
    async fn until_dead(&mut self) -> io::Error {
        let mut missed = 0;
        loop {
            tokio::time::sleep(SILENCE_MAX).await;
            if self.alive.swap(false, Ordering::Relaxed) || self.answers().await {
                missed = 0;
                continue;
            }
            missed += 1;
            if missed >= CHANCES {
                let text = format!("the kubelet at {} does not answer any more", self.kubelet.host());
                return io::Error::new(io::ErrorKind::TimedOut, text);
            }
        }
    }

    async fn answers(&self) -> bool {
        let relayed = Relayed {
            method: Method::GET,
            target: "/healthz".into(),
            headers: HeaderMap::new(),
            body: empty(),
            upgrade: None,
        };
        // Whatever it says, it says something.
        tokio::time::timeout(PROBE_MAX, ask(&self.reach, &self.kubelet, relayed))
            .await
            .is_ok_and(|answer| answer.is_ok())
    }
}
