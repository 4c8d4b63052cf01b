//! Two nodes that have IPv4 ranges alone, and addresses of IPv4 alone: their pods talk over both families.

use std::path::{Path, PathBuf};

use dyad_cni::CniResult;
use dyad_net::Derivation;

use super::cni::{ask, bind, cni};
use super::tunnels::Lab;
use super::*;
use crate::config::{Ipam, Routing};

/// A node with an agent that runs on a thread in the node's namespace.
struct Member {
    status: status::Receiver<Status>,
    socket: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Member {
    fn start(number: usize, node: &OwnedFd, dir: &Path, client: Client, ipam: Ipam) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let (cni, wires) = (cni(dir), Wires::default());
        let config = Config {
            node_name: format!("node{number}"),
            pod_ranges: both("10.244.0.0/16", "fd00:10:244::/48"),
            routing: Routing::Auto,
            cni: Some(cni.clone()),
            ipam,
            healthz: None,
            metrics: None,
            ..test_config()
        };
        let (status, (stop, stopped)) = (wires.status.subscribe(), oneshot::channel::<()>());
        let node = node.try_clone().unwrap();
        let work = move || {
            netns::enter_for_good(node.as_fd()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let stopped = async {
                let _ = stopped.await;
            };
            runtime.block_on(run_wired(client, config, wires, stopped)).unwrap();
        };
        // With a stack of the usual size, which the API server needs.
        let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(work).unwrap();
        Self { status, socket: cni.socket, stop: Some(stop), thread: Some(thread) }
    }

    async fn until(&mut self, what: &str, is: impl Fn(&Status) -> bool) {
        let reached = tokio::time::timeout(PATIENCE, self.status.wait_for(is)).await;
        assert!(reached.is_ok_and(|status| status.is_ok()), "never {what}: {:?}", self.status.borrow());
    }

    /// Connects a pod; its addresses.
    async fn add(&self, pod: &OwnedFd, dir: &Path) -> Vec<IpAddr> {
        let netns = bind(pod, dir, "pod");
        let answer = ask(&self.socket, "ADD", &netns, "c1", String::new()).await.unwrap().unwrap();
        CniResult::parse(&answer).unwrap().ips.iter().map(|ip| ip.address.addr()).collect()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn pods_of_nodes_with_ranges_of_one_family_have_both() {
    if !privileged("derived::pods_of_nodes_with_ranges_of_one_family_have_both") {
        return;
    }
    on_a_node(async || {
        let dir = tempfile::tempdir().unwrap();
        let server = api_server().await;
        let writer = Writer(Way::default().client(&server));
        let nodes: Vec<OwnedFd> = (0..2).map(|_| netns::create().unwrap()).collect();
        netns::within(nodes[0].as_fd(), || {
            let far = NewLink { netns: Some(nodes[1].as_fd()), ..NewLink::named("eth0") };
            Handle::open().unwrap().add_veth(&NewLink::named("eth0"), &far).unwrap();
        })
        .unwrap();
        for (at, node) in nodes.iter().enumerate() {
            let mut handle = Handle::open_in(node.as_fd()).unwrap();
            let link = handle.index("eth0").unwrap();
            handle.replace_address(link, format!("192.0.2.{}/24", at + 1).parse().unwrap()).unwrap();
            handle.set_up("eth0").unwrap();
        }
        for (number, range) in [(1, "10.244.1.0/24"), (2, "10.55.0.0/24")] {
            let name = format!("node{number}");
            writer
                .create(json!({
                    "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
                    "spec": {"podCIDR": range, "podCIDRs": [range]},
                }))
                .await;
            let addresses = json!([{"type": "InternalIP", "address": format!("192.0.2.{number}")}]);
            let patch = Patch::Merge(json!({"status": {"addresses": addresses}}));
            writer
                .api("v1", "Node", false)
                .patch_status(&name, &PatchParams::default(), &patch)
                .await
                .unwrap();
        }
        let (from, to) = ("10.244.0.0/16:24".parse().unwrap(), "fd00:10:244::/48:64".parse().unwrap());
        let ipam = Ipam::Derived(Derivation::new(from, to).unwrap());
        let dirs = [dir.path().join("1"), dir.path().join("2")];
        let start =
            |at: usize| Member::start(at + 1, &nodes[at], &dirs[at], Way::default().client(&server), ipam);
        let (mut one, mut two) = (start(0), start(1));
        let announced = |text: &'static str| {
            move |status: &Status| status.is_ready() && status.announced.ranges.as_deref() == Some(text)
        };
        one.until("ready", announced("10.244.1.0/24,fd00:10:244:1::/64")).await;

        // A range that nothing goes with: nobody gets a half, and who asks is told why.
        two.until("told", |status| {
            let warned = status.announced.warnings.as_deref().unwrap_or_default();
            warned.contains("10.55.0.0/24 is not in 10.244.0.0/16") && status.pod_ranges.is_empty()
        })
        .await;
        while !two.socket.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let refused = ask(&two.socket, "STATUS", dir.path(), "", String::new()).await.unwrap_err();
        assert!(refused.code == 50 && refused.msg.contains("--derive-from"), "{refused}");
        let patch = json!({"metadata": {"annotations": {POD_CIDRS: "10.244.7.0/24"}}});
        let api = writer.api("v1", "Node", false);
        api.patch("node2", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        two.until("ready", announced("10.244.7.0/24,fd00:10:244:7::/64")).await;

        let pods: Vec<OwnedFd> = (0..2).map(|_| netns::create().unwrap()).collect();
        let mut ips = Vec::new();
        for (member, (pod, dir)) in [&one, &two].into_iter().zip(pods.iter().zip(&dirs)) {
            ips.push(member.add(pod, dir).await);
        }
        let expected = [["10.244.1.1", "fd00:10:244:1::1"], ["10.244.7.1", "fd00:10:244:7::1"]];
        assert_eq!(ips, expected.map(|of| of.map(|ip| ip.parse::<IpAddr>().unwrap()).to_vec()));
        // The ways to what has come late.
        for (member, (handle, range)) in [
            (&mut one, (Handle::open_in(nodes[0].as_fd()).unwrap(), "fd00:10:244:7::/64")),
            (&mut two, (Handle::open_in(nodes[1].as_fd()).unwrap(), "fd00:10:244:1::/64")),
        ] {
            let (mut handle, range) = (handle, range.parse().unwrap());
            let deadline = Instant::now() + PATIENCE;
            while !handle.routes(OURS).unwrap().iter().any(|route| route.destination == range) {
                assert!(Instant::now() < deadline, "no way to {range}: {:?}", member.status.borrow());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        for (from, to) in [(0, 1), (1, 0)] {
            for (mine, other) in ips[from].iter().zip(&ips[to]) {
                assert_eq!(Lab::send("derived", &pods[from], &pods[to], *other), *mine);
            }
        }
        drop((one, two));
        server.shutdown().await;
    });
}
