//! Connections: TLS, HTTP/1.1 and HTTP/2, and how they end.
//!
//! A flood of them leaves room: handshakes that take long give way to new ones, and who shows no certificate has places of
//! its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::routes::Api;
use super::stall::Stalling;
use crate::audit::Peer;
use crate::tls::peer_user;

/// Longest handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Longest wait for requests under way when the server shuts down.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// Pause after an accept that failed, because there are too many open files for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests at once on one HTTP/2 connection, as upstream has it.
const STREAMS_MAX: u32 = 250;
/// Windows of HTTP/2, so that large lists are not sent in small pieces.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const PING_EVERY: Duration = Duration::from_secs(30);
/// Longest wait for the rest of a request's head, and for a client to read: after that it is gone.
const HEAD_MAX: Duration = Duration::from_secs(32);
const STALL_MAX: Duration = Duration::from_secs(60);
/// Longest list of headers in HTTP/2: selectors can be long.
const HEADERS_MAX: u32 = 256 << 10;
/// Handshakes at once; the oldest gives way.
const HANDSHAKES: usize = 256;
/// Connections at once of clients with a certificate, and of those without.
const CERTIFIED: usize = 8192;
const UNCERTIFIED: usize = 2048;

/// Places for connections.
struct Places {
    certified: Arc<Semaphore>,
    uncertified: Arc<Semaphore>,
}

/// Everything that accepts and serves connections.
pub(crate) struct Connections {
    stop: watch::Sender<bool>,
    accepting: Mutex<Vec<JoinHandle<GracefulShutdown>>>,
}

impl Connections {
    /// Takes no more connections.
    pub(crate) fn abort(&self) {
        self.stop.send_replace(true);
    }

    /// Takes no more connections, and lets those there are finish what is under way.
    pub(crate) async fn shut_down(&self) {
        self.stop.send_replace(true);
        let accepting = std::mem::take(&mut *self.accepting.lock().await);
        let drained = async {
            for task in accepting {
                if let Ok(graceful) = task.await {
                    graceful.shutdown().await;
                }
            }
        };
        if tokio::time::timeout(DRAIN_MAX, drained).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
    }
}

/// Lets this process have as many descriptors as it may have: by default those are few for a flood of connections.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Whoever forbids it must live with fewer.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Serves on every listener.
pub(crate) fn serve(
    api: &Arc<Api>,
    tls: &Arc<rustls::ServerConfig>,
    listeners: Vec<std::net::TcpListener>,
) -> std::io::Result<Connections> {
    if !listeners.is_empty() {
        allow_descriptors();
    }
    let stop = watch::Sender::new(false);
    let places = Arc::new(Places {
        certified: Arc::new(Semaphore::new(CERTIFIED)),
        uncertified: Arc::new(Semaphore::new(UNCERTIFIED)),
    });
    let mut accepting = Vec::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let acceptor = TlsAcceptor::from(Arc::clone(tls));
        accepting.push(tokio::spawn(accept(
            listener,
            acceptor,
            Arc::clone(api),
            Arc::clone(&places),
            stop.subscribe(),
        )));
    }
    Ok(Connections { stop, accepting: Mutex::new(accepting) })
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    places: Arc<Places>,
    mut stop: watch::Receiver<bool>,
) -> GracefulShutdown {
    let graceful = GracefulShutdown::new();
    let mut handshakes: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return graceful,
        };
        match accepted {
            Ok((stream, _)) => {
                let (api, places, watcher) = (Arc::clone(&api), Arc::clone(&places), graceful.watcher());
                let task = tokio::spawn(handshake(stream, acceptor.clone(), api, places, watcher));
                handshakes.push_back(task.abort_handle());
                make_room(&mut handshakes);
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Ends the oldest handshakes if there are too many: whoever means it is done in a moment.
fn make_room(handshakes: &mut VecDeque<AbortHandle>) {
    if handshakes.len() > HANDSHAKES {
        handshakes.retain(|handshake| !handshake.is_finished());
    }
    while handshakes.len() > HANDSHAKES {
        if let Some(oldest) = handshakes.pop_front() {
            oldest.abort();
        }
    }
}

/// A peer that is gone without a word is missed after a minute (RFC 9293, 3.8.4).
pub(crate) fn keep_alive(stream: &TcpStream) {
    use rustix::net::sockopt::{
        set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_user_timeout,
    };
    const QUIET: Duration = Duration::from_secs(15);
    // What a kernel has not, connections do without.
    let _ = set_socket_keepalive(stream, true)
        .and_then(|()| set_tcp_keepidle(stream, QUIET))
        .and_then(|()| set_tcp_keepintvl(stream, QUIET))
        .and_then(|()| set_tcp_keepcnt(stream, 3))
        .and_then(|()| set_tcp_user_timeout(stream, 60_000));
}

async fn handshake(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    places: Arc<Places>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Events and answers are small and waited for.
    let _ = stream.set_nodelay(true);
    keep_alive(&stream);
    match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => _ = tokio::spawn(connection(stream, api, places, watcher)),
        Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => {}
    }
}

async fn connection(
    stream: TlsStream<TcpStream>,
    api: Arc<Api>,
    places: Arc<Places>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let session = stream.get_ref().1;
    let user = session.peer_certificates().and_then(peer_user).map(Arc::new);
    let peer = stream.get_ref().0.peer_addr().map(|peer| Peer(peer.ip())).ok();
    let of = if user.is_some() { &places.certified } else { &places.uncertified };
    let Ok(_place) = Arc::clone(of).try_acquire_owned() else {
        tracing::debug!(certified = user.is_some(), "too many connections");
        return;
    };
    let http2 = session.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |mut request: http::Request<_>| {
        let (api, user) = (Arc::clone(&api), user.clone());
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        async move { Ok::<_, std::convert::Infallible>(api.answer(request, user.as_deref()).await) }
    });
    let stream = TokioIo::new(Stalling::new(stream, STALL_MAX, HEAD_MAX));
    // What TLS has agreed on need not be guessed from the first bytes.
    if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADERS_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(PING_EVERY);
        if let Err(error) = watcher.watch(builder.serve_connection(stream, service)).await {
            tracing::debug!(%error, "connection ended");
        }
        return;
    }
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    let serving = builder.serve_connection_with_upgrades(stream, service).into_owned();
    if let Err(error) = watcher.watch(serving).await {
        tracing::debug!(error, "connection ended");
    }
}
