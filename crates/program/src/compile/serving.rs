//! Whether connections that run are well where they are.

use dyad_net::IpFamily;

use super::Compiler;
use crate::{Endpoint, Frontend, Port, SlicePort, service};

impl Compiler {
    /// Whether `endpoint` serves the frontend `at`, be it that new connections go elsewhere: it terminates, or is not
    /// for this node by traffic policy or topology.
    pub fn serves(&self, family: IpFamily, at: Frontend, endpoint: Endpoint) -> bool {
        let Some((_, name)) = self.winner(family, at) else { return false };
        if let Some(hosted) = self.hosted.get(name)
            && hosted.frontends(family).any(|(claimed, way)| claimed == at && way.slots.contains(&endpoint))
        {
            return true;
        }
        let Some(state) = self.services.get(name) else { return false };
        let of_service = state.service.iter().flat_map(|service| {
            service
                .ports
                .iter()
                .filter(|port| service::claims(service, port, family).any(|(_, claimed)| claimed == at))
        });
        let is_served = |port: &Port| {
            let is_of_port = |of: &SlicePort| {
                of.name == port.name && of.protocol == port.protocol && of.port == endpoint.port
            };
            let mut slices = state.slices().filter(|slice| slice.ports.iter().any(is_of_port));
            slices.any(|slice| slice.endpoints.iter().any(|of| of.ip == endpoint.ip && of.serving))
        };
        of_service.into_iter().any(is_served)
    }
}

#[cfg(test)]
mod tests {
    use dyad_net::DualStack;
    use serde_json::json;

    use super::*;
    use crate::{NodeView, Protocol, wire};

    #[test]
    fn who_answers_serves_whether_new_connections_go_there_or_not() {
        let both =
            |v4: &str, v6: &str| DualStack::dual(IpFamily::V4, v4.parse().unwrap(), v6.parse().unwrap());
        let mut compiler = Compiler::new(NodeView {
            name: "node1".into(),
            own_pods: vec!["10.244.1.0/24".parse().unwrap()],
            cluster_pods: both("10.244.0.0/16", "fd00:10:244::/56"),
            node_pods: [].into(),
            services: ["10.96.0.0/16", "fd00:10:96::/112"].map(|range| range.parse().unwrap()).to_vec(),
            nodes: Default::default(),
            zone: None,
            node_ports: vec!["0.0.0.0/0".parse().unwrap()],
            open_pods: false,
            masquerade_pods: true,
            egress: Default::default(),
        });
        let service = json!({
            "metadata": {"namespace": "default", "name": "dns"},
            "spec": {
                "type": "NodePort", "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
                "ports": [{"name": "dns", "protocol": "UDP", "port": 53, "nodePort": 30053}],
            },
        });
        let endpoint = |ip: &str, ready: bool, serving: bool| json!({"addresses": [ip], "conditions": {"ready": ready, "serving": serving, "terminating": !ready}});
        let slice = json!({
            "metadata": {
                "namespace": "default", "name": "dns-1", "labels": {"kubernetes.io/service-name": "dns"},
            },
            "addressType": "IPv4",
            "endpoints": [
                endpoint("10.244.1.2", true, true), endpoint("10.244.1.3", false, true),
                endpoint("10.244.1.4", false, false),
            ],
            "ports": [{"name": "dns", "protocol": "UDP", "port": 8053}],
        });
        let (name, service) = wire::service_from_value(&service).unwrap().unwrap();
        compiler.set_service(name, Some(service));
        let (name, slice) = wire::slice_from_value(&slice).unwrap().unwrap();
        compiler.set_slice(name, Some(slice));
        compiler.step();
        let address = Frontend::Address("10.96.0.10".parse().unwrap(), Protocol::Udp, 53);
        let rows = [
            ("ready", address, "10.244.1.2", 8053, true),
            ("A163: terminates, and serves", address, "10.244.1.3", 8053, true),
            ("the same, by node port", Frontend::NodePort(Protocol::Udp, 30053), "10.244.1.3", 8053, true),
            ("does not serve any more", address, "10.244.1.4", 8053, false),
            ("another port", address, "10.244.1.2", 53, false),
            ("nobody", address, "10.244.1.5", 8053, false),
            ("another frontend", Frontend::NodePort(Protocol::Udp, 30054), "10.244.1.2", 8053, false),
            ("another protocol", Frontend::NodePort(Protocol::Tcp, 30053), "10.244.1.2", 8053, false),
        ];
        for (what, at, ip, port, expected) in rows {
            let endpoint = Endpoint { ip: ip.parse().unwrap(), port };
            assert_eq!(compiler.serves(IpFamily::V4, at, endpoint), expected, "{what}");
        }
    }
}
