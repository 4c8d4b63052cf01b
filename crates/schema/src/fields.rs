//! The table of fields: every struct of the built-in kinds, as Kubernetes 1.36 declares it.
//!
//! The table is text (`data/fields.txt`, written by `cargo xtask schema`, and `data/policy.txt` for kinds that are custom
//! resources elsewhere, and `data/definitions.txt` for what defines those) and is read once. One line each:
//!
//! ```text
//! package core/v1 io.k8s.api.core.v1            short name, prefix of the OpenAPI names
//! type Protocol string "TCP" "UDP"              a named type, and the values if it is an enumeration
//! struct ServicePort                            followed by `atomic` if the struct is one value to its owners
//!  port int32 3v -                              field: JSON name, type, protobuf tag, flags, the rest
//! ```
//!
//! A name of `^` is an inlined struct. Types are Go's, with names of other packages prefixed (`meta/v1.TypeMeta`).
//! The protobuf tag is number, wire type (`b`ytes, `v`arint, `d`ouble) and `+` if repeated. Flags: `e` omitempty,
//! `z` omitzero, `o` optional, `r` required. The rest: `list=atomic|set|map:KEYS`, `map=` and `struct=atomic|granular`,
//! `patch=STRATEGIES`, `key=MERGEKEY`, `default=JSON`.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

mod read;

/// Position of a struct in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StructId(u32);

impl StructId {
    /// The position itself.
    pub(crate) fn position(self) -> usize {
        self.0 as usize
    }
}

/// What a value is, as Go sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `string`, or a named type of it.
    String,
    /// `bool`.
    Bool,
    /// `int32`.
    Int32,
    /// `int64`.
    Int64,
    /// `float64`.
    Float64,
    /// `[]byte`: base64 in JSON.
    Bytes,
    /// `metav1.Time`: RFC 3339, UTC, seconds.
    Time,
    /// `metav1.MicroTime`: RFC 3339, UTC, six digits of a second.
    MicroTime,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `runtime.RawExtension`: any object.
    RawExtension,
    /// Any JSON: a default, or a schema where there may be something else than one.
    Json,
    /// `metav1.FieldsV1`: a tree of field names.
    FieldsV1,
    /// A struct of this table.
    Struct(StructId),
    /// `[]T`.
    List(Box<Shape>),
    /// `map[string]T`.
    Map(Box<Shape>),
}

/// A type: what it is, whether behind a pointer, and its name in Go's error texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// What it is.
    pub kind: Kind,
    /// Whether it is a pointer, so that zero and absent differ.
    pub pointer: bool,
    /// The type as Go prints it (`v1.Protocol`, `[]v1.ServicePort`), without the pointer.
    pub go: String,
    /// The values of an enumeration; empty for anything else.
    pub values: Vec<&'static str>,
}

/// How a list merges under server-side apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListType {
    /// One value.
    Atomic,
    /// A set of scalars.
    Set,
    /// A map by the named fields.
    Map(Vec<&'static str>),
}

/// Protobuf wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Length-delimited.
    Bytes,
    /// Variable-length integer.
    Varint,
    /// Eight bytes.
    Fixed64,
}

/// Protobuf field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proto {
    /// Field number.
    pub number: u32,
    /// Wire type.
    pub wire: Wire,
    /// Whether repeated (lists and maps).
    pub repeated: bool,
}

/// One field of a struct.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// JSON name; empty for an inlined struct.
    pub name: &'static str,
    /// Type.
    pub shape: Shape,
    /// Whether the fields of the struct stand among those of its owner in JSON (not in protobuf).
    pub inline: bool,
    /// Left out of JSON when empty in Go's sense.
    pub omit_empty: bool,
    /// Left out of JSON when the zero value.
    pub omit_zero: bool,
    /// Declared optional.
    pub optional: bool,
    /// Declared required, whatever Go leaves out.
    pub required: bool,
    /// Protobuf tag; `None` for types that have no protobuf form.
    pub proto: Option<Proto>,
    /// List type, if declared.
    pub list: Option<ListType>,
    /// Whether the map or struct in this field is one value under server-side apply.
    pub atomic: bool,
    /// Whether the map or struct is declared granular, overriding its type.
    pub granular: bool,
    /// Strategic merge: lists merge by element.
    pub merge: bool,
    /// Strategic merge: the patch replaces the value.
    pub replace: bool,
    /// Strategic merge: keys not named in `$retainKeys` go away.
    pub retain_keys: bool,
    /// Strategic merge: the field that identifies an element of a merging list.
    pub merge_key: Option<&'static str>,
    /// Declared default.
    pub default: Option<Value>,
}

/// One struct.
#[derive(Clone, Debug, PartialEq)]
pub struct Struct {
    /// Name in Go, without the package.
    pub name: &'static str,
    /// Short name of the package (`core/v1`).
    pub package: &'static str,
    /// Name in OpenAPI documents (`io.k8s.api.core.v1.Service`).
    pub openapi: String,
    /// Whether the struct is one value under server-side apply.
    pub atomic: bool,
    /// Fields as declared, inlined structs as one field.
    pub fields: Vec<Field>,
    /// Fields as JSON sees them: inlined structs spread.
    pub json: Vec<Field>,
    /// JSON name to position in `json`.
    index: HashMap<&'static str, usize>,
}

impl Struct {
    /// The field of this JSON name and its position in [`Self::json`].
    pub fn json_field(&self, name: &str) -> Option<(usize, &Field)> {
        let position = *self.index.get(name)?;
        Some((position, &self.json[position]))
    }

    /// The version in the package's name (`v1`).
    pub(crate) fn version(&self) -> &'static str {
        self.package.split_once('/').map_or(self.package, |(_, version)| version)
    }

    /// Whether this is a kind: something with `kind` and `apiVersion` inlined from TypeMeta.
    pub fn is_kind(&self) -> bool {
        self.fields.first().is_some_and(|field| field.inline && field.shape.go == "v1.TypeMeta")
    }
}

/// All structs.
#[derive(Debug)]
pub struct Table {
    structs: Vec<Struct>,
    /// By package and name.
    by_name: HashMap<(&'static str, &'static str), StructId>,
}

impl Table {
    /// The table of this build; read at the first call, in a few milliseconds.
    pub fn get() -> &'static Self {
        static TABLE: OnceLock<Table> = OnceLock::new();
        TABLE.get_or_init(|| {
            let text = concat!(
                include_str!("../data/fields.txt"),
                include_str!("../data/policy.txt"),
                include_str!("../data/definitions.txt")
            );
            read::table(text).expect("the table of fields is checked by a test")
        })
    }

    /// The struct with this number.
    pub fn at(&self, id: StructId) -> &Struct {
        &self.structs[id.position()]
    }

    /// The struct `name` of the package with the short name `package` (`core/v1`).
    pub fn find(&self, package: &str, name: &str) -> Option<StructId> {
        // The key borrows for 'static in the table only.
        self.by_name.get(&(package, name)).copied()
    }

    /// All structs, in the order of the table.
    pub fn structs(&self) -> impl Iterator<Item = (StructId, &Struct)> {
        (0..).map(StructId).zip(&self.structs)
    }
}

/// Kinds that every group serves under its own name although they are meta's.
const EVERYWHERE: &[&str] = &[
    "DeleteOptions",
    "CreateOptions",
    "UpdateOptions",
    "PatchOptions",
    "ListOptions",
    "GetOptions",
    "WatchEvent",
    "Status",
    "PartialObjectMetadata",
    "PartialObjectMetadataList",
    "APIVersions",
    "APIGroup",
    "APIGroupList",
    "APIResourceList",
];

/// The fields of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    pub(crate) table: &'static Table,
    pub(crate) root: StructId,
}

impl Schema {
    /// The schema of a built-in kind; the group of core is empty. `None` for what is not in the table.
    pub fn for_kind(group: &str, version: &str, kind: &str) -> Option<Self> {
        let table = Table::get();
        let first_label = match group.split('.').next() {
            None | Some("") => "core",
            Some(label) => label,
        };
        // Meta's kinds are of one version, whatever that of the group.
        let root = match EVERYWHERE.contains(&kind) {
            true => table.find("meta/v1", kind)?,
            false => table.find(&format!("{first_label}/{version}"), kind)?,
        };
        table.at(root).is_kind().then_some(Self { table, root })
    }

    /// The struct of the kind itself.
    pub fn root(&self) -> &'static Struct {
        self.table.at(self.root)
    }

    /// The kind's name.
    pub fn kind(&self) -> &'static str {
        self.root().name
    }

    /// The version of the package it is declared in.
    pub(crate) fn version(&self) -> &'static str {
        self.root().version()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_the_issue_has_fields() {
        let kinds = [
            ("", "Namespace Node Pod Service Endpoints ConfigMap Secret ServiceAccount Event Binding Status"),
            (
                "",
                "NamespaceList NodeList PodList ServiceList PodTemplate ReplicationController DeleteOptions",
            ),
            ("discovery.k8s.io", "EndpointSlice EndpointSliceList"),
            ("coordination.k8s.io", "Lease"),
            ("networking.k8s.io", "ServiceCIDR IPAddress NetworkPolicy Ingress IngressClass"),
            ("apps", "Deployment ReplicaSet DaemonSet StatefulSet ControllerRevision"),
            ("rbac.authorization.k8s.io", "Role RoleBinding ClusterRole ClusterRoleBinding"),
            ("autoscaling", "Scale HorizontalPodAutoscaler"),
            ("policy", "Eviction PodDisruptionBudget"),
            ("events.k8s.io", "Event"),
            ("batch", "Job CronJob"),
            ("certificates.k8s.io", "CertificateSigningRequest"),
            ("authentication.k8s.io", "TokenRequest TokenReview SelfSubjectReview"),
            ("authorization.k8s.io", "SubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview"),
            ("storage.k8s.io", "StorageClass CSIDriver CSINode VolumeAttributesClass CSIStorageCapacity"),
            ("node.k8s.io", "RuntimeClass"),
            ("resource.k8s.io", "DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice"),
            ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding"),
        ];
        for (group, names) in kinds {
            for kind in names.split(' ') {
                assert!(Schema::for_kind(group, "v1", kind).is_some(), "{group}/v1 {kind}");
            }
        }
        let policy = |version, kind| Schema::for_kind("policy.networking.k8s.io", version, kind).is_some();
        assert!(policy("v1alpha2", "ClusterNetworkPolicy") && policy("v1alpha2", "DeleteOptions"));
        assert!(!policy("v1", "ClusterNetworkPolicy"));
        assert!(Schema::for_kind("", "v1", "ServiceSpec").is_none(), "not a kind");
        assert!(Schema::for_kind("", "v2", "Service").is_none(), "no such version");
        assert!(Schema::for_kind("example.com", "v1", "Service").is_none(), "no such group");
    }

    #[test]
    fn the_ports_of_a_service_have_their_keys() {
        let table = Table::get();
        let spec = table.at(table.find("core/v1", "ServiceSpec").unwrap());
        let (_, ports) = spec.json_field("ports").unwrap();
        assert_eq!(ports.list, Some(ListType::Map(vec!["port", "protocol"])));
        assert_eq!((ports.merge, ports.merge_key), (true, Some("port")));
        assert_eq!(ports.shape.go, "[]v1.ServicePort");
        assert_eq!(ports.proto, Some(Proto { number: 1, wire: Wire::Bytes, repeated: true }));
        let port = table.at(table.find("core/v1", "ServicePort").unwrap());
        let (_, protocol) = port.json_field("protocol").unwrap();
        assert_eq!(protocol.default, Some(Value::from("TCP")));
        assert_eq!(protocol.shape.values, ["SCTP", "TCP", "UDP"]);
    }

    #[test]
    fn inlined_structs_are_spread_in_json_only() {
        let table = Table::get();
        let volume = table.at(table.find("core/v1", "Volume").unwrap());
        assert_eq!(volume.fields.len(), 2);
        assert!(volume.json_field("configMap").is_some());
    }
}
