//! Data as zone files write it (RFC 1035 section 5.1, RFC 3597 section 5).

use std::fmt::{self, Write as _};

use super::{Rdata, Soa, Srv};

impl fmt::Display for Rdata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A(ip) => ip.fmt(f),
            Self::Aaaa(ip) => ip.fmt(f),
            Self::Ns(name) | Self::Cname(name) | Self::Dname(name) | Self::Ptr(name) => name.fmt(f),
            Self::Soa(soa) => {
                let Soa { mname, rname, serial, refresh, retry, expire, minimum } = &**soa;
                write!(f, "{mname} {rname} {serial} {refresh} {retry} {expire} {minimum}")
            }
            Self::Mx(preference, name) => write!(f, "{preference} {name}"),
            Self::Txt(strings) => {
                for (at, string) in strings.iter().enumerate() {
                    f.write_str(if at == 0 { "" } else { " " })?;
                    quoted(string, f)?;
                }
                Ok(())
            }
            Self::Srv(Srv { priority, weight, port, target }) => {
                write!(f, "{priority} {weight} {port} {target}")
            }
            Self::Hinfo(cpu, os) => {
                quoted(cpu, f)?;
                f.write_char(' ')?;
                quoted(os, f)
            }
            Self::Other(_, data) => {
                write!(f, "\\# {}", data.len())?;
                f.write_str(if data.is_empty() { "" } else { " " })?;
                data.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// A character string in quotes.
fn quoted(string: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('"')?;
    for byte in string {
        match byte {
            b'"' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
            b' '..=b'~' => f.write_char(char::from(*byte))?,
            _ => write!(f, "\\{byte:03}")?,
        }
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Rtype;

    #[test]
    fn data_reads_as_in_a_zone_file() {
        let name = |text: &str| text.parse().unwrap();
        let string = |text: &str| text.as_bytes().into();
        let srv = Srv { priority: 0, weight: 100, port: 80, target: name("web.example.") };
        for (data, want) in [
            (Rdata::Aaaa("fd00::1".parse().unwrap()), "fd00::1"),
            (Rdata::Srv(srv), "0 100 80 web.example."),
            (Rdata::Mx(10, name("mail.example.")), "10 mail.example."),
            (Rdata::Txt(vec![string("1.1.0"), string("a \"b\"\n")]), r#""1.1.0" "a \"b\"\010""#),
            (Rdata::Other(Rtype(65280), Box::from([0xab, 1])), "\\# 2 ab01"),
            (Rdata::Other(Rtype(65280), Box::default()), "\\# 0"),
        ] {
            assert_eq!(data.to_string(), want);
        }
    }
}
