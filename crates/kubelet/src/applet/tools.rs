//! Small network tools, image `dyad/tools`: what one wants to try from inside a pod, in either family.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect as connect_socket, ipproto, recv, send,
    socket_with,
};

const TIMEOUT: Duration = Duration::from_secs(3);

/// Does nothing until it is told to stop, at once when it is.
pub(super) fn pause() -> Result<(), String> {
    loop {
        // Signals have their default action and end it.
        std::thread::park();
    }
}

/// `-4` or `-6` and the words that are no options.
fn options(args: &[String]) -> Result<(Option<bool>, Vec<&str>), String> {
    let (mut want_v4, mut words) = (None, Vec::new());
    for arg in args {
        match arg.as_str() {
            "-4" => want_v4 = Some(true),
            "-6" => want_v4 = Some(false),
            option if option.starts_with('-') => {
                return Err(format!("{option} is not known; there are -4 and -6"));
            }
            word => words.push(word),
        }
    }
    Ok((want_v4, words))
}

/// The addresses of a host, those of the wanted family only.
fn resolve(host: &str, port: u16, want_v4: Option<bool>) -> Result<Vec<SocketAddr>, String> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = (host, port).to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
    let mut found: Vec<_> = found.filter(|at| want_v4.is_none_or(|v4| at.is_ipv4() == v4)).collect();
    found.dedup();
    if found.is_empty() { Err(format!("{host} has no address of that family")) } else { Ok(found) }
}

/// Connects to the first address that answers.
fn connect_any(found: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut problem = String::new();
    for at in found {
        match TcpStream::connect_timeout(at, TIMEOUT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(TIMEOUT)).map_err(|error| error.to_string())?;
                return Ok(stream);
            }
            Err(error) => problem = format!("{at}: {error}"),
        }
    }
    Err(problem)
}

/// `http [-4|-6] URL`: writes the body; fails unless the status is 2xx or 3xx.
pub(super) fn http(args: &[String]) -> Result<(), String> {
    let (want_v4, words) = options(args)?;
    let [url] = words[..] else { return Err("usage: http [-4|-6] http://HOST[:PORT][/PATH]".into()) };
    let (authority, path) = split_url(url)?;
    let (host, port) = split_authority(authority, 80)?;
    let mut stream = connect_any(&resolve(host, port, want_v4)?)?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: dyad\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    stream.read_to_end(&mut answer).map_err(|error| error.to_string())?;
    let head_end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("the answer is not HTTP")?;
    let head = String::from_utf8_lossy(&answer[..head_end]);
    let status = head.lines().next().unwrap_or_default().to_owned();
    io::stdout().write_all(&answer[head_end + 4..]).map_err(|error| error.to_string())?;
    let good = status.split(' ').nth(1).is_some_and(|code| code.starts_with('2') || code.starts_with('3'));
    if good { Ok(()) } else { Err(status) }
}

fn split_url(url: &str) -> Result<(&str, &str), String> {
    let rest = match url.split_once("://") {
        Some(("http", rest)) => rest,
        Some((scheme, _)) => return Err(format!("{scheme} is not known; only http")),
        None => url,
    };
    Ok(rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash)))
}

/// Host and port of `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.
fn split_authority(authority: &str, default: u16) -> Result<(&str, u16), String> {
    if authority.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok((authority, default));
    }
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
            Ok((host, port))
        }
        _ => Ok((authority, default)),
    }
}

/// `connect [-4|-6] HOST PORT`: says which address answered, and how fast.
pub(super) fn connect(args: &[String]) -> Result<(), String> {
    let (want_v4, words) = options(args)?;
    let [host, port] = words[..] else { return Err("usage: connect [-4|-6] HOST PORT".into()) };
    let port = port.parse().map_err(|_| format!("{port:?} is not a port"))?;
    let found = resolve(host, port, want_v4)?;
    let start = Instant::now();
    let stream = connect_any(&found)?;
    let (took, peer) = (start.elapsed(), stream.peer_addr().map_err(|error| error.to_string())?);
    println!("connected to {peer} in {:.3} ms", took.as_secs_f64() * 1000.0);
    Ok(())
}

/// `lookup [-4|-6] NAME`: the addresses, one a line.
pub(super) fn lookup(args: &[String]) -> Result<(), String> {
    let (want_v4, words) = options(args)?;
    let [name] = words[..] else { return Err("usage: lookup [-4|-6] NAME".into()) };
    let mut found: Vec<IpAddr> = resolve(name, 0, want_v4)?.into_iter().map(|at| at.ip()).collect();
    found.dedup();
    found.iter().for_each(|ip| println!("{ip}"));
    Ok(())
}

/// `ping [-4|-6] HOST`: three ICMP echo requests; fails if none is answered.
pub(super) fn ping(args: &[String]) -> Result<(), String> {
    let (want_v4, words) = options(args)?;
    let [host] = words[..] else { return Err("usage: ping [-4|-6] HOST".into()) };
    let at = resolve(host, 0, want_v4)?[0];
    let mut answered = 0;
    for sequence in 0..3u8 {
        let start = Instant::now();
        match echo_request(at, sequence) {
            Ok(()) => {
                answered += 1;
                println!("answer from {} in {:.3} ms", at.ip(), start.elapsed().as_secs_f64() * 1000.0);
            }
            Err(error) => println!("no answer from {}: {error}", at.ip()),
        }
    }
    if answered == 0 { Err(format!("{} does not answer", at.ip())) } else { Ok(()) }
}

/// One echo request through a ping socket, for which the kernel fills in identifier and checksum.
fn echo_request(at: SocketAddr, sequence: u8) -> io::Result<()> {
    let (family, protocol, request, reply) = match at {
        SocketAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0),
        SocketAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129),
    };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(protocol))?;
    let any: SocketAddr = if at.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    bind(&socket, &any)?;
    connect_socket(&socket, &at)?;
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(TIMEOUT))?;
    let packet = [request, 0, 0, 0, 0, 0, 0, sequence, b'd', b'y', b'a', b'd'];
    send(&socket, &packet, SendFlags::empty())?;
    let mut buffer = [0; 64];
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], rustix::net::RecvFlags::empty())?;
        if length >= 8 && buffer[0] == reply && buffer[7] == sequence {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_authorities_are_taken_apart() {
        for (url, want) in [
            ("http://h:8080/a/b", ("h:8080", "/a/b")),
            ("http://[fd00::1]:80", ("[fd00::1]:80", "/")),
            ("h", ("h", "/")),
        ] {
            assert_eq!(split_url(url), Ok(want), "{url}");
        }
        assert!(split_url("https://h").is_err());
        for (authority, want) in [
            ("h", ("h", 80)),
            ("h:1", ("h", 1)),
            ("[fd00::1]", ("[fd00::1]", 80)),
            ("[fd00::1]:8080", ("[fd00::1]", 8080)),
            ("fd00::1", ("fd00::1", 80)),
        ] {
            assert_eq!(split_authority(authority, 80), Ok(want), "{authority}");
        }
        assert!(split_authority("h:x", 80).is_err());
    }
}
