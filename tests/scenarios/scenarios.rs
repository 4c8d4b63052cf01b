//! Runs the scenarios beside this file; see README.md there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use dyad_net::{DualStack, IpFamily};
use dyad_program::rule::{Decision, Direction, Id, Member, Peers, Ports, Rule};
use dyad_program::{Action, Compiler, Inputs, Name, NodeView, Program, Scope, Table, policy, wire};
use serde_json::Value;

/// What ends a document and begins the next one.
const SEPARATOR: &str = "---\n";
/// Before the text of what is expected.
const EXPECT: &str = "expect: |\n";

fn node() -> NodeView {
    let both = |v4: &str, v6: &str| DualStack::dual(IpFamily::V4, v4.parse().unwrap(), v6.parse().unwrap());
    let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let nodes: [IpAddr; 4] =
        ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"].map(|ip| ip.parse().unwrap());
    NodeView {
        name: "node1".into(),
        own_pods: list(&["10.244.1.0/24", "fd00:10:244:1::/64"]),
        cluster_pods: both("10.244.0.0/16", "fd00:10:244::/56"),
        node_pods: [].into(),
        services: list(&["10.96.0.0/16", "fd00:10:96::/112"]),
        nodes: nodes.into(),
        zone: Some("a".into()),
        node_ports: IpFamily::BOTH.map(IpFamily::everything).to_vec(),
        open_pods: false,
        masquerade_pods: true,
        egress: dyad_program::Egress::default(),
    }
}

/// The objects there are, by kind and name, as they came.
#[derive(Default)]
struct World {
    objects: BTreeMap<(String, Name), Value>,
}

fn name_of(object: &Value) -> (String, Name) {
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let kind = object["kind"].as_str().expect("an object has a kind");
    let namespace = match kind {
        "Namespace" | "ClusterNetworkPolicy" => "",
        _ => object["metadata"]["namespace"].as_str().unwrap_or("default"),
    };
    (kind.to_owned(), Name::new(namespace, text("name")))
}

/// The object as the API server would give it.
fn served(mut object: Value) -> Value {
    if !matches!(name_of(&object).0.as_str(), "Namespace" | "ClusterNetworkPolicy")
        && object["metadata"]["namespace"].is_null()
    {
        object["metadata"]["namespace"] = "default".into();
    }
    object
}

/// Tells the compiler about an object, or that it is gone.
fn set(compiler: &mut Compiler, (kind, name): &(String, Name), object: Option<&Value>) {
    let name = name.clone();
    match kind.as_str() {
        "Service" => {
            let service = object.and_then(|object| wire::service_from_value(object).unwrap());
            compiler.set_service(name, service.map(|(_, service)| service));
        }
        "EndpointSlice" => {
            let slice = object.and_then(|object| wire::slice_from_value(object).unwrap());
            compiler.set_slice(name, slice.map(|(_, slice)| slice));
        }
        "Pod" => {
            let pod = object.and_then(|object| policy::wire::pod_from_value(object).unwrap());
            compiler.set_pod(name, pod.map(|(_, pod)| pod));
        }
        "Namespace" => {
            let labels = object.map(|object| policy::wire::namespace_from_value(object).unwrap().1);
            compiler.set_namespace(name.to_string().trim_start_matches('/'), labels);
        }
        "NetworkPolicy" => {
            let policy = object.map(|object| policy::wire::network_policy_from_value(object).unwrap().1);
            compiler.set_network_policy(name, policy);
        }
        "ClusterNetworkPolicy" => {
            let policy = object.and_then(|object| policy::wire::cluster_policy_from_value(object).unwrap());
            compiler.set_cluster_policy(name, policy.map(|(_, policy)| policy));
        }
        other => panic!("objects of kind {other} are no part of scenarios"),
    }
}

impl World {
    /// The program compiled from all objects at once.
    fn compiled(&self) -> Program {
        let mut compiler = Compiler::of(&Inputs::new(node()));
        self.objects.iter().for_each(|(name, object)| set(&mut compiler, name, Some(object)));
        compiler.step();
        compiler.program().clone()
    }
}

/// A table in words. What never changes in a scenario, the ranges, is left out.
fn describe(table: &Table) -> String {
    let mut text = String::new();
    let join = |items: Vec<String>| items.join(", ");
    for ((scope, at), action) in &table.frontends {
        let whose = match scope {
            Scope::Cluster => "",
            Scope::Local => ", from outside",
        };
        let what = match action {
            Action::Reject => "reject".to_owned(),
            Action::Drop => "drop".to_owned(),
            Action::Forward { slots, sticky } => {
                let ends = join(table.slots(*scope, *at).map(|(_, to)| to.to_string()).collect());
                let sticky = sticky.map(|seconds| format!(", the same for {seconds} s")).unwrap_or_default();
                let members: BTreeSet<_> = table.members(*scope, *at).collect();
                let in_slots: BTreeSet<_> = table.slots(*scope, *at).map(|(_, to)| to).collect();
                assert_eq!(usize::from(*slots), table.slots(*scope, *at).count(), "{at}");
                assert!(sticky.is_empty() == members.is_empty() && members.is_subset(&in_slots), "{at}");
                format!("{ends}{sticky}")
            }
        };
        let _ = writeln!(text, "{at}{whose}: {what}");
    }
    for at in &table.guarded {
        let _ = writeln!(
            text,
            "{at} only from: {}",
            join(table.sources_of(*at).map(|range| range.to_string()).collect())
        );
    }
    if !table.hairpin.is_empty() {
        let _ = writeln!(
            text,
            "endpoints here: {}",
            join(table.hairpin.iter().map(ToString::to_string).collect())
        );
    }
    let mut described = BTreeSet::new();
    for ((direction, ip), id) in &table.isolated {
        let word = match direction {
            Direction::Ingress => "to",
            Direction::Egress => "from",
        };
        let _ = writeln!(text, "{word} {ip}:");
        describe_chain(table, *id, "  ", &mut described, &mut text);
    }
    assert_eq!(described, table.chains.keys().copied().collect(), "every chain is somebody's");
    text
}

fn describe_chain(table: &Table, id: Id, indent: &str, described: &mut BTreeSet<Id>, text: &mut String) {
    described.insert(id);
    for rule in table.chains[&id].iter() {
        let (action, next) = match rule.decision {
            Decision::Accept => ("accept", None),
            Decision::Deny => ("deny", None),
            Decision::Goto(next) => ("go on", Some(next)),
        };
        let _ = writeln!(text, "{indent}{action}{}: {}", matches(table, rule), rule.because);
        if let Some(next) = next.filter(|next| !described.contains(next)) {
            describe_chain(table, next, &format!("{indent}  "), described, text);
        }
    }
}

/// What a rule matches, with what is in its sets.
fn matches(table: &Table, rule: &Rule) -> String {
    let of = |id: Id| -> Vec<String> {
        let members = table.members.iter().filter(|(set, _)| *set == id);
        members
            .map(|(_, member)| match member {
                Member::Peer(ip) => ip.to_string(),
                Member::Block(range) => range.to_string(),
                Member::NamedPort(ip, protocol, port) => {
                    format!("{}/{}", std::net::SocketAddr::new(*ip, *port), protocol.as_str())
                }
            })
            .collect()
    };
    let list = |items: Vec<String>| if items.is_empty() { "nobody".to_owned() } else { items.join(", ") };
    let word = match rule.direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let peers = match rule.peers {
        Peers::Any => String::new(),
        Peers::Set(id) | Peers::Blocks(id) => format!(" {word} {}", list(of(id))),
    };
    let ports = match rule.ports {
        Ports::Any => String::new(),
        Ports::Range(protocol, 0, u16::MAX) => format!(" over {}", protocol.as_str()),
        Ports::Range(protocol, first, last) if first == last => format!(" on {first}/{}", protocol.as_str()),
        Ports::Range(protocol, first, last) => format!(" on {first}-{last}/{}", protocol.as_str()),
        Ports::Named(id) => format!(" at {}", list(of(id))),
    };
    format!("{peers}{ports}")
}

fn describe_all(program: &Program) -> String {
    let mut text = String::new();
    for (family, table) in program.iter() {
        let words = describe(table);
        let words = if words.is_empty() { "nothing\n".to_owned() } else { words };
        let _ = writeln!(text, "{family}");
        text.extend(words.lines().map(|line| format!("  {line}\n")));
    }
    text
}

/// Runs one file; what it should be instead, if it is not that.
fn run(path: &Path) -> (String, String) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut compiler = Compiler::of(&Inputs::new(node()));
    let empty = compiler.program().clone();
    let mut world = World::default();
    let mut documents = Vec::new();
    for document in text.split(SEPARATOR) {
        let value: Value = serde_saphyr::from_str(document)
            .unwrap_or_else(|error| panic!("{}: {error}\n{document}", path.display()));
        if value["kind"].is_string() {
            let object = served(value);
            let name = name_of(&object);
            set(&mut compiler, &name, Some(&object));
            world.objects.insert(name, object);
        } else if let Some(gone) = value["delete"].as_array() {
            for gone in gone.iter().filter_map(Value::as_str) {
                let (kind, name) = gone.split_once(' ').expect("Kind namespace/name");
                let (namespace, name) = name.split_once('/').unwrap_or(("", name));
                let key = (kind.to_owned(), Name::new(namespace, name));
                assert!(world.objects.remove(&key).is_some(), "{}: there is no {gone}", path.display());
                set(&mut compiler, &key, None);
            }
        } else if let Some(at) = document.find(EXPECT) {
            compiler.step();
            assert_eq!(*compiler.program(), world.compiled(), "{}: step by step and at once", path.display());
            let indented = describe_all(compiler.program());
            let indented: String = indented.lines().map(|line| format!("  {line}\n")).collect();
            documents.push(format!("{}{indented}", &document[..at + EXPECT.len()]));
            continue;
        } else {
            assert!(value.is_null(), "{}: what is this?\n{document}", path.display());
        }
        documents.push(document.to_owned());
    }
    for name in world.objects.keys() {
        set(&mut compiler, name, None);
        compiler.step();
    }
    assert_eq!(*compiler.program(), empty, "{}: something is left", path.display());
    (text, documents.join(SEPARATOR))
}

#[test]
fn every_scenario_comes_out_as_it_says() {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/scenarios");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(files.len() >= 12, "{files:?}");
    for path in files {
        let (is, should) = run(&path);
        if std::env::var_os("DYAD_WRITE_SCENARIOS").is_some() {
            std::fs::write(&path, should).unwrap();
        } else {
            assert!(is.contains(EXPECT), "{} expects nothing", path.display());
            assert_eq!(is, should, "{}", path.display());
        }
    }
}
