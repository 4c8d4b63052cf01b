//! What an agent says of itself and of its node's endpoints, over HTTP, and what it takes back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use dyad_links::Route;

use super::*;

/// A status and a body, asked for from a thread of this namespace.
async fn get(at: &str, path: &str) -> Option<(u16, String)> {
    let (at, path) = (at.parse::<SocketAddr>().unwrap(), path.to_owned());
    let ask = move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(at)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = tokio::task::spawn_blocking(ask).await.unwrap().ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, format!("{}\n\n{body}", head.to_lowercase())))
}

/// Asks until the answer is as expected.
async fn until_answer(at: &str, path: &str, what: &str, is: impl Fn(u16, &str) -> bool) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = get(at, path).await;
        if let Some((status, body)) = &answer
            && is(*status, body)
        {
            return body.clone();
        }
        assert!(Instant::now() < deadline, "never {what}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn health_and_metrics_are_kube_proxys() {
    if !privileged("proxy::health_and_metrics_are_kube_proxys") {
        return;
    }
    on_a_node(async || {
        Handle::open().unwrap().set_up("lo").unwrap();
        let server = api_server().await;
        let way = Way::default();
        way.cut.store(true, Ordering::Relaxed);
        let writer = Writer(Way::default().client(&server));
        writer.node("node1", 1).await;
        let mut agent = Agent::start(way.client(&server));
        // Alive, but nothing for load balancers before it knows its node.
        until_answer("127.0.0.1:10256", "/livez", "alive", |status, body| {
            status == 200 && !body.contains("nodeEligible")
        })
        .await;
        until_answer("[::1]:10256", "/healthz", "out of service", |status, body| {
            status == 503 && body.contains("\"nodeEligible\":false")
        })
        .await;
        way.cut.store(false, Ordering::Relaxed);
        agent.until("ready", Status::is_ready).await;
        for at in ["192.0.2.1:10256", "[2001:db8::1]:10256"] {
            until_answer(at, "/healthz", "healthy", |status, body| {
                let families = body.contains("\"IPv4\":{") && body.contains("\"IPv6\":{");
                status == 200 && body.contains("content-type: application/json") && families
            })
            .await;
        }
        // The autoscaler is about to remove the node.
        let taint = |taints: Value| Patch::Merge(json!({"spec": {"taints": taints}}));
        let nodes = writer.api("v1", "Node", false);
        let gone = taint(json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]));
        nodes.patch("node1", &PatchParams::default(), &gone).await.unwrap();
        until_answer("127.0.0.1:10256", "/healthz", "going", |status, _| status == 503).await;
        assert_eq!(get("127.0.0.1:10256", "/livez").await.unwrap().0, 200, "but alive");
        nodes.patch("node1", &PatchParams::default(), &taint(json!([]))).await.unwrap();
        until_answer("127.0.0.1:10256", "/healthz", "back", |status, _| status == 200).await;

        writer.service("web", 10).await;
        writer.slice("web", "10.244.1.2").await;
        until_tables("served", |tables| action(tables, "10.96.0.10") == Some(Action::forward(1))).await;
        let served = "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0";
        let text =
            until_answer("[::1]:10249", "/metrics", "programmed", |_, body| body.contains(served)).await;
        for line in [
            "kubeproxy_sync_proxy_rules_service_changes_total ",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"+Inf\"}",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 1",
            "kubeproxy_proxy_livez_total{code=\"200\"}",
            "dyad_agent_dataplane_info{dataplane=\"nftables\",",
            "process_resident_memory_bytes ",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.starts_with("http/1.1 200 ok") && text.contains("text/plain; version=0.0.4"));
        assert_eq!(get("127.0.0.1:10249", "/proxyMode").await.unwrap().1.lines().last(), Some("nftables"));
        assert_eq!(get("127.0.0.1:10249", "/else").await.unwrap().0, 404);
        assert_eq!(get("192.0.2.1:10249", "/metrics").await, None, "for the node itself only");
        // The Node says which data plane it has.
        agent
            .until("announced", |status| status.announced.dataplane.as_deref() == Some(&*status.dataplane))
            .await;
        let node = nodes.get("node1").await.unwrap();
        let said = &node.metadata.annotations.unwrap()[DATAPLANE];
        assert!(said.starts_with("nftables: no cgroup"), "{said}");
        agent.stop().await;
        server.shutdown().await;
    });
}

#[test]
fn load_balancers_are_told_of_local_endpoints() {
    if !privileged("proxy::load_balancers_are_told_of_local_endpoints") {
        return;
    }
    on_a_node(async || {
        Handle::open().unwrap().set_up("lo").unwrap();
        let server = api_server().await;
        let writer = Writer(Way::default().client(&server));
        writer.node("node1", 1).await;
        // Somebody has the port in one family.
        let taken = TcpListener::bind("0.0.0.0:31234").unwrap();
        let ips = ["10.96.0.20", "fd00:10:96::20"];
        writer
            .create(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                "spec": {
                    "type": "LoadBalancer", "clusterIP": ips[0], "clusterIPs": ips,
                    "ipFamilyPolicy": "RequireDualStack", "externalTrafficPolicy": "Local",
                    "healthCheckNodePort": 31234, "ports": [{"port": 80}],
                },
            }))
            .await;
        writer.slice("web", "fd00:10:244:1::2").await;
        let mut agent = Agent::start(Way::default().client(&server));
        agent.until("ready", Status::is_ready).await;
        let answer = until_answer("[2001:db8::1]:31234", "/", "one", |status, _| status == 200).await;
        for part in [
            "x-load-balancing-endpoint-weight: 1",
            "\"namespace\": \"default\"",
            "\"name\": \"web\"",
            "\"localEndpoints\": 1",
            "\"serviceProxyHealthy\": true",
        ] {
            assert!(answer.contains(part), "{part} is not in {answer}");
        }
        // The port is given up: it is served as soon as it is free, with this family's count.
        drop(taken);
        until_answer("192.0.2.1:31234", "/healthz", "none", |status, body| {
            status == 503 && body.contains("weight: 0") && body.contains("\"localEndpoints\": 0")
        })
        .await;
        writer.slice("web", "10.244.1.2").await;
        until_answer("192.0.2.1:31234", "/", "one, too", |status, _| status == 200).await;
        writer.api("v1", "Service", true).delete("web", &DeleteParams::default()).await.unwrap();
        let deadline = Instant::now() + PATIENCE;
        while get("[2001:db8::1]:31234", "/").await.is_some() {
            assert!(Instant::now() < deadline, "never closed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        agent.stop().await;
        server.shutdown().await;
    });
}

#[test]
fn a_clean_up_takes_what_is_ours_and_nothing_else() {
    if !privileged("proxy::a_clean_up_takes_what_is_ours_and_nothing_else") {
        return;
    }
    on_a_node(async || {
        let server = api_server().await;
        let writer = Writer(Way::default().client(&server));
        writer.node("node1", 1).await;
        writer.node("node2", 2).await;
        writer.service("web", 10).await;
        // A pod's route is its maker's, whoever made it.
        let mut handle = Handle::open().unwrap();
        let link = handle.index("eth0").unwrap();
        handle.replace_route(&Route::on_link("10.244.1.7/32".parse().unwrap(), link)).unwrap();
        let mut agent = Agent::start(Way::default().client(&server));
        agent.until("ready", Status::is_ready).await;
        assert_eq!(tables().len(), 2);
        agent.stop().await;
        server.shutdown().await;
        cleanup(None, None, None, NO_KEY.as_ref()).unwrap();
        assert!(tables().is_empty());
        let left: Vec<String> =
            handle.routes(OURS).unwrap().iter().map(|route| route.destination.to_string()).collect();
        assert_eq!(left, ["10.244.1.7/32"]);
        cleanup(None, None, None, NO_KEY.as_ref()).unwrap();
    });
}
