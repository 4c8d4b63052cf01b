//! Answers: bodies, headers, compression.

use std::io::{Read, Write};

use bytes::Bytes;
use dyad_schema::protobuf;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures::Stream;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, WARNING,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;

use super::negotiate::Format;
use crate::status::ApiError;

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Answers larger than this are compressed if the client can read it (J16).
const COMPRESS_OVER: usize = 128 << 10;

/// A body that is there already.
pub(crate) fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|impossible| match impossible {}).boxed_unsync()
}

/// A body that could not be read.
pub(crate) fn broken(error: std::io::Error) -> Body {
    StreamBody::new(futures::stream::iter([Err(error)])).boxed_unsync()
}

/// A complete answer.
pub(crate) fn full(code: StatusCode, content_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(whole(body.into()));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(content_type) {
        headers.insert(CONTENT_TYPE, value);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// An answer that goes on for as long as the stream does; every item is sent at once (J31).
pub(crate) fn stream(
    content_type: &str,
    frames: impl Stream<Item = Bytes> + Send + 'static,
) -> Response<Body> {
    use futures::StreamExt;
    let body = StreamBody::new(frames.map(|bytes| Ok(Frame::data(bytes))));
    let mut response = full(StatusCode::OK, content_type, Bytes::new());
    *response.body_mut() = BodyExt::boxed_unsync(body);
    response
}

/// A value, which says itself what it is.
pub(crate) fn value(code: StatusCode, format: Format, value: &Value) -> Response<Body> {
    match encode(format, value) {
        Ok(bytes) => full(code, format.content_type(), bytes),
        Err(problem) => error(Format::Json, &ApiError::internal(problem)),
    }
}

/// JSON that is already written, in any format.
fn json(code: StatusCode, format: Format, bytes: Vec<u8>) -> Response<Body> {
    if format == Format::Json {
        return full(code, format.content_type(), bytes);
    }
    match serde_json::from_slice(&bytes) {
        Ok(read) => value(code, format, &read),
        Err(problem) => error(Format::Json, &ApiError::internal(problem)),
    }
}

/// What [`show`](super::show) wrote: protobuf where that is the format, JSON otherwise.
pub(crate) fn shown(code: StatusCode, format: Format, bytes: Vec<u8>) -> Response<Body> {
    match format {
        Format::Protobuf => full(code, format.content_type(), bytes),
        Format::Json | Format::Yaml => json(code, format, bytes),
    }
}

fn encode(format: Format, value: &Value) -> Result<Vec<u8>, String> {
    match format {
        Format::Json => serde_json::to_vec(value).map_err(|error| error.to_string()),
        Format::Protobuf => protobuf::encode_value(value).ok_or_else(|| {
            let (kind, version) = (&value["kind"], &value["apiVersion"]);
            format!("kind {kind} of {version} has no protobuf form: ask for JSON")
        }),
        Format::Yaml => {
            serde_saphyr::to_string(value).map(String::into_bytes).map_err(|error| error.to_string())
        }
    }
}

/// A failure.
pub(crate) fn error(format: Format, error: &ApiError) -> Response<Body> {
    let mut response = json(error.code(), format, error.to_json());
    if let Some(secs) = error.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, secs.into());
    }
    response
}

/// Plain text.
pub(crate) fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    full(code, "text/plain; charset=utf-8", text.into())
}

/// Adds `Warning` headers, one per text (J17).
pub(crate) fn warn(response: &mut Response<Body>, warnings: &[String]) {
    let mut said: Vec<&str> = Vec::new();
    for text in warnings {
        if said.contains(&text.as_str()) {
            continue;
        }
        said.push(text);
        let mut quoted = String::from("299 - \"");
        for character in text.chars().filter(|character| !character.is_control()) {
            if matches!(character, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(character);
        }
        quoted.push('"');
        if let Ok(value) = HeaderValue::from_bytes(quoted.as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// Compresses a large answer if the client can read it.
pub(crate) async fn compress(request: &HeaderMap, response: Response<Body>) -> Response<Body> {
    use http_body::Body as _;
    let Some(size) = response.body().size_hint().exact().and_then(|size| usize::try_from(size).ok()) else {
        return response;
    };
    let accepts = request.get_all(ACCEPT_ENCODING).iter().any(accepts_gzip);
    if size <= COMPRESS_OVER || !accepts || response.headers().contains_key(CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let bytes = match body.collect().await {
        Ok(body) => body.to_bytes(),
        // Only of answers that others gave and that ended too early.
        Err(problem) => return error(Format::Json, &ApiError::internal(problem)),
    };
    let original = bytes.clone();
    // Tens of megabytes take long enough to be in the way of others.
    let compressed = tokio::task::spawn_blocking(move || gzip(&bytes)).await;
    let body = if let Ok(Ok(compressed)) = compressed {
        parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        parts.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        compressed.into()
    } else {
        original
    };
    Response::from_parts(parts, whole(body))
}

fn accepts_gzip(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|text| {
        text.split(',').any(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            parts.next() == Some("gzip") && parts.all(|parameter| parameter != "q=0")
        })
    })
}

/// Compresses, quickly rather than well.
pub(crate) fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// Undoes compression of others, if what comes out is not longer than this.
pub(crate) fn gunzip_at_most(bytes: &[u8], limit: usize) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    GzDecoder::new(bytes).take(limit as u64 + 1).read_to_end(&mut out)?;
    if out.len() > limit { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(out) }
}

/// Undoes [`gzip`].
pub(crate) fn gunzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn j17_warnings_are_quoted_and_said_once() {
        let mut response = text(StatusCode::OK, "");
        warn(&mut response, &["unknown field \"spec.x\"".to_owned(), "a\nb".to_owned(), "a\nb".to_owned()]);
        let headers: Vec<_> =
            response.headers().get_all(WARNING).iter().map(|v| v.to_str().unwrap()).collect();
        assert_eq!(headers, ["299 - \"unknown field \\\"spec.x\\\"\"", "299 - \"ab\""]);
    }

    #[tokio::test]
    async fn j16_large_answers_are_compressed_for_those_who_can_read_it() {
        let large = "x".repeat(COMPRESS_OVER + 1);
        let mut request = HeaderMap::new();
        let plain = compress(&request, text(StatusCode::OK, large.clone())).await;
        assert!(!plain.headers().contains_key(CONTENT_ENCODING));
        request.insert(ACCEPT_ENCODING, HeaderValue::from_static("deflate, gzip;q=1.0"));
        let small = compress(&request, text(StatusCode::OK, "x")).await;
        assert!(!small.headers().contains_key(CONTENT_ENCODING));
        let packed = compress(&request, text(StatusCode::OK, large.clone())).await;
        assert_eq!(packed.headers()[CONTENT_ENCODING], "gzip");
        let bytes = packed.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(gunzip(&bytes).unwrap(), large.as_bytes());
    }
}
