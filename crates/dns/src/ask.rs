//! Asking a name server one question, for people and tests: over UDP, and over TCP if the answer is cut.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::respond::{Transport, UDP_SIZE};
use crate::wire::{Edns, Header, Message, Name, Question, Rtype};

/// How a question is asked.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Over TCP from the beginning.
    pub tcp: bool,
    /// With DNSSEC's records (DO).
    pub dnssec: bool,
    /// How long to wait for each attempt.
    pub patience: Duration,
    /// Attempts over UDP.
    pub attempts: u32,
}

impl Default for Manner {
    fn default() -> Self {
        Self { tcp: false, dnssec: false, patience: Duration::from_secs(2), attempts: 2 }
    }
}

/// An answer, and how it came.
#[derive(Clone, Debug)]
pub struct Told {
    /// The answer.
    pub message: Message,
    /// Over what.
    pub transport: Transport,
    /// How long it took, TCP's second attempt included.
    pub took: Duration,
}

/// Asks `server`.
pub fn ask(server: SocketAddr, name: &Name, rtype: Rtype, manner: Manner) -> io::Result<Told> {
    let begun = Instant::now();
    let mut query = Message::new(Header::query(rand::random()), Some(Question::new(name.clone(), rtype)));
    query.edns = Some(Edns { udp_size: UDP_SIZE, dnssec_ok: manner.dnssec, ..Edns::default() });
    if !manner.tcp {
        let answer = over_udp(server, &query, manner)?;
        if !answer.header.truncated {
            return Ok(Told { message: answer, transport: Transport::Udp, took: begun.elapsed() });
        }
    }
    let message = over_tcp(server, &query, manner.patience)?;
    Ok(Told { message, transport: Transport::Tcp, took: begun.elapsed() })
}

fn over_udp(server: SocketAddr, query: &Message, manner: Manner) -> io::Result<Message> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    let mut buffer = [0; 65_535];
    for _ in 0..manner.attempts.max(1) {
        socket.send(&query.to_bytes())?;
        let end = Instant::now() + manner.patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            match socket.recv(&mut buffer) {
                Ok(length) => match Message::parse(&buffer[..length]) {
                    Ok(answer) if is_answer(query, &answer) => return Ok(answer),
                    // Not to this question: it may be an old one's, or a stranger's.
                    Ok(_) | Err(_) => {}
                },
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) => return Err(error),
            }
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"))
}

fn over_tcp(server: SocketAddr, query: &Message, patience: Duration) -> io::Result<Message> {
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let bytes = query.to_bytes();
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let answer = Message::parse(&answer).map_err(|why| invalid(format!("the answer is malformed: {why}")))?;
    if is_answer(query, &answer) {
        Ok(answer)
    } else {
        Err(invalid("the answer is to another question".into()))
    }
}

fn is_answer(query: &Message, answer: &Message) -> bool {
    answer.header.response && answer.header.id == query.header.id && answer.questions == query.questions
}
