//! Debian's etcd on a directory beside ours, and a client that puts bytes into it as the API server of Kubernetes does: by gRPC, one
//! request after the other on a connection of its own.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::{Builder, Runtime};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server of its own; it goes when this is dropped.
pub(super) struct Etcd {
    child: Child,
    port: u16,
    _home: tempfile::TempDir,
}

impl Etcd {
    /// None if there is no such program.
    pub(super) fn start() -> Result<Option<Self>> {
        // Where our store is too: the same disk.
        let home = tempfile::Builder::new().prefix("dyad-bench-etcd-").tempdir()?;
        let (client, peer) = (free_port()?, free_port()?);
        let [client_url, peer_url] = [client, peer].map(|port| format!("http://127.0.0.1:{port}"));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(home.path().join("data"));
        command.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
        command.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        command.args(["--initial-cluster", &format!("default={peer_url}"), "--logger", "zap"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("can't run etcd"),
        };
        let etcd = Self { child, port: client, _home: home };
        let begun = Instant::now();
        loop {
            match etcd.connect().and_then(|mut client| client.put("first".into(), 1)) {
                Ok(()) => return Ok(Some(etcd)),
                Err(error) if begun.elapsed() > PATIENCE => {
                    return Err(error).context("etcd does not answer");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn connect(&self) -> Result<Client> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let port = self.port;
        let sender = runtime.block_on(async move {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            anyhow::Ok(sender)
        })?;
        Ok(Client { runtime, sender, port })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A connection to it.
pub(super) struct Client {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    port: u16,
}

impl Client {
    /// Puts so many bytes under a key.
    pub(super) fn put(&mut self, key: String, bytes: usize) -> Result<()> {
        let request = Request::post(format!("http://127.0.0.1:{}/etcdserverpb.KV/Put", self.port))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::from(put_request(key.as_bytes(), &vec![b'x'; bytes])))?;
        let sender = &mut self.sender;
        self.runtime.block_on(async move {
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            ensure!(answer.status().is_success(), "etcd answers {}", answer.status());
            let body = answer.into_body().collect().await?;
            match body.trailers().and_then(|trailers| trailers.get("grpc-status")) {
                Some(status) if status == "0" => Ok(()),
                status => bail!("etcd refuses to write: {status:?}"),
            }
        })
    }
}

/// `PutRequest { key = 1, value = 2 }` of etcd's rpc.proto, as a message of gRPC.
fn put_request(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(key.len() + value.len() + 16);
    for (tag, bytes) in [(0x0a, key), (0x12, value)] {
        message.push(tag);
        let mut length = bytes.len();
        while length >= 0x80 {
            message.push(length as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(bytes);
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend(message);
    framed
}
