//! `template CLASS TYPE [ZONES...] { ... }`, where it answers nothing.

use regex::Regex;

use super::tree::Directive;
use super::{CorefileError, forward, words};

const OPTIONS: &[&str] = &["match", "rcode", "authority", "fallthrough"];

/// Questions that get no answer.
#[derive(Clone, Debug)]
pub struct Template {
    /// Type of the question; `None` is any.
    pub kind: Option<u16>,
    /// Under these zones.
    pub zones: Vec<String>,
    /// Names that match one of these; all if empty.
    pub matches: Vec<Regex>,
    /// The response code.
    pub rcode: u8,
    /// Zones whose names go on to the next plugin if nothing matches.
    pub fallthrough: Vec<String>,
}

pub(super) fn read(directive: &Directive) -> Result<Template, CorefileError> {
    let [class, kind, zones @ ..] = directive.arguments.as_slice() else {
        return Err(directive.name.error("template needs a class and a type: template IN AAAA"));
    };
    if !["IN", "ANY"].iter().any(|known| class.text.eq_ignore_ascii_case(known)) {
        return Err(class.error(format!("class {:?} is not served: write IN", class.text)));
    }
    let kind = match kind.text.to_ascii_uppercase().as_str() {
        "ANY" => None,
        name => Some(record_type(name).ok_or_else(|| {
            kind.error(format!("{:?} is no type of records: write one like AAAA", kind.text))
        })?),
    };
    let mut read = Template {
        kind,
        zones: words::zones_or_all(zones)?,
        matches: Vec::new(),
        rcode: 0,
        fallthrough: Vec::new(),
    };
    for (option, arguments) in directive.options() {
        match option.text.as_str() {
            "match" => {
                let words = words::some(option, arguments, "a regular expression")?;
                read.matches.extend(words.iter().map(words::regex).collect::<Result<Vec<_>, _>>()?);
            }
            "rcode" => read.rcode = forward::rcode(words::one(option, arguments, "a response code")?)?,
            "fallthrough" => read.fallthrough = words::zones_or_all(arguments)?,
            // A SOA record for the negative answer: ours is as good.
            "authority" | "ederror" | "upstream" => {}
            "answer" | "additional" => {
                let what = "answers of its own are not supported: write addresses as hosts { ... }";
                return Err(option.error(format!("template: {what}")));
            }
            _ => return Err(words::unknown(&directive.name, option, OPTIONS)),
        }
    }
    Ok(read)
}

fn record_type(name: &str) -> Option<u16> {
    let known = [
        ("A", 1),
        ("NS", 2),
        ("CNAME", 5),
        ("SOA", 6),
        ("PTR", 12),
        ("HINFO", 13),
        ("MX", 15),
        ("TXT", 16),
        ("AAAA", 28),
        ("SRV", 33),
        ("NAPTR", 35),
        ("DS", 43),
        ("DNSKEY", 48),
        ("SVCB", 64),
        ("HTTPS", 65),
        ("CAA", 257),
    ];
    let number = || name.strip_prefix("TYPE").and_then(|number| number.parse().ok());
    known.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind).or_else(number)
}
