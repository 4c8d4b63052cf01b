//! What a pod asks for as a whole.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{quantity::Quantity, wire};

/// A sum, and whether it is written in powers of two: as its first part was.
type Sums = BTreeMap<String, (Quantity, bool)>;

/// Requests and limits of a pod: all its containers together, or an init container and the sidecars before it if
/// that is more; and what the pod as such asks for, in place of that.
pub(crate) fn total_resources(spec: &Value) -> Value {
    json!({"requests": total(spec, "requests"), "limits": total(spec, "limits")})
}

fn total(spec: &Value, key: &str) -> Map<String, Value> {
    let list = |owner: &Value| read(wire::at(owner, &["resources", key]));
    let (mut all, mut most, mut sidecars) = (Sums::new(), Sums::new(), Sums::new());
    for container in wire::list(spec, "containers") {
        add(&mut all, list(container));
    }
    for container in wire::list(spec, "initContainers") {
        if wire::text(container, "restartPolicy") == "Always" {
            add(&mut all, list(container));
            add(&mut sidecars, list(container));
            at_least(&mut most, sidecars.clone());
        } else {
            let mut now = list(container);
            add(&mut now, sidecars.clone());
            at_least(&mut most, now);
        }
    }
    at_least(&mut all, most);
    let own = list(spec).into_iter();
    all.extend(
        own.filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-")),
    );
    all.into_iter().map(|(name, (sum, binary))| (name, sum.shown(binary).into())).collect()
}

fn read(list: &Value) -> Sums {
    let entries = list.as_object().into_iter().flatten();
    let read = |(name, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((name.clone(), (Quantity::parse(&text)?, text.ends_with('i'))))
    };
    entries.filter_map(read).collect()
}

fn add(sums: &mut Sums, more: Sums) {
    for (name, (value, binary)) in more {
        match sums.get_mut(&name) {
            Some((sum, _)) if sum.is_positive() => *sum = *sum + value,
            _ => drop(sums.insert(name, (value, binary))),
        }
    }
}

fn at_least(sums: &mut Sums, other: Sums) {
    for (name, (value, binary)) in other {
        if sums.get(&name).is_none_or(|(sum, _)| *sum < value) {
            sums.insert(name, (value, binary));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_asks_for_what_its_containers_need_at_any_time() {
        let container = |cpu: &str, extra: Value| {
            let mut container = json!({"resources": {"requests": {"cpu": cpu}}});
            container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            container
        };
        let sidecar = || json!({"restartPolicy": "Always"});
        let rows = [
            (
                "a sum",
                json!({"containers": [container("1", json!({})), container("500m", json!({}))]}),
                "1500m",
            ),
            (
                "an init container that needs more",
                json!({"containers": [container("1", json!({}))], "initContainers": [container("3", json!({}))]}),
                "3",
            ),
            (
                "a sidecar runs beside all that comes after it",
                json!({"containers": [container("1", json!({}))],
                       "initContainers": [container("1", sidecar()), container("3", json!({}))]}),
                "4",
            ),
            (
                "the pod's own word counts",
                json!({"containers": [container("1", json!({}))], "resources": {"requests": {"cpu": "9"}}}),
                "9",
            ),
        ];
        for (row, spec, wanted) in rows {
            assert_eq!(total_resources(&spec)["requests"]["cpu"], wanted, "{row}");
        }
    }
}
