//! Header blocks: names and values, compressed with one zlib stream per direction and a dictionary fixed by the
//! protocol (SPDY/3, 2.6.10).

use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::SpdyError;

/// Names and values of a stream, names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The value of a name, `""` if it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// Most bytes of an unpacked block.
pub(super) const BLOCK_BYTES: usize = 64 * 1024;

/// Words of the dictionary, each behind its length in four bytes there.
#[rustfmt::skip]
const WORDS: [&str; 65] = [
    "options", "head", "post", "put", "delete", "trace", "accept", "accept-charset", "accept-encoding",
    "accept-language", "accept-ranges", "age", "allow", "authorization", "cache-control", "connection", "content-base",
    "content-encoding", "content-language", "content-length", "content-location", "content-md5", "content-range",
    "content-type", "date", "etag", "expect", "expires", "from", "host", "if-match", "if-modified-since",
    "if-none-match", "if-range", "if-unmodified-since", "last-modified", "location", "max-forwards", "pragma",
    "proxy-authenticate", "proxy-authorization", "range", "referer", "retry-after", "server", "te", "trailer",
    "transfer-encoding", "upgrade", "user-agent", "vary", "via", "warning", "www-authenticate", "method", "get",
    "status", "200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin",
];
/// What follows them.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
    Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
    Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,\
    sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

pub(super) fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        put_text(&mut bytes, word);
    }
    bytes.extend_from_slice(TEXT.as_bytes());
    bytes
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.put_u32(u32::try_from(text.len()).unwrap_or_default());
    bytes.extend_from_slice(text.as_bytes());
}

/// Unpacks the blocks of one direction, all of them and in their order: each builds on those before.
pub(super) struct Unpacker(Decompress);

impl Unpacker {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn unpack(&mut self, packed: &[u8]) -> Result<Headers, SpdyError> {
        let damaged = |_| SpdyError::Headers("it is not what zlib makes");
        let (mut input, mut block) = (packed, Vec::with_capacity(1024));
        loop {
            let before = (self.0.total_in(), block.len());
            let status = match self.0.decompress_vec(input, &mut block, FlushDecompress::Sync) {
                Err(error) if error.needs_dictionary().is_some() => {
                    let taken = usize::try_from(self.0.total_in() - before.0).unwrap_or(input.len());
                    input = input.get(taken..).unwrap_or_default();
                    self.0.set_dictionary(&dictionary()).map_err(damaged)?;
                    continue;
                }
                other => other.map_err(damaged)?,
            };
            let taken = usize::try_from(self.0.total_in() - before.0).unwrap_or(input.len());
            input = input.get(taken..).unwrap_or_default();
            if block.len() >= BLOCK_BYTES {
                return Err(SpdyError::Headers("it unpacks to more than 64 KiB"));
            }
            if block.len() == block.capacity() {
                block.reserve(block.len());
            } else if status == Status::StreamEnd && !input.is_empty() {
                return Err(SpdyError::Headers("its zlib stream has ended"));
            } else if input.is_empty() || (taken, block.len()) == (0, before.1) {
                return parse(&block);
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, SpdyError> {
    let short = SpdyError::Headers("it ends too early");
    let number = |block: &mut &[u8]| block.try_get_u32().map_err(|_| SpdyError::Headers("it ends too early"));
    let count = number(&mut block)?;
    let mut headers = Headers::default();
    for _ in 0..count {
        let mut pair = [String::new(), String::new()];
        for part in &mut pair {
            let length = number(&mut block)? as usize;
            let Some((text, rest)) = block.split_at_checked(length) else { return Err(short) };
            *part = String::from_utf8_lossy(text).into_owned();
            block = rest;
        }
        let [name, value] = pair;
        headers.0.push((name.to_ascii_lowercase(), value));
    }
    Ok(headers)
}

/// Packs the blocks of one direction.
pub(super) struct Packer(Compress);

impl Packer {
    pub(super) fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        // Refused only in the middle of a stream.
        let _ = compress.set_dictionary(&dictionary());
        Self(compress)
    }

    pub(super) fn pack(&mut self, headers: &Headers) -> Result<Vec<u8>, SpdyError> {
        let mut block = Vec::new();
        block.put_u32(u32::try_from(headers.0.len()).unwrap_or_default());
        for (name, value) in &headers.0 {
            put_text(&mut block, name);
            put_text(&mut block, value);
        }
        let mut packed = Vec::with_capacity(block.len() + 64);
        let start = self.0.total_in();
        loop {
            let taken = usize::try_from(self.0.total_in() - start).unwrap_or_default();
            let rest = block.get(taken..).unwrap_or_default();
            let done = self.0.compress_vec(rest, &mut packed, FlushCompress::Sync);
            done.map_err(|_| SpdyError::Headers("it can't be packed"))?;
            if packed.len() < packed.capacity() {
                return Ok(packed);
            }
            packed.reserve(packed.len());
        }
    }
}
