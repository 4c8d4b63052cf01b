//! What a node answers when it is asked (port 10250): logs, commands, connections to ports, figures.
//!
//! Everybody shows a certificate of the cluster's authority or a token; who that is and what they may do, the API decides
//! ([`auth`]). Whatever keeps a client waiting has an end: handshakes, headers, and streams whose other side is gone.

mod auth;
mod exec;
mod fd;
mod figures;
mod files;
mod forward;
mod logs;
mod route;
mod upgrade;

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::config::Serving;
use crate::error::Error;
use crate::worker::Shared;

pub(crate) use figures::Before;

/// Longest handshake, and longest wait for the head of a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections at once.
const CONNECTIONS: usize = 1024;

/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The node's sockets, and what is behind them.
pub(crate) struct Server {
    shared: Arc<Shared>,
    serving: Option<Serving>,
    listeners: Vec<TcpListener>,
}

impl Server {
    /// Listens at each of the node's addresses, in both families.
    pub(crate) fn open(shared: &Arc<Shared>) -> Result<Self, Error> {
        let serving = shared.config.serving.clone();
        let mut listeners = Vec::new();
        if let Some(serving) = &serving {
            for (_, ip) in shared.config.node_ips.iter() {
                let at = SocketAddr::new(*ip, serving.port);
                let failed = || Error::file(format!("listening on {at}"));
                let listener = StdListener::bind(at).map_err(failed())?;
                listener.set_nonblocking(true).map_err(failed())?;
                listeners.push(TcpListener::from_std(listener).map_err(failed())?);
            }
        }
        Ok(Self { shared: Arc::clone(shared), serving, listeners })
    }

    /// Answers for as long as it is polled; at once over if there is nothing to serve.
    pub(crate) async fn run(self) {
        let Some(serving) = self.serving else { return };
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            accepting.spawn(accept(listener, serving.clone(), Arc::clone(&self.shared), Arc::clone(&places)));
        }
        while accepting.join_next().await.is_some() {}
    }
}

async fn accept(listener: TcpListener, serving: Serving, shared: Arc<Shared>, places: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // Never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, serving.clone(), Arc::clone(&shared), place));
            }
            Err(error) => {
                warn!(%error, "accepting a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, serving: Serving, shared: Arc<Shared>, place: OwnedSemaphorePermit) {
    let _ = stream.set_nodelay(true);
    let handshake = TlsAcceptor::from(Arc::clone(&serving.tls)).accept(stream);
    let stream = match tokio::time::timeout(PATIENCE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
        Err(_) => return,
    };
    let caller = stream.get_ref().1.peer_certificates().and_then(|chain| serving.identify.caller(chain));
    let caller = caller.map(Arc::new);
    let service = service_fn(move |request| {
        let (shared, caller) = (Arc::clone(&shared), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(route::answer(shared, caller, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PATIENCE);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        debug!(error, "connection ended");
    }
    drop(place);
}

/// A complete answer.
fn full(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|impossible| match impossible {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = code;
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An answer in words.
fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    full(code, "text/plain; charset=utf-8", text.into())
}

/// An answer as JSON.
fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => full(StatusCode::OK, "application/json", bytes),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
