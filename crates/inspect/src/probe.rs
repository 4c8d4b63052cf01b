//! What runs inside the test's pods: connect to each target, say how it went, in the termination message.
//!
//! A target is `NAME=PROTOCOL://ADDRESS:PORT`. Protocols: `http` (an echo server over TCP), `udp` (the same over
//! UDP), `api` (a Kubernetes API over TLS) and `reach` (anything that answers, be it with a refusal).

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Where a container's last word goes (`terminationMessagePath`'s default).
const TERMINATION_LOG: &str = "/dev/termination-log";
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// How long a target gets in all: rules and endpoints of new Services need a moment to reach every node.
const PATIENCE: Duration = Duration::from_secs(6);
/// Attempts that are timed.
const MEASURED: usize = 5;
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// The cluster's CA, where the test mounts it.
const CA: &str = "/var/run/dyad-test/ca.crt";

/// What became of one target. Field names are short: a termination message holds 4096 bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// The target's name.
    #[serde(rename = "n")]
    pub(crate) name: String,
    /// Microseconds from the first packet to the whole answer, the median of a few attempts.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub(crate) micros: Option<u64>,
    /// Why the last attempt failed.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// `dyad internal probe TARGET...`; exits with 0 whatever the targets do, as the message tells it all.
pub(crate) fn main(targets: &[String]) -> ExitCode {
    // All at once, as each may have to wait for rules to arrive; then, for the time it takes, one at a time.
    let threads: Vec<_> =
        targets.iter().cloned().map(|target| std::thread::spawn(move || probe(&target))).collect();
    let outcomes: Vec<Outcome> = threads
        .into_iter()
        .zip(targets)
        .map(|(thread, target)| thread.join().unwrap_or_else(|_| failed(target, "the probe panicked")))
        .collect();
    let measured = outcomes.into_iter().zip(targets).map(|(outcome, target)| measure(outcome, target));
    let outcomes: Vec<Outcome> = measured.collect();
    let text = serde_json::to_string(&outcomes).unwrap_or_default();
    println!("{text}");
    match std::fs::write(TERMINATION_LOG, &text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: can't write {TERMINATION_LOG}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One attempt to reach an address.
type Attempt = fn(SocketAddr) -> Result<(), String>;

fn parse(target: &str) -> Result<(Attempt, SocketAddr), String> {
    let (_, url) = target.split_once('=').unwrap_or((target, ""));
    let parsed =
        url.split_once("://").and_then(|(protocol, at)| Some((protocol, at.parse::<SocketAddr>().ok()?)));
    let (protocol, at) = parsed.ok_or_else(|| format!("{url:?} is not a target"))?;
    let attempt: Attempt = match protocol {
        "http" => http,
        "udp" => udp,
        "api" => api,
        "reach" => reach,
        other => return Err(format!("{other:?} is not a protocol")),
    };
    Ok((attempt, at))
}

fn failed(target: &str, why: &str) -> Outcome {
    let name = target.split_once('=').map_or(target, |(name, _)| name);
    Outcome { name: name.into(), micros: None, error: Some(why.chars().take(80).collect()) }
}

/// Tries until it works or patience is over.
fn probe(target: &str) -> Outcome {
    let (attempt, at) = match parse(target) {
        Ok(parsed) => parsed,
        Err(why) => return failed(target, &why),
    };
    let begun = Instant::now();
    loop {
        let start = Instant::now();
        match attempt(at) {
            Ok(()) => {
                let micros = start.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
                return Outcome { micros: Some(micros), error: None, ..failed(target, "") };
            }
            Err(why) if begun.elapsed() > PATIENCE => return failed(target, &why),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// The median time of a few more attempts, on a target that works.
fn measure(outcome: Outcome, target: &str) -> Outcome {
    let (Some(first), Ok((attempt, at))) = (outcome.micros, parse(target)) else { return outcome };
    let mut times: Vec<u64> = Vec::new();
    for _ in 0..MEASURED {
        let start = Instant::now();
        match attempt(at) {
            Ok(()) => times.push(start.elapsed().as_micros().try_into().unwrap_or(u64::MAX)),
            // What worked a moment ago and does not now, does not work.
            Err(why) => return failed(target, &why),
        }
    }
    times.sort_unstable();
    Outcome { micros: Some(times.get(times.len() / 2).copied().unwrap_or(first)), ..outcome }
}

fn connect(at: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&at, ATTEMPT)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    stream.set_write_timeout(Some(ATTEMPT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A short reason; timeouts have two names in the standard library.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "no answer".into(),
        ErrorKind::ConnectionRefused => "refused".into(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable".into(),
        _ => error.to_string(),
    }
}

fn http(at: SocketAddr) -> Result<(), String> {
    let run = || -> std::io::Result<Vec<u8>> {
        let mut stream = connect(at)?;
        // One write, one segment.
        let request = format!("GET / HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(16 * 1024).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = run().map_err(|error| reason(&error))?;
    if answer.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err("the answer is not HTTP 200".into()) }
}

fn udp(at: SocketAddr) -> Result<(), String> {
    let run = || -> std::io::Result<usize> {
        let any: SocketAddr = match at {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(ATTEMPT))?;
        // Connected, so that an answer from another address than the one asked does not count.
        socket.connect(at)?;
        socket.send(b"dyad")?;
        socket.recv(&mut [0; 2048])
    };
    run().map(drop).map_err(|error| reason(&error))
}

fn reach(at: SocketAddr) -> Result<(), String> {
    match connect(at) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(reason(&error)),
    }
}

/// Asks the API for its version, with its certificate checked for the very address that was asked.
fn api(at: SocketAddr) -> Result<(), String> {
    let ca = std::fs::read(CA).map_err(|error| format!("{CA}: {error}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let text = |error: &dyn std::error::Error| {
            // The outermost message says "service error"; the last one says why.
            let mut last = error;
            while let Some(source) = last.source() {
                last = source;
            }
            last.to_string()
        };
        let url = format!("https://{at}").parse().map_err(|_| "not a URL".to_owned())?;
        let mut config = kube::Config::new(url);
        config.root_cert = Some(pem_to_der(&ca)?);
        let client = kube::Client::try_from(config).map_err(|error| text(&error))?;
        match tokio::time::timeout(ATTEMPT, client.apiserver_version()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(text(&error)),
            Err(_) => Err("no answer".into()),
        }
    })
}

fn pem_to_der(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    CertificateDer::pem_slice_iter(pem)
        .map(|cert| cert.map(|cert| cert.to_vec()).map_err(|error| error.to_string()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn each_protocol_tells_an_answer_from_none() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(loopback).unwrap();
            let at = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                // The request is read, so that closing does not reset the connection before the answer is.
                let _ = stream.read(&mut [0; 1024]).unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            });
            assert_eq!(http(at), Ok(()), "{loopback}");
            server.join().unwrap();
            assert_eq!(http(at), Err("refused".into()), "{loopback}");
            assert_eq!(reach(at), Ok(()), "a refusal is an answer, {loopback}");

            let echo = UdpSocket::bind(loopback).unwrap();
            let at = echo.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (_, peer) = echo.recv_from(&mut [0; 64]).unwrap();
                echo.send_to(b"dyad", peer).unwrap();
            });
            assert_eq!(udp(at), Ok(()), "{loopback}");
            server.join().unwrap();
        }
    }

    #[test]
    fn what_is_no_target_is_said() {
        for target in ["", "x", "x=http://", "x=gopher://127.0.0.1:1", "x=http://name:80"] {
            assert!(probe(target).error.is_some(), "{target}");
        }
    }
}
