//! The client's side, as far as tests need it.

use bytes::Bytes;
use tokio::io::{AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

use super::Headers;
use super::frame::{self, Frame, FrameReader};
use super::headers::Packer;

/// A client of a session.
pub(crate) struct Client {
    reader: FrameReader<ReadHalf<DuplexStream>>,
    writer: WriteHalf<DuplexStream>,
    packer: Packer,
}

impl Client {
    pub(crate) fn new(io: DuplexStream) -> Self {
        let (reader, writer) = tokio::io::split(io);
        Self { reader: FrameReader::new(reader), writer, packer: Packer::new() }
    }

    pub(crate) async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let headers = Headers(headers.collect());
        self.writer.write_all(&frame::open(&mut self.packer, id, &headers, false)).await.unwrap();
    }

    pub(crate) async fn send(&mut self, id: u32, bytes: &[u8], fin: bool) {
        self.writer.write_all(&frame::data(id, bytes.len(), fin)).await.unwrap();
        self.writer.write_all(bytes).await.unwrap();
    }

    /// The next data: its stream, the bytes, and whether they are the last.
    pub(crate) async fn data(&mut self) -> (u32, Bytes, bool) {
        loop {
            match self.reader.next().await.unwrap().unwrap() {
                Frame::Data { id, bytes, fin } => return (id, bytes, fin),
                Frame::Other => {}
                other => panic!("{other:?}"),
            }
        }
    }
}
