//! What an object takes of its namespace's quotas, and whether there is enough left. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::quantity::Quantity;
use crate::{pod, pod_spec, wire};

/// Amounts by resource, and whether they are written in powers of two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage(BTreeMap<String, (Quantity, bool)>);

/// Marks resources of claims of one class: `CLASS.storageclass.storage.k8s.io/requests.storage`.
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";

/// Resources that containers must ask for where they are limited.
const ASKED: [&str; 6] = ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

impl Usage {
    /// Of an object of a resource, named by its group and plural.
    pub fn of(group: &str, plural: &str, object: &Value) -> Self {
        let mut usage = Self::default();
        let counted = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
        usage.one(&format!("count/{counted}"));
        match (group, plural) {
            ("", "pods") => usage.pod(object),
            ("", "services") => usage.service(wire::at(object, &["spec"])),
            ("", "persistentvolumeclaims") => usage.claim(object),
            ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => usage.one(plural),
            _ => {}
        }
        usage
    }

    /// Of a map of quantities.
    fn read(map: &Value) -> Self {
        let mut usage = Self::default();
        for (name, value) in map.as_object().into_iter().flatten() {
            usage.put(name, value);
        }
        usage
    }

    fn put(&mut self, name: &str, value: &Value) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if let Some(quantity) = Quantity::parse(&text) {
            self.0.insert(name.to_owned(), (quantity, text.ends_with('i')));
        }
    }

    fn one(&mut self, name: &str) {
        self.count(name, 1);
    }

    fn count(&mut self, name: &str, count: usize) {
        self.put(name, &Value::from(count));
    }

    fn pod(&mut self, pod: &Value) {
        // A pod that has ended takes nothing but its place in the store.
        if matches!(wire::text(wire::at(pod, &["status"]), "phase"), "Succeeded" | "Failed") {
            return;
        }
        self.one("pods");
        let total = pod_spec::total_resources(wire::at(pod, &["spec"]));
        for (name, value) in wire::entries(&total, "requests") {
            let plain =
                matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
            if plain {
                self.put(name, value);
            }
            if plain || name.contains('/') {
                self.put(&format!("requests.{name}"), value);
            }
        }
        for (name, value) in wire::entries(&total, "limits") {
            if matches!(name, "cpu" | "memory" | "ephemeral-storage") {
                self.put(&format!("limits.{name}"), value);
            }
        }
    }

    fn service(&mut self, spec: &Value) {
        let ports = wire::list(spec, "ports");
        let kind = wire::text(spec, "type");
        let allocates = wire::at(spec, &["allocateLoadBalancerNodePorts"]) != &Value::Bool(false);
        let chosen = ports.iter().filter(|port| wire::int(port, "nodePort").unwrap_or_default() != 0).count();
        let node_ports = match kind {
            "NodePort" => ports.len(),
            "LoadBalancer" if allocates => ports.len(),
            "LoadBalancer" => chosen,
            _ => 0,
        };
        self.one("services");
        self.count("services.nodeports", node_ports);
        self.count("services.loadbalancers", usize::from(kind == "LoadBalancer"));
    }

    fn claim(&mut self, claim: &Value) {
        let spec = wire::at(claim, &["spec"]);
        let class = wire::text(spec, "storageClassName");
        let size = wire::at(spec, &["resources", "requests", "storage"]);
        self.one("persistentvolumeclaims");
        if !size.is_null() {
            self.put("requests.storage", size);
        }
        if !class.is_empty() {
            let own: Vec<_> = ["persistentvolumeclaims", "requests.storage"]
                .into_iter()
                .filter_map(|name| Some((format!("{class}{OF_CLASS}{name}"), *self.0.get(name)?)))
                .collect();
            self.0.extend(own);
        }
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(mut self, more: &Self) -> Self {
        for (name, (value, binary)) in &more.0 {
            let sum = self.0.entry(name.clone()).or_insert((Quantity::default(), *binary));
            if !sum.0.is_positive() {
                sum.1 = *binary;
            }
            sum.0 = sum.0 + *value;
        }
        self
    }

    /// What is more than in `other`, which may be nothing.
    fn beyond(&self, other: &Self) -> Self {
        let more = self.0.iter().map(|(name, (value, binary))| {
            let before = other.0.get(name).map_or_else(Quantity::default, |(value, _)| *value);
            (name.clone(), (value.minus(before), *binary))
        });
        Self(more.filter(|(_, (value, _))| value.is_positive()).collect())
    }

    /// Only what has one of these names.
    #[must_use]
    pub fn among<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let kept = names.into_iter().filter_map(|name| Some((name.to_owned(), *self.0.get(name)?)));
        Self(kept.collect())
    }

    /// As a map of quantities, every one of `names` among them.
    pub fn to_map<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Map<String, Value> {
        let shown = |name: &str| {
            self.0.get(name).map_or_else(|| "0".to_owned(), |(value, binary)| value.shown(*binary))
        };
        names.into_iter().map(|name| (name.to_owned(), shown(name).into())).collect()
    }

    fn text(&self) -> String {
        let parts: Vec<String> =
            self.0.iter().map(|(name, (value, binary))| format!("{name}={}", value.shown(*binary))).collect();
        parts.join(",")
    }
}

/// Whether a quota is about an object: it limits something the object takes, and all its scopes fit.
pub fn counts(quota: &Value, (group, plural): (&str, &str), object: &Value) -> bool {
    let spec = wire::at(quota, &["spec"]);
    let is_pod = (group, plural) == ("", "pods");
    let scoped = wire::texts(spec, "scopes").all(|scope| is_pod && in_scope(scope, "Exists", &[], object));
    let mut expressions = wire::list(wire::at(spec, &["scopeSelector"]), "matchExpressions").iter();
    let selected = expressions.all(|one| {
        let values: Vec<&str> = wire::texts(one, "values").collect();
        is_pod && in_scope(wire::text(one, "scopeName"), wire::text(one, "operator"), &values, object)
    });
    scoped && selected
}

fn in_scope(scope: &str, operator: &str, values: &[&str], pod: &Value) -> bool {
    let spec = wire::at(pod, &["spec"]);
    let terminating = wire::int(spec, "activeDeadlineSeconds").is_some_and(|seconds| seconds >= 0);
    let best_effort = || pod::quality_class(spec) == "BestEffort";
    let class = wire::text(spec, "priorityClassName");
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => match operator {
            "In" => values.contains(&class) && !class.is_empty(),
            "NotIn" => !values.contains(&class),
            "DoesNotExist" => class.is_empty(),
            _ => !class.is_empty(),
        },
        "CrossNamespacePodAffinity" => crosses_namespaces(wire::at(spec, &["affinity"])),
        _ => false,
    }
}

fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses =
        |term: &Value| !wire::list(term, "namespaces").is_empty() || wire::has(term, "namespaceSelector");
    ["podAffinity", "podAntiAffinity"].into_iter().any(|kind| {
        let pods = wire::at(affinity, &[kind]);
        let preferred = wire::list(pods, "preferredDuringSchedulingIgnoredDuringExecution").iter();
        wire::list(pods, "requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || preferred.map(|one| wire::at(one, &["podAffinityTerm"])).any(crosses)
    })
}

/// The `status.used` of a quota once `new` is there in place of `old`; `None` if that changes nothing. The error says
/// why it cannot be.
pub fn charge(
    quota: &Value,
    resource: (&str, &str),
    old: Option<&Value>,
    new: &Value,
) -> Result<Option<Map<String, Value>>, String> {
    if !counts(quota, resource, new) {
        return Ok(None);
    }
    let (group, plural) = resource;
    let name = wire::text(wire::at(quota, &["metadata"]), "name");
    let status = wire::at(quota, &["status"]);
    let hard = Usage::read(wire::at(status, &["hard"]));
    let used = Usage::read(wire::at(status, &["used"]));
    let usage = Usage::of(group, plural, new);
    let names: Vec<&str> =
        hard.0.keys().map(String::as_str).filter(|name| concerns(resource, name)).collect();
    if names.is_empty() {
        return Ok(None);
    }
    if resource == ("", "pods") {
        must_ask(new, &names).map_err(|missing| format!("failed quota: {name}: must specify {missing}"))?;
    }
    if names.iter().any(|resource| !used.0.contains_key(*resource)) {
        return Err(format!("status unknown for quota: {name}, resources: {}", names.join(",")));
    }
    let before = old.filter(|old| counts(quota, resource, old)).map(|old| Usage::of(group, plural, old));
    let asked = usage.beyond(&before.unwrap_or_default()).among(names.iter().copied());
    if asked.0.is_empty() {
        return Ok(None);
    }
    let after = used.clone().plus(&asked);
    let exceeded: Vec<&str> = asked
        .0
        .keys()
        .map(String::as_str)
        .filter(|name| {
            after.0.get(*name).map(|(value, _)| *value) > hard.0.get(*name).map(|(value, _)| *value)
        })
        .collect();
    if !exceeded.is_empty() {
        let part = |usage: &Usage| usage.among(exceeded.iter().copied()).text();
        return Err(format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            part(&asked),
            part(&used),
            part(&hard)
        ));
    }
    Ok(Some(after.to_map(after.0.keys().map(String::as_str))))
}

/// Whether objects of a resource, named by its group and plural, can take something of this name.
pub fn concerns((group, plural): (&str, &str), name: &str) -> bool {
    let counted = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    if name.strip_prefix("count/").is_some_and(|one| one == counted) {
        return true;
    }
    let bare = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    match (group, plural) {
        ("", "pods") => {
            matches!(bare, "pods" | "cpu" | "memory" | "ephemeral-storage")
                || bare.starts_with("hugepages-")
                || (name.starts_with("requests.") && name.contains('/'))
        }
        ("", "services") => matches!(name, "services" | "services.nodeports" | "services.loadbalancers"),
        ("", "persistentvolumeclaims") => {
            let bare = name.split_once(OF_CLASS).map_or(name, |(_, bare)| bare);
            matches!(bare, "persistentvolumeclaims" | "requests.storage")
        }
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => name == plural,
        _ => false,
    }
}

/// Where processors or memory are limited, every container has to say what it takes.
fn must_ask(pod: &Value, limited: &[&str]) -> Result<(), String> {
    let spec = wire::at(pod, &["spec"]);
    if !wire::is_empty(wire::at(spec, &["resources"])) {
        return Ok(());
    }
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for container in ["containers", "initContainers"].iter().flat_map(|list| wire::list(spec, list)) {
        for name in ASKED.into_iter().filter(|name| limited.contains(name)) {
            let (list, resource) = match name.split_once('.') {
                Some((list, resource)) => (list, resource),
                None => ("requests", name),
            };
            if !wire::has(wire::at(container, &["resources", list]), resource) {
                missing.entry(name).or_default().push(wire::text(container, "name"));
            }
        }
    }
    let texts: Vec<String> = missing
        .into_iter()
        .map(|(name, mut containers)| {
            containers.sort_unstable();
            format!("{name} for: {}", containers.join(","))
        })
        .collect();
    if texts.is_empty() { Ok(()) } else { Err(texts.join("; ")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}})
    }

    const PODS: (&str, &str) = ("", "pods");

    #[test]
    fn a_quota_is_charged_until_it_is_spent() {
        let now =
            quota(json!({"pods": "2", "requests.cpu": "2"}), json!({"pods": "1", "requests.cpu": "1500m"}));
        assert_eq!(
            charge(&now, PODS, None, &pod("500m")).unwrap(),
            json!({"pods": "2", "requests.cpu": "2"}).as_object().cloned()
        );
        assert_eq!(
            charge(&now, PODS, None, &pod("1")),
            Err("exceeded quota: q, requested: requests.cpu=1, used: requests.cpu=1500m, limited: requests.cpu=2".into())
        );
        assert_eq!(charge(&now, PODS, Some(&pod("1")), &pod("1")), Ok(None), "it was charged before");
        assert_eq!(
            charge(&now, PODS, None, &json!({"spec": {"containers": [{"name": "c"}]}})),
            Err("failed quota: q: must specify requests.cpu for: c".into())
        );
        let unknown = quota(json!({"pods": "2"}), json!({}));
        assert_eq!(
            charge(&unknown, PODS, None, &pod("1")),
            Err("status unknown for quota: q, resources: pods".into())
        );
        assert_eq!(charge(&now, ("", "secrets"), None, &json!({})), Ok(None), "it is not about those");
    }

    #[test]
    fn services_take_ports_and_balancers() {
        let service = |spec: Value| Usage::of("", "services", &json!({ "spec": spec }));
        let names = ["services", "services.nodeports", "services.loadbalancers"];
        let rows = [
            (json!({"ports": [{}]}), ["1", "0", "0"]),
            (json!({"type": "NodePort", "ports": [{}, {}]}), ["1", "2", "0"]),
            (json!({"type": "LoadBalancer", "ports": [{}]}), ["1", "1", "1"]),
            (
                json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"nodePort": 3}, {}]}),
                ["1", "1", "1"],
            ),
        ];
        for (spec, wanted) in rows {
            let map = service(spec.clone()).to_map(names);
            assert_eq!(
                names.map(|name| map[name].as_str().unwrap().to_owned()),
                wanted.map(str::to_owned),
                "{spec}"
            );
        }
    }

    #[test]
    fn scopes_choose_pods() {
        let scoped = |spec: Value| json!({ "spec": spec });
        let short =
            json!({"spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high", "containers": [{}]}});
        let select = |operator: &str, values: Value| {
            scoped(json!({"scopeSelector": {"matchExpressions": [
                {"scopeName": "PriorityClass", "operator": operator, "values": values}]}}))
        };
        let rows = [
            (scoped(json!({})), true),
            (scoped(json!({"scopes": ["Terminating"]})), true),
            (scoped(json!({"scopes": ["NotTerminating"]})), false),
            (scoped(json!({"scopes": ["BestEffort", "Terminating"]})), true),
            (scoped(json!({"scopes": ["NotBestEffort"]})), false),
            (select("In", json!(["high"])), true),
            (select("NotIn", json!(["high"])), false),
            (select("Exists", json!(null)), true),
        ];
        for (quota, wanted) in rows {
            assert_eq!(counts(&quota, PODS, &short), wanted, "{quota}");
        }
    }
}
