//! The question of gRPC probes: `grpc.health.v1.Health/Check`, without TLS.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::site::Site;

/// Most bytes of an answer; a status takes seven.
const ANSWER_BYTES: usize = 4096;
/// The names of `HealthCheckResponse.ServingStatus`.
const STATUSES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
const SERVING: usize = 1;
/// gRPC's code for a method that is not there.
const UNIMPLEMENTED: &str = "12";

/// Whether the server at an address says that a service is well; the empty name is the server itself.
pub(super) async fn check(at: &Site, service: &str) -> Result<(), String> {
    let unreachable = |error: String| format!("error: failed to connect service at \"{at}\": {error}");
    let stream = at.connect().await.map_err(unreachable)?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    let request = Request::post(format!("http://{at}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(question(service)))
        .map_err(|error| error.to_string())?;
    let failed = |error: String| format!("error: health rpc probe failed: {error}");
    let exchange = async {
        let (head, body) =
            sender.send_request(request).await.map_err(|error| failed(error.to_string()))?.into_parts();
        if head.status != StatusCode::OK {
            return Err(failed(format!("unexpected HTTP status code received from server: {}", head.status)));
        }
        let body =
            Limited::new(body, ANSWER_BYTES).collect().await.map_err(|error| failed(error.to_string()))?;
        // A server that refuses says so in the head.
        judge(body.trailers().unwrap_or(&head.headers))?;
        let status =
            status(&body.to_bytes()).ok_or_else(|| failed("the answer is no HealthCheckResponse".into()))?;
        match STATUSES.get(status) {
            Some(_) if status == SERVING => Ok(()),
            Some(name) => Err(format!("service unhealthy (responded with {name:?})")),
            None => Err(format!("service unhealthy (responded with \"{status}\")")),
        }
    };
    tokio::select! {
        biased;
        answer = exchange => answer,
        _ = connection => Err(failed("the connection ended before the answer".into())),
    }
}

/// What `grpc-status` means; one that is missing is an answer that was cut off.
fn judge(headers: &HeaderMap) -> Result<(), String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let message = text("grpc-message").unwrap_or_default();
    match text("grpc-status") {
        Some("0") => Ok(()),
        Some(UNIMPLEMENTED) => Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        )),
        Some(code) => Err(format!("error: health rpc probe failed: code {code}: {message}")),
        None => Err("error: health rpc probe failed: the answer has no grpc-status".into()),
    }
}

/// A message of one frame: `HealthCheckRequest{service}`, whose only field is the text with number 1.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length > 0x7f {
            message.push((length & 0x7f | 0x80) as u8);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

/// The status in a frame: the number with the field number 1, zero if it is left out. Fields of later versions are
/// skipped as far as they are numbers.
fn status(frame: &[u8]) -> Option<usize> {
    let (&[0, a, b, c, d], message) = frame.split_first_chunk::<5>()? else { return None };
    let mut message = message.get(..usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?)?;
    let mut status = 0;
    while !message.is_empty() {
        let (key, value) = (varint(&mut message)?, varint(&mut message)?);
        match key {
            0x08 => status = usize::try_from(value).ok()?,
            key if key & 7 == 0 => {}
            _ => return None,
        }
    }
    Some(status)
}

/// The next number; nothing if it is cut off or has more than 64 bits.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests;
