//! The plugins that take a word or two.

use std::net::SocketAddr;
use std::time::Duration;

use super::tree::Directive;
use super::{CorefileError, words};

/// Which queries are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Names under these zones.
    pub zones: Vec<String>,
    /// Classes of answers: `all`, `success`, `denial`, `error`.
    pub classes: Vec<String>,
}

/// `/health` over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Where.
    pub listen: SocketAddr,
    /// How long an end is announced before it comes.
    pub lameduck: Duration,
}

/// How often the Corefile is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// About as often.
    pub interval: Duration,
    /// Give or take.
    pub jitter: Duration,
}

/// Addresses of the cluster DNS that this server takes over on its node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeCache {
    /// The addresses.
    pub addresses: Vec<std::net::IpAddr>,
}

/// Where to listen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bind {
    /// Addresses, or names of links.
    pub on: Vec<String>,
    /// But not at these.
    pub except: Vec<String>,
}

pub(super) fn log(directive: &Directive) -> Result<Log, CorefileError> {
    // The last argument may be a format; it has variables in braces.
    let zones: Vec<_> = directive.arguments.iter().filter(|word| !word.text.contains('{')).cloned().collect();
    let mut read = Log { zones: words::zones_or_all(&zones)?, classes: Vec::new() };
    for (option, arguments) in directive.options() {
        if option.text != "class" {
            return Err(words::unknown(&directive.name, option, &["class"]));
        }
        for class in words::some(option, arguments, "classes")? {
            let known = ["all", "success", "denial", "error"];
            if !known.contains(&class.text.as_str()) {
                return Err(words::unknown(option, class, &known));
            }
            read.classes.push(class.text.clone());
        }
    }
    if read.classes.is_empty() {
        read.classes.push("all".to_owned());
    }
    Ok(read)
}

pub(super) fn errors(directive: &Directive) -> Result<(), CorefileError> {
    words::none(&directive.name, &directive.arguments)?;
    let known = ["consolidate", "stacktrace"];
    let stranger = directive.options().find(|(option, _)| !known.contains(&option.text.as_str()));
    stranger.map_or(Ok(()), |(option, _)| Err(words::unknown(&directive.name, option, &known)))
}

pub(super) fn health(directive: &Directive) -> Result<Health, CorefileError> {
    let mut read = Health { listen: listen(directive, 8080)?, lameduck: Duration::ZERO };
    for (option, arguments) in directive.options() {
        match option.text.as_str() {
            "lameduck" => read.lameduck = words::duration(words::one(option, arguments, "a duration")?)?,
            _ => return Err(words::unknown(&directive.name, option, &["lameduck"])),
        }
    }
    Ok(read)
}

pub(super) fn ready(directive: &Directive) -> Result<SocketAddr, CorefileError> {
    if let Some((option, _)) = directive.options().find(|(option, _)| option.text != "monitor") {
        return Err(words::unknown(&directive.name, option, &["monitor"]));
    }
    listen(directive, 8181)
}

pub(super) fn prometheus(directive: &Directive) -> Result<SocketAddr, CorefileError> {
    directive.no_options()?;
    listen(directive, 9153)
}

fn listen(directive: &Directive, port: u16) -> Result<SocketAddr, CorefileError> {
    match words::at_most_one(&directive.name, &directive.arguments)? {
        Some(word) => words::listen(word),
        None => Ok(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port)),
    }
}

pub(super) fn reload(directive: &Directive) -> Result<Option<Reload>, CorefileError> {
    directive.no_options()?;
    let mut read = Reload { interval: Duration::from_secs(30), jitter: Duration::from_secs(15) };
    match directive.arguments.as_slice() {
        [] => {}
        [off] if off.text == "off" => return Ok(None),
        [interval] => read.interval = words::duration(interval)?,
        [interval, jitter] => {
            read = Reload { interval: words::duration(interval)?, jitter: words::duration(jitter)? };
        }
        [_, _, more, ..] => return Err(more.error("reload takes an interval and a jitter, and no more")),
    }
    // CoreDNS' own bounds.
    read.interval = read.interval.max(Duration::from_secs(2));
    read.jitter = read.jitter.min(read.interval / 2);
    Ok(Some(read))
}

pub(super) fn loadbalance(directive: &Directive) -> Result<(), CorefileError> {
    directive.no_options()?;
    match words::at_most_one(&directive.name, &directive.arguments)? {
        None => Ok(()),
        Some(word) if word.text == "round_robin" => Ok(()),
        Some(word) => Err(words::unknown(&directive.name, word, &["round_robin"])),
    }
}

pub(super) fn loop_(directive: &Directive) -> Result<(), CorefileError> {
    directive.no_options()?;
    words::none(&directive.name, &directive.arguments)
}

pub(super) fn bind(directive: &Directive, into: &mut Bind) -> Result<(), CorefileError> {
    let on = words::some(&directive.name, &directive.arguments, "addresses or links")?;
    into.on.extend(on.iter().map(|word| word.text.clone()));
    for (option, arguments) in directive.options() {
        if option.text != "except" {
            return Err(words::unknown(&directive.name, option, &["except"]));
        }
        into.except.extend(arguments.iter().map(|word| word.text.clone()));
    }
    Ok(())
}

pub(super) fn nodecache(directive: &Directive) -> Result<NodeCache, CorefileError> {
    directive.no_options()?;
    let addresses = words::some(&directive.name, &directive.arguments, "the addresses of the cluster's DNS")?;
    Ok(NodeCache { addresses: addresses.iter().map(words::ip).collect::<Result<_, _>>()? })
}
