//! A connection that carries many queries at once, whose answers come in any order (RFC 7766 §6.2.1, §7).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;

use super::ATTEMPT;
use crate::wire::HEADER;

/// Queries that wait to be written.
const QUEUE: usize = 128;

/// How an encrypted connection is made, and whose it must be.
pub(super) type Tls = (Arc<rustls::ClientConfig>, ServerName<'static>);

/// The way to a connection; the connection itself is a task, and ends when nobody needs it.
#[derive(Clone)]
pub(super) struct Connection(mpsc::Sender<Ask>);

struct Ask {
    packet: Vec<u8>,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<Vec<u8>, Lost>>;

/// Why there is no answer.
#[derive(Clone, Debug)]
pub(super) enum Lost {
    /// The connection ended.
    Closed,
    /// There was none.
    Failed(String),
}

impl Connection {
    pub(super) fn open(at: SocketAddr, tls: Option<Tls>, idle: Duration) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(run(at, tls, idle, receiver));
        Self(sender)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.0.is_closed()
    }

    pub(super) async fn ask(&self, packet: &[u8]) -> Result<Vec<u8>, Lost> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask { packet: packet.to_vec(), answer }).await.map_err(|_| Lost::Closed)?;
        answered.await.unwrap_or(Err(Lost::Closed))
    }
}

async fn run(at: SocketAddr, tls: Option<Tls>, idle: Duration, mut asks: mpsc::Receiver<Ask>) {
    let opened = tokio::time::timeout(ATTEMPT, async {
        let stream = TcpStream::connect(at).await?;
        stream.set_nodelay(true)?;
        let encrypted: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some((config, name)) => Box::new(TlsConnector::from(config).connect(name, stream).await?),
        };
        io::Result::Ok(encrypted)
    });
    let error = match opened.await {
        Ok(Ok(stream)) => return serve(stream, idle, asks).await,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the connection is not made in time".to_owned(),
    };
    asks.close();
    while let Some(ask) = asks.recv().await {
        // Who does not wait any more needs no reason.
        let _ = ask.answer.send(Err(Lost::Failed(error.clone())));
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Queries that were written, by the identifier they have on this connection.
#[derive(Default)]
struct Pending {
    waiting: HashMap<u16, (u16, Answer)>,
    next: u16,
}

async fn serve(stream: Box<dyn Stream>, idle: Duration, mut asks: mpsc::Receiver<Ask>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (mut pending, mut read) = (Pending::default(), Vec::new());
    let mut open = true;
    loop {
        let unused = pending.waiting.is_empty() || !open;
        tokio::select! {
            ask = asks.recv(), if open => {
                let Some(frame) = ask.map(|ask| pending.add(ask)) else {
                    open = false;
                    continue;
                };
                // A peer that takes nothing for so long is gone.
                if !matches!(tokio::time::timeout(ATTEMPT, send(&mut writer, frame)).await, Ok(Ok(()))) {
                    return;
                }
            }
            received = reader.read_buf(&mut read) => match received {
                Ok(1..) if pending.take(&mut read).is_some() => {}
                Ok(_) | Err(_) => return,
            },
            () = tokio::time::sleep(idle), if unused => return,
        }
        pending.waiting.retain(|_, (_, answer)| !answer.is_closed());
        if !open && pending.waiting.is_empty() {
            return;
        }
    }
}

async fn send(writer: &mut (impl AsyncWrite + Unpin), frame: Option<Vec<u8>>) -> io::Result<()> {
    if let Some(frame) = frame {
        writer.write_all(&frame).await?;
        writer.flush().await?;
    }
    Ok(())
}

impl Pending {
    /// The query with an identifier of its own on this connection, behind its length; `None` if there is no room.
    fn add(&mut self, mut ask: Ask) -> Option<Vec<u8>> {
        let length = u16::try_from(ask.packet.len()).ok()?;
        let id = (0..u16::MAX)
            .map(|step| self.next.wrapping_add(step))
            .find(|id| !self.waiting.contains_key(id))?;
        self.next = id.wrapping_add(1);
        let field = ask.packet.first_chunk_mut::<2>()?;
        let old = u16::from_be_bytes(std::mem::replace(field, id.to_be_bytes()));
        self.waiting.insert(id, (old, ask.answer));
        Some([&length.to_be_bytes(), ask.packet.as_slice()].concat())
    }

    /// Hands out all whole messages of what was read; `None` if they are none.
    fn take(&mut self, read: &mut Vec<u8>) -> Option<()> {
        while let Some((length, rest)) = read.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            if length < HEADER {
                return None;
            }
            let Some(message) = rest.get(..length) else { break };
            let id = u16::from_be_bytes([message[0], message[1]]);
            if let Some((old, answer)) = self.waiting.remove(&id) {
                let mut message = message.to_vec();
                message[..2].copy_from_slice(&old.to_be_bytes());
                // Who does not wait any more does not miss it.
                let _ = answer.send(Ok(message));
            }
            read.drain(..2 + length);
        }
        Some(())
    }
}
