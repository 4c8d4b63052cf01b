//! The ServiceCIDR `kubernetes`: the ranges the server was configured with (C20 to C23).

use serde_json::{Value, json};

use super::Bootstrap;
use crate::registry;
use crate::status::ApiError;

const RESOURCE: (&str, &str) = ("networking.k8s.io", "servicecidrs");
const NAME: &str = "kubernetes";
const MESSAGE: &str = "Kubernetes default Service CIDR is ready";

impl Bootstrap {
    pub(super) async fn ensure_service_cidr(&self) -> Result<(), ApiError> {
        let (group, plural) = RESOURCE;
        let cidrs: Vec<String> =
            self.registry.cluster.service_ranges.iter().map(|(_, net)| net.to_string()).collect();
        let object = json!({
            "kind": "ServiceCIDR",
            "apiVersion": "networking.k8s.io/v1",
            "metadata": {"name": NAME},
            "spec": {"cidrs": cidrs},
        });
        self.create_if_missing(group, plural, object).await?;
        self.registry.until_as_new_as(None).await?;
        let Some(current) = self.get(group, plural, "", NAME) else { return Ok(()) };
        if !current["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let stored = current["spec"]["cidrs"].as_array().map(Vec::as_slice).unwrap_or_default();
        match (stored, cidrs.as_slice()) {
            (stored, wanted) if stored == wanted => {}
            // C21: one more family.
            ([only], [first, _]) if only == first => {
                let change = |object: &mut Value| {
                    object["spec"]["cidrs"] = json!(cidrs);
                    Ok(())
                };
                self.change((group, plural, ""), "", NAME, &change).await?;
            }
            // C22: the operator has to decide.
            _ => return self.say_inconsistent(&cidrs, stored).await,
        }
        let ready = current["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "Ready");
        if ready.is_some_and(|condition| matches!(condition["status"].as_str(), Some("True" | "False"))) {
            return Ok(());
        }
        self.change((group, plural, "status"), "", NAME, &|object| {
            let condition = json!({
                "type": "Ready",
                "status": "True",
                "reason": "",
                "message": MESSAGE,
                "lastTransitionTime": registry::now(),
            });
            let mut conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            conditions.retain(|condition| condition["type"] != "Ready");
            conditions.push(condition);
            object["status"]["conditions"] = conditions.into();
            Ok(())
        })
        .await
    }

    /// An event for the operator, once.
    async fn say_inconsistent(&self, wanted: &[String], stored: &[Value]) -> Result<(), ApiError> {
        let reason = "KubernetesDefaultServiceCIDRInconsistent";
        let now = registry::now();
        let message = format!(
            "The default ServiceCIDR kubernetes holds {}, but the server is configured with {}; delete the \
             ServiceCIDR kubernetes and the Service default/kubernetes to make it follow the configuration",
            Value::from(stored.to_vec()),
            wanted.join(",")
        );
        let event = json!({
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {"name": "kubernetes-default-service-cidr-inconsistent", "namespace": "default"},
            "involvedObject": {
                "kind": "ServiceCIDR",
                "apiVersion": "networking.k8s.io/v1",
                "name": NAME,
            },
            "reason": reason,
            "message": message,
            "type": "Warning",
            "source": {"component": "kubernetes-default-service-cidr-controller"},
            "reportingComponent": "kubernetes-default-service-cidr-controller",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        });
        self.create_if_missing("", "events", event).await
    }
}
