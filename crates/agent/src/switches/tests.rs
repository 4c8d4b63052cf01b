use std::collections::BTreeMap;
use std::os::fd::AsFd;

use dyad_links::{Handle, NewLink, netns};

use super::*;

/// Every switch of routing there is, which those of a network namespace of its own are enough for.
fn all() -> BTreeMap<String, String> {
    let dirs = ["net/ipv4/conf", "net/ipv6/conf"];
    let names = ["forwarding", "rp_filter", "send_redirects", "accept_redirects", "accept_ra", "proxy_ndp"];
    let of_links = dirs.iter().flat_map(|dir| names.map(|name| sysctl::of_each(dir, name).unwrap()));
    let keys = of_links.flatten().chain(["net/ipv4/ip_forward".to_owned()]);
    keys.filter_map(|key| Some((key.clone(), sysctl::read(&key).ok()?))).collect()
}

/// In a namespace with a link, unless there can't be one.
fn on_a_node(test: impl FnOnce(&Path) + Send) {
    let Ok(node) = netns::create() else {
        eprintln!("SKIPPED: no namespaces without root");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    netns::within(node.as_fd(), || {
        let mut kernel = Handle::open().unwrap();
        kernel.add_veth(&NewLink::named("up0"), &NewLink::named("up1")).unwrap();
        // Whatever the machine gives new namespaces.
        for (key, value) in [
            ("net/ipv4/ip_forward", "0"),
            ("net/ipv6/conf/all/forwarding", "0"),
            ("net/ipv4/conf/all/send_redirects", "1"),
            ("net/ipv4/conf/default/send_redirects", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            // What the kernel changes with forwarding need not have been the same everywhere.
            ("net/ipv4/conf/up1/forwarding", "1"),
            ("net/ipv6/conf/up1/forwarding", "1"),
            ("net/ipv4/conf/all/accept_redirects", "0"),
            ("net/ipv6/conf/up0/accept_ra", "1"),
        ] {
            sysctl::write(key, value).unwrap();
        }
        test(&dir.path().join("run"));
    })
    .unwrap();
}

/// What an agent does to a node.
fn agent(run_dir: &Path) {
    let switches = Switches::noted_in(Some(run_dir));
    switches.set("net/ipv6/conf/up0/accept_ra", "2").unwrap();
    switches.forward();
    switches.set("net/ipv6/conf/up0/proxy_ndp", "1").unwrap();
}

#[test]
fn agents_in_turn_are_undone_by_one_clean_up() {
    on_a_node(|run_dir| {
        let before = all();
        for _ in 0..3 {
            agent(run_dir);
        }
        let changed = all();
        for (key, value) in sysctl::FORWARDING {
            assert_eq!(changed[key], value, "{key}");
        }
        assert_eq!(changed["net/ipv4/conf/default/send_redirects"], "0");
        // Links that have gone have no switches.
        Handle::open().unwrap().add_veth(&NewLink::named("pod0"), &NewLink::named("pod1")).unwrap();
        Handle::open().unwrap().delete_link("pod0").unwrap();
        Switches::noted_in(Some(run_dir)).restore();
        assert_eq!(all(), before);
        assert!(!run_dir.exists(), "nothing of ours is left");
        Switches::noted_in(Some(run_dir)).restore();
        assert_eq!(all(), before, "a second time");
    });
}

#[test]
fn what_somebody_else_has_changed_since_is_theirs() {
    on_a_node(|run_dir| {
        let mut wanted = all();
        agent(run_dir);
        let theirs = [
            ("net/ipv4/conf/all/rp_filter", "1"),
            ("net/ipv4/conf/up0/forwarding", "0"),
            ("net/ipv6/conf/up0/accept_ra", "0"),
        ];
        for (key, value) in theirs {
            sysctl::write(key, value).unwrap();
            wanted.insert(key.to_owned(), value.to_owned());
        }
        Switches::noted_in(Some(run_dir)).restore();
        assert_eq!(all(), wanted);

        // Those who switch forwarding off and on again have said what they want, and what an agent then finds is that.
        agent(run_dir);
        sysctl::write("net/ipv4/conf/all/rp_filter", "0").unwrap();
        agent(run_dir);
        Switches::noted_in(Some(run_dir)).restore();
        wanted.insert("net/ipv4/conf/all/rp_filter".into(), "0".into());
        assert_eq!(all(), wanted);
    });
}

#[test]
fn damaged_notes_are_left_and_stop_nobody() {
    on_a_node(|run_dir| {
        fs::create_dir(run_dir).unwrap();
        let file = run_dir.join(FILE);
        let outside = r#"[{"key": "net/../kernel/hostname", "before": "x", "given": "y"}]"#;
        for text in ["", "{}", "[{]", r#"[{"key": "kernel/hostname", "before": "x", "given": "y"}]"#, outside]
        {
            fs::write(&file, text).unwrap();
            assert!(notes_in(&file).unwrap_err().contains("is damaged and is left"), "{text}");
            sysctl::write("net/ipv4/ip_forward", "0").unwrap();
            agent(run_dir);
            let switched = all();
            assert_eq!(switched["net/ipv4/ip_forward"], "1");
            Switches::noted_in(Some(run_dir)).restore();
            assert_eq!((all(), fs::read_to_string(&file).unwrap().as_str()), (switched, text));
        }
        assert_eq!(fs::read_dir(run_dir).unwrap().count(), 1, "no drafts");
    });
}
