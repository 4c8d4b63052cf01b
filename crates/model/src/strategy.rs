//! What the API server asks of a kind, and what a kind asks of the API server.

use std::net::IpAddr;

use dyad_net::{DualStack, IpFamily, IpNet};
use serde_json::Value;

use crate::FieldError;
use crate::meta::Checks;

/// What the cluster was configured with; the one place every component derives the primary family from.
#[derive(Clone, Debug)]
pub struct ClusterNet {
    /// Service ranges, primary family first (rules C16, C17).
    pub service_ranges: DualStack<IpNet>,
    /// Node ports, first and last (rule A140).
    pub node_ports: std::ops::RangeInclusive<u16>,
}

impl ClusterNet {
    /// The configured families, primary first.
    pub fn families(&self) -> impl Iterator<Item = IpFamily> {
        self.service_ranges.families()
    }
}

/// The other objects there are, as far as what a kind means depends on them.
pub trait Objects: Send + Sync + std::fmt::Debug {
    /// The objects of a kind in a namespace; of all namespaces, and of kinds without one, with `""`.
    fn list(&self, group: &str, kind: &str, namespace: &str) -> Vec<Value>;

    /// What is wrong with a PKCS #10 request for a certificate (base64 of PEM). Who has no cryptography finds nothing.
    fn request_fault(&self, _base64: &str) -> Option<String> {
        None
    }

    /// What is wrong with certificates (base64 of PEM).
    fn certificate_fault(&self, _base64: &str) -> Option<String> {
        None
    }
}

/// No others at all.
#[derive(Clone, Copy, Debug)]
pub struct NoObjects;

impl Objects for NoObjects {
    fn list(&self, _group: &str, _kind: &str, _namespace: &str) -> Vec<Value> {
        Vec::new()
    }
}

/// The circumstances of one request.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The other objects there are.
    pub objects: &'a dyn Objects,
    /// The cluster's families and ranges.
    pub cluster: &'a ClusterNet,
    /// The subresource written to (`status`, `scale`, ...), or `""`.
    pub subresource: &'a str,
    /// Now, RFC 3339 in whole seconds.
    pub now: &'a str,
}

/// Why an address or a port can't be had (rules A121, A122, A145).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllocError {
    /// Somebody has it already.
    Taken,
    /// No ready range contains it (C12), or the port lies outside the node port range.
    OutOfRange,
    /// Every range is full.
    Full,
    /// The cluster has no range of this family.
    NoRange(IpFamily),
}

/// Hands out addresses and node ports within one request.
///
/// Everything taken and released through it becomes part of the same store transaction as the object, or of
/// nothing: when the request fails, the allocator is dropped and nothing happened (rule Q2, A124, A125).
/// Releases take effect only with the write. `take_*` within one request sees what that request took before.
pub trait Allocator {
    /// Takes `wanted`, or any free address of the family.
    fn take_ip(&mut self, family: IpFamily, wanted: Option<IpAddr>) -> Result<IpAddr, AllocError>;
    /// Gives an address back; unknown ones are ignored (A127).
    fn release_ip(&mut self, ip: IpAddr);
    /// Takes `wanted`, or any free port of the node port range.
    fn take_port(&mut self, wanted: Option<u16>) -> Result<u16, AllocError>;
    /// Gives a port back; unknown ones are ignored.
    fn release_port(&mut self, port: u16);
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// 422 with these causes.
    Invalid(Vec<FieldError>),
    /// 500 `Internal error occurred: ...`.
    Internal(String),
    /// 403 with this message.
    Forbidden(String),
    /// 409 reason `Conflict` with this message.
    Conflict(String),
    /// 400 with this message.
    BadRequest(String),
}

/// What a kind means. Objects are complete wire objects with `apiVersion`, `kind` and `metadata`.
///
/// The server calls, for a create: `default`, (meta filled in), `begin_create`, `prepare_create`,
/// `validate_create`; for an update or patch: `default(new)`, `decorate(old)`, `begin_update`, `prepare_update`,
/// `validate_update`; on every read: `decorate`; on final removal: `begin_delete`. ObjectMeta itself is checked
/// by [`crate::meta`], not by strategies.
pub trait Strategy: Send + Sync {
    /// Static defaulting on every decode (A-1 for Services).
    fn default(&self, _object: &mut Value) {}

    /// What is shown for objects stored by older servers; runs on reads and on the old object of updates. Whether
    /// that is something else than what is stored.
    fn decorate(&self, _object: &mut Value, _cluster: &ClusterNet) -> bool {
        false
    }

    /// Inference and allocation, before validation (rule Q1).
    fn begin_create(
        &self,
        _new: &mut Value,
        _cx: &Context<'_>,
        _alloc: &mut dyn Allocator,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    /// Inference, allocation and release, before validation; not called for subresources.
    fn begin_update(
        &self,
        _new: &mut Value,
        _old: &Value,
        _cx: &Context<'_>,
        _alloc: &mut dyn Allocator,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    /// Releases what the object holds, at its final removal (A126).
    fn begin_delete(&self, _old: &Value, _alloc: &mut dyn Allocator) {}

    /// Wipes what clients may not set on create (status), sets `generation` where the kind has it (J47).
    fn prepare_create(&self, _new: &mut Value, _cx: &Context<'_>) {}

    /// Keeps what this endpoint may not change (status on the main endpoint, spec on `status`), wipes
    /// dependent fields, moves `generation` (J47).
    fn prepare_update(&self, _new: &mut Value, _old: &Value, _cx: &Context<'_>) {}

    /// Every error of a new object.
    fn validate_create(&self, _new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        Vec::new()
    }

    /// Every error of a change.
    fn validate_update(&self, _new: &Value, _old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        Vec::new()
    }

    /// Warnings for the client, without the `299 - ` prefix (P6, A106).
    fn warnings(&self, _new: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<String> {
        Vec::new()
    }

    /// Whether PUT to a missing name creates it (Q3).
    fn create_on_update(&self) -> bool {
        false
    }

    /// Whether a PUT may do without a resourceVersion (Q4).
    fn unconditional_update(&self) -> bool {
        true
    }

    /// Whether dependents stay when the object is deleted and nobody says what becomes of them (J50).
    fn orphans_dependents(&self) -> bool {
        false
    }

    /// How the metadata of a new object, or of a change, is checked.
    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        Checks::CHANGE
    }

    /// Whether names are RFC 1123 labels (Services, Namespaces), not subdomains; and other name rules.
    fn validate_name(&self, _name: &str) -> Vec<String> {
        Vec::new()
    }
}

/// The strategy of kinds that need none.
#[derive(Clone, Copy, Debug)]
pub struct NoLogic;

impl Strategy for NoLogic {}
