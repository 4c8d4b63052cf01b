//! A kubelet's control group that nobody has named.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Child;

use super::*;

/// A control group with a process, as a kubelet's.
struct Group(PathBuf, Child);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.1.kill();
        let _ = self.1.wait();
        let deadline = Instant::now() + PATIENCE;
        // It is busy for a moment yet.
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn the_group_of_the_kubelets_pods_is_found_and_served() {
    if !privileged("cgroup::the_group_of_the_kubelets_pods_is_found_and_served") {
        return;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount =
        mounts.lines().find(|line| line.contains(" - cgroup2 ")).and_then(|line| line.split(' ').nth(4));
    let (Ok(()), Some(mount)) = (dyad_ebpf::probe(), mount) else {
        writeln!(std::io::stderr(), "SKIPPED: this machine has no eBPF for us").unwrap();
        return;
    };
    if pods_cgroup().is_ok() {
        writeln!(std::io::stderr(), "SKIPPED: this machine has a kubelet's pods").unwrap();
        return;
    }
    let place = Path::new(mount).join(format!("dyad_test_{}-kubepods.slice", std::process::id()));
    fs::create_dir(&place).unwrap();
    let group = Group(place.clone(), Command::new("sleep").arg("600").spawn().unwrap());
    assert!(pods_cgroup().is_err(), "nobody is in it");
    fs::write(place.join("cgroup.procs"), group.1.id().to_string()).unwrap();
    assert_eq!(pods_cgroup(), Ok(place.clone()));
    on_a_node(async || {
        let server = api_server().await;
        Writer(Way::default().client(&server)).node("node1", 1).await;
        let run_dir = tempfile::tempdir().unwrap();
        let start = |dataplane, find_cgroup| {
            let run_dir = Some(run_dir.path().to_owned());
            let config = Config { dataplane, find_cgroup, run_dir, ..test_config() };
            Agent::start_with(Way::default().client(&server), config, None)
        };
        let noted = || dataplane::noted(Some(run_dir.path()));
        let mut agent = start(Dataplane::Auto, true);
        agent.until("ready", |status| status.is_ready() && status.dataplane == "ebpf").await;
        agent.stop().await;
        assert_eq!(noted(), Some(place.clone()));
        // One that does not know of it takes back what was left there.
        let mut agent = start(Dataplane::Auto, false);
        agent.until("ready", |status| status.is_ready() && status.dataplane.starts_with("nftables")).await;
        agent.stop().await;
        assert_eq!(noted(), None);
        // One that is to do without takes it back.
        let mut agent = start(Dataplane::Nftables, true);
        agent.until("ready", |status| status.is_ready() && status.dataplane.starts_with("nftables")).await;
        agent.stop().await;
        server.shutdown().await;
    });
    drop(group);
    assert!(!place.exists());
}
