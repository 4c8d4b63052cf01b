//! A client of the API: one connection, one request after the other, as fast as bytes go.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// Where the API is, and who asks.
#[derive(Clone)]
pub(crate) struct Access {
    server: String,
    config: Arc<ClientConfig>,
}

impl Access {
    /// As a kubeconfig says.
    pub(crate) fn read(kubeconfig: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(kubeconfig)?;
        let config: Value = serde_saphyr::from_str(&text)?;
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let bytes = |of: &Value, field: &str| -> Result<Vec<u8>> {
            let text = of[field].as_str().with_context(|| format!("the kubeconfig has no {field}"))?;
            Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&bytes(cluster, "certificate-authority-data")?) {
            roots.add(certificate?)?;
        }
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(&bytes(user, "client-certificate-data")?).collect();
        let key = PrivateKeyDer::from_pem_slice(&bytes(user, "client-key-data")?)?;
        let config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates?, key)?;
        let server = cluster["server"].as_str().and_then(|url| url.strip_prefix("https://"));
        Ok(Self { server: server.context("the kubeconfig names no server")?.into(), config: config.into() })
    }

    /// The address to connect to.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// The host to ask for.
    pub(crate) fn host(&self) -> &str {
        self.server.rsplit_once(':').map_or(&*self.server, |(host, _)| host)
    }

    /// Whom the server has to prove to be.
    pub(crate) fn name(&self) -> Result<ServerName<'static>> {
        Ok(ServerName::try_from(self.host().trim_matches(['[', ']']).to_owned())?)
    }

    /// Whom to trust, and who asks.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    pub(crate) fn connect(&self) -> Result<Api> {
        let stream = TcpStream::connect(&self.server)?;
        stream.set_nodelay(true)?;
        let connection = ClientConnection::new(self.config(), self.name()?)?;
        let stream = BufReader::with_capacity(64 << 10, StreamOwned::new(connection, stream));
        Ok(Api { stream, host: self.host().into() })
    }
}

impl Access {
    /// Does something for so many numbers, over several connections.
    pub(crate) fn write(
        &self,
        connections: u32,
        count: u32,
        write: impl Fn(&mut Api, u32) -> Result<()> + Sync,
    ) -> Result<()> {
        let next = AtomicU32::new(0);
        let writer = || -> Result<()> {
            let mut api = self.connect()?;
            loop {
                match next.fetch_add(1, Ordering::Relaxed) {
                    number if number < count => write(&mut api, number)?,
                    _ => return Ok(()),
                }
            }
        };
        in_parallel(connections, writer).map(drop)
    }
}

/// Runs the same in so many threads.
pub(crate) fn in_parallel<T: Send>(threads: u32, work: impl Fn() -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        let joined = all.into_iter().map(|one| one.join());
        joined.map(|result| result.unwrap_or_else(|_| bail!("a client has died"))).collect()
    })
}

/// A connection to the API.
pub(crate) struct Api {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    host: String,
}

impl Api {
    /// Reads what is at a path.
    pub(crate) fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        self.send("GET", path, "")
    }

    /// Creates an object; how it is stored.
    pub(crate) fn create(&mut self, path: &str, object: &Value) -> Result<Vec<u8>> {
        self.write("POST", path, "application/json", object)
    }

    /// Changes parts of an object (RFC 7386).
    pub(crate) fn patch(&mut self, path: &str, parts: &Value) -> Result<()> {
        self.write("PATCH", path, "application/merge-patch+json", parts).map(drop)
    }

    fn write(&mut self, method: &str, path: &str, kind: &str, body: &Value) -> Result<Vec<u8>> {
        let body = body.to_string();
        let rest = format!("Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.send(method, path, &rest)
    }

    /// Sends a request, `rest` being what follows the first fields of its head; the body of the answer.
    fn send(&mut self, method: &str, path: &str, rest: &str) -> Result<Vec<u8>> {
        let end = if rest.is_empty() { "\r\n" } else { rest };
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n{end}", self.host);
        let stream = self.stream.get_mut();
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let first = self.line()?;
        let mut length = None;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':') {
                None => break,
                Some(("content-length", value)) => length = Some(value.trim().parse::<usize>()?),
                Some(_) => {}
            }
        }
        let mut answer = Vec::new();
        match length {
            Some(length) => self.take(length, &mut answer)?,
            // RFC 9112 section 7.1.
            None => loop {
                let size =
                    usize::from_str_radix(&self.line()?, 16).context("an answer without its length")?;
                self.take(size, &mut answer)?;
                self.line()?;
                if size == 0 {
                    break;
                }
            },
        }
        if !first.split(' ').nth(1).unwrap_or_default().starts_with('2') {
            bail!("{method} {path}: {first}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(answer)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "the API server has hung up");
        line.truncate(line.trim_end().len());
        Ok(line)
    }

    fn take(&mut self, bytes: usize, answer: &mut Vec<u8>) -> Result<()> {
        let from = answer.len();
        answer.resize(from + bytes, 0);
        Ok(self.stream.read_exact(&mut answer[from..])?)
    }
}
