//! NetworkPolicies.

use serde_json::{Value, json};

use crate::{Context, FieldError, Strategy, addresses, lifecycle, names, selector, wire};

/// The strategy of NetworkPolicies.
pub static NETWORK_POLICY: NetworkPolicy = NetworkPolicy;

/// See [`NETWORK_POLICY`].
#[derive(Clone, Copy, Debug)]
pub struct NetworkPolicy;

/// The two directions: the list of rules, and the list of peers within a rule.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];
const TYPES: [&str; 2] = ["Ingress", "Egress"];

/// Every `ipBlock` of a policy, with its path.
fn ip_blocks(policy: &Value) -> impl Iterator<Item = (String, &Value)> {
    let spec = wire::at(policy, &["spec"]);
    DIRECTIONS.into_iter().flat_map(move |(rules, peers)| {
        wire::list(spec, rules).iter().enumerate().flat_map(move |(rule_index, rule)| {
            wire::list(rule, peers).iter().enumerate().filter_map(move |(index, peer)| {
                let path = format!("spec.{rules}[{rule_index}].{peers}[{index}].ipBlock");
                peer.get("ipBlock").filter(|block| !block.is_null()).map(|block| (path, block))
            })
        })
    })
}

fn validate(policy: &Value, old_cidrs: &[&str]) -> Vec<FieldError> {
    let spec = wire::at(policy, &["spec"]);
    let mut errors = selector::validate(wire::at(spec, &["podSelector"]), "spec.podSelector");
    for (rules, peers) in DIRECTIONS {
        for (index, rule) in wire::list(spec, rules).iter().enumerate() {
            let field = format!("spec.{rules}[{index}]");
            for (index, port) in wire::list(rule, "ports").iter().enumerate() {
                errors.extend(validate_port(port, &format!("{field}.ports[{index}]")));
            }
            for (index, peer) in wire::list(rule, peers).iter().enumerate() {
                errors.extend(validate_peer(peer, old_cidrs, &format!("{field}.{peers}[{index}]")));
            }
        }
    }
    let types = wire::list(spec, "policyTypes");
    if types.len() > TYPES.len() {
        let text = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid("spec.policyTypes", types.to_vec(), text));
        return errors;
    }
    for (index, kind) in wire::texts(spec, "policyTypes").enumerate() {
        if !TYPES.contains(&kind) {
            errors.push(FieldError::not_supported_in_order(
                format!("spec.policyTypes[{index}]"),
                kind,
                &TYPES,
            ));
        }
    }
    errors
}

fn validate_port(port: &Value, field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let protocols = ["TCP", "UDP", "SCTP"];
    let protocol = wire::text(port, "protocol");
    if !protocol.is_empty() && !protocols.contains(&protocol) {
        errors.push(FieldError::not_supported_in_order(format!("{field}.protocol"), protocol, &protocols));
    }
    let end = wire::int(port, "endPort");
    let (port_field, end_field) = (format!("{field}.port"), format!("{field}.endPort"));
    let number_errors = |field: &str, number: i64| -> Vec<FieldError> {
        names::port_number(number).into_iter().map(|text| FieldError::invalid(field, number, text)).collect()
    };
    match wire::at(port, &["port"]) {
        Value::Null => {
            let text = "may not be specified when `port` is not specified";
            errors.extend(end.map(|end| FieldError::invalid(end_field, end, text)));
        }
        Value::String(name) => {
            let text = "may not be specified when `port` is non-numeric";
            errors.extend(end.map(|end| FieldError::invalid(end_field, end, text)));
            errors.extend(names::check(names::port_name, port_field, name));
        }
        number => {
            let number = number.as_i64().unwrap_or_default();
            errors.extend(number_errors(&port_field, number));
            if let Some(end) = end {
                if end < number {
                    let text = "must be greater than or equal to `port`";
                    errors.push(FieldError::invalid(end_field.as_str(), number, text));
                }
                errors.extend(number_errors(&end_field, end));
            }
        }
    }
    errors
}

fn validate_peer(peer: &Value, old_cidrs: &[&str], field: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut count = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if wire::has(peer, key) {
            count += 1;
            errors.extend(selector::validate(wire::at(peer, &[key]), &format!("{field}.{key}")));
        }
    }
    let has_block = wire::has(peer, "ipBlock");
    if has_block {
        count += 1;
        errors.extend(validate_block(wire::at(peer, &["ipBlock"]), old_cidrs, &format!("{field}.ipBlock")));
    }
    if count == 0 {
        errors.push(FieldError::required(field, "must specify a peer"));
    } else if count > 1 && has_block {
        errors.push(FieldError::forbidden(field, "may not specify both ipBlock and another peer"));
    }
    errors
}

fn validate_block(block: &Value, old_cidrs: &[&str], field: &str) -> Vec<FieldError> {
    let cidr = wire::text(block, "cidr");
    if cidr.is_empty() {
        return vec![FieldError::required(format!("{field}.cidr"), "")];
    }
    let mut errors: Vec<FieldError> =
        addresses::legacy_cidr(&format!("{field}.cidr"), cidr, old_cidrs).into_iter().collect();
    let Some((_, net)) = dyad_net::parse_cidr_sloppy(cidr) else { return errors };
    for (index, except) in wire::texts(block, "except").enumerate() {
        let field = format!("{field}.except[{index}]");
        errors.extend(addresses::legacy_cidr(&field, except, old_cidrs));
        let Some((_, inner)) = dyad_net::parse_cidr_sloppy(except) else { continue };
        if !net.contains(&inner) || net.prefix_len() >= inner.prefix_len() {
            errors.push(FieldError::invalid(field, except, "must be a strict subset of `cidr`"));
        }
    }
    errors
}

impl Strategy for NetworkPolicy {
    fn default(&self, object: &mut Value) {
        let spec = wire::child(object, "spec");
        for (rules, _) in DIRECTIONS {
            for rule in wire::items_mut(spec, rules) {
                for port in wire::items_mut(rule, "ports") {
                    wire::default(port, "protocol", "TCP");
                }
            }
        }
        if wire::list(spec, "policyTypes").is_empty() {
            let egress = !wire::list(spec, "egress").is_empty();
            wire::set(spec, "policyTypes", if egress { json!(TYPES) } else { json!(["Ingress"]) });
        }
    }

    fn prepare_create(&self, new: &mut Value, _cx: &Context<'_>) {
        lifecycle::first_generation(new);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, _cx: &Context<'_>) {
        lifecycle::next_generation_if_spec_changed(new, old);
    }

    fn validate_create(&self, new: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        validate(new, &[])
    }

    fn validate_update(&self, new: &Value, old: &Value, _cx: &Context<'_>) -> Vec<FieldError> {
        let blocks = ip_blocks(old);
        let old_cidrs: Vec<&str> = blocks
            .flat_map(|(_, block)| {
                std::iter::once(wire::text(block, "cidr")).chain(wire::texts(block, "except"))
            })
            .collect();
        validate(new, &old_cidrs)
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>, _cx: &Context<'_>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (field, block) in ip_blocks(new) {
            warnings.extend(addresses::cidr_warning(&format!("{field}.cidr"), wire::text(block, "cidr")));
            for (index, except) in wire::texts(block, "except").enumerate() {
                warnings.extend(addresses::cidr_warning(&format!("{field}.except[{index}]"), except));
            }
        }
        warnings
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_subdomain(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{context, created, updated};

    fn policy(spec: Value) -> Value {
        json!({"metadata": {"name": "p"}, "spec": spec})
    }

    #[test]
    fn directions_follow_the_rules() {
        let rows = [
            (json!({"podSelector": {}}), json!(["Ingress"])),
            (json!({"podSelector": {}, "egress": [{}]}), json!(["Ingress", "Egress"])),
            (json!({"podSelector": {}, "policyTypes": ["Egress"]}), json!(["Egress"])),
        ];
        for (spec, wanted) in rows {
            let (object, errors) = created(&NETWORK_POLICY, policy(spec));
            assert_eq!((&object["spec"]["policyTypes"], errors), (&wanted, vec![]));
        }
    }

    #[test]
    fn peers_and_ports() {
        let rows = [
            (
                "both families",
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                {"ipBlock": {"cidr": "fd00::/8"}}], "ports": [{"port": 80, "endPort": 90}, {"port": "web"}]}),
                vec![],
            ),
            (
                "nobody",
                json!({"from": [{}]}),
                vec!["spec.ingress[0].from[0]: Required value: must specify a peer"],
            ),
            (
                "block and selector",
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}),
                vec!["spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"],
            ),
            (
                "except outside",
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16", "10.0.0.0/8", "fd00::/16"]}}]}),
                vec![
                    "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                    "spec.ingress[0].from[0].ipBlock.except[1]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                    "spec.ingress[0].from[0].ipBlock.except[2]: Invalid value: \"fd00::/16\": must be a strict subset of `cidr`",
                ],
            ),
            (
                "ranges of ports",
                json!({"ports": [{"port": 80, "endPort": 79}, {"endPort": 1}, {"port": "web", "endPort": 1}]}),
                vec![
                    "spec.ingress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`",
                    "spec.ingress[0].ports[1].endPort: Invalid value: 1: may not be specified when `port` is not specified",
                    "spec.ingress[0].ports[2].endPort: Invalid value: 1: may not be specified when `port` is non-numeric",
                ],
            ),
            (
                "protocol",
                json!({"ports": [{"protocol": "ICMP"}]}),
                vec![
                    "spec.ingress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"",
                ],
            ),
        ];
        for (row, rule, wanted) in rows {
            let object = policy(json!({"podSelector": {}, "ingress": [rule]}));
            assert_eq!(created(&NETWORK_POLICY, object).1, wanted, "{row}");
        }
    }

    #[test]
    fn old_blocks_stay() {
        let object = |cidr: &str| {
            policy(json!({"podSelector": {}, "egress": [{"to": [{"ipBlock": {"cidr": cidr}}]}]}))
        };
        let old = object("10.0.0.1/8");
        assert_eq!(updated(&NETWORK_POLICY, old.clone(), &old, "").1, Vec::<String>::new(), "P4");
        assert_eq!(created(&NETWORK_POLICY, old.clone()).1.len(), 1, "P3");
        assert_eq!(updated(&NETWORK_POLICY, object("10.0.0.2/8"), &old, "").1.len(), 1, "P3");
        assert_eq!(NETWORK_POLICY.warnings(&old, None, &context("")).len(), 1, "P6");
    }
}
