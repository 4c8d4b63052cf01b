//! What kinds and fields are for: the text of `kubectl explain`. In the words of the Kubernetes documentation, which come
//! with the k8s-openapi crate, and for kinds that are custom resources elsewhere in those of our definitions.

use std::collections::HashMap;
use std::sync::OnceLock;

use dyad_schema::fields::{Kind, Schema, Struct, Table};
use k8s_openapi::api::{
    admissionregistration, apps, authentication, authorization, autoscaling, batch, certificates,
    coordination, core, discovery, events, networking, node, policy, rbac, resource, scheduling, storage,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta;
use schemars::generate::SchemaSettings;
use serde_json::Value;

/// Definitions of custom resources that are built in here.
const DEFINITIONS: [&str; 1] =
    [include_str!("../../../../deploy/crds/policy.networking.k8s.io_clusternetworkpolicies.yaml")];

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
        apiextensions::v1::CustomResourceDefinition,
        apps::v1::ControllerRevision, apps::v1::DaemonSet, apps::v1::Deployment, apps::v1::ReplicaSet,
        apps::v1::StatefulSet, authentication::v1::SelfSubjectReview, authentication::v1::TokenRequest, authentication::v1::TokenReview,
        authorization::v1::LocalSubjectAccessReview, authorization::v1::SelfSubjectAccessReview,
        authorization::v1::SelfSubjectRulesReview, authorization::v1::SubjectAccessReview,
        autoscaling::v1::Scale, autoscaling::v2::HorizontalPodAutoscaler,
        batch::v1::CronJob, batch::v1::Job, certificates::v1::CertificateSigningRequest,
        coordination::v1::Lease,
        core::v1::Binding, core::v1::ConfigMap, core::v1::Endpoints, core::v1::Event, core::v1::LimitRange,
        core::v1::Namespace, core::v1::Node, core::v1::PersistentVolume, core::v1::PersistentVolumeClaim,
        core::v1::Pod, core::v1::PodTemplate, core::v1::ReplicationController, core::v1::ResourceQuota,
        core::v1::Secret, core::v1::Service, core::v1::ServiceAccount,
        discovery::v1::EndpointSlice,
        events::v1::Event,
        meta::v1::DeleteOptions, meta::v1::Status,
        networking::v1::IPAddress, networking::v1::Ingress, networking::v1::IngressClass,
        networking::v1::NetworkPolicy, networking::v1::ServiceCIDR,
        policy::v1::Eviction, policy::v1::PodDisruptionBudget,
        rbac::v1::ClusterRole, rbac::v1::ClusterRoleBinding, rbac::v1::Role, rbac::v1::RoleBinding,
        scheduling::v1::PriorityClass,
        admissionregistration::v1::ValidatingAdmissionPolicy, admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        node::v1::RuntimeClass, resource::v1::DeviceClass, resource::v1::ResourceClaim,
        resource::v1::ResourceClaimTemplate, resource::v1::ResourceSlice,
        storage::v1::CSIDriver, storage::v1::CSINode, storage::v1::CSIStorageCapacity, storage::v1::VolumeAttributesClass, storage::v1::StorageClass, storage::v1::VolumeAttachment,
    }
    let definitions = generator.take_definitions(true);
    let mut all: HashMap<String, Fields> =
        definitions.into_iter().map(|(name, schema)| (name, described(&schema))).collect();
    for definition in DEFINITIONS {
        let definition: Value = serde_saphyr::from_str(definition).expect("a test reads every definition");
        let spec = &definition["spec"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for version in spec["versions"].as_array().into_iter().flatten() {
            let (group, kind) = (text(&spec["group"]), text(&spec["names"]["kind"]));
            let schema = Schema::for_kind(&group, &text(&version["name"]), &kind);
            let root = schema.expect("a test finds every kind in the table").root();
            read_definition(root, &version["schema"]["openAPIV3Schema"], &mut all);
        }
    }
    all
}

/// The descriptions in a schema and of its fields.
fn described(schema: &Value) -> Fields {
    let text = |schema: &Value| schema["description"].as_str().map(str::to_owned);
    let fields = schema["properties"].as_object().into_iter().flatten();
    let fields = fields.filter_map(|(field, schema)| Some((field.clone(), text(schema)?)));
    fields.chain(text(schema).map(|text| (String::new(), text))).collect()
}

/// Goes through a struct and its part of a definition side by side. Structs of other packages have their descriptions.
fn read_definition(of: &Struct, schema: &Value, all: &mut HashMap<String, Fields>) {
    let mut fields = described(schema);
    fields.entry("metadata".to_owned()).or_insert_with(|| "Standard metadata of the object.".to_owned());
    all.insert(of.openapi.clone(), fields);
    for field in &of.json {
        let property = &schema["properties"][field.name];
        let (kind, schema) = match &field.shape.kind {
            Kind::List(item) => (&item.kind, &property["items"]),
            kind => (kind, property),
        };
        if let Kind::Struct(id) = kind
            && Table::get().at(*id).package == of.package
        {
            read_definition(Table::get().at(*id), schema, all);
        }
    }
}

#[cfg(test)]
mod tests {
    use dyad_schema::kinds;

    use super::*;

    #[test]
    fn every_kind_is_described() {
        for row in kinds::all() {
            let schema = &Schema::for_kind(row.group, row.version, row.kind).unwrap().root().openapi;
            assert!(of(schema, "").is_some(), "{schema}: add it to the list");
            // Of the metadata of requests Kubernetes says nothing.
            let silent = row.kind == "CertificateSigningRequest";
            assert!(silent || of(schema, "metadata").is_some(), "{schema}");
        }
        let families = of("io.k8s.api.core.v1.ServiceSpec", "ipFamilies").unwrap();
        assert!(families.contains("IP families"), "{families}");
        assert_eq!(of("io.k8s.api.core.v1.ServiceSpec", "nothing"), None);
    }

    /// Every field of the table is in the definition with a description, and the other way round.
    fn compare(of_struct: &Struct, schema: &Value, path: &str, compared: &mut usize) {
        let own = |name: &str| !matches!(name, "apiVersion" | "kind" | "metadata");
        let mut ours: Vec<&str> = of_struct.json.iter().map(|field| field.name).filter(|n| own(n)).collect();
        let properties = schema["properties"].as_object();
        let mut theirs: Vec<&str> =
            properties.into_iter().flatten().map(|(name, _)| name.as_str()).filter(|n| own(n)).collect();
        ours.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(ours, theirs, "{path}");
        let required = |name: &str| {
            schema["required"].as_array().is_some_and(|list| list.iter().any(|required| required == name))
        };
        for field in of_struct.json.iter().filter(|field| own(field.name)) {
            let property = &schema["properties"][field.name];
            let path = format!("{path}.{}", field.name);
            assert_eq!(
                field.required || (!field.optional && !field.omit_empty),
                required(field.name),
                "{path}"
            );
            assert!(of(&of_struct.openapi, field.name).is_some(), "{path} has no description");
            *compared += 1;
            let (kind, schema) = match &field.shape.kind {
                Kind::List(item) => (&item.kind, &property["items"]),
                kind => (kind, property),
            };
            match kind {
                Kind::Struct(id) => compare(Table::get().at(*id), schema, &path, compared),
                Kind::String => {
                    let values = schema["enum"].as_array().cloned().unwrap_or_default();
                    assert_eq!(schema["type"], "string", "{path}");
                    let free = field.shape.values.is_empty();
                    assert!(free || values == field.shape.values, "{path}: {values:?}");
                }
                _ => {}
            }
        }
    }

    #[test]
    fn definitions_and_the_table_have_the_same_fields() {
        for definition in DEFINITIONS {
            let definition: Value = serde_saphyr::from_str(definition).unwrap();
            let spec = &definition["spec"];
            let version = &spec["versions"][0];
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let row = kinds::by_kind(&text(&spec["group"]), &text(&spec["names"]["kind"])).unwrap();
            assert_eq!(definition["metadata"]["name"], format!("{}.{}", row.plural, row.group));
            assert_eq!(
                (version["name"].as_str(), spec["names"]["plural"].as_str()),
                (Some(row.version), Some(row.plural))
            );
            assert_eq!(spec["names"]["shortNames"], serde_json::json!(row.short_names));
            assert_eq!(spec["scope"] == "Namespaced", row.namespaced);
            let columns = version["additionalPrinterColumns"].as_array().unwrap().iter();
            let columns: Vec<String> = columns.map(|column| text(&column["name"])).collect();
            let ours: Vec<&str> = row.columns.iter().skip(1).map(|column| column.name).collect();
            assert_eq!(columns, ours);
            let root = Schema::for_kind(row.group, row.version, row.kind).unwrap().root();
            let mut compared = 0;
            compare(root, &version["schema"]["openAPIV3Schema"], row.kind, &mut compared);
            assert!(compared > 60, "{compared} fields");
        }
    }
}
