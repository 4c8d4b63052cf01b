//! What plugins are told of a pod, and what they answer. Pure.

use std::net::IpAddr;

use dyad_model::quantity::Quantity;
use dyad_net::{IpFamily, IpNet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value, json};

use super::conf::List;

/// The link that pods have.
pub(crate) const IFNAME: &str = "eth0";
/// How much may be sent at once by a pod whose rate is limited: all that the field holds, as other runtimes have it.
const BURST: u32 = u32::MAX;

/// A pod as plugins know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// The identifier of its sandbox.
    pub(crate) container_id: String,
    /// The path of its network namespace; nothing when that is gone.
    pub(crate) netns: Option<String>,
}

/// `CNI_ARGS` of a pod, key by key.
pub(crate) fn args(pod: &Pod, container_id: &str) -> Vec<(String, String)> {
    let meta = &pod.metadata;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let own = [
        ("K8S_POD_NAMESPACE", text(&meta.namespace)),
        ("K8S_POD_NAME", text(&meta.name)),
        ("K8S_POD_INFRA_CONTAINER_ID", container_id.to_owned()),
        ("K8S_POD_UID", text(&meta.uid)),
    ];
    // Plugins that know none of these shall not mind.
    let ignore = ("IgnoreUnknown".to_owned(), "1".to_owned());
    [ignore].into_iter().chain(own.map(|(key, value)| (key.to_owned(), value))).collect()
}

/// What a pod asks for that plugins with the capability for it are told.
pub(crate) fn capability_args(pod: &Pod) -> Map<String, Value> {
    let mut all = Map::new();
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports: Vec<Value> = containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let host_port = port.host_port.filter(|port| *port > 0)?;
            Some(json!({
                "hostPort": host_port,
                "containerPort": port.container_port,
                "protocol": port.protocol.as_deref().unwrap_or("TCP").to_lowercase(),
                "hostIP": port.host_ip.as_deref().unwrap_or_default(),
            }))
        })
        .collect();
    if !ports.is_empty() {
        all.insert("portMappings".into(), ports.into());
    }
    let annotations = pod.metadata.annotations.as_ref();
    let rate = |key: &str| annotations?.get(key).and_then(|text| Quantity::parse(text)).map(Quantity::whole);
    let mut bandwidth = Map::new();
    for (key, direction) in
        [("kubernetes.io/ingress-bandwidth", "ingress"), ("kubernetes.io/egress-bandwidth", "egress")]
    {
        if let Some(rate) = rate(key) {
            bandwidth.insert(format!("{direction}Rate"), rate.into());
            bandwidth.insert(format!("{direction}Burst"), BURST.into());
        }
    }
    if !bandwidth.is_empty() {
        all.insert("bandwidth".into(), bandwidth.into());
    }
    all
}

/// What one plugin reads: its configuration, with what the list, the pod and the plugins before it add.
pub(crate) fn input(
    list: &List,
    plugin: &Map<String, Value>,
    previous: Option<&Value>,
    capability_args: &Map<String, Value>,
) -> Value {
    let mut input = plugin.clone();
    input.insert("name".into(), list.name.as_str().into());
    input.insert("cniVersion".into(), list.version.as_str().into());
    input.extend(previous.map(|result| ("prevResult".to_owned(), result.clone())));
    let can =
        |name: &str| plugin.get("capabilities").and_then(|all| all.get(name)) == Some(&Value::Bool(true));
    let known: Map<String, Value> =
        capability_args.iter().filter(|(name, _)| can(name)).map(|(k, v)| (k.clone(), v.clone())).collect();
    if !known.is_empty() {
        input.insert("runtimeConfig".into(), known.into());
    }
    input.into()
}

/// The addresses of the pod's link in a result: the first one of each family, `primary` first (B7).
pub(crate) fn addresses(result: &Value, primary: IpFamily) -> Result<Vec<IpAddr>, String> {
    let interfaces = result.get("interfaces").and_then(Value::as_array);
    let is_own = |ip: &Value| {
        // Without an index, or a list to find it in, it can only be the pod's.
        let Some(index) = ip.get("interface").and_then(Value::as_u64) else { return true };
        let Some(interfaces) = interfaces else { return true };
        let found = usize::try_from(index).ok().and_then(|index| interfaces.get(index));
        found.is_some_and(|one| {
            one.get("name").and_then(Value::as_str) == Some(IFNAME)
                && one.get("sandbox").and_then(Value::as_str).is_some_and(|sandbox| !sandbox.is_empty())
        })
    };
    let mut found = Vec::new();
    for ip in result.get("ips").and_then(Value::as_array).into_iter().flatten().filter(|ip| is_own(ip)) {
        let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
        let net: IpNet =
            text.parse().map_err(|_| format!("ips: {text:?} is not an address with a prefix length"))?;
        found.push(net.addr());
    }
    let of = |family: IpFamily| found.iter().copied().find(|ip| IpFamily::from(*ip) == family);
    let ordered: Vec<IpAddr> = [primary, primary.other()].into_iter().filter_map(of).collect();
    if ordered.is_empty() {
        return Err(format!(
            "failed to find network info for sandbox: no address of {IFNAME} in the plugins' result"
        ));
    }
    Ok(ordered)
}

/// What a plugin that failed says of it, in libcni's words.
pub(crate) fn complaint(stdout: &[u8], stderr: &[u8], status: &str) -> String {
    let error: Option<Value> = serde_json::from_slice(stdout).ok();
    let text = |key: &str| error.as_ref()?.get(key)?.as_str().filter(|text| !text.is_empty());
    match (text("msg"), text("details")) {
        (Some(message), Some(details)) => format!("{message}; {details}"),
        (Some(message), None) => message.to_owned(),
        (None, _) => {
            let said = [stdout, stderr].map(|bytes| String::from_utf8_lossy(bytes).trim().to_owned());
            match said.into_iter().find(|said| !said.is_empty()) {
                Some(said) => format!("netplugin failed: {said:?}"),
                None => format!("netplugin failed with no error message: {status}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        let ports = json!([{"containerPort": 80, "hostPort": 8080, "hostIP": "::1"}, {"containerPort": 81},
            {"containerPort": 53, "hostPort": 5353, "protocol": "UDP"}]);
        let annotations = json!({"kubernetes.io/ingress-bandwidth": "10M"});
        serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "b", "uid": "u", "annotations": annotations},
            "spec": {"containers": [{"name": "c", "ports": ports}]},
        }))
        .unwrap()
    }

    #[test]
    fn plugins_are_told_what_they_have_capabilities_for() {
        let text = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"a"},
            {"type":"b","capabilities":{"portMappings":true,"bandwidth":false}}]}"#;
        let list = List::parse(text.as_bytes()).unwrap();
        let args = capability_args(&pod());
        assert_eq!(args["bandwidth"], json!({"ingressRate": 10_000_000, "ingressBurst": 4_294_967_295_u32}));
        assert_eq!(
            input(&list, &list.plugins[0], None, &args),
            json!({"cniVersion": "1.0.0", "name": "net", "type": "a"})
        );
        let second = input(&list, &list.plugins[1], Some(&json!({"x": 1})), &args);
        assert_eq!(second["prevResult"], json!({"x": 1}));
        assert_eq!(
            second["runtimeConfig"],
            json!({"portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "::1"},
                {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": ""},
            ]})
        );
    }

    #[test]
    fn a_pod_is_named_as_other_runtimes_name_it() {
        let text: Vec<String> =
            args(&pod(), "id").iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            text.join(";"),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_INFRA_CONTAINER_ID=id;K8S_POD_UID=u"
        );
    }

    #[test]
    fn b7_addresses_are_those_of_the_pods_link_in_the_nodes_order() {
        let interfaces = json!([{"name": "veth1"}, {"name": "eth0", "sandbox": "/x"}, {"name": "eth0"},
            {"name": "net1", "sandbox": "/x"}]);
        let ips = json!([{"address": "10.9.9.9/24", "interface": 0}, {"address": "10.8.8.8/24", "interface": 3}, {"address": "10.0.0.2/24", "interface": 1},
            {"address": "10.0.0.3/24", "interface": 1}, {"address": "fd00::2/64"}, {"address": "fd00::9/64", "interface": 2}]);
        let result = json!({"interfaces": interfaces, "ips": ips});
        let texts = |family| -> Vec<String> {
            addresses(&result, family).unwrap().iter().map(ToString::to_string).collect()
        };
        assert_eq!(texts(IpFamily::V4), ["10.0.0.2", "fd00::2"]);
        assert_eq!(texts(IpFamily::V6), ["fd00::2", "10.0.0.2"]);
        assert!(addresses(&json!({"ips": []}), IpFamily::V4).unwrap_err().contains("no address of eth0"));
        assert!(addresses(&json!({"ips": [{"address": "x"}]}), IpFamily::V4).unwrap_err().contains("\"x\""));
    }

    #[test]
    fn complaints_are_passed_on() {
        for (stdout, stderr, want) in [
            (r#"{"code":11,"msg":"try later","details":"no ranges"}"#, "", "try later; no ranges"),
            (r#"{"code":7,"msg":"bad"}"#, "x", "bad"),
            ("", "boom\n", "netplugin failed: \"boom\""),
            ("", "", "netplugin failed with no error message: exit status: 1"),
        ] {
            assert_eq!(complaint(stdout.as_bytes(), stderr.as_bytes(), "exit status: 1"), want);
        }
    }
}
