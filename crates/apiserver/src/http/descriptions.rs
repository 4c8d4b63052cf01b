//! What kinds and fields are for, in the words of the Kubernetes documentation: the text of `kubectl explain`. They
//! come with the k8s-openapi crate.

use std::collections::HashMap;
use std::sync::OnceLock;

use k8s_openapi::api::{apps, autoscaling, coordination, core, discovery, events, networking, policy, rbac};
use k8s_openapi::apimachinery::pkg::apis::meta;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// Descriptions by field; that of the schema itself is under the empty name.
type Fields = HashMap<String, String>;

/// The description of a schema of the OpenAPI documents, or of one of its fields.
pub(crate) fn of(schema: &str, field: &str) -> Option<&'static str> {
    static ALL: OnceLock<HashMap<String, Fields>> = OnceLock::new();
    Some(ALL.get_or_init(collect).get(schema)?.get(field)?.as_str())
}

/// Reads the schemas of every kind served, and of all that they are made of.
fn collect() -> HashMap<String, Fields> {
    let mut generator = SchemaSettings::openapi3().into_generator();
    macro_rules! kinds {
        ($($kind:ty,)*) => {
            $(generator.subschema_for::<$kind>();)*
        };
    }
    kinds! {
        apps::v1::ControllerRevision, apps::v1::DaemonSet, apps::v1::Deployment, apps::v1::ReplicaSet,
        autoscaling::v1::Scale,
        coordination::v1::Lease,
        core::v1::Binding, core::v1::ConfigMap, core::v1::Endpoints, core::v1::Event, core::v1::Namespace,
        core::v1::Node, core::v1::Pod, core::v1::Secret, core::v1::Service, core::v1::ServiceAccount,
        discovery::v1::EndpointSlice,
        events::v1::Event,
        meta::v1::DeleteOptions, meta::v1::Status,
        networking::v1::IPAddress, networking::v1::Ingress, networking::v1::IngressClass,
        networking::v1::NetworkPolicy, networking::v1::ServiceCIDR,
        policy::v1::Eviction,
        rbac::v1::ClusterRole, rbac::v1::ClusterRoleBinding, rbac::v1::Role, rbac::v1::RoleBinding,
    }
    let text = |schema: &Value| schema["description"].as_str().map(str::to_owned);
    generator
        .take_definitions(true)
        .into_iter()
        .map(|(name, schema)| {
            let fields = schema["properties"].as_object().into_iter().flatten();
            let fields = fields.filter_map(|(field, schema)| Some((field.clone(), text(schema)?)));
            (name, fields.chain(text(&schema).map(|text| (String::new(), text))).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use dyad_schema::kinds;

    use super::*;

    #[test]
    fn every_kind_is_described() {
        for row in kinds::all() {
            let package = match row.group.split('.').next() {
                None | Some("") => "core",
                Some(label) => label,
            };
            let schema = format!("io.k8s.api.{package}.{}.{}", row.version, row.kind);
            assert!(of(&schema, "").is_some(), "{schema}: add it to the list");
            assert!(of(&schema, "metadata").is_some(), "{schema}");
        }
        let families = of("io.k8s.api.core.v1.ServiceSpec", "ipFamilies").unwrap();
        assert!(families.contains("IP families"), "{families}");
        assert_eq!(of("io.k8s.api.core.v1.ServiceSpec", "nothing"), None);
    }
}
