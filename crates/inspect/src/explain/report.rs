//! The answer, for people and for programs.

use std::fmt::Write;
use std::net::IpAddr;

use dyad_net::IpFamily;
use dyad_program::{Payload, Stage, Step};
use serde::Serialize;

use super::Question;
use super::counters::Counted;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fate {
    /// It comes to where it should.
    Delivered,
    /// It is answered with a reset or an ICMP error: clients know at once.
    Refused,
    /// It vanishes: clients wait for their time-out.
    Dropped,
    /// Nobody has the address.
    Unreachable,
    /// One of the ends has no address of this family: clients take the other one.
    NoAddress,
}

impl Fate {
    const fn words(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::Dropped => "dropped",
            Self::Unreachable => "unreachable",
            Self::NoAddress => "no address",
        }
    }
}

/// What a rule in the kernel has counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counter {
    /// What the rule says it is for.
    pub rule: String,
    /// Packets; of rules for new connections, the first of each.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Something that is decided on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What it is about: `arrival`, `cache`, `guard`, `frontend`, `endpoint`, `policy` or `source`.
    pub stage: &'static str,
    /// What is decided.
    pub text: String,
    /// The object that decides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// What the kernel's rule for it has counted, of all connections it decided about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counter: Option<Counter>,
}

impl Decision {
    pub(super) fn of(step: &Step) -> Self {
        Self {
            stage: step.stage.as_str(),
            text: step.text.clone(),
            because: step.because.as_deref().map(str::to_owned),
            counter: None,
        }
    }

    /// A query that a node's DNS cache takes.
    pub(super) fn node_cache(text: String, node: &str) -> Self {
        Self { stage: "cache", text, because: Some(format!("the DNS cache of {node}")), counter: None }
    }

    /// The words of the kernel's rule that carries this out, if it is one that counts.
    pub(super) fn rule(&self) -> Option<&str> {
        let is = |stage: Stage| self.stage == stage.as_str();
        let drops = self.text.contains("dropped");
        match self.because.as_deref() {
            Some(because) if is(Stage::Policy) && because.contains("olicy ") => Some(because),
            Some(_) if is(Stage::Policy) => Some("from outside the cluster only where something asks for it"),
            Some(_) if is(Stage::Guard) && drops => Some("only its source ranges may use a load balancer"),
            None if is(Stage::Frontend) && self.text.contains("of the Service range") => {
                Some("no Service has this address")
            }
            Some(_) | None => None,
        }
    }
}

/// A node on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// The node.
    pub node: String,
    /// Which of several packets this is about, by its destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What is decided there.
    pub steps: Vec<Decision>,
}

/// An end of the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// How it ends.
    pub result: Fate,
    /// Where: an address and a port.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// The pod there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The node there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why it ends so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What would change it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub advice: Vec<String>,
}

impl Outcome {
    pub(super) const fn nowhere(why: String, advice: Vec<String>) -> Self {
        Self {
            result: Fate::NoAddress,
            endpoint: String::new(),
            pod: None,
            node: None,
            why: Some(why),
            advice,
        }
    }
}

/// The connection in one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Path {
    /// The family.
    pub ip_family: IpFamily,
    /// The source's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The address it goes to, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// What is sent: `TCP port 80`, `ICMP echo`.
    pub payload: String,
    /// Why it goes there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The nodes on the way.
    pub hops: Vec<Hop>,
    /// How it ends: for each endpoint it may come to.
    pub outcomes: Vec<Outcome>,
    /// How many endpoints there are besides those that were followed.
    pub not_followed: usize,
}

impl Path {
    pub(super) const fn new(ip_family: IpFamily) -> Self {
        Self {
            ip_family,
            source: None,
            destination: None,
            payload: String::new(),
            note: None,
            hops: Vec::new(),
            outcomes: Vec::new(),
            not_followed: 0,
        }
    }

    pub(super) fn describe(&mut self, payload: Payload) {
        self.payload = payload.to_string();
    }

    pub(super) fn limit(&mut self, all: usize, followed: usize) {
        self.not_followed += all.saturating_sub(followed);
    }

    /// How it ends; `None` if that depends on the endpoint.
    pub fn result(&self) -> Option<Fate> {
        let (first, rest) = self.outcomes.split_first()?;
        rest.iter().all(|other| other.result == first.result).then_some(first.result)
    }

    fn is_delivered(&self) -> bool {
        self.result() == Some(Fate::Delivered)
    }
}

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Who connects.
    pub from: String,
    /// To whom.
    pub to: String,
    /// Whether it is delivered, whatever endpoint it comes to, in every family that was asked for; if none was, in all
    /// families that both ends have.
    pub delivered: bool,
    /// Family by family.
    pub paths: Vec<Path>,
}

impl Report {
    pub(super) fn new(question: &Question, paths: Vec<Path>) -> Self {
        let was_asked = !question.families.is_empty();
        let counts = |path: &&Path| was_asked || path.result() != Some(Fate::NoAddress);
        let mut counted = paths.iter().filter(counts).peekable();
        let delivered = counted.peek().is_some() && counted.all(Path::is_delivered);
        Self { from: question.from.to_string(), to: question.to.to_string(), delivered, paths }
    }

    /// The nodes on the way.
    pub fn nodes(&self) -> Vec<String> {
        let hops = self.paths.iter().flat_map(|path| &path.hops);
        let mut nodes: Vec<String> = hops.map(|hop| hop.node.clone()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }

    /// Puts what a node's kernel has counted beside the decisions of that node.
    pub fn count(&mut self, node: &str, counted: &[Counted]) {
        for path in &mut self.paths {
            let family = path.ip_family;
            let hops = path.hops.iter_mut().filter(|hop| hop.node == node);
            for decision in hops.flat_map(|hop| &mut hop.steps) {
                let Some(rule) = decision.rule().map(str::to_owned) else { continue };
                // Pods with different policies have chains of their own, with the same rule in each.
                let same = counted.iter().filter(|one| one.is_of(family) && one.rule == rule);
                let (packets, bytes) =
                    same.fold((0u64, 0u64), |sum, one| (sum.0 + one.packets, sum.1 + one.bytes));
                decision.counter = Some(Counter { rule, packets, bytes });
            }
        }
    }

    /// The answer in words.
    pub fn text(&self) -> String {
        let mut text = format!("{} -> {}\n", self.from, self.to);
        for path in &self.paths {
            path.write(&mut text);
        }
        text
    }
}

impl Path {
    fn write(&self, text: &mut String) {
        let _ = write!(text, "\n{}", self.ip_family);
        if let Some(source) = self.source {
            let _ = write!(text, "  {source}");
            let _ = match self.destination {
                Some(destination) => write!(text, " -> {destination}, {}", self.payload),
                None if self.payload.is_empty() => Ok(()),
                None => write!(text, " -> {}", self.payload),
            };
        }
        text.push('\n');
        if let Some(note) = &self.note {
            let _ = writeln!(text, "  {note}");
        }
        for hop in &self.hops {
            let _ = match &hop.to {
                Some(to) => writeln!(text, "  on {}, to {to}", hop.node),
                None => writeln!(text, "  on {}", hop.node),
            };
            for step in &hop.steps {
                let _ = writeln!(text, "    {:<10}{}", step.stage, step.text);
                if let Some(because) = &step.because {
                    let _ = writeln!(text, "    {:<10}by {because}", "");
                }
                if let Some(counter) = &step.counter {
                    let plural = if counter.packets == 1 { "packet" } else { "packets" };
                    let _ = writeln!(
                        text,
                        "    {:<10}so far {} {plural} of new connections, by the kernel's count",
                        "", counter.packets
                    );
                }
            }
        }
        for outcome in &self.outcomes {
            let sign = if outcome.result == Fate::Delivered { '✓' } else { '✗' };
            let _ = write!(text, "  {sign} {}", outcome.result.words());
            if !outcome.endpoint.is_empty() {
                let _ = write!(text, ": {}", outcome.endpoint);
            }
            let _ = match (&outcome.pod, &outcome.node) {
                (Some(pod), Some(node)) => write!(text, ", pod {pod} on {node}"),
                (Some(pod), None) => write!(text, ", pod {pod}"),
                (None, Some(node)) => write!(text, ", on {node}"),
                (None, None) => Ok(()),
            };
            text.push('\n');
            if let Some(why) = &outcome.why {
                let _ = writeln!(text, "    {why}");
            }
            for advice in &outcome.advice {
                let _ = writeln!(text, "    → {advice}");
            }
        }
        if self.not_followed > 0 {
            let _ = writeln!(text, "  and {} more endpoints, not followed", self.not_followed);
        }
    }
}
