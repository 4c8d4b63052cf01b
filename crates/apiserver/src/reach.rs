//! How this server reaches what is behind it: kubelets, pods, endpoints of Services.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use crate::http::RequestBody;
use crate::tls::{ServingCertificate, TlsError};

/// Longest wait for a connection to one address.
const DIAL_MAX: Duration = Duration::from_secs(5);
/// Longest TLS handshake, as Kubernetes has it.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Makes a socket to connect to an address with.
type Sockets = dyn Fn(SocketAddr) -> io::Result<TcpSocket> + Send + Sync;

/// Ways to kubelets, pods and endpoints.
#[derive(Clone)]
pub struct Reach {
    sockets: Arc<Sockets>,
    kubelet: Arc<ClientConfig>,
    anyone: Arc<ClientConfig>,
}

impl fmt::Debug for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reach").finish_non_exhaustive()
    }
}

/// Whom a connection is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS with whoever is there, as Kubernetes does it for pods and Services.
    Https,
    /// Over TLS with a kubelet, which is shown who this is.
    Kubelet,
}

/// A place to connect to: addresses of one thing, the preferred one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) scheme: Scheme,
    pub(crate) at: Vec<SocketAddr>,
}

impl Peer {
    /// `HOST:PORT` of the preferred address.
    pub(crate) fn host(&self) -> String {
        self.at.first().map(SocketAddr::to_string).unwrap_or_default()
    }
}

impl Reach {
    /// Through this process' own network. Kubelets are shown `identity`, if there is one, and must show certificates of
    /// the authority `ca_pem`; without one they are taken at their word, as Kubernetes does by default.
    ///
    /// # Errors
    ///
    /// If the identity or the authority is no PEM, or can't be used.
    pub fn new(identity: Option<Arc<ServingCertificate>>, ca_pem: Option<&str>) -> Result<Self, TlsError> {
        fn unusable<E: std::error::Error + Send + Sync + 'static>(
            what: &'static str,
        ) -> impl Fn(E) -> TlsError {
            move |source| TlsError::Unusable { what, source: Box::new(source) }
        }
        let provider = Arc::new(ring::default_provider());
        let builder = || {
            let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
            builder.with_safe_default_protocol_versions().map_err(unusable("set of protocol versions"))
        };
        let trusting = Arc::new(Trusting(Arc::clone(&provider)));
        let trusted = match ca_pem {
            None => builder()?.dangerous().with_custom_certificate_verifier(Arc::clone(&trusting) as _),
            Some(pem) => {
                let what = "certificate authority of kubelets";
                let mut roots = RootCertStore::empty();
                for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    let root = root.map_err(|source| TlsError::Pem { what, source })?;
                    roots.add(root).map_err(unusable(what))?;
                }
                builder()?.with_root_certificates(roots)
            }
        };
        let kubelet = match identity {
            None => trusted.with_no_client_auth(),
            Some(identity) => trusted.with_client_cert_resolver(identity),
        };
        let anyone = builder()?.dangerous().with_custom_certificate_verifier(trusting).with_no_client_auth();
        let http1 = |mut config: ClientConfig| {
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(config)
        };
        Ok(Self { sockets: Arc::new(own_socket), kubelet: http1(kubelet), anyone: http1(anyone) })
    }

    /// The same through sockets that someone else makes, in another network namespace for instance.
    #[must_use]
    pub fn through(
        self,
        sockets: impl Fn(SocketAddr) -> io::Result<TcpSocket> + Send + Sync + 'static,
    ) -> Self {
        Self { sockets: Arc::new(sockets), ..self }
    }

    /// Opens a connection to the first address that answers. The error is in the words of Go, which people look for.
    pub(crate) async fn connect(&self, peer: &Peer) -> Result<http1::SendRequest<RequestBody>, String> {
        let mut problem = None;
        for at in &peer.at {
            match self.dial(*at).await {
                Ok(stream) => return self.speak(peer.scheme, at.ip(), stream).await,
                // The first address is the one that people know.
                Err(error) => drop(problem.get_or_insert(error)),
            }
        }
        Err(problem.unwrap_or_else(|| "no address is known".into()))
    }

    async fn dial(&self, at: SocketAddr) -> Result<tokio::net::TcpStream, String> {
        let said = |error: &io::Error| format!("dial tcp {at}: {}", go_error(error));
        let socket = (self.sockets)(at).map_err(|error| said(&error))?;
        match tokio::time::timeout(DIAL_MAX, socket.connect(at)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                crate::http::keep_alive(&stream);
                Ok(stream)
            }
            Ok(Err(error)) => Err(said(&error)),
            Err(_) => Err(format!("dial tcp {at}: i/o timeout")),
        }
    }

    async fn speak(
        &self,
        scheme: Scheme,
        ip: IpAddr,
        stream: tokio::net::TcpStream,
    ) -> Result<http1::SendRequest<RequestBody>, String> {
        let tls = match scheme {
            Scheme::Http => return handshake(TokioIo::new(stream)).await,
            Scheme::Https => &self.anyone,
            Scheme::Kubelet => &self.kubelet,
        };
        let connecting = TlsConnector::from(Arc::clone(tls)).connect(ServerName::from(ip), stream);
        match tokio::time::timeout(HANDSHAKE_MAX, connecting).await {
            Ok(Ok(stream)) => handshake(TokioIo::new(stream)).await,
            Ok(Err(error)) => Err(format!("tls: {error}")),
            Err(_) => Err("net/http: TLS handshake timeout".into()),
        }
    }
}

async fn handshake<T>(io: TokioIo<T>) -> Result<http1::SendRequest<RequestBody>, String>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(io).await.map_err(|error| error.to_string())?;
    // Ends with the sender, with the answer, or with what the connection was upgraded to.
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

fn own_socket(at: SocketAddr) -> io::Result<TcpSocket> {
    match at {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

/// What Go says of it.
fn go_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        io::ErrorKind::TimedOut => "i/o timeout".into(),
        _ => format!("connect: {error}"),
    }
}

/// Takes every certificate: for peers whose authority nobody knows.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
