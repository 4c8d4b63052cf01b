//! The objects that pods and volumes refer to by name, as far as whoever runs the pod has to read them.

use serde_json::Value;

use super::Thing;

const MIRROR: &str = "kubernetes.io/config.mirror";

/// A PersistentVolume that is bound to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) name: String,
    /// Namespace of its claim.
    pub(crate) namespace: String,
    pub(crate) claim: String,
    /// Namespace and name of each secret that kubelets need for it.
    pub(crate) secrets: Vec<(String, String)>,
}

/// Whether a change of a pod, as JSON, leaves what it refers to as it is, as long as the pod stays itself: that can only
/// be added to by containers for debugging and by claims of resources, and is nothing for pods that mirror files.
pub(crate) fn settled(json: &[u8]) -> bool {
    const TELLING: [&str; 3] = ["\"ephemeralContainers\"", "\"resourceClaim", MIRROR];
    std::str::from_utf8(json).is_ok_and(|text| !TELLING.iter().any(|telling| text.contains(telling)))
}

/// What a pod refers to in its own namespace. Pods that mirror a node's own files refer to nothing: a node must not be
/// able to help itself to objects.
pub(crate) fn of_pod(pod: &Value) -> Vec<(Thing, String)> {
    if !pod["metadata"]["annotations"][MIRROR].is_null() {
        return Vec::new();
    }
    let spec = &pod["spec"];
    let mut found = Vec::new();
    add(&mut found, Thing::Account, &spec["serviceAccountName"]);
    for reference in list(&spec["imagePullSecrets"]) {
        add(&mut found, Thing::Secret, &reference["name"]);
    }
    for container in
        ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|of| list(&spec[*of]))
    {
        for from in list(&container["envFrom"]) {
            add(&mut found, Thing::Secret, &from["secretRef"]["name"]);
            add(&mut found, Thing::ConfigMap, &from["configMapRef"]["name"]);
        }
        for variable in list(&container["env"]) {
            add(&mut found, Thing::Secret, &variable["valueFrom"]["secretKeyRef"]["name"]);
            add(&mut found, Thing::ConfigMap, &variable["valueFrom"]["configMapKeyRef"]["name"]);
        }
    }
    for volume in list(&spec["volumes"]) {
        of_pods_volume(&mut found, pod, volume);
    }
    for claim in list(&spec["resourceClaims"]) {
        let named =
            list(&pod["status"]["resourceClaimStatuses"]).find(|status| status["name"] == claim["name"]);
        let from_template = named.map_or(&Value::Null, |status| &status["resourceClaimName"]);
        let direct = &claim["resourceClaimName"];
        add(&mut found, Thing::ResourceClaim, if direct.is_null() { from_template } else { direct });
    }
    add(&mut found, Thing::ResourceClaim, &pod["status"]["extendedResourceClaimStatus"]["resourceClaimName"]);
    found
}

fn of_pods_volume(found: &mut Vec<(Thing, String)>, pod: &Value, volume: &Value) {
    for source in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
        add(found, Thing::Secret, &volume[source]["secretRef"]["name"]);
    }
    add(found, Thing::Secret, &volume["azureFile"]["secretName"]);
    add(found, Thing::Secret, &volume["secret"]["secretName"]);
    add(found, Thing::Secret, &volume["csi"]["nodePublishSecretRef"]["name"]);
    add(found, Thing::ConfigMap, &volume["configMap"]["name"]);
    for source in list(&volume["projected"]["sources"]) {
        add(found, Thing::Secret, &source["secret"]["name"]);
        add(found, Thing::ConfigMap, &source["configMap"]["name"]);
    }
    add(found, Thing::Claim, &volume["persistentVolumeClaim"]["claimName"]);
    if volume["ephemeral"].is_object() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        found.push((Thing::Claim, format!("{}-{}", text(&pod["metadata"]["name"]), text(&volume["name"]))));
    }
}

/// A volume that is bound to a claim, with the secrets that kubelets need for it. Those that only controllers need are
/// none of a node's business.
pub(crate) fn of_volume(volume: &Value) -> Option<Volume> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let spec = &volume["spec"];
    let claim = spec.get("claimRef").filter(|claim| claim.is_object())?;
    let namespace = text(&claim["namespace"]);
    let mut secrets = Vec::new();
    let mut add = |of: &Value, name: &Value| {
        let (of, name) = (text(of), text(name));
        if !name.is_empty() {
            secrets.push((if of.is_empty() { namespace.clone() } else { of }, name));
        }
    };
    add(&spec["azureFile"]["secretNamespace"], &spec["azureFile"]["secretName"]);
    for source in ["cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"] {
        let secret = &spec[source]["secretRef"];
        add(&secret["namespace"], &secret["name"]);
    }
    for key in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        let secret = &spec["csi"][key];
        add(&secret["namespace"], &secret["name"]);
    }
    Some(Volume { name: text(&volume["metadata"]["name"]), claim: text(&claim["name"]), namespace, secrets })
}

/// The first of a mirror pod's references to API objects, which it may not have, in the words of its refusal.
pub(super) fn of_mirror(pod: &Value) -> Option<&'static str> {
    let spec = &pod["spec"];
    let bare = |value: &Value| value.as_str().is_none_or(str::is_empty);
    if !bare(&spec["serviceAccountName"]) {
        return Some("serviceaccounts");
    }
    let mut as_any = pod.clone();
    if let Some(annotations) = as_any["metadata"]["annotations"].as_object_mut() {
        annotations.remove(MIRROR);
    }
    let found = of_pod(&as_any);
    for (thing, name) in [(Thing::Secret, "secrets"), (Thing::ConfigMap, "configmaps")] {
        if found.iter().any(|(of, _)| *of == thing) {
            return Some(name);
        }
    }
    if list(&spec["resourceClaims"]).next().is_some() {
        return Some("resourceclaims");
    }
    list(&spec["volumes"]).find_map(|volume| {
        let volumes = [
            ("configMap", "configmaps (via configmap volumes)"),
            ("secret", "secrets (via secret volumes)"),
            ("csi", "csidrivers (via CSI volumes)"),
            ("glusterfs", "endpoints (via glusterFS volumes)"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
            ("azureFile", "secrets (via azureFile volumes)"),
        ];
        let projected = [
            ("configMap", "configmaps (via projected volumes)"),
            ("secret", "secrets (via projected volumes)"),
            ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
            ("clusterTrustBundle", "clustertrustbundles"),
            ("podCertificate", "podcertificates"),
        ];
        let named = |of: &Value, names: &[(&str, &'static str)]| {
            names.iter().find(|(key, _)| of[*key].is_object()).map(|(_, name)| *name)
        };
        let parts = list(&volume["projected"]["sources"]);
        named(volume, &volumes).or_else(|| parts.into_iter().find_map(|source| named(source, &projected)))
    })
}

/// What a mirror pod may not have whoever makes it, because what it is granted is granted to its node.
pub(crate) fn mirror_fault(pod: &Value) -> Option<&'static str> {
    pod["metadata"]["annotations"].get(MIRROR)?;
    let projects = |volume: &Value| {
        list(&volume["projected"]["sources"]).any(|source| source["serviceAccountToken"].is_object())
    };
    match of_mirror(pod) {
        Some("serviceaccounts") => Some("a mirror pod may not reference service accounts"),
        Some("secrets") => Some("a mirror pod may not reference secrets"),
        _ if list(&pod["spec"]["volumes"]).any(projects) => {
            Some("a mirror pod may not use ServiceAccountToken volume projections")
        }
        _ => None,
    }
}

fn add(found: &mut Vec<(Thing, String)>, thing: Thing, name: &Value) {
    if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
        found.push((thing, name.to_owned()));
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
