//! Servers to measure: ours, those of others with a configuration of their own, and a bare echo.

use std::fmt::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use dyad_links::netns;
use dyad_net::IpFamily;

use super::{SERVER_CPU, SERVICES, WORKER, cluster, on_cpu};
use crate::world;

const UPSTREAM: u16 = 5399;

/// Whom we are beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Knot,
    Unbound,
    Echo,
}

impl Peer {
    pub(super) const ALL: [Self; 3] = [Self::Knot, Self::Unbound, Self::Echo];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Knot => "knot",
            Self::Unbound => "unbound",
            Self::Echo => "echo",
        }
    }

    /// Whose program is called so.
    pub(super) const fn program(self) -> Option<&'static str> {
        match self {
            Self::Knot => Some("knotd"),
            Self::Unbound => Some("unbound"),
            Self::Echo => None,
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::Knot => 5301,
            Self::Unbound => 5302,
            Self::Echo => 5303,
        }
    }
}

/// A process that answers; it goes when this is dropped.
pub(super) struct Server {
    /// None if it is ours.
    pub(super) peer: Option<Peer>,
    pub(super) port: u16,
    child: Child,
}

impl Server {
    /// Our DNS over the cluster of a kubeconfig file.
    pub(super) fn ours(namespace: &OwnedFd, kubeconfig: &Path, port: u16) -> Result<Self> {
        let mut command = this(&["serve", &port.to_string(), &UPSTREAM.to_string()])?;
        command.arg(kubeconfig);
        Ok(Self { peer: None, port, child: start(namespace, command)? })
    }

    /// Who knows all names, for those that forward.
    pub(super) fn upstream(namespace: &OwnedFd) -> Result<Self> {
        let child = start(namespace, this(&["upstream", &UPSTREAM.to_string()])?)?;
        Ok(Self { peer: None, port: UPSTREAM, child })
    }

    pub(super) fn peer(namespace: &OwnedFd, peer: Peer, home: &Path) -> Result<Self> {
        let port = peer.port();
        let file = home.join(format!("{}.conf", peer.name()));
        let command = match peer {
            Peer::Knot => {
                std::fs::write(home.join("cluster.local.zone"), zone()?)?;
                std::fs::write(&file, knot(home, port))?;
                let mut command = Command::new("knotd");
                command.arg("--config").arg(&file);
                command
            }
            Peer::Unbound => {
                std::fs::write(&file, unbound(home, port)?)?;
                let mut command = Command::new("unbound");
                command.arg("-d").arg("-c").arg(&file);
                command
            }
            Peer::Echo => this(&["echo", &port.to_string()])?,
        };
        Ok(Self { peer: Some(peer), port, child: start(namespace, command)? })
    }

    pub(super) fn name(&self) -> &'static str {
        self.peer.map_or("ours", Peer::name)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have gone by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This program as a server.
fn this(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(WORKER).args(arguments);
    Ok(command)
}

/// Starts a process in a namespace, on the CPU of servers.
fn start(namespace: &OwnedFd, mut command: Command) -> Result<Child> {
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    // What they have to say of their start is for their administrators; whether they answer is seen.
    command.stderr(Stdio::null());
    let program = command.get_program().to_owned();
    let spawned = netns::within(namespace.as_fd(), || on_cpu(SERVER_CPU, || command.spawn()))?;
    spawned?.with_context(|| format!("can't run {}", program.display()))
}

/// Name and address of each Service of the cluster.
fn records() -> impl Iterator<Item = (String, IpAddr)> {
    (0..SERVICES).flat_map(|number| {
        IpFamily::BOTH.map(|family| (cluster::domain_name(number), world::cluster_ip(number, family)))
    })
}

const fn kind(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "A",
        IpAddr::V6(_) => "AAAA",
    }
}

fn zone() -> Result<String> {
    let mut text =
        "cluster.local. 5 SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5\n\
                    cluster.local. 5 NS ns.dns.cluster.local.\n\
                    ns.dns.cluster.local. 5 A 10.96.0.10\n"
            .to_owned();
    for (name, ip) in records() {
        writeln!(text, "{name} 5 {} {ip}", kind(ip))?;
    }
    Ok(text)
}

fn knot(home: &Path, port: u16) -> String {
    let home = home.display();
    format!(
        "server:\n    rundir: {home}\n    listen: [127.0.0.1@{port}, ::1@{port}]\n    udp-workers: 1\n    \
         tcp-workers: 1\n    background-workers: 1\n\
         log:\n  - target: stderr\n    any: error\n\
         database:\n    storage: {home}/knot\n\
         template:\n  - id: default\n    storage: {home}\n    file: \"%s.zone\"\n    journal-content: none\n\
         zone:\n  - domain: cluster.local\n"
    )
}

fn unbound(home: &Path, port: u16) -> Result<String> {
    let mut text = format!(
        "server:\n  interface: 127.0.0.1@{port}\n  interface: ::1@{port}\n  num-threads: 1\n  \
         username: \"\"\n  chroot: \"\"\n  directory: \"{}\"\n  pidfile: \"\"\n  use-syslog: no\n  verbosity: 0\n  \
         module-config: \"iterator\"\n  do-not-query-localhost: no\n  access-control: 127.0.0.0/8 allow\n  \
         access-control: ::1 allow\n  local-zone: \"cluster.local.\" static\n",
        home.display()
    );
    for (name, ip) in records() {
        writeln!(text, "  local-data: \"{name} 5 {} {ip}\"", kind(ip))?;
    }
    write!(
        text,
        "remote-control:\n  control-enable: no\nforward-zone:\n  name: \".\"\n  forward-addr: 127.0.0.1@{UPSTREAM}\n"
    )?;
    Ok(text)
}
