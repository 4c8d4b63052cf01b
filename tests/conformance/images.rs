//! Containers from images: loaded and pulled, with what the image and the pod say of users, roots, volumes and limits.

#[path = "../support/cluster.rs"]
mod cluster;
#[path = "../support/image.rs"]
mod image;

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use cluster::{Cluster, text};
use image::{Image, Layer};
use serde_json::{Value, json};

fn is_root() -> bool {
    text(&Command::new("id").arg("-u").output().expect("id runs").stdout).trim() == "0"
}

/// A pod with one container that runs to its end, of a shell script.
fn pod(name: &str, image: &str, script: &str, container: Value, spec: Value) -> String {
    let mut one = json!({"name": "c", "image": image, "command": ["sh", "-c", script], "imagePullPolicy": "IfNotPresent"});
    merge(&mut one, container);
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [one]}});
    merge(&mut pod["spec"], spec);
    format!("{pod}\n")
}

fn merge(into: &mut Value, from: Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

fn state(cluster: &Cluster, name: &str) -> Value {
    cluster.get(&["pod", name])["status"]["containerStatuses"][0].clone()
}

/// How a pod's container ended.
fn ended(cluster: &Cluster, name: &str) -> Value {
    let mut found = Value::Null;
    cluster.eventually(&format!("{name} ends"), || {
        let status = state(cluster, name);
        found = status["state"]["terminated"].clone();
        if found.is_null() { Err(status.to_string()) } else { Ok(()) }
    });
    found
}

fn load(cluster: &Cluster, image: &Image, tags: &[&str]) -> Value {
    let file = cluster.home.path().join("image.tar");
    image.save(&file, tags);
    let file = file.to_str().expect("a path in UTF-8");
    let output = cluster.dyad(&["image", "load", file, "--name", &cluster.name, "-o", "json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn containers_run_from_images() {
    if !image::can_be_made() {
        return;
    }
    let cluster = Cluster::up("images", 78, &["--nodes", "1"]);
    if !cluster.has_kubectl() {
        return;
    }
    let base = Image::new(
        vec![Layer::busybox().file("gone", b"", 0o644, 0)],
        json!({"Env": ["PATH=/bin"], "Cmd": ["sh"]}),
    );
    load(&cluster, &base, &["shell:1", "other:1"]);
    let app = Image::new(
        vec![
            Layer::busybox().file("gone", b"", 0o644, 0),
            Layer::new().without("gone").file("srv/word", b"from above\n", 0o644, 0),
        ],
        json!({"Env": ["PATH=/bin", "WORD=image"], "Entrypoint": ["sh", "-c"], "Cmd": ["trap 'echo asked; exit 7' INT; echo up; sleep 1000 & wait"],
            "User": "app", "WorkingDir": "/work", "StopSignal": "SIGINT"}),
    );
    let loaded = load(&cluster, &app, &["app:1"]);
    if is_root() {
        security(&cluster);
    }
    image_config(&cluster, &loaded);
    volumes(&cluster);
    limits(&cluster);
    forbidden(&cluster);
    missing(&cluster);
    pulled(&cluster);
    removed(&cluster);
}

/// What an image says is done, and what the pod says instead.
fn image_config(cluster: &Cluster, loaded: &Value) {
    let user = if is_root() { json!({}) } else { json!({"securityContext": {"runAsUser": 0}}) };
    let mut own = json!({"name": "c", "image": "app:1"});
    merge(&mut own, user.clone());
    let spec = json!({"containers": [own], "restartPolicy": "Never"});
    let app = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app"}, "spec": spec});
    let script = "echo $WORD $HOSTNAME; pwd; cat /srv/word; test -e /gone || echo gone; echo 1 > /tmp/x && cat /tmp/x; \
                  cat /etc/hosts | grep -c kept; readlink /proc/1/exe; hostname";
    cluster.apply(&format!("{app}\n{}", pod("config", "app:1", script, user, json!({"hostname": "kept"}))));
    assert_eq!(ended(cluster, "config")["exitCode"], 0, "{}", cluster.kubectl(&["logs", "config"]));
    let want = "image kept\n/work\nfrom above\ngone\n1\n2\n/bin/sh\nkept\n";
    assert_eq!(cluster.kubectl(&["logs", "config"]), want);
    assert_eq!(state(cluster, "config")["imageID"], loaded[0]["id"]);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/app", "--timeout=30s"]);
    assert_eq!(
        cluster.kubectl(&[
            "exec",
            "app",
            "--",
            "sh",
            "-c",
            "echo $WORD; pwd; tr '\\0' ' ' < /proc/1/cmdline | head -c 5"
        ]),
        "image\n/work\nsh -c"
    );
    let mut follow =
        cluster.kubectl_command(&["logs", "-f", "app"]).stdout(Stdio::piped()).spawn().expect("kubectl runs");
    // Once it has begun: before, it may find the pod gone.
    let mut reader = BufReader::new(follow.stdout.take().expect("its output"));
    let mut said = String::new();
    reader.read_line(&mut said).expect("a line");
    cluster.kubectl(&["delete", "pod", "app", "--wait=true"]);
    reader.read_to_string(&mut said).expect("the rest");
    assert!(follow.wait().expect("kubectl ends").success());
    assert_eq!(said, "up\nasked\n", "the image's own signal ends it");
}

fn security(cluster: &Cluster) {
    let id = |name: &str, container: Value, pod_context: Value| {
        pod(
            name,
            "app:1",
            "id -u; id -g; id -G; echo $HOME; grep -E 'CapBnd|NoNewPrivs' /proc/self/status",
            json!({"securityContext": container}),
            json!({"securityContext": pod_context}),
        )
    };
    // One stream: two have no order among them.
    let script = "exec 2>&1; echo x > /x; echo x > /tmp/x && echo tmp; echo x > /v/x && echo v";
    let read_only = pod(
        "read-only",
        "shell:1",
        script,
        json!({"securityContext": {"readOnlyRootFilesystem": true}, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
    );
    cluster.apply(
        &[
            id("image-user", json!({}), json!({"supplementalGroups": [7]})),
            id("own-user", json!({"runAsUser": 5, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}), json!({"runAsGroup": 6})),
            id("must-not", json!({"runAsNonRoot": true}), json!({})),
            read_only,
        ]
        .concat(),
    );
    let said = |name: &str| {
        ended(cluster, name);
        cluster.kubectl(&["logs", name])
    };
    assert_eq!(
        said("image-user"),
        "1000\n1000\n1000 7 10\n/home/app\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t0\n"
    );
    assert_eq!(said("own-user"), "5\n6\n6\n/\nCapBnd:\t0000000000001000\nNoNewPrivs:\t1\n");
    let read_only = said("read-only");
    assert!(
        read_only.contains("Read-only file system")
            && !read_only.contains("tmp\n")
            && read_only.ends_with("v\n"),
        "{read_only}"
    );
    cluster.eventually("a user without number is not trusted", || {
        let waiting = state(cluster, "must-not")["state"]["waiting"].clone();
        let text = waiting["message"].as_str().unwrap_or_default();
        if waiting["reason"] == "CreateContainerConfigError"
            && text.contains("image has non-numeric user (app)")
        {
            Ok(())
        } else {
            Err(waiting.to_string())
        }
    });
}

fn volumes(cluster: &Cluster) {
    let mounts = json!({"volumeMounts": [
        {"name": "shared", "mountPath": "/run/data"}, {"name": "words", "mountPath": "/words"},
        {"name": "shared", "mountPath": "/sub", "subPath": "a/b"},
    ]});
    let volumes = json!([{"name": "shared", "emptyDir": {}}, {"name": "words", "projected": {"sources": [
        {"configMap": {"name": "words"}}, {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]}}]);
    let mut first = json!({"name": "first", "image": "shell:1", "command": ["sh", "-c", "echo one > /run/data/x; mkdir -p /run/data/a/b; echo sub > /run/data/a/b/y"]});
    let mut beside = json!({"name": "beside", "image": "shell:1", "restartPolicy": "Always", "command": ["sh", "-c", "echo two >> /run/data/x; sleep 1000; true"]});
    merge(&mut first, mounts.clone());
    merge(&mut beside, mounts.clone());
    cluster.kubectl(&["create", "configmap", "words", "--from-literal=word=old"]);
    let script = "while test $(grep -c . /run/data/x) -lt 2; do sleep 0.1; done; cat /run/data/x /var/run/data/x /sub/y; \
                  touch /words/no 2>/dev/null || echo protected; sleep 1000";
    let user = if is_root() { json!({}) } else { json!({"runAsUser": 0}) };
    cluster.apply(&pod("volumes", "shell:1", script, mounts, json!({"volumes": volumes, "initContainers": [first, beside], "securityContext": user, "shareProcessNamespace": true})));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/volumes", "--timeout=30s"]);
    cluster.eventually("all volumes are seen", || {
        let said = cluster.kubectl(&["logs", "volumes", "-c", "c"]);
        if said == "one\ntwo\none\ntwo\nsub\nprotected\n" { Ok(()) } else { Err(said) }
    });
    let exec = |script: &str| cluster.kubectl(&["exec", "volumes", "-c", "c", "--", "sh", "-c", script]);
    assert_eq!(exec("cat /words/word"), "old");
    let seen = exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    assert!(seen.contains("echo two"), "processes are not shared: {seen}");
    exec("echo shared > /dev/shm/x");
    assert_eq!(cluster.kubectl(&["exec", "volumes", "-c", "beside", "--", "cat", "/dev/shm/x"]), "shared\n");
    cluster.kubectl(&["patch", "configmap", "words", "-p", r#"{"data": {"word": "new"}}"#]);
    cluster.kubectl(&["label", "pod", "volumes", "later=yes"]);
    cluster.eventually("volumes follow", || {
        let found = exec("cat /words/word /words/labels");
        if found == "newlater=\"yes\"" { Ok(()) } else { Err(found) }
    });
    cluster.kubectl(&["delete", "pod", "volumes", "--grace-period=1"]);
}

/// Pods that must not run, or not run on.
fn forbidden(cluster: &Cluster) {
    let user = if is_root() { json!({}) } else { json!({"runAsUser": 0}) };
    let full = json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}], "securityContext": user});
    let mounts = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    let full = pod("full", "shell:1", "dd if=/dev/zero of=/v/x bs=1024 count=4096; sleep 1000", mounts, full);
    let sysctl = json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}});
    cluster.apply(&[full, pod("sysctl", "shell:1", "true", json!({}), sysctl)].concat());
    for (name, reason, message) in [
        ("full", "Evicted", "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "),
        ("sysctl", "SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted"),
    ] {
        cluster.eventually(name, || {
            let status = cluster.get(&["pod", name])["status"].clone();
            let fits =
                status["phase"] == "Failed" && status["reason"] == reason && status["message"] == message;
            if fits { Ok(()) } else { Err(status.to_string()) }
        });
    }
}

/// Limits, where there are control groups for them; else the pod says that there are none.
fn limits(cluster: &Cluster) {
    let script = "awk 'BEGIN {a = \"xxxxxxxxxxxxxxxx\"; while (1) a = a a}'";
    let user = if is_root() { json!({}) } else { json!({"runAsUser": 0}) };
    cluster.apply(&pod(
        "greedy",
        "shell:1",
        script,
        json!({"resources": {"limits": {"memory": "24Mi"}}}),
        json!({"securityContext": user}),
    ));
    cluster.eventually("a greedy container is ended, or nobody can", || {
        let status = state(cluster, "greedy");
        let ended = &status["state"]["terminated"];
        if ended["reason"] == "OOMKilled" && ended["exitCode"] == 137 {
            return Ok(());
        }
        let events = cluster.kubectl(&["get", "events", "--field-selector=reason=LimitsNotEnforced"]);
        if events.contains("limits of container c are not enforced") {
            Ok(())
        } else {
            Err(status.to_string())
        }
    });
    cluster.kubectl(&["delete", "pod", "greedy", "--grace-period=1"]);
}

/// Debian's registry on loopback addresses of one family, with a user `me` and a password `secret`.
struct Registry {
    process: std::process::Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Registry {
    /// Nothing where it is not installed; says so loudly.
    fn start(ip: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let listener = std::net::TcpListener::bind(format!("{ip}:0")).expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let users = dir.path().join("users");
        // `secret`, by bcrypt.
        std::fs::write(&users, "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n")
            .expect("users");
        let config = json!({"version": "0.1", "log": {"level": "error"}, "http": {"addr": address, "secret": "x"},
            "storage": {"filesystem": {"rootdirectory": dir.path()}},
            "auth": {"htpasswd": {"realm": "test", "path": users}}});
        let file = dir.path().join("config.json");
        std::fs::write(&file, config.to_string()).expect("a configuration");
        let started = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(process) => Some(Self { process, address, dir }),
            Err(error) => {
                eprintln!("SKIPPED: no registry to pull from: install the package docker-registry ({error})");
                None
            }
        }
    }
}

impl Registry {
    fn curl(&self, args: &[&str]) -> String {
        let output = Command::new("curl")
            .args(["-sS", "--fail", "-g", "-u", "me:secret"])
            .args(args)
            .output()
            .expect("curl runs");
        assert!(output.status.success(), "curl {args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Waits until it answers.
    fn ready(&self) {
        let url = format!("http://{}/v2/", self.address);
        let retry =
            ["-sS", "-o", "/dev/null", "--retry", "50", "--retry-delay", "1", "--retry-connrefused", &url];
        assert!(Command::new("curl").args(retry).status().expect("curl runs").success());
    }

    fn push(&self, image: &Image, repository: &str, tag: &str) {
        let file = self.dir.path().join("part");
        let at = format!("@{}", file.display());
        let base = format!("http://{}/v2/{repository}", self.address);
        let (manifest, blobs) = image.parts();
        for (digest, bytes) in blobs {
            std::fs::write(&file, bytes).expect("a part");
            let head =
                self.curl(&["-X", "POST", "-D", "-", "-o", "/dev/null", &format!("{base}/blobs/uploads/")]);
            let location =
                head.lines().find_map(|line| line.strip_prefix("Location: ")).expect("a location").trim();
            let url = format!("{location}&digest={digest}");
            self.curl(&[
                "-X",
                "PUT",
                "-H",
                "Content-Type: application/octet-stream",
                "--data-binary",
                &at,
                &url,
            ]);
        }
        std::fs::write(&file, manifest).expect("a manifest");
        let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json";
        self.curl(&["-X", "PUT", "-H", kind, "--data-binary", &at, &format!("{base}/manifests/{tag}")]);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// From a registry that wants a password, at an address of either family.
fn pulled(cluster: &Cluster) {
    let user = if is_root() { json!({}) } else { json!({"runAsUser": 0}) };
    let image = Image::new(
        vec![Layer::busybox().file("srv/word", b"pulled\n", 0o644, 0)],
        json!({"Env": ["PATH=/bin"]}),
    );
    for (family, ip) in [("v4", "127.0.0.1"), ("v6", "[::1]")] {
        let Some(registry) = Registry::start(ip) else { return };
        registry.ready();
        registry.push(&image, "team/app", "v1");
        let (name, secret) = (format!("{}/team/app:v1", registry.address), format!("pull-{family}"));
        let server = format!("--docker-server={}", registry.address);
        cluster.kubectl(&[
            "create",
            "secret",
            "docker-registry",
            &secret,
            &server,
            "--docker-username=me",
            "--docker-password=secret",
        ]);
        let (without, with) = (format!("without-{family}"), format!("with-{family}"));
        let spec = json!({"securityContext": user, "imagePullSecrets": [{"name": secret}]});
        cluster.apply(&pod(&without, &name, "cat /srv/word", json!({}), json!({"securityContext": user})));
        cluster.eventually("a pod without the password is refused", || {
            let waiting = state(cluster, &without)["state"]["waiting"].clone();
            if waiting.to_string().contains("pull access denied") { Ok(()) } else { Err(waiting.to_string()) }
        });
        cluster.apply(&pod(&with, &name, "cat /srv/word", json!({"imagePullPolicy": "Always"}), spec));
        ended(cluster, &with);
        assert_eq!(cluster.kubectl(&["logs", &with]), "pulled\n");
        let id = state(cluster, &with)["imageID"].as_str().unwrap_or_default().to_owned();
        assert!(id.starts_with(&format!("{}/team/app@sha256:", registry.address)), "{id}");
        let events = cluster.kubectl(&["get", "events", "-o", "custom-columns=M:.message", "--no-headers"]);
        assert!(events.contains(&format!("Successfully pulled image \"{name}\" in ")), "{events}");
        // By hand: what is there is no reason not to be asked for a password.
        let pull = |config: &std::path::Path| {
            let mut command = cluster.dyad_command(&["image", "pull", &name, "--name", &cluster.name]);
            command.env("DOCKER_CONFIG", config).output().expect("dyad runs")
        };
        let dir = registry.dir.path();
        let refused = pull(dir.join("none").as_path());
        assert!(
            !refused.status.success() && text(&refused.stderr).contains("pull access denied"),
            "{}",
            text(&refused.stderr)
        );
        let docker = dir.join("client");
        std::fs::create_dir(&docker).expect("a directory");
        let auths = json!({"auths": {registry.address.clone(): {"username": "me", "password": "secret"}}});
        std::fs::write(docker.join("config.json"), auths.to_string()).expect("a configuration");
        let done = pull(&docker);
        assert!(
            done.status.success() && text(&done.stdout).contains("/team/app:v1"),
            "{}",
            text(&done.stderr)
        );
        cluster.kubectl(&["delete", "pods", &without, &with, "--grace-period=1"]);
    }
}

fn missing(cluster: &Cluster) {
    let never = pod("never", "none:1", "", json!({"imagePullPolicy": "Never"}), json!({}));
    let odd = pod("odd", "UPPER", "", json!({}), json!({}));
    let nowhere = pod("nowhere", "localhost:1/none", "", json!({}), json!({}));
    cluster.apply(&[never, odd, nowhere].concat());
    for (name, reason, message) in [
        ("never", "ErrImageNeverPull", "Container image \"none:1\" is not present with pull policy of Never"),
        (
            "odd",
            "InvalidImageName",
            "Failed to apply default image tag \"UPPER\": couldn't parse image name \"UPPER\": invalid reference format: repository name (library/UPPER) must be lowercase",
        ),
        (
            "nowhere",
            "ImagePullBackOff",
            "Back-off pulling image \"localhost:1/none\": ErrImagePull: failed to pull and unpack image \"localhost:1/none:latest\"",
        ),
    ] {
        cluster.eventually(name, || {
            let waiting = state(cluster, name)["state"]["waiting"].clone();
            let fits = waiting["reason"] == reason
                && waiting["message"].as_str().is_some_and(|text| text.starts_with(message));
            if fits { Ok(()) } else { Err(waiting.to_string()) }
        });
    }
    let events =
        cluster.kubectl(&["get", "events", "-o", "custom-columns=R:.reason,M:.message", "--no-headers"]);
    for event in [
        "Failed to pull image \"localhost:1/none\"",
        "Error: ErrImagePull",
        "Back-off pulling image",
        "Error: ImagePullBackOff",
    ] {
        assert!(events.contains(event), "{event}: {events}");
    }
    cluster.kubectl(&["delete", "pods", "never", "odd", "nowhere", "--grace-period=1"]);
}

/// Names go at once; what a container runs from stays until it ends.
fn removed(cluster: &Cluster) {
    let user = if is_root() { json!({}) } else { json!({"runAsUser": 0}) };
    cluster.apply(&pod("runs", "app:1", "sleep 1000", json!({}), json!({"securityContext": user})));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/runs", "--timeout=30s"]);
    let dyad = |args: &[&str]| cluster.dyad(&[args, &["--name", &cluster.name]].concat());
    let listed: Value = serde_json::from_slice(&dyad(&["image", "list", "-o", "json"]).stdout).expect("JSON");
    let images = listed.as_array().or(listed["images"].as_array()).expect("a list").iter();
    let named = |image: &Value, key: &str| image[key].as_str().unwrap_or_default().to_owned();
    let images: Vec<(String, String)> =
        images.map(|image| (named(image, "name"), named(image, "id"))).collect();
    let (_, id) = images.iter().find(|(name, _)| name.ends_with("/app:1")).expect("the image");
    let root = cluster.dir().join("images/roots").join(id.trim_start_matches("sha256:"));
    assert!(root.exists(), "a container runs from {}", root.display());
    // It may have been pulled under other names.
    for (name, _) in images.iter().filter(|(_, other)| other == id) {
        assert!(dyad(&["image", "rm", name]).status.success(), "{name}");
    }
    assert_eq!(cluster.kubectl(&["exec", "runs", "--", "cat", "/srv/word"]), "from above\n");
    let listed = text(&dyad(&["image", "list"]).stdout);
    assert!(listed.contains("docker.io/library/shell:1") && !listed.contains("library/app:"), "{listed}");
    let again = dyad(&["image", "rm", "app:1"]);
    assert!(
        !again.status.success() && text(&again.stderr).contains("there is no image"),
        "{}",
        text(&again.stderr)
    );
    // Pods of other checks run from it, too.
    cluster.kubectl(&["delete", "pods", "--all", "--grace-period=1"]);
    cluster.eventually("the unpacked image goes with its last container", || {
        assert!(dyad(&["image", "prune"]).status.success());
        if root.exists() { Err(format!("{} is still there", root.display())) } else { Ok(()) }
    });
}
