//! `hosts [FILE [ZONES...]] { ... }`.

use std::net::IpAddr;
use std::time::Duration;

use super::lexer::Word;
use super::tree::Directive;
use super::{CorefileError, words};

/// Names that a file or the Corefile itself has, as `/etc/hosts` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// The file.
    pub file: Option<String>,
    /// Only names under these zones.
    pub zones: Vec<String>,
    /// Addresses with their names.
    pub inline: Vec<(IpAddr, Vec<String>)>,
    /// Seconds that answers hold.
    pub ttl: u32,
    /// Addresses have no names.
    pub no_reverse: bool,
    /// Between looks at the file; zero is never.
    pub reload: Duration,
    /// Zones whose unknown names go on to the next plugin.
    pub fallthrough: Vec<String>,
}

pub(super) fn read(directive: &Directive) -> Result<Hosts, CorefileError> {
    let (file, zones) = match directive.arguments.as_slice() {
        [] => (Some("/etc/hosts".to_owned()), &[][..]),
        [file, zones @ ..] => (Some(file.text.clone()), zones),
    };
    let mut read = Hosts {
        file,
        zones: words::zones_or_all(zones)?,
        inline: Vec::new(),
        ttl: 3600,
        no_reverse: false,
        reload: Duration::from_secs(5),
        fallthrough: Vec::new(),
    };
    for (option, arguments) in directive.options() {
        match option.text.as_str() {
            "ttl" => read.ttl = words::number(words::one(option, arguments, "seconds")?, 1..=65535)?,
            "no_reverse" => {
                words::none(option, arguments)?;
                read.no_reverse = true;
            }
            "reload" => read.reload = words::duration(words::one(option, arguments, "a duration")?)?,
            "fallthrough" => read.fallthrough = words::zones_or_all(arguments)?,
            _ => read.inline.push(entry(&directive.name, option, arguments)?),
        }
    }
    // Without a file of its own, what is written here is all there is.
    if directive.arguments.is_empty() && !read.inline.is_empty() {
        read.file = None;
    }
    Ok(read)
}

fn entry(plugin: &Word, option: &Word, names: &[Word]) -> Result<(IpAddr, Vec<String>), CorefileError> {
    let known = ["an address with names", "ttl", "no_reverse", "reload", "fallthrough"];
    let ip = words::ip(option).map_err(|_| words::unknown(plugin, option, &known))?;
    let names = words::some(option, names, "a name")?;
    Ok((ip, names.iter().map(words::name).collect::<Result<_, _>>()?))
}
