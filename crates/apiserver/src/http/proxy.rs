//! The `proxy` subresource of pods, Services and nodes: requests of all methods, and what they go on with.

mod html;

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use futures::StreamExt;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LOCATION};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::Incoming;
use rand::seq::SliceRandom;
use serde_json::Value;

use super::relay::{self, Relayed, Vigil};
use super::respond::{self, Body};
use super::routes::{Api, Call, Input};
use super::streams::text;
use crate::reach::{Peer, Scheme};
use crate::registry::Scope;
use crate::status::{About, ApiError};

const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
/// Longest page whose links are led through here.
const PAGE_BYTES: usize = 4 << 20;
/// Endpoints that are tried.
const TRIES: usize = 4;

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Named<'a> {
    scheme: Scheme,
    name: &'a str,
    port: &'a str,
}

impl<'a> Named<'a> {
    fn parse(id: &'a str) -> Option<Self> {
        let mut parts = id.split(':');
        let (scheme, name, port) = match (parts.next()?, parts.next(), parts.next(), parts.next()) {
            (name, None, ..) => ("", name, ""),
            (name, Some(port), None, _) => ("", name, port),
            (scheme, Some(name), Some(port), None) => (scheme, name, port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { scheme, name, port })
    }
}

impl Api {
    pub(super) async fn proxy(
        &self,
        call: &Call<'_>,
        scope: Scope<'_>,
        input: Input,
    ) -> Result<Response<Body>, ApiError> {
        let peer = match scope.resource().row.plural {
            "pods" => self.proxied_pod(scope)?,
            "services" => self.proxied_service(scope)?,
            _ => self.proxied_node(scope)?,
        };
        let (base, rest) = split(call.path, !scope.namespace.is_empty());
        let upgrades = relay::wants_upgrade(call.headers);
        let query = call.raw_query.map(|query| format!("?{query}")).unwrap_or_default();
        if rest.is_empty() && !upgrades && matches!(*call.method, Method::GET | Method::HEAD) {
            // Links on the page would be relative to the wrong place.
            let mut response = respond::full(StatusCode::MOVED_PERMANENTLY, "text/plain; charset=utf-8", "");
            if let Ok(value) = HeaderValue::from_str(&format!("{base}/{query}")) {
                response.headers_mut().insert(LOCATION, value);
            }
            return Ok(response);
        }
        let path = if rest.is_empty() { "/" } else { rest };
        let mut headers = call.headers.clone();
        if let Ok(value) = HeaderValue::from_str(&html::join(base, rest)) {
            headers.insert(FORWARDED_URI, value);
        }
        let relayed = Relayed {
            method: call.method.clone(),
            target: format!("{path}{query}"),
            headers,
            body: input.body,
            upgrade: input.upgrade,
        };
        let vigil = (peer.scheme == Scheme::Kubelet).then(|| Vigil::new(&self.reach, &peer));
        if upgrades {
            return relay::upgrade(&self.reach, &peer, relayed, vigil).await;
        }
        let asked_host = call.headers.get(http::header::HOST).and_then(|value| value.to_str().ok());
        let places = html::Places { base, at: &peer.at, asked: asked_host.unwrap_or_default() };
        let answered = match peer.scheme {
            Scheme::Kubelet => relay::ask_kubelet(&self.reach, &peer, relayed).await,
            Scheme::Http | Scheme::Https => relay::ask(&self.reach, &peer, relayed).await,
        };
        let answered = answered
            .map_err(|why| ApiError::unavailable(&format!("error trying to reach service: {why}")))?;
        led_through(answered, &places, vigil).await
    }

    fn proxied_pod(&self, scope: Scope<'_>) -> Result<Peer, ApiError> {
        let invalid = || ApiError::bad_request(format!("invalid pod request {:?}", scope.name));
        let named = Named::parse(scope.name).ok_or_else(invalid)?;
        let pod = self.core_object("pods", scope.namespace, named.name);
        let pod = pod.ok_or_else(|| ApiError::not_found(About { name: named.name, ..scope.about() }))?;
        let ports = array(&pod, "/spec/containers").flat_map(|one| array(one, "/ports"));
        let number = |port: &Value| port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok());
        let port = match named.port {
            "" => ports.filter_map(number).next().unwrap_or(default_port(named.scheme)),
            text => match text.parse() {
                Ok(port) => port,
                Err(_) => {
                    ports.filter(|port| port["name"] == text).filter_map(number).next().ok_or_else(invalid)?
                }
            },
        };
        let ips = array(&pod, "/status/podIPs").filter_map(|one| text(one, "/ip").parse::<IpAddr>().ok());
        let at: Vec<SocketAddr> = ips.filter(is_reachable).map(|ip| SocketAddr::new(ip, port)).collect();
        match at.is_empty() {
            true => Err(ApiError::bad_request("address not allowed")),
            false => Ok(Peer { scheme: named.scheme, at }),
        }
    }

    fn proxied_service(&self, scope: Scope<'_>) -> Result<Peer, ApiError> {
        let invalid = || ApiError::bad_request(format!("invalid service request {:?}", scope.name));
        let named = Named::parse(scope.name).ok_or_else(invalid)?;
        let service = self.core_object("services", scope.namespace, named.name);
        let mut port = named.port.to_owned();
        if let Ok(number) = named.port.parse::<u64>() {
            let about = About { name: named.name, ..scope.about() };
            let service = service.as_ref().ok_or_else(|| ApiError::not_found(about))?;
            let found = array(service, "/spec/ports").find(|one| one["port"].as_u64() == Some(number));
            let Some(found) = found else {
                let name = named.name;
                return Err(ApiError::unavailable(&format!(
                    "no service port {number} found for service {name:?}"
                )));
            };
            port = text(found, "/name").to_owned();
        }
        if service.is_none() {
            let about = About { group: "", resource: "endpoints", kind: "Endpoints", name: named.name };
            return Err(ApiError::not_found(about));
        }
        let slices = &self.registry.builtin_served("discovery.k8s.io", "endpointslices").resource;
        let slices = slices.cache.snapshot(scope.namespace).items;
        let mut at: Vec<SocketAddr> = Vec::new();
        for slice in slices.iter().map(|slice| slice.value()) {
            if text(&slice, "/metadata/labels/kubernetes.io~1service-name") != named.name {
                continue;
            }
            let ports = array(&slice, "/ports").filter(|one| text(one, "/name") == port);
            let Some(port) = ports.filter_map(|one| u16::try_from(one["port"].as_u64()?).ok()).next() else {
                continue;
            };
            let ready = array(&slice, "/endpoints").filter(|one| one["conditions"]["ready"] != false);
            for endpoint in ready {
                let ips = array(endpoint, "/addresses").filter_map(|ip| ip.as_str()?.parse::<IpAddr>().ok());
                let ips = ips.filter(|ip| is_reachable(ip) && self.is_of_pod(scope.namespace, endpoint, *ip));
                at.extend(ips.map(|ip| SocketAddr::new(ip, port)));
            }
        }
        if at.is_empty() {
            let id = scope.name;
            return Err(ApiError::unavailable(&format!("no endpoints available for service {id:?}")));
        }
        // Whoever is chosen first may listen in the other family only, or not at all any more.
        at.shuffle(&mut rand::rng());
        at.truncate(TRIES);
        Ok(Peer { scheme: named.scheme, at })
    }

    /// Whether an endpoint is what it says, a pod: whoever may write slices may not reach everything from here.
    fn is_of_pod(&self, namespace: &str, endpoint: &Value, ip: IpAddr) -> bool {
        let name = text(endpoint, "/targetRef/name");
        let pod =
            (text(endpoint, "/targetRef/kind") == "Pod").then(|| self.core_object("pods", namespace, name));
        pod.flatten()
            .is_some_and(|pod| array(&pod, "/status/podIPs").any(|one| text(one, "/ip").parse() == Ok(ip)))
    }

    fn proxied_node(&self, scope: Scope<'_>) -> Result<Peer, ApiError> {
        let invalid = || ApiError::bad_request(format!("invalid node request {:?}", scope.name));
        let named = Named::parse(scope.name).ok_or_else(invalid)?;
        let kubelet = self.kubelet(named.name)?;
        let own = kubelet.at.first().map(SocketAddr::port);
        let port = match named.port {
            "" => return Ok(kubelet),
            text => text.parse().map_err(|_| invalid())?,
        };
        if Some(port) == own {
            return Ok(kubelet);
        }
        let at: Vec<SocketAddr> = kubelet
            .at
            .iter()
            .filter(|at| is_reachable(&at.ip()))
            .map(|at| SocketAddr::new(at.ip(), port))
            .collect();
        match at.is_empty() {
            true => Err(ApiError::bad_request("address not allowed")),
            false => Ok(Peer { scheme: named.scheme, at }),
        }
    }
}

fn array<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

const fn default_port(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Http => 80,
        Scheme::Https | Scheme::Kubelet => 443,
    }
}

/// Whether requests may be led there: what Go calls a global unicast address.
fn is_reachable(ip: &IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())
}

/// A path up to `proxy`, and what is behind it.
fn split(path: &str, namespaced: bool) -> (&str, &str) {
    // /api/v1/namespaces/NAMESPACE/RESOURCE/NAME/proxy, or /api/v1/RESOURCE/NAME/proxy.
    let parts = if namespaced { 7 } else { 5 };
    let start = path.len() - path.trim_start_matches('/').len();
    let end = path[start..].match_indices('/').nth(parts - 1).map(|(at, _)| start + at);
    path.split_at(end.unwrap_or(path.len()))
}

/// An answer whose links lead through this server again.
async fn led_through(
    answered: Response<Incoming>,
    places: &html::Places<'_>,
    vigil: Option<Vigil>,
) -> Result<Response<Body>, ApiError> {
    let headers = answered.headers();
    let word =
        |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let location = word(&LOCATION).to_owned();
    let is_page = word(&CONTENT_TYPE).split(';').next().is_some_and(|kind| kind.trim() == "text/html");
    let encoding = word(&CONTENT_ENCODING).to_owned();
    if !location.is_empty() {
        let mut response = relay::answer(answered, vigil);
        if let Ok(value) = HeaderValue::from_str(&places.led(&location)) {
            response.headers_mut().insert(LOCATION, value);
        }
        return Ok(response);
    }
    if !is_page || !matches!(encoding.as_str(), "" | "gzip") {
        return Ok(relay::answer(answered, vigil));
    }
    let response = relay::answer(answered, vigil);
    let (mut parts, body) = response.into_parts();
    let mut frames = BodyStream::new(body);
    let mut page: Vec<u8> = Vec::new();
    while page.len() <= PAGE_BYTES {
        match frames.next().await {
            Some(Ok(frame)) => {
                page.extend_from_slice(frame.data_ref().map(|data| &**data).unwrap_or_default())
            }
            Some(Err(error)) => {
                return Err(ApiError::unavailable(&format!("error trying to reach service: {error}")));
            }
            None => {
                let rewritten = match encoding.as_str() {
                    "gzip" => respond::gunzip_at_most(&page, PAGE_BYTES)
                        .and_then(|plain| respond::gzip(&html::rewrite(&plain, places))),
                    _ => Ok(html::rewrite(&page, places)),
                };
                let bytes = rewritten.unwrap_or(page);
                parts.headers.insert(CONTENT_LENGTH, bytes.len().into());
                return Ok(Response::from_parts(parts, respond::whole(bytes.into())));
            }
        }
    }
    // Too long to be a page: as it is.
    let begun = futures::stream::once(async move { Ok(Frame::data(Bytes::from(page))) });
    Ok(Response::from_parts(parts, StreamBody::new(begun.chain(frames)).boxed_unsync()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_schemes_and_ports() {
        let named = |scheme, name, port| Some(Named { scheme, name, port });
        #[rustfmt::skip]
        let cases = [
            ("web", named(Scheme::Http, "web", "")),
            ("web:80", named(Scheme::Http, "web", "80")),
            ("web:http", named(Scheme::Http, "web", "http")),
            ("http:web:", named(Scheme::Http, "web", "")),
            ("https:web:8443", named(Scheme::Https, "web", "8443")),
            ("ftp:web:21", None),
            (":80", None),
            ("a:b:c:d", None),
        ];
        for (id, want) in cases {
            assert_eq!(Named::parse(id), want, "{id}");
        }
    }

    #[test]
    fn paths_are_split_behind_the_word() {
        for (path, namespaced, want) in [
            ("/api/v1/nodes/n/proxy", false, ("/api/v1/nodes/n/proxy", "")),
            ("/api/v1/nodes/n/proxy/", false, ("/api/v1/nodes/n/proxy", "/")),
            (
                "/api/v1/namespaces/a/pods/p/proxy/b//c/",
                true,
                ("/api/v1/namespaces/a/pods/p/proxy", "/b//c/"),
            ),
            (
                "/api/v1/namespaces/a/pods/proxy/proxy/proxy",
                true,
                ("/api/v1/namespaces/a/pods/proxy/proxy", "/proxy"),
            ),
        ] {
            assert_eq!(split(path, namespaced), want, "{path}");
        }
    }

    #[test]
    fn nobody_is_led_to_this_machine() {
        for (ip, want) in [
            ("10.0.0.1", true),
            ("fd00::1", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("::", false),
            ("ff02::1", false),
        ] {
            assert_eq!(is_reachable(&ip.parse().unwrap()), want, "{ip}");
        }
    }
}
