//! Whom a probe asks: a pod at one of its addresses, or a host by whatever name.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;

/// A host as it is called, without brackets, with a port and the addresses it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    host: String,
    port: u16,
    ips: Vec<IpAddr>,
}

impl fmt::Display for Site {
    /// As it stands in URLs: IPv6 literals in brackets (RFC 3986, 3.2.2).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse() {
            Ok(ip) => SocketAddr::new(ip, self.port).fmt(f),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Site {
    /// A host whose addresses are known.
    pub(super) fn new(host: &str, port: u16, ips: Vec<IpAddr>) -> Self {
        Self { host: host.to_owned(), port, ips }
    }

    /// A host by its name or address, an IPv6 literal with brackets or without.
    pub(super) async fn find(host: &str, port: u16) -> Result<Self, String> {
        let host = bare(host);
        let ips = match host.parse() {
            Ok(ip) => vec![ip],
            Err(_) => {
                let found = tokio::net::lookup_host((host, port)).await;
                found.map_err(|error| format!("lookup {host}: {error}"))?.map(|at| at.ip()).collect()
            }
        };
        Ok(Self::new(host, port, ips))
    }

    /// The same host at another port.
    pub(super) fn with_port(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    /// Whether `host` is another spelling of it.
    pub(super) fn is_called(&self, host: &str) -> bool {
        let host = bare(host);
        match (self.host.parse::<IpAddr>(), host.parse::<IpAddr>()) {
            (Ok(own), Ok(other)) => own == other,
            (Err(_), Err(_)) => self.host.eq_ignore_ascii_case(host),
            _ => false,
        }
    }

    /// A connection to the first of its addresses that takes one; the error says what and why as Go does.
    pub(super) async fn connect(&self) -> Result<TcpStream, String> {
        let mut problem = None;
        for ip in &self.ips {
            let at = SocketAddr::new(*ip, self.port);
            match TcpStream::connect(at).await {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    problem.get_or_insert_with(|| format!("dial tcp {at}: connect: {}", spoken(&error)));
                }
            }
        }
        Err(problem.unwrap_or_else(|| format!("lookup {}: no such host", self.host)))
    }

    /// What it is called in TLS.
    pub(super) fn server_name(&self) -> io::Result<ServerName<'static>> {
        ServerName::try_from(self.host.clone()).map_err(io::Error::other)
    }
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// What the system calls an error, without its number.
pub(super) fn spoken(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_host_is_found_in_any_spelling_and_written_as_in_urls() {
        for (host, want) in [
            ("127.0.0.1", "127.0.0.1:80"),
            ("::1", "[::1]:80"),
            ("[::1]", "[::1]:80"),
            ("fd00:0:0::5", "[fd00::5]:80"),
        ] {
            assert_eq!(Site::find(host, 80).await.unwrap().to_string(), want, "{host}");
        }
        assert_eq!(Site::new("web.x", 80, Vec::new()).to_string(), "web.x:80");
        let problem = Site::new("web.x", 80, Vec::new()).connect().await.unwrap_err();
        assert_eq!(problem, "lookup web.x: no such host");
    }

    #[tokio::test]
    async fn a_host_of_both_families_is_reached_in_the_one_that_answers() {
        for (loopback, others) in [("127.0.0.1", ["::1", "127.0.0.1"]), ("::1", ["127.0.0.1", "::1"])] {
            let listener = TcpListener::bind((loopback, 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let ips: Vec<IpAddr> = others.iter().map(|ip| ip.parse().unwrap()).collect();
            let stream = Site::new("both.x", port, ips).connect().await.unwrap();
            // Should somebody else have that port at the other address, that one was asked.
            assert!(others.contains(&stream.peer_addr().unwrap().ip().to_string().as_str()));
        }
    }
}
