//! A name server on loopback that says what it is told to, over UDP and TCP at one port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dyad_net::IpFamily;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::wire::Message;

/// How a query came: over a connection, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Udp,
    Tcp(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) query: Message,
    pub(crate) by: By,
    pub(crate) from: SocketAddr,
    /// How many came before.
    pub(crate) before: usize,
}

/// What to do about a query, step by step.
#[derive(Clone, Debug)]
pub(crate) enum Say {
    Answer(Message),
    Raw(Vec<u8>),
    /// From another port than was asked.
    FromElsewhere(Message),
    /// Until the test says so.
    Wait,
    /// End the connection.
    Close,
}

pub(crate) struct Server {
    pub(crate) at: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    gate: Arc<Semaphore>,
    tasks: Vec<JoinHandle<()>>,
}

type Handler = Arc<dyn Fn(&Heard) -> Vec<Say> + Send + Sync>;

pub(crate) fn loopback(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::LOCALHOST.into(),
        IpFamily::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

impl Server {
    pub(crate) async fn start(
        family: IpFamily,
        handler: impl Fn(&Heard) -> Vec<Say> + Send + Sync + 'static,
    ) -> Self {
        loop {
            let udp = UdpSocket::bind((loopback(family), 0)).await.unwrap();
            // The port may be taken for TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                return Self::on(udp, tcp, None, Arc::new(handler));
            }
        }
    }

    /// At a given place, which was left before.
    pub(crate) async fn start_at(
        at: SocketAddr,
        handler: impl Fn(&Heard) -> Vec<Say> + Send + Sync + 'static,
    ) -> Self {
        // Some client may have the port for a moment.
        for _ in 0..2000 {
            if let (Ok(udp), Ok(tcp)) = (UdpSocket::bind(at).await, TcpListener::bind(at).await) {
                return Self::on(udp, tcp, None, Arc::new(handler));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{at} is taken");
    }

    pub(crate) async fn start_tls(
        family: IpFamily,
        acceptor: TlsAcceptor,
        handler: impl Fn(&Heard) -> Vec<Say> + Send + Sync + 'static,
    ) -> Self {
        let udp = UdpSocket::bind((loopback(family), 0)).await.unwrap();
        let tcp = TcpListener::bind((loopback(family), 0)).await.unwrap();
        Self::on(udp, tcp, Some(acceptor), Arc::new(handler))
    }

    fn on(udp: UdpSocket, tcp: TcpListener, tls: Option<TlsAcceptor>, handler: Handler) -> Self {
        let at = tcp.local_addr().unwrap();
        let world = World { heard: Arc::default(), gate: Arc::new(Semaphore::new(0)), handler };
        let (heard, gate) = (world.heard.clone(), world.gate.clone());
        let tasks = vec![
            tokio::spawn(datagrams(Arc::new(udp), world.clone())),
            tokio::spawn(connections(tcp, tls, world)),
        ];
        Self { at, heard, gate, tasks }
    }

    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Lets one [`Say::Wait`] pass.
    pub(crate) fn go_on(&self) {
        self.gate.add_permits(1);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[derive(Clone)]
struct World {
    heard: Arc<Mutex<Vec<Heard>>>,
    gate: Arc<Semaphore>,
    handler: Handler,
}

impl World {
    fn hear(&self, packet: &[u8], by: By, from: SocketAddr) -> Vec<Say> {
        let mut all = self.heard.lock().unwrap();
        let heard = Heard { query: Message::parse(packet).unwrap(), by, from, before: all.len() };
        all.push(heard.clone());
        drop(all);
        (self.handler)(&heard)
    }

    async fn wait(&self) {
        self.gate.acquire().await.unwrap().forget();
    }
}

async fn datagrams(socket: Arc<UdpSocket>, world: World) {
    let mut buffer = [0; 4096];
    loop {
        // A client that is gone is told of by an error.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let says = world.hear(&buffer[..length], By::Udp, from);
        let (socket, world) = (socket.clone(), world.clone());
        tokio::spawn(async move {
            for say in says {
                let sent = match say {
                    Say::Answer(message) => socket.send_to(&message.to_bytes(), from).await,
                    Say::Raw(packet) => socket.send_to(&packet, from).await,
                    Say::FromElsewhere(message) => {
                        let other = UdpSocket::bind((socket.local_addr().unwrap().ip(), 0)).await.unwrap();
                        other.send_to(&message.to_bytes(), from).await
                    }
                    Say::Wait => {
                        world.wait().await;
                        continue;
                    }
                    Say::Close => return,
                };
                drop(sent);
            }
        });
    }
}

async fn connections(listener: TcpListener, tls: Option<TlsAcceptor>, world: World) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0.. {
        let Ok((stream, from)) = listener.accept().await else { continue };
        let (tls, world) = (tls.clone(), world.clone());
        tasks.spawn(async move {
            match tls {
                None => connection(stream, By::Tcp(number), from, world).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        connection(stream, By::Tcp(number), from, world).await;
                    }
                }
            }
        });
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    by: By,
    from: SocketAddr,
    world: World,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (sender, mut receiver) = mpsc::unbounded_channel::<Option<Vec<u8>>>();
    let reading = async move {
        while let Ok(length) = reader.read_u16().await {
            let mut packet = vec![0; length.into()];
            if reader.read_exact(&mut packet).await.is_err() {
                return;
            }
            let says = world.hear(&packet, by, from);
            let (sender, world) = (sender.clone(), world.clone());
            tokio::spawn(async move {
                for say in says {
                    let packet = match say {
                        Say::Answer(message) | Say::FromElsewhere(message) => Some(message.to_bytes()),
                        Say::Raw(packet) => Some(packet),
                        Say::Wait => {
                            world.wait().await;
                            continue;
                        }
                        Say::Close => None,
                    };
                    drop(sender.send(packet));
                }
            });
        }
    };
    let writing = async move {
        while let Some(Some(packet)) = receiver.recv().await {
            let length = u16::try_from(packet.len()).unwrap();
            if writer.write_all(&[&length.to_be_bytes(), packet.as_slice()].concat()).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}
