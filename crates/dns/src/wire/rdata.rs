//! What records say.

mod text;

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Error, Name, Reader, Rtype, Writer};

/// The data of a record. Names are decompressed; types that are not known here are opaque (RFC 3597).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Rdata {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address (RFC 3596).
    Aaaa(Ipv6Addr),
    /// A name server.
    Ns(Name),
    /// The name this one is an alias of.
    Cname(Name),
    /// What the end of names below this one is replaced by (RFC 6672).
    Dname(Name),
    /// The name of an address.
    Ptr(Name),
    /// The start of a zone.
    Soa(Box<Soa>),
    /// A mail server, with its preference.
    Mx(u16, Name),
    /// Character strings.
    Txt(Vec<Box<[u8]>>),
    /// A Service (RFC 2782).
    Srv(Srv),
    /// CPU and operating system; what RFC 8482 answers to ANY.
    Hinfo(Box<[u8]>, Box<[u8]>),
    /// Anything else, with names of the types of RFC 1035 decompressed.
    Other(Rtype, Box<[u8]>),
}

/// The data of a SOA record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Soa {
    /// The first name server.
    pub mname: Name,
    /// Who is responsible.
    pub rname: Name,
    /// The version of the zone.
    pub serial: u32,
    /// Seconds between refreshes.
    pub refresh: u32,
    /// Seconds between retries.
    pub retry: u32,
    /// Seconds until it expires.
    pub expire: u32,
    /// Seconds that negative answers hold, with the record's TTL (RFC 2308 section 4).
    pub minimum: u32,
}

/// The data of a SRV record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Srv {
    /// Lower ones are tried first.
    pub priority: u16,
    /// The share among those of one priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// Whose port.
    pub target: Name,
}

/// Bytes before the names, and how many names end the data: types whose names may be compressed by old senders
/// (RFC 3597 section 4).
const fn layout(rtype: Rtype) -> Option<(usize, usize)> {
    match rtype.0 {
        // MD, MF, MB, MG, MR.
        3 | 4 | 7 | 8 | 9 => Some((0, 1)),
        // MINFO, RP.
        14 | 17 => Some((0, 2)),
        // AFSDB, RT, KX.
        18 | 21 | 36 => Some((2, 1)),
        // PX.
        26 => Some((2, 2)),
        _ => None,
    }
}

impl Rdata {
    /// The type this is data of.
    pub const fn rtype(&self) -> Rtype {
        match self {
            Self::A(_) => Rtype::A,
            Self::Aaaa(_) => Rtype::AAAA,
            Self::Ns(_) => Rtype::NS,
            Self::Cname(_) => Rtype::CNAME,
            Self::Dname(_) => Rtype::DNAME,
            Self::Ptr(_) => Rtype::PTR,
            Self::Soa(_) => Rtype::SOA,
            Self::Mx(..) => Rtype::MX,
            Self::Txt(_) => Rtype::TXT,
            Self::Srv(_) => Rtype::SRV,
            Self::Hinfo(..) => Rtype::HINFO,
            Self::Other(rtype, _) => *rtype,
        }
    }

    /// Reads all that is left in `data` as data of a type.
    pub fn read(rtype: Rtype, data: &mut Reader<'_>) -> Result<Self, Error> {
        let read = match rtype {
            Rtype::A => Self::A(data.array::<4>()?.into()),
            Rtype::AAAA => Self::Aaaa(data.array::<16>()?.into()),
            Rtype::NS => Self::Ns(data.name()?),
            Rtype::CNAME => Self::Cname(data.name()?),
            Rtype::DNAME => Self::Dname(data.name()?),
            Rtype::PTR => Self::Ptr(data.name()?),
            Rtype::SOA => Self::Soa(Box::new(Soa {
                mname: data.name()?,
                rname: data.name()?,
                serial: data.u32()?,
                refresh: data.u32()?,
                retry: data.u32()?,
                expire: data.u32()?,
                minimum: data.u32()?,
            })),
            Rtype::MX => Self::Mx(data.u16()?, data.name()?),
            Rtype::TXT => {
                let mut strings = vec![data.string()?.into()];
                while !data.is_empty() {
                    strings.push(data.string()?.into());
                }
                Self::Txt(strings)
            }
            Rtype::SRV => Self::Srv(Srv {
                priority: data.u16()?,
                weight: data.u16()?,
                port: data.u16()?,
                target: data.name()?,
            }),
            Rtype::HINFO => Self::Hinfo(data.string()?.into(), data.string()?.into()),
            Rtype::NAPTR => {
                let mut bytes = data.take(4)?.to_vec();
                for _ in 0..3 {
                    let string = data.string()?;
                    bytes.extend(u8::try_from(string.len()));
                    bytes.extend_from_slice(string);
                }
                bytes.extend_from_slice(data.name()?.as_wire());
                Self::Other(rtype, bytes.into())
            }
            rtype => match layout(rtype) {
                None => Self::Other(rtype, data.rest().into()),
                Some((before, names)) => {
                    let mut bytes = data.take(before)?.to_vec();
                    for _ in 0..names {
                        bytes.extend_from_slice(data.name()?.as_wire());
                    }
                    Self::Other(rtype, bytes.into())
                }
            },
        };
        if data.is_empty() { Ok(read) } else { Err(Error::Excess) }
    }

    /// Writes it; names of RFC 1035's types are compressed, others must not be (RFC 3597 section 4).
    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        match self {
            Self::A(ip) => writer.put(&ip.octets()),
            Self::Aaaa(ip) => writer.put(&ip.octets()),
            Self::Ns(name) | Self::Cname(name) | Self::Ptr(name) => writer.put_name(name),
            Self::Dname(name) => writer.put_plain_name(name),
            Self::Soa(soa) => {
                writer.put_name(&soa.mname);
                writer.put_name(&soa.rname);
                for number in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
                    writer.put(&number.to_be_bytes());
                }
            }
            Self::Mx(preference, name) => {
                writer.put(&preference.to_be_bytes());
                writer.put_name(name);
            }
            Self::Txt(strings) => strings.iter().for_each(|string| writer.put_string(string)),
            Self::Srv(srv) => {
                for number in [srv.priority, srv.weight, srv.port] {
                    writer.put(&number.to_be_bytes());
                }
                writer.put_plain_name(&srv.target);
            }
            Self::Hinfo(cpu, os) => {
                writer.put_string(cpu);
                writer.put_string(os);
            }
            Self::Other(_, bytes) => writer.put(bytes),
        }
    }
}
