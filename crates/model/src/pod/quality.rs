//! Quality of service: how the requests of a pod relate to its limits.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{quantity::Quantity, wire};

const COUNTED: [&str; 2] = ["cpu", "memory"];

#[derive(Default)]
struct Sum<'a>(BTreeMap<&'a str, Quantity>);

impl<'a> Sum<'a> {
    /// Adds what counts in `list` of `resources` and says whether that was everything that can count.
    fn add(&mut self, resources: &'a Value, list: &str) -> bool {
        let mut found = 0;
        for (name, quantity) in wire::entries(resources, list).filter(|(name, _)| COUNTED.contains(name)) {
            let quantity = quantity.as_str().and_then(Quantity::parse).unwrap_or_default();
            if quantity.is_positive() {
                let sum = self.0.entry(name).or_default();
                *sum = *sum + quantity;
                found += 1;
            }
        }
        found == COUNTED.len()
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn class(spec: &Value) -> &'static str {
    let (mut requests, mut limits) = (Sum::default(), Sum::default());
    let mut guaranteed = true;
    if wire::has(spec, "resources") {
        let resources = wire::at(spec, &["resources"]);
        requests.add(resources, "requests");
        guaranteed = limits.add(resources, "limits") || !wire::has(resources, "limits");
    } else {
        for container in ["containers", "initContainers"].iter().flat_map(|list| wire::list(spec, list)) {
            let resources = wire::at(container, &["resources"]);
            requests.add(resources, "requests");
            guaranteed &= limits.add(resources, "limits");
        }
    }
    if requests.0.is_empty() && limits.0.is_empty() {
        "BestEffort"
    } else if guaranteed && requests.0 == limits.0 {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes() {
        let both = json!({"cpu": "1", "memory": "1Gi"});
        let rows = [
            ("nothing", json!([{}]), "BestEffort"),
            ("something", json!([{"resources": {"requests": {"cpu": "1"}}}]), "Burstable"),
            ("all equal", json!([{"resources": {"requests": both, "limits": both}}]), "Guaranteed"),
            (
                "equal in value",
                json!([{"resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}, "limits": both}}]),
                "Guaranteed",
            ),
            (
                "one container without",
                json!([{"resources": {"requests": both, "limits": both}}, {}]),
                "Burstable",
            ),
            (
                "limits of cpu only",
                json!([{"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}]),
                "Burstable",
            ),
            ("zero counts as nothing", json!([{"resources": {"requests": {"cpu": "0"}}}]), "BestEffort"),
            ("other resources do not count", json!([{"resources": {"limits": {"x/y": "1"}}}]), "BestEffort"),
        ];
        for (row, containers, wanted) in rows {
            assert_eq!(class(&json!({ "containers": containers })), wanted, "{row}");
        }
        assert_eq!(
            class(&json!({"containers": [{}], "resources": {"requests": both, "limits": both}})),
            "Guaranteed"
        );
    }
}
