//! `dns64 [PREFIX] { ... }`.

use std::net::SocketAddr;

use dyad_net::{IpFamily, IpNet, Ipv4Net, Ipv6Net, Pref64};

use super::lexer::Word;
use super::tree::Directive;
use super::{CorefileError, words};

const OPTIONS: &[&str] = &[
    "prefix",
    "translate_all",
    "allow_ipv4",
    "synthesize",
    "exclude",
    "deny",
    "clients",
    "namespaces",
    "except_namespaces",
    "cluster_zones",
    "ptr",
    "checking_disabled",
];

/// A prefix, and the IPv4 addresses it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The prefix.
    pub prefix: Pref64,
    /// Only for these; all if empty.
    pub targets: Vec<Ipv4Net>,
    /// Only for these clients; all if empty.
    pub clients: Vec<IpNet>,
    /// Takes TCP connections as long as the translator works; it works always if nothing is said.
    pub health: Option<SocketAddr>,
}

/// What becomes of several prefixes that fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synthesize {
    /// One address of each.
    #[default]
    All,
    /// The first.
    First,
}

/// IPv6 addresses for names that have IPv4 ones only (RFC 6147).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns64 {
    /// Prefixes, in order of preference.
    pub prefixes: Vec<Prefix>,
    /// What becomes of several that fit.
    pub synthesize: Synthesize,
    /// Synthesise although there are IPv6 addresses.
    pub translate_all: bool,
    /// IPv6 addresses that do not count (RFC 6147 §5.1.4), besides the prefixes and IPv4-mapped ones.
    pub exclude: Vec<Ipv6Net>,
    /// IPv4 addresses never to be synthesised for, besides what a prefix must not carry.
    pub deny: Vec<Ipv4Net>,
    /// Who gets synthesised addresses.
    pub clients: Vec<IpNet>,
    /// Only pods of these namespaces, unless empty.
    pub namespaces: Vec<String>,
    /// No pods of these.
    pub except_namespaces: Vec<String>,
    /// For Services of the cluster, too.
    pub cluster_zones: bool,
    /// Reverse names under a prefix lead to the names of the IPv4 addresses.
    pub ptr: bool,
    /// CD with DO gets what there really is (RFC 6147 §5.5), not what BIND makes of it.
    pub strict_cd: bool,
}

impl Default for Dns64 {
    fn default() -> Self {
        Self {
            prefixes: Vec::new(),
            synthesize: Synthesize::All,
            translate_all: false,
            exclude: Vec::new(),
            deny: Vec::new(),
            clients: vec![IpFamily::V6.everything()],
            namespaces: Vec::new(),
            except_namespaces: Vec::new(),
            cluster_zones: false,
            ptr: true,
            strict_cd: true,
        }
    }
}

pub(super) fn read(directive: &Directive) -> Result<Dns64, CorefileError> {
    let mut read = Dns64::default();
    if let Some(first) = words::at_most_one(&directive.name, &directive.arguments)? {
        read.prefixes.push(prefix(std::slice::from_ref(first), first)?);
    }
    for (option, arguments) in directive.options() {
        option_of(&mut read, &directive.name, option, arguments)?;
    }
    if read.prefixes.is_empty() {
        let prefix = Pref64::WELL_KNOWN;
        read.prefixes.push(Prefix { prefix, targets: Vec::new(), clients: Vec::new(), health: None });
    }
    Ok(read)
}

fn option_of(
    read: &mut Dns64,
    plugin: &Word,
    option: &Word,
    arguments: &[Word],
) -> Result<(), CorefileError> {
    let flag = || words::none(option, arguments).map(|()| true);
    let texts = || {
        let words = words::some(option, arguments, "namespaces")?;
        Ok(words.iter().map(|word| word.text.clone()).collect())
    };
    match option.text.as_str() {
        "prefix" => read.prefixes.push(prefix(arguments, option)?),
        "translate_all" => read.translate_all = flag()?,
        // What CoreDNS does by default is to leave out clients that came by IPv4.
        "allow_ipv4" => {
            words::none(option, arguments)?;
            read.clients.extend([IpFamily::V4.everything()]);
        }
        "synthesize" => {
            let which = words::one(option, arguments, "all or first")?;
            read.synthesize = match which.text.as_str() {
                "all" => Synthesize::All,
                "first" => Synthesize::First,
                _ => return Err(words::unknown(option, which, &["all", "first"])),
            };
        }
        "exclude" => read.exclude.extend(nets(option, arguments, v6)?),
        "deny" => read.deny.extend(nets(option, arguments, v4)?),
        "clients" => read.clients = nets(option, arguments, words::net)?,
        "namespaces" => read.namespaces = texts()?,
        "except_namespaces" => read.except_namespaces = texts()?,
        "cluster_zones" => read.cluster_zones = flag()?,
        "ptr" => {
            let what = words::one(option, arguments, "cname or off")?;
            read.ptr = match what.text.as_str() {
                "cname" => true,
                "off" => false,
                _ => return Err(words::unknown(option, what, &["cname", "off"])),
            };
        }
        "checking_disabled" => {
            let what = words::one(option, arguments, "genuine or synthesize")?;
            read.strict_cd = match what.text.as_str() {
                "genuine" => true,
                "synthesize" => false,
                _ => return Err(words::unknown(option, what, &["genuine", "synthesize"])),
            };
        }
        _ => return Err(words::unknown(plugin, option, OPTIONS)),
    }
    Ok(())
}

/// `PREFIX [for IPV4...] [clients RANGES...] [health ADDRESS:PORT]`.
fn prefix(arguments: &[Word], option: &Word) -> Result<Prefix, CorefileError> {
    let [prefix, rest @ ..] = words::some(option, arguments, "a prefix: write one like 64:ff9b::/96")? else {
        return Err(option.error("prefix needs a prefix"));
    };
    let parsed = prefix.text.parse().map_err(|error| prefix.error(format!("{error}")))?;
    let mut read = Prefix { prefix: parsed, targets: Vec::new(), clients: Vec::new(), health: None };
    let mut list = None;
    for word in rest {
        match (word.text.as_str(), list) {
            ("for" | "clients" | "health", _) => list = Some(word.text.as_str()),
            (_, Some("health")) => {
                let what = || word.error(format!("{:?} is not like 127.0.0.1:9164 or [::1]:9164", word.text));
                read.health = Some(word.text.parse().map_err(|_| what())?);
            }
            (_, Some("for")) => read.targets.push(v4(word)?),
            (_, Some(_)) => read.clients.push(words::net(word)?),
            (_, None) => return Err(words::unknown(option, word, &["for", "clients", "health"])),
        }
    }
    Ok(read)
}

fn nets<T>(
    option: &Word,
    arguments: &[Word],
    read: impl Fn(&Word) -> Result<T, CorefileError>,
) -> Result<Vec<T>, CorefileError> {
    words::some(option, arguments, "ranges")?.iter().map(read).collect()
}

fn v4(word: &Word) -> Result<Ipv4Net, CorefileError> {
    match words::net(word)? {
        IpNet::V4(net) => Ok(net),
        IpNet::V6(_) => Err(word.error(format!("{:?} is not a range of IPv4", word.text))),
    }
}

fn v6(word: &Word) -> Result<Ipv6Net, CorefileError> {
    match words::net(word)? {
        IpNet::V6(net) => Ok(net),
        IpNet::V4(_) => Err(word.error(format!("{:?} is not a range of IPv6", word.text))),
    }
}
