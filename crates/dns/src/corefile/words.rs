//! What single words mean: numbers, durations, names, addresses.

use std::fmt::Display;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use dyad_net::IpNet;

use super::CorefileError;
use super::lexer::Word;

type Result<T> = std::result::Result<T, CorefileError>;

/// No arguments.
pub(super) fn none(name: &Word, arguments: &[Word]) -> Result<()> {
    match arguments {
        [] => Ok(()),
        [first, ..] => Err(first.error(format!("{} takes no argument: remove {:?}", name.text, first.text))),
    }
}

/// One argument or none.
pub(super) fn at_most_one<'a>(name: &Word, arguments: &'a [Word]) -> Result<Option<&'a Word>> {
    match arguments {
        [] => Ok(None),
        [only] => Ok(Some(only)),
        [_, second, ..] => {
            Err(second.error(format!("{} takes one argument: remove {:?}", name.text, second.text)))
        }
    }
}

/// Exactly one argument, which is `what`.
pub(super) fn one<'a>(name: &Word, arguments: &'a [Word], what: &str) -> Result<&'a Word> {
    at_most_one(name, arguments)?.ok_or_else(|| name.error(format!("{} needs {what}", name.text)))
}

/// At least one argument, each of them `what`.
pub(super) fn some<'a>(name: &Word, arguments: &'a [Word], what: &str) -> Result<&'a [Word]> {
    if arguments.is_empty() {
        return Err(name.error(format!("{} needs {what}", name.text)));
    }
    Ok(arguments)
}

/// The error for an option that a plugin does not have.
pub(super) fn unknown(plugin: &Word, option: &Word, known: &[&str]) -> CorefileError {
    option.error(format!(
        "{} has no option {:?} here: remove it, or use one of {}",
        plugin.text,
        option.text,
        known.join(", ")
    ))
}

/// A number in a range.
pub(super) fn number<T>(word: &Word, range: RangeInclusive<T>) -> Result<T>
where
    T: FromStr + PartialOrd + Display,
{
    let found = word.text.parse().ok().filter(|number| range.contains(number));
    found.ok_or_else(|| {
        word.error(format!("{:?} is not a number from {} to {}", word.text, range.start(), range.end()))
    })
}

/// A duration as Go writes it, `1m30s`; a bare number is seconds.
pub(super) fn duration(word: &Word) -> Result<Duration> {
    read_duration(&word.text).ok_or_else(|| {
        word.error(format!("{:?} is not a duration: write one like 500ms, 30s or 1h", word.text))
    })
}

fn read_duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total)
}

/// A size in bytes: `64MiB`, `10M`, `4096`.
pub(super) fn size(word: &Word) -> Result<usize> {
    let digits = word.text.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.text.len());
    let (number, unit) = word.text.split_at(digits);
    let shift = match unit.trim_end_matches('B').trim_end_matches('i') {
        "" => Some(0),
        "K" | "k" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        _ => None,
    };
    let size =
        number.parse::<usize>().ok().zip(shift).and_then(|(number, shift)| number.checked_mul(1 << shift));
    size.ok_or_else(|| word.error(format!("{:?} is not a size: write one like 64MiB", word.text)))
}

/// A domain name, absolute and in lower case: `Example.org` is `example.org.`
pub(super) fn name(word: &Word) -> Result<String> {
    let text = word.text.strip_suffix('.').unwrap_or(&word.text).to_ascii_lowercase();
    let label = |label: &str| {
        let fine = |c: char| c.is_ascii_graphic() && !matches!(c, '\\' | '"' | '/' | ':');
        (1..=63).contains(&label.len()) && label.chars().all(fine)
    };
    if text.is_empty() {
        return if word.text == "." { Ok(".".to_owned()) } else { Err(word.error("a name is empty")) };
    }
    if text.len() > 253 || !text.split('.').all(label) {
        return Err(word.error(format!("{:?} is not a domain name", word.text)));
    }
    Ok(text + ".")
}

/// The zones a word names: a domain name, or the reverse zones of a prefix.
pub(super) fn zones(word: &Word) -> Result<Vec<String>> {
    match word.text.parse::<IpNet>() {
        Ok(net) => Ok(reverse(&net)),
        Err(_) => Ok(vec![name(word)?]),
    }
}

/// The zones of all words; without any, the root.
pub(super) fn zones_or_all(words: &[Word]) -> Result<Vec<String>> {
    if words.is_empty() {
        return Ok(vec![".".to_owned()]);
    }
    Ok(words.iter().map(zones).collect::<Result<Vec<_>>>()?.concat())
}

/// The reverse zones that make up a prefix: one if it ends at a label, else all that it is the union of.
fn reverse(net: &IpNet) -> Vec<String> {
    // A label has 8 bits in IPv4 and 4 in IPv6 (RFC 1035 §3.5, RFC 3596 §2.5).
    let step = match net {
        IpNet::V4(_) => 8,
        IpNet::V6(_) => 4,
    };
    let length = net.prefix_len().next_multiple_of(step);
    let subnets = net.trunc().subnets(length).into_iter().flatten();
    let zone = |subnet: IpNet| {
        let labels = usize::from(length / step);
        match subnet.addr() {
            IpAddr::V4(ip) => {
                let octets = ip.octets();
                let labels: String = octets[..labels].iter().rev().map(|octet| format!("{octet}.")).collect();
                labels + "in-addr.arpa."
            }
            IpAddr::V6(ip) => {
                let nibbles: Vec<char> = format!("{:032x}", ip.to_bits()).chars().take(labels).collect();
                let labels: String = nibbles.iter().rev().flat_map(|nibble| [*nibble, '.']).collect();
                labels + "ip6.arpa."
            }
        }
    };
    subnets.map(zone).collect()
}

/// An address.
pub(super) fn ip(word: &Word) -> Result<IpAddr> {
    word.text.parse().map_err(|_| word.error(format!("{:?} is not an IP address", word.text)))
}

/// A prefix; a single address is one, too.
pub(super) fn net(word: &Word) -> Result<IpNet> {
    let address = || word.text.parse::<IpAddr>().ok().map(IpNet::from);
    let net = word.text.parse::<IpNet>().ok().or_else(address);
    net.map(|net| net.trunc()).ok_or_else(|| {
        word.error(format!("{:?} is not a range: write one like 10.0.0.0/8 or fd00::/8", word.text))
    })
}

/// Where something listens: `:8080`, `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`; without an address, everywhere.
pub(super) fn listen(word: &Word) -> Result<SocketAddr> {
    let bad = || word.error(format!("{:?} is not a place to listen: write one like [::]:8080", word.text));
    let text = match word.text.strip_prefix(':') {
        Some(port) => format!("[{}]:{port}", Ipv6Addr::UNSPECIFIED),
        None => word.text.replacen("localhost:", "127.0.0.1:", 1),
    };
    text.parse().map_err(|_| bad())
}

/// A regular expression in the syntax of RE2.
pub(super) fn regex(word: &Word) -> Result<regex::Regex> {
    regex::RegexBuilder::new(&word.text)
        .size_limit(1 << 20)
        .build()
        .map_err(|error| word.error(format!("{:?} is not a regular expression: {error}", word.text)))
}
