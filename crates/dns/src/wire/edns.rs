//! The OPT record (RFC 6891) and the options that mean something here.

use super::{Error, Rcode, Reader};

const NSID: u16 = 3;
const COOKIE: u16 = 10;
const KEEPALIVE: u16 = 11;
const EXTENDED_ERROR: u16 = 15;
const DNSSEC_OK: u16 = 1 << 15;

/// Codes of extended errors (RFC 8914 section 4, RFC 9567).
pub mod ede {
    /// The answer is older than its TTL.
    pub const STALE_ANSWER: u16 = 3;
    /// The answer was made here.
    pub const FORGED_ANSWER: u16 = 4;
    /// Validation failed.
    pub const DNSSEC_BOGUS: u16 = 6;
    /// The failure was remembered.
    pub const CACHED_ERROR: u16 = 13;
    /// The server has not all of its data yet.
    pub const NOT_READY: u16 = 14;
    /// The client may not do this.
    pub const PROHIBITED: u16 = 18;
    /// The NXDOMAIN is older than its TTL.
    pub const STALE_NXDOMAIN: u16 = 19;
    /// The server does not do this.
    pub const NOT_SUPPORTED: u16 = 21;
    /// No upstream could be reached.
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    /// The network failed on the way to an upstream.
    pub const NETWORK_ERROR: u16 = 23;
}

/// What an OPT record says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Edns {
    /// The largest UDP payload its sender takes.
    pub udp_size: u16,
    /// The version; only zero is defined.
    pub version: u8,
    /// DO.
    pub dnssec_ok: bool,
    /// Options in their order.
    pub options: Vec<EdnsOption>,
}

/// One option.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EdnsOption {
    /// RFC 7873.
    Cookie(Cookie),
    /// The server's identifier (RFC 5001); empty in a query.
    Nsid(Box<[u8]>),
    /// How long a TCP connection may idle, in units of 100 ms (RFC 7828); without a value in a query.
    Keepalive(Option<u16>),
    /// An extended error (RFC 8914): code and text.
    Error(u16, Box<str>),
    /// Any other, by code.
    Other(u16, Box<[u8]>),
}

/// A cookie: the client's part, and the server's if the client has one (RFC 7873 section 4).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cookie {
    /// Eight bytes of the client's choice.
    pub client: [u8; 8],
    /// Eight to 32 bytes that the server made, or none.
    pub server: Box<[u8]>,
}

impl Edns {
    /// Reads class, TTL and data of an OPT record; the upper bits of the code are returned beside it.
    pub(super) fn read(class: u16, ttl: u32, data: &mut Reader<'_>) -> Result<(Self, Rcode), Error> {
        let [upper, version, high, low] = ttl.to_be_bytes();
        let dnssec_ok = u16::from_be_bytes([high, low]) & DNSSEC_OK != 0;
        let mut options = Vec::new();
        while !data.is_empty() {
            let (code, length) = (data.u16()?, data.u16()?);
            options.push(EdnsOption::read(code, data.take(length.into())?)?);
        }
        Ok((Self { udp_size: class, version, dnssec_ok, options }, Rcode(u16::from(upper) << 4)))
    }

    /// The whole record.
    pub(super) fn to_bytes(&self, rcode: Rcode) -> Vec<u8> {
        let mut bytes = vec![0, 0, 41];
        bytes.extend(self.udp_size.to_be_bytes());
        bytes.extend([(rcode.0 >> 4) as u8, self.version]);
        bytes.extend(if self.dnssec_ok { DNSSEC_OK } else { 0 }.to_be_bytes());
        bytes.extend([0; 2]);
        let data = bytes.len();
        for option in &self.options {
            option.write(&mut bytes);
        }
        let length = u16::try_from(bytes.len() - data).unwrap_or_else(|_| {
            bytes.truncate(data);
            0
        });
        bytes[data - 2..data].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    /// The cookie, if there is one: the first counts (RFC 7873 section 5.2).
    pub fn cookie(&self) -> Option<&Cookie> {
        self.options.iter().find_map(|option| match option {
            EdnsOption::Cookie(cookie) => Some(cookie),
            _ => None,
        })
    }
}

impl EdnsOption {
    fn read(code: u16, data: &[u8]) -> Result<Self, Error> {
        Ok(match code {
            NSID => Self::Nsid(data.into()),
            COOKIE => {
                let (client, server) = data.split_first_chunk::<8>().ok_or(Error::Opt)?;
                if !server.is_empty() && !(8..=32).contains(&server.len()) {
                    return Err(Error::Opt);
                }
                Self::Cookie(Cookie { client: *client, server: server.into() })
            }
            KEEPALIVE => Self::Keepalive(match data {
                [] => None,
                [high, low] => Some(u16::from_be_bytes([*high, *low])),
                _ => return Err(Error::Opt),
            }),
            EXTENDED_ERROR => {
                let (code, text) = data.split_first_chunk::<2>().ok_or(Error::Opt)?;
                Self::Error(u16::from_be_bytes(*code), String::from_utf8_lossy(text).into())
            }
            code => Self::Other(code, data.into()),
        })
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        let (code, first, second): (u16, &[u8], &[u8]) = match self {
            Self::Cookie(cookie) => (COOKIE, &cookie.client, &cookie.server),
            Self::Nsid(id) => (NSID, id, &[]),
            Self::Keepalive(None) => (KEEPALIVE, &[], &[]),
            Self::Keepalive(Some(time)) => (KEEPALIVE, &time.to_be_bytes(), &[]),
            Self::Error(code, text) => (EXTENDED_ERROR, &code.to_be_bytes(), text.as_bytes()),
            Self::Other(code, data) => (*code, data, &[]),
        };
        // What does not fit in an option is left out.
        if let Ok(length) = u16::try_from(first.len() + second.len()) {
            bytes.extend(code.to_be_bytes());
            bytes.extend(length.to_be_bytes());
            bytes.extend_from_slice(first);
            bytes.extend_from_slice(second);
        }
    }
}
