//! What other pods mean for where a pod may go: affinity, anti-affinity and topology spread. Pure.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, ObjectMeta};
use kube::ResourceExt;

use super::fit::selected;
use crate::pods::Selector;

/// A label of nodes and its value: all nodes that share it are one place.
type Place = (String, String);

/// Everything a pod's rules and the rules of others say about places.
pub(super) struct Relations {
    /// One entry per rule: where it holds; `None` when the pod is the first of its kind and may go anywhere with the key.
    near: Vec<(String, Option<HashSet<Place>>)>,
    away: HashSet<Place>,
    kept_away_by_others: HashSet<Place>,
    spread: Vec<Spread>,
}

struct Spread {
    key: String,
    counts: BTreeMap<String, usize>,
    least: usize,
    itself: usize,
    most: usize,
}

/// A pod and the node it is on or about to be on.
pub(super) type Placed<'a> = (&'a Node, &'a Pod);

fn terms(pod: &Pod, anti: bool) -> &[PodAffinityTerm] {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let terms = if anti {
        affinity
            .and_then(|affinity| affinity.pod_anti_affinity.as_ref())
            .and_then(|rules| rules.required_during_scheduling_ignored_during_execution.as_deref())
    } else {
        affinity
            .and_then(|affinity| affinity.pod_affinity.as_ref())
            .and_then(|rules| rules.required_during_scheduling_ignored_during_execution.as_deref())
    };
    terms.unwrap_or_default()
}

fn spread_constraints(pod: &Pod) -> impl Iterator<Item = &TopologySpreadConstraint> {
    let all = pod.spec.iter().flat_map(|spec| spec.topology_spread_constraints.iter().flatten());
    all.filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule")
}

/// Whether where a pod may go depends on other pods.
pub(super) fn has_relations(pod: &Pod) -> bool {
    !terms(pod, false).is_empty() || !terms(pod, true).is_empty() || spread_constraints(pod).next().is_some()
}

/// A term, read once to be asked often.
struct Term<'a> {
    selector: Selector,
    term: &'a PodAffinityTerm,
    /// The namespace of the pod whose term it is.
    home: String,
    by_label: Option<Selector>,
}

impl<'a> Term<'a> {
    fn of(owner: &Pod, term: &'a PodAffinityTerm) -> Self {
        let selector = narrowed(
            term.label_selector.clone(),
            owner,
            term.match_label_keys.as_deref(),
            term.mismatch_label_keys.as_deref(),
        );
        Self {
            selector: Selector::of_optional(selector.as_ref()),
            term,
            home: owner.namespace().unwrap_or_default(),
            by_label: term.namespace_selector.as_ref().map(Selector::of),
        }
    }

    fn matches(&self, pod: &Pod, namespaces: &BTreeMap<String, ObjectMeta>) -> bool {
        let namespace = pod.namespace().unwrap_or_default();
        let listed = self.term.namespaces.as_deref().unwrap_or_default();
        let here = listed.contains(&namespace)
            || self.by_label.as_ref().is_some_and(|selector| {
                namespaces.get(&namespace).is_some_and(|meta| selector.matches(meta))
            })
            || (listed.is_empty() && self.by_label.is_none() && namespace == self.home);
        here && self.selector.matches(&pod.metadata)
    }
}

/// A selector with the values that the pod itself has for these keys, or without them.
fn narrowed(
    selector: Option<LabelSelector>,
    pod: &Pod,
    same: Option<&[String]>,
    other: Option<&[String]>,
) -> Option<LabelSelector> {
    let mut selector = selector?;
    for (keys, operator) in [(same, "In"), (other, "NotIn")] {
        for key in keys.unwrap_or_default() {
            let Some(value) = pod.labels().get(key) else { continue };
            selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.into(),
                values: Some(vec![value.clone()]),
            });
        }
    }
    Some(selector)
}

fn place(node: &Node, key: &str) -> Option<Place> {
    node.labels().get(key).map(|value| (key.to_owned(), value.clone()))
}

impl Relations {
    /// What holds for `pod`, given all nodes, the pods on them and the labels of namespaces.
    pub(super) fn of(
        pod: &Pod,
        nodes: &[&Node],
        placed: &[Placed<'_>],
        namespaces: &BTreeMap<String, ObjectMeta>,
    ) -> Self {
        let places = |term: &Term<'_>| -> HashSet<Place> {
            let matching = placed.iter().filter(|(_, other)| term.matches(other, namespaces));
            matching.filter_map(|(node, _)| place(node, &term.term.topology_key)).collect()
        };
        let mine: Vec<Term<'_>> = terms(pod, false).iter().map(|term| Term::of(pod, term)).collect();
        let found: Vec<HashSet<Place>> = mine.iter().map(places).collect();
        let first =
            found.iter().all(HashSet::is_empty) && mine.iter().all(|term| term.matches(pod, namespaces));
        let near = mine
            .iter()
            .zip(found)
            .map(|(term, found)| (term.term.topology_key.clone(), if first { None } else { Some(found) }));
        let away = terms(pod, true).iter().flat_map(|term| places(&Term::of(pod, term)));
        let others = placed.iter().flat_map(|(node, other)| {
            let terms = terms(other, true).iter().map(|term| Term::of(other, term));
            terms
                .filter(|term| term.matches(pod, namespaces))
                .filter_map(|term| place(node, &term.term.topology_key))
                .collect::<Vec<_>>()
        });
        Self {
            near: near.collect(),
            away: away.collect(),
            kept_away_by_others: others.collect(),
            spread: spread_constraints(pod).map(|one| Spread::of(one, pod, nodes, placed)).collect(),
        }
    }

    /// Why the pod can't go to a node, in kube-scheduler's words.
    pub(super) fn refusal(&self, node: &Node) -> Option<&'static str> {
        if let Some(why) = self.spread.iter().find_map(|spread| spread.refusal(node)) {
            return Some(why);
        }
        let holds = |(key, places): &(String, Option<HashSet<Place>>)| {
            place(node, key).is_some_and(|place| places.as_ref().is_none_or(|places| places.contains(&place)))
        };
        let any =
            |places: &HashSet<Place>| places.iter().any(|(key, value)| node.labels().get(key) == Some(value));
        if !self.near.iter().all(holds) {
            return Some("node(s) didn't match pod affinity rules");
        }
        if any(&self.away) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        any(&self.kept_away_by_others).then_some("node(s) didn't satisfy existing pods anti-affinity rules")
    }
}

impl Spread {
    fn of(one: &TopologySpreadConstraint, pod: &Pod, nodes: &[&Node], placed: &[Placed<'_>]) -> Self {
        let selector = narrowed(one.label_selector.clone(), pod, one.match_label_keys.as_deref(), None);
        let selector = Selector::of_optional(selector.as_ref());
        let eligible = nodes.iter().filter(|node| selected(pod, node));
        let mut counts: BTreeMap<String, usize> = eligible
            .filter_map(|node| node.labels().get(&one.topology_key))
            .map(|value| (value.clone(), 0))
            .collect();
        for (node, other) in placed {
            let counted = other.namespace() == pod.namespace()
                && other.metadata.deletion_timestamp.is_none()
                && selector.matches(&other.metadata);
            let count = node.labels().get(&one.topology_key).and_then(|value| counts.get_mut(value));
            if let Some(count) = count.filter(|_| counted) {
                *count += 1;
            }
        }
        let domains = usize::try_from(one.min_domains.unwrap_or(1)).unwrap_or(1);
        let least = if counts.len() < domains { 0 } else { counts.values().min().copied().unwrap_or(0) };
        Self {
            key: one.topology_key.clone(),
            counts,
            least,
            itself: usize::from(selector.matches(&pod.metadata)),
            most: usize::try_from(one.max_skew).unwrap_or(1),
        }
    }

    fn refusal(&self, node: &Node) -> Option<&'static str> {
        let Some(value) = node.labels().get(&self.key) else {
            return Some("node(s) didn't match pod topology spread constraints (missing required label)");
        };
        let there = self.counts.get(value).copied().unwrap_or(0);
        (there + self.itself > self.least + self.most)
            .then_some("node(s) didn't match pod topology spread constraints")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(name: &str, zone: &str) -> Node {
        let labels = json!({"kubernetes.io/hostname": name, "zone": zone});
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    }

    fn pod(app: &str, namespace: &str, spec: Value) -> Pod {
        let mut spec = spec;
        spec["containers"] = json!([]);
        serde_json::from_value(
            json!({"metadata": {"name": app, "namespace": namespace, "labels": {"app": app}}, "spec": spec}),
        )
        .unwrap()
    }

    fn rule(kind: &str, key: &str, app: &str, extra: Value) -> Value {
        let mut term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}});
        term.as_object_mut().unwrap().extend(extra.as_object().cloned().unwrap_or_default());
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    }

    fn spread(skew: i32) -> Value {
        json!({"topologySpreadConstraints": [{"maxSkew": skew, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "x"}}}]})
    }

    #[test]
    fn other_pods_decide_where_a_pod_may_go() {
        let nodes = [node("a1", "a"), node("a2", "a"), node("b1", "b")];
        let here = [
            (0, pod("x", "d", json!({}))),
            (2, pod("guard", "d", rule("podAntiAffinity", "zone", "intruder", json!({})))),
        ];
        let host = "kubernetes.io/hostname";
        #[rustfmt::skip]
        let cases = [
            (pod("y", "d", json!({})),                                                         &["a1", "a2", "b1"][..], "no rules"),
            (pod("y", "d", rule("podAffinity", "zone", "x", json!({}))),                       &["a1", "a2"],  "near x"),
            (pod("y", "d", rule("podAffinity", host, "x", json!({}))),                         &["a1"],        "on x's node"),
            (pod("y", "d", rule("podAffinity", "zone", "none", json!({}))),                    &[],            "near nobody"),
            (pod("y", "d", rule("podAffinity", "zone", "y", json!({}))),                       &["a1", "a2", "b1"], "the first of its kind"),
            (pod("y", "d", rule("podAffinity", "rack", "y", json!({}))),                       &[],            "no node has the label"),
            (pod("y", "d", rule("podAntiAffinity", "zone", "x", json!({}))),                   &["b1"],        "away from x"),
            (pod("y", "d", rule("podAntiAffinity", host, "x", json!({}))),                     &["a2", "b1"],  "not on x's node"),
            (pod("y", "e", rule("podAntiAffinity", "zone", "x", json!({}))),                   &["a1", "a2", "b1"], "x is in another namespace"),
            (pod("y", "e", rule("podAntiAffinity", "zone", "x", json!({"namespaces": ["d"]}))), &["b1"],       "which is listed"),
            (pod("y", "e", rule("podAntiAffinity", "zone", "x", json!({"namespaceSelector": {}}))), &["b1"],   "or selected"),
            (pod("intruder", "d", json!({})),                                                  &["a1", "a2"],  "kept away by guard"),
            (pod("x", "d", spread(1)),                                                         &["b1"],        "zone b has fewer"),
            (pod("x", "d", spread(2)),                                                         &["a1", "a2", "b1"], "two more are allowed"),
            (pod("y", "d", spread(1)),                                                         &["a1", "a2", "b1"], "it does not count itself"),
        ];
        let all: Vec<&Node> = nodes.iter().collect();
        let placed: Vec<Placed<'_>> = here.iter().map(|(at, pod)| (all[*at], pod)).collect();
        let namespaces = ["d", "e"].map(|name| (name.to_owned(), ObjectMeta::default())).into();
        for (pod, wanted, why) in cases {
            let relations = Relations::of(&pod, &all, &placed, &namespaces);
            let fit: Vec<String> = all
                .iter()
                .filter(|node| relations.refusal(node).is_none())
                .map(|node| node.name_any())
                .collect();
            assert_eq!(fit, wanted, "{why}");
        }
    }
}
