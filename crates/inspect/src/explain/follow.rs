//! A packet from node to node.

use std::net::IpAddr;

use dyad_net::IpFamily;
use dyad_program::policy::{self, Flow};
use dyad_program::rule::Direction;
use dyad_program::{Endpoint, Onward, Origin, Packet, Payload, RangeSet, Stage, Step, Table, Verdict, trace};

use super::cluster::Cluster;
use super::report::{Decision, Fate, Hop, Outcome, Path};
use super::target::{Aim, Place, aim, owner};
use super::{ExplainError, Question, advice};

/// So many endpoints of a Service are followed.
const FOLLOWED: usize = 16;
/// More nodes than a packet can pass: a node port leads to another node, and that is all.
const MAX_HOPS: usize = 4;

/// What becomes of the connection in `family`.
pub(super) fn path(
    cluster: &mut Cluster<'_>,
    question: &Question,
    place: &Place,
    family: IpFamily,
) -> Result<Path, ExplainError> {
    let mut path = Path::new(family);
    let Some(source) = place.ip(family) else {
        let why = format!("{} has no {family} address", question.from);
        path.outcomes.push(Outcome::nowhere(why, Vec::new()));
        return Ok(path);
    };
    path.source = Some(source);
    let (targets, entry, note) = match aim(cluster, question, place, family)? {
        Aim::At { targets, entry, note } => (targets, entry, note),
        Aim::Nowhere { why, advice } => {
            path.outcomes.push(Outcome::nowhere(why, advice));
            return Ok(path);
        }
    };
    path.note = note;
    if let [(ip, payload)] = *targets.as_slice() {
        path.destination = Some(ip);
        path.describe(payload);
    } else if let Some((_, payload)) = targets.first() {
        path.describe(*payload);
    }
    let Some(node) = place.node.clone().or(entry) else {
        path.outcomes.push(Outcome::nowhere(format!("no node has an {family} address"), Vec::new()));
        return Ok(path);
    };
    if place.node.is_none() && path.note.is_none() {
        path.note = path.destination.and_then(|ip| unknown_outside(cluster, &node, ip));
    }
    path.limit(targets.len(), FOLLOWED);
    let several = targets.len() > 1;
    for (destination, payload) in targets.into_iter().take(FOLLOWED) {
        let packet = Packet { origin: place.origin, source, destination, payload, last: None };
        let to = several.then(|| describe(destination, payload));
        Follower { cluster: &mut *cluster, path: &mut path }.hop(&node, packet, to, 1);
    }
    Ok(path)
}

/// Says so if an address of a pod means nothing outside of the cluster.
fn unknown_outside(cluster: &mut Cluster<'_>, node: &str, ip: IpAddr) -> Option<String> {
    let table = cluster.compiler(node).program().get(ip.into())?;
    let text = format!("{ip} means nothing outside of the cluster: only who has a route to it gets this far");
    table.in_range(RangeSet::Masqueraded, ip).then_some(text)
}

struct Follower<'a, 'b> {
    cluster: &'a mut Cluster<'b>,
    path: &'a mut Path,
}

impl Follower<'_, '_> {
    /// Follows a packet through `node`, where it has just come to. `to` names it where there are several.
    fn hop(&mut self, node: &str, packet: Packet, to: Option<String>, count: usize) {
        if self.cluster.is_answered_by(node, &packet) {
            return self.answer(node, &packet, to);
        }
        let addresses = self.cluster.addresses(node);
        let compiler = self.cluster.compiler(node);
        let owner = |family, at| compiler.owner(family, at);
        let found = trace(compiler.program(), &addresses, &packet, &owner);
        let steps = found.steps.iter().map(Decision::of).collect();
        self.path.hops.push(Hop { node: node.to_owned(), to, steps });
        match found.verdict {
            Verdict::Pass(onward) => self.leg(node, packet, None, onward, count),
            Verdict::Forward(legs) => {
                self.path.limit(legs.len(), FOLLOWED);
                for (endpoint, onward) in legs.into_iter().take(FOLLOWED) {
                    self.leg(node, packet, Some(endpoint), onward, count);
                }
            }
            Verdict::Reject(_) => self.end_here(Fate::Refused, node, &packet, &found.steps),
            Verdict::Drop => self.end_here(Fate::Dropped, node, &packet, &found.steps),
        }
    }

    /// The node's DNS cache answers.
    fn answer(&mut self, node: &str, packet: &Packet, to: Option<String>) {
        let asked = describe(packet.destination, packet.payload);
        let step = Decision::node_cache(
            format!("queries to {asked}/UDP are answered on the node, without connection tracking"),
            node,
        );
        self.path.hops.push(Hop { node: node.to_owned(), to, steps: vec![step] });
        let why = "by the node's DNS cache; while that is gone, by the endpoints of the Service";
        self.path.outcomes.push(Outcome {
            result: Fate::Delivered,
            endpoint: asked,
            pod: None,
            node: Some(node.to_owned()),
            why: Some(why.to_owned()),
            advice: Vec::new(),
        });
    }

    /// The packet comes no further than this node's view of Services.
    fn end_here(&mut self, fate: Fate, node: &str, packet: &Packet, steps: &[Step]) {
        let last = steps.last();
        let why = last.map(|step| match &step.because {
            Some(because) => format!("{because}: {}", step.text),
            None => step.text.clone(),
        });
        let stage = last.map_or(Stage::Frontend, |step| step.stage);
        let because = last.and_then(|step| step.because.as_deref());
        let advice = advice::no_way(self.cluster, fate, stage, because, node, packet);
        self.path.outcomes.push(Outcome {
            result: fate,
            endpoint: describe(packet.destination, packet.payload),
            pod: None,
            node: Some(node.to_owned()),
            why,
            advice,
        });
    }

    fn leg(&mut self, node: &str, packet: Packet, to: Option<Endpoint>, onward: Onward, count: usize) {
        let (destination, payload) = match (to, packet.payload) {
            (Some(to), Payload::Port(protocol, _)) => (to.ip, Payload::Port(protocol, to.port)),
            (_, payload) => (packet.destination, payload),
        };
        if !onward.admitted {
            let flow = Flow { source: packet.source, destination, payload, translated: to.is_some() };
            return self.denied(node, packet.origin, &flow);
        }
        let family = IpFamily::from(destination);
        let here = self.cluster.addresses(node);
        let own = self.cluster.nodes.get(node).and_then(|node| node.ip(family));
        let source = if onward.masqueraded { own.unwrap_or(packet.source) } else { packet.source };
        let (pod, host) = owner(self.cluster, destination);
        let arrives = |result, why| Outcome {
            result,
            endpoint: describe(destination, payload),
            pod: pod.clone(),
            node: host.clone(),
            why,
            advice: Vec::new(),
        };
        let next = host.clone().filter(|host| host != node && !here.contains(&destination));
        match next {
            Some(_) if count >= MAX_HOPS => {
                let why = format!("it goes around in the cluster: {MAX_HOPS} nodes have sent it on");
                self.path.outcomes.push(arrives(Fate::Dropped, Some(why)));
            }
            Some(next) => {
                let packet = Packet { origin: Origin::Link, source, destination, payload, last: None };
                self.hop(&next, packet, Some(describe(destination, payload)), count + 1);
            }
            None if host.is_some() => {
                let object =
                    self.cluster.pod_at(destination).and_then(|(name, _)| self.cluster.pod_object(name));
                let why = object
                    .and_then(|object| advice::silence(object, family))
                    .map(|problem| format!("but the pod says that it is not ready in {family}: {problem}"));
                self.path.outcomes.push(arrives(Fate::Delivered, why));
            }
            None if self.cluster.is_of_pods(destination) => {
                let why = format!("{destination} is of the pod ranges, but no pod has it");
                self.path.outcomes.push(arrives(Fate::Unreachable, Some(why)));
            }
            None => {
                let why = "it leaves the cluster: what becomes of it there, Kubernetes does not know";
                self.path.outcomes.push(arrives(Fate::Delivered, Some(why.to_owned())));
            }
        }
    }

    fn denied(&mut self, node: &str, origin: Origin, flow: &Flow) {
        let addresses = self.cluster.addresses(node);
        let table = self.cluster.compiler(node).program().get(flow.destination.into()).cloned();
        let denial = table.as_ref().and_then(|table| denial(table, origin, flow, &addresses));
        let (pod, host) = owner(self.cluster, flow.destination);
        let (why, advice) = match denial {
            None => (None, Vec::new()),
            Some((direction, because)) => {
                let advice = advice::denied(self.cluster, direction, &because, flow);
                (Some(because), advice)
            }
        };
        self.path.outcomes.push(Outcome {
            result: Fate::Dropped,
            endpoint: describe(flow.destination, flow.payload),
            pod,
            node: host,
            why,
            advice,
        });
    }
}

/// Who denies it, and in which direction.
fn denial(
    table: &Table,
    origin: Origin,
    flow: &Flow,
    addresses: &std::collections::BTreeSet<IpAddr>,
) -> Option<(Direction, String)> {
    let applies = |direction| {
        origin == Origin::Link && (direction == Direction::Egress || !addresses.contains(&flow.destination))
    };
    let denied = policy::decide(table, flow)
        .rulings
        .into_iter()
        .find(|ruling| !ruling.admitted && applies(ruling.direction))?;
    Some((denied.direction, denied.because.map(|text| text.to_string()).unwrap_or_default()))
}

/// An address with its port, if there is one.
fn describe(ip: IpAddr, payload: Payload) -> String {
    match payload {
        Payload::Port(_, port) => std::net::SocketAddr::new(ip, port).to_string(),
        Payload::Echo | Payload::Control => ip.to_string(),
    }
}
