//! The dashboard in `deploy/grafana` asks for what there is.

use std::collections::BTreeSet;

use dyad_net::{DualStack, IpFamily};
use serde_json::Value;

use super::Metrics;

const DASHBOARD: &str = include_str!("../../../../deploy/grafana/dyad-proxy.json");
/// Which names are ours, or every process's.
const PREFIXES: [&str; 3] = ["kubeproxy_", "dyad_", "process_"];

/// All texts anywhere in a value.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| texts(field, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The metrics a dashboard asks for, histograms without what is appended to their names.
fn asked(dashboard: &Value) -> BTreeSet<&str> {
    let mut all = Vec::new();
    texts(dashboard, &mut all);
    let words = all.into_iter().flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let ours = words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)));
    ours.map(|word| {
        let parts = ["_bucket", "_count", "_sum"];
        parts.iter().find_map(|part| word.strip_suffix(part)).unwrap_or(word)
    })
    .collect()
}

#[test]
fn every_metric_it_shows_is_exported_and_both_families_are_there() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let metrics = Metrics::new(&DualStack::dual(IpFamily::V4, (), ()));
    metrics.set_dataplane("nftables", "asked for");
    let rendered = metrics.render();
    let types = rendered.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let exported: BTreeSet<&str> = types.collect();
    let asked = asked(&dashboard);
    assert!(asked.len() > 15, "{asked:?}");
    let missing: Vec<_> = asked.difference(&exported).collect();
    assert!(missing.is_empty(), "{missing:?} are not in {exported:#?}");
    // What is shown of one family is shown of the other one, beside it.
    let panels = dashboard["panels"].as_array().unwrap();
    let titles: BTreeSet<&str> = panels.iter().filter_map(|panel| panel["title"].as_str()).collect();
    for title in &titles {
        for family in IpFamily::BOTH {
            if let Some(bare) = title.strip_suffix(family.as_str()) {
                let other = format!("{bare}{}", family.other().as_str());
                assert!(titles.contains(&*other), "{title} without {other}");
            }
        }
    }
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "every panel has a number of its own");
}
