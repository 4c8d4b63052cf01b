//! From a block of directives to a server.

use super::lexer::Word;
use super::tree::{Block, Directive};
use super::{
    Bind, CorefileError, Note, Server, ZoneKey, cache, dns64, forward, hosts, kubernetes, rewrite, small,
    template, words,
};

/// Plugins that say what is so anyway, or what changes no answer.
const IDLE: &[(&str, &str)] = &[
    ("any", "ANY gets a minimal answer always (RFC 8482)"),
    ("autopath", "it only saves clients queries"),
    ("bufsize", "answers over UDP have 1232 bytes at most always"),
    ("cancel", "every query has a time limit"),
    ("debug", "errors never end the server"),
    ("local", "localhost is answered always"),
    ("metadata", "no plugin needs it"),
    ("minimal", "answers carry no more than clients use"),
    ("multisocket", "there is a socket for each worker always"),
    ("nsid", "it is for people who look for a server"),
    ("pprof", "there is nothing to look into that way"),
    ("timeouts", "connections have time limits always"),
    ("trace", "queries are not traced"),
];

/// Plugins that are known and not there, with the way out.
const MISSING: &[(&str, &str)] = &[
    ("acl", "say who may ask with NetworkPolicies"),
    ("auto", "serve zone files with another server, and forward to it"),
    ("azure", "forward the zone to the cloud's own name servers"),
    ("chaos", "remove it"),
    ("clouddns", "forward the zone to the cloud's own name servers"),
    ("dnssec", "have the zone signed where it is served"),
    ("dnstap", "use log"),
    ("erratic", "remove it"),
    ("etcd", "serve the zone with another server, and forward to it"),
    ("file", "serve the zone file with another server, and forward to it"),
    ("geoip", "remove it"),
    ("grpc", "use forward with addresses or tls://"),
    ("header", "remove it"),
    ("k8s_external", "have names of load balancers written by external-dns"),
    ("quic", "serve it with another server"),
    ("root", "write whole paths"),
    ("route53", "forward the zone to the cloud's own name servers"),
    ("secondary", "forward the zone to its primary server"),
    ("sign", "have the zone signed where it is served"),
    ("tls", "serve it with another server"),
    ("transfer", "remove it: zones are not transferred"),
    ("tsig", "remove it"),
    ("view", "use server blocks with addresses of their own: bind"),
    ("whoami", "remove it"),
];

pub(super) fn server(block: &Block, notes: &mut Vec<Note>) -> Result<Server, CorefileError> {
    let Some(first) = block.keys.first() else {
        let at = block.directives.first().map(|directive| directive.name.at.clone());
        let at = at.unwrap_or_else(|| super::At { file: "Corefile".into(), line: 1 });
        return Err(at.error("a server block has no zone: write one before its {, like .:53"));
    };
    let mut server = Server {
        at: first.at.clone(),
        zones: block.keys.iter().map(keys).collect::<Result<Vec<_>, _>>()?.concat(),
        bind: Bind::default(),
        log: None,
        errors: false,
        health: None,
        ready: None,
        prometheus: None,
        reload: None,
        loop_detection: false,
        loadbalance: false,
        nodecache: None,
        rewrites: Vec::new(),
        templates: Vec::new(),
        hosts: None,
        kubernetes: None,
        cache: None,
        dns64: None,
        forwards: Vec::new(),
    };
    for directive in &block.directives {
        plugin(&mut server, directive, notes)?;
    }
    Ok(server)
}

fn plugin(server: &mut Server, directive: &Directive, notes: &mut Vec<Note>) -> Result<(), CorefileError> {
    let name = &directive.name;
    match name.text.as_str() {
        "bind" => small::bind(directive, &mut server.bind)?,
        "log" => once(name, &mut server.log, small::log(directive)?)?,
        "errors" => {
            small::errors(directive)?;
            server.errors = true;
        }
        "health" => once(name, &mut server.health, small::health(directive)?)?,
        "ready" => once(name, &mut server.ready, small::ready(directive)?)?,
        "prometheus" => once(name, &mut server.prometheus, small::prometheus(directive)?)?,
        "reload" => server.reload = small::reload(directive)?,
        "loop" => {
            small::loop_(directive)?;
            server.loop_detection = true;
        }
        "loadbalance" => {
            small::loadbalance(directive)?;
            server.loadbalance = true;
        }
        "nodecache" => once(name, &mut server.nodecache, small::nodecache(directive)?)?,
        "rewrite" => server.rewrites.push(rewrite::read(directive)?),
        "template" => {
            let mut read = template::read(directive)?;
            own_zones(server, &mut read.zones, &directive.arguments, 2);
            server.templates.push(read);
        }
        "hosts" => {
            let mut read = hosts::read(directive)?;
            own_zones(server, &mut read.zones, &directive.arguments, 1);
            once(name, &mut server.hosts, read)?;
        }
        "kubernetes" => {
            let mut read = kubernetes::read(directive)?;
            own_zones(server, &mut read.zones, &directive.arguments, 0);
            once(name, &mut server.kubernetes, read)?;
        }
        "cache" => once(name, &mut server.cache, cache::read(directive)?)?,
        "dns64" => once(name, &mut server.dns64, dns64::read(directive)?)?,
        "forward" => server.forwards.push(forward::read(directive)?),
        // What forward was before it.
        "proxy" => return Err(name.error("proxy is gone from CoreDNS, too: use forward")),
        other => {
            let find = |table: &[(&str, &'static str)]| {
                table.iter().find(|(known, _)| *known == other).map(|(_, why)| *why)
            };
            if let Some(why) = find(IDLE) {
                notes.push(Note { at: name.at.clone(), what: format!("{other} changes nothing: {why}") });
            } else if let Some(way) = find(MISSING) {
                return Err(name.error(format!("plugin {other} is not supported: {way}")));
            } else {
                return Err(name.error(format!("there is no plugin {other:?}: correct or remove it")));
            }
        }
    }
    Ok(())
}

/// Without zones after its first arguments, a plugin is for those of its block.
fn own_zones(server: &Server, zones: &mut Vec<String>, arguments: &[Word], first: usize) {
    if arguments.len() <= first {
        *zones = server.zones.iter().map(|key| key.zone.clone()).collect();
    }
}

fn once<T>(name: &Word, into: &mut Option<T>, read: T) -> Result<(), CorefileError> {
    match into.replace(read) {
        None => Ok(()),
        Some(_) => {
            Err(name.error(format!("{} is in this server block already: put both into one", name.text)))
        }
    }
}

/// `[dns://]ZONE[:PORT]`; a prefix is its reverse zones.
fn keys(word: &Word) -> Result<Vec<ZoneKey>, CorefileError> {
    let text = match word.text.split_once("://") {
        None => word.text.as_str(),
        Some(("dns", rest)) => rest,
        Some((other, _)) => {
            return Err(word.error(format!("{other}:// is not served: use dns://, or another server")));
        }
    };
    // The colons of an IPv6 prefix are no ports.
    let (zone, port) = match text.rsplit_once(':') {
        Some((zone, port)) if !zone.contains(':') || zone.contains('/') => {
            let number = Word { text: port.to_owned(), ..word.clone() };
            (zone, words::number(&number, 1..=u16::MAX)?)
        }
        Some(_) | None => (text, 53),
    };
    let zone = Word { text: if zone.is_empty() { "." } else { zone }.to_owned(), ..word.clone() };
    let key = |zone| ZoneKey { zone, port };
    Ok(words::zones(&zone)?.into_iter().map(key).collect())
}

impl Directive {
    /// The options of the block, each with its arguments.
    pub(super) fn options(&self) -> impl Iterator<Item = (&Word, &[Word])> {
        self.options.iter().filter_map(|line| line.split_first())
    }

    /// An error if there is a block.
    pub(super) fn no_options(&self) -> Result<(), CorefileError> {
        let first = self.options().next();
        let what = |option: &Word| format!("{} has no options: remove {:?}", self.name.text, option.text);
        first.map_or(Ok(()), |(option, _)| Err(option.error(what(option))))
    }
}
