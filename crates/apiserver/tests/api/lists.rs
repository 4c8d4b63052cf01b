//! Reading: J20 to J25, J53, J54.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Api, CONFIG_MAPS, PODS, config_map, pod, rev};

async fn with_config_maps(names: &[&str]) -> Api {
    let api = Api::start().await;
    for name in names {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({"mine": "yes", "n": name});
        api.post(CONFIG_MAPS, object).await.expect(201);
    }
    api
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn j20_j34_a_list_is_as_new_as_the_last_write() {
    let api = Api::start().await;
    for index in 0..50 {
        let created = api.post(CONFIG_MAPS, config_map(&format!("c{index}"))).await.expect(201);
        let list = api.get(CONFIG_MAPS).await.expect(200);
        assert!(rev(&list) >= rev(&created));
        assert!(names(&list).contains(&format!("c{index}").as_str()));
        let read = api.get(&format!("{CONFIG_MAPS}/c{index}")).await.expect(200);
        assert_eq!(read, created);
    }
}

#[tokio::test]
async fn j22_exact_and_not_older_than() {
    let api = with_config_maps(&["a"]).await;
    let then = rev(&api.get(CONFIG_MAPS).await.expect(200));
    api.post(CONFIG_MAPS, config_map("b")).await.expect(201);
    let selector = "labelSelector=mine";
    let path = format!("{CONFIG_MAPS}?resourceVersion={then}");
    let exact = api.get(&format!("{path}&resourceVersionMatch=Exact&{selector}")).await.expect(200);
    assert_eq!((names(&exact), rev(&exact)), (vec!["a"], then));
    let newer = api.get(&format!("{path}&resourceVersionMatch=NotOlderThan")).await.expect(200);
    assert!(rev(&newer) >= then && names(&newer).contains(&"a"));
    let legacy = api.get(&format!("{path}&limit=5")).await.expect(200);
    assert_eq!(rev(&legacy), then, "a limit without a match means exactly");
    assert!(!names(&legacy).contains(&"b"));
    api.get(&format!("{CONFIG_MAPS}?resourceVersion=0")).await.expect(200);
    for bad in [
        "resourceVersionMatch=Exact",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersion=1&resourceVersionMatch=Sometimes",
        "resourceVersion=1&resourceVersionMatch=Exact&continue=x",
    ] {
        let (reason, message) = api.get(&format!("{CONFIG_MAPS}?{bad}")).await.failure(422);
        assert_eq!(reason, "Invalid", "{bad}");
        assert!(message.starts_with("ListOptions.meta.k8s.io \"\" is invalid"), "{message}");
    }
    assert_eq!(api.get(&format!("{CONFIG_MAPS}?resourceVersion=x")).await.failure(400).0, "BadRequest");
}

#[tokio::test]
async fn j23_the_future_is_waited_for_but_not_for_ever() {
    let api = with_config_maps(&["a"]).await;
    let future = api.store.current_rev() + 1000;
    // From here on only the server's own patience takes time.
    tokio::time::pause();
    let answer = api.get(&format!("{CONFIG_MAPS}?resourceVersion={future}")).await;
    let status = answer.expect(504);
    assert_eq!(status["reason"], "Timeout");
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test]
async fn j23_what_comes_while_waiting_is_seen() {
    let api = with_config_maps(&["a"]).await;
    let next = api.store.current_rev() + 1;
    let path = format!("{CONFIG_MAPS}?resourceVersion={next}");
    let write = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        api.post(CONFIG_MAPS, config_map("b")).await.expect(201)
    };
    let (list, _) = tokio::join!(api.get(&path), write);
    assert!(names(&list.expect(200)).contains(&"b"));
}

#[tokio::test]
async fn j24_what_is_compacted_is_gone() {
    let api = with_config_maps(&["a", "b", "c"]).await;
    let page = api.get(&format!("{CONFIG_MAPS}?limit=1&labelSelector=mine")).await.expect(200);
    let then = rev(&page);
    api.post(CONFIG_MAPS, config_map("bb")).await.expect(201);
    api.store.compact(api.store.current_rev()).await.unwrap();
    let exact = format!("{CONFIG_MAPS}?resourceVersion={then}&resourceVersionMatch=Exact");
    assert_eq!(api.get(&exact).await.failure(410).0, "Expired");
    let token = page["metadata"]["continue"].as_str().unwrap();
    let answer = api.get(&format!("{CONFIG_MAPS}?limit=1&labelSelector=mine&continue={token}")).await;
    let status = answer.expect(410);
    assert_eq!(status["reason"], "Expired");
    let fresh = status["metadata"]["continue"].as_str().unwrap();
    let rest = api.get(&format!("{CONFIG_MAPS}?labelSelector=mine&continue={fresh}")).await.expect(200);
    assert_eq!(names(&rest), ["b", "c"], "the rest, as it is now");
}

#[tokio::test]
async fn j25_pages_are_of_one_moment() {
    let all = ["a", "b", "c", "d", "e"];
    let api = with_config_maps(&all).await;
    let whole = names(&api.get(CONFIG_MAPS).await.expect(200)).len();
    let any = api.get(&format!("{CONFIG_MAPS}?limit=2&resourceVersion=0")).await.expect(200);
    assert_eq!(names(&any).len(), whole, "J22: what any state will do for has no pages");
    let first = api.get(&format!("{CONFIG_MAPS}?limit=2")).await.expect(200);
    assert_eq!(first["metadata"]["remainingItemCount"], whole - 2);
    // Neither what goes nor what comes shows on later pages.
    api.delete(&format!("{CONFIG_MAPS}/e")).await.expect(200);
    api.post(CONFIG_MAPS, config_map("cc")).await.expect(201);
    let mut seen: Vec<String> = names(&first).into_iter().map(str::to_owned).collect();
    let mut token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    while !token.is_empty() {
        let page = api.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.expect(200);
        assert_eq!(rev(&page), rev(&first));
        seen.extend(names(&page).into_iter().map(str::to_owned));
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!(seen, ["a", "b", "c", "d", "e", "kube-root-ca.crt"]);
    let selected = api.get(&format!("{CONFIG_MAPS}?limit=2&labelSelector=mine")).await.expect(200);
    assert!(selected["metadata"]["remainingItemCount"].is_null(), "unknown with a selector");
    let token = selected["metadata"]["continue"].as_str().unwrap();
    let path = format!("{CONFIG_MAPS}?continue={token}&resourceVersion=5");
    assert_eq!(api.get(&path).await.failure(400).0, "BadRequest");
    assert_eq!(api.get(&format!("{CONFIG_MAPS}?continue=nonsense")).await.failure(400).0, "BadRequest");
}

#[tokio::test]
async fn j53_j54_selectors_select() {
    let api = with_config_maps(&["a", "b", "c"]).await;
    #[rustfmt::skip]
    let cases = [
        ("labelSelector=n%3Da", vec!["a"]),
        ("labelSelector=mine,n%21%3Da", vec!["b", "c"]),
        ("labelSelector=n%20in%20(a,c)", vec!["a", "c"]),
        ("labelSelector=mine,n%20notin%20(a,c)", vec!["b"]),
        ("labelSelector=%21mine", vec!["kube-root-ca.crt"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name%21%3Db&labelSelector=mine", vec!["a", "c"]),
    ];
    for (query, want) in cases {
        assert_eq!(names(&api.get(&format!("{CONFIG_MAPS}?{query}")).await.expect(200)), want, "{query}");
    }
    let (reason, _) = api.get(&format!("{CONFIG_MAPS}?labelSelector=%3D%3D")).await.failure(400);
    assert_eq!(reason, "BadRequest");
    let mut bound = pod("p");
    bound["spec"]["nodeName"] = "n1".into();
    api.post(PODS, bound).await.expect(201);
    api.post(PODS, pod("q")).await.expect(201);
    let on_node =
        api.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1,status.phase%21%3DFailed").await.expect(200);
    assert_eq!(names(&on_node), ["p"]);
    let (_, message) = api.get(&format!("{PODS}?fieldSelector=spec.colour%3Dred")).await.failure(400);
    assert_eq!(message, "field label not supported: spec.colour");
}

#[tokio::test]
async fn lists_do_not_repeat_the_kind_of_their_items() {
    let api = with_config_maps(&["a"]).await;
    let list = api.get(CONFIG_MAPS).await.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert!(list["items"][0]["kind"].is_null());
    let everywhere = api.get("/api/v1/configmaps").await.expect(200);
    assert!(names(&everywhere).len() > names(&list).len());
    assert_eq!(api.get("/api/v1/namespaces/none/configmaps").await.expect(200)["items"], json!([]));
}
