//! The formats of texts and numbers that Kubernetes knows; all others say nothing.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::LazyLock;

use regex::Regex;

use crate::schema::Type;

/// A format, as a schema names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    name: String,
}

/// Formats of texts, without their dashes.
const TEXTS: [&str; 26] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

impl Format {
    /// The format of this name, if values of this type can have it.
    pub(crate) fn of(name: &str, kind: Option<Type>) -> Option<Self> {
        let known = match kind {
            None | Some(Type::String) => TEXTS.contains(&name.replace('-', "").as_str()),
            Some(Type::Integer) => matches!(name, "int32" | "int64"),
            Some(Type::Number) => matches!(name, "float" | "double"),
            Some(_) => false,
        };
        known.then(|| Self { name: name.to_owned() })
    }

    /// Its name, as the schema has it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether a text has it.
    pub(crate) fn matches(&self, text: &str) -> bool {
        match self.name.replace('-', "").as_str() {
            "bsonobjectid" => text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "uri" => is_uri(text),
            "email" => EMAIL.is_match(text),
            "hostname" => is_hostname(text),
            "ipv4" => text.contains('.') && sloppy_ip(text).is_some(),
            "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
            "cidr" => is_cidr(text),
            "mac" => is_mac(text),
            "uuid" => UUID.is_match(text),
            "uuid3" => UUID.is_match(text) && hex_digit(text, 12) == Some('3'),
            "uuid4" => UUID.is_match(text) && hex_digit(text, 12) == Some('4') && is_variant(text),
            "uuid5" => UUID.is_match(text) && hex_digit(text, 12) == Some('5') && is_variant(text),
            "isbn" => is_isbn10(text) || is_isbn13(text),
            "isbn10" => is_isbn10(text),
            "isbn13" => is_isbn13(text),
            "creditcard" => is_credit_card(text),
            "ssn" => SSN.is_match(text),
            "hexcolor" => HEX_COLOR.is_match(text),
            "rgbcolor" => RGB_COLOR.is_match(text),
            "byte" => BASE64.is_match(text),
            "date" => is_date(text),
            "datetime" => is_date_time(text),
            "duration" => DURATION.is_match(text) || is_scala_duration(text),
            "k8sshortname" => text.len() <= 63 && LABEL.is_match(text),
            "k8slongname" => text.len() <= 253 && text.split('.').all(|label| LABEL.is_match(label)),
            // Any text is a password, and numbers are no texts.
            _ => true,
        }
    }
}

macro_rules! regexes {
    ($($name:ident = $pattern:expr;)*) => {
        $(static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($pattern).expect("a test compiles it"));)*
    };
}

regexes! {
    EMAIL = r#"^(?:[^<>]*<)?[^\s@<>,;"]+@[^\s@<>,;"]+>?$"#;
    HOSTNAME = r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$";
    UUID = r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
    SSN = r"^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$";
    HEX_COLOR = r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$";
    RGB_COLOR = r"^rgb\(\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*\)$";
    BASE64 = r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{4})$";
    DURATION = r"^[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$";
    SCALA_DURATION = r"([0-9]+)\s*([A-Za-zµ]+)";
    LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
    CARD = r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|(222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11}|6[27][0-9]{14})$";
    TIME = r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$";
}

/// The digit of a UUID at this place, dashes not counted.
fn hex_digit(text: &str, place: usize) -> Option<char> {
    text.chars().filter(|letter| *letter != '-').nth(place)
}

fn is_variant(text: &str) -> bool {
    hex_digit(text, 16).is_some_and(|digit| "89abAB".contains(digit))
}

/// What Go takes as the target of a request: a path, or anything with a scheme.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.chars().any(|letter| letter.is_ascii_control()) {
        return false;
    }
    let escapes_are_right = text
        .split('%')
        .skip(1)
        .all(|rest| rest.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)));
    if text.starts_with('/') {
        return escapes_are_right;
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let is_scheme =
        scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(letters);
    let host = rest.strip_prefix("//").map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    is_scheme && escapes_are_right && host.is_none_or(|host| !host.contains([' ', '<', '>', '"']))
}

fn is_hostname(text: &str) -> bool {
    HOSTNAME.is_match(text) && text.len() <= 255 && text.split('.').all(|label| label.len() <= 63)
}

/// An address whose numbers may begin with zeros.
fn sloppy_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        return text.parse().ok();
    }
    let octets: Vec<&str> = text.split('.').map(|octet| octet.trim_start_matches('0')).collect();
    let octets: Vec<&str> =
        octets.into_iter().map(|octet| if octet.is_empty() { "0" } else { octet }).collect();
    let digits = text.split('.').all(|octet| !octet.is_empty() && octet.bytes().all(|b| b.is_ascii_digit()));
    digits.then(|| octets.join(".").parse().ok()).flatten()
}

fn is_cidr(text: &str) -> bool {
    let Some((ip, length)) = text.split_once('/') else { return false };
    let Some(ip) = sloppy_ip(ip) else { return false };
    let digits = !length.is_empty() && length.len() <= 3 && length.bytes().all(|byte| byte.is_ascii_digit());
    digits && length.parse().is_ok_and(|length: u32| length <= if ip.is_ipv6() { 128 } else { 32 })
}

fn is_mac(text: &str) -> bool {
    let hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit());
    [':', '-'].iter().any(|separator| {
        let parts: Vec<&str> = text.split(*separator).collect();
        matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|part| hex(part, 2))
    }) || {
        let parts: Vec<&str> = text.split('.').collect();
        matches!(parts.len(), 3 | 4 | 10) && parts.iter().all(|part| hex(part, 4))
    }
}

fn digits(text: &str) -> String {
    text.chars().filter(|letter| !matches!(letter, ' ' | '-')).collect()
}

fn is_isbn10(text: &str) -> bool {
    let text = digits(text);
    let value = |(place, digit): (usize, char)| match digit {
        'X' if place == 9 => Some(10),
        digit => digit.to_digit(10),
    };
    let values: Option<Vec<u32>> = text.chars().enumerate().map(value).collect();
    values.is_some_and(|values| values.len() == 10 && weigh(&values, |place| place + 1).is_multiple_of(11))
}

fn is_isbn13(text: &str) -> bool {
    let text = digits(text);
    let values: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(10)).collect();
    values.is_some_and(|values| {
        values.len() == 13 && weigh(&values, |place| if place % 2 == 0 { 1 } else { 3 }).is_multiple_of(10)
    })
}

fn weigh(values: &[u32], weight: fn(u32) -> u32) -> u32 {
    (0..).zip(values).map(|(place, value)| weight(place) * value).sum()
}

fn is_credit_card(text: &str) -> bool {
    let text: String = text.chars().filter(char::is_ascii_digit).collect();
    let luhn = |(place, digit): (usize, char)| {
        let digit = digit.to_digit(10).unwrap_or_default();
        match place % 2 {
            1 if digit > 4 => digit * 2 - 9,
            1 => digit * 2,
            _ => digit,
        }
    };
    CARD.is_match(&text) && text.chars().rev().enumerate().map(luhn).sum::<u32>() % 10 == 0
}

fn is_date(text: &str) -> bool {
    let plain = text.len() == 10 && text.bytes().filter(u8::is_ascii_digit).count() == 8;
    plain && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_date_time(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let Some((date, time)) = text.split_once('t') else { return false };
    let Some(parts) = TIME.captures(time) else { return false };
    let most = |part: usize, most: u8| parts[part].parse::<u8>().is_ok_and(|value| value <= most);
    is_date(date) && most(1, 23) && most(2, 59) && most(3, 59)
}

/// `2 days`: what the units begin with, or their short names.
fn is_scala_duration(text: &str) -> bool {
    const SHORT: [&str; 11] = ["ns", "us", "µs", "ms", "s", "m", "h", "hr", "d", "w", "wk"];
    const LONG: [&str; 8] = ["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
    SCALA_DURATION.captures_iter(text).any(|found| {
        let unit = found[2].to_lowercase();
        SHORT.contains(&unit.as_str()) || LONG.iter().any(|long| unit.starts_with(long))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_tell_texts_apart() {
        #[rustfmt::skip]
        let cases = [
            ("ipv4", "10.0.0.1", true), ("ipv4", "010.0.0.1", true), ("ipv4", "fd00::1", false), ("ipv4", "1.2.3", false),
            ("ipv6", "fd00::1", true), ("ipv6", "10.0.0.1", false), ("ipv6", "::ffff:1.2.3.4", true),
            ("cidr", "10.0.0.0/8", true), ("cidr", "fd00::/64", true), ("cidr", "10.0.0.0/33", false), ("cidr", "x/8", false),
            ("date-time", "2026-01-02T03:04:05Z", true), ("date-time", "2026-01-02T03:04:05.5+01:00", true),
            ("date-time", "2026-01-02 03:04:05Z", false), ("date-time", "2026-13-02T03:04:05Z", false),
            ("date", "2026-01-02", true), ("date", "2026-02-30", false),
            ("duration", "1h30m", true), ("duration", "2 days", true), ("duration", "x", false), ("duration", "-1.5s", true),
            ("uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", true), ("uuid4", "6ba7b810-9dad-11d1-80b4-00c04fd430c8", false),
            ("byte", "aGk=", true), ("byte", "a", false), ("byte", "", false),
            ("uri", "https://example.com/a", true), ("uri", "/a", true), ("uri", "a", false), ("uri", "http://a b/", false),
            ("email", "a@b.example", true), ("email", "a", false),
            ("hostname", "a.example.com", true), ("hostname", "-a", false),
            ("mac", "00:00:5e:00:53:01", true), ("mac", "00:00", false),
            ("isbn10", "0321751043", true), ("isbn13", "978-0321751041", true), ("isbn", "1", false),
            ("creditcard", "4111 1111 1111 1111", true), ("creditcard", "4111 1111 1111 1112", false),
            ("hexcolor", "#fFf", true), ("rgbcolor", "rgb(1, 2, 255)", true), ("ssn", "078-05-1120", true),
            ("k8s-short-name", "a-b", true), ("k8s-short-name", "a.b", false), ("k8s-long-name", "a.b", true),
            ("bsonobjectid", "507f1f77bcf86cd799439011", true), ("password", "", true),
        ];
        for (name, text, matches) in cases {
            let format = Format::of(name, Some(Type::String)).unwrap();
            assert_eq!(format.matches(text), matches, "{name} {text}");
        }
        assert_eq!(Format::of("quantum", Some(Type::String)), None);
        assert_eq!(Format::of("int32", Some(Type::String)), None);
        assert!(Format::of("int32", Some(Type::Integer)).is_some());
    }
}
