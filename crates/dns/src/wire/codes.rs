//! Types, classes and codes by their registered names; unknown ones as RFC 3597 spells them.

use std::fmt;
use std::str::FromStr;

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident($repr:ty), $unknown:literal: $($(#[$item:meta])* $constant:ident = $value:literal $text:literal,)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $repr);

        impl $name {
            $(#[doc = $text] $(#[$item])* pub const $constant: Self = Self($value);)*

            /// The registered name, if it is one of those known here.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => f.pad(&format!(concat!($unknown, "{}"), self.0)),
                }
            }
        }

        impl FromStr for $name {
            type Err = UnknownCode;

            fn from_str(text: &str) -> Result<Self, UnknownCode> {
                $(if text.eq_ignore_ascii_case($text) {
                    return Ok(Self::$constant);
                })*
                let number = text.get(..$unknown.len()).filter(|start| start.eq_ignore_ascii_case($unknown));
                number.and_then(|start| text[start.len()..].parse().ok()).map(Self).ok_or(UnknownCode)
            }
        }
    };
}

/// A text names no type, class or code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown mnemonic")]
pub struct UnknownCode;

codes! {
    /// The type of a record or a question.
    Rtype(u16), "TYPE":
    A = 1 "A",
    NS = 2 "NS",
    CNAME = 5 "CNAME",
    SOA = 6 "SOA",
    PTR = 12 "PTR",
    HINFO = 13 "HINFO",
    MX = 15 "MX",
    TXT = 16 "TXT",
    AAAA = 28 "AAAA",
    SRV = 33 "SRV",
    NAPTR = 35 "NAPTR",
    DNAME = 39 "DNAME",
    OPT = 41 "OPT",
    DS = 43 "DS",
    RRSIG = 46 "RRSIG",
    NSEC = 47 "NSEC",
    DNSKEY = 48 "DNSKEY",
    NSEC3 = 50 "NSEC3",
    TLSA = 52 "TLSA",
    SVCB = 64 "SVCB",
    HTTPS = 65 "HTTPS",
    TSIG = 250 "TSIG",
    IXFR = 251 "IXFR",
    AXFR = 252 "AXFR",
    ANY = 255 "ANY",
    CAA = 257 "CAA",
}

codes! {
    /// The class of a record or a question.
    Class(u16), "CLASS":
    IN = 1 "IN",
    CH = 3 "CH",
    NONE = 254 "NONE",
    ANY = 255 "ANY",
}

codes! {
    /// What became of a query; with the upper bits that EDNS adds (RFC 6891 section 6.1.3).
    Rcode(u16), "RCODE":
    NOERROR = 0 "NOERROR",
    FORMERR = 1 "FORMERR",
    SERVFAIL = 2 "SERVFAIL",
    NXDOMAIN = 3 "NXDOMAIN",
    NOTIMP = 4 "NOTIMP",
    REFUSED = 5 "REFUSED",
    BADVERS = 16 "BADVERS",
    BADCOOKIE = 23 "BADCOOKIE",
}

codes! {
    /// The kind of a query; four bits.
    Opcode(u8), "OPCODE":
    QUERY = 0 "QUERY",
    STATUS = 2 "STATUS",
    NOTIFY = 4 "NOTIFY",
    UPDATE = 5 "UPDATE",
}
