//! What is in `deploy/` and `docs/install.md` is what the chart's templates and values make.
//!
//! `cargo xtask deploy` writes it anew.

use std::path::{Path, PathBuf};

use dyad_install::manifests::{of_templates, to_yaml};
use dyad_install::{Values, manifests};
use serde_json::json;

#[path = "deploy/schema.rs"]
mod schema;

const CRD: &str = "policy.networking.k8s.io_clusternetworkpolicies.yaml";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Compares, or writes if that is asked for.
fn is(path: &str, wanted: &str) {
    let at = root().join(path);
    if std::env::var_os("DYAD_WRITE_DEPLOY").is_some() {
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(&at, wanted).unwrap();
    }
    assert!(read(&at) == wanted, "{path} is not what the chart makes: run `cargo xtask deploy`");
}

#[test]
fn the_kustomize_base_is_the_chart_with_its_defaults() {
    let version = env!("CARGO_PKG_VERSION");
    let objects = of_templates(&Values::default(), "kube-system", "kustomize", version).unwrap();
    let head = "# Made by `cargo xtask deploy` from deploy/helm/dyad.\n";
    is("deploy/kustomize/dyad.yaml", &format!("{head}{}", to_yaml(&objects)));
    is("deploy/kustomize/crd.yaml", &read(&root().join("deploy/crds").join(CRD)));
    is(
        "deploy/kustomize/kustomization.yaml",
        &format!(
            "{head}apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n  - crd.yaml\n  - dyad.yaml\n\
             images:\n  - name: dyad\n    newTag: {version}\n"
        ),
    );
}

#[test]
fn the_chart_has_the_version_and_the_definitions() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = read(&root().join("deploy/helm/dyad/Chart.yaml"));
    let written: Vec<String> = chart
        .lines()
        .map(|line| match line.split_once(": ") {
            Some(("version", _)) => format!("version: {version}\n"),
            Some(("appVersion", _)) => format!("appVersion: \"{version}\"\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    is("deploy/helm/dyad/Chart.yaml", &written.concat());
    is(&format!("deploy/helm/dyad/crds/{CRD}"), &read(&root().join("deploy/crds").join(CRD)));
}

/// The names of values, and what the comments say of them.
fn comments() -> Vec<(String, String)> {
    let text = read(&root().join("deploy/helm/dyad/values.yaml"));
    let (mut found, mut comment, mut section) = (Vec::new(), String::new(), String::new());
    for line in text.lines() {
        let bare = line.trim_start();
        if let Some(said) = bare.strip_prefix("# ") {
            comment = format!("{comment} {said}").trim().to_owned();
            continue;
        }
        let depth = line.len() - bare.len();
        if let Some((name, _)) = bare.split_once(':').filter(|_| depth <= 2 && !bare.starts_with('-')) {
            let key = if depth == 0 { name.to_owned() } else { format!("{section}.{name}") };
            if depth == 0 {
                section = name.to_owned();
            }
            if !comment.is_empty() {
                found.push((key, std::mem::take(&mut comment)));
            }
        }
        comment.clear();
    }
    found
}

/// The rows of the table: names, defaults, and what the comments say.
fn table() -> String {
    let values = serde_json::to_value(Values::default()).unwrap();
    let row = |(key, comment): (String, String)| {
        let default = key.split('.').fold(&values, |value, part| &value[part]);
        (!default.is_null()).then(|| format!("| `{key}` | `{default}` | {comment} |\n"))
    };
    comments().into_iter().filter_map(row).collect()
}

#[test]
fn helm_takes_what_dyad_install_takes() {
    let said = comments();
    let said = |path: &str| said.iter().find(|(key, _)| key == path).map(|(_, comment)| comment.clone());
    let schema = schema::of_values(said);
    let of = |path: &str| path.split('.').fold(&schema, |schema, name| &schema["properties"][name]).clone();
    for (path, key, value) in [
        ("cni.routing", "enum", json!(["auto", "direct", "vxlan", "wireguard"])),
        ("cni.binDir", "pattern", json!("^/")),
        ("proxy.cgroupRoot", "pattern", json!("^(/|$)")),
        ("image.repository", "pattern", json!(".")),
        ("api.port", "maximum", json!(65535)),
        ("agent.verbosity", "maximum", json!(255)),
        ("agent.maxUnavailable", "type", json!(["integer", "string"])),
        ("agent.nodeSelector", "additionalProperties", json!({"type": "string"})),
        ("image.pullSecrets", "items", json!({"type": "object"})),
        ("clusterCIDR", "items", json!({"type": "string"})),
        ("proxy", "additionalProperties", json!(false)),
        ("policy.openPods", "type", json!("boolean")),
    ] {
        assert_eq!(of(path)[key], value, "{path}: {}", of(path));
    }
    assert!(of("agent.resources")["additionalProperties"].is_null(), "anything may be asked for");
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    is("deploy/helm/dyad/values.schema.json", &text);
}

#[test]
fn the_documents_table_of_values_is_complete() {
    let document = read(&root().join("docs/install.md"));
    let (begin, end) = ("<!-- values -->\n", "<!-- /values -->\n");
    let (before, rest) = document.split_once(begin).expect("docs/install.md has a place for the table");
    let (_, after) = rest.split_once(end).expect("the place has an end");
    let table = format!("| value | default | what it is |\n|---|---|---|\n{}", table());
    for key in ["clusterCIDR", "proxy.enabled", "dns.clusterIPs", "agent.nodeSelector", "crds.enabled"] {
        assert!(table.contains(&format!("| `{key}` |")), "{key}:\n{table}");
    }
    is("docs/install.md", &format!("{before}{begin}{table}{end}{after}"));
}

#[test]
fn what_is_checked_in_can_be_installed() {
    // The same objects as `dyad install` has, but for who looks after them and what is known of a cluster.
    let own = manifests(&Values::default(), &dyad_install::Facts::default()).unwrap();
    let base =
        of_templates(&Values::default(), "kube-system", "kustomize", env!("CARGO_PKG_VERSION")).unwrap();
    let text = |objects: &[serde_json::Value]| to_yaml(objects).replace("kustomize", dyad_install::MANAGER);
    let own: Vec<_> = own.into_iter().filter(|one| one["kind"] != "CustomResourceDefinition").collect();
    assert_eq!(own.len(), base.len());
    assert!(own.iter().all(|one| text(&base).contains(&text(std::slice::from_ref(one)))));
}
