//! Random histories of requests, recorded with the answers of a Kubernetes 1.36 API server: ours must be the same,
//! save for what every server chooses for itself (uids, versions, times, automatic addresses and ports).
//!
//! Each line of a file is one history: `steps` of `[method, path, content type, body]` and what came of each in
//! `want`. The methods `RMW` and `RMW-STATUS` read the object, change fields of its spec or status, and PUT it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;

use dyad_net::{IpNet, parse_range_list};
use dyad_store::MemoryStore;
use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};

use crate::harness::{Api, DUAL};

const V4: &str = "10.96.0.0/16";
const V6: &str = "fd00:10:96::/112";
/// What every server chooses for itself.
const DROPPED: [&str; 5] = ["uid", "creationTimestamp", "resourceVersion", "selfLink", "time"];
const TIMES: [&str; 3] = ["deletionTimestamp", "startTime", "lastTransitionTime"];

async fn replay(file: &[u8], ranges: &str) {
    let mut text = String::new();
    GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let api = Api::with(ranges, Arc::new(MemoryStore::new())).await;
    let mut different = Vec::new();
    for line in text.lines() {
        let history: Value = serde_json::from_str(line).unwrap();
        let steps = history["steps"].as_array().unwrap();
        // Who owns what was recorded with these only.
        let mut names = Names { owners: history["kind"] == "apply", ..Names::new(steps) };
        for (step, want) in steps.iter().zip(history["want"].as_array().unwrap()) {
            let got = run(&api, step, &mut names).await;
            // Where the recorded server crashed, this one refuses.
            let refused = got["code"].as_u64().is_some_and(|code| (400..500).contains(&code));
            let mut want = want.clone();
            if let Some(object) = want.get_mut("object") {
                sort_owners(object);
            }
            if got != want && !(want["dropped"] == true && refused) {
                different.push(format!("{step}\n  want {want}\n  got  {got}"));
                break;
            }
        }
    }
    assert!(
        different.is_empty(),
        "{} histories differ, for instance\n{}",
        different.len(),
        different[..different.len().min(3)].join("\n")
    );
}

async fn run(api: &Api, step: &Value, names: &mut Names) -> Value {
    let text = |index: usize| step[index].as_str().unwrap_or_default();
    let (method, path, content_type, body) = (text(0), text(1), text(2), &step[3]);
    let headers = [("content-type", content_type)];
    let answer = if let "RMW" | "RMW-STATUS" = method {
        let current = api.get(path.strip_suffix("/status").unwrap_or(path)).await;
        if current.code != 200 {
            return json!({"code": current.code.as_u16(), "skipped": true});
        }
        let mut object = current.json();
        let part = if method == "RMW" { "spec" } else { "status" };
        change(&mut object[part], body);
        api.put(path, object).await
    } else {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        api.send(method, path, &headers, body).await
    };
    let (code, object) = (answer.code.as_u16(), answer.json());
    if code >= 400 {
        return failure(code, &object, names);
    }
    if object["kind"] == "Status" {
        json!({"code": code})
    } else {
        let mut object = names.object(&object, "");
        sort_owners(&mut object);
        json!({"code": code, "object": object})
    }
}

fn change(part: &mut Value, changes: &Value) {
    if part.is_null() {
        *part = json!({});
    }
    for (key, value) in changes.as_object().into_iter().flatten() {
        let ips = part["clusterIPs"].as_array().cloned().unwrap_or_default();
        match value.as_str() {
            Some("first") => part[key] = ips.into_iter().take(1).collect(),
            Some("swap") => part[key] = ips.into_iter().rev().collect(),
            _ if value.is_null() => {
                part.as_object_mut().unwrap().remove(key);
            }
            _ => part[key] = value.clone(),
        }
    }
    // Reading an absent list leaves a null behind.
    if part["clusterIPs"].is_null() {
        part.as_object_mut().unwrap().remove("clusterIPs");
    }
}

/// Owners of the same second have no order.
fn sort_owners(object: &mut Value) {
    if let Some(owners) = object.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut) {
        owners.sort_by_key(Value::to_string);
    }
}

fn failure(code: u16, status: &Value, names: &mut Names) -> Value {
    let mut causes: Vec<Value> = status["details"]["causes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|cause| {
            json!([
                cause["field"],
                cause["reason"],
                names.text(cause["message"].as_str().unwrap_or_default())
            ])
        })
        .collect();
    let texts = |cause: &Value| [0, 1, 2].map(|index| cause[index].as_str().unwrap_or_default().to_owned());
    causes.sort_by_key(texts);
    let message = if causes.is_empty() {
        names.text(status["message"].as_str().unwrap_or_default()).into()
    } else {
        Value::Null
    };
    let causes = if causes.is_empty() { Value::Null } else { causes.into() };
    json!({"code": code, "reason": status["reason"], "causes": causes, "message": message})
}

/// Names for what the server chose, in the order of their first appearance.
struct Names {
    ranges: Vec<IpNet>,
    /// Whether owners of fields are compared.
    owners: bool,
    /// Everything that some request said; what the client chose keeps its value.
    requested: BTreeSet<String>,
    seen: BTreeMap<String, String>,
    counts: BTreeMap<&'static str, usize>,
}

impl Names {
    fn new(steps: &[Value]) -> Self {
        let mut requested = BTreeSet::new();
        for step in steps {
            scalars(&step[3], &mut requested);
        }
        let canonical: Vec<String> =
            requested.iter().filter_map(|text| Some(text.parse::<IpAddr>().ok()?.to_string())).collect();
        requested.extend(canonical);
        let ranges = [V4, V6].map(|net| *parse_range_list(net).unwrap().primary()).into();
        Self { ranges, owners: false, requested, seen: BTreeMap::new(), counts: BTreeMap::new() }
    }

    fn name(&mut self, value: &str, sort: &'static str) -> String {
        if let Some(name) = self.seen.get(value) {
            return name.clone();
        }
        let count = self.counts.entry(sort).or_default();
        *count += 1;
        let name = format!("<{sort}#{count}>");
        self.seen.insert(value.to_owned(), name.clone());
        name
    }

    fn ip(&mut self, text: &str) -> String {
        let Ok(ip) = text.parse::<IpAddr>() else { return text.to_owned() };
        let chosen = !self.requested.contains(text)
            && !self.requested.contains(&ip.to_string())
            && self.ranges.iter().any(|net| net.contains(&ip));
        if chosen { self.name(text, if ip.is_ipv4() { "v4" } else { "v6" }) } else { text.to_owned() }
    }

    fn port(&mut self, port: &Value) -> Value {
        let text = port.to_string();
        if !port.is_i64() || port == 0 || self.requested.contains(&text) {
            return port.clone();
        }
        self.name(&text, "np").into()
    }

    fn object(&mut self, value: &Value, key: &str) -> Value {
        match value {
            Value::Object(map) => {
                // In the order of the keys, which is the one in which names are given.
                let sorted: BTreeMap<&String, &Value> = map.iter().collect();
                let dropped = |key: &str| DROPPED.contains(&key) || (key == "managedFields" && !self.owners);
                let kept: Vec<_> = sorted.into_iter().filter(|(key, _)| !dropped(key)).collect();
                let kept = kept.into_iter();
                kept.map(|(key, value)| (key.clone(), self.object(value, key))).collect::<Map<_, _>>().into()
            }
            Value::Array(list) => list.iter().map(|value| self.object(value, key)).collect(),
            _ if matches!(key, "nodePort" | "healthCheckNodePort") => self.port(value),
            _ if TIMES.contains(&key) => "<time>".into(),
            Value::String(text) if matches!(key, "clusterIP" | "clusterIPs") => self.ip(text).into(),
            _ => value.clone(),
        }
    }

    /// A message with what the server chose replaced, and values that Go prints as structs cut.
    fn text(&mut self, text: &str) -> String {
        let mut text = text.to_owned();
        if let Some(at) = text.find("Duplicate value: {").filter(|_| text.ends_with('}')) {
            text.replace_range(at.., "Duplicate value: <object>");
        }
        let mut from = 0;
        while let Some(at) = text[from..].find("Invalid value: {").map(|at| from + at) {
            let Some(end) = text[at..].find("}: ").map(|end| at + end + 3) else { break };
            text.replace_range(at..end, "Invalid value: <object>: ");
            from = at + 1;
        }
        let text = self.words(
            &text,
            |c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase() || c == '-',
            |_, word| {
                let groups: Vec<usize> = word.split('-').map(str::len).collect();
                (groups == [8, 4, 4, 4, 12]).then(|| "<uid>".to_owned())
            },
        );
        let address = |c: char| c.is_ascii_hexdigit() && !c.is_ascii_uppercase() || c == ':' || c == '.';
        let text = self.words(&text, address, |names, word| {
            // Something must follow the first separator for it to be taken for an address at all.
            word.contains([':', '.']).then(|| names.ip(word))
        });
        let mut out = String::new();
        let mut rest = text.as_str();
        while let Some((before, number)) = ["Duplicate value: ", "Invalid value: ", "port "]
            .into_iter()
            .filter_map(|prefix| rest.find(prefix).map(|at| at + prefix.len()))
            .min()
            .map(|at| rest.split_at(at))
        {
            out.push_str(before);
            let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
            let (port, after) = number.split_at(digits);
            let is_port =
                port.len() == 5 && port.as_bytes()[0] == b'3' && matches!(port.as_bytes()[1], b'0'..=b'2');
            let name = if is_port { self.port(&port.parse::<i64>().unwrap().into()) } else { port.into() };
            out.push_str(&name.as_str().map_or_else(|| name.to_string(), str::to_owned));
            rest = after;
        }
        out + rest
    }

    /// Replaces words made of some letters.
    fn words(
        &mut self,
        text: &str,
        letter: impl Fn(char) -> bool,
        replace: impl Fn(&mut Self, &str) -> Option<String>,
    ) -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find(&letter) {
            let (before, from) = rest.split_at(start);
            let end = from.find(|c| !letter(c)).unwrap_or(from.len());
            let (word, after) = from.split_at(end);
            out.push_str(before);
            out.push_str(&replace(self, word).unwrap_or_else(|| word.to_owned()));
            rest = after;
        }
        out + rest
    }
}

fn scalars(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.values().for_each(|value| scalars(value, into)),
        Value::Array(list) => list.iter().for_each(|value| scalars(value, into)),
        Value::String(text) => _ = into.insert(text.clone()),
        other => _ = into.insert(other.to_string()),
    }
}

macro_rules! histories {
    ($($name:ident: $file:literal, $ranges:expr;)*) => {
        $(#[tokio::test]
        async fn $name() {
            replay(include_bytes!(concat!("histories/", $file, ".jsonl.gz")), $ranges).await;
        })*
    };
}

histories! {
    services_on_ipv4: "service-v4", V4;
    services_on_ipv6: "service-v6", V6;
    services_on_ipv4_and_ipv6: "service-v4v6", DUAL;
    services_on_ipv6_and_ipv4: "service-v6v4", "fd00:10:96::/112,10.96.0.0/16";
    nodes_on_ipv6: "node-v6", V6;
    nodes_on_ipv4_and_ipv6: "node-v4v6", DUAL;
    applies_by_several_managers: "apply-v4v6", DUAL;
    pods_on_ipv6: "pod-v6", V6;
    pods_on_ipv4_and_ipv6: "pod-v4v6", DUAL;
}
