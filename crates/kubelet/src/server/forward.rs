//! `/portForward`: connections to ports of a pod, on its loopback, in whichever family it listens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dyad_net::IpFamily;
use dyad_stream::channels::Protocol;
use dyad_stream::forward::{self, Dial, PORTS_MAX, TUNNEL, VERSION};
use dyad_stream::spdy::Session;
use dyad_stream::tunnel::Tunnel;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpSocket, TcpStream};
use tracing::debug;

use super::route::{Place, Query};
use super::upgrade::{Agreed, agree};
use super::{Body, text};
use crate::sandbox::{Sandbox, SandboxError};
use crate::seen;
use crate::worker::Shared;

/// Longest wait for a pod's own loopback.
const CONNECT_MAX: Duration = Duration::from_secs(10);

pub(super) fn forward(
    shared: &Arc<Shared>,
    place: &Place<'_>,
    query: &Query,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let Some(pod) = place.find(shared) else {
        return text(StatusCode::NOT_FOUND, "pod does not exist");
    };
    let spec = pod.spec.as_ref();
    if !spec.iter().flat_map(|spec| &spec.containers).any(|one| seen::is_running(&pod, &one.name)) {
        let problem = format!("pod not found (\"{}_{}\")", place.pod, place.namespace);
        return text(StatusCode::INTERNAL_SERVER_ERROR, problem);
    }
    let subprotocols = [TUNNEL, Protocol::V4.name(), Protocol::Base64.name()];
    let (agreed, response) = match agree(request.headers(), &subprotocols, &[VERSION]) {
        Ok(agreed) => agreed,
        Err(refusal) => return *refusal,
    };
    let channels = match agreed {
        Agreed::WebSocket(name) => Protocol::ALL.into_iter().find(|protocol| protocol.name() == name),
        Agreed::Spdy(_) => None,
    };
    let ports = match ports(query) {
        Ok(ports) => ports,
        Err(problem) => return text(StatusCode::BAD_REQUEST, problem),
    };
    if channels.is_some() && ports.is_empty() {
        return text(StatusCode::BAD_REQUEST, "query parameter \"port\" is required");
    }
    let (uid, host) = (pod.metadata.uid.clone(), spec.and_then(|spec| spec.host_network) == Some(true));
    let uid = uid.unwrap_or_default();
    let dir = (!host).then(|| shared.state_dir(&uid));
    let dial: Arc<Dial> = Arc::new(move |port| {
        let (dir, uid) = (dir.clone(), uid.clone());
        Box::pin(async move {
            let problem = format!("error forwarding port {port} to pod {uid}, uid : ");
            connect(dir, port).await.map_err(|error| problem + &error)
        })
    });
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = match upgrade.await {
            Ok(io) => TokioIo::new(io),
            Err(error) => return debug!(%error, "a client did not go on with its streams"),
        };
        match (agreed, channels) {
            (_, Some(protocol)) => forward::over_channels(io, protocol, &ports, dial).await,
            (Agreed::WebSocket(_), None) => {
                forward::over_spdy(Session::new(Tunnel::new(io).await), dial).await;
            }
            (Agreed::Spdy(_), None) => forward::over_spdy(Session::new(io), dial).await,
        }
    });
    response
}

/// Ports that are named in the request, once or several times, one or several at a time.
fn ports(query: &Query) -> Result<Vec<u16>, String> {
    let named = query.all("port").chain(query.all("ports")).flat_map(|list| list.split(','));
    let ports = named.map(|text| match text.trim().parse::<u16>() {
        Ok(port @ 1..) => Ok(port),
        _ => Err(format!("unable to parse {text:?} as a port: it is a number from 1 to 65535")),
    });
    let ports = ports.collect::<Result<Vec<_>, _>>()?;
    match ports.len() {
        0..=PORTS_MAX => Ok(ports),
        count => {
            Err(format!("{count} ports are named, and no more than {PORTS_MAX} can be forwarded at once"))
        }
    }
}

/// Connects to a port on the loopback of a pod's network namespace, or of this one for a pod of the host's network.
async fn connect(dir: Option<PathBuf>, port: u16) -> Result<TcpStream, String> {
    let mut problems = String::new();
    for family in IpFamily::BOTH {
        let at = SocketAddr::new(loopback(family), port);
        let attempt = async {
            let socket = match dir.clone() {
                Some(dir) => {
                    let made = tokio::task::spawn_blocking(move || socket_inside(dir, family)).await;
                    made.map_err(|error| error.to_string()).and_then(|made| made)?
                }
                None => socket(family).map_err(|error| error.to_string())?,
            };
            match tokio::time::timeout(CONNECT_MAX, socket.connect(at)).await {
                Ok(connected) => connected.map_err(|error| error.to_string()),
                Err(_) => Err("i/o timeout".to_owned()),
            }
        };
        match attempt.await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => problems += &format!(", {family}: dial tcp {at}: {error}"),
        }
    }
    Err(format!("failed to connect to localhost:{port} inside the pod{problems}"))
}

/// The one place that says which address a family's loopback has.
fn loopback(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::LOCALHOST.into(),
        IpFamily::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

fn socket(family: IpFamily) -> std::io::Result<TcpSocket> {
    match family {
        IpFamily::V4 => TcpSocket::new_v4(),
        IpFamily::V6 => TcpSocket::new_v6(),
    }
}

/// A socket of a pod's network namespace: a socket belongs where it was made, whoever uses it. Made by a thread of its
/// own, which enters the namespace and ends.
fn socket_inside(dir: PathBuf, family: IpFamily) -> Result<TcpSocket, String> {
    let text = |error: SandboxError| error.to_string();
    let sandbox = Sandbox::adopt(&dir).map_err(text)?.ok_or_else(|| SandboxError::Gone.to_string())?;
    let netns = sandbox.netns().map_err(text)?;
    let made = std::thread::spawn(move || -> std::io::Result<TcpSocket> {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        socket(family)
    });
    let made = made.join().map_err(|_| "a thread failed".to_owned())?;
    made.map_err(|error| format!("making a socket in the pod: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_named_in_several_ways() {
        let read = |text: &str| ports(&Query::parse(text));
        assert_eq!(read("ports=80&ports=81"), Ok(vec![80, 81]));
        assert_eq!(read("port=80,81"), Ok(vec![80, 81]));
        assert_eq!(read(""), Ok(vec![]));
        for bad in ["port=0", "port=70000", "ports=x", "port=,"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
