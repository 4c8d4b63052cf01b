//! The ends of a connection as people type them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// A pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A node: its own processes.
    Node(String),
    /// Somebody outside of the cluster.
    Outside,
    /// Whoever has this address.
    Address(IpAddr),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { namespace, name } => write!(f, "pod {namespace}/{name}"),
            Self::Service { namespace, name } => write!(f, "service {namespace}/{name}"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Outside => f.write_str("outside"),
            Self::Address(ip) => ip.fmt(f),
        }
    }
}

/// A port by number, or by the name the Service or the pod gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortName {
    /// Its number.
    Number(u16),
    /// Its name.
    Name(String),
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whom it is for.
    pub end: End,
    /// On which port; `None` for a Service's only one, and for an echo request (ping) to others.
    pub port: Option<PortName>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.end, &self.port) {
            (end, None) => end.fmt(f),
            (End::Address(ip @ IpAddr::V6(_)), Some(port)) => write!(f, "[{ip}]:{port}"),
            (end, Some(port)) => write!(f, "{end}:{port}"),
        }
    }
}

const FORMS: &str =
    "use pod/NAME, svc/NAME, node/NAME (with NAMESPACE/ before it, or -n), outside, or an IP address";

impl End {
    /// Reads `pod/web`, `other/pod/web`, `svc/web`, `node/node1`, `outside`, `192.0.2.1`, `2001:db8::1`. `namespace` is
    /// that of names without one.
    pub fn parse(text: &str, namespace: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse() {
            return Ok(Self::Address(ip));
        }
        let parts: Vec<&str> = text.split('/').collect();
        let (namespace, kind, name) = match *parts.as_slice() {
            ["outside"] => return Ok(Self::Outside),
            [kind, name] => (namespace, kind, name),
            [namespace, kind, name] => (namespace, kind, name),
            _ => return Err(format!("{text:?} is no end of a connection: {FORMS}")),
        };
        if namespace.is_empty() || name.is_empty() {
            return Err(format!("{text:?} lacks a name: {FORMS}"));
        }
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        // As kubectl has them, with its short names.
        match kind {
            "pod" | "pods" | "po" => Ok(Self::Pod { namespace, name }),
            "service" | "services" | "svc" => Ok(Self::Service { namespace, name }),
            "node" | "nodes" | "no" if parts.len() == 2 => Ok(Self::Node(name)),
            _ => Err(format!("{text:?} is no end of a connection: {FORMS}")),
        }
    }
}

impl Target {
    /// Reads what [`End::parse`] reads with `:PORT` behind it: `svc/web:http`, `pod/web:8080`, `[2001:db8::1]:80`.
    pub fn parse(text: &str, namespace: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse::<SocketAddr>() {
            let port = (at.port() != 0).then_some(PortName::Number(at.port()));
            return port
                .map(|port| Self { end: End::Address(at.ip()), port: Some(port) })
                .ok_or_else(|| format!("{text:?}: 0 is no port: use 1 to 65535"));
        }
        // Of an IPv6 address without brackets, no part is a port.
        if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
            return Ok(Self { end: End::parse(text, namespace)?, port: None });
        }
        match text.rsplit_once(':') {
            None => Ok(Self { end: End::parse(text, namespace)?, port: None }),
            Some((end, port)) => {
                let port = match port.parse::<u16>() {
                    Ok(number) if number != 0 => PortName::Number(number),
                    Err(_) if port.bytes().any(|byte| byte.is_ascii_alphabetic()) => {
                        PortName::Name(port.into())
                    }
                    _ => {
                        return Err(format!(
                            "{text:?}: {port:?} is no port: use 1 to 65535, or a port's name"
                        ));
                    }
                };
                Ok(Self { end: End::parse(end, namespace)?, port: Some(port) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_read_as_kubectl_has_them() {
        for (text, shown) in [
            ("pod/web", "pod default/web"),
            ("po/web:8080", "pod default/web:8080"),
            ("svc/web", "service default/web"),
            ("services/web:http", "service default/web:http"),
            ("other/svc/web:80", "service other/web:80"),
            ("node/node1:30080", "node node1:30080"),
            ("outside", "outside"),
            ("outside:80", "outside:80"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:db8::1:80", "2001:db8::1:80"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            assert_eq!(
                Target::parse(text, "default").map(|target| target.to_string()),
                Ok(shown.into()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_end_says_what_would_be_one() {
        for text in ["web", "", "pod/", "/web", "deployment/web", "a/node/b", "a/b/c/d", "[::1", "pod//x"] {
            let error = End::parse(text, "default").unwrap_err();
            assert!(error.contains("use pod/NAME"), "{text}: {error}");
        }
        for text in ["svc/web:0", "svc/web:70000", "svc/web:", "192.0.2.1:0", "pod/web:-"] {
            let error = Target::parse(text, "default").unwrap_err();
            assert!(error.contains("1 to 65535"), "{text}: {error}");
        }
    }
}
