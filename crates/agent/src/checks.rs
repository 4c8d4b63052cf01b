//! What load balancers ask at the `healthCheckNodePort` of a Service: how many endpoints this node has (A169).
//!
//! Each family has its own servers and its own count: a balancer of one family must not send what only the other one
//! has endpoints for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use dyad_net::{IpFamily, IpNet};
use dyad_program::HealthCheck;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::task::JoinSet;

use crate::health::Health;
use crate::server;

/// What is to be answered, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checks {
    /// By port.
    pub(crate) services: BTreeMap<u16, HealthCheck>,
    /// Where: the unspecified address of a family stands for all addresses of the node.
    pub(crate) addresses: BTreeSet<IpAddr>,
}

impl Checks {
    fn sockets(&self) -> BTreeSet<SocketAddr> {
        let of_check = |(port, check): (&u16, &HealthCheck)| {
            let (port, families) = (*port, check.local_endpoints.families().collect::<Vec<_>>());
            let is_served = move |ip: &&IpAddr| families.contains(&IpFamily::from(**ip));
            self.addresses
                .iter()
                .filter(is_served)
                .map(move |ip| SocketAddr::new(*ip, port))
                .collect::<Vec<_>>()
        };
        self.services.iter().flat_map(of_check).collect()
    }
}

/// The addresses of a node that health checks are answered at: those where node ports are.
pub(crate) fn addresses(
    ranges: &[IpNet],
    families: impl Iterator<Item = IpFamily>,
    of_node: &BTreeSet<IpAddr>,
) -> BTreeSet<IpAddr> {
    let of_family = |family: IpFamily| -> Vec<IpAddr> {
        if ranges.contains(&family.everything()) {
            return vec![family.everything().addr()];
        }
        let serves = |ip: &&IpAddr| !ip.is_loopback() && ranges.iter().any(|range| range.contains(*ip));
        of_node.iter().filter(|ip| IpFamily::from(**ip) == family).filter(serves).copied().collect()
    };
    families.flat_map(of_family).collect()
}

/// Answers what `checks` says, level-triggered, for ever.
pub(crate) async fn serve(mut checks: watch::Receiver<Checks>, health: Arc<Health>) {
    let mut servers: BTreeMap<SocketAddr, AbortHandle> = BTreeMap::new();
    // Ends them all when it is dropped.
    let mut tasks = JoinSet::new();
    loop {
        let wanted = checks.borrow_and_update().sockets();
        servers.retain(|at, server| {
            let stays = wanted.contains(at);
            if !stays {
                server.abort();
            }
            stays
        });
        while tasks.try_join_next().is_some() {}
        for at in wanted {
            servers.entry(at).or_insert_with(|| {
                let (checks, health) = (checks.clone(), Arc::clone(&health));
                let handler: server::Handler = Arc::new(move |_| answer(&checks.borrow(), at, &health));
                tasks.spawn(server::serve(at, format!("health check node port {}", at.port()), handler))
            });
        }
        if checks.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn answer(checks: &Checks, at: SocketAddr, health: &Health) -> Response<Full<Bytes>> {
    let Some(check) = checks.services.get(&at.port()) else { return server::not_found() };
    let count = check.local_endpoints.get(IpFamily::from(at.ip())).copied().unwrap_or_default();
    let healthy = health.is_healthy();
    let text = check.service.to_string();
    let (namespace, name) = text.split_once('/').unwrap_or(("", &text));
    let body = json!({
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": count,
        "serviceProxyHealthy": healthy,
    });
    let status = if count > 0 && healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = server::json(status, format!("{body:#}"));
    response.headers_mut().insert("x-load-balancing-endpoint-weight", HeaderValue::from(count));
    response
}

#[cfg(test)]
mod tests {
    use dyad_net::DualStack;
    use dyad_program::Name;

    use super::*;

    #[test]
    fn checks_are_where_node_ports_are() {
        let of_node: BTreeSet<IpAddr> = ["127.0.0.1", "192.0.2.1", "198.51.100.1", "::1", "2001:db8::1"]
            .map(|ip| ip.parse().unwrap())
            .into();
        let addresses = |ranges: &[&str]| -> Vec<String> {
            let ranges: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
            addresses(&ranges, IpFamily::BOTH.into_iter(), &of_node).iter().map(ToString::to_string).collect()
        };
        assert_eq!(addresses(&["0.0.0.0/0", "::/0"]), ["0.0.0.0", "::"]);
        assert_eq!(addresses(&["192.0.2.0/24", "::/0"]), ["192.0.2.1", "::"]);
        assert_eq!(addresses(&["127.0.0.0/8", "2001:db8::1/128"]), ["2001:db8::1"]);
    }

    #[test]
    fn each_family_has_its_own_answer() {
        let check = HealthCheck {
            service: Name::new("default", "web"),
            local_endpoints: DualStack::dual(IpFamily::V4, 2, 0),
        };
        let only_v6 = HealthCheck {
            service: Name::new("default", "other"),
            local_endpoints: DualStack::single(IpFamily::V6, 1),
        };
        let checks = Checks {
            services: BTreeMap::from([(30100, check), (30200, only_v6)]),
            addresses: ["0.0.0.0", "::"].map(|ip| ip.parse().unwrap()).into(),
        };
        let sockets: Vec<String> = checks.sockets().iter().map(ToString::to_string).collect();
        assert_eq!(sockets, ["0.0.0.0:30100", "[::]:30100", "[::]:30200"]);
        let health = Health::new(IpFamily::BOTH.into_iter(), std::time::Duration::from_secs(60));
        for (at, status, weight) in
            [("0.0.0.0:30100", 200, "2"), ("[::]:30100", 503, "0"), ("[::]:30200", 200, "1")]
        {
            let answer = answer(&checks, at.parse().unwrap(), &health);
            assert_eq!(answer.status(), status, "{at}");
            assert_eq!(answer.headers()["X-Load-Balancing-Endpoint-Weight"], weight, "{at}");
        }
        assert_eq!(answer(&checks, "[::]:1".parse().unwrap(), &health).status(), 404);
    }
}
