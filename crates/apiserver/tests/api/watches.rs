//! Watching: J26 to J34, J14.

use std::time::Duration;

use dyad_store::Op;
use serde_json::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, PODS, config_map, pod, rev};

const MINE: &str = "labelSelector=mine";

fn mine(name: &str) -> Value {
    let mut object = config_map(name);
    object["metadata"]["labels"] = json!({"mine": "yes"});
    object
}

#[tokio::test]
async fn j26_j27_from_a_revision_every_change_comes_once_and_in_order() {
    let api = Api::start().await;
    let list = api.get(&format!("{CONFIG_MAPS}?{MINE}")).await.expect(200);
    let mut events = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", rev(&list))).await;
    let created = api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let changed = api.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"x": "y"}})).await.expect(200);
    api.delete(&format!("{CONFIG_MAPS}/a")).await.expect(200);
    let event = events.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]), (&json!("ADDED"), &created));
    let event = events.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]), (&json!("MODIFIED"), &changed));
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["data"], changed["data"], "its last state");
    assert!(rev(&event["object"]) > rev(&changed), "with the revision of the deletion");
}

#[tokio::test]
async fn j26_without_a_revision_what_is_there_comes_first() {
    let api = Api::start().await;
    for (index, query) in ["watch=true", "watch=true&resourceVersion=0"].into_iter().enumerate() {
        api.post(CONFIG_MAPS, mine(&format!("a{index}"))).await.expect(201);
        let mut events = api.watch(&format!("{CONFIG_MAPS}?{query}&{MINE}")).await;
        for known in 0..=index {
            let (kind, name, _) = events.next_brief().await;
            assert_eq!((kind.as_str(), name), ("ADDED", format!("a{known}")), "{query}");
        }
        api.merge(&format!("{CONFIG_MAPS}/a0"), json!({"data": {"q": query}})).await.expect(200);
        assert_eq!(events.next_brief().await.0, "MODIFIED");
    }
}

#[tokio::test]
async fn j26_the_past_that_is_gone_is_an_error_event() {
    let api = Api::start().await;
    for index in 0..40 {
        // Large enough to push older changes out of the ring.
        let large = json!({"metadata": {"name": format!("c{index}")}, "data": {"k": "x".repeat(500_000)}});
        api.post(CONFIG_MAPS, large).await.expect(201);
    }
    let mut events = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion=1")).await;
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!((&event["object"]["code"], &event["object"]["reason"]), (&json!(410), &json!("Expired")));
    assert!(event["object"]["message"].as_str().unwrap().starts_with("too old resource version: 1 ("));
    assert!(events.next().await.is_none(), "the stream ends");
}

#[tokio::test]
async fn j26_the_future_is_waited_for_and_nothing_older_is_told() {
    let api = Api::start().await;
    let future = api.store.current_rev() + 2;
    let mut events = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={future}")).await;
    for name in ["a", "b", "c"] {
        api.post(CONFIG_MAPS, config_map(name)).await.expect(201);
    }
    let (kind, name, at) = events.next_brief().await;
    assert_eq!((kind.as_str(), name.as_str()), ("ADDED", "c"));
    assert_eq!(at, future + 1);
}

#[tokio::test]
async fn j27_objects_come_into_a_selection_and_leave_it() {
    let api = Api::start().await;
    let from = api.store.current_rev();
    let mut events = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}&{MINE}")).await;
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let path = format!("{CONFIG_MAPS}/a");
    let label = |value: Value| json!({"metadata": {"labels": {"mine": value}}});
    api.merge(&path, label("yes".into())).await.expect(200);
    assert_eq!(events.next_brief().await.0, "ADDED");
    api.merge(&path, label("still".into())).await.expect(200);
    assert_eq!(events.next_brief().await.0, "MODIFIED");
    let left = api.merge(&path, label(Value::Null)).await.expect(200);
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["labels"]["mine"], "still", "the old content");
    assert_eq!(rev(&event["object"]), rev(&left), "and the new revision");
    api.delete(&path).await.expect(200);
    api.post(CONFIG_MAPS, mine("b")).await.expect(201);
    assert_eq!(events.next_brief().await.1, "b", "what happens outside of the selection is not told");
}

#[tokio::test]
async fn j28_bookmarks_come_to_those_who_want_them() {
    let api = Api::start().await;
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let from = api.store.current_rev();
    let query = format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}&timeoutSeconds=100");
    let mut with = api.watch(&format!("{query}&allowWatchBookmarks=true")).await;
    let mut without = api.watch(&query).await;
    // Something else moves the revision on.
    api.post("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await.expect(201);
    api.get(CONFIG_MAPS).await.expect(200);
    tokio::time::pause();
    (with.patience, without.patience) = (Duration::from_secs(1000), Duration::from_secs(1000));
    for _ in 0..2 {
        let event = with.next().await.unwrap();
        assert_eq!(event["type"], "BOOKMARK", "after a minute, and before the end");
        assert!(rev(&event["object"]) > from);
        assert_eq!(event["object"]["kind"], "ConfigMap");
        assert_eq!(event["object"]["metadata"].as_object().unwrap().len(), 1);
    }
    assert!(with.next().await.is_none());
    assert!(without.next().await.is_none());
}

#[tokio::test]
async fn events_are_forgotten_an_hour_after_they_last_happened() {
    let api = Api::start().await;
    let path = "/api/v1/namespaces/default/events";
    let event = |name: &str, last: &str| {
        json!({
            "metadata": {"name": name, "namespace": "default"},
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
            "lastTimestamp": last,
        })
    };
    // The creation is newer than the last time in any case, and counts as well.
    for name in ["a", "b"] {
        api.post(path, event(name, "2020-01-01T00:00:00Z")).await.expect(201);
    }
    let old = api.store.get(b"/registry/core/events/default/a").unwrap().unwrap();
    let text = String::from_utf8(old.value.to_vec()).unwrap();
    let created = text.split("\"creationTimestamp\":\"").nth(1).unwrap()[..20].to_owned();
    let value = text.replace(&created, "2020-01-01T00:00:00Z").into();
    let mut events = api.watch(&format!("{path}?watch=1&resourceVersion={}", api.store.current_rev())).await;
    api.store.txn(Vec::new(), vec![Op::Put { key: old.key, value }]).await.unwrap();
    assert_eq!(events.next_brief().await.0, "MODIFIED");
    tokio::time::pause();
    events.patience = Duration::from_secs(1000);
    let (kind, name, _) = events.next_brief().await;
    assert_eq!((kind.as_str(), name.as_str()), ("DELETED", "a"));
    tokio::time::resume();
    api.get(&format!("{path}/b")).await.expect(200);
}

#[tokio::test]
async fn j29_a_streamed_list_ends_with_a_bookmark() {
    let api = Api::start().await;
    for name in ["a", "b"] {
        api.post(CONFIG_MAPS, mine(name)).await.expect(201);
    }
    let newest = api.store.current_rev();
    let query =
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = api.watch(&format!("{CONFIG_MAPS}?{query}&{MINE}")).await;
    for name in ["a", "b"] {
        assert_eq!(events.next_brief().await.1, name);
    }
    let end = events.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert!(rev(&end["object"]) >= newest);
    api.post(CONFIG_MAPS, mine("c")).await.expect(201);
    assert_eq!(events.next_brief().await.1, "c");
}

#[tokio::test]
async fn j29_initial_events_can_be_declined() {
    let api = Api::start().await;
    api.post(CONFIG_MAPS, mine("a")).await.expect(201);
    let query = "watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
    let mut events = api.watch(&format!("{CONFIG_MAPS}?{query}&{MINE}")).await;
    api.post(CONFIG_MAPS, mine("b")).await.expect(201);
    assert_eq!(events.next_brief().await.1, "b");
}

#[tokio::test]
async fn j30_initial_events_go_with_nothing_else() {
    let api = Api::start().await;
    for query in [
        "watch=true&sendInitialEvents=true",
        "sendInitialEvents=true",
        "watch=true&resourceVersionMatch=NotOlderThan&resourceVersion=1",
        "watch=true&sendInitialEvents=true&resourceVersionMatch=Exact",
    ] {
        let (reason, message) = api.get(&format!("{CONFIG_MAPS}?{query}")).await.failure(422);
        assert_eq!(reason, "Invalid", "{query}: {message}");
    }
}

#[tokio::test]
async fn j31_a_watch_ends_when_it_was_asked_to() {
    let api = Api::start().await;
    let from = api.store.current_rev();
    let mut events =
        api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}&timeoutSeconds=1")).await;
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    assert!(events.next().await.is_none());
    assert!(began.elapsed() >= Duration::from_millis(900));
}

#[tokio::test]
async fn j31_a_watch_ends_with_the_server() {
    let api = Api::start().await;
    let from = api.store.current_rev();
    let mut events = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}")).await;
    api.server.shutdown().await;
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn j32_one_object_is_watched_by_name_in_three_ways() {
    let api = Api::start().await;
    let from = api.store.current_rev();
    let version = format!("resourceVersion={from}");
    let mut all = [
        api.watch(&format!("{CONFIG_MAPS}?watch=1&{version}&fieldSelector=metadata.name%3Db")).await,
        api.watch(&format!("{CONFIG_MAPS}/b?watch=1&{version}")).await,
        api.watch(&format!("/api/v1/watch/namespaces/default/configmaps/b?{version}")).await,
    ];
    for name in ["a", "b"] {
        api.post(CONFIG_MAPS, config_map(name)).await.expect(201);
    }
    for events in &mut all {
        assert_eq!(events.next_brief().await.1, "b");
    }
}

#[tokio::test]
async fn j34_a_snapshot_and_its_watch_miss_nothing_while_others_write() {
    let api = Api::start().await;
    let writer = {
        let service = api.service.clone();
        tokio::spawn(async move {
            for index in 0..300 {
                let body = config_map(&format!("c{index:03}")).to_string();
                let headers = [("content-type", "application/json")];
                crate::harness::send(&service, "POST", CONFIG_MAPS, &headers, body).await.expect(201);
            }
        })
    };
    for _ in 0..10 {
        let list = api.get(CONFIG_MAPS).await.expect(200);
        let mut seen: Vec<String> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .filter(|name| name.starts_with('c'))
            .collect();
        let mut events = api.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", rev(&list))).await;
        let mut last = rev(&list);
        while seen.len() < 300 {
            let (kind, name, at) = events.next_brief().await;
            assert_eq!(kind, "ADDED");
            assert!(at > last, "in order");
            last = at;
            seen.push(name);
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 300, "each once");
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn j14_a_watched_table_defines_its_columns_once() {
    let api = Api::start().await;
    let from = api.store.current_rev();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut events = api.watch_as(&format!("{PODS}?watch=1&resourceVersion={from}"), accept).await;
    for name in ["a", "b"] {
        api.post(PODS, pod(name)).await.expect(201);
    }
    let first = events.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert_eq!(first["object"]["columnDefinitions"][0]["name"], "Name");
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    assert_eq!(first["object"]["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let second = events.next().await.unwrap();
    assert!(second["object"]["columnDefinitions"].as_array().is_none_or(Vec::is_empty));
    assert_eq!(second["object"]["rows"][0]["cells"][0], "b");
}

#[tokio::test]
async fn j13_metadata_can_be_watched_alone() {
    let api = Api::start().await;
    let from = api.store.current_rev();
    let accept = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let mut events = api.watch_as(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={from}"), accept).await;
    api.post(CONFIG_MAPS, config_map("a")).await.expect(201);
    let object = events.next().await.unwrap()["object"].clone();
    assert_eq!(object["kind"], "PartialObjectMetadata");
    assert_eq!(object["metadata"]["name"], "a");
    assert!(object["data"].is_null());
}
