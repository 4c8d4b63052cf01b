//! The files a pod gets: `/etc/hosts` (B22) and `/etc/resolv.conf` (B24). Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, PodDNSConfig};

const HOSTS_HEAD: &str = "# Kubernetes-managed hosts file.\n\
    127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\n\
    fe00::2\tip6-allrouters\n";
/// What the C library reads of each; more are an error to some programs.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// `/etc/hosts` of a pod with its own network.
pub(crate) fn hosts(ips: &[IpAddr], hostname: &str, domain: Option<&str>, aliases: &[HostAlias]) -> String {
    let mut text = HOSTS_HEAD.to_owned();
    for ip in ips {
        match domain {
            Some(domain) => text.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n")),
            None => text.push_str(&format!("{ip}\t{hostname}\n")),
        }
    }
    text.push_str(&alias_lines(aliases));
    text
}

/// `/etc/hosts` of a pod in the node's network: the node's own and the pod's aliases.
pub(crate) fn host_network_hosts(node: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let lines = aliases.iter().map(|alias| {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        format!("{}\t{names}\n", alias.ip)
    });
    format!("\n# Entries added by HostAliases.\n{}", lines.collect::<String>())
}

/// What a `resolv.conf` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    /// Whom to ask.
    pub(crate) nameservers: Vec<String>,
    /// What to append to short names.
    pub(crate) searches: Vec<String>,
    /// Everything else.
    pub(crate) options: Vec<String>,
}

impl Resolver {
    /// Reads a `resolv.conf`; the last `search` and the last `options` count.
    pub(crate) fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolver.nameservers.extend(words.next()),
                Some("search" | "domain") => resolver.searches = words.collect(),
                Some("options") => resolver.options = words.collect(),
                _ => {}
            }
        }
        resolver
    }

    /// The file's text.
    pub(crate) fn render(&self) -> String {
        let mut text: String = self.nameservers.iter().map(|ip| format!("nameserver {ip}\n")).collect();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// What decides about a pod's `resolv.conf`.
pub(crate) struct ResolverInput<'a> {
    /// `spec.dnsPolicy`.
    pub(crate) policy: &'a str,
    /// `spec.hostNetwork`.
    pub(crate) host_network: bool,
    /// `metadata.namespace`.
    pub(crate) namespace: &'a str,
    /// `spec.dnsConfig`.
    pub(crate) config: Option<&'a PodDNSConfig>,
    /// The cluster's DNS servers; without any, pods ask whom the node asks.
    pub(crate) cluster_dns: &'a [IpAddr],
    /// The cluster's domain.
    pub(crate) cluster_domain: &'a str,
    /// The node's `resolv.conf`.
    pub(crate) node: &'a Resolver,
}

/// The pod's `resolv.conf`.
pub(crate) fn resolver(input: &ResolverInput<'_>) -> Resolver {
    let cluster = match input.policy {
        "None" => return merge(Resolver::default(), input.config),
        "Default" => false,
        "ClusterFirstWithHostNet" => true,
        _ => !input.host_network,
    };
    if !cluster || input.cluster_dns.is_empty() {
        return merge(input.node.clone(), input.config);
    }
    let (namespace, domain) = (input.namespace, input.cluster_domain);
    let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
    let resolver = Resolver {
        nameservers: input.cluster_dns.iter().map(IpAddr::to_string).collect(),
        searches: unique(own.into_iter().chain(input.node.searches.iter().cloned())),
        options: vec!["ndots:5".into()],
    };
    merge(resolver, input.config)
}

/// Adds `spec.dnsConfig`: servers and searches behind what is there, options in place of those of the same name.
fn merge(mut resolver: Resolver, config: Option<&PodDNSConfig>) -> Resolver {
    if let Some(config) = config {
        let more = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        resolver.nameservers = unique(resolver.nameservers.into_iter().chain(more(&config.nameservers)));
        resolver.searches = unique(resolver.searches.into_iter().chain(more(&config.searches)));
        for option in config.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            resolver.options.retain(|known| known.split(':').next() != Some(name));
            resolver.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.to_owned(),
            });
        }
    }
    resolver.nameservers.truncate(MAX_NAMESERVERS);
    resolver.searches.truncate(MAX_SEARCHES);
    resolver
}

fn unique(list: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = Vec::new();
    for item in list {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn b22_hosts_has_a_line_per_pod_ip() {
        let both = ips(&["10.244.1.5", "fd00:10:244:1::5"]);
        let alias: HostAlias =
            serde_json::from_value(json!({"ip": "1.2.3.4", "hostnames": ["a", "b"]})).unwrap();
        assert_eq!(
            hosts(&both, "web-0", None, &[]),
            format!("{HOSTS_HEAD}10.244.1.5\tweb-0\nfd00:10:244:1::5\tweb-0\n")
        );
        assert_eq!(
            hosts(&both[..1], "web-0", Some("web.ns.svc.cluster.local"), std::slice::from_ref(&alias)),
            format!(
                "{HOSTS_HEAD}10.244.1.5\tweb-0.web.ns.svc.cluster.local\tweb-0\n\n\
                 # Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
            )
        );
        let text = host_network_hosts("127.0.0.1 node\n", &[alias]);
        assert!(text.contains("127.0.0.1 node\n") && text.ends_with("1.2.3.4\ta\tb\n"), "{text}");
    }

    /// Policy, host network, cluster DNS, own configuration, file.
    type Row<'a> = (&'a str, bool, &'a [IpAddr], Option<&'a PodDNSConfig>, &'a str);

    #[test]
    fn b24_resolv_conf_follows_the_policy() {
        let node = Resolver::parse("# x\nnameserver 192.0.2.53\nsearch example.org\noptions rotate\n");
        let dns = ips(&["10.96.0.10", "fd00:10:96::a"]);
        let config: PodDNSConfig = serde_json::from_value(json!({
            "nameservers": ["192.0.2.1", "10.96.0.10"], "searches": ["more"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        }))
        .unwrap();
        let cluster = "nameserver 10.96.0.10\nnameserver fd00:10:96::a\n\
                       search ns.svc.cluster.local svc.cluster.local cluster.local example.org\noptions ndots:5\n";
        let own = "nameserver 192.0.2.53\nsearch example.org\noptions rotate\n";
        #[rustfmt::skip]
        let rows: [Row<'_>; 8] = [
            ("ClusterFirst",            false, &dns, None, cluster),
            ("",                        false, &dns, None, cluster),
            ("ClusterFirst",            true,  &dns, None, own),
            ("ClusterFirstWithHostNet", true,  &dns, None, cluster),
            ("Default",                 false, &dns, None, own),
            ("ClusterFirst",            false, &[],  None, own),
            ("None",                    false, &dns, Some(&config),
             "nameserver 192.0.2.1\nnameserver 10.96.0.10\nsearch more\noptions ndots:2 edns0\n"),
            ("ClusterFirst",            false, &dns, Some(&config),
             "nameserver 10.96.0.10\nnameserver fd00:10:96::a\nnameserver 192.0.2.1\n\
              search ns.svc.cluster.local svc.cluster.local cluster.local example.org more\noptions ndots:2 edns0\n"),
        ];
        for (policy, host_network, cluster_dns, config, want) in rows {
            let input = ResolverInput {
                policy,
                host_network,
                namespace: "ns",
                config,
                cluster_dns,
                cluster_domain: "cluster.local",
                node: &node,
            };
            assert_eq!(resolver(&input).render(), want, "{policy:?}, host network {host_network}");
        }
    }
}
