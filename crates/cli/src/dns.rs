//! `dyad dns`: the cluster DNS, and a question to one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use dyad_dns::ask::{Manner, Told, ask};
use dyad_dns::serve::{Settings, Source};
use dyad_dns::wire::{Name, Rcode, Rtype};
use dyad_dns::zone::ObjectName;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::agent::terminated;
use crate::args::Format;

/// The server, unless a question is asked.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct DnsArgs {
    #[command(subcommand)]
    command: Option<DnsCommand>,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Subcommand)]
enum DnsCommand {
    /// Ask a name server
    #[command(
        after_help = "Examples:\n  dyad dns query kubernetes.default.svc.cluster.local --server 10.96.0.10\n  dyad dns query web.default.svc.cluster.local SRV --server [fd00:10:96::a]:53\n  dyad dns query 10.96.0.1 -o json\n\nExit status: 0 there is an answer, 1 there is none, 2 the question makes no sense."
    )]
    Query(QueryArgs),
}

#[derive(Debug, clap::Args)]
struct ServerArgs {
    /// A Corefile, read again when it changes
    #[arg(long, value_name = "FILE", default_value = "Corefile")]
    conf: PathBuf,
    /// A ConfigMap with a Corefile, read again when it changes
    #[arg(long, value_name = "NAMESPACE/NAME[/KEY]", conflicts_with = "conf")]
    config_map: Option<String>,
    /// A kubeconfig file [default: the service account of the pod this runs in]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig context
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,
    /// Where blocks without `bind` listen [default: everywhere]
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    listen: Vec<IpAddr>,
    /// The Service in front of this server
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "kube-system/kube-dns")]
    service: String,
    /// Threads for each address [default: one for each processor]
    #[arg(long, value_name = "COUNT")]
    workers: Option<usize>,
    /// Responses per second over UDP to one source prefix (/32, /56) [default: no limit]
    #[arg(long, value_name = "COUNT")]
    rate_limit: Option<u32>,
}

#[derive(Debug, clap::Args)]
struct QueryArgs {
    /// A name, or an address to have its names
    name: String,
    /// Types [default: A and AAAA; PTR for an address]
    types: Vec<String>,
    /// Whom to ask [default: the first name server of /etc/resolv.conf]
    #[arg(long, short, value_name = "ADDRESS[:PORT]")]
    server: Option<String>,
    /// Over TCP
    #[arg(long)]
    tcp: bool,
    /// Ask for DNSSEC's records, too
    #[arg(long)]
    dnssec: bool,
    /// table or json
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

pub(crate) fn run(args: DnsArgs) -> Result<ExitCode> {
    match args.command {
        Some(DnsCommand::Query(query)) => match query.run() {
            Ok(code) => Ok(code),
            Err(Problem::Question(why)) => {
                crate::output::error(&why);
                Ok(ExitCode::from(2))
            }
            Err(Problem::Server(why)) => Err(why),
        },
        None => serve(args.server),
    }
}

fn serve(args: ServerArgs) -> Result<ExitCode> {
    // Clients are told of answers that can't be validated, by an extended error.
    let filter = EnvFilter::try_from_env("DYAD_LOG").unwrap_or_else(|_| {
        EnvFilter::new("info,hickory_net=off,hickory_proto=off,kube_runtime::watcher=off")
    });
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let source = match &args.config_map {
        None => Source::File(args.conf.clone()),
        Some(text) => {
            let mut parts = text.split('/');
            let (Some(namespace), Some(name), key, None) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                bail!("--config-map {text:?} is not NAMESPACE/NAME, e.g. kube-system/coredns");
            };
            let key = key.unwrap_or("Corefile");
            Source::ConfigMap { namespace: namespace.into(), name: name.into(), key: key.into() }
        }
    };
    let Some((namespace, name)) = args.service.split_once('/') else {
        bail!("--service {:?} is not NAMESPACE/NAME, e.g. kube-system/kube-dns", args.service);
    };
    let service = Some(ObjectName::new(namespace, name));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let client = client(&args).await?;
        let settings = Settings {
            source,
            variables: BTreeMap::new(),
            client,
            listen: args.listen.clone(),
            service,
            workers: args
                .workers
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
            rate: args.rate_limit,
            listening: Box::new(|_| {}),
        };
        dyad_dns::serve::run(settings, terminated()).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The API, if there is one: a Corefile without `kubernetes` needs none.
async fn client(args: &ServerArgs) -> Result<Option<kube::Client>> {
    let config = match &args.kubeconfig {
        Some(path) => {
            let read =
                Kubeconfig::read_from(path).with_context(|| format!("can't read {}", path.display()))?;
            let choice = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
            kube::Config::from_custom_kubeconfig(read, &choice).await?
        }
        None => match kube::Config::incluster() {
            Ok(config) => config,
            Err(_) => return Ok(None),
        },
    };
    Ok(Some(kube::Client::try_from(config)?))
}

/// Whose fault it is.
enum Problem {
    Question(anyhow::Error),
    Server(anyhow::Error),
}

impl QueryArgs {
    fn run(&self) -> Result<ExitCode, Problem> {
        let (name, types) = self.question().map_err(Problem::Question)?;
        let server = self.server().map_err(Problem::Question)?;
        let manner = Manner { tcp: self.tcp, dnssec: self.dnssec, ..Manner::default() };
        let mut told = Vec::new();
        for rtype in types {
            let answer =
                ask(server, &name, rtype, manner).with_context(|| format!("{server} does not answer"));
            told.push((rtype, answer.map_err(Problem::Server)?));
        }
        match self.output {
            Format::Json => println!(
                "{:#}",
                json!({"server": server, "answers": told.iter().map(|(rtype, told)| as_json(*rtype, told)).collect::<Vec<_>>()})
            ),
            Format::Table => told.iter().for_each(|(rtype, told)| print(&name, *rtype, told)),
        }
        let found = told
            .iter()
            .any(|(_, told)| told.message.header.rcode == Rcode::NOERROR && !told.message.answers.is_empty());
        Ok(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn question(&self) -> Result<(Name, Vec<Rtype>)> {
        if let Ok(ip) = self.name.parse::<IpAddr>()
            && self.types.is_empty()
        {
            return Ok((dyad_dns::reverse::name(ip), vec![Rtype::PTR]));
        }
        let name = self.name.parse::<Name>().with_context(|| format!("{:?} is not a name", self.name))?;
        let mut types = Vec::new();
        for text in &self.types {
            let rtype = text.to_ascii_uppercase().parse::<Rtype>();
            types.push(rtype.map_err(|_| {
                anyhow::anyhow!("{text:?} is not a type: use A, AAAA, SRV, PTR, ... or TYPE65")
            })?);
        }
        if types.is_empty() {
            types = vec![Rtype::A, Rtype::AAAA];
        }
        Ok((name, types))
    }

    fn server(&self) -> Result<SocketAddr> {
        let Some(text) = &self.server else {
            let text = std::fs::read_to_string("/etc/resolv.conf")
                .context("can't read /etc/resolv.conf: give --server")?;
            let first =
                text.lines().find_map(|line| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
            return Ok(SocketAddr::new(
                first.context("/etc/resolv.conf names no server: give --server")?,
                53,
            ));
        };
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        match (text.parse(), bare.parse::<IpAddr>()) {
            (Ok(at), _) => Ok(at),
            (Err(_), Ok(ip)) => Ok(SocketAddr::new(ip, 53)),
            (Err(_), Err(_)) => {
                bail!("--server {text:?} is not an address, e.g. 10.96.0.10 or [fd00:10:96::a]:53")
            }
        }
    }
}

fn print(name: &Name, rtype: Rtype, told: &Told) {
    let (header, micros) = (&told.message.header, told.took.as_micros());
    let (rcode, transport) = (header.rcode.name().unwrap_or("?"), told.transport.name());
    println!("{name} {rtype}: {rcode}, {micros} us, {transport}");
    if told.message.answers.is_empty() && header.rcode == Rcode::NOERROR {
        println!("  no such records");
    }
    for record in &told.message.answers {
        println!("  {:<44} {:>6} {:<6} {}", record.name, record.ttl, record.rtype(), record.data);
    }
}

fn as_json(rtype: Rtype, told: &Told) -> serde_json::Value {
    let records = |records: &[dyad_dns::wire::Record]| {
        let one = |record: &dyad_dns::wire::Record| {
            json!({
                "name": record.name.to_string(), "type": record.rtype().to_string(), "ttl": record.ttl,
                "data": record.data.to_string(),
            })
        };
        records.iter().map(one).collect::<Vec<_>>()
    };
    let header = &told.message.header;
    json!({
        "type": rtype.to_string(),
        "rcode": header.rcode.name().unwrap_or("?"),
        "authoritative": header.authoritative,
        "micros": u64::try_from(told.took.as_micros()).unwrap_or(u64::MAX),
        "transport": told.transport.name(),
        "answer": records(&told.message.answers),
        "authority": records(&told.message.authority),
        "additional": records(&told.message.additional),
    })
}
