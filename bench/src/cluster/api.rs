//! A client of the API: one connection, one request after the other, as fast as bytes go.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

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

    pub(crate) fn connect(&self) -> Result<Api> {
        let stream = TcpStream::connect(&self.server)?;
        stream.set_nodelay(true)?;
        let host = self.server.rsplit_once(':').map_or(&*self.server, |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        let connection = ClientConnection::new(self.config.clone(), name)?;
        Ok(Api { stream: BufReader::new(StreamOwned::new(connection, stream)), host: host.into() })
    }
}

/// A connection to the API.
pub(crate) struct Api {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    host: String,
}

impl Api {
    /// Creates an object.
    pub(crate) fn create(&mut self, path: &str, object: &Value) -> Result<()> {
        self.send("POST", path, "application/json", object)
    }

    /// Changes parts of an object (RFC 7386).
    pub(crate) fn patch(&mut self, path: &str, parts: &Value) -> Result<()> {
        self.send("PATCH", path, "application/merge-patch+json", parts)
    }

    fn send(&mut self, method: &str, path: &str, kind: &str, body: &Value) -> Result<()> {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        let stream = self.stream.get_mut();
        stream.write_all(request.as_bytes())?;
        stream.flush()?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut length = None;
        loop {
            line.clear();
            ensure!(self.stream.read_line(&mut line)? > 0, "the API server has hung up");
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        let mut answer = vec![0; length.context("an answer without its length")?];
        self.stream.read_exact(&mut answer)?;
        if !status.starts_with('2') {
            bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }
}
