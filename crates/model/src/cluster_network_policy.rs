//! ClusterNetworkPolicies (policy.networking.k8s.io/v1alpha2): policy of the whole cluster, in a tier before and one
//! after NetworkPolicies.
//!
//! Elsewhere the kind comes as a custom resource. What is refused here is what its definition in `deploy/crds` makes a
//! Kubernetes API server refuse, in that server's words. Peers by domain name are not offered.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::{Context, ErrorType, FieldError, Strategy, addresses, lifecycle, names, selector, wire};

/// The strategy of ClusterNetworkPolicies.
pub static CLUSTER_NETWORK_POLICY: ClusterNetworkPolicy = ClusterNetworkPolicy;

/// See [`CLUSTER_NETWORK_POLICY`].
#[derive(Clone, Copy, Debug)]
pub struct ClusterNetworkPolicy;

const TIERS: [&str; 2] = ["Admin", "Baseline"];
const ACTIONS: [&str; 3] = ["Accept", "Deny", "Pass"];
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
/// The two directions: the list of rules, and the list of peers within a rule.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];
/// Most rules of a direction, peers and protocols of a rule, networks of a peer.
const MOST: usize = 25;
/// Longest name of a rule, in bytes.
const LONGEST_NAME: usize = 100;
const PRIORITIES: RangeInclusive<i64> = 0..=1000;
const PORTS: RangeInclusive<i64> = 1..=65535;

/// A value and where it is.
#[derive(Clone, Debug)]
struct At<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> At<'a> {
    fn spec(policy: &'a Value) -> Self {
        Self { value: wire::at(policy, &["spec"]), path: "spec".to_owned() }
    }

    fn child(&self, key: &str) -> Self {
        Self { value: wire::at(self.value, &[key]), path: format!("{}.{key}", self.path) }
    }

    /// The field, if it is there.
    fn optional(&self, key: &str) -> Option<Self> {
        Some(self.child(key)).filter(|child| !child.value.is_null())
    }

    /// The field; an error if it is missing.
    fn required(&self, key: &str, errors: &mut Vec<FieldError>) -> Option<Self> {
        let found = self.optional(key);
        if found.is_none() {
            errors.push(FieldError::required(self.child(key).path, ""));
        }
        found
    }

    fn items(&self) -> Vec<Self> {
        let items = self.value.as_array().map(Vec::as_slice).unwrap_or_default().iter().enumerate();
        items.map(|(index, value)| Self { value, path: format!("{}[{index}]", self.path) }).collect()
    }

    fn should(&self, value: impl Into<Value>, what: &str) -> FieldError {
        FieldError::invalid(self.path.as_str(), value, format!("{} in body should {what}", self.path))
    }

    fn too_many(&self, count: usize, most: &str) -> FieldError {
        FieldError::new(ErrorType::TooMany, self.path.as_str(), count, format!("must have at most {most}"))
    }

    fn one_of(&self, values: &[&str], errors: &mut Vec<FieldError>) {
        let value = self.value.as_str().unwrap_or_default();
        if !values.contains(&value) {
            errors.push(FieldError::not_supported(self.path.as_str(), value, values));
        }
    }

    fn within(&self, range: &RangeInclusive<i64>, errors: &mut Vec<FieldError>) {
        let value = self.value.as_i64().unwrap_or_default();
        if value < *range.start() {
            errors.push(self.should(value, &format!("be greater than or equal to {}", range.start())));
        }
        if value > *range.end() {
            errors.push(self.should(value, &format!("be less than or equal to {}", range.end())));
        }
    }

    /// Checks that a list has as many items as it may have.
    fn counted(&self, least: usize, errors: &mut Vec<FieldError>) {
        let count = self.value.as_array().map_or(0, Vec::len);
        if count < least {
            errors.push(self.should(count, &format!("have at least {least} items")));
        }
        if count > MOST {
            errors.push(self.too_many(count, &format!("{MOST} items")));
        }
    }

    /// Checks that exactly one field is there.
    fn only_one(&self, errors: &mut Vec<FieldError>) {
        match self.value.as_object().map_or(0, Map::len) {
            0 => errors.push(self.should(0, "have at least 1 properties")),
            1 => {}
            count => errors.push(self.too_many(count, "1 item")),
        }
    }

    fn selector(&self, errors: &mut Vec<FieldError>) {
        errors.extend(selector::validate(self.value, &self.path));
    }
}

fn validate(policy: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = At::spec(policy);
    if spec.value.is_null() {
        return vec![FieldError::required("spec", "")];
    }
    if let Some(tier) = spec.required("tier", &mut errors) {
        tier.one_of(&TIERS, &mut errors);
    }
    if let Some(priority) = spec.required("priority", &mut errors) {
        priority.within(&PRIORITIES, &mut errors);
    }
    if let Some(subject) = spec.required("subject", &mut errors) {
        validate_pods(&subject, &mut errors);
    }
    for (rules, peers) in DIRECTIONS {
        let rules = spec.child(rules);
        rules.counted(0, &mut errors);
        for rule in rules.items() {
            validate_rule(&rule, peers, &mut errors);
        }
    }
    errors
}

fn validate_rule(rule: &At<'_>, peers: &str, errors: &mut Vec<FieldError>) {
    if wire::text(rule.value, "name").len() > LONGEST_NAME {
        let text = format!("may not be more than {LONGEST_NAME} bytes");
        errors.push(FieldError::new(ErrorType::TooLong, rule.child("name").path, Value::Null, text));
    }
    if let Some(action) = rule.required("action", errors) {
        action.one_of(&ACTIONS, errors);
    }
    let peers = rule.required(peers, errors);
    if let Some(peers) = &peers {
        peers.counted(1, errors);
        for peer in peers.items() {
            validate_peer(&peer, errors);
        }
    }
    let Some(protocols) = rule.optional("protocols") else { return };
    protocols.counted(1, errors);
    let protocols = protocols.items();
    for protocol in &protocols {
        validate_protocol(protocol, errors);
    }
    let peers = peers.map(|peers| peers.items()).unwrap_or_default();
    let beyond_pods = |peer: &At<'_>| wire::has(peer.value, "networks") || wire::has(peer.value, "nodes");
    let named = |protocol: &At<'_>| wire::has(protocol.value, "destinationNamedPort");
    if peers.iter().any(beyond_pods) && protocols.iter().any(named) {
        let text = "networks and nodes peers have no named ports: use port numbers in a rule with such peers";
        errors.push(FieldError::invalid(rule.path.as_str(), rule.value.clone(), text));
    }
}

/// What selects pods: a subject, or a peer of either direction.
fn validate_pods(at: &At<'_>, errors: &mut Vec<FieldError>) {
    at.only_one(errors);
    at.child("namespaces").selector(errors);
    if let Some(pods) = at.optional("pods") {
        pods.child("namespaceSelector").selector(errors);
        if let Some(selector) = pods.required("podSelector", errors) {
            selector.selector(errors);
        }
    }
}

fn validate_peer(peer: &At<'_>, errors: &mut Vec<FieldError>) {
    validate_pods(peer, errors);
    peer.child("nodes").selector(errors);
    let Some(networks) = peer.optional("networks") else { return };
    networks.counted(1, errors);
    let mut seen = BTreeSet::new();
    for network in networks.items() {
        let text = network.value.as_str().unwrap_or_default();
        if !is_cidr(text) {
            errors.push(FieldError::invalid(network.path.as_str(), text, "Invalid CIDR format provided"));
        }
        if !seen.insert(text) {
            errors.push(FieldError::duplicate(network.path.as_str(), text));
        }
    }
}

/// Whether CEL's `isCIDR` takes it: an address without zone and not mapped, in any of its spellings, and a length.
fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let longest = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_none() => 128,
        _ => return false,
    };
    length.parse::<u8>().is_ok_and(|number| number <= longest && number.to_string() == length)
}

fn validate_protocol(protocol: &At<'_>, errors: &mut Vec<FieldError>) {
    protocol.only_one(errors);
    for attributes in PROTOCOLS.into_iter().filter_map(|name| protocol.optional(name)) {
        attributes.only_one(errors);
        let Some(port) = attributes.optional("destinationPort") else { continue };
        port.only_one(errors);
        if let Some(number) = port.optional("number") {
            number.within(&PORTS, errors);
        }
        let Some(range) = port.optional("range") else { continue };
        let ends = ["start", "end"].map(|key| {
            let end = range.required(key, errors)?;
            end.within(&PORTS, errors);
            end.value.as_i64()
        });
        if let [Some(start), Some(end)] = ends
            && start >= end
        {
            let text = "Start port must be less than End port";
            errors.push(FieldError::invalid(range.path.as_str(), range.value.clone(), text));
        }
    }
}

impl Strategy for ClusterNetworkPolicy {
    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        wire::remove(new, "status");
        lifecycle::first_generation(new);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, cx: &Context<'_>) {
        if lifecycle::keep_other_half(new, old, cx) {
            lifecycle::next_generation_if_spec_changed(new, old);
        } else {
            lifecycle::keep_meta(new, old);
        }
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        validate(new)
    }

    fn validate_update(&self, new: &Value, _old: &Value, cx: &Context<'_>) -> Vec<FieldError> {
        if lifecycle::writes_status(cx) { Vec::new() } else { validate(new) }
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<String> {
        let rules = At::spec(new).child("egress").items();
        let peers = rules.iter().flat_map(|rule| rule.child("to").items());
        let networks = peers.flat_map(|peer| peer.child("networks").items());
        networks.filter_map(|one| addresses::cidr_warning(&one.path, one.value.as_str()?)).collect()
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{context, created, updated};

    fn with(mut object: Value, fields: &Value) -> Value {
        for (key, value) in fields.as_object().into_iter().flatten() {
            object[key] = value.clone();
        }
        object
    }

    fn policy(spec: &Value) -> Value {
        let least = json!({"tier": "Admin", "priority": 10, "subject": {"namespaces": {}}});
        json!({"metadata": {"name": "p"}, "spec": with(least, spec)})
    }

    fn errors(spec: &Value) -> Vec<String> {
        created(&CLUSTER_NETWORK_POLICY, policy(spec)).1
    }

    #[test]
    fn what_the_definition_takes() {
        let ingress = json!({
            "name": "a", "action": "Pass",
            "from": [{"namespaces": {}}, {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}}],
            "protocols": [{"tcp": {"destinationPort": {"number": 80}}}, {"destinationNamedPort": "web"},
                {"udp": {"destinationPort": {"range": {"start": 1, "end": 65535}}}}],
        });
        let egress = json!({
            "action": "Deny", "to": [{"nodes": {}}, {"networks": ["10.0.0.0/8", "fd00::1/8"]}],
            "protocols": [{"sctp": {"destinationPort": {"number": 7}}}],
        });
        assert_eq!(errors(&json!({"ingress": [ingress], "egress": [egress]})), Vec::<String>::new());
        assert_eq!(errors(&json!({"tier": "Baseline", "priority": 0})), Vec::<String>::new());
    }

    #[test]
    fn what_the_definition_refuses() {
        let rule = |fields: Value| json!({"egress": [with(json!({"action": "Accept", "to": [{"namespaces": {}}]}), &fields)]});
        let protocol = |value: Value| rule(json!({ "protocols": [value] }));
        let harmless = json!({"action": "Deny", "from": [{"namespaces": {}}]});
        #[rustfmt::skip]
        let rows: [(Value, &[&str]); 18] = [
            (json!({"tier": null, "priority": null, "subject": null}), &["spec.tier: Required value", "spec.priority: Required value", "spec.subject: Required value"]),
            (json!({"tier": "Middle"}), &["spec.tier: Unsupported value: \"Middle\": supported values: \"Admin\", \"Baseline\""]),
            (json!({"priority": 1001}), &["spec.priority: Invalid value: 1001: spec.priority in body should be less than or equal to 1000"]),
            (json!({"priority": -1}), &["spec.priority: Invalid value: -1: spec.priority in body should be greater than or equal to 0"]),
            (json!({"subject": {}}), &["spec.subject: Invalid value: 0: spec.subject in body should have at least 1 properties"]),
            (json!({"subject": {"namespaces": {}, "pods": {"podSelector": {}}}}), &["spec.subject: Too many: 2: must have at most 1 item"]),
            (json!({"subject": {"pods": {}}}), &["spec.subject.pods.podSelector: Required value"]),
            (json!({"ingress": vec![harmless; 26]}), &["spec.ingress: Too many: 26: must have at most 25 items"]),
            (json!({"ingress": [{}]}), &["spec.ingress[0].action: Required value", "spec.ingress[0].from: Required value"]),
            (rule(json!({"action": "Allow"})), &["spec.egress[0].action: Unsupported value: \"Allow\": supported values: \"Accept\", \"Deny\", \"Pass\""]),
            (rule(json!({"name": "x".repeat(101)})), &["spec.egress[0].name: Too long: may not be more than 100 bytes"]),
            (rule(json!({"to": []})), &["spec.egress[0].to: Invalid value: 0: spec.egress[0].to in body should have at least 1 items"]),
            (rule(json!({"to": [{}]})), &["spec.egress[0].to[0]: Invalid value: 0: spec.egress[0].to[0] in body should have at least 1 properties"]),
            (rule(json!({"to": [{"networks": ["10.0.0.0", "::ffff:1.2.3.4/128", "10.0.0.0/08", "fd00::/8", "fd00::/8"]}]})), &[
                "spec.egress[0].to[0].networks[0]: Invalid value: \"10.0.0.0\": Invalid CIDR format provided",
                "spec.egress[0].to[0].networks[1]: Invalid value: \"::ffff:1.2.3.4/128\": Invalid CIDR format provided",
                "spec.egress[0].to[0].networks[2]: Invalid value: \"10.0.0.0/08\": Invalid CIDR format provided",
                "spec.egress[0].to[0].networks[4]: Duplicate value: \"fd00::/8\""]),
            (rule(json!({"protocols": []})), &["spec.egress[0].protocols: Invalid value: 0: spec.egress[0].protocols in body should have at least 1 items"]),
            (protocol(json!({"tcp": {}})), &["spec.egress[0].protocols[0].tcp: Invalid value: 0: spec.egress[0].protocols[0].tcp in body should have at least 1 properties"]),
            (protocol(json!({"tcp": {"destinationPort": {"number": 0}}})), &["spec.egress[0].protocols[0].tcp.destinationPort.number: Invalid value: 0: spec.egress[0].protocols[0].tcp.destinationPort.number in body should be greater than or equal to 1"]),
            (protocol(json!({"tcp": {"destinationPort": {"range": {"start": 9, "end": 9}}}})), &["spec.egress[0].protocols[0].tcp.destinationPort.range: Invalid value: {\"end\":9,\"start\":9}: Start port must be less than End port"]),
        ];
        for (spec, wanted) in rows {
            assert_eq!(errors(&spec), wanted, "{spec}");
        }
        let named = rule(json!({"to": [{"nodes": {}}], "protocols": [{"destinationNamedPort": "web"}]}));
        let found = errors(&named);
        assert!(found.len() == 1 && found[0].contains("have no named ports"), "{found:?}");
        let nothing = created(&CLUSTER_NETWORK_POLICY, json!({"metadata": {"name": "p"}})).1;
        assert_eq!(nothing, ["spec: Required value"]);
    }

    #[test]
    fn status_and_generation() {
        let mut first = policy(&json!({}));
        first["status"] = json!({"conditions": []});
        let (old, _) = created(&CLUSTER_NETWORK_POLICY, first);
        assert_eq!((old.get("status"), &old["metadata"]["generation"]), (None, &json!(1)));
        let mut new = policy(&json!({"priority": 11}));
        new["metadata"]["generation"] = json!(1);
        new["status"] = json!({"conditions": [{"type": "Programmed"}]});
        let (main, _) = updated(&CLUSTER_NETWORK_POLICY, new.clone(), &old, "");
        assert_eq!((main.get("status"), &main["metadata"]["generation"]), (None, &json!(2)));
        let (status, errors) = updated(&CLUSTER_NETWORK_POLICY, new, &old, "status");
        assert_eq!((&status["spec"]["priority"], errors), (&json!(10), vec![]));
        assert_eq!(status["status"]["conditions"][0]["type"], "Programmed");
        assert_eq!(status["metadata"]["generation"], 1);
    }

    #[test]
    fn p6_networks_with_host_bits_are_warned_of() {
        let spec = json!({"egress": [{"action": "Deny", "to": [{"networks": ["10.0.0.1/8", "fd00::/8"]}]}]});
        let warnings = CLUSTER_NETWORK_POLICY.warnings(&policy(&spec), None, &context(""));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("spec.egress[0].to[0].networks[0]"), "{warnings:?}");
    }
}
