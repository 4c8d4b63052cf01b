//! ServiceCIDRs and IPAddresses (C-1).

use dyad_net::IpFamily;
use serde_json::{Value, json};

use crate::meta::Checks;
use crate::{Context, FieldError, Strategy, lifecycle, names, wire};

/// The strategy of ServiceCIDRs.
pub static SERVICE_CIDR: ServiceCidr = ServiceCidr;
/// The strategy of IPAddresses.
pub static IP_ADDRESS: IpAddress = IpAddress;

const CIDRS: &str = "spec.cidrs";
const IMMUTABLE: &str = "field is immutable";

/// See [`SERVICE_CIDR`].
#[derive(Clone, Copy, Debug)]
pub struct ServiceCidr;

impl ServiceCidr {
    fn cidrs(object: &Value) -> Vec<&str> {
        wire::texts(wire::at(object, &["spec"]), "cidrs").collect()
    }
}

impl Strategy for ServiceCidr {
    /// C4.
    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        wire::set(new, "status", json!({}));
    }

    /// C4.
    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if !lifecycle::keep_other_half(new, old, cx) {
            lifecycle::keep_meta(new, old);
        }
    }

    /// C2.
    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let cidrs = Self::cidrs(new);
        if cidrs.is_empty() {
            return vec![FieldError::required(CIDRS, "at least one CIDR required")];
        }
        if cidrs.len() > 2 {
            return vec![FieldError::invalid(
                CIDRS,
                json!({ "CIDRs": cidrs }),
                "may only hold up to 2 values",
            )];
        }
        let mut errors = Vec::new();
        let mut families = Vec::new();
        for (index, cidr) in cidrs.iter().enumerate() {
            if let Err(error) = dyad_net::check_canonical_cidr(cidr) {
                errors.push(FieldError::invalid(format!("{CIDRS}[{index}]"), *cidr, error.to_string()));
            }
            families.extend(dyad_net::parse_cidr_sloppy(cidr).map(|(ip, _)| IpFamily::from(ip)));
        }
        if let [first, second] = families[..]
            && first == second
        {
            let text =
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            errors.push(FieldError::invalid(CIDRS, cidrs, text));
        }
        errors
    }

    /// C3.
    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) {
            return Vec::new();
        }
        let (cidrs, old_cidrs) = (Self::cidrs(new), Self::cidrs(old));
        let changed =
            |index: usize| FieldError::invalid(format!("{CIDRS}[{index}]"), cidrs[index], IMMUTABLE);
        match (old_cidrs.len(), cidrs.len()) {
            (before, after) if before == after => {
                (0..after).filter(|index| cidrs[*index] != old_cidrs[*index]).map(changed).collect()
            }
            (1, 2) => {
                let mut errors: Vec<_> = (cidrs[0] != old_cidrs[0]).then(|| changed(0)).into_iter().collect();
                errors.extend(self.validate_create(new, cx));
                errors
            }
            _ => vec![FieldError::invalid(CIDRS, cidrs, IMMUTABLE)],
        }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

/// See [`IP_ADDRESS`].
#[derive(Clone, Copy, Debug)]
pub struct IpAddress;

impl Strategy for IpAddress {
    /// C5.
    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        const FIELD: &str = "spec.parentRef";
        let parent = wire::at(new, &["spec", "parentRef"]);
        if parent.is_null() {
            return vec![FieldError::required(FIELD, "")];
        }
        let mut errors = Vec::new();
        // The core group is "".
        let group = wire::text(parent, "group");
        if !group.is_empty() {
            errors.extend(names::check(names::dns1123_subdomain, format!("{FIELD}.group"), group));
        }
        for (key, required) in [("resource", true), ("name", true), ("namespace", false)] {
            match wire::text(parent, key) {
                "" if required => errors.push(FieldError::required(format!("{FIELD}.{key}"), "")),
                value => errors.extend(names::check(names::path_segment, format!("{FIELD}.{key}"), value)),
            }
        }
        errors
    }

    /// C5.
    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = self.validate_create(new, cx);
        let parent = |object: &Value| wire::at(object, &["spec", "parentRef"]).clone();
        if parent(new) != parent(old) {
            let new = parent(new);
            // The internal type has no JSON names, so its Go ones are shown.
            let shown = match new {
                Value::Null => new,
                new => json!({
                    "Group": wire::text(&new, "group"),
                    "Resource": wire::text(&new, "resource"),
                    "Namespace": wire::text(&new, "namespace"),
                    "Name": wire::text(&new, "name"),
                }),
            };
            errors.push(FieldError::invalid("spec.parentRef", shown, IMMUTABLE));
        }
        errors
    }

    /// C5: the name is the address.
    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        Checks::WHOLE_AND_CHANGE
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        dyad_net::check_canonical_ip(name).err().map(|error| error.to_string()).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{created, updated};

    fn cidrs(list: Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"cidrs": list}})
    }

    #[test]
    fn new_ranges() {
        let rows = [
            ("C2: one", json!(["10.0.0.0/24"]), None),
            ("C2: one of each", json!(["fd00::/112", "10.0.0.0/24"]), None),
            ("C2: none", json!([]), Some("spec.cidrs: Required value: at least one CIDR required")),
            (
                "C2: three",
                json!(["10.0.0.0/24", "fd00::/112", "10.0.1.0/24"]),
                Some(
                    "spec.cidrs: Invalid value: {\"CIDRs\":[\"10.0.0.0/24\",\"fd00::/112\",\"10.0.1.0/24\"]}: may only hold up to 2 values",
                ),
            ),
            (
                "C2: one family twice",
                json!(["10.0.0.0/24", "10.0.1.0/24"]),
                Some(
                    "spec.cidrs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one IP for each IP \
                     family, i.e 192.168.0.0/24 and 2001:db8::/64",
                ),
            ),
            (
                "P5: not canonical",
                json!(["FD00::/112"]),
                Some(
                    "spec.cidrs[0]: Invalid value: \"FD00::/112\": must be in canonical form (\"fd00::/112\")",
                ),
            ),
            (
                "C2: host bits",
                json!(["10.0.0.1/24"]),
                Some(
                    "spec.cidrs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set beyond the prefix length",
                ),
            ),
        ];
        for (row, list, wanted) in rows {
            let (object, errors) = created(&SERVICE_CIDR, cidrs(list));
            assert_eq!(errors, wanted.into_iter().collect::<Vec<_>>(), "{row}");
            assert_eq!(object["status"], json!({}), "C4");
        }
    }

    #[test]
    fn changed_ranges() {
        let old = cidrs(json!(["10.0.0.0/24"]));
        let rows = [
            ("C3: unchanged", json!(["10.0.0.0/24"]), vec![]),
            ("C3: second family added", json!(["10.0.0.0/24", "fd00::/112"]), vec![]),
            (
                "C3: changed",
                json!(["10.0.1.0/24"]),
                vec!["spec.cidrs[0]: Invalid value: \"10.0.1.0/24\": field is immutable"],
            ),
            (
                "C3: added before",
                json!(["fd00::/112", "10.0.0.0/24"]),
                vec!["spec.cidrs[0]: Invalid value: \"fd00::/112\": field is immutable"],
            ),
            ("C3: removed", json!([]), vec!["spec.cidrs: Invalid value: []: field is immutable"]),
        ];
        for (row, list, wanted) in rows {
            assert_eq!(updated(&SERVICE_CIDR, cidrs(list), &old, "").1, wanted, "{row}");
        }
        let mut status = cidrs(json!(["10.9.0.0/24"]));
        status["metadata"]["labels"] = json!({"a": "b"});
        status["status"] = json!({"conditions": []});
        let (object, errors) = updated(&SERVICE_CIDR, status, &old, "status");
        assert!(errors.is_empty());
        let mut wanted = old;
        wanted["status"] = json!({"conditions": []});
        assert_eq!(object, wanted, "C4: the status endpoint resets spec and metadata");
    }

    #[test]
    fn addresses_belong_to_something() {
        let object = |parent: Value| json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": parent}});
        let parent = json!({"resource": "services", "namespace": "n", "name": "a"});
        assert_eq!(created(&IP_ADDRESS, object(parent.clone())).1, Vec::<String>::new(), "C5");
        assert_eq!(created(&IP_ADDRESS, object(Value::Null)).1, ["spec.parentRef: Required value"], "C5");
        assert_eq!(
            created(&IP_ADDRESS, object(json!({"group": "-", "name": "a/b"}))).1.len(),
            3,
            "C5: group, resource and name"
        );
        let (_, errors) =
            updated(&IP_ADDRESS, object(json!({"resource": "services", "name": "b"})), &object(parent), "");
        assert_eq!(
            errors,
            [
                "spec.parentRef: Invalid value: {\"Group\":\"\",\"Name\":\"b\",\"Namespace\":\"\",\"Resource\":\"services\"}: field \
                 is immutable",
            ]
        );
        assert_eq!(
            IP_ADDRESS.validate_name("FD00::1"),
            ["must be in canonical form (\"fd00::1\")"],
            "C5, P5"
        );
        assert!(IP_ADDRESS.validate_name("fd00::1").is_empty(), "C5");
    }
}
