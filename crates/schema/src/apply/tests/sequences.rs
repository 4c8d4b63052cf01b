//! Random sequences of apply and update by several managers hold what apply promises.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Kind, deployment, service};
use crate::apply::{ApplyError, Manager, Managers, Operation, Set, UNOWNED, decode};

/// One write.
#[derive(Clone, Debug)]
enum Act {
    Apply { manager: &'static str, config: Value, force: bool },
    Update { manager: &'static str, object: Value },
}

fn manager() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("one"), Just("two"), Just("three")]
}

/// Never an empty map: nothing keeps one, so that it is news whenever it is applied.
fn labels() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-c]", "[12]", 1..3).prop_map(|map| json!(map))
}

fn container() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[EF]", "[12]", 0..2);
    let ports = prop::collection::btree_set((80..82_u16, prop::option::of(Just("UDP"))), 0..2);
    ("[12]", env, ports).prop_map(|(image, env, ports)| {
        let env: Vec<Value> = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let port = |(port, protocol): &(u16, Option<&str>)| match protocol {
            Some(protocol) => json!({"containerPort": port, "protocol": protocol}),
            None => json!({"containerPort": port, "protocol": "TCP"}),
        };
        let mut container = json!({"image": image});
        if !env.is_empty() {
            container["env"] = env.into();
        }
        if !ports.is_empty() {
            container["ports"] = ports.iter().map(port).collect();
        }
        container
    })
}

fn of_deployment() -> BoxedStrategy<Value> {
    let containers = prop::collection::btree_map("[pq]", container(), 0..3);
    (labels(), prop::option::of(0..3_i32), containers, any::<bool>()).prop_map(|(labels, replicas, containers, backwards)| {
        let mut list: Vec<Value> = containers
            .into_iter()
            .map(|(name, mut container)| {
                container["name"] = name.into();
                container
            })
            .collect();
        if backwards {
            list.reverse();
        }
        let mut config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": labels},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {"containers": list}}}});
        if let Some(replicas) = replicas {
            config["spec"]["replicas"] = replicas.into();
        }
        config
    })
    .boxed()
}

fn of_service() -> BoxedStrategy<Value> {
    let ports =
        prop::collection::btree_map((80..82_u16, prop_oneof![Just("TCP"), Just("UDP")]), "[ab]", 0..3);
    let ips = prop::collection::btree_set("192\\.0\\.2\\.[12]", 1..3);
    (labels(), labels(), ports, ips).prop_map(|(labels, selector, ports, ips)| {
        let ports: Vec<Value> = ports
            .iter()
            .map(|((port, protocol), name)| json!({"port": port, "protocol": protocol, "name": name, "targetPort": 1}))
            .collect();
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "d", "labels": labels},
            "spec": {"ports": ports, "selector": selector, "externalIPs": ips}})
    })
    .boxed()
}

fn acts(config: BoxedStrategy<Value>) -> impl Strategy<Value = Vec<Act>> {
    let apply = (manager(), config.clone(), any::<bool>()).prop_map(|(manager, config, force)| Act::Apply {
        manager,
        config,
        force,
    });
    let update = (manager(), config).prop_map(|(manager, object)| Act::Update { manager, object });
    prop::collection::vec(prop_oneof![3 => apply, 1 => update], 1..8)
}

/// Everything but what one manager has.
fn of_others(managers: &Managers, but: &Manager) -> Set {
    let others = managers.iter().filter(|(manager, _)| *manager != but);
    others.fold(Set::default(), |all, (_, owned)| all.union(&owned.set))
}

fn play(kind: &Kind, version: &str, acts: &[Act]) {
    let mut live: Option<Value> = None;
    let structure = kind.structure();
    let paths = |object: &Value| structure.paths(object).unwrap();
    for act in acts {
        let before = live.as_ref().map(|live| decode(live).unwrap()).unwrap_or_default();
        match act {
            Act::Update { manager, object } => {
                let next = kind.write(live.as_ref(), object, manager);
                let empty = kind.empty.clone();
                let compared = structure.compare(live.as_ref().unwrap_or(&empty), &next).unwrap();
                let touched = compared.modified.union(&compared.added).difference(&Set::of(UNOWNED));
                let after = decode(&next).unwrap();
                let own = Manager::new(manager, Operation::Update, version, "");
                let has = after.get(&own).map(|owned| owned.set.clone()).unwrap_or_default();
                let metadata = Set::of(&[&["metadata", "managedFields"]]);
                assert!(
                    touched.difference_below(&metadata).difference(&has).is_empty(),
                    "{act:?} owns what it touched"
                );
                assert!(
                    of_others(&after, &own).intersection(&touched.difference_below(&metadata)).is_empty(),
                    "nobody else does"
                );
                live = Some(next);
            }
            Act::Apply { manager, config, force } => {
                let own = Manager::new(manager, Operation::Apply, version, "");
                let next = match kind.apply(live.as_ref(), config, manager, *force) {
                    Ok(next) => next,
                    Err(ApplyError::Conflicts(conflicts)) => {
                        assert!(!force, "force has no conflicts");
                        for conflict in conflicts {
                            assert!(
                                before[&conflict.manager].set.has(&conflict.path),
                                "owned by who is named"
                            );
                        }
                        continue;
                    }
                    Err(error) => panic!("{error}"),
                };
                let after = decode(&next).unwrap();
                let has = after.get(&own).map(|owned| owned.set.clone()).unwrap_or_default();
                assert_eq!(
                    has,
                    paths(config).difference(&Set::of(UNOWNED)),
                    "a manager owns what it applied"
                );
                contains(&next, config);
                // What it applied before, does not now, and nobody else has, is gone.
                let last = before.get(&own).map(|owned| owned.set.clone()).unwrap_or_default();
                let there = paths(&next);
                for path in last.difference(&has).difference(&of_others(&after, &own)).paths() {
                    let below = |set: &Set| set.paths().iter().any(|other| other.starts_with(&path));
                    let kept = below(&has) || below(&of_others(&after, &own));
                    assert!(kept || !there.has(&path), "{path:?} is left of {last:?} in {next}");
                }
                let again = kind.apply(Some(&next), config, manager, false).unwrap();
                assert_eq!(again, next, "the same once more changes nothing");
                live = Some(next);
            }
        }
        let object = live.as_ref().unwrap();
        let there = with_prefixes(&paths(object));
        for (manager, owned) in decode(object).unwrap() {
            assert!(!owned.set.is_empty(), "{manager} owns something");
            if manager.operation == Operation::Update {
                let missing = owned.set.difference(&there);
                assert!(missing.is_empty(), "{manager} owns {missing:?}, which is not in {object}");
            }
        }
    }
}

/// The set with all that its paths lead through.
fn with_prefixes(set: &Set) -> Set {
    let mut all = Set::default();
    for path in set.paths() {
        (1..=path.len()).for_each(|length| all.insert(&path[..length]));
    }
    all
}

/// What was applied is in the object.
fn contains(object: &Value, config: &Value) {
    match (object, config) {
        (object, Value::Object(fields)) => {
            for (key, value) in fields {
                let empty = value.as_object().is_some_and(serde_json::Map::is_empty) || *value == json!([]);
                if !empty {
                    contains(&object[key], value);
                }
            }
        }
        (Value::Array(object), Value::Array(list)) => {
            let key =
                |value: &Value| ["name", "port", "containerPort", "protocol"].map(|key| value[key].clone());
            for item in list {
                let same = |there: &&Value| {
                    there == &item
                        || (item.is_object() && {
                            let (a, b) = (key(there), key(item));
                            (0..4).all(|at| a[at] == b[at])
                        })
                };
                let there = object.iter().find(same).unwrap_or_else(|| panic!("{item} is not in {object:?}"));
                contains(there, item);
            }
        }
        (object, scalar) => assert_eq!(object, scalar),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn deployments_keep_the_promises_of_apply(acts in acts(of_deployment())) {
        play(&deployment(), "apps/v1", &acts);
    }

    #[test]
    fn services_keep_the_promises_of_apply(acts in acts(of_service())) {
        play(&service(), "v1", &acts);
    }

    #[test]
    fn a_merge_is_idempotent_and_takes_nothing_away(live in of_deployment(), config in of_deployment()) {
        let structure = deployment().structure();
        let once = structure.merge(&live, &config).unwrap();
        prop_assert_eq!(structure.merge(&once, &config).unwrap(), once.clone());
        let gone = structure.paths(&live).unwrap().difference(&with_prefixes(&structure.paths(&once).unwrap()));
        prop_assert!(gone.is_empty(), "{:?}", gone);
        prop_assert_eq!(structure.without(&once, &Set::default()).unwrap(), once);
    }

    #[test]
    fn a_comparison_says_what_differs(a in of_service(), b in of_service()) {
        let structure = service().structure();
        let there = structure.compare(&a, &b).unwrap();
        let back = structure.compare(&b, &a).unwrap();
        prop_assert_eq!(&there.added, &back.removed);
        prop_assert_eq!(&there.modified, &back.modified);
        let same = structure.compare(&a, &a).unwrap();
        prop_assert!(same.added.is_empty() && same.removed.is_empty() && same.modified.is_empty());
    }
}
