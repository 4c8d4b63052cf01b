use dyad_model::ClusterNet;
use dyad_schema::kinds;
use serde_json::json;

use super::*;
use crate::registry::Resource;
use crate::registry::stored::encode;

fn object(resource: &Resource, name: &str, rev: u64) -> Arc<Stored> {
    let value = json!({"metadata": {"name": name, "namespace": "n"}, "data": {"rev": rev.to_string()}});
    let json = encode(resource, &value);
    let range = |text: &str| dyad_net::parse_range_list(text).unwrap();
    let cluster = ClusterNet { service_ranges: range("10.96.0.0/16"), node_ports: 30000..=32767 };
    Arc::new(Stored::written(resource, value, json, rev, &cluster))
}

fn put(cache: &Cache, resource: &Resource, name: &str, rev: u64) {
    cache.apply(rev, vec![(format!("n/{name}").into(), Some(object(resource, name, rev)))]);
}

fn config_maps() -> Resource {
    Resource::new(kinds::by_kind("", "ConfigMap").unwrap())
}

#[test]
fn a_snapshot_and_its_cursor_miss_nothing_and_repeat_nothing() {
    let resource = config_maps();
    let cache = &resource.cache;
    cache.load([("n/a".into(), object(&resource, "a", 1))], 5);
    put(cache, &resource, "b", 6);
    let snapshot = cache.snapshot("n");
    assert_eq!(snapshot.items.len(), 2);
    assert_eq!(snapshot.rev, 6);
    let mut cursor = snapshot.cursor;
    assert!(cache.changes(&mut cursor, 10).unwrap().is_empty());
    put(cache, &resource, "b", 7);
    cache.apply(8, vec![("n/a".into(), None)]);
    let changes = cache.changes(&mut cursor, 10).unwrap();
    let seen: Vec<_> = changes.iter().map(|c| (c.rev, c.before.is_some(), c.now.is_some())).collect();
    assert_eq!(seen, [(7, true, true), (8, true, false)]);
    assert!(cache.changes(&mut cursor, 10).unwrap().is_empty());
}

#[test]
fn namespaces_are_ranges_of_keys() {
    let resource = config_maps();
    let cache = &resource.cache;
    let keys = ["a/x", "a-b/x", "a/y", "ab/x"];
    cache.load(keys.map(|key| (key.into(), object(&resource, "x", 1))), 1);
    assert_eq!(cache.snapshot("a").items.len(), 2);
    assert_eq!(cache.snapshot("a-b").items.len(), 1);
    assert_eq!(cache.snapshot("").items.len(), 4);
}

#[test]
fn a_watch_can_begin_at_every_revision_that_is_kept() {
    let resource = config_maps();
    let cache = &resource.cache;
    cache.load([], 10);
    for rev in [12, 15, 19] {
        put(cache, &resource, "a", rev);
    }
    for (after, want) in [(10, 3), (11, 3), (12, 2), (16, 1), (19, 0), (30, 0)] {
        let mut cursor = cache.after(after).unwrap();
        assert_eq!(cache.changes(&mut cursor, 10).unwrap().len(), want, "after {after}");
    }
    assert_eq!(cache.after(9), Err(TooOld { oldest: 10 }), "before the load nothing is known");
}

#[test]
fn j26_a_slow_watcher_is_told_instead_of_queued_for() {
    let resource = config_maps();
    let cache = &resource.cache;
    cache.load([], 1);
    let mut slow = cache.snapshot("").cursor;
    let last = RING_CHANGES as u64 + 10;
    for rev in 2..last {
        put(cache, &resource, "a", rev);
    }
    let oldest = cache.changes(&mut slow, 1).unwrap_err().oldest;
    assert!(oldest > 1 && oldest < last);
    assert!(cache.after(oldest).is_ok());
    assert!(cache.after(oldest - 1).is_err());
}
