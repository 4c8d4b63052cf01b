//! `dyad agent`: the data plane on any cluster, in place of kube-proxy.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{ArgAction, ValueEnum};
use dyad_agent::settings::{Extras, Settings, duration, read_file};
use dyad_net::IpFamily;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tracing_subscriber::EnvFilter;

use crate::output::warning;

mod network;

/// The flags. Those that kube-proxy has, too, mean the same; a flag wins over `--config`.
#[derive(Debug, clap::Args)]
pub(crate) struct AgentArgs {
    /// A KubeProxyConfiguration file (kubeproxy.config.k8s.io/v1alpha1)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A kubeconfig file [default: the service account of the pod this runs in]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The address of the API server, over that of the kubeconfig
    #[arg(long, value_name = "URL")]
    master: Option<String>,
    /// The name of the Node this runs on [default: the host name]
    #[arg(long, visible_alias = "hostname-override", value_name = "NAME", env = "NODE_NAME")]
    node_name: Option<String>,
    /// What carries Services: auto, nftables or ebpf
    #[arg(long, value_name = "MODE", default_value = "auto")]
    dataplane: Dataplane,
    /// A directory of a cgroup2 mount with all pods, for eBPF, e.g. /sys/fs/cgroup/kubepods.slice [default: the kubelet's,
    /// which is looked for]
    #[arg(long, value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// The cluster's pod ranges, one of each family, with a comma between them
    #[arg(long, value_name = "RANGES")]
    cluster_cidr: Option<String>,
    /// How pods of this node are told: ClusterCIDR or NodeCIDR [default: ClusterCIDR]
    #[arg(long, value_name = "MODE")]
    detect_local_mode: Option<String>,
    /// Where node ports are: ranges, or primary [default: all addresses; primary with --proxy-mode nftables]
    #[arg(long, value_name = "RANGES", value_delimiter = ',')]
    nodeport_addresses: Option<Vec<String>>,
    /// Masquerade everything that goes to a Service
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    masquerade_all: Option<bool>,
    /// Enforce NetworkPolicy and ClusterNetworkPolicy
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    network_policy: bool,
    /// Let anybody outside the cluster open connections to pods with global addresses
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    open_pods: bool,
    /// Masquerade private pod addresses that leave the cluster, where the CNI does not [default: true with --cni]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    masquerade_pods: Option<bool>,
    /// Serve Services; false where kube-proxy does
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    proxy: bool,
    #[command(flatten)]
    network: network::NetworkArgs,
    /// Where /healthz and /livez are; empty for nowhere [default: 0.0.0.0:10256, and in IPv6]
    #[arg(long, value_name = "ADDRESS")]
    healthz_bind_address: Option<String>,
    /// Where /metrics is; empty for nowhere [default: 127.0.0.1:10249, and in IPv6]
    #[arg(long, value_name = "ADDRESS")]
    metrics_bind_address: Option<String>,
    /// iptables, ipvs, nftables, ebpf or auto: read for its defaults only
    #[arg(long, value_name = "MODE")]
    proxy_mode: Option<String>,
    /// Twice so long changes may wait before /healthz complains [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    sync_period: Option<Duration>,
    #[command(flatten)]
    conntrack: ConntrackArgs,
    /// The oom_score_adj of this process [default: -999]
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
    /// Where is noted what switches of the kernel were before they were changed, for --cleanup; another one for every
    /// network namespace
    #[arg(long, value_name = "DIR", default_value = "/run/dyad")]
    run_dir: PathBuf,
    /// Remove everything agents have left in this node's kernel, and exit
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    cleanup: bool,
    /// How much to say: 4 and more for debugging (DYAD_LOG wins)
    #[arg(short, default_value_t = 0, value_name = "LEVEL")]
    v: u8,
    #[command(flatten)]
    ignored: IgnoredArgs,
}

/// Limits of the kernel's connection tracking.
#[derive(Debug, clap::Args)]
struct ConntrackArgs {
    /// Connections to track per processor, 0 to leave the limit [default: 32768]
    #[arg(long, value_name = "COUNT")]
    conntrack_max_per_core: Option<u32>,
    /// Connections to track at least [default: 131072]
    #[arg(long, value_name = "COUNT")]
    conntrack_min: Option<u32>,
    /// Idle time of TCP connections, 0s to leave it [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    conntrack_tcp_timeout_established: Option<Duration>,
    /// Idle time of half-closed TCP connections, 0s to leave it [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    conntrack_tcp_timeout_close_wait: Option<Duration>,
    /// Let packets out of the TCP window pass
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    conntrack_tcp_be_liberal: Option<bool>,
    /// Idle time of UDP nobody has answered, 0s to leave it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    conntrack_udp_timeout: Option<Duration>,
    /// Idle time of UDP that goes both ways, 0s to leave it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    conntrack_udp_timeout_stream: Option<Duration>,
}

/// Flags of kube-proxy's that have no meaning here: a command line that has them works all the same.
#[derive(Debug, clap::Args)]
struct IgnoredArgs {
    #[arg(long, hide = true)]
    bind_address: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    bind_address_hard_fail: Option<String>,
    #[arg(long, hide = true)]
    config_sync_period: Option<String>,
    #[arg(long, hide = true)]
    feature_gates: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    iptables_localhost_nodeports: Option<String>,
    #[arg(long, hide = true)]
    iptables_masquerade_bit: Option<String>,
    #[arg(long, hide = true)]
    iptables_min_sync_period: Option<String>,
    #[arg(long, hide = true)]
    iptables_sync_period: Option<String>,
    #[arg(long, hide = true)]
    ipvs_exclude_cidrs: Option<String>,
    #[arg(long, hide = true)]
    ipvs_min_sync_period: Option<String>,
    #[arg(long, hide = true)]
    ipvs_scheduler: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    ipvs_strict_arp: Option<String>,
    #[arg(long, hide = true)]
    ipvs_sync_period: Option<String>,
    #[arg(long, hide = true)]
    ipvs_tcp_timeout: Option<String>,
    #[arg(long, hide = true)]
    ipvs_tcpfin_timeout: Option<String>,
    #[arg(long, hide = true)]
    ipvs_udp_timeout: Option<String>,
    #[arg(long, hide = true)]
    kube_api_burst: Option<String>,
    #[arg(long, hide = true)]
    kube_api_content_type: Option<String>,
    #[arg(long, hide = true)]
    kube_api_qps: Option<String>,
    #[arg(long, hide = true)]
    log_flush_frequency: Option<String>,
    #[arg(long, hide = true)]
    logging_format: Option<String>,
    #[arg(long, hide = true)]
    min_sync_period: Option<String>,
    #[arg(long, hide = true)]
    pod_bridge_interface: Option<String>,
    #[arg(long, hide = true)]
    pod_interface_name_prefix: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    profiling: Option<String>,
    #[arg(long, hide = true)]
    show_hidden_metrics_for_version: Option<String>,
    #[arg(long, hide = true)]
    vmodule: Option<String>,
}

/// What carries Services.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Dataplane {
    /// eBPF where this machine can, else nftables.
    Auto,
    /// nftables alone.
    Nftables,
    /// eBPF, or nothing.
    Ebpf,
}

impl From<Dataplane> for dyad_agent::Dataplane {
    fn from(of: Dataplane) -> Self {
        match of {
            Dataplane::Auto => Self::Auto,
            Dataplane::Nftables => Self::Nftables,
            Dataplane::Ebpf => Self::Ebpf,
        }
    }
}

impl AgentArgs {
    fn settings(&self) -> Settings {
        let conntrack = &self.conntrack;
        Settings {
            kubeconfig: self.kubeconfig.clone(),
            hostname_override: self.node_name.clone(),
            proxy_mode: self.proxy_mode.clone(),
            healthz_bind_address: self.healthz_bind_address.clone(),
            metrics_bind_address: self.metrics_bind_address.clone(),
            cluster_cidr: self.cluster_cidr.clone(),
            nodeport_addresses: self.nodeport_addresses.clone(),
            detect_local_mode: self.detect_local_mode.clone(),
            masquerade_all: self.masquerade_all,
            oom_score_adj: self.oom_score_adj,
            sync_period: self.sync_period,
            conntrack_max_per_core: conntrack.conntrack_max_per_core,
            conntrack_min: conntrack.conntrack_min,
            conntrack_tcp_established: conntrack.conntrack_tcp_timeout_established,
            conntrack_tcp_close_wait: conntrack.conntrack_tcp_timeout_close_wait,
            conntrack_tcp_be_liberal: conntrack.conntrack_tcp_be_liberal,
            conntrack_udp: conntrack.conntrack_udp_timeout,
            conntrack_udp_stream: conntrack.conntrack_udp_timeout_stream,
        }
    }

    fn extras(&self) -> Result<Extras> {
        let mut extras = Extras {
            dataplane: self.dataplane.into(),
            cgroup: self.cgroup_root.clone(),
            no_network_policy: !self.network_policy,
            open_pods: self.open_pods,
            masquerade_pods: self.masquerade_pods.unwrap_or(self.network.cni().is_some()),
            no_services: !self.proxy,
            run_dir: Some(self.run_dir.clone()),
            ..Extras::default()
        };
        self.network.fill(&mut extras)?;
        Ok(extras)
    }
}

impl AgentArgs {
    /// Whether an agent could go on with these, on a node with both families.
    pub(crate) fn check(&self) -> Result<()> {
        self.settings().config("node", &IpFamily::BOTH, &self.extras()?)?;
        Ok(())
    }
}

pub(crate) fn run(args: AgentArgs) -> Result<ExitCode> {
    let level = match args.v {
        // The client and watchers repeat each failure; who asked tells of it once.
        0..=3 => "info,kube_client::client::builder=off,kube_runtime::watcher=off",
        4..=5 => "debug,kube_runtime::watcher=off",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("DYAD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    if args.cleanup {
        let cgroup = args.cgroup_root.or_else(|| dyad_agent::pods_cgroup().ok());
        let (network, run_dir) = (&args.network, Some(&*args.run_dir));
        dyad_agent::cleanup(cgroup.as_deref(), network.cni().as_ref(), run_dir, &network.wireguard_key)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut settings = args.settings();
    if let Some(path) = &args.config {
        settings = settings.or(from_file(path)?);
    }
    let node = node_name(settings.hostname_override.as_deref())?;
    let (config, warnings) = settings.config(&node, &families(), &args.extras()?)?;
    warnings.iter().for_each(|text| warning(text));
    // Without the right to it, the default stays.
    let _ = std::fs::write("/proc/self/oom_score_adj", settings.oom_score_adj().to_string());
    // The kernel's side is one thread, and there are more while pods are connected; the other one waits for the API.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(16).build()?;
    runtime.block_on(async {
        let client = client(settings.kubeconfig.as_deref(), args.master.as_deref()).await?;
        dyad_agent::run(client, config, terminated()).await.context("the agent ended")
    })?;
    Ok(ExitCode::SUCCESS)
}

fn from_file(path: &Path) -> Result<Settings> {
    let named = || format!("--config {}", path.display());
    let text = std::fs::read_to_string(path).with_context(named)?;
    let (settings, warnings) = read_file(&text).with_context(named)?;
    warnings.iter().for_each(|text| warning(&format!("{}: {text}", named())));
    Ok(settings)
}

/// The name of the Node: what is said, or the host's, as the kubelet has it.
fn node_name(said: Option<&str>) -> Result<String> {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = said.map_or_else(host, str::to_owned).trim().to_lowercase();
    if name.is_empty() {
        bail!("this machine has no host name: give the name of the Node with --node-name");
    }
    Ok(name)
}

/// The families the kernel speaks.
fn families() -> Vec<IpFamily> {
    let speaks_v6 = Path::new("/proc/net/if_inet6").exists();
    IpFamily::BOTH.into_iter().filter(|family| *family == IpFamily::V4 || speaks_v6).collect()
}

pub(crate) async fn client(kubeconfig: Option<&Path>, master: Option<&str>) -> Result<kube::Client> {
    let mut config = match (kubeconfig, master) {
        (Some(path), _) => {
            let read =
                Kubeconfig::read_from(path).with_context(|| format!("can't read {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?
        }
        (None, Some(url)) => kube::Config::new(url.parse().context("--master")?),
        (None, None) => kube::Config::incluster()
            .context("not in a pod with a service account: give --kubeconfig or --master")?,
    };
    if let Some(url) = master {
        config.cluster_url = url.parse().context("--master")?;
    }
    Ok(kube::Client::try_from(config)?)
}

/// Resolves at SIGTERM or SIGINT.
pub(crate) async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use dyad_agent::{Ipam, Routing};

    use super::*;
    use crate::args::{Args, Command};

    fn parse(line: &str) -> AgentArgs {
        match Args::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Agent(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_line_of_kube_proxy_works() {
        let args = parse(
            "dyad agent --config=/var/lib/kube-proxy/config.conf --hostname-override=Node1 --proxy-mode=ipvs \
             --masquerade-all --iptables-masquerade-bit=14 --bind-address-hard-fail --oom-score-adj=-900 \
             --nodeport-addresses=192.0.2.0/24,fd00::/64 --conntrack-tcp-timeout-established=1h30m --ipvs-strict-arp=true -v=2",
        );
        let settings = args.settings();
        assert_eq!(settings.hostname_override.as_deref(), Some("Node1"));
        assert_eq!(settings.masquerade_all, Some(true));
        assert_eq!(settings.oom_score_adj, Some(-900));
        assert_eq!(settings.nodeport_addresses.unwrap().len(), 2);
        assert_eq!(settings.conntrack_tcp_established, Some(Duration::from_secs(5400)));
        assert!(args.network_policy && !args.cleanup);
        assert_eq!(args.extras().unwrap().routing, Routing::None);
        let args = parse("dyad agent --network-policy=false --cleanup --routes=true");
        assert!(!args.network_policy && args.cleanup);
        assert_eq!(args.extras().unwrap().routing, Routing::Direct);
        assert_eq!(node_name(Some("Node1\n")).unwrap(), "node1");
    }

    #[test]
    fn ways_between_nodes_are_chosen_or_refused_with_a_reason() {
        let extras = parse("dyad agent --routing=vxlan --tunnel-underlay=ipv6 --vxlan-port=4789 --mtu=1400")
            .extras()
            .unwrap();
        assert_eq!((extras.routing, extras.mtu), (Routing::Vxlan, Some(1400)));
        assert_eq!((extras.tunnels.underlay, extras.tunnels.port), (Some(IpFamily::V6), 4789));
        let extras = parse("dyad agent --routing=wireguard --wireguard-port=51820").extras().unwrap();
        assert_eq!((extras.routing, extras.tunnels.wireguard_port), (Routing::Wireguard, 51820));
        assert_eq!(extras.wireguard_key.unwrap().to_str(), Some(dyad_agent::WIREGUARD_KEY));
        let whole = parse("dyad agent --cni --ipam=dyad --proxy=false").extras().unwrap();
        assert_eq!((whole.routing, whole.ipam), (Routing::Auto, Ipam::Pool));
        assert!(whole.masquerade_pods && whole.no_services && whole.cni.is_some());
        let derived = "dyad agent --ipam=derived --derive-from=10.244.0.0/16:24 --derive-to";
        let Ipam::Derived(derivation) = parse(&format!("{derived}=fd00::/48:64")).extras().unwrap().ipam
        else {
            panic!("ranges are derived");
        };
        assert_eq!(derivation.to().to_string(), "fd00::/48:64");
        for (line, part) in [
            (format!("{derived}=10.9.0.0/16:24"), "--derive-from, --derive-to"),
            ("dyad agent --derive-to=fd00::/48:64".into(), "go with --ipam derived"),
        ] {
            let error = parse(&line).extras().unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
        for (line, part) in [
            ("--routing=bgp", "must be auto, direct, vxlan, wireguard or none"),
            ("--wireguard-port=0", "0 is not in 1..=65535"),
            ("--tunnel-underlay=IPv4", "must be auto, ipv4 or ipv6"),
            ("--ipam=derived", "--derive-from"),
            ("--ipam=clusterpool", "must be kubernetes, pool or derived"),
            ("--derive-to=fd00::/48", "is no range with a length"),
            ("--vxlan-id=16777216", "16777216 is not in"),
            ("--mtu=1000", "1000 is not in 1280"),
        ] {
            let error = Args::try_parse_from(["dyad", "agent", line]).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
