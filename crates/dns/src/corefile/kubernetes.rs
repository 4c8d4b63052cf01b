//! `kubernetes [ZONES...] { ... }`.

use std::time::Duration;

use super::lexer::Word;
use super::tree::Directive;
use super::{CorefileError, words};

const OPTIONS: &[&str] = &[
    "namespaces",
    "labels",
    "namespace_labels",
    "pods",
    "endpoint_pod_names",
    "ttl",
    "noendpoints",
    "fallthrough",
    "ignore",
    "empty_headless",
    "kubeconfig",
    "endpoint",
    "tls",
    "multicluster",
    "startup_timeout",
];

/// Which names pods have under `pod.ZONE` (A.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pods {
    /// None.
    #[default]
    Disabled,
    /// The address a name spells, whoever has it.
    Insecure,
    /// The address a name spells, if a pod of that namespace has it.
    Verified,
}

/// The names of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// Zones, absolute and in lower case; the first that is not a reverse zone is the cluster's domain.
    pub zones: Vec<String>,
    /// Only these namespaces, unless empty.
    pub namespaces: Vec<String>,
    /// Label selector of the objects to show.
    pub labels: Option<String>,
    /// Label selector of the namespaces to show.
    pub namespace_labels: Option<String>,
    /// Names of pods.
    pub pods: Pods,
    /// Endpoints without a hostname are called as their pods are.
    pub endpoint_pod_names: bool,
    /// Seconds that answers hold.
    pub ttl: u32,
    /// Headless Services have no records.
    pub no_endpoints: bool,
    /// Zones whose unknown names go on to the next plugin.
    pub fallthrough: Vec<String>,
    /// Services without ready endpoints do not exist.
    pub ignore_empty_service: bool,
    /// A headless Service without ready endpoints exists all the same (A.3).
    pub empty_headless_exists: bool,
    /// Zones of Services of several clusters.
    pub multicluster: Vec<String>,
    /// URL of the API server, if not the cluster's own.
    pub endpoint: Option<String>,
    /// Certificate, key and CA for `endpoint`.
    pub tls: Vec<String>,
    /// File, and context in it.
    pub kubeconfig: Option<(String, Option<String>)>,
    /// How long a start may wait for the first snapshot.
    pub startup_timeout: Duration,
}

pub(super) fn read(directive: &Directive) -> Result<Kubernetes, CorefileError> {
    let mut read = Kubernetes {
        zones: words::zones_or_all(&directive.arguments)?,
        namespaces: Vec::new(),
        labels: None,
        namespace_labels: None,
        pods: Pods::Disabled,
        endpoint_pod_names: false,
        ttl: 5,
        no_endpoints: false,
        fallthrough: Vec::new(),
        ignore_empty_service: false,
        empty_headless_exists: false,
        multicluster: Vec::new(),
        endpoint: None,
        tls: Vec::new(),
        kubeconfig: None,
        startup_timeout: Duration::from_secs(5),
    };
    for (option, arguments) in directive.options() {
        option_of(&mut read, &directive.name, option, arguments)?;
    }
    Ok(read)
}

fn option_of(
    read: &mut Kubernetes,
    plugin: &Word,
    option: &Word,
    arguments: &[Word],
) -> Result<(), CorefileError> {
    let texts = |words: &[Word]| words.iter().map(|word| word.text.clone()).collect::<Vec<_>>();
    let selector = || words::some(option, arguments, "a label selector").map(|words| texts(words).join(" "));
    match option.text.as_str() {
        "namespaces" => read.namespaces = texts(words::some(option, arguments, "namespaces")?),
        "labels" => read.labels = Some(selector()?),
        "namespace_labels" => read.namespace_labels = Some(selector()?),
        "pods" => {
            let mode = words::one(option, arguments, "disabled, insecure or verified")?;
            read.pods = match mode.text.as_str() {
                "disabled" => Pods::Disabled,
                "insecure" => Pods::Insecure,
                "verified" => Pods::Verified,
                other => {
                    let what = format!("pods {other:?}: write disabled, insecure or verified");
                    return Err(mode.error(what));
                }
            };
        }
        "endpoint_pod_names" => {
            words::none(option, arguments)?;
            read.endpoint_pod_names = true;
        }
        "ttl" => read.ttl = words::number(words::one(option, arguments, "seconds")?, 0..=3600)?,
        "noendpoints" => {
            words::none(option, arguments)?;
            read.no_endpoints = true;
        }
        "fallthrough" => read.fallthrough = words::zones_or_all(arguments)?,
        "ignore" => {
            let what = words::one(option, arguments, "empty_service")?;
            if what.text != "empty_service" {
                return Err(words::unknown(option, what, &["empty_service"]));
            }
            read.ignore_empty_service = true;
        }
        "empty_headless" => {
            let what = words::one(option, arguments, "nxdomain or nodata")?;
            read.empty_headless_exists = match what.text.as_str() {
                "nxdomain" => false,
                "nodata" => true,
                _ => return Err(words::unknown(option, what, &["nxdomain", "nodata"])),
            };
        }
        "multicluster" => {
            read.multicluster = words::zones_or_all(words::some(option, arguments, "zones")?)?;
        }
        "endpoint" => read.endpoint = Some(words::one(option, arguments, "a URL")?.text.clone()),
        "tls" => {
            if arguments.len() != 3 {
                return Err(option.error("tls needs a certificate, a key and a CA"));
            }
            read.tls = texts(arguments);
        }
        "kubeconfig" => {
            read.kubeconfig = match arguments {
                [file] => Some((file.text.clone(), None)),
                [file, context] => Some((file.text.clone(), Some(context.text.clone()))),
                [] | [..] => return Err(option.error("kubeconfig needs a file, and may name a context")),
            };
        }
        "startup_timeout" => {
            read.startup_timeout = words::duration(words::one(option, arguments, "a duration")?)?;
        }
        // Of times when these did something; they change no answer.
        "upstream" | "resyncperiod" | "apiserver_qps" | "apiserver_burst" | "apiserver_max_inflight" => {}
        _ => return Err(words::unknown(plugin, option, OPTIONS)),
    }
    Ok(())
}
