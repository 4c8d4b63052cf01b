use std::convert::Infallible;

use http::{HeaderValue, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use tokio::net::TcpListener;

use super::*;

/// A server that answers one connection, each question with this status of gRPC and this message; it gives what was
/// asked.
async fn serve(listener: &TcpListener, code: &'static str, message: &'static [u8]) -> Vec<u8> {
    let (stream, _) = listener.accept().await.unwrap();
    let (tell, asked) = std::sync::mpsc::channel();
    let answer = service_fn(move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.headers()["te"], "trailers");
            tell.send(request.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static(code));
            trailers.insert("grpc-message", HeaderValue::from_static("why"));
            let frames = [Frame::data(Bytes::from_static(message)), Frame::trailers(trailers)];
            let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>)));
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    let served = server::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer);
    // The client just goes away.
    let _ = served.await;
    asked.try_recv().unwrap_or_default()
}

/// Address, service, code and message of the answer, and what is made of them.
type Row = (&'static str, &'static str, &'static str, &'static [u8], Result<(), &'static str>);

#[tokio::test]
async fn a_server_is_well_if_it_says_so_in_either_family() {
    const OK: Result<(), &str> = Ok(());
    #[rustfmt::skip]
    let rows: [Row; 8] = [
        ("127.0.0.1", "",    "0",  &[0, 0, 0, 0, 2, 8, 1],      OK),
        ("::1",       "web", "0",  &[0, 0, 0, 0, 2, 8, 1],      OK),
        ("::1",       "",    "0",  &[0, 0, 0, 0, 4, 16, 9, 8, 1], OK),
        ("127.0.0.1", "",    "0",  &[0, 0, 0, 0, 2, 8, 2],      Err("service unhealthy (responded with \"NOT_SERVING\")")),
        ("127.0.0.1", "",    "0",  &[0, 0, 0, 0, 0],            Err("service unhealthy (responded with \"UNKNOWN\")")),
        ("::1",       "",    "0",  &[0, 0, 0, 0, 9, 8, 1],      Err("error: health rpc probe failed: the answer is no HealthCheckResponse")),
        ("::1",       "",    "12", &[],
            Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): why")),
        ("127.0.0.1", "x",   "5",  &[],                         Err("error: health rpc probe failed: code 5: why")),
    ];
    for (ip, service, code, message, want) in rows {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let at = Site::new(ip, listener.local_addr().unwrap().port(), vec![ip.parse().unwrap()]);
        let (got, asked) = tokio::join!(check(&at, service), serve(&listener, code, message));
        assert_eq!(got.as_ref().map_err(String::as_str).copied(), want, "{ip} {service} {code} {message:?}");
        assert_eq!(asked, question(service), "{ip} {service}");
    }
}

#[tokio::test]
async fn nobody_there_and_somebody_else_are_told_apart() {
    let listener = TcpListener::bind(("::1", 0)).await.unwrap();
    let at = Site::find("::1", listener.local_addr().unwrap().port()).await.unwrap();
    let other = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    };
    let (problem, ()) = tokio::join!(check(&at, ""), other);
    assert!(problem.unwrap_err().starts_with("error: "), "not gRPC");
    drop(listener);
    let want =
        format!("error: failed to connect service at \"{at}\": dial tcp {at}: connect: connection refused");
    assert_eq!(check(&at, "").await, Err(want));
}

#[test]
fn names_longer_than_a_byte_can_count_have_their_length_in_two() {
    let name = "x".repeat(300);
    assert_eq!(question(&name)[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 2]);
    assert_eq!(question(""), [0; 5][..]);
}

/// Whatever a pod answers, it is a number or nothing.
#[test]
fn nonsense_is_no_status() {
    let mut dice = crate::probe::tests::dice();
    for _ in 0..5000 {
        let length = dice() % 40;
        let mut frame = if !dice().is_multiple_of(4) { vec![0, 0, 0, 0, length as u8] } else { Vec::new() };
        // Numbers of one byte, and now and then more of them.
        frame.extend((0..length).map(|_| if dice().is_multiple_of(3) { 8 } else { dice() as u8 }));
        if let Some(status) = status(&frame) {
            assert!(frame.len() >= 5 && frame[0] == 0, "{frame:?}");
            assert!(status == 0 || frame.contains(&8), "{frame:?}");
        }
    }
}
