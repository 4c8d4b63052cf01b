use dyad_images::manifest::Run;
use serde_json::{Value, json};

use super::*;
use crate::image::Image;

#[test]
fn capabilities_have_the_numbers_of_the_kernel() {
    for (name, number) in
        [("CHOWN", 0), ("NET_ADMIN", 12), ("net_raw", 13), ("CAP_SYS_ADMIN", 21), ("CHECKPOINT_RESTORE", 40)]
    {
        assert_eq!(bits(name), Ok(1 << number), "{name}");
    }
    assert!(bits("FLY").is_err());
}

fn ready(user: &str) -> Ready {
    let image = Image::parse("app").unwrap();
    let run = Run {
        user: Some(user.into()),
        env: Some(vec!["PATH=/app".into(), "A=image".into(), "B=image".into(), "ODD".into()]),
        working_dir: Some("srv".into()),
        ..Run::default()
    };
    Ready { image, id: "id".into(), run, root: None }
}

/// What comes of a container's fields and of the pod's, in JSON.
fn with<T>(pod: Value, container: Value, work: impl FnOnce(&Input<'_>) -> T) -> T {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": pod});
    pod["spec"]["containers"] = json!([]);
    let mut full = json!({"name": "c"});
    full.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let (container, none, texts) = (serde_json::from_value(full).unwrap(), BTreeMap::new(), BTreeMap::new());
    work(&Input {
        pod: &pod,
        spec: pod.spec.as_ref().unwrap(),
        container: &container,
        attempt: 0,
        pod_ips: &[],
        host_ips: &[],
        hostname: "p",
        volumes: &BTreeMap::new(),
        config_maps: &texts,
        secrets: &texts,
        services: &[],
        allocatable: &none,
        masked: &[],
        etc: Path::new("/etc"),
        logs: Path::new("/logs"),
        scratch: Path::new("/scratch"),
        target: None,
    })
}

#[test]
fn the_containers_security_context_comes_before_the_pods() {
    let pod = json!({"securityContext":
        {"runAsUser": 1000, "runAsGroup": 3000, "supplementalGroups": [4000], "fsGroup": 2000}});
    let container = json!({"securityContext": {
        "runAsUser": 5, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
    }});
    let found = with(pod, container, |input| Security::of(input, &ready("app"))).unwrap();
    assert_eq!(
        (found.user, found.group, found.groups, found.capabilities),
        (Some(5), Some(3000), vec![4000, 2000], 1 << 12)
    );
    assert_eq!(found.account, Account { user: "5".into(), group: Some(3000), merge_groups: true });
    assert!(found.no_new_privileges && !found.privileged && found.read_only);
    let own = with(json!({}), json!({}), |input| Security::of(input, &ready("app:staff"))).unwrap();
    assert_eq!((own.account.user.as_str(), own.user), ("app:staff", None));
}

#[test]
fn who_must_not_be_root_is_not() {
    let root = "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)";
    for (user, image, want) in [
        (None, "", Some(root)),
        (None, "0:5", Some(root)),
        (None, "1000", None),
        (
            None,
            "app",
            Some(
                "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root (pod: \"p_n(u)\", container: c)",
            ),
        ),
        (
            Some(0),
            "1000",
            Some("container's runAsUser breaks non-root policy (pod: \"p_n(u)\", container: c)"),
        ),
        (Some(7), "root", None),
    ] {
        let container = json!({"securityContext": {"runAsNonRoot": true, "runAsUser": user}});
        let found = with(json!({}), container, |input| Security::of(input, &ready(image)).map(drop));
        assert_eq!(found.err().as_deref(), want, "{user:?} {image}");
    }
}

#[test]
fn the_signal_that_ends_a_container_is_its_own_or_the_images() {
    for (own, image, want) in [
        (None, None, 0),
        (None, Some("SIGQUIT"), 3),
        (None, Some("37"), 37),
        (None, Some("SIGRTMIN+3"), 37),
        (None, Some("nonsense"), 0),
        (Some("SIGUSR1"), Some("SIGQUIT"), 10),
    ] {
        let mut ready = ready("");
        ready.run.stop_signal = image.map(str::to_owned);
        let container = json!({"lifecycle": {"stopSignal": own}});
        let found = with(json!({}), container, |input| stop_signal(input.container, &ready));
        assert_eq!(found, want, "{own:?} {image:?}");
    }
}

#[test]
fn the_pods_variables_come_over_the_images() {
    let env = with(json!({}), json!({"tty": true}), |input| {
        environment(&ready(""), input, vec![("A".into(), "pod".into())])
    });
    let get = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let found = ["A", "B", "ODD", "PATH", "HOSTNAME", "TERM"].map(get);
    assert_eq!(found, [Some("pod"), Some("image"), Some(""), Some("/app"), Some("p"), Some("xterm")]);
}

#[test]
fn a_sub_path_stays_in_its_volume() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("volume");
    fs::create_dir(&base).unwrap();
    std::os::unix::fs::symlink("/etc", base.join("out")).unwrap();
    assert_eq!(sub_path_of(&base, "a/b", false).unwrap(), fs::canonicalize(&base).unwrap().join("a/b"));
    for path in ["../x", "/etc", "out", "out/passwd", "a/../../x"] {
        assert!(sub_path_of(&base, path, false).is_err(), "{path}");
    }
    assert!(sub_path_of(&base, "missing", true).is_err(), "nothing is made in generated volumes");
}
