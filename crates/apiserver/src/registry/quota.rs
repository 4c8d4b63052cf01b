//! ResourceQuotas: what a write takes is counted in the transaction that writes it (J64).

use serde_json::Value;

use super::Registry;
use super::allocations::Session;
use super::write::Scope;
use crate::status::{About, ApiError};

/// Kinds that quotas do not count: they come and go with everything else.
const UNCOUNTED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

impl Registry {
    /// Charges the quotas of a namespace for `new`, in place of `old` if that was there.
    pub(crate) fn charge(
        &self,
        session: &mut Session<'_>,
        scope: Scope<'_>,
        about: About<'_>,
        old: Option<&Value>,
        new: &Value,
    ) -> Result<(), ApiError> {
        let row = scope.served.row.stored();
        let kind = (row.group, row.plural);
        if !row.namespaced
            || !scope.subresource.is_empty()
            || UNCOUNTED.contains(&kind)
            || !can_differ(kind, old, new)
        {
            return Ok(());
        }
        let quotas = self.builtin("", "resourcequotas");
        for stored in quotas.cache.snapshot(scope.namespace).items {
            let mut quota = stored.value();
            let used = dyad_model::usage::charge(&quota, kind, old, new);
            if let Some(used) = used.map_err(|why| ApiError::forbidden(about, &why))? {
                quota["status"]["used"] = used.into();
                let key = quotas.store_key(scope.namespace, &stored.meta.name);
                session.also_write(key, stored.rev, self.encoded(quotas, &quota));
            }
        }
        Ok(())
    }
}

/// Whether a change of an object can take more than it took before.
fn can_differ((group, plural): (&str, &str), old: Option<&Value>, new: &Value) -> bool {
    let Some(old) = old else { return true };
    let deadline = |pod: &Value| pod["spec"]["activeDeadlineSeconds"].is_null();
    match (group, plural) {
        ("", "pods") => deadline(old) != deadline(new),
        ("", "services" | "persistentvolumeclaims") => true,
        _ => false,
    }
}
