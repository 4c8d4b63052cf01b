//! Pods that a container runtime has connected, through the plugin's end of the socket.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use dyad_cni::{CniResult, NetConf, Request, wire};

use super::policies::labelled_pod;
use super::*;

pub(super) fn cni(dir: &Path) -> Cni {
    let plugin = dir.join("image-dyad-cni");
    std::fs::write(&plugin, "the plugin").unwrap();
    Cni {
        socket: dir.join("run/cni.sock"),
        conf_dir: dir.join("net.d"),
        bin_dir: dir.join("bin"),
        data_dir: dir.join("networks"),
        plugin,
    }
}

/// Asks as the plugin does, away from the agent's thread.
pub(super) async fn ask(
    socket: &Path,
    command: &'static str,
    netns: &Path,
    container: &str,
    args: String,
) -> dyad_cni::Result<Option<Value>> {
    let (netns, container) = (netns.to_owned(), container.to_owned());
    let socket: PathBuf = socket.into();
    let work = move || {
        let config = json!({"cniVersion": "1.1.0", "name": "dyad", "type": "dyad", "socket": socket});
        let variable = |name: &str| -> Option<OsString> {
            match name {
                "CNI_COMMAND" => Some(command.into()),
                "CNI_CONTAINERID" => Some(container.clone().into()),
                "CNI_NETNS" => Some(netns.clone().into()),
                "CNI_IFNAME" => Some("eth0".into()),
                "CNI_ARGS" => Some(args.clone().into()),
                _ => None,
            }
        };
        let request = Request::new(variable, NetConf::from_value(config).unwrap()).unwrap();
        wire::ask(&socket, &request)
    };
    let answer = tokio::task::spawn_blocking(work).await.unwrap()?;
    Ok(answer.expect("the agent listens"))
}

fn pod_routes() -> Vec<String> {
    let routes = Handle::open().unwrap().routes(OURS).unwrap();
    let mut texts: Vec<String> = routes
        .iter()
        .filter(|route| route.hops[0].via.is_none() && route.destination.prefix_len() >= 32)
        .map(|route| route.destination.to_string())
        .filter(|text| text.ends_with("/32") || text.ends_with("/128"))
        .collect();
    texts.sort();
    texts
}

#[test]
fn a_runtime_has_pods_connected_once_the_node_is_ready() {
    if !privileged("cni::a_runtime_has_pods_connected_once_the_node_is_ready") {
        return;
    }
    on_a_node(async || {
        let dir = tempfile::tempdir().unwrap();
        let cni = cni(dir.path());
        let (_pod, netns_path) = pod_namespace(dir.path(), "pod");
        let server = api_server().await;
        let writer = Writer(Way::default().client(&server));
        let config = Config {
            routing: Routing::Auto,
            cni: Some(cni.clone()),
            run_dir: Some(dir.path().join("run")),
            ..test_config()
        };
        let mut agent = Agent::start_with(Way::default().client(&server), config, None);
        // A node without ranges connects nobody, and nobody is told that it does.
        agent.until("synced", |status| status.synced).await;
        while !cni.socket.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let refused = ask(&cni.socket, "ADD", &netns_path, "c1", String::new()).await.unwrap_err();
        assert_eq!(refused.code, 11, "{refused}");
        let refused = ask(&cni.socket, "STATUS", &netns_path, "", String::new()).await.unwrap_err();
        assert_eq!(refused.code, 50, "{refused}");
        let conflist = cni.conf_dir.join("05-dyad.conflist");
        assert!(!conflist.exists());

        writer.node("node1", 1).await;
        writer.create(deny("web")).await;
        let uid = labelled_pod(&writer, "web-0", "web", &[]).await;
        agent.until("ready", |status| status.is_ready() && !status.pod_ranges.is_empty()).await;
        let deadline = Instant::now() + PATIENCE;
        while !conflist.exists() {
            assert!(Instant::now() < deadline, "no configuration");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(std::fs::read_to_string(cni.bin_dir.join("dyad")).unwrap(), "the plugin");
        ask(&cni.socket, "STATUS", &netns_path, "", String::new()).await.unwrap();

        let args = |uid: &str| {
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID={uid}")
        };
        let other = ask(&cni.socket, "ADD", &netns_path, "c1", args("another")).await.unwrap_err();
        assert_eq!(other.code, 11, "{other}");
        let result = ask(&cni.socket, "ADD", &netns_path, "c1", args(&uid)).await.unwrap().unwrap();
        let result = CniResult::parse(&result).unwrap();
        let ips: Vec<String> = result.ips.iter().map(|ip| ip.address.to_string()).collect();
        assert_eq!(ips, ["10.244.1.1/32", "fd00:10:244:1::1/128"]);
        assert_eq!(pod_routes(), ips);
        // Its policies were there before the answer.
        let isolated = || {
            let of = |ip: IpAddr| (dyad_program::rule::Direction::Ingress, ip);
            let mut ips = result.ips.iter().map(|ip| ip.address.addr());
            ips.all(|ip| tables()[&ip.into()].isolated.contains_key(&of(ip)))
        };
        assert!(isolated());

        // Both of the node's addresses are announced, and what stands in the way; another address is followed.
        std::fs::write(cni.conf_dir.join("00-other.conf"), "{}").unwrap();
        let link = Handle::open().unwrap().index("eth0").unwrap();
        let [old, new] = ["192.0.2.1/24", "192.0.2.7/24"].map(|net| net.parse().unwrap());
        agent
            .until("announced", |status| {
                status.announced.addresses.as_deref() == Some("192.0.2.1,2001:db8::1")
            })
            .await;
        Handle::open().unwrap().delete_address(link, old).unwrap();
        Handle::open().unwrap().replace_address(link, new).unwrap();
        // Word of the Node makes it look at once, and not within seconds.
        let touched = Patch::Merge(json!({"metadata": {"labels": {"touched": "1"}}}));
        writer.api("v1", "Node", false).patch("node1", &PatchParams::default(), &touched).await.unwrap();
        agent
            .until("announced anew", |status| {
                let warned =
                    status.announced.warnings.as_ref().is_some_and(|text| text.contains("00-other.conf"));
                warned && status.announced.addresses.as_deref() == Some("192.0.2.7,2001:db8::1")
            })
            .await;
        let said = json!({"metadata": {"annotations": {NODE_ADDRESS_OVERRIDE: "10.66.0.1"}}});
        Handle::open().unwrap().replace_address(link, "10.66.0.1/24".parse().unwrap()).unwrap();
        let nodes = writer.api("v1", "Node", false);
        nodes.patch("node1", &PatchParams::default(), &Patch::Merge(said)).await.unwrap();
        agent
            .until("as somebody says", |status| {
                status.node_ips.first() == Some(&"10.66.0.1".parse().unwrap())
            })
            .await;
        // Their routes went with the address that was their source.
        let deadline = Instant::now() + PATIENCE;
        while pod_routes() != ips {
            assert!(Instant::now() < deadline, "pods lost their routes: {:?}", pod_routes());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }

        // A firewall of the host comes and goes.
        let nft = |script: &str| Command::new("nft").arg(script).status();
        let drops =
            "table inet filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }";
        let is_told = |status: &Status| {
            status.warnings.iter().any(|text| text.contains("chain FORWARD of table inet filter"))
        };
        if nft(drops).is_ok_and(|done| done.success()) {
            agent.until("told of a firewall", is_told).await;
            assert!(nft("delete table inet filter").unwrap().success());
            agent.until("no firewall any more", |status| !is_told(status)).await;
        } else {
            eprintln!("SKIPPED in part: there is no nft to make a firewall with");
        }

        // An agent that is killed and one that follows: nothing of the pod is touched.
        agent.stop().await;
        let config = Config {
            routing: Routing::Auto,
            cni: Some(cni.clone()),
            run_dir: Some(dir.path().join("run")),
            ..test_config()
        };
        let mut agent = Agent::start_with(Way::default().client(&server), config, None);
        agent.until("ready again", Status::is_ready).await;
        assert_eq!(pod_routes(), ips);
        // The API has not told of its addresses yet: there is no kubelet.
        assert!(isolated(), "its policies are there");
        let again = ask(&cni.socket, "ADD", &netns_path, "c1", args(&uid)).await.unwrap().unwrap();
        assert_eq!(CniResult::parse(&again).unwrap().ips, result.ips, "ADD twice");
        for _ in 0..2 {
            ask(&cni.socket, "DEL", &netns_path, "c1", args(&uid)).await.unwrap();
            assert_eq!(pod_routes(), [""; 0]);
        }
        agent.stop().await;
        cleanup(None, Some(&cni), None, NO_KEY.as_ref()).unwrap();
        assert!(!conflist.exists() && !cni.socket.exists() && !cni.bin_dir.join("dyad").exists());
        let handle = &mut Handle::open().unwrap();
        assert_eq!(handle.routes(OURS).unwrap(), []);
        server.shutdown().await;
    });
}

/// A pod's namespace, and where it is.
pub(super) fn pod_namespace(dir: &Path, name: &str) -> (OwnedFd, PathBuf) {
    let netns = netns::create().unwrap();
    let path = bind(&netns, dir, name);
    (netns, path)
}

/// What a runtime would bind there; a descriptor of this process does as well.
pub(super) fn bind(netns: &OwnedFd, dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    let by_descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(netns));
    std::os::unix::fs::symlink(by_descriptor, &path).unwrap();
    path
}

/// Works with the agent's end of the socket without an engine behind it: a node that is ready, whose gate lets nobody
/// pass. Given are a directory, how pods are connected, and an API.
async fn with_socket(work: impl AsyncFnOnce(&Path, &Cni, Client)) {
    let dir = tempfile::tempdir().unwrap();
    let cni = cni(dir.path());
    let server = api_server().await;
    let client = Way::default().client(&server);
    let pod_ranges = ["10.244.1.0/24", "fd00:10:244:1::/64"].map(|range| range.parse().unwrap()).to_vec();
    let ready = Status { synced: true, programmed: true, routed: true, pod_ranges, ..Status::default() };
    let (_sender, receiver) = status::channel(ready);
    let (closed, _) = gate();
    let task = tokio::spawn(crate::cni::keep(cni.clone(), client.clone(), closed, receiver));
    let deadline = Instant::now() + PATIENCE;
    while !cni.socket.exists() {
        assert!(Instant::now() < deadline, "nobody listens");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    work(dir.path(), &cni, client).await;
    task.abort();
    server.shutdown().await;
}

fn noted(cni: &Cni) -> usize {
    let store = dyad_cni::store::Store::open(&cni.data_dir, crate::cni::NETWORK).unwrap();
    let taken = store.lock().unwrap().taken().unwrap();
    taken.len()
}

fn pod_links() -> usize {
    let links = Handle::open().unwrap().links().unwrap();
    links.iter().filter(|link| link.name.starts_with("dy")).count()
}

#[test]
fn a_pod_that_is_not_let_in_leaves_nothing() {
    if !privileged("cni::a_pod_that_is_not_let_in_leaves_nothing") {
        return;
    }
    let work = async |dir: &Path, cni: &Cni, client| {
        let (pod, path) = pod_namespace(dir, "pod");
        let uid = labelled_pod(&Writer(client), "web-0", "web", &[]).await;
        let args = format!("K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID={uid}");
        let refused = ask(&cni.socket, "ADD", &path, "c1", args.clone()).await.unwrap_err();
        assert!(refused.code == 11 && refused.msg.contains("not ready for the pod"), "{refused}");
        assert_eq!((pod_routes().len(), pod_links(), noted(cni)), (0, 0, 0));
        assert_eq!(
            netns::within(pod.as_fd(), || Handle::open().unwrap().link("eth0").unwrap()).unwrap(),
            None
        );
        // One that is there already is not taken away.
        ask(&cni.socket, "ADD", &path, "c1", String::new()).await.unwrap();
        ask(&cni.socket, "ADD", &path, "c1", args).await.unwrap_err();
        assert_eq!((pod_routes().len(), pod_links(), noted(cni)), (2, 1, 2));
    };
    on_a_node(async || with_socket(work).await);
}

#[test]
fn addresses_of_pods_that_went_without_a_word_are_given_back() {
    if !privileged("cni::addresses_of_pods_that_went_without_a_word_are_given_back") {
        return;
    }
    let work = async |dir: &Path, cni: &Cni, _| {
        let (stays, path) = pod_namespace(dir, "stays");
        ask(&cni.socket, "ADD", &path, "c1", String::new()).await.unwrap();
        let (goes, path) = pod_namespace(dir, "goes");
        ask(&cni.socket, "ADD", &path, "c2", String::new()).await.unwrap();
        drop(goes);
        let deadline = Instant::now() + PATIENCE;
        while pod_links() > 1 {
            assert!(Instant::now() < deadline, "the link goes with the namespace");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let forget = |age| dyad_cni::routed::forget(crate::cni::NETWORK, &cni.data_dir, age).unwrap();
        assert_eq!(forget(Duration::from_secs(3600)), [] as [IpAddr; 0], "it may be about to have one");
        // Files have the time of the last tick of the clock.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let expected = ["10.244.1.2", "fd00:10:244:1::2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        assert_eq!(forget(Duration::ZERO), expected);
        assert_eq!((pod_routes().len(), noted(cni)), (2, 2));
        drop(stays);
    };
    on_a_node(async || with_socket(work).await);
}

#[test]
fn pods_that_go_together_leave_nothing() {
    if !privileged("cni::pods_that_go_together_leave_nothing") {
        return;
    }
    let work = async |dir: &Path, cni: &Cni, _| {
        let pods: Vec<_> = (0..40).map(|at| pod_namespace(dir, &format!("pod{at}"))).collect();
        let all = async |command| {
            let begun = Instant::now();
            let mut asked = JoinSet::new();
            for (at, (_, path)) in pods.iter().enumerate() {
                let (socket, path) = (cni.socket.clone(), path.clone());
                asked.spawn(
                    async move { ask(&socket, command, &path, &format!("c{at}"), String::new()).await },
                );
            }
            while let Some(done) = asked.join_next().await {
                done.unwrap().unwrap();
            }
            eprintln!("{command} of {}: {:?}", pods.len(), begun.elapsed());
        };
        all("ADD").await;
        assert_eq!((pod_routes().len(), pod_links(), noted(cni)), (80, 40, 80));
        for _ in 0..2 {
            all("DEL").await;
            assert_eq!((pod_routes().len(), pod_links(), noted(cni)), (0, 0, 0));
        }
    };
    on_a_node(async || with_socket(work).await);
}

fn deny(app: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"]},
    })
}
