//! `metrics.k8s.io/v1beta1`: what nodes and pods use now, asked of the kubelets when somebody asks (`kubectl top`).

use std::time::Duration;

use dyad_model::selector::{FieldSelector, LabelSelector};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use super::negotiate::Format;
use super::path::ResourcePath;
use super::relay::{self, Relayed};
use super::respond::{self, Body};
use super::routes::{Api, Call};
use super::streams::text;
use crate::status::{About, ApiError};

/// The group of these resources.
pub(crate) const GROUP: &str = "metrics.k8s.io";
/// Its version.
pub(crate) const VERSION: &str = "v1beta1";
/// How long a node may take to say what it uses; the others are shown without it.
const NODE_MAX: Duration = Duration::from_secs(10);
/// Most bytes of what a node says.
const SUMMARY_BYTES: usize = 16 << 20;
/// What figures of processor time are the mean of.
const WINDOW: &str = "10s";

/// Name, singular name, kind and whether in namespaces.
pub(crate) const RESOURCES: [(&str, &str, bool); 2] =
    [("nodes", "NodeMetrics", false), ("pods", "PodMetrics", true)];

impl Api {
    pub(super) async fn figures(
        &self,
        call: &Call<'_>,
        place: &ResourcePath,
        verb: &str,
    ) -> Result<Response<Body>, ApiError> {
        let known = RESOURCES.iter().find(|(plural, ..)| *plural == place.plural);
        let Some((plural, kind, namespaced)) =
            known.filter(|_| place.version == VERSION && place.subresource.is_empty())
        else {
            return Err(ApiError::no_such_path());
        };
        if !matches!(verb, "get" | "list") {
            return Err(ApiError::method_not_routed());
        }
        let misplaced = if *namespaced {
            place.namespace.is_empty() && !place.name.is_empty()
        } else {
            !place.namespace.is_empty()
        };
        if misplaced {
            return Err(ApiError::no_such_path());
        }
        let labels = LabelSelector::parse(call.query.get("labelSelector"))
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let fields = FieldSelector::parse(call.query.get("fieldSelector"))
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        // Whose figures are wanted is decided by the objects themselves.
        let resource = &self.registry.builtin_served("", plural).resource;
        let objects: Vec<Value> =
            resource.cache.snapshot(&place.namespace).items.iter().map(|one| one.value()).collect();
        let wanted: Vec<&Value> = objects
            .iter()
            .filter(|object| place.name.is_empty() || text(object, "/metadata/name") == place.name)
            .filter(|object| {
                labels.matches_by(|key| object["metadata"]["labels"].get(key).and_then(Value::as_str))
            })
            .filter(|object| {
                fields.matches(|field| match field {
                    "metadata.name" => text(object, "/metadata/name"),
                    "metadata.namespace" => text(object, "/metadata/namespace"),
                    "spec.nodeName" => text(object, "/spec/nodeName"),
                    _ => "",
                })
            })
            .collect();
        let field = if *namespaced { "/spec/nodeName" } else { "/metadata/name" };
        let mut nodes: Vec<&str> =
            wanted.iter().map(|object| text(object, field)).filter(|name| !name.is_empty()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let summaries: Vec<Value> = nodes
            .into_iter()
            .map(
                |node| async move { tokio::time::timeout(NODE_MAX, self.summary(node)).await.ok().flatten() },
            )
            .collect::<FuturesUnordered<_>>()
            .filter_map(|summary| async move { summary })
            .collect()
            .await;
        let items: Vec<Value> = wanted
            .iter()
            .filter_map(|object| {
                if *namespaced { pod_figures(object, &summaries) } else { node_figures(object, &summaries) }
            })
            .collect();
        if !place.name.is_empty() {
            let about = About { group: GROUP, resource: plural, kind, name: &place.name };
            let mut item = items.into_iter().next().ok_or_else(|| ApiError::not_found(about))?;
            item["kind"] = (*kind).into();
            item["apiVersion"] = format!("{GROUP}/{VERSION}").into();
            return Ok(respond::value(StatusCode::OK, Format::Json, &item));
        }
        let list = json!({
            "kind": format!("{kind}List"), "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items,
        });
        Ok(respond::value(StatusCode::OK, Format::Json, &list))
    }

    /// What a node says of itself and its pods.
    async fn summary(&self, node: &str) -> Option<Value> {
        let kubelet = self.kubelet(node).ok()?;
        let relayed = Relayed {
            method: Method::GET,
            target: "/stats/summary".into(),
            headers: http::HeaderMap::new(),
            body: relay::empty(),
            upgrade: None,
        };
        let answered = match relay::ask_kubelet(&self.reach, &kubelet, relayed).await {
            Ok(answered) => answered,
            Err(error) => {
                tracing::debug!(node, error, "a node does not say what it uses");
                return None;
            }
        };
        let bytes = Limited::new(answered.into_body(), SUMMARY_BYTES).collect().await.ok()?.to_bytes();
        serde_json::from_slice(&bytes).ok()
    }
}

/// What is used, as quantities.
fn usage(found: &Value) -> Option<Value> {
    let cpu = found.pointer("/cpu/usageNanoCores")?.as_u64()?;
    let memory = found.pointer("/memory/workingSetBytes")?.as_u64()?;
    Some(json!({"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory / 1024)}))
}

fn metadata(object: &Value, time: &str) -> Value {
    let mut metadata = json!({"name": text(object, "/metadata/name"), "creationTimestamp": time});
    for field in ["namespace", "labels"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    metadata
}

fn node_figures(object: &Value, summaries: &[Value]) -> Option<Value> {
    let name = text(object, "/metadata/name");
    let found = summaries.iter().map(|summary| &summary["node"]).find(|node| node["nodeName"] == name)?;
    let time = text(found, "/cpu/time");
    Some(json!({
        "metadata": metadata(object, time), "timestamp": time, "window": WINDOW, "usage": usage(found)?,
    }))
}

fn pod_figures(object: &Value, summaries: &[Value]) -> Option<Value> {
    let uid = text(object, "/metadata/uid");
    let pods = summaries.iter().flat_map(|summary| summary["pods"].as_array()).flatten();
    let found = pods.into_iter().find(|pod| text(pod, "/podRef/uid") == uid)?;
    let time = text(found, "/cpu/time");
    let containers = found["containers"].as_array().into_iter().flatten();
    let containers: Vec<Value> =
        containers.filter_map(|one| Some(json!({"name": one["name"], "usage": usage(one)?}))).collect();
    Some(json!({
        "metadata": metadata(object, time), "timestamp": time, "window": WINDOW, "containers": containers,
    }))
}
