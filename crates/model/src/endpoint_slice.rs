//! EndpointSlices and Endpoints as objects (E-1); what is in them is in [`crate::slices`].

use dyad_net::IpFamily;
use serde_json::Value;

use crate::meta::{self, Checks};
use crate::{Context, ErrorType, FieldError, Strategy, addresses, lifecycle, names, slices, wire};

/// The strategy of EndpointSlices.
pub static ENDPOINT_SLICE: EndpointSlice = EndpointSlice;
/// The strategy of Endpoints.
pub static ENDPOINTS: Endpoints = Endpoints;

const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 20_000;
const MAX_ADDRESSES: usize = 100;
const MAX_HINTS: usize = 8;
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// See [`ENDPOINT_SLICE`].
#[derive(Clone, Copy, Debug)]
pub struct EndpointSlice;

fn too_many(field: impl Into<String>, count: usize, limit: usize) -> FieldError {
    FieldError::new(ErrorType::TooMany, field, count, format!("must have at most {limit} items"))
}

impl EndpointSlice {
    /// E2, E3.
    fn ports(slice: &Value) -> Vec<FieldError> {
        let ports = wire::list(slice, "ports");
        if ports.len() > MAX_PORTS {
            return vec![too_many("ports", ports.len(), MAX_PORTS)];
        }
        let mut errors = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for (index, port) in ports.iter().enumerate() {
            let field = format!("ports[{index}]");
            let name = wire::text(port, "name");
            if !name.is_empty() {
                errors.extend(names::check(names::dns1123_label, format!("{field}.name"), name));
            }
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{field}.name"), name));
            }
            let protocol = wire::text(port, "protocol");
            if !PROTOCOLS.contains(&protocol) {
                errors.push(FieldError::not_supported(format!("{field}.protocol"), protocol, &PROTOCOLS));
            }
            if wire::has(port, "appProtocol") {
                let protocol = wire::text(port, "appProtocol");
                errors.extend(names::check(names::qualified_name, format!("{field}.appProtocol"), protocol));
            }
        }
        errors
    }

    /// E3, E4.
    fn endpoints(slice: &Value) -> Vec<FieldError> {
        let endpoints = wire::list(slice, "endpoints");
        if endpoints.len() > MAX_ENDPOINTS {
            return vec![too_many("endpoints", endpoints.len(), MAX_ENDPOINTS)];
        }
        let kind = wire::text(slice, "addressType");
        let mut errors = Vec::new();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let field = format!("endpoints[{index}]");
            let list = format!("{field}.addresses");
            match wire::list(endpoint, "addresses").len() {
                0 => errors.push(FieldError::required(list.as_str(), "must contain at least 1 address")),
                count if count > MAX_ADDRESSES => errors.push(too_many(list.as_str(), count, MAX_ADDRESSES)),
                _ => {}
            }
            for (index, address) in wire::texts(endpoint, "addresses").enumerate() {
                errors.extend(Self::address(address, kind, &list, index));
            }
            if wire::has(endpoint, "nodeName") {
                let node = wire::text(endpoint, "nodeName");
                errors.extend(names::check(names::dns1123_subdomain, format!("{field}.nodeName"), node));
            }
            let topology = format!("{field}.deprecatedTopology");
            errors.extend(meta::validate_labels(wire::at(endpoint, &["deprecatedTopology"]), &topology));
            if wire::has(endpoint, "hostname") {
                let name = wire::text(endpoint, "hostname");
                errors.extend(names::check(names::dns1123_label, format!("{field}.hostname"), name));
            }
            errors.extend(Self::hints(wire::at(endpoint, &["hints"]), &format!("{field}.hints")));
        }
        errors
    }

    fn address(address: &str, kind: &str, list: &str, index: usize) -> Vec<FieldError> {
        let field = format!("{list}[{index}]");
        let Some(family) = IpFamily::from_name(kind) else {
            return if kind == "FQDN" { domain_name(address, &field) } else { Vec::new() };
        };
        let problem = match family {
            IpFamily::V4 => dyad_net::check_ip(address).err(),
            // The newer family came with the stricter rule.
            IpFamily::V6 => dyad_net::check_canonical_ip(address).err(),
        };
        if let Some(problem) = problem {
            return vec![FieldError::invalid(field, address, problem.to_string())];
        }
        let mut errors = Vec::new();
        if dyad_net::parse_ip_sloppy(address).map(IpFamily::from) != Some(family) {
            errors.push(FieldError::invalid(list, address, format!("must be an {family} address")));
        }
        errors.extend(addresses::endpoint_ip(&field, address));
        errors
    }

    fn hints(hints: &Value, field: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let lists: [(&str, names::Rule); 2] =
            [("forZones", names::label_value), ("forNodes", names::dns1123_subdomain)];
        for (key, rule) in lists {
            let list = wire::list(hints, key);
            if list.len() > MAX_HINTS {
                errors.push(too_many(format!("{field}.{key}"), list.len(), MAX_HINTS));
                return errors;
            }
            let mut seen = Vec::new();
            for (index, hint) in list.iter().enumerate() {
                let (field, name) = (format!("{field}.{key}[{index}].name"), wire::text(hint, "name"));
                if seen.contains(&name) {
                    errors.push(FieldError::duplicate(field.as_str(), name));
                }
                seen.push(name);
                errors.extend(names::check(rule, field, name));
            }
        }
        errors
    }

    /// E6.
    fn drop_topology(slice: &mut Value) {
        for endpoint in wire::items_mut(slice, "endpoints") {
            wire::remove(endpoint, "deprecatedTopology");
        }
    }
}

/// A domain name of at least two labels.
fn domain_name(name: &str, field: &str) -> Vec<FieldError> {
    if name.is_empty() {
        return vec![FieldError::required(field, "")];
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let problems = names::dns1123_subdomain(name);
    if !problems.is_empty() {
        return vec![FieldError::invalid(field, name, problems.join(","))];
    }
    if !name.contains('.') {
        let text = "should be a domain with at least two segments separated by dots";
        return vec![FieldError::invalid(field, name, text)];
    }
    let labels = name.split('.').map(|label| (label, names::dns1123_label(label)));
    let bad = labels.into_iter().find(|(_, problems)| !problems.is_empty());
    bad.map(|(label, problems)| FieldError::invalid(field, label, problems.join(","))).into_iter().collect()
}

impl Strategy for EndpointSlice {
    /// E2.
    fn default(&self, object: &mut Value) {
        for port in wire::items_mut(object, "ports") {
            wire::default(port, "name", "");
            wire::default(port, "protocol", "TCP");
        }
    }

    /// E5, E6.
    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        lifecycle::first_generation(new);
        Self::drop_topology(new);
    }

    /// E5, E6.
    fn prepare_update(&self, new: &mut Value, old: &Value, _cx: &Context<'_>) {
        let changed = ["addressType", "endpoints", "ports"].iter().any(|key| !wire::same(new, old, key));
        let labels = !wire::same(wire::at(new, &["metadata"]), wire::at(old, &["metadata"]), "labels");
        if changed || labels {
            lifecycle::next_generation(new, old);
        }
        if !wire::same(new, old, "endpoints") {
            Self::drop_topology(new);
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = Vec::new();
        match wire::text(new, "addressType") {
            "" => errors.push(FieldError::required("addressType", "")),
            "IPv4" | "IPv6" | "FQDN" => {}
            kind => {
                let known = ["FQDN", "IPv4", "IPv6"];
                errors.push(FieldError::not_supported("addressType", kind, &known));
            }
        }
        errors.extend(Self::ports(new));
        errors.extend(Self::endpoints(new));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        let mut errors = self.validate_create(new, cx);
        if wire::same(new, old, "endpoints") {
            errors.retain(|error| !error.field.starts_with("endpoints"));
        }
        if !wire::same(new, old, "addressType") {
            // E1.
            errors.push(FieldError::invalid(
                "addressType",
                wire::text(new, "addressType"),
                "field is immutable",
            ));
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>, _cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() && wire::text(new, "addressType") == "FQDN" {
            warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        let keeper = wire::text(wire::at(new, &["metadata", "labels"]), slices::MANAGED_BY_LABEL);
        if !matches!(keeper, slices::CONTROLLER | slices::MIRRORING_CONTROLLER) {
            for (index, endpoint) in wire::list(new, "endpoints").iter().enumerate() {
                for (address_index, address) in wire::texts(endpoint, "addresses").enumerate() {
                    let field = format!("endpoints[{index}].addresses[{address_index}]");
                    warnings.extend(addresses::ip_warning(&field, address));
                }
            }
        }
        warnings
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        Checks { whole: true, change: false, ..Checks::CHANGE }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

/// See [`ENDPOINTS`].
#[derive(Clone, Copy, Debug)]
pub struct Endpoints;

impl Endpoints {
    fn subsets(object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (index, subset) in wire::list(object, "subsets").iter().enumerate() {
            let field = format!("subsets[{index}]");
            let lists = ["addresses", "notReadyAddresses"];
            if lists.iter().all(|list| wire::list(subset, list).is_empty()) {
                let text = "must specify `addresses` or `notReadyAddresses`";
                errors.push(FieldError::required(field.as_str(), text));
            }
            for list in lists {
                for (index, address) in wire::list(subset, list).iter().enumerate() {
                    errors.extend(Self::address(address, &format!("{field}.{list}[{index}]")));
                }
            }
            let ports = wire::list(subset, "ports");
            for (index, port) in ports.iter().enumerate() {
                errors.extend(Self::port(port, ports.len() > 1, &format!("{field}.ports[{index}]")));
            }
        }
        errors
    }

    fn address(address: &Value, field: &str) -> Vec<FieldError> {
        let (ip, ip_field) = (wire::text(address, "ip"), format!("{field}.ip"));
        let mut errors: Vec<FieldError> = addresses::legacy_ip(&ip_field, ip, &[]).into_iter().collect();
        let hostname = wire::text(address, "hostname");
        if !hostname.is_empty() {
            errors.extend(names::check(names::dns1123_label, format!("{field}.hostname"), hostname));
        }
        if wire::has(address, "nodeName") {
            let node = wire::text(address, "nodeName");
            errors.extend(names::check(names::dns1123_subdomain, format!("{field}.nodeName"), node));
        }
        errors.extend(addresses::endpoint_ip(&ip_field, ip));
        errors
    }

    fn port(port: &Value, needs_name: bool, field: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        match wire::text(port, "name") {
            "" if needs_name => errors.push(FieldError::required(format!("{field}.name"), "")),
            "" => {}
            name => errors.extend(names::check(names::dns1123_label, format!("{field}.name"), name)),
        }
        let number = wire::int(port, "port").unwrap_or_default();
        let problems = names::port_number(number).into_iter();
        errors.extend(problems.map(|text| FieldError::invalid(format!("{field}.port"), number, text)));
        match wire::text(port, "protocol") {
            "" => errors.push(FieldError::required(format!("{field}.protocol"), "")),
            protocol if PROTOCOLS.contains(&protocol) => {}
            protocol => {
                errors.push(FieldError::not_supported(format!("{field}.protocol"), protocol, &PROTOCOLS));
            }
        }
        if wire::has(port, "appProtocol") {
            let protocol = wire::text(port, "appProtocol");
            errors.extend(names::check(names::qualified_name, format!("{field}.appProtocol"), protocol));
        }
        errors
    }
}

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        for subset in wire::items_mut(object, "subsets") {
            for port in wire::items_mut(subset, "ports") {
                wire::default_zero(port, "protocol", "TCP");
            }
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        Self::subsets(new)
    }

    fn validate_update(&self, new: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        if wire::same(new, old, "subsets") { Vec::new() } else { Self::subsets(new) }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<String> {
        let labels = wire::at(new, &["metadata", "labels"]);
        if wire::text(labels, slices::ENDPOINTS_MANAGED_BY_LABEL) == "endpoint-controller" {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        for (index, subset) in wire::list(new, "subsets").iter().enumerate() {
            for list in ["addresses", "notReadyAddresses"] {
                for (address_index, address) in wire::list(subset, list).iter().enumerate() {
                    let field = format!("subsets[{index}].{list}[{address_index}].ip");
                    warnings.extend(addresses::ip_warning(&field, wire::text(address, "ip")));
                }
            }
        }
        warnings
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn meta_checks(&self, _cx: &Context<'_>) -> Checks {
        Checks::WHOLE_AND_CHANGE
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

#[cfg(test)]
mod tests;
