//! Discovery documents, from the table of kinds (J1, J2).
//!
//! Nothing here knows a kind: a row in the table is all it takes to be discovered. Documents say what Kubernetes 1.36
//! says of the same resources, except that `storageVersionHash` is left out (it is optional and describes a storage
//! that is not ours).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use dyad_net::{IpFamily, IpNet};
use serde_json::{Map, Value, json};

use crate::kinds::{self, Kind};

#[cfg(test)]
mod tests;

/// Kind of the aggregated document.
pub const AGGREGATED_KIND: &str = "APIGroupDiscoveryList";
/// Group of the aggregated document.
pub const AGGREGATED_GROUP: &str = "apidiscovery.k8s.io";
/// Version of the aggregated document.
pub const AGGREGATED_VERSION: &str = "v2";

/// The rows that are served: those of a group together, its preferred version first.
pub type Rows<'a> = &'a [&'static Kind];

/// `/api`: the versions of the core group, and where the server is, per family of the client.
pub fn api_versions(rows: Rows<'_>, servers: impl IntoIterator<Item = SocketAddr>) -> Value {
    let servers: Vec<Value> = servers
        .into_iter()
        .map(|server| {
            json!({
                "clientCIDR": everyone(server.ip().into()).to_string(),
                "serverAddress": server.to_string(),
            })
        })
        .collect();
    json!({"kind": "APIVersions", "versions": versions_of(rows, ""), "serverAddressByClientCIDRs": servers})
}

/// `/apis`: every named group.
pub fn group_list(rows: Rows<'_>) -> Value {
    let named = groups(rows).filter(|group| !group.is_empty());
    let groups: Vec<Value> = named.map(|group| group_entry(rows, group)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`; `None` if there is no such group.
pub fn group(rows: Rows<'_>, name: &str) -> Option<Value> {
    let name = groups(rows).find(|group| *group == name && !group.is_empty())?;
    let mut entry = group_entry(rows, name);
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

/// `/api/v1` (group `""`) or `/apis/<group>/<version>`; `None` if there is no such version.
pub fn resource_list(rows: Rows<'_>, group: &str, version: &str) -> Option<Value> {
    let sorted = sorted_rows(rows, group, version)?;
    let resources: Vec<Value> = sorted.into_iter().flat_map(resource_entries).collect();
    let mut list = json!({
        "kind": "APIResourceList",
        "groupVersion": kinds::api_version(group, version),
        "resources": resources,
    });
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    Some(list)
}

/// Aggregated `/api`: the core group with all its resources.
pub fn aggregated_core(rows: Rows<'_>) -> Value {
    aggregated(rows, groups(rows).filter(|group| group.is_empty()))
}

/// Aggregated `/apis`: every named group with all its resources.
pub fn aggregated_groups(rows: Rows<'_>) -> Value {
    aggregated(rows, groups(rows).filter(|group| !group.is_empty()))
}

/// The prefix that all addresses of a family are in.
fn everyone(family: IpFamily) -> IpNet {
    let any = match family {
        IpFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
        IpFamily::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNet::new(any, 0).expect("0 is a prefix length in both families")
}

/// Groups in the order of the table, which keeps each together.
fn groups(rows: Rows<'_>) -> impl Iterator<Item = &'static str> {
    let mut last = None;
    rows.iter().map(|row| row.group).filter(move |group| last.replace(*group) != Some(*group))
}

/// Versions of a group, the preferred one first.
fn versions_of(rows: Rows<'_>, group: &str) -> Vec<&'static str> {
    let mut versions = Vec::new();
    for row in rows.iter().filter(|row| row.group == group) {
        if !versions.contains(&row.version) {
            versions.push(row.version);
        }
    }
    versions
}

/// The rows of a version, by name; `None` if there are none.
fn sorted_rows(rows: Rows<'_>, group: &str, version: &str) -> Option<Vec<&'static Kind>> {
    let mut rows: Vec<_> =
        rows.iter().copied().filter(|row| row.group == group && row.version == version).collect();
    rows.sort_unstable_by_key(|row| row.plural);
    (!rows.is_empty()).then_some(rows)
}

fn group_entry(rows: Rows<'_>, group: &str) -> Value {
    let versions: Vec<Value> = versions_of(rows, group)
        .into_iter()
        .map(|version| json!({"groupVersion": kinds::api_version(group, version), "version": version}))
        .collect();
    json!({"name": group, "preferredVersion": versions[0], "versions": versions})
}

/// A resource and its subresources, as `APIResource`.
fn resource_entries(row: &'static Kind) -> Vec<Value> {
    let mut main = json!({
        "name": row.plural,
        "singularName": row.singular,
        "namespaced": row.namespaced,
        "kind": row.kind,
        "verbs": row.verbs,
    });
    insert_names(&mut main, row);
    let mut entries = vec![main];
    for below in row.subresources {
        let mut entry = json!({
            "name": format!("{}/{}", row.plural, below.name),
            "singularName": "",
            "namespaced": row.namespaced,
            "kind": below.kind_of(row),
            "verbs": below.verbs,
        });
        if let Some((group, version)) = below.group_version {
            entry["group"] = group.into();
            entry["version"] = version.into();
        }
        entries.push(entry);
    }
    entries
}

fn aggregated(rows: Rows<'_>, groups: impl Iterator<Item = &'static str>) -> Value {
    let items: Vec<Value> = groups
        .map(|group| {
            let metadata =
                if group.is_empty() { Map::new() } else { Map::from_iter([("name".into(), group.into())]) };
            let versions = versions_of(rows, group).into_iter();
            let versions: Vec<Value> =
                versions.map(|version| aggregated_version(rows, group, version)).collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": AGGREGATED_KIND,
        "apiVersion": kinds::api_version(AGGREGATED_GROUP, AGGREGATED_VERSION),
        "metadata": {},
        "items": items,
    })
}

fn aggregated_version(rows: Rows<'_>, group: &str, version: &str) -> Value {
    let rows = sorted_rows(rows, group, version).unwrap_or_default();
    let resources: Vec<Value> = rows.into_iter().map(aggregated_resource).collect();
    json!({"version": version, "freshness": "Current", "resources": resources})
}

/// A resource with its subresources inside, as `APIResourceDiscovery`.
fn aggregated_resource(row: &'static Kind) -> Value {
    // An empty group and version stand for those of the document.
    let response = |kind: &str, (group, version): (&str, &str)| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": row.plural,
        "responseKind": response(row.kind, ("", "")),
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular,
        "verbs": row.verbs,
    });
    insert_names(&mut entry, row);
    let below: Vec<Value> = row
        .subresources
        .iter()
        .map(|below| {
            json!({
                "subresource": below.name,
                "responseKind": response(below.kind_of(row), below.group_version.unwrap_or_default()),
                "verbs": below.verbs,
            })
        })
        .collect();
    if !below.is_empty() {
        entry["subresources"] = below.into();
    }
    entry
}

fn insert_names(entry: &mut Value, row: &Kind) {
    for (key, names) in [("shortNames", row.short_names), ("categories", row.categories)] {
        if !names.is_empty() {
            entry[key] = names.into();
        }
    }
}
