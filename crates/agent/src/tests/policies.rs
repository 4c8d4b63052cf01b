//! Policies, and the pods that wait for them.

use dyad_program::policy;
use dyad_program::rule::Direction;

use super::*;

fn isolated(tables: &BTreeMap<IpFamily, Table>, ip: &str) -> bool {
    let ip: IpAddr = ip.parse().unwrap();
    tables.get(&ip.into()).is_some_and(|table| table.isolated.contains_key(&(Direction::Ingress, ip)))
}

fn deny_all() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"},
        "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]},
    })
}

async fn pod(writer: &Writer, name: &str, ips: &[&str]) -> String {
    labelled_pod(writer, name, "web", ips).await
}

pub(super) async fn labelled_pod(writer: &Writer, name: &str, app: &str, ips: &[&str]) -> String {
    writer
        .create(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"nodeName": "node1", "containers": [{"name": "a", "image": "a"}]},
        }))
        .await;
    let pods = writer.api("v1", "Pod", true);
    if !ips.is_empty() {
        let listed: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let status = json!({"status": {"phase": "Running", "podIP": ips[0], "podIPs": listed}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }
    pods.get(name).await.unwrap().metadata.uid.unwrap()
}

#[test]
fn policies_are_carried_out_while_they_are_there() {
    if !privileged("policies::policies_are_carried_out_while_they_are_there") {
        return;
    }
    on_a_node(async || {
        let server = api_server().await;
        let writer = Writer(Way::default().client(&server));
        writer.node("node1", 1).await;
        pod(&writer, "web-0", &["10.244.1.2", "fd00:10:244:1::2"]).await;
        let mut agent = Agent::start(Way::default().client(&server));
        agent.until("ready", Status::is_ready).await;
        assert!(!isolated(&tables(), "10.244.1.2"));
        writer.create(deny_all()).await;
        until_tables("isolated", |tables| {
            ["10.244.1.2", "fd00:10:244:1::2"].iter().all(|ip| isolated(tables, ip))
        })
        .await;
        pod(&writer, "web-1", &["10.244.1.3"]).await;
        until_tables("isolated, too", |tables| isolated(tables, "10.244.1.3")).await;
        // Whoever is not about policy leaves it alone, and takes back what was.
        agent.stop().await;
        let config = Config { network_policy: false, ..test_config() };
        let mut without = Agent::start_with(Way::default().client(&server), config, None);
        without.until("ready", Status::is_ready).await;
        assert!(!isolated(&tables(), "10.244.1.2"));
        without.stop().await;
        let mut agent = Agent::start(Way::default().client(&server));
        agent.until("ready", Status::is_ready).await;
        assert!(isolated(&tables(), "10.244.1.2"), "before it was ready");
        let policies = writer.api("networking.k8s.io/v1", "NetworkPolicy", true);
        policies.delete("deny", &DeleteParams::default()).await.unwrap();
        until_tables("open again", |tables| !isolated(tables, "10.244.1.2")).await;
        agent.stop().await;
        server.shutdown().await;
    });
}

#[test]
fn a_pod_waits_at_the_gate_until_the_kernel_knows_it() {
    if !privileged("policies::a_pod_waits_at_the_gate_until_the_kernel_knows_it") {
        return;
    }
    on_a_node(async || {
        let server = api_server().await;
        let way = Way::default();
        way.cut.store(true, Ordering::Relaxed);
        let writer = Writer(Way::default().client(&server));
        writer.node("node1", 1).await;
        writer.create(deny_all()).await;
        let uid = pod(&writer, "web-0", &[]).await;
        let (gate, arrivals) = gate();
        let mut agent = Agent::start_with(way.client(&server), test_config(), Some(arrivals));
        let newcomer = policy::Pod {
            namespace: "default".into(),
            labels: Arc::new([("app".to_owned(), "web".to_owned())].into()),
            ips: vec!["10.244.1.2".parse().unwrap(), "fd00:10:244:1::2".parse().unwrap()],
            node: "node1".into(),
            ..policy::Pod::default()
        };
        let passes = gate.pass("default", "web-0", &uid, newcomer);
        tokio::pin!(passes);
        // While the API is away nobody knows which policies there are.
        let refused = async {
            while way.refused.load(Ordering::Relaxed) < 20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            passed = &mut passes => panic!("{passed:?}"),
            () = refused => {}
        }
        way.cut.store(false, Ordering::Relaxed);
        passes.await.unwrap();
        for ip in ["10.244.1.2", "fd00:10:244:1::2"] {
            assert!(isolated(&tables(), ip), "{ip}");
        }
        // Word of the pod that does not tell its addresses yet opens nothing.
        let labels = Patch::Merge(json!({"metadata": {"labels": {"more": "labels"}}}));
        writer.api("v1", "Pod", true).patch("web-0", &PatchParams::default(), &labels).await.unwrap();
        writer.service("later", 11).await;
        until_tables("later", |tables| action(tables, "10.96.0.11").is_some()).await;
        assert!(isolated(&tables(), "10.244.1.2"));
        agent.until("ready", Status::is_ready).await;
        agent.stop().await;
        server.shutdown().await;
    });
}
