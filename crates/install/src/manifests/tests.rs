use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use super::*;
use crate::{Chosen, Endpoint};

fn facts() -> Facts {
    Facts {
        pod_ranges: vec!["fd00:10:244::/56".parse().unwrap(), "10.244.0.0/16".parse().unwrap()],
        dns_ips: vec!["fd00:10:96::a".parse().unwrap(), "10.96.0.10".parse().unwrap()],
        api: Some(Endpoint { host: "2001:db8::6".into(), port: 6443 }),
        ..Facts::default()
    }
}

fn of(sets: &[&str]) -> Vec<Value> {
    let mut chosen = Chosen::default();
    sets.iter().for_each(|text| chosen.set(text).unwrap());
    manifests(&chosen.values().unwrap(), &facts()).unwrap()
}

fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn args(objects: &[Value], kind: &str, name: &str) -> Vec<String> {
    let container = &find(objects, kind, name)["spec"]["template"]["spec"]["containers"][0];
    container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap().to_owned()).collect()
}

/// Every way to switch parts on and off.
fn combinations() -> Vec<Vec<&'static str>> {
    let switches = [
        "proxy.enabled=false",
        "cni.enabled=false",
        "policy.enabled=false",
        "dns.enabled=true",
        "cni.ipam=dyad",
        "proxy.cgroupRoot=/sys/fs/cgroup/kubepods.slice",
    ];
    let chosen = |bits: u32| {
        let is_on = |at: usize| bits & (1 << at) != 0;
        switches.iter().enumerate().filter(|(at, _)| is_on(*at)).map(|(_, text)| *text).collect()
    };
    (0..1 << switches.len()).map(chosen).collect()
}

/// Whether an object says nothing but what its kind has: what a type does not know is gone when it is written again.
fn is_typed(object: &Value) -> Result<(), String> {
    fn keeps<K: serde::Serialize + serde::de::DeserializeOwned>(object: &Value) -> Result<(), String> {
        let typed: K = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
        let again = serde_json::to_value(typed).map_err(|error| error.to_string())?;
        missing("", object, &again).map_or(Ok(()), Err)
    }
    match object["kind"].as_str().unwrap_or_default() {
        "ServiceAccount" => keeps::<ServiceAccount>(object),
        "ClusterRole" => keeps::<ClusterRole>(object),
        "ClusterRoleBinding" => keeps::<ClusterRoleBinding>(object),
        "Role" => keeps::<Role>(object),
        "RoleBinding" => keeps::<RoleBinding>(object),
        "ConfigMap" => keeps::<ConfigMap>(object),
        "Service" => keeps::<Service>(object),
        "DaemonSet" => keeps::<DaemonSet>(object),
        "Deployment" => keeps::<Deployment>(object),
        "CustomResourceDefinition" => keeps::<CustomResourceDefinition>(object),
        other => Err(format!("nobody expects a {other}")),
    }
}

fn missing(path: &str, wanted: &Value, found: &Value) -> Option<String> {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => wanted.iter().find_map(|(key, value)| {
            missing(&format!("{path}.{key}"), value, found.get(key).unwrap_or(&Value::Null))
        }),
        (Value::Array(wanted), Value::Array(found)) if wanted.len() == found.len() => {
            wanted.iter().zip(found).find_map(|(wanted, found)| missing(&format!("{path}[]"), wanted, found))
        }
        (Value::Number(wanted), Value::Number(found)) if wanted.as_f64() == found.as_f64() => None,
        // An empty map or list may be left out.
        (Value::Object(wanted), Value::Null) if wanted.is_empty() => None,
        (Value::Array(wanted), Value::Null) if wanted.is_empty() => None,
        (wanted, found) => (wanted != found).then(|| format!("{path}: {wanted} became {found}")),
    }
}

#[test]
fn every_combination_makes_objects_of_their_kinds() {
    for sets in combinations() {
        let objects = of(&sets);
        let mut names = BTreeSet::new();
        for object in &objects {
            is_typed(object).unwrap_or_else(|error| panic!("{sets:?}: {} {error}", object["kind"]));
            let metadata = &object["metadata"];
            assert!(
                names.insert((object["kind"].to_string(), metadata["name"].to_string())),
                "{sets:?}: twice"
            );
            assert_eq!(metadata["labels"][PART_OF], "dyad", "{sets:?}: {metadata}");
            assert_eq!(metadata["labels"][MANAGED_BY], MANAGER, "{sets:?}: {metadata}");
            let kind = Kind::of(object).unwrap();
            assert_eq!(metadata.get("namespace").is_some(), kind.is_namespaced, "{sets:?}: {metadata}");
        }
        let places: Vec<_> = objects
            .iter()
            .map(|one| kinds::ALL.iter().position(|kind| Kind::of(one) == Some(*kind)))
            .collect();
        assert!(places.is_sorted(), "{sets:?}: what others need comes first");
        let has = |kind: &str, name: &str| {
            objects.iter().any(|one| one["kind"] == kind && one["metadata"]["name"] == name)
        };
        let is_set = |text: &str| sets.contains(&text);
        assert!(has("DaemonSet", "dyad-agent"));
        assert_eq!(has("Deployment", "dyad-dns"), is_set("dns.enabled=true"), "{sets:?}");
        let own_ipam = is_set("cni.ipam=dyad") && !is_set("cni.enabled=false");
        assert_eq!(has("Deployment", "dyad-controllers"), own_ipam, "{sets:?}");
        let policy = !is_set("policy.enabled=false");
        assert_eq!(
            has("CustomResourceDefinition", "clusternetworkpolicies.policy.networking.k8s.io"),
            policy,
            "{sets:?}"
        );
    }
}

/// Mounts have volumes, and volumes are mounted; accounts and what they are bound to are there.
#[test]
fn every_combination_refers_to_what_there_is() {
    for sets in combinations() {
        let objects = of(&sets);
        let names = |value: &Value| -> BTreeSet<String> {
            value.as_array().into_iter().flatten().map(|one| one["name"].to_string()).collect()
        };
        for object in objects.iter().filter(|one| !one["spec"]["template"].is_null()) {
            let pod = &object["spec"]["template"]["spec"];
            assert_eq!(names(&pod["volumes"]), names(&pod["containers"][0]["volumeMounts"]), "{sets:?}");
            find(&objects, "ServiceAccount", pod["serviceAccountName"].as_str().unwrap());
            let labels = &object["spec"]["template"]["metadata"]["labels"];
            let selector = object["spec"]["selector"]["matchLabels"].as_object().unwrap();
            assert!(selector.iter().all(|(key, value)| labels[key] == *value), "{sets:?}");
        }
        for binding in objects.iter().filter(|one| !one["roleRef"].is_null()) {
            let role = &binding["roleRef"];
            find(&objects, role["kind"].as_str().unwrap(), role["name"].as_str().unwrap());
            find(&objects, "ServiceAccount", binding["subjects"][0]["name"].as_str().unwrap());
        }
    }
}

#[test]
fn agents_are_told_what_was_chosen() {
    let args = |sets: &[&str]| args(&of(sets), "DaemonSet", "dyad-agent").join(" ");
    let all = args(&[]);
    for part in [
        "--cluster-cidr=fd00:10:244::/56,10.244.0.0/16",
        "--healthz-bind-address=0.0.0.0:10256",
        "--dataplane=auto",
        "--network-policy=true",
        "--cni ",
        "--routing=auto",
    ] {
        assert!(all.contains(part), "{part}: {all}");
    }
    assert!(!all.contains("--wireguard-port"), "{all}");
    let encrypted = args(&["cni.routing=wireguard,cni.wireguardPort=51820"]);
    assert!(encrypted.contains("--routing=wireguard --wireguard-port=51820"), "{encrypted}");
    for flag in ["underlay", "masquerade-ipv", "non-masquerade", "ndp-proxy", "node-address"] {
        assert!(!all.contains(flag), "the agent's default stays: {all}");
    }
    let told = args(&[
        "cni.tunnelUnderlay=ipv6,cni.masqueradeIPv4=never,cni.masqueradeIPv6=always,cni.ndpProxy=true",
        "cni.nonMasqueradeCIDRs={10.0.0.0/8,fd00::/8},cni.nodeAddressInterfaces={ens*,eth0}",
        "cni.nodeAddressCIDRs={192.0.2.0/24,2001:db8::/32}",
    ]);
    for part in [
        "--tunnel-underlay=ipv6 ",
        "--masquerade-ipv4=false --masquerade-ipv6=true ",
        "--non-masquerade-cidrs=10.0.0.0/8,fd00::/8 --ndp-proxy ",
        "--node-address-interfaces=ens*,eth0 --node-address-cidrs=192.0.2.0/24,2001:db8::/32",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let beside = args(&["proxy.enabled=false"]);
    assert!(
        beside.contains("--proxy=false") && beside.contains(":10356"),
        "kube-proxy has its ports: {beside}"
    );
    assert!(!beside.contains("--dataplane"), "{beside}");
    let bare = args(&["cni.enabled=false,policy.enabled=false"]);
    assert!(
        !bare.contains("--cni") && !bare.contains("--routing") && bare.contains("--network-policy=false"),
        "{bare}"
    );
    assert!(args(&["agent.extraArgs={--sync-period=10s}"]).ends_with("--sync-period=10s"));
    assert!(
        args(&["clusterCIDR=null,clusterCIDR={10.0.0.0/8}"]).contains("--cluster-cidr=10.0.0.0/8"),
        "values win"
    );
}

#[test]
fn agents_have_no_more_rights_than_they_need() {
    let objects = of(&[]);
    let container = &find(&objects, "DaemonSet", "dyad-agent")["spec"]["template"]["spec"]["containers"][0];
    let security = &container["securityContext"];
    assert_eq!(security["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(
        security["capabilities"]["add"],
        json!(["NET_ADMIN", "NET_RAW", "SYS_ADMIN", "BPF", "PERFMON"])
    );
    assert_eq!((&security["privileged"], &security["readOnlyRootFilesystem"]), (&json!(false), &json!(true)));
    for object in combinations().iter().flat_map(|sets| of(sets)) {
        for rule in object["rules"].as_array().into_iter().flatten() {
            for field in ["apiGroups", "resources", "verbs"] {
                assert!(
                    !rule[field].as_array().unwrap().contains(&json!("*")),
                    "{}: {rule}",
                    object["metadata"]["name"]
                );
            }
            let secret = rule["resources"].as_array().unwrap().iter().any(|one| one == "secrets");
            assert!(!secret, "nobody needs Secrets: {rule}");
        }
    }
    // Without policies, nothing of theirs is seen.
    let role = find(&of(&["policy.enabled=false"]), "ClusterRole", "dyad-agent").to_string();
    assert!(!role.contains("networkpolicies") && !role.contains("namespaces"), "{role}");
    let role = find(&of(&["proxy.enabled=false"]), "ClusterRole", "dyad-agent").to_string();
    assert!(!["services", "endpointslices", "servicecidrs"].iter().any(|part| role.contains(part)), "{role}");
    let role = find(&of(&["cni.enabled=false"]), "ClusterRole", "dyad-agent").to_string();
    assert!(!role.contains("\"get\""), "who connects no pods asks for none: {role}");
}

#[test]
fn an_address_of_the_api_is_one_that_needs_no_service() {
    let objects = of(&["cni.ipam=dyad"]);
    for (kind, name) in [("DaemonSet", "dyad-agent"), ("Deployment", "dyad-controllers")] {
        let env = find(&objects, kind, name)["spec"]["template"]["spec"]["containers"][0]["env"].to_string();
        assert!(env.contains(r#"{"name":"KUBERNETES_SERVICE_HOST","value":"2001:db8::6"}"#), "{env}");
        assert!(env.contains(r#"{"name":"KUBERNETES_SERVICE_PORT","value":"6443"}"#), "{env}");
    }
}

#[test]
fn a_namespace_of_its_own_is_made_and_everything_is_in_it() {
    let facts = Facts { namespace: "dyad".into(), makes_namespace: true, ..facts() };
    let mut chosen = Chosen::default();
    chosen.set("dns.enabled=true,cni.ipam=dyad").unwrap();
    let objects = manifests(&chosen.values().unwrap(), &facts).unwrap();
    assert_eq!(objects[0]["kind"], "Namespace");
    let others = objects.iter().filter(|one| !one["metadata"]["namespace"].is_null());
    // Events of Nodes are where the API has them.
    let is_fine = |one: &&Value| {
        let name = one["metadata"]["name"].as_str().unwrap_or_default();
        one["metadata"]["namespace"] == if name.ends_with("-events") { "default" } else { "dyad" }
    };
    assert!(others.clone().all(|one| is_fine(&one)));
    assert!(!objects.iter().any(|one| one.to_string().contains("kube-system")), "nothing is elsewhere");
}

#[test]
fn a_value_says_no_more_than_a_value() {
    let mut chosen = Chosen::default();
    chosen.set("image.tag=1\\\"\\, evil: true").unwrap();
    let made = manifests(&chosen.values().unwrap(), &facts());
    assert!(made.is_err() || !made.unwrap().iter().any(|one| one.to_string().contains("\"evil\"")));
}

#[test]
fn objects_are_written_so_that_they_read_the_same() {
    let objects = of(&["dns.enabled=true,cni.ipam=dyad"]);
    let again: Vec<Value> =
        to_yaml(&objects).split("---\n").map(|text| serde_saphyr::from_str(text).unwrap()).collect();
    assert_eq!(objects, again);
}

#[test]
fn one_family_follows_from_the_other_where_that_is_chosen() {
    let derived = "cni.ipam=derived,cni.derive.from=10.244.0.0/16:24,cni.derive.to=fd00:10:244::/48:64";
    let args = args(&of(&[derived]), "DaemonSet", "dyad-agent");
    for wanted in ["--ipam=derived", "--derive-from=10.244.0.0/16:24", "--derive-to=fd00:10:244::/48:64"] {
        assert!(args.iter().any(|arg| arg == wanted), "{wanted}: {args:?}");
    }
}
