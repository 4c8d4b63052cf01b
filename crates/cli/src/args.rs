//! What can be typed. Each command shows an example in its help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use dyad_cluster::config::{Families, Selection};
use dyad_cluster::spec::Dataplane;
use dyad_net::IpNet;

use crate::agent::AgentArgs;
use crate::completion::{CompletionArgs, DistArgs};
use crate::controllers::ControllersArgs;
use crate::dns::DnsArgs;
use crate::image::ImageArgs;
use crate::install::{InstallArgs, SysdumpArgs, TargetArgs, UninstallArgs};

/// Kubernetes IPv4/IPv6 dual-stack networking: local clusters that carry real packets.
#[derive(Debug, Parser)]
#[command(name = "dyad", version, disable_help_subcommand = true)]
#[command(after_help = "Example:\n  dyad up && kubectl --context dyad-local get nodes -o wide")]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a cluster on this machine and start it
    #[command(
        after_help = "Examples:\n  dyad up\n  dyad up --name lab --nodes 5 --ip-family ipv6\n  dyad up --config kind.yaml --wait 2m\n  dyad up --install --routing vxlan --set cni.mtu=1400"
    )]
    Up(UpArgs),
    /// Remove a cluster and everything it has
    #[command(after_help = "Example:\n  dyad down --name lab")]
    Down(ClusterArgs),
    /// Stop a cluster's processes; its objects stay
    #[command(after_help = "Example:\n  dyad stop --name lab")]
    Stop(ClusterArgs),
    /// Start a stopped cluster
    #[command(after_help = "Example:\n  dyad start --name lab")]
    Start(StartArgs),
    /// Show local clusters, or what is installed on another one
    #[command(
        after_help = "Examples:\n  dyad status\n  dyad status --name lab -o json\n  dyad status --context prod --wait --wait-duration 2m\n\nExit status: 0 if all is well, 1 if not."
    )]
    Status(Box<StatusArgs>),
    /// Print the log of the control plane or of a node
    #[command(after_help = "Examples:\n  dyad logs\n  dyad logs node1\n  dyad logs supervisor --tail 20")]
    Logs(LogsArgs),
    /// Open a shell in the network of a node
    #[command(
        after_help = "Examples:\n  dyad shell\n  dyad shell --node node2 -- ip route\n  dyad shell --node outside"
    )]
    Shell(ShellArgs),
    /// Prove that a cluster carries packets
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Example:\n  dyad connectivity test"
    )]
    Connectivity(ConnectivityArgs),
    /// Say what becomes of a connection, and why
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Example:\n  dyad explain path pod/web-0 svc/db"
    )]
    Explain(ExplainArgs),
    /// Give a cluster's nodes images to run, and see which they have
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Example:\n  docker save app:dev | dyad image load -"
    )]
    Image(ImageArgs),
    /// Make Dyad the network of a cluster
    #[command(
        after_help = "Examples:\n  dyad install --dry-run -o yaml\n  dyad install --context prod --values values.yaml --wait\n  dyad install --set cni.enabled=false --replace-kube-proxy"
    )]
    Install(Box<InstallArgs>),
    /// Bring an installation to this version, with the values it has
    #[command(after_help = "Examples:\n  dyad upgrade --wait\n  dyad upgrade --set policy.enabled=false")]
    Upgrade(Box<InstallArgs>),
    /// Take Dyad off a cluster and all of its nodes
    #[command(after_help = "Example:\n  dyad uninstall --context prod")]
    Uninstall(UninstallArgs),
    /// Collect what somebody else needs to see of a cluster
    #[command(after_help = "Example:\n  dyad sysdump --output-filename dump.tar.gz")]
    Sysdump(SysdumpArgs),
    /// Print what makes a shell complete commands
    #[command(after_help = "Example:\n  dyad completion bash > /etc/bash_completion.d/dyad")]
    Completion(CompletionArgs),
    /// Write man pages, completions and the image, for packages
    #[command(
        hide = true,
        after_help = "Example:\n  dyad dist DIR --dyad FILE --cni FILE --architecture amd64"
    )]
    Dist(DistArgs),
    /// Carry Services and policy on a node of any cluster, in place of kube-proxy
    #[command(
        after_help = "Examples:\n  dyad agent --kubeconfig /etc/kubernetes/kube-proxy.conf --node-name node1 --cluster-cidr 10.244.0.0/16,fd00:10:244::/56\n  dyad agent --config /var/lib/kube-proxy/config.conf\n  dyad agent --cleanup"
    )]
    Agent(Box<AgentArgs>),
    /// Run what a cluster needs once: pod ranges of nodes
    #[command(
        after_help = "Example:\n  dyad controllers --kubeconfig admin.conf --cluster-cidr 10.244.0.0/16,fd00:10:244::/56"
    )]
    Controllers(Box<ControllersArgs>),
    /// Serve the names of a cluster, or ask for some
    #[command(
        after_help = "Examples:\n  dyad dns --conf Corefile --kubeconfig ~/.kube/config\n  dyad dns --config-map kube-system/coredns\n  dyad dns query kubernetes.default.svc.cluster.local --server 10.96.0.10"
    )]
    Dns(Box<DnsArgs>),
}

/// Which cluster.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// The cluster's name
    #[arg(long, default_value = "local", env = "DYAD_CLUSTER")]
    pub(crate) name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// The cluster's name [default: the file's, or "local"]
    #[arg(long, env = "DYAD_CLUSTER")]
    pub(crate) name: Option<String>,
    /// How many nodes; 0 is a control plane alone [default: 3]
    #[arg(long)]
    pub(crate) nodes: Option<usize>,
    /// ipv4, ipv6 or dual [default: dual]
    #[arg(long, value_name = "FAMILY")]
    pub(crate) ip_family: Option<Families>,
    /// A kind `Cluster` file (kind.x-k8s.io/v1alpha4)
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What carries Services: auto, nftables or ebpf
    #[arg(long, value_name = "MODE", default_value = "auto")]
    pub(crate) dataplane: Dataplane,
    /// Which controllers run beside the API server: * for all, a list of names, -NAME for all but one (`*,-kube-scheduler`), -*
    /// for none, to bring others in their place
    #[arg(long, value_name = "LIST", default_value = "*", allow_hyphen_values = true)]
    pub(crate) controllers: Selection,
    /// Start bare nodes, and install Dyad on them as `dyad install` does on any cluster
    #[arg(long)]
    pub(crate) install: bool,
    /// With --install: how pods of other nodes are reached: auto, direct, vxlan or wireguard
    #[arg(long, value_name = "MODE", requires = "install")]
    pub(crate) routing: Option<String>,
    /// With --install: a file of values
    #[arg(long, value_name = "FILE", requires = "install")]
    pub(crate) values: Vec<PathBuf>,
    /// With --install: a value, as cni.mtu=1400
    #[arg(long, value_name = "KEY=VALUE", requires = "install")]
    pub(crate) set: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WaitArgs {
    /// How long to wait for the nodes to be ready
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(crate) wait: Duration,
    /// table or json
    #[arg(long, short, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StartArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    #[command(flatten)]
    pub(crate) wait: WaitArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// The name of a local cluster [default: every local cluster]
    #[arg(long, conflicts_with_all = ["context", "kubeconfig", "wait"])]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Wait until everything that is installed runs
    #[arg(long)]
    pub(crate) wait: bool,
    /// For how long
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(crate) wait_duration: Duration,
    /// table or json
    #[arg(long, short, default_value = "table")]
    pub(crate) output: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// A node's name, control-plane, supervisor or outside
    #[arg(default_value = "control-plane")]
    pub(crate) process: String,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShellArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// The node, or `outside` for the rest of the world [default: the first node]
    #[arg(long)]
    pub(crate) node: Option<String>,
    /// What to run instead of a shell
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ConnectivityArgs {
    #[command(subcommand)]
    pub(crate) command: ConnectivityCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConnectivityCommand {
    /// Connect pods, Services, nodes, the API and the outside with each other, in both families
    #[command(
        after_help = "Examples:\n  dyad connectivity test\n  dyad connectivity test --ip-family ipv6 -o json\n  dyad connectivity test --junit-file results.xml"
    )]
    Test(TestArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// A kubeconfig context, to test another cluster than a local one
    #[arg(long)]
    pub(crate) context: Option<String>,
    /// ipv4, ipv6 or dual [default: the families of the cluster]
    #[arg(long, value_name = "FAMILY")]
    pub(crate) ip_family: Option<Families>,
    /// table or json
    #[arg(long, short, default_value = "table")]
    pub(crate) output: Format,
    /// Also write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    pub(crate) junit_file: Option<PathBuf>,
    /// How long a pod may take to start, its image included, or a probe to end
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    #[command(subcommand)]
    pub(crate) command: ExplainCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExplainCommand {
    /// Follow a new connection from node to node, in both families
    #[command(
        after_help = "Examples:\n  dyad explain path pod/web-0 svc/db\n  dyad explain path -n shop pod/web-0 db/svc/postgres:5432 --ip-family ipv6\n  dyad explain path outside node/node1:30080\n  dyad explain path node/node2 '[fd00:10:244::5]:8080' -o json\n\nExit status: 0 if the connection is delivered, 1 if it is not, 2 if the question makes no sense."
    )]
    Path(PathArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct PathArgs {
    /// Who connects: pod/NAME, node/NAME, outside or an IP address; another namespace as NAMESPACE/pod/NAME
    pub(crate) from: String,
    /// To whom: svc/NAME[:PORT], pod/NAME[:PORT], node/NAME[:PORT] or IP[:PORT]; without a port an echo request (ping)
    pub(crate) to: String,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// A kubeconfig context, for another cluster than a local one
    #[arg(long)]
    pub(crate) context: Option<String>,
    /// The namespace of names without one
    #[arg(long, short, default_value = "default")]
    pub(crate) namespace: String,
    /// ipv4, ipv6 or dual [default: the families of the cluster]
    #[arg(long, value_name = "FAMILY")]
    pub(crate) ip_family: Option<Families>,
    /// tcp, udp or sctp [default: that of the Service's port, or tcp]
    #[arg(long, ignore_case = true)]
    pub(crate) protocol: Option<ProtocolName>,
    /// The node that a connection from outside comes to [default: one that suits]
    #[arg(long, value_name = "NODE")]
    pub(crate) via: Option<String>,
    /// The ranges of all pods, if the API does not tell them
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) cluster_cidr: Vec<IpNet>,
    /// The ranges of cluster IPs, likewise
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub(crate) service_cluster_ip_range: Vec<IpNet>,
    /// table or json
    #[arg(long, short, default_value = "table")]
    pub(crate) output: Format,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProtocolName {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// A duration as Go writes it: `90s`, `2m`, `1m30s`, `500ms`; a bare number means seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration: use e.g. 60s, 2m or 500ms");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let mut total = 0f64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = &rest[digits..];
        let length = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        total += number
            * match &unit[..length] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
        rest = &unit[length..];
    }
    if text.is_empty() || total > 86_400.0 * 365.0 {
        Err(wrong())
    } else {
        Ok(Duration::from_secs_f64(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        use clap::CommandFactory;
        let mut open = vec![Args::command()];
        while let Some(command) = open.pop() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example") && help.contains("dyad "), "{}", command.get_name());
            open.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn durations_read_as_in_go() {
        for (text, millis) in
            [("60s", 60_000), ("1m30s", 90_000), ("500ms", 500), ("1.5s", 1500), ("7", 7000), ("0", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "5x", "-3s", "99999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
