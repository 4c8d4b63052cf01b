//! The Service `default/kubernetes` and its endpoints, in both families where the cluster has both (C50 to C56).

use std::net::IpAddr;

use dyad_net::{IpFamily, IpNet};
use serde_json::{Value, json};

use super::Bootstrap;
use crate::registry::{DeleteOptions, Meta, Scope};
use crate::status::ApiError;

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
const PORT_NAME: &str = "https";
const SLICES: (&str, &str) = ("discovery.k8s.io", "endpointslices");

/// Whether a Service, its Endpoints or one of its slices is about this Service.
pub(super) fn concerns(meta: &Meta) -> bool {
    *meta.namespace == *NAMESPACE
        && (*meta.name == *NAME || meta.label("kubernetes.io/service-name") == Some(NAME))
}

impl Bootstrap {
    pub(super) async fn ensure_kubernetes(&self) -> Result<(), ApiError> {
        self.create_if_missing("", "services", self.service()).await?;
        self.registry.until_as_new_as(None).await?;
        let Some(service) = self.get("", "services", NAMESPACE, NAME) else { return Ok(()) };
        // An operator may have taken a family away, or given one; the endpoints follow the Service.
        let families: Vec<IpFamily> = service["spec"]["ipFamilies"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|name| IpFamily::from_name(name.as_str()?))
            .collect();
        let primary = *self.advertise.primary();
        self.put("", "endpoints", self.endpoints(primary), &["subsets"]).await?;
        for (family, ip) in self.advertise.iter() {
            let slice = self.slice(family, *ip);
            let name = slice_name(family, primary);
            let current = self.get(SLICES.0, SLICES.1, NAMESPACE, &name);
            let wanted = *ip == primary || families.contains(&family);
            // The family of a slice can't be changed.
            let wrong = current.is_some_and(|slice| !wanted || slice["addressType"] != family.as_str());
            if wrong {
                self.delete_slice(&name).await?;
                self.registry.until_as_new_as(None).await?;
            }
            if wanted {
                self.put(SLICES.0, SLICES.1, slice, &["endpoints", "ports"]).await?;
            }
        }
        Ok(())
    }

    /// C50, C56: the first address of each range whose family the server can be reached in.
    fn service(&self) -> Value {
        let ranges = &self.registry.cluster.service_ranges;
        let families: Vec<(IpFamily, IpAddr)> = ranges
            .iter()
            .filter(|(family, _)| *family == ranges.primary_family() || self.advertise.get(*family).is_some())
            .filter_map(|(family, net)| Some((family, first_address(net)?)))
            .collect();
        let policy = if families.len() == 2 { "RequireDualStack" } else { "SingleStack" };
        let ips: Vec<String> = families.iter().map(|(_, ip)| ip.to_string()).collect();
        json!({
            "kind": "Service",
            "apiVersion": "v1",
            "metadata": {
                "name": NAME,
                "namespace": NAMESPACE,
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": ips.first(),
                "clusterIPs": ips,
                "ipFamilies": families.iter().map(|(family, _)| family.as_str()).collect::<Vec<_>>(),
                "ipFamilyPolicy": policy,
                "sessionAffinity": "None",
                "ports": [{"name": PORT_NAME, "port": 443, "protocol": "TCP", "targetPort": self.port}],
            },
        })
    }

    /// The legacy object has the primary family only.
    fn endpoints(&self, ip: IpAddr) -> Value {
        json!({
            "kind": "Endpoints",
            "apiVersion": "v1",
            "metadata": {
                "name": NAME,
                "namespace": NAMESPACE,
                // The server writes the slices itself.
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
            },
            "subsets": [{
                "addresses": [{"ip": ip.to_string()}],
                "ports": [{"name": PORT_NAME, "port": self.port, "protocol": "TCP"}],
            }],
        })
    }

    fn slice(&self, family: IpFamily, ip: IpAddr) -> Value {
        json!({
            "kind": "EndpointSlice",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {
                "name": slice_name(family, *self.advertise.primary()),
                "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": NAME},
            },
            "addressType": family.as_str(),
            "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": PORT_NAME, "port": self.port, "protocol": "TCP"}],
        })
    }

    async fn delete_slice(&self, name: &str) -> Result<(), ApiError> {
        let served = self.registry.builtin_served(SLICES.0, SLICES.1);
        let scope =
            Scope { served, namespace: NAMESPACE, name, subresource: "", user: &self.user, verb: "delete" };
        match self.registry.delete(scope, &DeleteOptions::default()).await {
            Err(error) if error.reason() != "NotFound" => Err(error),
            _ => Ok(()),
        }
    }
}

/// `kubernetes` for the primary family, as every Kubernetes has it; `kubernetes-ipv6` or `kubernetes-ipv4` for the
/// other one.
fn slice_name(family: IpFamily, primary: IpAddr) -> String {
    if family == IpFamily::from(primary) {
        NAME.to_owned()
    } else {
        format!("{NAME}-{}", family.as_str().to_ascii_lowercase())
    }
}

/// The first address of a range that a Service can have.
fn first_address(net: &IpNet) -> Option<IpAddr> {
    net.hosts().find(|ip| dyad_net::service_range_contains(net, *ip))
}
