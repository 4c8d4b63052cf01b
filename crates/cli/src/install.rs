//! `dyad install`, `upgrade` and `uninstall`, on any cluster.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use dyad_install::apply::Step;
use dyad_install::life::{self, Plan};
use dyad_install::manifests::to_yaml;
use dyad_install::survey::Allowed;
use dyad_install::{Chosen, Facts, manifests};
use serde_json::{Value, json};

use crate::api::runtime;
use crate::args::{Args, Command, duration};
use crate::output::{causes, print, say, warning};

/// Which cluster, and where in it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TargetArgs {
    /// A kubeconfig context [default: the current one]
    #[arg(long)]
    pub(crate) context: Option<String>,
    /// A kubeconfig file [default: those of KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The namespace of the installation
    #[arg(long, short, default_value = "kube-system")]
    pub(crate) namespace: String,
}

impl TargetArgs {
    pub(crate) async fn client(&self) -> Result<kube::Client> {
        crate::api::client(self.kubeconfig.as_deref(), self.context.as_deref()).await
    }
}

/// What is chosen.
#[derive(Debug, clap::Args)]
struct ValuesArgs {
    /// A file of values, as deploy/helm/dyad/values.yaml has them; several are merged
    #[arg(long, short = 'f', value_name = "FILE")]
    values: Vec<PathBuf>,
    /// Values, as proxy.enabled=false,image.tag=1
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    values: ValuesArgs,
    /// Change nothing: print what would be applied, or (server) let the API check it
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "client")]
    dry_run: Option<DryRun>,
    /// Print the objects, as yaml or json
    #[arg(long, short, value_name = "FORMAT")]
    output: Option<ObjectFormat>,
    /// Wait until everything runs
    #[arg(long)]
    wait: bool,
    /// For how long
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    wait_duration: Duration,
    /// Make a kube-proxy that is there run nowhere, until `dyad uninstall`
    #[arg(long)]
    replace_kube_proxy: bool,
    /// Install although another CNI connects pods
    #[arg(long)]
    allow_other_cni: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UninstallArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// The values it had, where only nodes still have something of it
    #[command(flatten)]
    values: ValuesArgs,
    /// Remove the definition of ClusterNetworkPolicy, too, and with it all objects of that kind
    #[arg(long)]
    crds: bool,
    /// How long nodes may take to be cleaned
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    wait_duration: Duration,
}

/// Who checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DryRun {
    /// Nobody.
    Client,
    /// The API server.
    Server,
}

/// How objects are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ObjectFormat {
    /// YAML.
    Yaml,
    /// A List in JSON.
    Json,
}

impl ValuesArgs {
    fn chosen(&self) -> Result<Chosen> {
        let mut chosen = Chosen::default();
        for path in &self.values {
            let named = || format!("--values {}", path.display());
            let text = match path.as_os_str() == "-" {
                true => std::io::read_to_string(std::io::stdin()),
                false => std::fs::read_to_string(path),
            };
            chosen.file(&text.with_context(named)?).with_context(named)?;
        }
        self.set.iter().try_for_each(|text| chosen.set(text))?;
        // Before anybody is asked anything.
        chosen.values()?;
        Ok(chosen)
    }
}

impl InstallArgs {
    const fn allowed(&self) -> Allowed {
        Allowed { replace_kube_proxy: self.replace_kube_proxy, other_cni: self.allow_other_cni }
    }
}

/// `dyad install`, or `dyad upgrade`, which goes on from the values of before.
pub(crate) fn install(args: InstallArgs, is_upgrade: bool) -> Result<ExitCode> {
    let chosen = args.values.chosen()?;
    runtime()?.block_on(async {
        let version = env!("CARGO_PKG_VERSION");
        let is_offline = args.dry_run == Some(DryRun::Client) && !is_upgrade;
        let client = match args.target.client().await {
            Ok(client) => client,
            Err(error) if is_offline => {
                let why = causes(&error);
                warning(&format!("no cluster is looked at, and what follows is not made for one: {why}"));
                let facts = Facts {
                    namespace: args.target.namespace.clone(),
                    version: version.into(),
                    ..Facts::default()
                };
                let objects = manifests(&chosen.values()?, &facts)?;
                return show(&objects, args.output.unwrap_or(ObjectFormat::Yaml));
            }
            Err(error) => return Err(error),
        };
        let plan =
            life::plan(&client, &args.target.namespace, version, &chosen, is_upgrade, args.allowed()).await?;
        check_flags(&plan.objects)?;
        tell(&plan);
        if args.dry_run == Some(DryRun::Client) {
            return show(&plan.objects, args.output.unwrap_or(ObjectFormat::Yaml));
        }
        let is_dry = args.dry_run.is_some();
        let suffix = if is_dry { " (server dry run)" } else { "" };
        life::install(&client, &plan, is_dry, |step| told(step, suffix)).await?;
        if let Some(format) = args.output {
            show(&plan.objects, format)?;
        }
        if !is_dry && args.wait {
            return crate::installed::wait(&client, &args.target.namespace, args.wait_duration).await;
        }
        if !is_dry {
            say("Installed. `dyad status --wait` waits until everything runs.\n");
        }
        Ok(ExitCode::SUCCESS)
    })
}

pub(crate) fn uninstall(args: UninstallArgs) -> Result<ExitCode> {
    let chosen = args.values.chosen()?;
    runtime()?.block_on(async {
        let client = args.target.client().await?;
        let (namespace, patience) = (&args.target.namespace, args.wait_duration);
        let removal =
            life::uninstall(&client, namespace, &chosen, args.crds, patience, |step| told(step, "")).await?;
        removal.left.iter().chain(&removal.notes).for_each(|text| warning(text));
        match (removal.left.is_empty(), removal.found) {
            (false, _) => return Ok(ExitCode::FAILURE),
            (true, true) => say("Uninstalled.\n"),
            (true, false) => say(&format!("There is no installation in namespace {namespace}.\n")),
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn told(step: &Step, suffix: &str) {
    say(&format!("{} {}{suffix}\n", step.object, step.outcome.word()));
}

/// Refuses what containers would be ended by at once: this program reads their flags as they will, if it is the one in their
/// image.
fn check_flags(objects: &[Value]) -> Result<()> {
    let version = format!(":{}", env!("CARGO_PKG_VERSION"));
    for object in objects {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        for container in object["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten() {
            if container["image"].as_str().is_none_or(|image| !image.ends_with(&version)) {
                continue;
            }
            let words =
                ["command", "args"].into_iter().flat_map(|field| container[field].as_array()).flatten();
            let line: Vec<&str> = words.filter_map(Value::as_str).collect();
            let refused = || format!("{name} would not start as `{}`", line.join(" "));
            match Args::try_parse_from(&line)
                .map_err(|error| first_line(&error))
                .with_context(refused)?
                .command
            {
                Command::Agent(args) => args.check().with_context(refused)?,
                Command::Controllers(args) => args.check().with_context(refused)?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// What is wrong, without the help that follows.
fn first_line(error: &clap::Error) -> anyhow::Error {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    anyhow::Error::msg(line.trim_start_matches("error: ").to_owned())
}

/// What was found, and what it means.
fn tell(plan: &Plan) {
    let list =
        |items: &[String], none: &str| if items.is_empty() { none.to_owned() } else { items.join(", ") };
    let survey = &plan.survey;
    let texts = |ranges: &[_]| -> Vec<String> { ranges.iter().map(ToString::to_string).collect() };
    let families: Vec<String> = survey.families.iter().map(ToString::to_string).collect();
    let api = survey.api.first().map(|api| match api.host.contains(':') {
        true => format!("[{}]:{}", api.host, api.port),
        false => format!("{}:{}", api.host, api.port),
    });
    say(&format!(
        "Kubernetes {}, {} nodes, families {}\nPod ranges {}; Service ranges {}; API server at {}\n",
        survey.version,
        survey.nodes,
        list(&families, "not known"),
        list(&texts(&survey.pod_ranges), "of each node"),
        list(&texts(&survey.service_ranges), "not known"),
        api.unwrap_or_else(|| "its Service alone".into()),
    ));
    plan.notes.iter().for_each(|note| warning(note));
}

fn show(objects: &[Value], format: ObjectFormat) -> Result<ExitCode> {
    print(&match format {
        ObjectFormat::Yaml => to_yaml(objects),
        ObjectFormat::Json => {
            let all = json!({"apiVersion": "v1", "kind": "List", "items": objects});
            serde_json::to_string_pretty(&all)? + "\n"
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, clap::Args)]
pub(crate) struct SysdumpArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Where to write [default: dyad-sysdump-TIME.tar.gz]
    #[arg(long, value_name = "FILE")]
    output_filename: Option<PathBuf>,
}

pub(crate) fn sysdump(args: SysdumpArgs) -> Result<ExitCode> {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = crate::output::compact_time(now);
    let path = args.output_filename.unwrap_or_else(|| format!("dyad-sysdump-{time}.tar.gz").into());
    // Before minutes are spent on what can't be written.
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    let file = file.with_context(|| format!("can't make {}", path.display()))?;
    let begun = Instant::now();
    let files = runtime()?.block_on(async {
        let client = args.target.client().await?;
        let mut steps = crate::output::Steps::new();
        Ok::<_, anyhow::Error>(
            dyad_install::sysdump::collect(&client, &args.target.namespace, |step| steps.waiting(step)).await,
        )
    });
    let files = match files {
        Ok(files) => files,
        Err(error) => {
            // Empty: nobody misses it.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
    };
    dyad_install::sysdump::write(&files, &time, now, std::io::BufWriter::new(file))?;
    for file in &files {
        if let Some(failure) = &file.failure {
            warning(&format!("{}: {failure}", file.name));
        }
    }
    say(&format!("\r{} files in {}, {:.1} s\n", files.len(), path.display(), begun.elapsed().as_secs_f64()));
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_agent_understands_is_not_installed() {
        let check = |set: &str| {
            let mut chosen = Chosen::default();
            chosen.set(set).unwrap();
            check_flags(&manifests(&chosen.values().unwrap(), &Facts::default()).unwrap())
        };
        check("agent.verbosity=4").unwrap();
        check("cni.ipam=dyad,clusterCIDR={10.244.0.0/16}").unwrap();
        check("agent.extraArgs={--of-the-future},image.tag=9.9.9")
            .expect("another version has flags of its own");
        for (set, problem) in [
            ("agent.extraArgs={--bogus}", "dyad-agent would not start as `/dyad agent"),
            ("agent.extraArgs={--nodeport-addresses=x}", "nodeport-addresses"),
            ("cni.ipam=dyad", "there is nothing to give"),
        ] {
            let error = format!("{:#}", check(set).unwrap_err());
            assert!(error.contains(problem), "{set}: {error}");
        }
    }

    /// What the manifests run is what this program understands.
    #[test]
    fn containers_are_started_with_flags_that_there_are() {
        let mut seen = std::collections::BTreeSet::new();
        for set in [
            "dns.enabled=true,cni.ipam=dyad,cni.mtu=1400,clusterCIDR={10.244.0.0/16,fd00::/56}",
            "proxy.enabled=false,cni.routing=vxlan",
            "cni.enabled=false,policy.enabled=false,proxy.nodePortAddresses={primary}",
            "proxy.dataplane=ebpf,proxy.cgroupRoot=/sys/fs/cgroup/kubepods.slice,cni.routing=direct",
        ] {
            let mut chosen = Chosen::default();
            chosen.set(set).unwrap();
            for object in manifests(&chosen.values().unwrap(), &Facts::default()).unwrap() {
                for container in
                    object["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten()
                {
                    let words = |field: &str| -> Vec<String> {
                        let words = container[field].as_array().into_iter().flatten();
                        words.map(|word| word.as_str().unwrap().to_owned()).collect()
                    };
                    let line = [words("command"), words("args")].concat();
                    Args::try_parse_from(&line).unwrap_or_else(|error| panic!("{set}: {line:?}: {error}"));
                    seen.insert(line[1].clone());
                }
            }
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["agent", "controllers", "dns"]);
    }
}
