//! A stream of bytes through a WebSocket: each binary message holds the next ones, wherever they are cut.
//!
//! Newer clients carry SPDY in one, because proxies let a WebSocket pass that know nothing of SPDY (KEP-4006).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

/// Most bytes in a message.
const MESSAGE_BYTES: usize = 32 * 1024;

/// The bytes inside the messages.
#[derive(Debug)]
pub struct Tunnel<T> {
    websocket: WebSocketStream<T>,
    rest: Bytes,
    /// Goodbye has been said.
    ended: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Tunnel<T> {
    /// Through a connection whose handshake is done.
    pub async fn new(io: T) -> Self {
        Self { websocket: crate::channels::websocket(io).await, rest: Bytes::new(), ended: false }
    }
}

fn failed(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.websocket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(failed(error))),
            }
        }
        let length = self.rest.len().min(into.remaining());
        into.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut websocket = Pin::new(&mut self.websocket);
        ready!(websocket.as_mut().poll_ready(cx)).map_err(failed)?;
        let now = &bytes[..bytes.len().min(MESSAGE_BYTES)];
        websocket.start_send(Message::Binary(Bytes::copy_from_slice(now))).map_err(failed)?;
        Poll::Ready(Ok(now.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.websocket).poll_flush(cx).map_err(failed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            let mut websocket = Pin::new(&mut self.websocket);
            ready!(websocket.as_mut().poll_ready(cx)).map_err(failed)?;
            websocket.start_send(crate::channels::goodbye()).map_err(failed)?;
            self.ended = true;
        }
        match Pin::new(&mut self.websocket).poll_flush(cx) {
            Poll::Ready(Err(Error::ConnectionClosed)) => Poll::Ready(Ok(())),
            other => other.map_err(failed),
        }
    }
}
