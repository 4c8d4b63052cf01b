//! What somebody far away needs to see of a cluster: objects, logs, health, in one archive.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use kube::Client;
use serde_json::Value;
use tar::{Builder, Header};

use crate::kinds::{self, Kind};
use crate::survey::list;
use crate::{Error, PART_OF, PART_OF_VALUE, reason, status::status};

/// Most bytes of one log.
const LOG_BYTES: usize = 8 << 20;

/// What is looked at, everywhere in the cluster.
const WHOLE: [Kind; 12] = [
    kinds::NODE,
    kinds::POD,
    kinds::NAMESPACE,
    kinds::SERVICE,
    kinds::ENDPOINT_SLICE,
    kinds::NETWORK_POLICY,
    kinds::CLUSTER_NETWORK_POLICY,
    kinds::SERVICE_CIDR,
    kinds::IP_ADDRESS,
    kinds::DAEMON_SET,
    kinds::DEPLOYMENT,
    kinds::EVENT,
];

/// A file of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name without time and ending.
    pub name: String,
    /// Its ending.
    pub ending: &'static str,
    /// Its content.
    pub content: String,
    /// Why it has nothing else in it.
    pub failure: Option<String>,
}

/// Collects everything; what can't be had is a file that says why.
pub async fn collect(client: &Client, namespace: &str, mut progress: impl FnMut(&str)) -> Vec<File> {
    let mut files = Vec::new();
    let version = client.apiserver_version().await;
    let version = version.map(|version| serde_json::to_value(version).unwrap_or_default());
    files.push(document("version", version.map_err(|error| reason(&error))));
    progress("status");
    let state = status(client, namespace).await;
    let state = state.map(|state| serde_json::to_value(state).unwrap_or_default());
    files.push(document("dyad-status", state.map_err(|error| error.to_string())));
    for kind in WHOLE {
        progress(kind.plural);
        let found =
            list(client, kind, "").await.map(|objects| objects.into_iter().map(without_noise).collect());
        files.push(document(kind.plural, found.map_err(|error| error.to_string())));
    }
    // Values of others' ConfigMaps may be nobody's business.
    let selector = format!("{PART_OF}={PART_OF_VALUE}");
    let own = list(client, kinds::CONFIG_MAP, &selector).await;
    files.push(document("dyad-configmaps", own.map(Value::Array).map_err(|error| error.to_string())));
    let pods = list(client, kinds::POD, &selector).await.unwrap_or_default();
    for pod in &pods {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
        let (namespace, name) = (text("namespace"), text("name"));
        progress(name);
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        for (called, query) in [("logs", ""), ("logs-previous", "&previous=true")] {
            if !query.is_empty() && pod["status"]["containerStatuses"][0]["restartCount"] == 0 {
                continue;
            }
            let log = fetch(client, &format!("{path}/log?limitBytes={LOG_BYTES}{query}")).await;
            files.push(file(format!("{called}-{name}"), "log", log));
        }
        if let Some(port) = pod["spec"]["containers"][0]["readinessProbe"]["httpGet"]["port"].as_u64() {
            let health = fetch(client, &format!("{path}:{port}/proxy/healthz")).await;
            files.push(file(format!("healthz-{name}"), "json", health));
            let metrics = match metrics_port(pod) {
                Some(port) => fetch(client, &format!("{path}:{port}/proxy/metrics")).await,
                None => {
                    Ok("on the node's loopback alone: see `--metrics-bind-address` of the agent\n".to_owned())
                }
            };
            files.push(file(format!("metrics-{name}"), "txt", metrics));
        }
    }
    files
}

/// The port of metrics that others than the node can reach.
fn metrics_port(pod: &Value) -> Option<u16> {
    let args = pod["spec"]["containers"][0]["args"].as_array()?;
    // The last one counts.
    let at = args.iter().rev().find_map(|arg| arg.as_str()?.strip_prefix("--metrics-bind-address="))?;
    let at: std::net::SocketAddr = at.parse().ok()?;
    (!at.ip().is_loopback()).then(|| at.port())
}

async fn fetch(client: &Client, path: &str) -> Result<String, String> {
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    client.request_text(request).await.map_err(|error| reason(&error))
}

fn file(name: String, ending: &'static str, found: Result<String, String>) -> File {
    let failure = found.as_ref().err().cloned();
    let content = found.unwrap_or_else(|error| format!("error: {error}\n"));
    File { name, ending, content, failure }
}

fn document(name: &str, found: Result<Value, String>) -> File {
    let failure = found.as_ref().err().cloned();
    let content = match found {
        Ok(value) => serde_saphyr::to_string(&value).unwrap_or_else(|error| format!("# {error}\n")),
        Err(error) => format!("# {}\n", error.replace('\n', " ")),
    };
    File { name: name.to_owned(), ending: "yaml", content, failure }
}

/// An object without who owns which field, and without what containers of others are told, which may be secret.
fn without_noise(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            // A second copy of the object, with what the first one has lost.
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
    }
    let is_ours = object["metadata"]["labels"][PART_OF] == PART_OF_VALUE;
    hide(&mut object, is_ours);
    object
}

/// Takes the values of environments and of probes' headers out of whatever they are in, and command lines of others.
fn hide(value: &mut Value, is_ours: bool) {
    const HIDDEN: &str = "(hidden)";
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match (name.as_str(), field) {
                    ("env" | "httpHeaders", Value::Array(pairs)) => {
                        for pair in pairs.iter_mut().filter(|one| one["value"].is_string()) {
                            pair["value"] = HIDDEN.into();
                        }
                    }
                    ("args" | "command", Value::Array(words)) if !is_ours => *words = vec![HIDDEN.into()],
                    (_, field) => hide(field, is_ours),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, is_ours)),
        _ => {}
    }
}

/// Writes the files as a tar archive, compressed by gzip; `time` is in their names.
pub fn write(files: &[File], time: &str, seconds: u64, to: impl Write) -> Result<(), Error> {
    let writing = |error: std::io::Error| Error::Refused(format!("can't write the archive: {error}"));
    let mut archive = Builder::new(GzEncoder::new(to, Compression::default()));
    for file in files {
        let mut header = Header::new_gnu();
        header.set_mode(0o600);
        header.set_mtime(seconds);
        header.set_size(file.content.len() as u64);
        let path = format!("dyad-sysdump-{time}/{}-{time}.{}", file.name.replace('/', "_"), file.ending);
        archive.append_data(&mut header, path, file.content.as_bytes()).map_err(writing)?;
    }
    archive.into_inner().and_then(GzEncoder::finish).and_then(|mut to| to.flush()).map_err(writing)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_secret_is_written() {
        let pod = json!({
            "metadata": {
                "name": "a", "managedFields": [{"manager": "x"}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "hunter2", "kept": "yes"},
            },
            "spec": {"template": {"spec": {"containers": [{
                "env": [
                    {"name": "PASSWORD", "value": "hunter2"}, {"name": "OTHER", "valueFrom": {"secretKeyRef": {"name": "s"}}},
                ],
                "args": ["--password=hunter2"],
                "livenessProbe": {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": "hunter2"}]}},
                "lifecycle": {"postStart": {"exec": {"command": ["login", "hunter2"]}}},
            }]}}},
        });
        let ours = json!({
            "metadata": {"labels": {PART_OF: PART_OF_VALUE}},
            "spec": {"containers": [{"command": ["/dyad", "agent"]}]},
        });
        assert!(without_noise(ours).to_string().contains("/dyad"), "how agents are started is what matters");
        let text = without_noise(pod).to_string();
        assert!(!text.contains("hunter2") && !text.contains("managedFields"), "{text}");
        assert!(
            text.contains("PASSWORD") && text.contains("secretKeyRef") && text.contains("kept"),
            "{text}"
        );
        assert!(!WHOLE.iter().any(|kind| kind.plural == "secrets" || kind.plural == "configmaps"));
    }

    #[test]
    fn files_are_named_by_what_and_when() {
        let files = [document("nodes", Ok(json!([{"a": 1}]))), document("pods", Err("not\nallowed".into()))];
        let mut bytes = Vec::new();
        write(&files, "20260101-000000", 1, &mut bytes).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            std::io::Read::read_to_string(&mut entry, &mut content).unwrap();
            found.push((entry.path().unwrap().display().to_string(), content));
        }
        assert_eq!(found[0].0, "dyad-sysdump-20260101-000000/nodes-20260101-000000.yaml");
        assert_eq!(found[1].1, "# not allowed\n");
        assert_eq!(files.map(|file| file.failure.is_some()), [false, true]);
    }
}
