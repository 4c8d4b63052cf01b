//! A node whose ranges are ours, and run out.

use std::collections::BTreeSet;

use dyad_cni::CniResult;
use dyad_cni::store::{Owner, Store};
use dyad_controllers::{Grants, Standing, run_grants};

use super::cni::{ask, cni, pod_namespace};
use super::*;
use crate::cni::NETWORK;
use crate::config::{Ipam, Routing};

#[test]
fn a_node_that_runs_out_of_addresses_gets_more_by_itself() {
    if !privileged("pool::a_node_that_runs_out_of_addresses_gets_more_by_itself") {
        return;
    }
    on_a_node(async || {
        let dir = tempfile::tempdir().unwrap();
        let cni = cni(dir.path());
        let (_pod, netns_path) = pod_namespace(dir.path(), "pod");
        let server = api_server().await;
        let writer = Writer(Way::default().client(&server));
        let nodes = writer.api("v1", "Node", false);
        let wants = |text: &str| {
            let patch = json!({"metadata": {"annotations": {POD_CIDRS_WANTED: text}}});
            let nodes = nodes.clone();
            async move { nodes.patch("node1", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap() }
        };
        writer.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}})).await;
        let grants = Grants {
            pools: vec!["10.9.0.0/24:29,fd00:9::/48:64".parse().unwrap()],
            reserved: Vec::new(),
            identity: "test".into(),
            lease: ("default".into(), "test".into()),
            standing: Default::default(),
        };
        let standing = grants.standing.subscribe();
        let controllers =
            tokio::spawn(run_grants(Way::default().client(&server), grants, std::future::pending()));
        let config =
            Config { routing: Routing::Auto, cni: Some(cni.clone()), ipam: Ipam::Pool, ..test_config() };
        let mut agent = Agent::start_with(Way::default().client(&server), config, None);
        let has = |text: &'static str| {
            move |status: &Status| status.is_ready() && status.announced.ranges.as_deref() == Some(text)
        };
        agent.until("ready", has("10.9.0.0/29,fd00:9::/64")).await;
        assert_eq!(agent.status.borrow().announced.wanted, None);

        // Six pods fit. With four of them it is time.
        let store = Store::open(&cni.data_dir, NETWORK).unwrap();
        let take = |last: u8| {
            let owner = Owner { container: format!("c{last}"), ifname: None };
            assert!(store.lock().unwrap().take([10, 9, 0, last].into(), &owner).unwrap());
        };
        (1..=4).for_each(take);
        // Word of the Node makes it look at once, and not within seconds. What somebody else has written there stays.
        wants("IPv6=1").await;
        agent.until("given more", has("10.9.0.0/29,10.9.0.8/29,fd00:9::/64")).await;
        agent
            .until("as it has said", |status| status.announced.wanted.as_deref() == Some("IPv4=2,IPv6=1"))
            .await;
        (5..=6).for_each(take);
        let result = ask(&cni.socket, "ADD", &netns_path, "new", String::new()).await.unwrap().unwrap();
        let ips: BTreeSet<String> =
            CniResult::parse(&result).unwrap().ips.iter().map(|ip| ip.address.to_string()).collect();
        assert_eq!(ips, BTreeSet::from(["10.9.0.9/32".into(), "fd00:9::1/128".into()]));
        // Somebody else's larger wish is met, and kept.
        wants("IPv4=3").await;
        agent.until("given what others want", has("10.9.0.0/29,10.9.0.8/29,10.9.0.16/29,fd00:9::/64")).await;
        assert_eq!(agent.status.borrow().announced.wanted.as_deref(), Some("IPv4=3"));
        let expected = Standing { leads: true, nodes: 1, ranges: 4, short: 0 };
        assert_eq!(*standing.borrow(), expected);
        controllers.abort();
        agent.stop().await;
        server.shutdown().await;
    });
}
