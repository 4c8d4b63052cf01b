//! Numbered channels over a WebSocket: the first byte of each message says which one it is for.
//!
//! `v4.channel.k8s.io` has nothing more; with `v5.channel.k8s.io` a client can say that a channel has ended.
//! `v4.base64.channel.k8s.io` is for clients that can send text only: the number is a digit, the rest is base64.

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::spdy::session::Gone;

/// Messages that wait for whoever takes them.
const QUEUE: usize = 8;
/// Longest message.
const MESSAGE_BYTES: usize = 4 << 20;
/// How long a connection on which all is said waits for the peer to hang up.
const LINGER: Duration = Duration::from_secs(10);
/// The channel on which a client names one that has ended.
const CLOSE: u8 = 255;

/// What the messages look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `v4.channel.k8s.io`.
    V4,
    /// `v5.channel.k8s.io`.
    V5,
    /// `v4.base64.channel.k8s.io`.
    Base64,
}

impl Protocol {
    /// All, the one that can do most first.
    pub const ALL: [Self; 3] = [Self::V5, Self::V4, Self::Base64];

    /// Its name in `Sec-WebSocket-Protocol`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4.channel.k8s.io",
            Self::V5 => "v5.channel.k8s.io",
            Self::Base64 => "v4.base64.channel.k8s.io",
        }
    }
}

/// The answer to a `Sec-WebSocket-Key` (RFC 6455, 4.2.2).
pub fn accept_key(key: &[u8]) -> String {
    tokio_tungstenite::tungstenite::handshake::derive_accept_key(key)
}

/// A WebSocket on a connection whose handshake is done.
pub(crate) async fn websocket<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES))
        .max_frame_size(Some(MESSAGE_BYTES))
        .write_buffer_size(0);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await
}

/// Says that all went well; without a code, clients take the end for a failure.
pub(crate) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// The channels of one connection.
#[derive(Debug)]
pub struct Channels {
    inputs: Vec<Option<mpsc::Receiver<Bytes>>>,
    output: Output,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

/// What goes on the channels.
#[derive(Clone, Debug)]
pub struct Output {
    out: mpsc::Sender<Message>,
    protocol: Protocol,
}

impl Output {
    /// Sends a message on a channel; waits while the connection takes none.
    pub async fn send(&self, channel: u8, bytes: &[u8]) -> Result<(), Gone> {
        let message = match self.protocol {
            Protocol::V4 | Protocol::V5 => {
                let mut message = BytesMut::with_capacity(bytes.len() + 1);
                message.put_u8(channel);
                message.extend_from_slice(bytes);
                Message::Binary(message.freeze())
            }
            Protocol::Base64 => Message::text(format!("{channel}{}", base64::encode(bytes))),
        };
        self.out.send(message).await.map_err(|_| Gone)
    }

    /// Whether the connection has ended.
    pub async fn closed(&self) {
        self.out.closed().await;
    }
}

impl Channels {
    /// Speaks on a connection whose handshake is done. `inputs` are the channels on which something may come.
    pub async fn new<T>(io: T, protocol: Protocol, inputs: &[u8]) -> Self
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sink, mut stream) = websocket(io).await.split();
        let (out, mut queue) = mpsc::channel(QUEUE);
        let count = inputs.iter().max().map_or(0, |most| usize::from(*most) + 1);
        let (mut receivers, mut senders) = (Vec::new(), Vec::new());
        for channel in 0..count {
            let (sender, receiver) = mpsc::channel(QUEUE);
            let wanted = inputs.iter().any(|input| usize::from(*input) == channel);
            senders.push(wanted.then_some(sender));
            receivers.push(wanted.then_some(receiver));
        }
        let gone = out.clone();
        let reading = tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = stream.next() => message,
                    () = gone.closed() => return,
                };
                // Answers to pings are the WebSocket's own business.
                let Some(Ok(message)) = message else { return };
                let Some((channel, bytes)) = decode(protocol, message) else { continue };
                if channel == CLOSE && protocol == Protocol::V5 {
                    let ended = bytes.first().and_then(|ended| senders.get_mut(usize::from(*ended)));
                    ended.map(Option::take);
                } else if let Some(Some(sender)) = senders.get(usize::from(channel))
                    && !bytes.is_empty()
                {
                    tokio::select! {
                        _ = sender.send(bytes) => {}
                        () = gone.closed() => return,
                    }
                }
            }
        });
        let writing = tokio::spawn(async move {
            while let Some(message) = queue.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        });
        Self { inputs: receivers, output: Output { out, protocol }, reading, writing }
    }

    /// What comes on a channel; `None` if nothing is to come there, or it was taken before.
    pub fn input(&mut self, channel: u8) -> Option<mpsc::Receiver<Bytes>> {
        self.inputs.get_mut(usize::from(channel))?.take()
    }

    /// What goes on all of them.
    pub fn output(&self) -> Output {
        self.output.clone()
    }

    /// Whether the client has gone.
    pub async fn closed(&mut self) {
        if !self.reading.is_finished() {
            // However it ended, nothing more is read.
            let _ = (&mut self.reading).await;
        }
    }

    /// Sends what is still to be sent, and waits for the client to hang up.
    pub async fn finish(mut self) {
        self.inputs.clear();
        let said = self.output.out.send(goodbye()).await;
        if said.is_ok() {
            let _ = tokio::time::timeout(LINGER, self.closed()).await;
        }
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        self.reading.abort();
        self.writing.abort();
    }
}

/// The channel of a message and what is in it; nothing for messages of the WebSocket itself.
fn decode(protocol: Protocol, message: Message) -> Option<(u8, Bytes)> {
    match message {
        Message::Binary(mut bytes) if !bytes.is_empty() => {
            let channel = bytes.split_to(1)[0];
            Some((channel, bytes))
        }
        Message::Text(text) => {
            let mut bytes = Bytes::from(text);
            if bytes.is_empty() {
                return None;
            }
            let channel = bytes.split_to(1)[0];
            match protocol {
                Protocol::Base64 => Some((channel.checked_sub(b'0')?, base64::decode(&bytes)?.into())),
                Protocol::V4 | Protocol::V5 => Some((channel, bytes)),
            }
        }
        _ => None,
    }
}

/// As browsers make it.
mod base64 {
    use ::base64::Engine;
    use ::base64::engine::general_purpose::STANDARD;

    pub(super) fn encode(bytes: &[u8]) -> String {
        STANDARD.encode(bytes)
    }

    pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
        STANDARD.decode(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_their_channel() {
        #[rustfmt::skip]
        let cases = [
            (Protocol::V5, Message::Binary(Bytes::from_static(b"\x01abc")), Some((1, &b"abc"[..]))),
            (Protocol::V5, Message::Binary(Bytes::from_static(b"\xff\x00")), Some((255, &b"\0"[..]))),
            (Protocol::V4, Message::Binary(Bytes::new()), None),
            (Protocol::V4, Message::text(""), None),
            (Protocol::Base64, Message::text("0aGk="), Some((0, &b"hi"[..]))),
            (Protocol::Base64, Message::text("0!"), None),
            (Protocol::Base64, Message::text("\u{1}"), None),
            (Protocol::V4, Message::Ping(Bytes::new()), None),
        ];
        for (protocol, message, want) in cases {
            let found = decode(protocol, message.clone());
            assert_eq!(
                found,
                want.map(|(channel, bytes)| (channel, Bytes::from_static(bytes))),
                "{message:?}"
            );
        }
    }
}
