//! The fields `conditionsV4` and `conditionsV6`: what must hold of a packet for a port of the host to lead on.
//!
//! The reference plugin hands them on as they are, to iptables or to nftables. Here those are understood that both can say:
//! where a packet comes from and goes to, and by which link it comes.

use std::net::IpAddr;

use dyad_net::{IpFamily, IpNet};
use dyad_nft::nat::{Condition, Matched};
use serde_json::Value;

use crate::conf::Fields;
use crate::{CniError, Code, Result};

const WAY_OUT: &str = "is none of the conditions there are: -s ADDRESS, -d ADDRESS and -i LINK, each with \"!\" before it \
    for what must not be, or as in nftables \"ip saddr\", \"ip6 daddr\" and \"iifname\", each with \"!=\"";
/// How long the name of a link can be.
const LONGEST_NAME: usize = 15;

const fn key(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "conditionsV4",
        IpFamily::V6 => "conditionsV6",
    }
}

/// What nftables calls the header.
const fn header(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "ip",
        IpFamily::V6 => "ip6",
    }
}

/// Reads those of a family.
pub(super) fn read(fields: &Fields<'_>, family: IpFamily) -> Result<Vec<Condition>> {
    let mut words = Vec::new();
    for (at, entry) in fields.list(key(family))?.iter().enumerate() {
        let name = format!("{}[{at}]", fields.name(key(family)));
        let text = entry.as_str();
        let text = text.ok_or_else(|| CniError::config(&name, entry, "is no string: put it in quotes"))?;
        words.extend(text.split_whitespace().map(|word| Word { name: name.clone(), text: word }));
    }
    let mut words = words.into_iter().peekable();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let (inverted, word) = match word.text {
            "!" => (true, following(&mut words, &word)?),
            _ => (false, word),
        };
        let (kind, is_nft) = match word.text {
            "-s" | "--src" | "--source" => (Kind::Source, false),
            "-d" | "--dst" | "--destination" => (Kind::Destination, false),
            "-i" | "--in-interface" => (Kind::Link, false),
            "iifname" if !inverted => (Kind::Link, true),
            text if text == header(family) && !inverted => {
                let field = following(&mut words, &word)?;
                match field.text {
                    "saddr" => (Kind::Source, true),
                    "daddr" => (Kind::Destination, true),
                    _ => return Err(field.unknown()),
                }
            }
            _ => return Err(word.unknown()),
        };
        let sign = words.next_if(|next| is_nft && matches!(next.text, "==" | "!="));
        let value = following(&mut words, &word)?;
        let equal = !inverted && sign.is_none_or(|sign| sign.text == "==");
        let what = match kind {
            Kind::Source => Matched::Source(value.net(family)?),
            Kind::Destination => Matched::Destination(value.net(family)?),
            Kind::Link => value.link(is_nft)?,
        };
        found.push(Condition { what, equal });
    }
    Ok(found)
}

enum Kind {
    Source,
    Destination,
    Link,
}

/// A word, and where it is.
struct Word<'a> {
    name: String,
    text: &'a str,
}

impl Word<'_> {
    fn unknown(&self) -> CniError {
        let msg = format!("{}: {} {WAY_OUT}", self.name, Value::from(self.text));
        CniError::new(Code::UnsupportedField, msg)
    }

    fn error(&self, way_out: &str) -> CniError {
        CniError::config(&self.name, Value::from(self.text), way_out)
    }

    fn net(&self, family: IpFamily) -> Result<IpNet> {
        let parsed = self.text.parse().ok().or_else(|| self.text.parse::<IpAddr>().map(IpNet::from).ok());
        let net: IpNet = parsed.ok_or_else(|| self.error("must be one address, or one with a length"))?;
        if IpFamily::from(net) != family {
            return Err(self.error(&format!("must be {family}, as this is {}", key(family))));
        }
        Ok(net.trunc())
    }

    /// iptables has `+` for the rest of a name, nftables `*`.
    fn link(&self, is_nft: bool) -> Result<Matched> {
        let name = self.text.trim_matches('"');
        let (beginning, is_open) =
            name.strip_suffix(if is_nft { '*' } else { '+' }).map_or((name, false), |rest| (rest, true));
        if beginning.is_empty() || beginning.len() > LONGEST_NAME {
            return Err(self.error("is no name of a link: it must have from 1 to 15 bytes"));
        }
        let name = beginning.to_owned();
        Ok(if is_open { Matched::Links(name) } else { Matched::Link(name) })
    }
}

/// The word after `before`.
fn following<'a>(words: &mut impl Iterator<Item = Word<'a>>, before: &Word<'_>) -> Result<Word<'a>> {
    words.next().ok_or_else(|| before.error("needs something behind it"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::NetConf;

    fn read_as(family: IpFamily, words: Value) -> Result<Vec<Condition>> {
        let raw = json!({ "cniVersion": "1.0.0", "name": "a", "type": "portmap", key(family): words });
        read(&NetConf::from_value(raw).unwrap().fields(), family)
    }

    #[test]
    fn words_of_iptables_and_of_nftables_say_the_same() {
        let net = |text: &str| -> IpNet { text.parse().unwrap() };
        let all = |family| match family {
            IpFamily::V4 => ("10.0.0.0/8", "192.0.2.1/32", "192.0.2.1"),
            IpFamily::V6 => ("fd00::/8", "2001:db8::1/128", "2001:db8::1"),
        };
        for family in IpFamily::BOTH {
            let (many, one, bare) = all(family);
            let wanted = [
                Condition { what: Matched::Source(net(many)), equal: false },
                Condition { what: Matched::Destination(net(one)), equal: true },
                Condition { what: Matched::Link("eth0".into()), equal: true },
                Condition { what: Matched::Links("wl".into()), equal: false },
            ];
            let header = header(family);
            for words in [
                json!(["!", "-s", many, "-d", bare, "-i", "eth0", "!", "-i", "wl+"]),
                json!(["! --source", many, "--dst", one, "--in-interface eth0 ! -i wl+"]),
                json!([
                    header, "saddr", "!=", many, header, "daddr", bare, "iifname", "eth0", "iifname", "!=",
                    "wl*"
                ]),
                json!([format!(
                    "{header} saddr != {many} {header} daddr == {one} iifname \"eth0\" iifname != \"wl*\""
                )]),
            ] {
                assert_eq!(read_as(family, words.clone()).unwrap(), wanted, "{words}");
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (words, code, text) in [
            (json!(["-m", "comment"]), 2, "conditionsV4[0]: \"-m\" is none of the conditions there are"),
            (json!(["-d", "10.0.0.1", "-j", "DROP"]), 2, "conditionsV4[2]: \"-j\""),
            (json!(["ip", "ttl", "1"]), 2, "conditionsV4[1]: \"ttl\""),
            (json!(["ip6 saddr fd00::1"]), 2, "conditionsV4[0]: \"ip6\""),
            (json!(["!", "!", "-s", "10.0.0.1"]), 2, "conditionsV4[1]: \"!\""),
            (json!(["!"]), 7, "conditionsV4[0]: \"!\" needs something behind it"),
            (json!(["-s"]), 7, "conditionsV4[0]: \"-s\" needs something behind it"),
            (
                json!(["-s", "10.0.0.1,10.0.0.2"]),
                7,
                "conditionsV4[1]: \"10.0.0.1,10.0.0.2\" must be one address",
            ),
            (json!(["-s", "fd00::/8"]), 7, "conditionsV4[1]: \"fd00::/8\" must be IPv4"),
            (json!(["-i", "a-name-that-is-long"]), 7, "conditionsV4[1]: \"a-name-that-is-long\" is no name"),
            (json!(["-i", "+"]), 7, "conditionsV4[1]: \"+\" is no name"),
            (json!([7]), 7, "conditionsV4[0]: 7 is no string"),
            (json!("-s 10.0.0.1"), 7, "conditionsV4: \"-s 10.0.0.1\" must be a list"),
        ] {
            let error = read_as(IpFamily::V4, words.clone()).unwrap_err();
            assert_eq!(error.code, code, "{words}: {}", error.msg);
            assert!(error.msg.contains(text), "{words}: {}", error.msg);
        }
    }
}
