//! What runs inside the test's pods: connect to each target, say how it went, in the termination message.
//!
//! A target is `NAME=PROTOCOL://ADDRESS:PORT`. Protocols: `http` (an echo server over TCP), `udp` (the same over
//! UDP), `api` (a Kubernetes API over TLS), `reach` (anything that answers, be it with a refusal), `sticky` (one and the
//! same echo server, however often it is asked), `source` (an echo server that sees the address of this end), `blocked`
//! (no answer at all), `refused` and `refused-udp` (a refusal at once), and those of [`names`].

mod names;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
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
/// Connections that session affinity has to lead to one server.
const STICKY: usize = 20;
/// How long nothing comes back from where policy blocks.
const SILENCE: Duration = Duration::from_millis(400);
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
    /// DNS pods that fail as well when they are asked for the same directly, after a failure.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub(crate) pods: Option<Vec<IpAddr>>,
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
    let outcomes: Vec<Outcome> = blame(measured.collect(), targets);
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

/// What a target asks for.
enum Task {
    /// To reach an address; whether how long it takes says something.
    Reach { attempt: Attempt, at: SocketAddr, timed: bool },
    /// What a name server says.
    Names(names::Asked),
}

impl Task {
    fn attempt(&self) -> Result<(), String> {
        match self {
            Self::Reach { attempt, at, .. } => attempt(*at),
            Self::Names(asked) => asked.ask(),
        }
    }

    /// What else there is to say of a failure.
    fn blame(&self) -> Option<Vec<IpAddr>> {
        match self {
            Self::Reach { .. } => None,
            Self::Names(asked) => asked.failing_pods(),
        }
    }
}

fn parse(target: &str) -> Result<Task, String> {
    let (_, url) = target.split_once('=').unwrap_or((target, ""));
    let wrong = || format!("{url:?} is not a target");
    let (protocol, rest) = url.split_once("://").ok_or_else(wrong)?;
    let (at, path) = rest.split_once('/').unwrap_or((rest, ""));
    let at: SocketAddr = at.parse().map_err(|_| wrong())?;
    if let Some(manner) = names::Manner::named(protocol) {
        return names::Asked::parse(manner, at, path).map(Task::Names).ok_or_else(wrong);
    }
    let attempt: Attempt = match protocol {
        "http" => http,
        "udp" => udp,
        "api" => api,
        "reach" => reach,
        "sticky" => sticky,
        "source" => source,
        "blocked" => blocked,
        "refused" => refused,
        "refused-udp" => refused_udp,
        other => return Err(format!("{other:?} is not a protocol")),
    };
    // Silence takes as long as one waits for it. And the kernel sends a host six ICMP errors in a row, then one a
    // second (icmp_ratelimit): more attempts would ask for what it does not send.
    Ok(Task::Reach { attempt, at, timed: !matches!(protocol, "blocked" | "refused-udp") })
}

fn failed(target: &str, why: &str) -> Outcome {
    let name = target.split_once('=').map_or(target, |(name, _)| name);
    Outcome { name: name.into(), micros: None, error: Some(why.chars().take(80).collect()), pods: None }
}

/// Tries until it works or patience is over.
fn probe(target: &str) -> Outcome {
    let task = match parse(target) {
        Ok(task) => task,
        Err(why) => return failed(target, &why),
    };
    let begun = Instant::now();
    loop {
        let start = Instant::now();
        match task.attempt() {
            Ok(()) => {
                let micros = start.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
                return Outcome { micros: Some(micros), error: None, ..failed(target, "") };
            }
            Err(why) if begun.elapsed() > PATIENCE => return failed(target, &why),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// What else there is to say of failures, all at once as it may take its time.
fn blame(outcomes: Vec<Outcome>, targets: &[String]) -> Vec<Outcome> {
    let asking = |(outcome, target): (Outcome, &String)| {
        let task = parse(target).ok().filter(|_| outcome.error.is_some());
        (outcome, task.map(|task| std::thread::spawn(move || task.blame())))
    };
    let asking: Vec<_> = outcomes.into_iter().zip(targets).map(asking).collect();
    let told = asking.into_iter().map(|(outcome, thread)| {
        let pods = thread.and_then(|thread| thread.join().ok().flatten());
        Outcome { pods, ..outcome }
    });
    told.collect()
}

/// The median time of a few more attempts, on a target that works.
fn measure(outcome: Outcome, target: &str) -> Outcome {
    let (Some(first), Ok(task)) = (outcome.micros, parse(target)) else { return outcome };
    if matches!(task, Task::Reach { timed: false, .. }) {
        return outcome;
    }
    let mut times: Vec<u64> = Vec::new();
    for _ in 0..MEASURED {
        let start = Instant::now();
        match task.attempt() {
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
    ask(at).map(drop)
}

/// Asks an echo server who asked it; returns the local address of the connection and the answer.
fn ask(at: SocketAddr) -> Result<(SocketAddr, String), String> {
    let run = || -> std::io::Result<(SocketAddr, Vec<u8>)> {
        let mut stream = connect(at)?;
        let local = stream.local_addr()?;
        // One write, one segment.
        let request = format!("GET / HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(16 * 1024).read_to_end(&mut answer)?;
        Ok((local, answer))
    };
    let (local, answer) = run().map_err(|error| reason(&error))?;
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err("the answer is not HTTP 200".into());
    }
    Ok((local, String::from_utf8_lossy(&answer).into_owned()))
}

/// A line of an echo server's answer.
fn told<'a>(answer: &'a str, key: &str) -> Result<&'a str, String> {
    let line = answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    line.map(str::trim).ok_or_else(|| format!("the answer has no {key}"))
}

fn sticky(at: SocketAddr) -> Result<(), String> {
    let mut servers = std::collections::BTreeSet::new();
    for _ in 0..STICKY {
        servers.insert(told(&ask(at)?.1, "hostname")?.to_owned());
    }
    match servers.len() {
        1 => Ok(()),
        count => Err(format!("{count} endpoints answered {STICKY} connections of one client")),
    }
}

fn source(at: SocketAddr) -> Result<(), String> {
    let (local, answer) = ask(at)?;
    let peer = told(&answer, "peer")?;
    match peer.parse::<SocketAddr>() {
        Ok(seen) if seen.ip() == local.ip() => Ok(()),
        _ => Err(format!("the server sees {peer} and not {}", local.ip())),
    }
}

fn blocked(at: SocketAddr) -> Result<(), String> {
    match TcpStream::connect_timeout(&at, SILENCE) {
        Ok(_) => Err("connected, though policy does not admit it".into()),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
        Err(error) => Err(format!("{}: policy should drop without a word", reason(&error))),
    }
}

fn refused(at: SocketAddr) -> Result<(), String> {
    match connect(at) {
        Ok(_) => Err("connected, though there is no endpoint".into()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(format!("{} instead of a refusal", reason(&error))),
    }
}

fn refused_udp(at: SocketAddr) -> Result<(), String> {
    match exchange(at) {
        Ok(_) => Err("answered, though there is no endpoint".into()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(format!("{} instead of a refusal", reason(&error))),
    }
}

fn udp(at: SocketAddr) -> Result<(), String> {
    exchange(at).map(drop).map_err(|error| reason(&error))
}

/// Sends a datagram and waits for one to come back.
fn exchange(at: SocketAddr) -> std::io::Result<usize> {
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

    /// An echo server that gives these answers, one a connection.
    fn server(loopback: &str, answers: Vec<String>) -> (SocketAddr, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind(loopback).unwrap();
        let at = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                let answer = answer.replace("PEER", &stream.peer_addr().unwrap().to_string());
                stream.write_all(format!("HTTP/1.1 200 OK\r\n\r\n{answer}\n").as_bytes()).unwrap();
            }
        });
        (at, thread)
    }

    #[test]
    fn who_answers_and_whom_it_sees_is_told_apart() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let mut names: Vec<String> = vec!["hostname: a".into(); STICKY];
            let (at, thread) = server(loopback, names.clone());
            assert_eq!(sticky(at), Ok(()), "{loopback}");
            thread.join().unwrap();
            names[7] = "hostname: b".into();
            let (at, thread) = server(loopback, names);
            assert_eq!(sticky(at), Err("2 endpoints answered 20 connections of one client".into()));
            thread.join().unwrap();
            let answers = ["peer: PEER", "peer: 192.0.2.1:1"].map(str::to_owned).to_vec();
            let (at, thread) = server(loopback, answers);
            assert_eq!(source(at), Ok(()), "{loopback}");
            assert!(source(at).is_err_and(|why| why.contains("192.0.2.1:1")), "{loopback}");
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_refusal_is_no_silence_and_no_answer() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(loopback).unwrap();
            let at = listener.local_addr().unwrap();
            assert!(refused(at).is_err() && blocked(at).is_err(), "{loopback}: it listens");
            drop(listener);
            assert_eq!(refused(at), Ok(()), "{loopback}");
            assert!(blocked(at).is_err(), "{loopback}: it refuses");
            let socket = UdpSocket::bind(loopback).unwrap();
            let at = socket.local_addr().unwrap();
            drop(socket);
            assert_eq!(refused_udp(at), Ok(()), "{loopback}");
        }
    }

    #[test]
    fn what_is_no_target_is_said() {
        for target in [
            "",
            "x",
            "x=http://",
            "x=gopher://127.0.0.1:1",
            "x=http://name:80",
            "x=dns://127.0.0.1:53",
            "x=dns://127.0.0.1:53/A",
            "x=dns://127.0.0.1:53/NOTYPE/name//",
        ] {
            assert!(probe(target).error.is_some(), "{target}");
        }
    }
}
