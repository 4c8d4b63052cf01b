//! One connection with many streams, the server's side.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::SpdyError;
use super::frame::{self, Frame, FrameReader};
use super::headers::{Headers, Packer};

/// Streams at once; a client that wants more is refused the stream.
const STREAMS: usize = 512;
/// Pieces that wait for the reader of a stream, and for the connection to take them.
const QUEUE: usize = 8;
/// How long a session that has said all waits for the peer to hang up.
const LINGER: Duration = Duration::from_secs(10);
const REFUSED_STREAM: u32 = 3;
const CANCEL: u32 = 5;

/// The last end of a stream was given up, or the connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended")]
pub struct Gone;

/// What is to be sent.
enum Out {
    Reply(u32),
    Data(u32, Bytes, bool),
    Reset(u32, u32),
    Ping(u32),
    GoAway(u32),
}

/// Streams as a client opens them.
#[derive(Debug)]
pub struct Session {
    streams: mpsc::Receiver<Stream>,
    out: mpsc::Sender<Out>,
    reading: JoinHandle<()>,
    writing: JoinHandle<()>,
}

/// A stream that a client has opened.
#[derive(Debug)]
pub struct Stream {
    /// What it says it is for.
    pub headers: Headers,
    /// What comes on it.
    pub reader: Reader,
    /// What goes.
    pub writer: Writer,
}

/// What comes on a stream.
#[derive(Debug)]
pub struct Reader(mpsc::Receiver<Bytes>);

impl Reader {
    /// The next bytes, `None` when no more will come.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }

    /// The queue itself.
    pub fn into_queue(self) -> mpsc::Receiver<Bytes> {
        self.0
    }
}

/// What goes on a stream. Dropped before its end was sent, it gives the stream up.
#[derive(Debug)]
pub struct Writer {
    id: u32,
    out: mpsc::Sender<Out>,
    ended: bool,
}

impl Writer {
    /// Sends bytes, in frames that are no longer than other servers' are; waits while the connection takes none.
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(frame::PIECE_BYTES));
            self.out.send(Out::Data(self.id, piece, false)).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// Says that no more will come.
    pub async fn end(mut self) -> Result<(), Gone> {
        self.ended = true;
        self.out.send(Out::Data(self.id, Bytes::new(), true)).await.map_err(|_| Gone)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.ended {
            // A full queue belongs to a connection that takes nothing, which will end without this.
            let _ = self.out.try_send(Out::Reset(self.id, CANCEL));
        }
    }
}

impl Session {
    /// Speaks on a connection on which everything but SPDY has been said.
    pub fn new<T: AsyncRead + AsyncWrite + Send + 'static>(io: T) -> Self {
        let (from, to) = tokio::io::split(io);
        let (out, queue) = mpsc::channel(QUEUE);
        let (opened, streams) = mpsc::channel(QUEUE);
        let reading = tokio::spawn(read_all(FrameReader::new(from), opened, out.clone()));
        let writing = tokio::spawn(async move {
            // The peer has gone: whoever still writes is told so by the queue's end.
            let _ = write_all(to, queue).await;
        });
        Self { streams, out, reading, writing }
    }

    /// The next stream, `None` when there will be no more.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Waits until the client is gone, or has said something that can't be understood.
    pub async fn closed(&mut self) {
        if !self.reading.is_finished() {
            // However it ended, nothing more is read.
            let _ = (&mut self.reading).await;
        }
    }

    /// Sends what is still to be sent, and lets the peer hang up first.
    pub async fn finish(mut self) {
        // Nothing more is taken, and what comes is thrown away.
        self.streams.close();
        let _ = tokio::time::timeout(LINGER, async {
            let _ = self.out.send(Out::GoAway(0)).await;
            self.closed().await;
        })
        .await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reading.abort();
        self.writing.abort();
    }
}

async fn read_all<R: AsyncRead + Unpin>(
    mut frames: FrameReader<R>,
    opened: mpsc::Sender<Stream>,
    out: mpsc::Sender<Out>,
) {
    let mut readers: BTreeMap<u32, mpsc::Sender<Bytes>> = BTreeMap::new();
    let mut last = 0;
    loop {
        let next = tokio::select! {
            next = frames.next() => next,
            // Nobody can be answered any more.
            () = out.closed() => return,
        };
        // An error of the peer's ends the connection: what follows can't be understood.
        let Ok(Some(frame)) = next else { return };
        match take(frame, &mut readers, &mut last, &opened, &out).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
    }
}

/// Deals with a frame; false if nobody listens any more.
async fn take(
    frame: Frame,
    readers: &mut BTreeMap<u32, mpsc::Sender<Bytes>>,
    last: &mut u32,
    opened: &mpsc::Sender<Stream>,
    out: &mpsc::Sender<Out>,
) -> Result<bool, SpdyError> {
    let answer = match frame {
        Frame::Open { id, headers, fin } => {
            if id % 2 == 0 || id <= *last {
                return Err(SpdyError::Number(id));
            }
            *last = id;
            readers.retain(|_, queue| !queue.is_closed());
            if readers.len() >= STREAMS || opened.is_closed() {
                return Ok(out.send(Out::Reset(id, REFUSED_STREAM)).await.is_ok());
            }
            let (queue, reader) = mpsc::channel(QUEUE);
            if !fin {
                readers.insert(id, queue);
            }
            let writer = Writer { id, out: out.clone(), ended: false };
            if out.send(Out::Reply(id)).await.is_err() {
                return Ok(false);
            }
            // Refused by a session that takes no more; the writer's end tells the peer.
            let _ = opened.send(Stream { headers, reader: Reader(reader), writer }).await;
            return Ok(true);
        }
        Frame::Data { id, bytes, fin } => {
            if let Some(queue) = readers.get(&id).filter(|_| !bytes.is_empty()) {
                tokio::select! {
                    // Its reader is not interested any more: thrown away.
                    _ = queue.send(bytes) => {}
                    () = out.closed() => return Ok(false),
                }
            }
            if fin {
                readers.remove(&id);
            }
            return Ok(true);
        }
        Frame::Reset { id } => {
            readers.remove(&id);
            return Ok(true);
        }
        Frame::Ping { id } if id % 2 == 1 => Out::Ping(id),
        Frame::Ping { .. } | Frame::GoAway | Frame::Other => return Ok(true),
    };
    Ok(out.send(answer).await.is_ok())
}

async fn write_all<W: AsyncWrite + Unpin>(
    mut to: W,
    mut queue: mpsc::Receiver<Out>,
) -> Result<(), SpdyError> {
    let mut packer = Packer::new();
    while let Some(out) = queue.recv().await {
        match out {
            Out::Reply(id) => to.write_all(&frame::reply(&mut packer, id)?).await?,
            Out::Data(id, bytes, fin) => {
                to.write_all(&frame::data(id, bytes.len(), fin)).await?;
                to.write_all(&bytes).await?;
            }
            Out::Reset(id, status) => to.write_all(&frame::reset(id, status)).await?,
            Out::Ping(id) => to.write_all(&frame::ping(id)).await?,
            Out::GoAway(last) => to.write_all(&frame::go_away(last)).await?,
        }
        if queue.is_empty() {
            to.flush().await?;
        }
    }
    to.shutdown().await?;
    Ok(())
}
