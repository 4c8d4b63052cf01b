//! `forward FROM TO... { ... }`.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::lexer::Word;
use super::tree::Directive;
use super::{CorefileError, words};

const OPTIONS: &[&str] = &[
    "except",
    "force_tcp",
    "prefer_udp",
    "expire",
    "max_fails",
    "policy",
    "health_check",
    "max_concurrent",
    "tls",
    "tls_servername",
    "failover",
    "failfast_all_unhealthy_upstreams",
    "qname_case",
    "dnssec",
];

/// Who is asked first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Any.
    #[default]
    Random,
    /// Each in turn.
    RoundRobin,
    /// The first that is healthy.
    Sequential,
    /// The one that answers fastest.
    LowestRtt,
}

/// How an upstream is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP, and TCP where that does not do.
    Dns,
    /// DNS over TLS (RFC 7858).
    Tls,
}

/// A server to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// An address.
    Address {
        /// How it is spoken to.
        transport: Transport,
        /// Where it is.
        at: SocketAddr,
        /// The link of a link-local address.
        link: Option<String>,
        /// The name in its certificate, if not that of all.
        name: Option<String>,
    },
    /// All name servers of a file like `/etc/resolv.conf`.
    File(String),
}

/// Where validation begins (RFC 4033 §2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anchors {
    /// The keys of the root, as IANA publishes them.
    Iana,
    /// DNSKEY records of a file.
    File(String),
}

/// What is asked of other servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Names under this zone.
    pub from: String,
    /// Servers.
    pub to: Vec<Upstream>,
    /// But not names under these.
    pub except: Vec<String>,
    /// Never UDP.
    pub force_tcp: bool,
    /// UDP, although the client came by TCP.
    pub prefer_udp: bool,
    /// How long connections idle.
    pub expire: Duration,
    /// Failures after which an upstream counts as down; 0 is never.
    pub max_fails: u32,
    /// Whom to ask.
    pub policy: Policy,
    /// Between probes of an upstream that is down.
    pub health_check: Duration,
    /// Probes ask for recursion.
    pub health_recursion: bool,
    /// Probes ask for this name.
    pub health_domain: String,
    /// Queries at once; `None` is no limit.
    pub max_concurrent: Option<usize>,
    /// Certificate, key and CA; of one, it is the CA, of two, certificate and key.
    pub tls: Vec<String>,
    /// The name in the upstreams' certificates.
    pub tls_servername: Option<String>,
    /// Codes upon which the next upstream is asked.
    pub failover: Vec<u8>,
    /// Fail at once when every upstream is down.
    pub fail_fast: bool,
    /// Random case of letters in questions (0x20).
    pub random_case: bool,
    /// Answers are validated, from here on.
    pub dnssec: Option<Anchors>,
}

impl Forward {
    /// The settings a `forward` has that says nothing more than `from` and `to`.
    pub fn new(from: impl Into<String>, to: Vec<Upstream>) -> Self {
        Self {
            from: from.into(),
            to,
            except: Vec::new(),
            force_tcp: false,
            prefer_udp: false,
            expire: Duration::from_secs(10),
            max_fails: 2,
            policy: Policy::Random,
            health_check: Duration::from_millis(500),
            health_recursion: true,
            health_domain: ".".to_owned(),
            max_concurrent: Some(1000),
            tls: Vec::new(),
            tls_servername: None,
            failover: Vec::new(),
            fail_fast: false,
            random_case: true,
            dnssec: None,
        }
    }
}

pub(super) fn read(directive: &Directive) -> Result<Forward, CorefileError> {
    let [from, to @ ..] = directive.arguments.as_slice() else {
        return Err(directive.name.error("forward needs a zone and upstreams: forward . /etc/resolv.conf"));
    };
    let to = words::some(&directive.name, to, "upstreams: write addresses, or /etc/resolv.conf")?;
    // A prefix that is several zones would be several forwards.
    let from = match words::zones(from)?.as_slice() {
        [zone] => zone.clone(),
        [..] => return Err(from.error("the prefix is not one zone: end it at a label, e.g. /8, /16 or /24")),
    };
    let mut read = Forward::new(from, to.iter().map(upstream).collect::<Result<_, _>>()?);
    for (option, arguments) in directive.options() {
        option_of(&mut read, &directive.name, option, arguments)?;
    }
    Ok(read)
}

fn option_of(
    read: &mut Forward,
    plugin: &Word,
    option: &Word,
    arguments: &[Word],
) -> Result<(), CorefileError> {
    let flag = || words::none(option, arguments).map(|()| true);
    match option.text.as_str() {
        "except" => read.except = words::zones_or_all(words::some(option, arguments, "zones")?)?,
        "force_tcp" => read.force_tcp = flag()?,
        "prefer_udp" => read.prefer_udp = flag()?,
        "failfast_all_unhealthy_upstreams" => read.fail_fast = flag()?,
        "expire" => read.expire = words::duration(words::one(option, arguments, "a duration")?)?,
        "max_fails" => read.max_fails = words::number(words::one(option, arguments, "a number")?, 0..=1000)?,
        "policy" => {
            let policy = words::one(option, arguments, "a policy")?;
            read.policy = match policy.text.as_str() {
                "random" => Policy::Random,
                "round_robin" => Policy::RoundRobin,
                "sequential" => Policy::Sequential,
                "lowest_rtt" => Policy::LowestRtt,
                _ => {
                    let known = ["random", "round_robin", "sequential", "lowest_rtt"];
                    return Err(words::unknown(option, policy, &known));
                }
            };
        }
        "health_check" => {
            let [interval, rest @ ..] = arguments else {
                return Err(option.error("health_check needs a duration"));
            };
            read.health_check = words::duration(interval)?;
            let mut rest = rest.iter();
            while let Some(word) = rest.next() {
                match (word.text.as_str(), word) {
                    ("no_rec", _) => read.health_recursion = false,
                    ("domain", word) => {
                        let domain = rest.next().ok_or_else(|| word.error("domain needs a name"))?;
                        read.health_domain = words::name(domain)?;
                    }
                    _ => return Err(words::unknown(option, word, &["no_rec", "domain"])),
                }
            }
        }
        "max_concurrent" => {
            let limit = words::number(words::one(option, arguments, "a number")?, 0..=1_000_000)?;
            read.max_concurrent = Some(limit).filter(|limit| *limit > 0);
        }
        "tls" => {
            if arguments.len() > 3 {
                return Err(arguments[3].error("tls takes a certificate, a key and a CA, and no more"));
            }
            read.tls = arguments.iter().map(|word| word.text.clone()).collect();
        }
        "tls_servername" => {
            let name = words::name(words::one(option, arguments, "a name")?)?;
            read.tls_servername = Some(name.trim_end_matches('.').to_owned());
        }
        "failover" => {
            let codes = words::some(option, arguments, "response codes")?;
            read.failover = codes.iter().map(rcode).collect::<Result<_, _>>()?;
        }
        "qname_case" => {
            let case = words::one(option, arguments, "random or keep")?;
            read.random_case = match case.text.as_str() {
                "random" => true,
                "keep" => false,
                _ => return Err(words::unknown(option, case, &["random", "keep"])),
            };
        }
        "dnssec" if cfg!(feature = "dnssec") => {
            let file = words::at_most_one(option, arguments)?;
            read.dnssec = Some(file.map_or(Anchors::Iana, |file| Anchors::File(file.text.clone())));
        }
        "dnssec" => {
            return Err(option.error("this build does not validate: build with --features dnssec"));
        }
        "next" => {
            return Err(
                option.error("forward has no option next: failover asks another upstream upon a code")
            );
        }
        "max_connect_attempts" | "max_idle_conns" => {}
        _ => return Err(words::unknown(plugin, option, OPTIONS)),
    }
    Ok(())
}

/// A response code by its name (RFC 1035 §4.1.1).
pub(super) fn rcode(word: &Word) -> Result<u8, CorefileError> {
    let names = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
    let at = names.iter().position(|name| word.text.eq_ignore_ascii_case(name));
    let code = at.and_then(|at| u8::try_from(at).ok());
    code.ok_or_else(|| word.error(format!("{:?} is not one of {}", word.text, names.join(", "))))
}

fn upstream(word: &Word) -> Result<Upstream, CorefileError> {
    let text = word.text.as_str();
    let (transport, text) = match text.split_once("://") {
        None => (Transport::Dns, text),
        Some(("dns", rest)) => (Transport::Dns, rest),
        Some(("tls", rest)) => (Transport::Tls, rest),
        Some((other, _)) => {
            let what = format!("upstreams by {other:?} are not supported: use dns:// or tls://");
            return Err(word.error(what));
        }
    };
    if text.starts_with('/') && transport == Transport::Dns {
        return Ok(Upstream::File(text.to_owned()));
    }
    address(transport, text).ok_or_else(|| {
        let what = "is no upstream: write an address with or without a port, tls:// before it, or a file";
        word.error(format!("{:?} {what}", word.text))
    })
}

/// `IP`, `IP:PORT` or `[IP]:PORT`, with `%LINK` behind link-local addresses and `%NAME` behind those of TLS.
pub(crate) fn address(transport: Transport, text: &str) -> Option<Upstream> {
    let default = match transport {
        Transport::Dns => 53,
        Transport::Tls => 853,
    };
    let (text, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(found) => {
            let (ip, port) = found?;
            (ip, if port.is_empty() { default } else { port.strip_prefix(':')?.parse().ok()? })
        }
        None => match text.rsplit_once(':') {
            Some((ip, port)) if !ip.contains(':') => (ip, port.parse().ok()?),
            Some(_) | None => (text, default),
        },
    };
    let (ip, suffix) = match text.split_once('%') {
        Some((ip, suffix)) if !suffix.is_empty() => (ip, Some(suffix.to_owned())),
        Some(_) => return None,
        None => (text, None),
    };
    let ip: IpAddr = ip.parse().ok()?;
    let (link, name) = match (ip, transport) {
        (IpAddr::V6(ip), _) if ip.is_unicast_link_local() => (suffix, None),
        (_, Transport::Tls) => (None, suffix),
        (_, Transport::Dns) => match suffix {
            None => (None, None),
            Some(_) => return None,
        },
    };
    Some(Upstream::Address { transport, at: SocketAddr::new(ip, port), link, name })
}
