//! SPDY/3.1 as Kubernetes uses it: streams with headers, data and ends, over anything that carries bytes.
//!
//! Flow control is left out on purpose: no client of Kubernetes does it, and one that did would find its windows never
//! exceeded for long, because [`session`] reads no faster than its streams are read.

mod frame;
mod headers;
pub mod session;

pub use headers::Headers;
pub use session::{Reader, Session, Stream, Writer};

/// The peer does not speak SPDY/3.1, or says too much.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpdyError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// A control frame of another version.
    #[error("a control frame is of version {0}: only SPDY/3.1 is spoken here")]
    Version(u16),
    /// A frame's length does not fit its type.
    #[error("a frame of type {kind} has {length} bytes, which can't be")]
    Length {
        /// Its type.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// A header block can't be unpacked.
    #[error("a header block is damaged: {0}")]
    Headers(&'static str),
    /// A stream's number is one that a client may not give, or has given before.
    #[error("a stream has number {0}: clients count upwards in odd numbers")]
    Number(u32),
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
