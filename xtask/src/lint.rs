//! What must hold of the dependencies: floors stay pure, and licences allow what we ship.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Crates of the pure floors, see `docs/architecture.md`.
const PURE: [&str; 4] = ["dyad-net", "dyad-model", "dyad-schema", "dyad-program"];

/// What a pure crate must not reach, however indirectly, and why.
const FORBIDDEN: [(&str, &str); 9] = [
    ("tokio", "pure crates do not wait"),
    ("hyper", "pure crates do not speak HTTP"),
    ("kube", "pure crates do not know an API server"),
    ("k8s-openapi", "typed objects cost eight times their JSON in memory and half a minute to compile"),
    ("rustix", "pure crates make no system calls"),
    ("libc", "pure crates make no system calls"),
    ("redb", "pure crates store nothing"),
    ("rand", "randomness is passed in"),
    ("jiff", "the clock is passed in"),
];

/// The floor of each crate: it may use crates of lower floors only.
const FLOORS: [(&str, u8); 22] = [
    ("dyad-bench", 8),
    ("dyad-cli", 7),
    ("dyad-cluster", 6),
    ("dyad-inspect", 6),
    ("dyad-install", 6),
    ("dyad-agent", 5),
    ("dyad-kubelet", 5),
    ("dyad-apiserver", 5),
    ("dyad-controllers", 5),
    ("dyad-dns", 5),
    ("dyad-cni", 4),
    ("dyad-nft", 3),
    ("dyad-ebpf", 3),
    ("dyad-links", 3),
    ("dyad-stream", 3),
    ("dyad-images", 3),
    ("dyad-store", 3),
    ("dyad-custom", 3),
    ("dyad-program", 2),
    ("dyad-schema", 2),
    ("dyad-model", 1),
    ("dyad-net", 0),
];

/// The packages of the programs we ship.
const SHIPPED: [&str; 2] = ["dyad-cli", "dyad-cni"];

/// Licences that may be part of the product; of an `OR` one suffices, of an `AND` all are needed.
const LICENCES: [&str; 15] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "ISC",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "0BSD",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "Unlicense",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
    "MPL-2.0",
];

/// Checks both; every fault is told, not the first only.
pub(crate) fn run() -> Result<()> {
    let metadata = crate::metadata::read()?;
    let mut faults = floors(&metadata)?;
    faults.extend(licences(&metadata)?);
    for fault in &faults {
        eprintln!("error: {fault}");
    }
    if !faults.is_empty() {
        bail!("{} faults in the dependencies", faults.len());
    }
    Ok(())
}

fn list<'a>(value: &'a Value, field: &str) -> Result<&'a Vec<Value>> {
    value[field].as_array().with_context(|| format!("cargo metadata has no {field}"))
}

/// Normal and build dependencies of every package, by package ID; and the name of every ID.
type Graph<'a> = (BTreeMap<&'a str, Vec<&'a str>>, BTreeMap<&'a str, &'a str>);

fn graph(metadata: &Value) -> Result<Graph<'_>> {
    let mut names = BTreeMap::new();
    for package in list(metadata, "packages")? {
        names
            .insert(package["id"].as_str().unwrap_or_default(), package["name"].as_str().unwrap_or_default());
    }
    let mut edges = BTreeMap::new();
    for node in list(&metadata["resolve"], "nodes")? {
        let shipped = |dependency: &&Value| {
            dependency["dep_kinds"]
                .as_array()
                .is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"] != "dev"))
        };
        let targets =
            list(node, "deps")?.iter().filter(shipped).filter_map(|dependency| dependency["pkg"].as_str());
        edges.insert(node["id"].as_str().unwrap_or_default(), targets.collect());
    }
    Ok((edges, names))
}

fn floors(metadata: &Value) -> Result<Vec<String>> {
    let (edges, names) = graph(metadata)?;
    let floor = |name: &str| FLOORS.iter().find(|(known, _)| *known == name).map(|(_, floor)| *floor);
    let mut faults = Vec::new();
    for (id, targets) in &edges {
        let name = names[id];
        let Some(mine) = floor(name) else {
            if name.starts_with("dyad-") {
                faults.push(format!("{name} has no floor: add it to FLOORS in xtask/src/lint.rs"));
            }
            continue;
        };
        for target in targets.iter().map(|target| names[target]) {
            if floor(target).is_some_and(|theirs| theirs >= mine) {
                faults.push(format!("{name} uses {target}, which is not on a lower floor"));
            }
        }
        if PURE.contains(&name) {
            let reached = reach(id, &edges);
            for (forbidden, why) in FORBIDDEN {
                if reached.iter().any(|id| names[id] == forbidden) {
                    faults.push(format!("{name} reaches {forbidden}: {why}"));
                }
            }
        }
    }
    Ok(faults)
}

fn reach<'a>(from: &'a str, edges: &BTreeMap<&'a str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(id) = open.pop() {
        for target in edges.get(id).into_iter().flatten() {
            if seen.insert(*target) {
                open.push(target);
            }
        }
    }
    seen
}

fn licences(metadata: &Value) -> Result<Vec<String>> {
    let (edges, names) = graph(metadata)?;
    let shipped: BTreeSet<&str> =
        edges.keys().filter(|id| SHIPPED.contains(&names[*id])).flat_map(|id| reach(id, &edges)).collect();
    let mut faults = Vec::new();
    for package in list(metadata, "packages")? {
        let (name, id) =
            (package["name"].as_str().unwrap_or_default(), package["id"].as_str().unwrap_or_default());
        if shipped.contains(id) && !allowed(package["license"].as_str().unwrap_or_default()) {
            faults.push(format!(
                "{name} has the licence {}, which LICENCES in xtask/src/lint.rs does not list",
                package["license"]
            ));
        }
    }
    Ok(faults)
}

/// Whether an SPDX expression can be met; `/` is an old way to write `OR`.
fn allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    // Parentheses only ever group an OR inside an AND in practice, which splitting by AND first gets right.
    expression.split(" AND ").all(|part| {
        part.split(" OR ").any(|licence| LICENCES.contains(&licence.trim().trim_matches(['(', ')']).trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn licence_expressions() {
        for (expression, fine) in [
            ("MIT", true),
            ("MIT OR GPL-3.0-only", true),
            ("GPL-3.0-only", false),
            ("MIT/Apache-2.0", true),
            ("Apache-2.0 AND ISC", true),
            ("Apache-2.0 AND GPL-2.0", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("", false),
        ] {
            assert_eq!(allowed(expression), fine, "{expression}");
        }
    }

    /// A workspace of two crates and a foreign one, with the given edges `(from, to, kind)`.
    fn world(edges: &[(&str, &str, Value)]) -> Value {
        let ids = ["dyad-net", "dyad-model", "tokio"];
        let node = |id: &str| {
            let mine = edges.iter().filter(|(from, _, _)| *from == id);
            let deps: Vec<Value> =
                mine.map(|(_, to, kind)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]})).collect();
            json!({"id": id, "deps": deps})
        };
        json!({
            "packages": ids.map(|id| json!({"id": id, "name": id, "license": "MIT"})),
            "resolve": {"nodes": ids.map(node)},
        })
    }

    #[test]
    fn an_upward_edge_and_a_forbidden_crate_are_found() {
        assert_eq!(floors(&world(&[("dyad-model", "dyad-net", Value::Null)])).unwrap(), [""; 0]);
        assert_eq!(
            floors(&world(&[("dyad-net", "tokio", json!("dev"))])).unwrap(),
            [""; 0],
            "tests may wait"
        );
        let upward = floors(&world(&[("dyad-net", "dyad-model", Value::Null)])).unwrap();
        assert!(upward.iter().any(|fault| fault.contains("not on a lower floor")), "{upward:?}");
        let deep =
            floors(&world(&[("dyad-model", "dyad-net", Value::Null), ("dyad-net", "tokio", Value::Null)]))
                .unwrap();
        assert!(deep.iter().any(|fault| fault.starts_with("dyad-model reaches tokio")), "{deep:?}");
    }
}
