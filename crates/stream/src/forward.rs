//! Connections to ports of a pod, whichever way they come (J55).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::channels::{Channels, Output, Protocol};
use crate::spdy::{Reader, Session, Stream, Writer};

/// The protocol of the streams over SPDY, by its name in `X-Stream-Protocol-Version`.
pub const VERSION: &str = "portforward.k8s.io";
/// The subprotocol of a WebSocket that carries SPDY.
pub const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// How long the second stream of a pair may take.
const PAIR_MAX: Duration = Duration::from_secs(30);
/// Most bytes read at once.
const PIECE_BYTES: usize = 32 * 1024;
/// Ports of one request over channels, whose numbers are bytes.
pub const PORTS_MAX: usize = 64;

/// Opens a connection to a port, or says why it can't.
pub type Dial = dyn Fn(u16) -> BoxFuture<'static, Result<TcpStream, String>> + Send + Sync;

/// The stream for data and the one for errors, as they come.
#[derive(Default)]
struct Pair {
    port: u16,
    data: Option<Stream>,
    error: Option<Writer>,
}

/// Serves a session until the client ends it: each pair of streams is a connection.
pub async fn over_spdy(mut session: Session, dial: Arc<Dial>) {
    let mut pairs: BTreeMap<String, (Instant, Pair)> = BTreeMap::new();
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = session.accept() => stream,
            Some(_) = connections.join_next() => continue,
        };
        let Some(stream) = stream else { return };
        let now = Instant::now();
        // Dropped, the stream that came alone is given up.
        pairs.retain(|_, (since, _)| now.duration_since(*since) < PAIR_MAX);
        let headers = &stream.headers;
        let Ok(port @ 1..) = headers.get("port").parse::<u16>() else { continue };
        // Clients from before there were numbers open one pair at a time.
        let id = headers.get("requestid").to_owned();
        let (_, pair) = pairs.entry(id.clone()).or_insert_with(|| (now, Pair::default()));
        pair.port = port;
        match headers.get("streamtype") {
            "data" => pair.data = Some(stream),
            "error" => pair.error = Some(stream.writer),
            _ => continue,
        }
        if pair.data.is_some()
            && pair.error.is_some()
            && let Some((_, Pair { port, data: Some(data), error: Some(error) })) = pairs.remove(&id)
        {
            let dial = Arc::clone(&dial);
            connections.spawn(async move {
                match dial(port).await {
                    Ok(pod) => {
                        copy(pod, data.reader, data.writer).await;
                        let _ = error.end().await;
                    }
                    Err(why) => {
                        let _ = error.send(why.into()).await;
                        let _ = error.end().await;
                        let _ = data.writer.end().await;
                    }
                }
            });
        }
    }
}

/// Copies both ways until both have ended.
async fn copy(pod: TcpStream, reader: Reader, writer: Writer) {
    let (mut from, mut to) = pod.into_split();
    let inwards = async {
        let mut reader = reader;
        while let Some(bytes) = reader.next().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // A pod that has hung up need not be told.
        let _ = to.shutdown().await;
    };
    let outwards = async {
        while let Ok(Some(bytes)) = piece(&mut from).await {
            if writer.send(bytes).await.is_err() {
                return;
            }
        }
        let _ = writer.end().await;
    };
    // Once the pod has said all, the client hangs up when it likes.
    tokio::join!(inwards, outwards);
}

async fn piece<R: AsyncRead + Unpin>(from: &mut R) -> std::io::Result<Option<Bytes>> {
    let mut bytes = bytes::BytesMut::with_capacity(PIECE_BYTES);
    Ok(match from.read_buf(&mut bytes).await? {
        0 => None,
        _ => Some(bytes.freeze()),
    })
}

/// Serves the ports named in the request on the channels of a WebSocket, two for each: data, then errors. Each is one
/// connection; the first message on each channel is the port's number.
pub async fn over_channels<T>(io: T, protocol: Protocol, ports: &[u16], dial: Arc<Dial>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let numbered = || (0u8..).step_by(2).zip(ports.iter().copied()).take(PORTS_MAX);
    let inputs: Vec<u8> = numbered().map(|(channel, _)| channel).collect();
    let mut channels = Channels::new(io, protocol, &inputs).await;
    let mut connections = JoinSet::new();
    for (channel, port) in numbered() {
        let output = channels.output();
        for channel in [channel, channel + 1] {
            if output.send(channel, &port.to_le_bytes()).await.is_err() {
                return;
            }
        }
        if let Some(input) = channels.input(channel) {
            connections.spawn(one_channel(channel, port, input, output, Arc::clone(&dial)));
        }
    }
    let over = tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => true,
        () = channels.closed() => false,
    };
    if over {
        channels.finish().await;
    }
}

async fn one_channel(
    channel: u8,
    port: u16,
    mut input: mpsc::Receiver<Bytes>,
    output: Output,
    dial: Arc<Dial>,
) {
    let pod = match dial(port).await {
        Ok(pod) => pod,
        Err(why) => {
            let _ = output.send(channel + 1, why.as_bytes()).await;
            return;
        }
    };
    let (mut from, mut to) = pod.into_split();
    let inwards = async {
        while let Some(bytes) = input.recv().await {
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let outwards = async {
        while let Ok(Some(bytes)) = piece(&mut from).await {
            if output.send(channel, &bytes).await.is_err() {
                return;
            }
        }
    };
    // A channel can't say that it has ended: the connection is over when the pod says no more.
    tokio::select! {
        () = outwards => {}
        () = async { inwards.await; std::future::pending().await } => {}
    }
}

#[cfg(test)]
mod tests;
