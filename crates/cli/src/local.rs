//! The commands about local clusters.

mod install;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use dyad_cluster::config::{DEFAULT_NAME, Flags, resolve};
use dyad_cluster::paths::{ClusterDir, check_name};
use dyad_cluster::spec::{ClusterSpec, Shape};
use dyad_cluster::status::Status;
use dyad_cluster::up::{Progress, Site, Started};

use crate::api::runtime;
use crate::args::{ClusterArgs, Format, LogsArgs, StartArgs, StatusArgs, UpArgs, WaitArgs};
use crate::installed;
use crate::output::{Steps, print, say, table, warning};

pub(crate) fn up(args: UpArgs) -> Result<ExitCode> {
    let text = match &args.config {
        Some(path) if path.as_os_str() == "-" => {
            Some(std::io::read_to_string(std::io::stdin()).context("can't read standard input")?)
        }
        Some(path) => Some(
            std::fs::read_to_string(path)
                .with_context(|| format!("--config: can't read {}", path.display()))?,
        ),
        None => None,
    };
    let flags = Flags {
        name: args.name.clone(),
        nodes: args.nodes,
        families: args.ip_family,
        dataplane: args.dataplane,
        controllers: args.controllers.clone(),
        install: args.install.then(|| install::chosen(&args)).transpose()?,
    };
    let (config, warnings) = resolve(text.as_deref(), &flags).with_context(|| match &args.config {
        Some(path) => format!("--config {}", path.display()),
        None => "the command line".into(),
    })?;
    for text in warnings {
        warning(&text);
    }
    let json = args.wait.output == Format::Json;
    if !json {
        say(&format!(
            "Cluster {}: pods {}, services {}\n",
            config.name,
            list(&config.pod_ranges),
            list(&config.service_ranges)
        ));
    }
    let steps = RefCell::new(Steps::new());
    steps.borrow_mut().waiting("network");
    let install = async |site: Site<'_>| install::install(site, &steps).await;
    let progress = |step| show(&mut steps.borrow_mut(), step);
    let started = runtime()?.block_on(dyad_cluster::up::up(config, args.wait.wait, install, progress));
    finish(started?, &args.wait)
}

pub(crate) fn start(args: StartArgs) -> Result<ExitCode> {
    let steps = RefCell::new(Steps::new());
    steps.borrow_mut().waiting("network");
    let install = async |site: Site<'_>| install::install(site, &steps).await;
    let progress = |step| show(&mut steps.borrow_mut(), step);
    let started =
        runtime()?.block_on(dyad_cluster::up::start(&args.cluster.name, args.wait.wait, install, progress));
    finish(started?, &args.wait)
}

fn show(steps: &mut Steps, step: Progress) {
    match step {
        Progress::Network => {
            steps.done("Network");
            steps.waiting("API server");
        }
        Progress::Api => {
            steps.done("API server");
            steps.waiting("nodes");
        }
        Progress::Nodes(_, 0) => {}
        Progress::Nodes(ready, all) if ready == all => {
            steps.done(&format!("Nodes ready ({ready} of {all})"));
            steps.waiting("cluster DNS");
        }
        Progress::Bare(all) => {
            steps.done(&format!("Nodes ({all}), ready once a CNI plugin is there"));
        }
        Progress::Dns => steps.done("Cluster DNS"),
        Progress::Nodes(ready, all) => steps.waiting(&format!("nodes ({ready} of {all} ready)")),
    }
}

fn finish(started: Started, args: &WaitArgs) -> Result<ExitCode> {
    let Started { status, context_is_current, phases, not_ready } = started;
    match args.output {
        Format::Json => {
            let phases: serde_json::Map<String, serde_json::Value> =
                phases.into_iter().map(|(name, millis)| (name, millis.into())).collect();
            let mut value = serde_json::to_value(&status)?;
            value["phasesMillis"] = phases.into();
            print(&(serde_json::to_string_pretty(&value)? + "\n"))?;
        }
        Format::Table => {
            let context =
                if context_is_current { String::new() } else { format!(" --context {}", status.context) };
            let name =
                if status.name == DEFAULT_NAME { String::new() } else { format!(" --name {}", status.name) };
            print(&format!(
                "\n{}\nTry next:\n  kubectl{context} get nodes -o wide\n  kubectl{context} get services -A\n  \
                 dyad connectivity test{name}\n  dyad shell{name}\n  dyad down{name}\n",
                describe(&status)
            ))?;
        }
    }
    if !not_ready.is_empty() {
        let nodes = status.nodes.iter().any(|node| node.name == not_ready[0]);
        let look = match nodes {
            true => format!("dyad logs {}", not_ready[0]),
            false => "kubectl -n kube-system describe pods -l k8s-app=kube-dns".to_owned(),
        };
        bail!("not ready within {:?}: {} (see `{look}`)", args.wait, not_ready.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

fn list(ranges: &[impl ToString]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// One cluster as a table: its nodes, then what holds for all of it.
fn describe(status: &Status) -> String {
    let mut rows =
        vec![["NODE", "STATUS", "DATA PLANE", "ADDRESSES", "POD RANGES"].map(str::to_owned).to_vec()];
    for node in &status.nodes {
        rows.push(vec![
            node.name.clone(),
            node.status.clone(),
            node.dataplane.as_ref().map_or_else(|| "-".to_owned(), |plane| plane.mode.clone()),
            node.addresses.join(", "),
            node.pod_cidrs.join(", "),
        ]);
    }
    let mut text = if status.nodes.is_empty() { "No nodes.\n".to_owned() } else { table(&rows) };
    let mut facts = vec![
        ("Cluster", format!("{} ({})", status.name, status.state)),
        ("Pod ranges", status.pod_ranges.join(", ")),
        ("Service ranges", status.service_ranges.join(", ")),
        (
            "API server",
            format!("{} (in the cluster: {}, port 6443)", status.server, status.api_addresses.join(", ")),
        ),
        ("Context", status.context.clone()),
    ];
    facts.extend(network(status).map(|text| ("Nodes", text.to_owned())));
    facts.extend(reasons(status).into_iter().map(|reason| ("Data plane", reason)));
    text.push('\n');
    let facts: Vec<_> = facts.into_iter().map(|(name, value)| vec![format!("{name}:"), value]).collect();
    text.push_str(&table(&facts));
    for problem in &status.problems {
        text.push_str(&format!("Problem: {problem}\n"));
    }
    text
}

/// Who carries packets on the nodes, where they do not bring it along.
fn network(status: &Status) -> Option<&'static str> {
    match (status.shape, &status.install) {
        (Shape::Whole, _) => None,
        (_, Some(_)) => Some("bare, with what `dyad install` brings"),
        (Shape::Proxy, None) => Some("pods are connected by CNI plugins of others"),
        (Shape::Bare, None) => Some("bare: pods and Services are somebody else's"),
    }
}

/// Why the nodes have the data plane they have: a line for all that say the same.
fn reasons(status: &Status) -> Vec<String> {
    let mut groups: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for node in &status.nodes {
        if let Some(plane) = &node.dataplane {
            let why = plane.why.as_deref().unwrap_or("");
            groups.entry((&plane.mode, why)).or_default().push(&node.name);
        }
    }
    let all = |nodes: &[&str]| nodes.len() == status.nodes.len();
    let line = |((mode, why), nodes): (&(&str, &str), &Vec<&str>)| {
        let on = if all(nodes) { String::new() } else { format!(" on {}", nodes.join(", ")) };
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        format!("{mode}{on}{why}")
    };
    groups.iter().map(line).collect()
}

pub(crate) fn stop(args: ClusterArgs) -> Result<ExitCode> {
    check_name(&args.name)?;
    dyad_cluster::stop(&args.name)?;
    say(&format!(
        "Cluster {} is stopped; its objects are kept. Start it with `dyad start --name {}`.\n",
        args.name, args.name
    ));
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn down(args: ClusterArgs) -> Result<ExitCode> {
    check_name(&args.name)?;
    match dyad_cluster::down(&args.name)? {
        true => say(&format!("Cluster {} is gone.\n", args.name)),
        false => say(&format!("There is no cluster {}; nothing to do.\n", args.name)),
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn status(args: StatusArgs) -> Result<ExitCode> {
    let insists = args.wait || args.target.context.is_some() || args.target.kubeconfig.is_some();
    let patience = args.wait.then_some(args.wait_duration);
    if insists && let Some(code) = installed::show(&args.target, patience, args.output, true)? {
        return Ok(code);
    }
    let names = match &args.name {
        Some(name) => vec![name.clone()],
        None => ClusterDir::all()?
            .into_iter()
            .filter(|(_, dir)| dir.spec().exists())
            .map(|(name, _)| name)
            .collect(),
    };
    // Who has no local cluster may mean the one that kubectl talks to.
    if args.name.is_none()
        && names.is_empty()
        && let Some(code) = installed::show(&args.target, None, args.output, false)?
    {
        return Ok(code);
    }
    for name in &names {
        check_name(name)?;
    }
    let runtime = runtime()?;
    let found = names
        .iter()
        .map(|name| runtime.block_on(dyad_cluster::status::status(name)))
        .collect::<Result<Vec<_>>>()?;
    let text = match (args.output, args.name.is_some()) {
        // One cluster asked for is one object; all of them are a list.
        (Format::Json, true) => serde_json::to_string_pretty(&found[0])? + "\n",
        (Format::Json, false) => serde_json::to_string_pretty(&found)? + "\n",
        (Format::Table, _) if found.is_empty() => "No clusters. `dyad up` makes one.\n".to_owned(),
        (Format::Table, _) => found.iter().map(describe_with_processes).collect::<Vec<_>>().join("\n"),
    };
    print(&text)?;
    let well = found.iter().all(|status| status.state == "running");
    Ok(if args.name.is_some() && !well { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn describe_with_processes(status: &Status) -> String {
    let mut rows = vec![["PROCESS", "PID", "RESTARTS"].map(str::to_owned).to_vec()];
    for process in &status.processes {
        let pid = process.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        rows.push(vec![process.name.clone(), pid, process.restarts.to_string()]);
    }
    format!("{}\n{}", describe(status), table(&rows))
}

pub(crate) fn logs(args: LogsArgs) -> Result<ExitCode> {
    check_name(&args.cluster.name)?;
    let dir = ClusterDir::of(&args.cluster.name)?;
    if !dir.spec().exists() {
        bail!("there is no cluster {:?}", args.cluster.name);
    }
    let spec = ClusterSpec::load(&dir)?;
    let known: Vec<&str> = ["control-plane", "supervisor", "outside"]
        .into_iter()
        .chain(spec.nodes.iter().map(|node| node.name.as_str()))
        .collect();
    if !known.contains(&args.process.as_str()) {
        bail!("there is no process {:?}: it is one of {}", args.process, known.join(", "));
    }
    let path = dir.log(&args.process);
    let log = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.split_inclusive('\n').collect();
    let skip = args.tail.map_or(0, |tail| lines.len().saturating_sub(tail));
    print(&lines[skip..].concat())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use dyad_cluster::status::{Dataplane, NodeStatus};

    use super::*;

    fn status(planes: &[Option<(&str, Option<&str>)>]) -> Status {
        let node = |(index, plane): (usize, &Option<(&str, Option<&str>)>)| NodeStatus {
            name: format!("node{}", index + 1),
            status: "Ready".into(),
            addresses: vec![format!("192.0.2.{index}"), format!("2001:db8::{index}")],
            pod_cidrs: vec![format!("10.244.{index}.0/24")],
            dataplane: plane.map(|(mode, why)| Dataplane { mode: mode.into(), why: why.map(str::to_owned) }),
        };
        Status {
            name: "local".into(),
            state: "running",
            problems: Vec::new(),
            context: "dyad-local".into(),
            server: "https://127.0.0.1:6443".into(),
            api_addresses: vec!["192.0.2.9".into()],
            pod_ranges: vec!["10.244.0.0/16".into()],
            service_ranges: vec!["10.96.0.0/16".into()],
            shape: Shape::Whole,
            install: None,
            nodes: planes.iter().enumerate().map(node).collect(),
            processes: Vec::new(),
        }
    }

    #[test]
    fn a_cluster_says_who_carries_packets_if_its_nodes_do_not() {
        let text = |shape, install: Option<&str>| {
            describe(&Status { shape, install: install.map(str::to_owned), ..status(&[None]) })
        };
        assert!(!text(Shape::Whole, None).contains("Nodes:"));
        assert!(text(Shape::Bare, Some("{}")).contains("bare, with what `dyad install` brings"));
        assert!(text(Shape::Proxy, None).contains("CNI plugins of others"));
    }

    #[test]
    fn each_node_shows_its_data_plane_and_each_reason_stands_once() {
        let no_bpf = Some(("nftables", Some("no BPF here")));
        let text = describe(&status(&[no_bpf, Some(("ebpf", None)), no_bpf, None]));
        assert!(text.contains("NODE    STATUS   DATA PLANE   ADDRESSES"), "{text}");
        assert!(text.contains("node2   Ready    ebpf         192.0.2.1"), "{text}");
        assert!(text.contains("node4   Ready    -            192.0.2.3"), "{text}");
        assert!(text.contains("ebpf on node2\n"), "{text}");
        assert!(text.contains("nftables on node1, node3: no BPF here\n"), "{text}");
        assert_eq!(reasons(&status(&[no_bpf, no_bpf])), ["nftables: no BPF here"]);
        assert!(reasons(&status(&[None])).is_empty());
    }
}
