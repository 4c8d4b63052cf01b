//! The grammar of paths, parsed by hand: it is regular, and resources come from a table.
//!
//! ```text
//! /api/v1/...                                 core group
//! /apis/GROUP/VERSION/...                     named groups
//!     namespaces/NAMESPACE/RESOURCE[/NAME[/SUBRESOURCE]]
//!     RESOURCE[/NAME[/SUBRESOURCE]]           cluster-scoped, or of all namespaces
//!     watch/...                               the same as ?watch=true
//! anything else                               not a resource
//! ```

use super::query::decode;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Resource(ResourcePath),
    /// Discovery, health and the like.
    Other,
}

/// The place of objects. Empty text means that the path does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) plural: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// The path has the old form of a watch.
    pub(crate) watch: bool,
    /// What follows the subresource, for proxies.
    pub(crate) rest: String,
}

/// Parts of a namespace itself; anything else behind its name is a resource in it.
const NAMESPACE_PARTS: [&str; 2] = ["status", "finalize"];

/// Reads a path.
pub(crate) fn parse(path: &str) -> Path {
    let parts: Vec<&str> = path.trim_start_matches('/').trim_end_matches('/').split('/').collect();
    let (group, version, mut rest) = match parts.as_slice() {
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Path::Other,
    };
    if rest.is_empty() {
        return Path::Other;
    }
    let watch = matches!(rest, ["watch", _, ..]);
    if watch {
        rest = &rest[1..];
    }
    let text = |part: &str| decode(part, false);
    let mut found = ResourcePath { group: text(group), version: text(version), watch, ..Default::default() };
    let rest = match rest {
        ["namespaces", name, part, ..] if group.is_empty() && NAMESPACE_PARTS.contains(part) => {
            (found.plural, found.name) = ("namespaces".to_owned(), text(name));
            &rest[2..]
        }
        ["namespaces", namespace, plural, rest @ ..] => {
            (found.namespace, found.plural) = (text(namespace), text(plural));
            name_in(&mut found, rest)
        }
        [plural, rest @ ..] => {
            found.plural = text(plural);
            name_in(&mut found, rest)
        }
        [] => return Path::Other,
    };
    if let [subresource, rest @ ..] = rest {
        found.subresource = text(subresource);
        found.rest = rest.join("/");
    }
    Path::Resource(found)
}

fn name_in<'a>(found: &mut ResourcePath, rest: &'a [&'a str]) -> &'a [&'a str] {
    match rest {
        [name, rest @ ..] => {
            found.name = decode(name, false);
            rest
        }
        [] => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        #[rustfmt::skip]
        let cases = [
            // path, group, version, namespace, plural, name, subresource
            ("/api/v1/pods", ["", "v1", "", "pods", "", ""]),
            ("/api/v1/namespaces", ["", "v1", "", "namespaces", "", ""]),
            ("/api/v1/namespaces/", ["", "v1", "", "namespaces", "", ""]),
            ("/api/v1/namespaces/a", ["", "v1", "", "namespaces", "a", ""]),
            ("/api/v1/namespaces/a/status", ["", "v1", "", "namespaces", "a", "status"]),
            ("/api/v1/namespaces/a/finalize", ["", "v1", "", "namespaces", "a", "finalize"]),
            ("/api/v1/namespaces/a/pods", ["", "v1", "a", "pods", "", ""]),
            ("/api/v1/namespaces/a/pods/p/status", ["", "v1", "a", "pods", "p", "status"]),
            ("/api/v1/nodes/n/status", ["", "v1", "", "nodes", "n", "status"]),
            ("/apis/apps/v1/namespaces/a/deployments/d/scale", ["apps", "v1", "a", "deployments", "d", "scale"]),
            ("/apis/networking.k8s.io/v1/ipaddresses/fd00%3A%3A1", ["networking.k8s.io", "v1", "", "ipaddresses", "fd00::1", ""]),
            ("/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node", ["rbac.authorization.k8s.io", "v1", "", "clusterroles", "system:node", ""]),
        ];
        for (path, [group, version, namespace, plural, name, subresource]) in cases {
            let Path::Resource(found) = parse(path) else { panic!("{path} is a resource") };
            let got = [
                &found.group,
                &found.version,
                &found.namespace,
                &found.plural,
                &found.name,
                &found.subresource,
            ];
            assert_eq!(got, [group, version, namespace, plural, name, subresource], "{path}");
            assert!(!found.watch);
        }
        let Path::Resource(watched) = parse("/api/v1/watch/namespaces/a/pods") else { panic!("a watch") };
        assert!(watched.watch);
        assert_eq!(watched.plural, "pods");
    }

    #[test]
    fn other_paths_are_no_resources() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/api/v1/",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/version",
            "/livez/ping",
        ] {
            assert_eq!(parse(path), Path::Other, "{path}");
        }
    }
}
