//! Sandboxes and containers for real: namespaces, mounts, packets, signals.
//!
//! This program is its own `dyad`: sandboxes run it again with `internal ...`. Each test is a process in mount, network
//! and pid namespaces of its own, once as it is started (root) and once inside a user namespace: whatever it starts
//! ends with it.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use dyad_kubelet::sandbox::{
    Account, ContainerSpec, ContainerState, Exit, ImageRoot, Mount, Propagation, Sandbox, SandboxError,
    SandboxSpec, Spawner, root,
};
use dyad_links::{Handle, pod, sysctl};
use dyad_net::{DualStack, IpFamily};

type Test = (&'static str, fn());

const TESTS: [Test; 8] = [
    ("a_pod_answers_the_node_in_both_families", a_pod_answers_the_node_in_both_families),
    (
        "a_container_sees_the_host_read_only_and_itself_alone",
        a_container_sees_the_host_read_only_and_itself_alone,
    ),
    ("an_image_is_a_root_of_its_own", an_image_is_a_root_of_its_own),
    ("volumes_appear_wherever_they_are_mounted", volumes_appear_wherever_they_are_mounted),
    ("endings_are_reported_as_they_were", endings_are_reported_as_they_were),
    ("commands_run_inside_and_end_in_time", commands_run_inside_and_end_in_time),
    ("a_sandbox_outlives_its_maker_and_dies_whole", a_sandbox_outlives_its_maker_and_dies_whole),
    ("what_sandboxes_are_forked_from_is_started_again", what_sandboxes_are_forked_from_is_started_again),
];

const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("internal") => dyad_kubelet::internal_main(&args[1..]).unwrap_or(ExitCode::from(2)),
        Some("inside") => {
            let (_, test) = TESTS.iter().find(|(name, _)| *name == args[1]).expect("a test of this name");
            test();
            ExitCode::SUCCESS
        }
        _ if args.iter().any(|arg| arg == "--list") => {
            if !args.iter().any(|arg| arg == "--ignored") {
                TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
            }
            ExitCode::SUCCESS
        }
        _ => run_all(&args),
    }
}

/// Runs the tests that the arguments name, all of them if they name none.
fn run_all(args: &[String]) -> ExitCode {
    let exact = args.iter().any(|arg| arg == "--exact");
    let filters: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| {
        let matches =
            |filter: &&String| if exact { name == **filter } else { name.contains(filter.as_str()) };
        filters.is_empty() || filters.iter().any(matches)
    };
    let (mut passed, mut failed) = (0, 0);
    for (name, _) in TESTS.iter().filter(|(name, _)| wanted(name)) {
        let user: &[&str] = &["--user", "--map-root-user"];
        let root = rustix::process::geteuid().is_root();
        for (place, flags) in [("as root", &[][..]), ("in a user namespace", user)] {
            if (flags.is_empty() && !root) || (!flags.is_empty() && !user_namespaces()) {
                println!("test {name} {place} ... SKIPPED: not possible here");
                continue;
            }
            let start = Instant::now();
            let output = Command::new("unshare")
                .args(flags)
                .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
                .arg(std::env::current_exe().unwrap())
                .args(["inside", name])
                .output()
                .unwrap();
            let ok = output.status.success();
            println!("test {name} {place} ... {} ({:?})", if ok { "ok" } else { "FAILED" }, start.elapsed());
            *(if ok { &mut passed } else { &mut failed }) += 1;
            if !ok || args.iter().any(|arg| arg == "--nocapture") {
                std::io::stdout().write_all(&output.stdout).unwrap();
                std::io::stdout().write_all(&output.stderr).unwrap();
            }
        }
    }
    println!("test result: {}. {passed} passed; {failed} failed", if failed == 0 { "ok" } else { "FAILED" });
    ExitCode::from(u8::from(failed > 0))
}

fn user_namespaces() -> bool {
    let status = Command::new("unshare").args(["--user", "--map-root-user", "true"]).status();
    status.is_ok_and(|status| status.success())
}

/// A sandbox in a directory of its own; both go when it does.
struct Pod {
    dir: tempfile::TempDir,
    sandbox: Sandbox,
}

impl Pod {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spec = SandboxSpec { hostname: "web-0".into(), ..SandboxSpec::default() };
        let program = std::env::current_exe().unwrap();
        let start = Instant::now();
        let sandbox = Spawner::new(program).create(dir.path(), &spec, None).unwrap();
        println!("sandbox in {:?}", start.elapsed());
        Self { dir, sandbox }
    }

    fn spec(&self, argv: &[&str]) -> ContainerSpec {
        let path =
            format!("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{}", root::PROGRAM_DIR);
        ContainerSpec {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: vec![("PATH".into(), path), ("GREETING".into(), "hello".into())],
            log: self.dir.path().join("0.log"),
            capabilities: 0xa804_25fb,
            ..ContainerSpec::default()
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("0.log")).unwrap_or_default()
    }

    /// Runs a shell script as the container `name` to its end.
    fn script(&self, name: &str, script: &str) -> Exit {
        self.sandbox.start(name, 0, &self.spec(&["/bin/sh", "-c", script])).unwrap();
        self.ended(name)
    }

    fn ended(&self, name: &str) -> Exit {
        let watch = self.sandbox.watch().unwrap();
        loop {
            for state in watch.read().unwrap().expect("the sandbox is there") {
                if let ContainerState { name: found, exit: Some(exit), .. } = state
                    && found == name
                {
                    return exit;
                }
            }
        }
    }

    fn states(&self) -> Vec<ContainerState> {
        self.sandbox.watch().unwrap().read().unwrap().unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.sandbox.kill().unwrap();
        assert!(self.sandbox.wait(PATIENCE), "every process of the pod ends");
    }
}

fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn get(ip: IpAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&(ip, 8080).into(), Duration::from_secs(2)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn a_pod_answers_the_node_in_both_families() {
    sysctl::forward().unwrap();
    let start = Instant::now();
    let pod = Pod::new();
    let (v4, v6): (IpAddr, IpAddr) = ("10.244.1.5".parse().unwrap(), "fd00:10:244:1::5".parse().unwrap());
    let netns = pod.sandbox.netns().unwrap();
    let mut handle = Handle::open().unwrap();
    handle.set_up("lo").unwrap();
    let lo = handle.index("lo").unwrap();
    let node = DualStack::dual(IpFamily::V4, "192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
    for (_, &ip) in node.iter() {
        let ip: IpAddr = ip;
        handle.replace_address(lo, ip.into()).unwrap();
    }
    let link = pod::PodLink {
        key: "default_web-0_uid",
        netns: netns.as_fd(),
        addresses: DualStack::dual(IpFamily::V4, v4, v6),
        node: Some(node.clone()),
        mtu: 1500,
    };
    let linking = Instant::now();
    pod::add(&mut handle, &link).unwrap();
    println!("link in {:?}", linking.elapsed());
    let starting = Instant::now();
    pod.sandbox.start("echo", 0, &pod.spec(&[root::PROGRAM, "internal", "echo"])).unwrap();
    println!("container in {:?}", starting.elapsed());
    for (ip, node) in [(v4, *node.primary()), (v6, *node.secondary().unwrap())] {
        let answer = until("the echo server answers", || get(ip, "/json"));
        let json: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(json["hostname"], "web-0");
        assert_eq!(json["ips"], serde_json::json!([v4, v6]));
        let peer: std::net::SocketAddr = json["peer"].as_str().unwrap().parse().unwrap();
        assert_eq!(peer.ip(), node);
    }
    println!("answers after {:?}", start.elapsed());
    let memory =
        std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.sandbox.pid())).unwrap_or_default();
    let lines = memory.lines().filter(|line| line.starts_with("Pss:") || line.starts_with("Private_Dirty"));
    println!("memory of the sandbox's process: {}", lines.collect::<Vec<_>>().join(", "));
}

fn a_container_sees_the_host_read_only_and_itself_alone() {
    let pod = Pod::new();
    let secret = tempfile::tempdir_in("/var").unwrap();
    std::fs::write(secret.path().join("key"), "secret").unwrap();
    let mut spec = pod.spec(&[
        "/bin/sh",
        "-ec",
        &format!(
            r#"
        test "$(hostname)" = web-0 || test "$(cat /proc/sys/kernel/hostname)" = web-0
        test "$GREETING" = hello
        test -x /usr/bin/env
        ! touch /usr/x 2>/dev/null
        ! touch /x 2>/dev/null
        ! mkdir /etc/x 2>/dev/null
        touch /tmp/x /var/tmp/x /run/x /dev/shm/x
        echo to the void > /dev/null
        test "$(ls /tmp)" = x
        test ! -e {masked}/key
        ! echo 1 2>/dev/null > /proc/sys/kernel/printk
        # Its own processes and no others: the first one, this shell, and what it runs.
        test "$(ls -d /proc/[0-9]* | wc -l)" -le 5
        test "$(ls /sys/class/net)" = lo
        ! mount -t tmpfs none /tmp 2>/dev/null
        test "$(ls /proc/self/fd | wc -l)" -le 4
        command -v dyad
        echo all well
        "#,
            masked = secret.path().display()
        ),
    ]);
    spec.masked = vec![secret.path().into(), "/does/not/exist".into()];
    pod.sandbox.start("app", 0, &spec).unwrap();
    let exit = pod.ended("app");
    assert_eq!((exit.code, exit.signal), (0, 0), "{}", pod.log());
    assert!(pod.log().ends_with(" stdout F all well\n"), "{}", pod.log());
}

/// An unpacked image with a static shell; nothing where there is none.
fn image(dir: &Path) -> Option<PathBuf> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let Some(busybox) = busybox else {
        println!("SKIPPED: no static busybox: install the package busybox-static");
        return None;
    };
    let image = dir.join("image:with, odd name");
    for below in ["bin", "etc", "data"] {
        std::fs::create_dir_all(image.join(below)).unwrap();
    }
    std::fs::copy(busybox, image.join("bin/busybox")).unwrap();
    std::fs::write(image.join("etc/passwd"), "admin:x:0:0::/data:/bin/sh\n").unwrap();
    std::os::unix::fs::symlink("/outside/of/it", image.join("link")).unwrap();
    std::os::unix::fs::symlink("../../../../../data", image.join("up")).unwrap();
    Some(image)
}

fn an_image_is_a_root_of_its_own() {
    let pod = Pod::new();
    let dir = pod.dir.path();
    let Some(path) = image(dir) else { return };
    let volume = dir.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "volume\n").unwrap();
    let mount = |target: &str, read_only: bool| Mount {
        source: volume.clone(),
        target: target.into(),
        read_only,
        propagation: Propagation::None,
    };
    let run = |name: &str, script: &str, read_only: bool| {
        let scratch = dir.join(format!("scratch-{name}"));
        std::fs::create_dir(&scratch).unwrap();
        let spec = ContainerSpec {
            image: Some(ImageRoot { path: path.clone(), scratch, read_only }),
            account: Some(Account { user: "admin".into(), group: None, merge_groups: true }),
            env: vec![("PATH".into(), "/bin".into())],
            mounts: vec![mount("/new/deep", false), mount("/link/v", true), mount("/up/v", true)],
            working_dir: Some("/srv/here".into()),
            log: dir.join(format!("{name}.log")),
            ..pod.spec(&["busybox", "sh", "-c", script])
        };
        pod.sandbox.start(name, 0, &spec).unwrap();
        let exit = pod.ended(name);
        let log = std::fs::read_to_string(spec.log).unwrap();
        let said = log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default());
        (exit.code, said.collect::<Vec<_>>().join("\n"))
    };
    let look = "b=/bin/busybox; echo $$ $HOME $($b pwd); $b cat /new/deep/file /outside/of/it/v/file /data/v/file; \
                echo x > /data/x && echo x > /new/deep/written; (echo x > /up/v/x) 2>/dev/null || echo refused; \
                $b ls / | $b tr '\\n' ' '; $b rm /bin/busybox; exit 3";
    let (code, said) = run("look", look, false);
    let want = "1 /data /srv/here\nvolume\nvolume\nvolume\nrefused\nbin data dev etc link new outside proc srv sys up ";
    assert_eq!((code, said.as_str()), (3, want));
    assert!(path.join("bin/busybox").exists() && !path.join("data/x").exists(), "the image is as it was");
    assert!(volume.join("written").exists() && !Path::new("/outside").exists());
    let (code, said) = run("again", "test -e /data/x || echo fresh; echo x > /x", true);
    assert!(code != 0 && said.starts_with("fresh") && said.contains("Read-only"), "{said}");
    // The program is number 1: nothing it leaves behind lives on, and commands are beside it.
    let (code, _) = run("left", "/bin/busybox sleep 1000 & exit 0", false);
    assert_eq!(code, 0);
}

fn volumes_appear_wherever_they_are_mounted() {
    let pod = Pod::new();
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("key"), "value").unwrap();
    let file = source.path().join("key");
    let mount = |source: &Path, target: &str, read_only| Mount {
        source: source.into(),
        target: target.into(),
        read_only,
        propagation: Propagation::None,
    };
    let mut spec = pod.spec(&[
        "/bin/sh",
        "-ec",
        r#"
        for dir in /data /etc/deep/config /usr/share/new /run/secrets/x /var/run/y /tmp/z; do
            test "$(cat $dir/key)" = value
            ! touch $dir/x 2>/dev/null
        done
        test "$(cat /etc/hosts)" = value
        test "$(cat /etc/not-there-before)" = value
        test -e /etc/passwd
        test -e /usr/share/doc || test -e /usr/share/man
        echo more > /writable/here
        test "$(cat /writable/nested/key)" = value
    "#,
    ]);
    spec.mounts = ["/data", "/etc/deep/config", "/usr/share/new", "/run/secrets/x", "/var/run/y", "/tmp/z"]
        .map(|target| mount(source.path(), target, true))
        .to_vec();
    let writable = tempfile::tempdir().unwrap();
    // Given inner first: the order must not matter.
    spec.mounts.push(mount(source.path(), "/writable/nested", true));
    spec.mounts.push(mount(writable.path(), "/writable", false));
    spec.mounts.push(mount(&file, "/etc/hosts", true));
    spec.mounts.push(mount(&file, "/etc/not-there-before", true));
    pod.sandbox.start("app", 0, &spec).unwrap();
    assert_eq!(pod.ended("app").code, 0, "{}", pod.log());
    assert_eq!(std::fs::read_to_string(writable.path().join("here")).unwrap(), "more\n");

    spec.mounts = vec![mount(Path::new("/does/not/exist"), "/data", true)];
    let error = pod.sandbox.start("broken", 0, &spec).unwrap_err().to_string();
    assert!(error.contains("/does/not/exist"), "{error}");
}

fn endings_are_reported_as_they_were() {
    let pod = Pod::new();
    assert_eq!(pod.script("three", "exit 3").code, 3);
    let killed = pod.script("killed", "kill -9 $$");
    assert_eq!((killed.code, killed.signal), (137, 9));
    // Not the first process of its namespace, so a signal without a handler ends it.
    pod.sandbox.start("stopped", 0, &pod.spec(&["sleep", "1000"])).unwrap();
    pod.sandbox.signal("stopped", 0, 15).unwrap();
    let stopped = pod.ended("stopped");
    assert_eq!((stopped.code, stopped.signal), (143, 15));
    pod.sandbox.signal("stopped", 0, 15).unwrap();
    // What a program leaves behind goes with it, even if it holds on to the output.
    let exit = pod.script("parent", "sleep 1000 & echo last words; exit 4");
    assert_eq!(exit.code, 4);
    assert!(pod.log().ends_with(" stdout F last words\n"), "{}", pod.log());
    // A container whose every process is killed says so too.
    pod.sandbox.start("all", 0, &pod.spec(&["sleep", "1000"])).unwrap();
    pod.sandbox.signal("all", 0, 9).unwrap();
    assert_eq!(pod.ended("all").signal, 9);

    let missing = pod.sandbox.start("missing", 0, &pod.spec(&["no-such-program"])).unwrap_err().to_string();
    assert_eq!(missing, "exec: \"no-such-program\": executable file not found in $PATH");
    let missing = pod.sandbox.start("missing", 0, &pod.spec(&["/no/such"])).unwrap_err().to_string();
    assert!(missing.contains("/no/such") && missing.contains("No such file"), "{missing}");
    let mut elsewhere = pod.spec(&["true"]);
    elsewhere.working_dir = Some(PathBuf::from("/no/such/dir"));
    let missing = pod.sandbox.start("missing", 0, &elsewhere).unwrap_err().to_string();
    assert!(missing.contains("workingDir /no/such/dir"), "{missing}");
    assert!(pod.states().iter().all(|state| state.exit.is_some() && state.name != "missing"));
    assert!(!pod.dir.path().join("start-all.json").exists(), "specifications may hold secrets");
}

fn commands_run_inside_and_end_in_time() {
    let pod = Pod::new();
    pod.sandbox.start("app", 0, &pod.spec(&["sleep", "1000"])).unwrap();
    let words = |text: &str| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()];
    let run = |text: &str| pod.sandbox.exec("app", &words(text), PATIENCE);
    let (exit, said) = run("echo $GREETING; echo $HOSTNAME >&2; touch /tmp/seen; exit 7").unwrap();
    assert_eq!((exit.code, said.lines().next()), (7, Some("hello")));
    let (exit, _) = run("test -e /tmp/seen && test -d /proc/1").unwrap();
    assert_eq!(exit.code, 0, "the same files and processes as the container's own");
    let slow = pod.sandbox.exec("app", &words("sleep 1234"), Duration::from_millis(50));
    assert!(matches!(slow, Err(SandboxError::TooLong(_))), "{slow:?}");
    until("the slow command is gone", || {
        let (exit, _) =
            run("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done | grep -q 's[l]eep 1234'")
                .unwrap();
        (exit.code == 1).then_some(())
    });
    assert!(run("exit 0").unwrap().0.code == 0);
    let missing = pod.sandbox.exec("app", &["no-such-program".to_owned()], PATIENCE).unwrap_err().to_string();
    assert!(missing.contains("not found in $PATH"), "{missing}");
    let missing = pod.sandbox.exec("other", &words("true"), PATIENCE).unwrap_err().to_string();
    assert_eq!(missing, "container other is not running");
}

fn a_sandbox_outlives_its_maker_and_dies_whole() {
    let pod = Pod::new();
    pod.sandbox.start("app", 3, &pod.spec(&["sleep", "1000"])).unwrap();
    // Found again by nothing but its directory, as after kill -9 of the kubelet.
    let found = Sandbox::adopt(pod.dir.path()).unwrap().unwrap();
    assert_eq!(found.pid(), pod.sandbox.pid());
    let [state] = found.watch().unwrap().read().unwrap().unwrap().try_into().unwrap();
    assert_eq!((&*state.name, state.attempt, state.exit), ("app", 3, None));
    let watch = found.watch().unwrap();
    watch.read().unwrap();
    found.kill().unwrap();
    assert_eq!(watch.read().unwrap(), None, "the end of a sandbox is noticed");
    assert!(found.wait(PATIENCE));
    assert!(matches!(found.start("app", 4, &pod.spec(&["true"])), Err(SandboxError::Gone)));
    assert!(Sandbox::adopt(pod.dir.path()).unwrap().is_none());
    assert!(Sandbox::adopt(Path::new("/does/not/exist")).unwrap().is_none());
}

/// The child of this process that is no sandbox (orphans come to the first process of a namespace, which this is).
fn spawner_process() -> rustix::process::Pid {
    let children =
        std::fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap();
    let is_spawner =
        |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() != "dyad-sandbox";
    let pid = children.split_whitespace().find(is_spawner).unwrap();
    rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap()
}

fn what_sandboxes_are_forked_from_is_started_again() {
    let spawner = Spawner::new(std::env::current_exe().unwrap());
    let spec = SandboxSpec { hostname: "web-0".into(), host_network: true, ..SandboxSpec::default() };
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let sandboxes: Vec<Sandbox> = dirs
        .iter()
        .map(|dir| {
            let sandbox = spawner.create(dir.path(), &spec, None).unwrap();
            rustix::process::kill_process(spawner_process(), rustix::process::Signal::KILL).unwrap();
            sandbox
        })
        .collect();
    for sandbox in sandboxes {
        assert!(!sandbox.wait(Duration::ZERO), "it goes on without what it was forked from");
        sandbox.kill().unwrap();
        assert!(sandbox.wait(PATIENCE));
    }
    let missing = spawner.create(Path::new("/does/not/exist"), &spec, None).unwrap_err().to_string();
    assert!(missing.contains("describing the sandbox"), "{missing}");
}
