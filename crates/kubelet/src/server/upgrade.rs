//! From HTTP to streams: a WebSocket with a subprotocol, or SPDY with a version of what is said on it.

use dyad_stream::channels::accept_key;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::{Body, text};

const SPDY: &str = "SPDY/3.1";
const STREAM_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// An answer that says why not.
pub(super) type Refused = Box<Response<Body>>;

pub(super) fn refused(code: StatusCode, why: impl Into<String>) -> Refused {
    Box::new(text(code, why))
}

/// What both sides will speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Agreed {
    /// A WebSocket with this subprotocol.
    WebSocket(&'static str),
    /// SPDY with this version of the streams.
    Spdy(&'static str),
}

/// Comma-separated words of all headers of a name.
fn words<'a>(headers: &'a HeaderMap, name: &'a HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

fn says(headers: &HeaderMap, name: &HeaderName, what: &str) -> bool {
    words(headers, name).any(|word| word.eq_ignore_ascii_case(what))
}

/// Agrees on the first thing the client names that is known here, and gives the answer that says so; or the answer that
/// says why not.
pub(super) fn agree(
    headers: &HeaderMap,
    subprotocols: &[&'static str],
    versions: &[&'static str],
) -> Result<(Agreed, Response<Body>), Refused> {
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let answer = response.headers_mut();
    answer.clear();
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let known = |own: &[&'static str], name| {
        words(headers, name).find_map(|word| own.iter().find(|own| **own == word).copied())
    };
    if !says(headers, &CONNECTION, "upgrade") {
        return Err(refused(StatusCode::BAD_REQUEST, "Upgrade request required"));
    }
    if says(headers, &UPGRADE, "websocket") {
        let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| says(headers, &SEC_WEBSOCKET_VERSION, "13"));
        let Some(key) = key else {
            return Err(refused(
                StatusCode::BAD_REQUEST,
                "a WebSocket needs Sec-WebSocket-Key and version 13",
            ));
        };
        let Some(protocol) = known(subprotocols, &SEC_WEBSOCKET_PROTOCOL) else {
            let problem = format!("Sec-WebSocket-Protocol must name one of {}", subprotocols.join(", "));
            return Err(refused(StatusCode::FORBIDDEN, problem));
        };
        answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&accept_key(key.as_bytes())) {
            answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        return Ok((Agreed::WebSocket(protocol), response));
    }
    if !says(headers, &UPGRADE, SPDY) {
        return Err(refused(StatusCode::BAD_REQUEST, "Upgrade must name websocket or SPDY/3.1"));
    }
    // A client that names none means the last one.
    let version = match headers.contains_key(STREAM_VERSION) {
        true => known(versions, &STREAM_VERSION),
        false => versions.last().copied(),
    };
    let Some(version) = version else {
        let problem = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {:?}, server supports {versions:?}",
            words(headers, &STREAM_VERSION).collect::<Vec<_>>()
        );
        let mut refusal = text(StatusCode::FORBIDDEN, problem);
        for version in versions {
            refusal.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(version));
        }
        return Err(Box::new(refusal));
    };
    answer.insert(UPGRADE, HeaderValue::from_static(SPDY));
    answer.insert(STREAM_VERSION, HeaderValue::from_static(version));
    Ok((Agreed::Spdy(version), response))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_thing_both_know_is_agreed_on() {
        let subprotocols = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
        let versions = ["v4.channel.k8s.io", "channel.k8s.io"];
        let socket = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let spdy = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        let asked = |base: &[(&'static str, &'static str)], more: &[(&'static str, &'static str)]| {
            let pairs = base
                .iter()
                .chain(more)
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            headers.extend(pairs.map(|(name, value)| (Some(name), value)));
            agree(&headers, &subprotocols, &versions)
        };
        let (agreed, response) =
            asked(&socket, &[("sec-websocket-protocol", "v9.x, v4.channel.k8s.io,v5.channel.k8s.io")])
                .unwrap();
        assert_eq!(agreed, Agreed::WebSocket("v4.channel.k8s.io"));
        // RFC 6455, 1.3.
        assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let (agreed, response) = asked(
            &spdy,
            &[
                ("x-stream-protocol-version", "v5.channel.k8s.io"),
                ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ],
        )
        .unwrap();
        assert_eq!(agreed, Agreed::Spdy("v4.channel.k8s.io"));
        assert_eq!(response.headers()[UPGRADE], "SPDY/3.1");
        assert_eq!(asked(&spdy, &[]).unwrap().0, Agreed::Spdy("channel.k8s.io"));
        for (base, more, code) in [
            (&socket[..], ("sec-websocket-protocol", "v9.x"), 403),
            (&socket[..3], ("sec-websocket-protocol", "v5.channel.k8s.io"), 400),
            (&spdy[..], ("x-stream-protocol-version", "v9"), 403),
            (&spdy[..1], ("upgrade", "h2c"), 400),
            (&spdy[1..], ("accept", "x"), 400),
        ] {
            assert_eq!(asked(base, &[more]).unwrap_err().status(), code, "{more:?}");
        }
    }
}
