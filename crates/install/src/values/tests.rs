use serde_json::json;

use super::chosen::defaults;
use super::*;

fn chosen(files: &[&str], sets: &[&str]) -> Result<Values, ValuesError> {
    let mut chosen = Chosen::default();
    for text in files {
        chosen.file(text)?;
    }
    for text in sets {
        chosen.set(text)?;
    }
    chosen.values()
}

#[test]
fn defaults_are_those_of_the_chart() {
    let own = Values::default();
    assert_eq!(own.to_json(), Value::Object(defaults()), "no value more, no value less");
    assert!(own.proxy.enabled && own.cni.enabled && own.policy.enabled && !own.dns.enabled);
}

#[test]
fn the_last_one_wins() {
    let file = "proxy:\n  enabled: false\n  nodePortAddresses: [primary]\nagent:\n  nodeSelector: {a: b}\n";
    let values = chosen(
        &[file, "# nothing\n", "cni: {routing: vxlan}"],
        &["proxy.enabled=true,image.tag=12", "cni.routing=direct", "agent.extraArgs={--a=b\\,c,-v}"],
    )
    .unwrap();
    assert!(values.proxy.enabled);
    assert_eq!(values.proxy.node_port_addresses, ["primary"]);
    assert_eq!(values.image.tag, "12", "a tag of digits is a text");
    assert_eq!(values.cni.routing, Routing::Direct);
    assert_eq!(values.agent.extra_args, ["--a=b,c", "-v"]);
    assert_eq!(values.agent.node_selector.len(), 2, "maps are merged");
    let values =
        chosen(&[], &["agent.nodeSelector.kubernetes\\.io/os=null,agent.maxUnavailable=10%"]).unwrap();
    assert!(values.agent.node_selector.is_empty());
    assert_eq!(values.agent.max_unavailable, json!("10%"));
    let values = chosen(&[], &["clusterCIDR={fd00:10:244::/56,10.244.0.0/16}"]).unwrap();
    assert_eq!(values.cluster_cidr.len(), 2);
}

#[test]
fn what_makes_no_sense_is_named() {
    for (files, sets, problem) in [
        (&["proxi: {enabled: false}"][..], &[][..], "proxi: there is no such value: the top has agent, api,"),
        (
            &[],
            &["proxy.enable=false"],
            "proxy.enable: there is no such value: proxy has cgroupRoot, dataplane, enabled,",
        ),
        (
            &[],
            &["proxy.enabled=yes"],
            "proxy.enabled: \"yes\" is a text, and true or false is wanted, as true",
        ),
        (&[], &["proxy=true"], "proxy: true is true or false, and a map is wanted"),
        (&["- a"], &[], "the file: is no map of values"),
        (&["a: ["], &[], ""),
        (&[], &["proxy.dataplane=iptables"], "proxy.dataplane: unknown variant `iptables`"),
        (&[], &["agent.nodeSelector.a=true"], "agent.nodeSelector.a: invalid type: boolean `true`"),
        (
            &["image: {tag: 1.10}"],
            &[],
            "image.tag: 1.1 is a number, and a text is wanted: write it in quotes",
        ),
        (&[], &["proxy.cgroupRoot=kubepods"], "proxy.cgroupRoot: \"kubepods\" is no absolute path"),
        (&[], &["clusterCIDR={10.0.0.0/8,11.0.0.0/8}"], "clusterCIDR: one of each family at most"),
        (
            &[],
            &["clusterCIDR={10.0.0.0}"],
            "clusterCIDR[0]: \"10.0.0.0\": invalid IP address syntax: write a range with its length",
        ),
        (
            &[],
            &["cni.nodeAddressCIDRs={fd00::/8,x}"],
            "cni.nodeAddressCIDRs[1]: \"x\": invalid IP address syntax: write a range",
        ),
        (
            &[],
            &["dns.clusterIPs={10.0.0}"],
            "dns.clusterIPs[0]: \"10.0.0\": invalid IP address syntax: write an address",
        ),
        (&[], &["cni.routing=bgp"], "cni.routing: unknown variant `bgp`, expected one of `auto`"),
        (&[], &["cni.ipam=derived"], "cni.derive.from: \"\" is no range with a length"),
        (
            &[],
            &["cni.ipam=derived,cni.derive.from=10.0.0.0/16:24,cni.derive.to=fd00::/48:12"],
            "cni.derive.to: the range fd00::/48 is smaller than one /12",
        ),
        (
            &[],
            &["cni.ipam=derived,cni.derive.from=10.0.0.0/16:24,cni.derive.to=10.9.0.0/16:24"],
            "cni.derive.to: 10.0.0.0/16 and 10.9.0.0/16 are both IPv4",
        ),
        (&[], &["cni.confDir=net.d"], "cni.confDir: \"net.d\" is no absolute path"),
        (&[], &["cni.binDir=/opt/../bin"], "cni.binDir: \"/opt/../bin\" is no absolute path"),
        (&[], &["dns.upstreams={a b}"], "dns.upstreams: \"a b\" is no server"),
        (&[], &["cni.mtu=99"], "cni.mtu: 99 is not in 1280..=65535"),
        (&[], &["image.repository="], "image.repository: \"\" is no name"),
        (&[], &["proxy.enabled"], "--set \"proxy.enabled\": has no value"),
        (&[], &["=a"], "has no key"),
        (&[], &["dns.upstreams[0]=a"], "one item of a list"),
        (&[], &["dns.upstreams={a"], "a list without }"),
        (&[], &["api.port=70000"], "api.port: invalid value: integer `70000`"),
    ] {
        let error = chosen(files, sets).expect_err(problem).to_string();
        assert!(error.contains(problem), "{files:?} {sets:?}: {error}");
    }
}

#[test]
fn what_was_chosen_can_be_kept() {
    let mut one = Chosen::default();
    one.set("proxy.enabled=false,image.tag=\"7\",dns.upstreams={192.0.2.53}").unwrap();
    let mut other = Chosen::default();
    other.file(&one.to_yaml()).unwrap();
    assert_eq!(one, other);
    assert_eq!(Chosen::default().to_yaml().trim(), "{}");
}

/// Whatever is set, it is taken or refused.
#[test]
fn nothing_that_is_set_is_the_end_of_the_program() {
    let words = ["a", "proxy", ".", "=", ",", "{", "}", "\\", "[0]", "0", "-1", "null", "é", " ", "enabled"];
    let mut seed = 7u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..8 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            text.push_str(words[(seed >> 33) as usize % words.len()]);
        }
        let mut chosen = Chosen::default();
        let _ = chosen.set(&text).and_then(|()| chosen.values().map(drop));
    }
}
