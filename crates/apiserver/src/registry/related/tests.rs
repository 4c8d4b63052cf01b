use dyad_model::ClusterNet;
use dyad_schema::kinds;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::registry::Resource;
use crate::registry::stored::encode;

const NODES: [&str; 3] = ["", "n1", "n2"];
const NAMES: [&str; 3] = ["a", "b", "c"];

/// What a change does: to a pod or a volume, which one, and what it is then.
#[derive(Clone, Debug)]
enum Step {
    Pod { name: usize, node: usize, mirror: bool, debug: bool, refers: [usize; 5] },
    PodGone(usize),
    Volume { name: usize, claim: usize, secret: usize },
    VolumeGone(usize),
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    let one = || 0..3usize;
    prop_oneof![
        4 => (one(), one(), prop::bool::weighted(0.1), any::<bool>(), prop::array::uniform5(one()))
            .prop_map(|(name, node, mirror, debug, refers)| Step::Pod { name, node, mirror, debug, refers }),
        2 => one().prop_map(Step::PodGone),
        2 => (one(), one(), one()).prop_map(|(name, claim, secret)| Step::Volume { name, claim, secret }),
        1 => one().prop_map(Step::VolumeGone),
        2 => Just(Step::Look),
    ]
}

fn pod(name: usize, node: usize, mirror: bool, debug: bool, refers: [usize; 5]) -> Value {
    let [secret, map, claim, account, ephemeral] = refers.map(|index| NAMES[index]);
    let mut pod = json!({
        "metadata": {"name": NAMES[name], "namespace": "ns", "uid": format!("{name}-{node}-{refers:?}")},
        "spec": {"nodeName": NODES[node], "serviceAccountName": account, "containers": [{"envFrom": [
            {"secretRef": {"name": secret}}, {"configMapRef": {"name": map}}, {"configMapRef": {"name": map}},
        ]}], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]},
    });
    if mirror {
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    }
    if debug {
        let env = json!([{"name": "E", "valueFrom": {"secretKeyRef": {"name": ephemeral, "key": "k"}}}]);
        pod["spec"]["ephemeralContainers"] = json!([{"name": "d", "env": env}]);
    }
    pod
}

fn volume(name: usize, claim: usize, secret: usize) -> Value {
    json!({"metadata": {"name": NAMES[name]}, "spec": {
        "claimRef": {"namespace": "ns", "name": NAMES[claim]},
        "csi": {"driver": "d", "volumeHandle": "h", "nodeStageSecretRef": {"name": NAMES[secret]},
            "controllerPublishSecretRef": {"name": "never"}},
    }})
}

/// The same question, answered by looking at everything: the slow way, which is easy to believe.
fn reference(pods: &[Value], volumes: &[Value], node: &str, thing: Thing, name: &str) -> bool {
    let here = |pod: &&Value| {
        pod["spec"]["nodeName"] == node
            && pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null()
    };
    let has_claim = |claim: &Value| {
        pods.iter()
            .filter(here)
            .any(|pod| pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] == *claim)
    };
    let reachable = || volumes.iter().filter(|volume| has_claim(&volume["spec"]["claimRef"]["name"]));
    let by_pod = |of: &dyn Fn(&Value) -> bool| pods.iter().filter(here).any(of);
    match thing {
        Thing::Account => by_pod(&|pod| pod["spec"]["serviceAccountName"] == name),
        Thing::ConfigMap => {
            by_pod(&|pod| pod["spec"]["containers"][0]["envFrom"][1]["configMapRef"]["name"] == name)
        }
        Thing::Claim => has_claim(&name.into()),
        Thing::Volume => reachable().any(|volume| volume["metadata"]["name"] == name),
        Thing::Secret => {
            let debugger = |pod: &Value| {
                let env = &pod["spec"]["ephemeralContainers"][0]["env"][0];
                env["valueFrom"]["secretKeyRef"]["name"] == name
            };
            by_pod(&|pod| pod["spec"]["containers"][0]["envFrom"][0]["secretRef"]["name"] == name)
                || by_pod(&debugger)
                || reachable().any(|volume| volume["spec"]["csi"]["nodeStageSecretRef"]["name"] == name)
        }
        _ => false,
    }
}

fn set(resource: &Resource, name: &str, object: Option<&Value>, rev: u64) {
    let range = |text: &str| dyad_net::parse_range_list(text).unwrap();
    let cluster = ClusterNet { service_ranges: range("10.96.0.0/16"), node_ports: 30000..=32767 };
    let stored = object.map(|object| {
        let json = encode(resource, object);
        Arc::new(Stored::written(resource, object.clone(), json, rev, &cluster))
    });
    let namespace = if resource.row.namespaced { "ns" } else { "" };
    resource.cache.apply(rev, vec![(resource.cache_key(namespace, name).into(), stored)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn j62_the_graph_says_what_a_look_at_everything_says(steps in prop::collection::vec(step(), 0..60)) {
        let [pods, volumes] =
            ["Pod", "PersistentVolume"].map(|kind| Resource::new(kinds::by_kind("", kind).unwrap()));
        let relations = Relations::default();
        let mut now: [[Option<Value>; 3]; 2] = Default::default();
        for (rev, step) in (1..).zip(steps.iter().chain([&Step::Look])) {
            match *step {
                Step::Pod { name, node, mirror, debug, refers } => {
                    let object = pod(name, node, mirror, debug, refers);
                    set(&pods, NAMES[name], Some(&object), rev);
                    now[0][name] = Some(object);
                }
                Step::PodGone(name) => {
                    set(&pods, NAMES[name], None, rev);
                    now[0][name] = None;
                }
                Step::Volume { name, claim, secret } => {
                    let object = volume(name, claim, secret);
                    set(&volumes, NAMES[name], Some(&object), rev);
                    now[1][name] = Some(object);
                }
                Step::VolumeGone(name) => {
                    set(&volumes, NAMES[name], None, rev);
                    now[1][name] = None;
                }
                Step::Look => {
                    let caches = [&pods.cache, &volumes.cache];
                    let [pods, volumes] =
                        [&now[0], &now[1]].map(|of| of.iter().flatten().cloned().collect::<Vec<_>>());
                    for node in ["n1", "n2", "n3"] {
                        for thing in
                            [Thing::Account, Thing::ConfigMap, Thing::Claim, Thing::Volume, Thing::Secret]
                        {
                            for name in ["a", "b", "c", "never"] {
                                let namespace = if thing == Thing::Volume { "" } else { "ns" };
                                prop_assert_eq!(
                                    relations.with(caches, |graph| graph.related(node, thing, namespace, name)),
                                    reference(&pods, &volumes, node, thing, name),
                                    "{} {:?} {}", node, thing, name
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
