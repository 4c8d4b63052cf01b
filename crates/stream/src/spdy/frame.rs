//! Frames: eight bytes that say what follows, and what follows (SPDY/3, 2.2).

use bytes::{Buf, BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::SpdyError;
use super::headers::{Headers, Packer, Unpacker};

const VERSION: u16 = 3;
const CONTROL: u16 = 0x8000;
const FIN: u8 = 1;
/// Most bytes of a control frame.
const CONTROL_BYTES: usize = 64 * 1024;
/// Data is handed on in pieces of at most this, however long its frame is.
pub(super) const PIECE_BYTES: usize = 32 * 1024;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// What a peer says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A new stream; with `fin` nothing will come on it.
    Open { id: u32, headers: Headers, fin: bool },
    /// Part of a stream; with `fin` the last one.
    Data { id: u32, bytes: Bytes, fin: bool },
    /// A stream is given up.
    Reset { id: u32 },
    /// To be sent back.
    Ping { id: u32 },
    /// No new streams will come.
    GoAway,
    /// Something that needs no answer here.
    Other,
}

/// Reads frames.
pub(super) struct FrameReader<R> {
    from: R,
    unpacker: Unpacker,
    /// What is left of a data frame: its stream, whether it is the last, how many bytes.
    open: Option<(u32, bool, usize)>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, unpacker: Unpacker::new(), open: None }
    }

    /// The next frame, `None` at the end of the connection.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        if let Some((id, fin, left)) = self.open.take() {
            return self.data(id, fin, left).await.map(Some);
        }
        let mut head = [0; 8];
        match self.from.read_exact(&mut head).await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => drop(other?),
        }
        let mut head = &head[..];
        let (first, second, rest) = (head.get_u16(), head.get_u16(), head.get_u32());
        let (flags, length) = ((rest >> 24) as u8, (rest & 0x00ff_ffff) as usize);
        if first & CONTROL == 0 {
            let id = u32::from(first) << 16 | u32::from(second);
            return self.data(id, flags & FIN != 0, length).await.map(Some);
        }
        if first & !CONTROL != VERSION {
            return Err(SpdyError::Version(first & !CONTROL));
        }
        self.control(second, flags, length).await.map(Some)
    }

    async fn data(&mut self, id: u32, fin: bool, length: usize) -> Result<Frame, SpdyError> {
        let now = length.min(PIECE_BYTES);
        let mut bytes = vec![0; now];
        self.from.read_exact(&mut bytes).await?;
        if length > now {
            self.open = Some((id, fin, length - now));
        }
        Ok(Frame::Data { id, bytes: bytes.into(), fin: fin && length == now })
    }

    async fn control(&mut self, kind: u16, flags: u8, length: usize) -> Result<Frame, SpdyError> {
        if length > CONTROL_BYTES {
            return Err(SpdyError::Length { kind, length });
        }
        let mut payload = vec![0; length];
        self.from.read_exact(&mut payload).await?;
        let mut rest = &payload[..];
        let number = |rest: &mut &[u8]| rest.try_get_u32().map_err(|_| SpdyError::Length { kind, length });
        Ok(match kind {
            SYN_STREAM => {
                let id = number(&mut rest)? & 0x7fff_ffff;
                // The stream it belongs to, its priority and its slot.
                let Some((_, block)) = rest.split_at_checked(6) else {
                    return Err(SpdyError::Length { kind, length });
                };
                Frame::Open { id, headers: self.unpacker.unpack(block)?, fin: flags & FIN != 0 }
            }
            SYN_REPLY | HEADERS => {
                number(&mut rest)?;
                // Blocks that come later build on it.
                self.unpacker.unpack(rest)?;
                Frame::Other
            }
            RST_STREAM => Frame::Reset { id: number(&mut rest)? & 0x7fff_ffff },
            PING => Frame::Ping { id: number(&mut rest)? },
            GOAWAY => Frame::GoAway,
            _ => Frame::Other,
        })
    }
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + payload.len());
    bytes.put_u16(CONTROL | VERSION);
    bytes.put_u16(kind);
    bytes.put_u32(u32::from(flags) << 24 | u32::try_from(payload.len()).unwrap_or_default() & 0x00ff_ffff);
    bytes.extend_from_slice(payload);
    bytes
}

/// The stream is accepted, without headers of its own.
pub(super) fn reply(packer: &mut Packer, id: u32) -> Result<Vec<u8>, SpdyError> {
    let mut payload = id.to_be_bytes().to_vec();
    payload.extend(packer.pack(&Headers::default())?);
    Ok(control(SYN_REPLY, 0, &payload))
}

/// A stream is given up, for a reason (SPDY/3, 2.6.3).
pub(super) fn reset(id: u32, status: u32) -> Vec<u8> {
    control(RST_STREAM, 0, &[id.to_be_bytes(), status.to_be_bytes()].concat())
}

pub(super) fn ping(id: u32) -> Vec<u8> {
    control(PING, 0, &id.to_be_bytes())
}

/// No stream after `last` was taken.
pub(super) fn go_away(last: u32) -> Vec<u8> {
    control(GOAWAY, 0, &[last.to_be_bytes(), [0; 4]].concat())
}

/// The head of a data frame.
pub(super) fn data(id: u32, length: usize, fin: bool) -> [u8; 8] {
    let rest =
        u32::from(if fin { FIN } else { 0 }) << 24 | u32::try_from(length).unwrap_or_default() & 0x00ff_ffff;
    let [a, b, c, d] = id.to_be_bytes();
    let [e, f, g, h] = rest.to_be_bytes();
    [a, b, c, d, e, f, g, h]
}

/// As a client opens a stream.
#[cfg(test)]
pub(super) fn open(packer: &mut Packer, id: u32, headers: &Headers, fin: bool) -> Vec<u8> {
    let mut payload = [id.to_be_bytes(), [0; 4]].concat();
    payload.extend([0, 0]);
    payload.extend(packer.pack(headers).unwrap());
    control(SYN_STREAM, u8::from(fin), &payload)
}
