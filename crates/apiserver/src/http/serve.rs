//! Connections: TLS, HTTP/1.1 and HTTP/2, and how they end.

use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::routes::Api;
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

/// Serves on every listener.
pub(crate) fn serve(
    api: &Arc<Api>,
    tls: &Arc<rustls::ServerConfig>,
    listeners: Vec<std::net::TcpListener>,
) -> std::io::Result<Connections> {
    let stop = watch::Sender::new(false);
    let mut accepting = Vec::new();
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let acceptor = TlsAcceptor::from(Arc::clone(tls));
        accepting.push(tokio::spawn(accept(listener, acceptor, Arc::clone(api), stop.subscribe())));
    }
    Ok(Connections { stop, accepting: Mutex::new(accepting) })
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    mut stop: watch::Receiver<bool>,
) -> GracefulShutdown {
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return graceful,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, acceptor.clone(), Arc::clone(&api), graceful.watcher()));
            }
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    api: Arc<Api>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // Events and answers are small and waited for.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let user = stream.get_ref().1.peer_certificates().and_then(peer_user).map(Arc::new);
    let service = service_fn(move |request| {
        let (api, user) = (Arc::clone(&api), user.clone());
        async move { Ok::<_, std::convert::Infallible>(api.answer(request, user.as_deref()).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(PING_EVERY);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(serving).await {
        tracing::debug!(error, "connection ended");
    }
}
