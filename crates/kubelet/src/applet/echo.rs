//! The echo server, image `dyad/echo`.
//!
//! One port, 8080 or `--port` or `PORT`, for HTTP and for UDP; the next one, or `--tcp-port`, echoes TCP bytes. All in
//! both families, or in the one of `--family`. HTTP paths: `/` says who asked whom, as text or, if the request accepts it, as JSON; `/json` always
//! JSON; `/hostname`; `/healthz` says ok; `/upgrade` goes on as an echo of bytes (`Upgrade: echo`). UDP answers with the same text followed by what it was sent.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use dyad_net::IpFamily;
use rustix::net::SocketType;

use super::listen;
use super::pktinfo::DatagramSocket;

const DEFAULT_PORT: u16 = 8080;
/// Most bytes of a request's head, so that nobody fills the memory with one.
const HEAD_BYTES: u64 = 16 * 1024;
/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(60);
const STACK_BYTES: usize = 128 * 1024;

/// Where to listen.
#[derive(Debug, PartialEq, Eq)]
struct Listen {
    port: u16,
    tcp_port: u16,
    only: Option<IpFamily>,
}

pub(super) fn main(args: &[String]) -> Result<(), String> {
    let Listen { port, tcp_port, only } = Listen::read(args, std::env::var("PORT").ok().as_deref())?;
    println!("HTTP and UDP on port {port}, TCP echo on port {tcp_port}");
    let failed = |error: io::Error| format!("listening on ports {port} and {tcp_port}: {error}");
    let tcp = listener(tcp_port, only).map_err(failed)?;
    spawn(move || accept_all(&tcp, echo_bytes)).map_err(failed)?;
    serve_in(port, only).map_err(failed)
}

/// Serves HTTP and UDP on `port` of all addresses, for as long as the process lives.
pub fn serve(port: u16) -> io::Result<()> {
    serve_in(port, None)
}

fn serve_in(port: u16, only: Option<IpFamily>) -> io::Result<()> {
    let http = listener(port, only)?;
    let udp = DatagramSocket::bind(port, only)?;
    spawn(move || serve_udp(&udp))?;
    accept_all(&http, serve_http);
    Ok(())
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).map(drop)
}

impl Listen {
    fn read(args: &[String], env: Option<&str>) -> Result<Self, String> {
        let parse = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is not a port"));
        let family = |text: &str| {
            let mut known = IpFamily::BOTH.into_iter();
            known
                .find(|family| family.as_str().eq_ignore_ascii_case(text))
                .ok_or_else(|| format!("{text:?} is no family; there are IPv4 and IPv6"))
        };
        let mut port = env.map(parse).transpose()?.unwrap_or(DEFAULT_PORT);
        let (mut tcp_port, mut only) = (None, None);
        let mut words = args.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let (name, mut value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            let mut value = || value.take().or_else(|| words.next()).ok_or(format!("{name} needs a value"));
            match name {
                "--port" => port = parse(value()?)?,
                "--tcp-port" => tcp_port = Some(parse(value()?)?),
                "--family" => only = Some(family(value()?)?),
                _ => {
                    return Err(format!("{word:?} is not known; there are --port, --tcp-port and --family"));
                }
            }
        }
        Ok(Self { port, tcp_port: tcp_port.unwrap_or(port.wrapping_add(1)), only })
    }
}

fn listener(port: u16, only: Option<IpFamily>) -> io::Result<TcpListener> {
    let (socket, _) = listen::any(SocketType::STREAM, port, only)?;
    rustix::net::listen(&socket, 1024)?;
    Ok(socket.into())
}

fn accept_all(listener: &TcpListener, handle: fn(TcpStream) -> io::Result<()>) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                // Out of threads: this client is refused, the next may have better luck.
                let _ = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
                    // A client that goes away is its own business.
                    let _ = stream.set_read_timeout(Some(IDLE)).and_then(|()| handle(stream));
                });
            }
            // Out of descriptors until some connection ends.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn echo_bytes(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

fn serve_udp(socket: &DatagramSocket) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok((length, peer, asked)) = socket.receive(&mut buffer) else { continue };
        let mut answer = Report::new(peer, asked, "UDP", "").text().into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        // Too long together, or nobody there any more; a datagram may be lost.
        if socket.send(&answer, peer, asked.ip()).is_err() {
            let _ = socket.send(&buffer[..length], peer, asked.ip());
        }
    }
}

/// Who asked whom.
struct Report {
    asked: SocketAddr,
    peer: SocketAddr,
    protocol: &'static str,
    host: String,
    hostname: String,
    node: String,
    pod_ips: Vec<IpAddr>,
}

fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

impl Report {
    fn new(peer: SocketAddr, asked: SocketAddr, protocol: &'static str, host: &str) -> Self {
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            asked: canonical(asked),
            peer: canonical(peer),
            protocol,
            host: host.to_owned(),
            hostname,
            node: std::env::var("NODE_NAME").unwrap_or_default(),
            pod_ips: own_addresses(),
        }
    }

    fn text(&self) -> String {
        let ips: Vec<String> = self.pod_ips.iter().map(IpAddr::to_string).collect();
        let mut text = format!(
            "protocol: {}\nasked: {}\npeer: {}\nhostname: {}\nips: {}\n",
            self.protocol,
            self.asked,
            self.peer,
            self.hostname,
            ips.join(",")
        );
        for (name, value) in [("node", &self.node), ("host", &self.host)] {
            if !value.is_empty() {
                text.push_str(&format!("{name}: {value}\n"));
            }
        }
        text
    }

    fn json(&self) -> String {
        let value = serde_json::json!({
            "protocol": self.protocol, "asked": self.asked, "peer": self.peer, "host": self.host,
            "hostname": self.hostname, "node": self.node, "ips": self.pod_ips,
        });
        format!("{value}\n")
    }
}

/// The addresses of this network namespace that others can use.
fn own_addresses() -> Vec<IpAddr> {
    let listed = dyad_links::Handle::open().and_then(|mut handle| handle.addresses());
    let global = listed.unwrap_or_default().into_iter().filter(|address| address.global);
    global.map(|address| address.net.addr()).filter(|ip| !is_link_local(*ip)).collect()
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

struct Request {
    path: String,
    is_head: bool,
    host: String,
    wants_json: bool,
    wants_echo: bool,
    close: bool,
    body_bytes: u64,
}

/// The next request of a connection; `None` at its end.
fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut head = reader.by_ref().take(HEAD_BYTES);
    let mut line = String::new();
    if head.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let (method, target, version) = (words.next(), words.next(), words.next());
    let (Some(method), Some(target), Some(version)) = (method, target, version) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let mut request = Request {
        path,
        is_head: method == "HEAD",
        host: String::new(),
        wants_json: false,
        wants_echo: false,
        close: version != "HTTP/1.1",
        body_bytes: 0,
    };
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(request));
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "host" => request.host = value.to_owned(),
            "accept" => request.wants_json = value.contains("application/json"),
            "upgrade" => request.wants_echo = value.eq_ignore_ascii_case("echo"),
            "connection" if value.eq_ignore_ascii_case("close") => request.close = true,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => request.close = false,
            "content-length" => request.body_bytes = value.parse().map_err(io::Error::other)?,
            // Bodies are of no interest here; one whose end is not announced ends the connection.
            "transfer-encoding" => request.close = true,
            _ => {}
        }
    }
}

fn serve_http(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (peer, asked) = (stream.peer_addr()?, stream.local_addr()?);
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(2048, stream);
    while let Some(request) = read_request(&mut reader)? {
        io::copy(&mut reader.by_ref().take(request.body_bytes), &mut io::sink())?;
        if request.path == "/upgrade" && request.wants_echo {
            let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
            writer.write_all(head.as_bytes())?;
            return io::copy(&mut reader, &mut writer).map(drop);
        }
        let report = || Report::new(peer, asked, "HTTP", &request.host);
        let (status, kind, body) = match request.path.as_str() {
            "/" if request.wants_json => ("200 OK", "application/json", report().json()),
            "/" => ("200 OK", "text/plain; charset=utf-8", report().text()),
            "/json" => ("200 OK", "application/json", report().json()),
            "/hostname" => ("200 OK", "text/plain; charset=utf-8", format!("{}\n", report().hostname)),
            "/healthz" | "/readyz" | "/livez" => ("200 OK", "text/plain; charset=utf-8", "ok\n".to_owned()),
            "/upgrade" => ("400 Bad Request", "text/plain; charset=utf-8", "use Upgrade: echo\n".to_owned()),
            _ => ("404 Not Found", "text/plain; charset=utf-8", "not found\n".to_owned()),
        };
        let connection = if request.close { "Connection: close\r\n" } else { "" };
        let length = body.len();
        let shown = if request.is_head { "" } else { &body };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{connection}\r\n{shown}"
        );
        writer.write_all(answer.as_bytes())?;
        if request.close {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_comes_from_arguments_then_environment() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let listen = |port, tcp_port, only| Ok(Listen { port, tcp_port, only });
        for (args, env, want) in [
            ("", None, listen(8080, 8081, None)),
            ("", Some("80"), listen(80, 81, None)),
            ("--port 90", Some("80"), listen(90, 91, None)),
            ("--port=90 --tcp-port=7", None, listen(90, 7, None)),
            ("--family IPv4", None, listen(8080, 8081, Some(IpFamily::V4))),
            ("--family=ipv6 --port 90", None, listen(90, 91, Some(IpFamily::V6))),
        ] {
            assert_eq!(Listen::read(&words(args), env), want, "{args} {env:?}");
        }
        for args in ["--port", "--port x", "--port 70000", "--help", "--family", "--family v4"] {
            assert!(Listen::read(&words(args), None).is_err(), "{args}");
        }
    }

    #[test]
    fn one_family_alone_is_answered_if_that_is_wanted() {
        let loopbacks: [IpAddr; 2] = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        for only in IpFamily::BOTH {
            // The same port of the other family is bound, so that nobody else answers there.
            let (tcp, _bound) = loop {
                let tcp = listener(0, Some(only)).unwrap();
                let port = tcp.local_addr().unwrap().port();
                if let Ok(bound) = listen::any(SocketType::STREAM, port, Some(only.other())) {
                    break (tcp, bound);
                }
            };
            let port = tcp.local_addr().unwrap().port();
            let udp = DatagramSocket::bind(0, Some(only)).unwrap();
            let udp_port = udp.port().unwrap();
            std::thread::spawn(move || serve_udp(&udp));
            for ip in loopbacks {
                let is_wanted = IpFamily::from(ip) == only;
                assert_eq!(TcpStream::connect((ip, port)).is_ok(), is_wanted, "{only}: {ip}");
                if is_wanted {
                    let client = std::net::UdpSocket::bind((only.everything().addr(), 0)).unwrap();
                    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                    client.connect((ip, udp_port)).unwrap();
                    client.send(b"hello").unwrap();
                    assert!(client.recv(&mut [0; 512]).is_ok(), "UDP to {ip}");
                }
            }
        }
    }

    #[test]
    fn http_answers_say_who_asked_whom() {
        let server = listener(0, None).unwrap();
        let port = server.local_addr().unwrap().port();
        std::thread::spawn(move || accept_all(&server, serve_http));
        for loopback in ["127.0.0.1", "::1"] {
            let ip: IpAddr = loopback.parse().unwrap();
            let mut stream = TcpStream::connect((ip, port)).unwrap();
            let me = stream.local_addr().unwrap();
            let requests = "POST /json HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc\
                            GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n";
            stream.write_all(requests.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let json = answer.lines().find(|line| line.starts_with('{')).unwrap();
            let json: serde_json::Value = serde_json::from_str(json).unwrap();
            assert_eq!(json["asked"], SocketAddr::new(ip, port).to_string());
            assert_eq!(json["peer"], me.to_string());
            assert!(answer.ends_with("ok\n"), "both requests are answered: {answer}");
        }
    }

    #[test]
    fn an_upgraded_connection_echoes_bytes() {
        let server = listener(0, None).unwrap();
        let port = server.local_addr().unwrap().port();
        std::thread::spawn(move || accept_all(&server, serve_http));
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // What comes with the request is echoed, too.
        stream
            .write_all(b"GET /upgrade HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nfirst")
            .unwrap();
        stream.write_all(b" second").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\nfirst second"),
            "{answer:?}"
        );
    }

    #[test]
    fn udp_answers_come_from_the_address_that_was_asked() {
        let server = DatagramSocket::bind(0, None).unwrap();
        let port = server.port().unwrap();
        std::thread::spawn(move || serve_udp(&server));
        for ip in ["127.0.0.1", "127.0.0.9", "::1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let any = IpFamily::from(ip).everything().addr();
            let client = std::net::UdpSocket::bind((any, 0)).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            // Connected: takes no answer from elsewhere.
            client.connect((ip, port)).unwrap();
            client.send(b"hello").unwrap();
            let mut buffer = [0; 1024];
            let length = client.recv(&mut buffer).unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]);
            assert!(text.contains(&format!("asked: {}\n", SocketAddr::new(ip, port))), "{text}");
            assert!(text.ends_with("hello"), "{text}");
        }
    }
}
