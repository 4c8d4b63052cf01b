//! `dyad controllers`: what runs once in a cluster whose network is Dyad's.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use dyad_agent::server::{Handler, StatusCode, in_both_families, serve, text};
use dyad_controllers::{Grants, Pool, Standing, run_grants};
use dyad_net::{IpFamily, IpNet};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

use crate::agent;

/// The flags.
#[derive(Debug, clap::Args)]
pub(crate) struct ControllersArgs {
    /// A kubeconfig file [default: the service account of the pod this runs in]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The address of the API server, over that of the kubeconfig
    #[arg(long, value_name = "URL")]
    master: Option<String>,
    /// Which run: nodeipam, which gives nodes the annotation dyad.io/pod-cidrs
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "nodeipam")]
    controllers: Vec<String>,
    /// The cluster's pod ranges, any number of each family, those of the primary one first: a pool for nodes of no other
    #[arg(long, value_name = "RANGES", value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// How long the prefixes are that nodes get out of the cluster's IPv4 ranges
    #[arg(long, value_name = "LENGTH", default_value_t = 24)]
    node_cidr_mask_size_ipv4: u8,
    /// How long the prefixes are that nodes get out of the cluster's IPv6 ranges
    #[arg(long, value_name = "LENGTH", default_value_t = 64)]
    node_cidr_mask_size_ipv6: u8,
    /// A pool for nodes with some labels, as in 10.9.0.0/16:26,fd00:9::/48:80@pool=gpu; the first that is for a node counts
    #[arg(long, value_name = "POOL")]
    pool: Vec<Pool>,
    /// Ranges that no node gets anything of, such as those of Services
    #[arg(long, visible_alias = "service-cluster-ip-range", value_name = "RANGES", value_delimiter = ',')]
    reserved_cidrs: Vec<IpNet>,
    /// The Lease by which the one that works is elected
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "kube-system/dyad-network-controllers")]
    lease: String,
    /// Where /healthz and /metrics are; empty for nowhere. If another process has the address, as on a node that two run on,
    /// it answers until it has gone
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:10357", value_parser = bind_address)]
    healthz_bind_address: BindAddress,
    /// How much to say: 4 and more for debugging (DYAD_LOG wins)
    #[arg(short, default_value_t = 0, value_name = "LEVEL")]
    v: u8,
}

impl ControllersArgs {
    /// Whether there is something to do with these.
    pub(crate) fn check(&self) -> Result<()> {
        self.grants().map(drop)
    }

    fn grants(&self) -> Result<Grants> {
        if let Some(other) = self.controllers.iter().find(|name| *name != "nodeipam") {
            bail!("--controllers: {other:?} is none that runs on other clusters: nodeipam is the only one");
        }
        let mut pools = self.pool.clone();
        if !self.cluster_cidr.is_empty() {
            let length = |range: &IpNet| match IpFamily::from(*range) {
                IpFamily::V4 => self.node_cidr_mask_size_ipv4,
                IpFamily::V6 => self.node_cidr_mask_size_ipv6,
            };
            let ranges = self.cluster_cidr.iter().map(|range| (range.trunc(), length(range))).collect();
            let pool = Pool { ranges, selector: Default::default() };
            pool.check().context("--cluster-cidr")?;
            pools.push(pool);
        }
        if pools.is_empty() {
            bail!(
                "there is nothing to give: say --cluster-cidr, as in 10.244.0.0/16,fd00:10:244::/56, or --pool"
            );
        }
        let Some((namespace, name)) = self.lease.split_once('/') else {
            bail!("--lease: {:?} is no NAMESPACE/NAME", self.lease);
        };
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let identity = format!("{}-{:016x}", host.trim(), rand_id());
        let reserved = self.reserved_cidrs.iter().map(IpNet::trunc).collect();
        let lease = (namespace.to_owned(), name.to_owned());
        Ok(Grants { pools, reserved, identity, lease, standing: watch::Sender::default() })
    }
}

/// Where to listen, or nowhere.
type BindAddress = Option<SocketAddr>;

fn bind_address(text: &str) -> Result<BindAddress, String> {
    let wrong = |_| "is no address with a port: write e.g. 0.0.0.0:10357 or [::1]:10357".to_owned();
    if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(wrong) }
}

/// Answers that it is alive, which is why nothing is asked of anybody else, and how it stands.
fn handler(standing: watch::Receiver<Standing>) -> Handler {
    Arc::new(move |path| match path {
        "/healthz" | "/livez" => text(StatusCode::OK, "ok"),
        "/metrics" => text(StatusCode::OK, standing.borrow().metrics()),
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    })
}

/// Tells this process from all others of its host.
fn rand_id() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // Its keys are random.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

pub(crate) fn run(args: ControllersArgs) -> Result<ExitCode> {
    // The client and watchers repeat each failure; who asked tells of it once.
    let level = match args.v {
        0..=3 => "info,kube_client::client::builder=off,kube_runtime::watcher=off",
        _ => "debug,kube_runtime::watcher=off",
    };
    let filter = EnvFilter::try_from_env("DYAD_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let grants = args.grants()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for at in args.healthz_bind_address.into_iter().flat_map(in_both_families) {
            tokio::spawn(serve(at, "health".into(), handler(grants.standing.subscribe())));
        }
        let client = agent::client(args.kubeconfig.as_deref(), args.master.as_deref()).await?;
        run_grants(client, grants, agent::terminated()).await;
        Ok(ExitCode::SUCCESS)
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::{Args, Command};

    #[test]
    fn pools_come_before_what_is_for_all() {
        let parse = |line: &str| match Args::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Controllers(args) => args.grants(),
            other => panic!("{other:?}"),
        };
        let grants = parse(
            "dyad controllers --cluster-cidr=fd00::/48,10.0.0.0/16,10.7.0.0/16 --node-cidr-mask-size-ipv6=80 \
             --pool=10.9.0.0/16:26@pool=gpu --lease=a/b --reserved-cidrs=10.0.3.7/24",
        )
        .unwrap();
        let lengths: Vec<Vec<u8>> =
            grants.pools.iter().map(|pool| pool.ranges.iter().map(|(_, length)| *length).collect()).collect();
        assert_eq!(lengths, [vec![26], vec![80, 24, 24]]);
        assert_eq!(grants.lease, ("a".to_owned(), "b".to_owned()));
        assert_eq!(grants.reserved[0].to_string(), "10.0.3.0/24");
        for (line, part) in [
            ("dyad controllers", "nothing to give"),
            ("dyad controllers --cluster-cidr=10.0.0.0/28", "--cluster-cidr"),
            ("dyad controllers --controllers=dns --cluster-cidr=10.0.0.0/16", "nodeipam is the only one"),
            ("dyad controllers --lease=a --cluster-cidr=10.0.0.0/16", "no NAMESPACE/NAME"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn it_says_whether_it_is_alive_and_how_it_stands() {
        use super::*;

        assert_eq!(bind_address("").unwrap(), None);
        assert_eq!(bind_address("[::1]:7").unwrap().unwrap().port(), 7);
        assert!(bind_address("10357").unwrap_err().contains("no address with a port"));
        let standing = watch::Sender::new(Standing { nodes: 2, ..Standing::default() });
        let handler = handler(standing.subscribe());
        assert_eq!(handler("/healthz").status(), 200);
        assert_eq!(handler("/configz").status(), 404);
        assert_eq!(handler("/metrics").status(), 200);
    }
}
