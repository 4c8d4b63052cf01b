use serde_json::json;

use super::*;

fn rows() -> Vec<&'static Kind> {
    kinds::all().iter().collect()
}

#[test]
fn j1_api_names_an_address_for_clients_of_each_family() {
    let servers = ["10.0.0.1:6443", "[fd00::1]:6443"].map(|server| server.parse().unwrap());
    assert_eq!(
        api_versions(&rows(), servers),
        json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [
                {"clientCIDR": "0.0.0.0/0", "serverAddress": "10.0.0.1:6443"},
                {"clientCIDR": "::/0", "serverAddress": "[fd00::1]:6443"},
            ],
        })
    );
}

#[test]
fn j1_apis_lists_named_groups_only() {
    let list = group_list(&rows());
    let names: Vec<&str> =
        list["groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "apps",
            "events.k8s.io",
            "authentication.k8s.io",
            "authorization.k8s.io",
            "autoscaling",
            "batch",
            "certificates.k8s.io",
            "networking.k8s.io",
            "policy",
            "policy.networking.k8s.io",
            "rbac.authorization.k8s.io",
            "storage.k8s.io",
            "admissionregistration.k8s.io",
            "apiextensions.k8s.io",
            "scheduling.k8s.io",
            "coordination.k8s.io",
            "node.k8s.io",
            "discovery.k8s.io",
            "resource.k8s.io"
        ]
    );
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("APIGroupList"), &json!("v1")));
}

#[test]
fn j1_a_group_names_its_versions() {
    assert_eq!(
        group(&rows(), "apps").unwrap(),
        json!({
            "kind": "APIGroup",
            "apiVersion": "v1",
            "name": "apps",
            "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"},
            "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
        })
    );
    assert_eq!(group(&rows(), ""), None);
    assert_eq!(group(&rows(), "extensions"), None);
}

#[test]
fn j1_resources_and_subresources_are_listed_by_name() {
    let list = resource_list(&rows(), "apps", "v1").unwrap();
    assert_eq!((&list["apiVersion"], &list["groupVersion"]), (&json!("v1"), &json!("apps/v1")));
    let all = kinds::ALL_VERBS;
    let read_write = json!(["get", "patch", "update"]);
    assert_eq!(
        list["resources"].as_array().unwrap()[3..6],
        [
            json!({
                "name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment",
                "shortNames": ["deploy"], "categories": ["all"], "verbs": all,
            }),
            json!({
                "name": "deployments/scale", "singularName": "", "namespaced": true, "group": "autoscaling",
                "version": "v1", "kind": "Scale", "verbs": read_write,
            }),
            json!({
                "name": "deployments/status", "singularName": "", "namespaced": true, "kind": "Deployment",
                "verbs": read_write,
            }),
        ]
    );
    for row in kinds::all() {
        let list = resource_list(&rows(), row.group, row.version).unwrap();
        assert!(
            list["resources"]
                .as_array()
                .unwrap()
                .is_sorted_by_key(|r| r["name"].as_str().unwrap().to_owned())
        );
    }
    assert_eq!(resource_list(&rows(), "apps", "v2"), None);
    assert_eq!(resource_list(&rows(), "", "v2"), None);
}

#[test]
fn j1_the_core_list_has_no_api_version_of_its_own() {
    let list = resource_list(&rows(), "", "v1").unwrap();
    assert_eq!((list.get("apiVersion"), &list["groupVersion"]), (None, &json!("v1")));
}

#[test]
fn j2_the_aggregated_documents_hold_every_resource_once() {
    let count = |document: &Value| {
        let items = document["items"].as_array().unwrap();
        let versions = items.iter().flat_map(|item| item["versions"].as_array().unwrap());
        versions.map(|version| version["resources"].as_array().unwrap().len()).sum::<usize>()
    };
    let (core, named) = (aggregated_core(&rows()), aggregated_groups(&rows()));
    assert_eq!(count(&core) + count(&named), kinds::all().len());
    assert_eq!(core["items"][0]["metadata"], json!({}));
    assert_eq!(named["kind"], "APIGroupDiscoveryList");
    assert_eq!(named["apiVersion"], "apidiscovery.k8s.io/v2");
    assert_eq!(named["items"][0]["metadata"], json!({"name": "apps"}));
}

#[test]
fn j2_resources_carry_their_subresources() {
    let document = aggregated_groups(&rows());
    let apps = &document["items"][0]["versions"][0];
    assert_eq!((&apps["version"], &apps["freshness"]), (&json!("v1"), &json!("Current")));
    assert_eq!(
        apps["resources"][2],
        json!({
            "resource": "deployments",
            "responseKind": {"group": "", "version": "", "kind": "Deployment"},
            "scope": "Namespaced",
            "singularResource": "deployment",
            "shortNames": ["deploy"],
            "categories": ["all"],
            "verbs": kinds::ALL_VERBS,
            "subresources": [
                {
                    "subresource": "scale",
                    "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"},
                    "verbs": ["get", "patch", "update"],
                },
                {
                    "subresource": "status",
                    "responseKind": {"group": "", "version": "", "kind": "Deployment"},
                    "verbs": ["get", "patch", "update"],
                },
            ],
        })
    );
    assert_eq!(apps["resources"][0].get("subresources"), None);
}
