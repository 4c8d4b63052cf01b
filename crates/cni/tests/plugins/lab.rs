//! A host, containers, and a runner of lists of plugins that behaves as libcni does.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dyad_links::{Handle, LinkChange, NewLink, Route, netns};
use serde_json::{Map, Value, json};

/// Whether namespaces can be made; who cannot is told.
pub(crate) fn is_root() -> bool {
    let able = netns::create().is_ok();
    if !able {
        eprintln!("SKIPPED: needs root, for network namespaces");
    }
    able
}

/// A namespace with a name, which goes with it.
pub(crate) struct Namespace {
    pub(crate) path: PathBuf,
    pub(crate) fd: OwnedFd,
}

impl Namespace {
    fn new(path: PathBuf) -> Self {
        let fd = netns::create_at(&path).unwrap();
        Self { path, fd }
    }

    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::within(self.fd.as_fd(), work).unwrap()
    }

    /// The addresses of a link; none if there is no such link.
    pub(crate) fn addresses(&self, link: &str) -> Vec<String> {
        self.within(|| {
            let mut handle = Handle::open().unwrap();
            let Some(link) = handle.link(link).unwrap() else { return Vec::new() };
            let all = handle.addresses().unwrap().into_iter();
            let mut found: Vec<_> =
                all.filter(|at| at.link == link.index && at.global).map(|at| at.net.to_string()).collect();
            found.sort();
            found
        })
    }

    /// Routes to `ranges` through `gateways`, each of its family.
    pub(crate) fn route_to(&self, ranges: &[&str], gateways: [&str; 2]) {
        self.within(|| {
            let mut handle = Handle::open().unwrap();
            let link = handle.index("uplink").unwrap();
            for range in ranges {
                let gateway = gateways.iter().find(|gateway| gateway.contains(':') == range.contains(':'));
                let gateway = gateway.unwrap().split_once('/').unwrap().0.parse().unwrap();
                handle.replace_route(&Route::via(range.parse().unwrap(), gateway, link)).unwrap();
            }
        });
    }

    /// Routes, as text: destination, gateway, and the kind of link. Not those that every link has in IPv6.
    pub(crate) fn routes(&self) -> Vec<String> {
        self.within(|| {
            let mut handle = Handle::open().unwrap();
            let links = handle.links().unwrap();
            let mut found = Vec::new();
            for route in handle.all_routes().unwrap() {
                let of_every_link = ["fe80::", "ff00::"].map(|ip| ip.parse::<IpAddr>().unwrap());
                if route.table != 254 || of_every_link.contains(&route.destination.addr()) {
                    continue;
                }
                let hop = &route.hops[0];
                let link = links.iter().find(|link| link.index == hop.link).unwrap();
                let kind = if link.name.starts_with("veth") { "veth" } else { &*link.name };
                found.push(format!("{} via {:?} dev {kind}", route.destination, hop.via));
            }
            found.sort();
            found
        })
    }

    /// Whether somebody answers at `to`.
    pub(crate) fn connects(&self, to: SocketAddr) -> bool {
        self.within(|| TcpStream::connect_timeout(&to, Duration::from_millis(500)).is_ok())
    }

    /// Waits until all addresses can be used.
    pub(crate) fn settle(&self) {
        self.wait_for(|here| {
            let addresses = here.within(|| Handle::open().unwrap().addresses().unwrap());
            !addresses.iter().any(|at| at.global && at.is_unusable())
        });
    }

    /// Waits until something holds.
    pub(crate) fn wait_for(&self, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE, "waited in vain");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The names of links.
    pub(crate) fn links(&self) -> Vec<String> {
        let mut names: Vec<_> = self
            .within(|| Handle::open().unwrap().links().unwrap().into_iter().map(|link| link.name).collect());
        names.sort();
        names
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = netns::delete(&self.path);
    }
}

/// Which plugins are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Ours,
    Reference,
}

/// Where Debian has the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";

/// Whether they are there; who has not got them is told.
pub(crate) fn has_reference() -> bool {
    let there = Path::new(REFERENCE).join("host-local").exists();
    if !there {
        eprintln!("SKIPPED: the reference plugins are not in {REFERENCE} (containernetworking-plugins)");
    }
    there
}

/// A host with an uplink to the rest of the world, both in namespaces.
pub(crate) struct Lab {
    pub(crate) host: Namespace,
    pub(crate) world: Namespace,
    family: Family,
    containers: Mutex<u32>,
    /// The last to go: namespaces are mounted in it.
    pub(crate) dir: tempfile::TempDir,
}

pub(crate) const HOST: [&str; 2] = ["192.0.2.1/24", "2001:db8::1/64"];
pub(crate) const WORLD: [&str; 2] = ["192.0.2.2/24", "2001:db8::2/64"];

impl Lab {
    pub(crate) fn new(family: Family) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (host, world) =
            (Namespace::new(dir.path().join("host")), Namespace::new(dir.path().join("world")));
        host.within(|| {
            let mut handle = Handle::open().unwrap();
            let far = NewLink { netns: Some(world.fd.as_fd()), ..NewLink::named("uplink") };
            handle.add_veth(&NewLink::named("uplink"), &far).unwrap();
        });
        for (namespace, addresses) in [(&host, HOST), (&world, WORLD)] {
            namespace.within(|| {
                let mut handle = Handle::open().unwrap();
                let index = handle.index("uplink").unwrap();
                handle.change_link(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
                for address in addresses {
                    handle.replace_address(index, address.parse().unwrap()).unwrap();
                }
            });
        }
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for name in dyad_cni::names() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dyad-cni"), bin.join(name)).unwrap();
        }
        Self { dir, host, world, family, containers: Mutex::new(0) }
    }

    pub(crate) fn container(&self) -> Namespace {
        let mut count = self.containers.lock().unwrap();
        *count += 1;
        Namespace::new(self.dir.path().join(format!("container{count}")))
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("networks")
    }

    fn bin(&self) -> PathBuf {
        match self.family {
            Family::Ours => self.dir.path().join("bin"),
            Family::Reference => REFERENCE.into(),
        }
    }

    /// Starts a plugin on the host.
    pub(crate) fn start(&self, kind: &str, variables: &[(&str, &str)], config: &Value) -> Child {
        self.start_on(&self.host, kind, variables, config)
    }

    fn start_on(&self, host: &Namespace, kind: &str, variables: &[(&str, &str)], config: &Value) -> Child {
        let program = self.bin().join(kind);
        let mut command = Command::new(&program);
        command.env_clear().env("CNI_PATH", self.bin()).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(variables.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = host.within(|| command.spawn()).unwrap();
        // One that has been killed, or that reads nothing, does not matter here.
        let _ = child.stdin.take().unwrap().write_all(config.to_string().as_bytes());
        child
    }

    /// Runs a plugin on the host; what it prints.
    pub(crate) fn run(&self, kind: &str, variables: &[(&str, &str)], config: &Value) -> Result<Value, Value> {
        outcome(&self.start(kind, variables, config).wait_with_output().unwrap())
    }
}

impl Lab {
    /// Runs a plugin on the host of another lab.
    pub(crate) fn run_on(
        &self,
        host: &Namespace,
        kind: &str,
        variables: &[(&str, &str)],
        config: &Value,
    ) -> Result<Value, Value> {
        outcome(&self.start_on(host, kind, variables, config).wait_with_output().unwrap())
    }

    /// The nftables tables of the host whose names begin with `prefix`.
    pub(crate) fn tables(&self, prefix: &str) -> Vec<String> {
        self.host.within(|| {
            let output = Command::new("nft").args(["list", "tables"]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let names = text.lines().map(|line| line.split_whitespace().last().unwrap().to_owned());
            names.filter(|name| name.starts_with(prefix)).collect()
        })
    }
}

fn outcome(output: &Output) -> Result<Value, Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    let value = if text.trim().is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    if output.status.success() { Ok(value) } else { Err(value) }
}

/// A list of plugins, run as libcni does.
pub(crate) struct Network<'a> {
    pub(crate) lab: &'a Lab,
    list: Value,
    /// The results of ADD, for DEL and CHECK.
    cache: Mutex<BTreeMap<(String, String), Value>>,
    /// Capabilities, by name.
    pub(crate) runtime: Map<String, Value>,
    pub(crate) args: String,
}

impl<'a> Network<'a> {
    /// `list` is a conflist.
    pub(crate) fn new(lab: &'a Lab, list: Value) -> Self {
        Self { lab, list, cache: Mutex::default(), runtime: Map::new(), args: String::new() }
    }

    fn plugins(&self) -> Vec<Value> {
        self.list["plugins"].as_array().unwrap().clone()
    }

    fn version(&self) -> &str {
        self.list["cniVersion"].as_str().unwrap()
    }

    fn config(&self, plugin: &Value, previous: Option<&Value>) -> Value {
        let mut config = plugin.as_object().unwrap().clone();
        config.insert("name".into(), self.list["name"].clone());
        config.insert("cniVersion".into(), self.list["cniVersion"].clone());
        if let Some(previous) = previous {
            config.insert("prevResult".into(), previous.clone());
        }
        let capabilities = config.remove("capabilities").unwrap_or_default();
        let able = |name: &&String| capabilities.get(*name) == Some(&Value::Bool(true));
        let runtime: Map<_, _> =
            self.runtime.keys().filter(able).map(|name| (name.clone(), self.runtime[name].clone())).collect();
        if !runtime.is_empty() {
            config.insert("runtimeConfig".into(), Value::Object(runtime));
        }
        Value::Object(config)
    }

    /// The configuration of the first plugin.
    pub(crate) fn config_of_first(&self, previous: Option<&Value>) -> Value {
        self.config(&self.plugins()[0], previous)
    }

    fn call(
        &self,
        command: &str,
        plugin: &Value,
        id: &str,
        netns: &Path,
        ifname: &str,
        previous: Option<&Value>,
    ) -> Result<Value, Value> {
        let netns = netns.to_string_lossy();
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", id),
            ("CNI_NETNS", &*netns),
            ("CNI_IFNAME", ifname),
            ("CNI_ARGS", &*self.args),
        ];
        self.lab.run(plugin["type"].as_str().unwrap(), &variables, &self.config(plugin, previous))
    }

    pub(crate) fn add_as(&self, id: &str, netns: &Path, ifname: &str) -> Result<Value, Value> {
        let mut previous: Option<Value> = None;
        for plugin in self.plugins() {
            previous = Some(self.call("ADD", &plugin, id, netns, ifname, previous.as_ref())?);
        }
        let result = previous.unwrap();
        self.cache.lock().unwrap().insert((id.into(), ifname.into()), result.clone());
        Ok(result)
    }

    pub(crate) fn add(&self, id: &str, container: &Namespace) -> Result<Value, Value> {
        self.add_as(id, &container.path, "eth0")
    }

    fn cached(&self, id: &str, ifname: &str) -> Option<Value> {
        self.cache.lock().unwrap().get(&(id.to_owned(), ifname.to_owned())).cloned()
    }

    pub(crate) fn del(&self, id: &str, netns: &Path) -> Result<(), Value> {
        let cached = self.cached(id, "eth0").filter(|_| self.version() >= "0.4.0");
        for plugin in self.plugins().iter().rev() {
            self.call("DEL", plugin, id, netns, "eth0", cached.as_ref())?;
        }
        self.cache.lock().unwrap().remove(&(id.to_owned(), "eth0".to_owned()));
        Ok(())
    }

    pub(crate) fn check(&self, id: &str, container: &Namespace) -> Result<(), Value> {
        let cached = self.cached(id, "eth0");
        for plugin in self.plugins() {
            self.call("CHECK", &plugin, id, &container.path, "eth0", cached.as_ref())?;
        }
        Ok(())
    }

    /// GC with these attachments left.
    pub(crate) fn gc(&self, valid: &[&str]) -> Result<(), Value> {
        let valid: Vec<_> = valid.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect();
        for plugin in self.plugins() {
            let mut config = self.config(&plugin, None);
            config["cni.dev/valid-attachments"] = json!(valid);
            self.lab.run(plugin["type"].as_str().unwrap(), &[("CNI_COMMAND", "GC")], &config)?;
        }
        Ok(())
    }

    /// The addresses that are noted on disk.
    pub(crate) fn noted(&self) -> Vec<IpAddr> {
        let dir = self.lab.data_dir().join(self.list["name"].as_str().unwrap());
        let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
        let mut found: Vec<_> =
            entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect();
        found.sort();
        found
    }
}

/// The addresses of a result, in their order.
pub(crate) fn ips(result: &Value) -> Vec<&str> {
    result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap()).collect()
}

const PATIENCE: Duration = Duration::from_secs(30);

/// A socket at a place that is free, or will be at once: a process that another test is about to start has this one's
/// sockets until it begins with its program.
pub(crate) fn bound<S>(bind: impl Fn() -> std::io::Result<S>) -> S {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            socket => return socket.unwrap(),
        }
    }
}

/// A TCP exchange from `client` to `to`, which `server` is to answer at `at`; the address that the server saw.
pub(crate) fn talk_at(client: &Namespace, server: &Namespace, at: SocketAddr, to: SocketAddr) -> IpAddr {
    let listener = server.within(|| bound(|| TcpListener::bind(at)));
    let mut sent = client
        .within(|| TcpStream::connect_timeout(&to, PATIENCE))
        .unwrap_or_else(|error| panic!("connecting to {to}: {error}"));
    let (mut received, peer) = listener.accept().unwrap();
    received.set_read_timeout(Some(PATIENCE)).unwrap();
    sent.write_all(b"x").unwrap();
    received.read_exact(&mut [0]).unwrap();
    peer.ip().to_canonical()
}

/// The same to an address of the server itself.
pub(crate) fn talk(client: &Namespace, server: &Namespace, ip: IpAddr) -> IpAddr {
    talk_at(client, server, (ip, 8080).into(), (ip, 8080).into())
}

/// A UDP exchange from `client` to `to`, which `server` answers at `port`; the address that the server saw.
pub(crate) fn talk_udp(client: &Namespace, server: &Namespace, port: u16, to: SocketAddr) -> IpAddr {
    let unspecified: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
    let listener = server.within(|| bound(|| UdpSocket::bind((unspecified, port))));
    let sender = client.within(|| UdpSocket::bind((unspecified, 0)).unwrap());
    for socket in [&listener, &sender] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    sender.send_to(b"x", to).unwrap();
    let peer = listener.recv_from(&mut [0; 16]).unwrap().1;
    listener.send_to(b"y", peer).unwrap();
    assert_eq!(sender.recv_from(&mut [0; 16]).unwrap().1, to, "the answer comes from where it was asked");
    peer.ip().to_canonical()
}
