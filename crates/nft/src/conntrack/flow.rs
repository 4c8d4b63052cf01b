//! Connections as ctnetlink tells of them (`linux/netfilter/nfnetlink_conntrack.h`).

use std::net::{IpAddr, SocketAddr};

use dyad_net::IpFamily;
use dyad_program::Protocol;

use super::Verdict;
use crate::attribute::{NLM_F_ACK, Writer, find, find_u32};
use crate::layout::{DENIED_MARK, number};

/// `NFNL_SUBSYS_CTNETLINK` << 8, and the `IPCTNL_MSG_CT_*`.
const NEW: u16 = 0x100;
pub(super) const GET: u16 = 0x101;
const DELETE: u16 = 0x102;

/// `CTA_*`.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
const MARK_MASK: u16 = 21;
const FILTER: u16 = 25;
/// `CTA_FILTER_ORIG_FLAGS`, and the flag that asks for `CTA_PROTO_NUM`.
const FILTER_ORIGINAL_FLAGS: u16 = 1;
const FILTER_PROTOCOL: u32 = 1 << 3;
/// `CTA_TUPLE_*`.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const TUPLE_ZONE: u16 = 3;
/// `CTA_PROTO_*`.
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// Identifier, type and code of ICMP and of ICMPv6.
const ICMP: [[u16; 3]; 2] = [[4, 5, 6], [7, 8, 9]];

/// `IPS_SEEN_REPLY`, `IPS_CONFIRMED`, `IPS_DST_NAT`, `IPS_DYING`.
const SEEN_REPLY: u32 = 1 << 1;
const CONFIRMED: u32 = 1 << 3;
const DESTINATION_TRANSLATED: u32 = 1 << 5;
const DYING: u32 = 1 << 9;

/// What one direction of a connection looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The number of the protocol (IANA).
    pub protocol: u8,
    /// What tells connections of the protocol apart.
    pub payload: Payload,
}

/// What tells connections of one protocol between two addresses apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Ports.
    Ports {
        /// Of the source.
        source: u16,
        /// Of the destination.
        destination: u16,
    },
    /// A query of ICMP or ICMPv6. Errors are no connections, but belong to the one they are about.
    Icmp {
        /// The identifier.
        id: u16,
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
    },
    /// Nothing.
    Other,
}

impl Tuple {
    /// Where it comes from, for a protocol with ports.
    pub fn source_port(&self) -> Option<SocketAddr> {
        match self.payload {
            Payload::Ports { source, .. } => Some(SocketAddr::new(self.source, source)),
            Payload::Icmp { .. } | Payload::Other => None,
        }
    }

    /// Where it goes, for a protocol with ports.
    pub fn destination_port(&self) -> Option<SocketAddr> {
        match self.payload {
            Payload::Ports { destination, .. } => Some(SocketAddr::new(self.destination, destination)),
            Payload::Icmp { .. } | Payload::Other => None,
        }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let ip = find(bytes, TUPLE_IP)?;
        let address = |v4: u16| {
            let of = |kind| find(ip, kind);
            match (of(v4), of(v4 + 2)) {
                (Some(bytes), _) => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
                (None, Some(bytes)) => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
                (None, None) => None,
            }
        };
        let (source, destination) = (address(1)?, address(2)?);
        let of_protocol = find(bytes, TUPLE_PROTOCOL)?;
        let byte = |kind| find(of_protocol, kind)?.first().copied();
        let short = |kind| Some(u16::from_be_bytes(find(of_protocol, kind)?.get(..2)?.try_into().ok()?));
        let ports = || {
            let (source, destination) = (short(SOURCE_PORT)?, short(DESTINATION_PORT)?);
            Some(Payload::Ports { source, destination })
        };
        let icmp = |[id, kind, code]: [u16; 3]| {
            Some(Payload::Icmp { id: short(id)?, kind: byte(kind)?, code: byte(code)? })
        };
        let payload = ports().or_else(|| ICMP.into_iter().find_map(icmp)).unwrap_or(Payload::Other);
        Some(Self { source, destination, protocol: byte(PROTOCOL_NUMBER)?, payload })
    }
}

/// A connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its first packet, as it was sent.
    pub original: Tuple,
    /// The answer, as it comes to where addresses are translated back.
    pub reply: Tuple,
    /// The zone, 0 for the one everybody shares.
    pub zone: u16,
    /// `IPS_*` bits.
    pub status: u32,
    /// The connection's mark.
    pub mark: u32,
    /// A number that no other connection has at the time.
    pub id: u32,
}

impl Flow {
    /// Reads what ctnetlink says of a connection; `None` for what is not complete.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (original, reply) = (find(bytes, TUPLE_ORIGINAL)?, find(bytes, TUPLE_REPLY)?);
        let zone = |value: Option<&[u8]>| {
            value.and_then(|value| Some(u16::from_be_bytes(value.get(..2)?.try_into().ok()?)))
        };
        let zones = [bytes, original, reply].into_iter().zip([ZONE, TUPLE_ZONE, TUPLE_ZONE]);
        Some(Self {
            zone: zones.filter_map(|(of, kind)| zone(find(of, kind))).max().unwrap_or(0),
            original: Tuple::parse(original)?,
            reply: Tuple::parse(reply)?,
            status: find_u32(bytes, STATUS)?,
            mark: find_u32(bytes, MARK).unwrap_or(0),
            id: find_u32(bytes, ID)?,
        })
    }

    /// Whether it has been let through by all rules there were, and has not ended.
    pub const fn is_running(&self) -> bool {
        self.status & CONFIRMED != 0 && self.status & DYING == 0
    }

    /// Whether an answer has been seen.
    pub const fn is_answered(&self) -> bool {
        self.status & SEEN_REPLY != 0
    }

    /// Whether the destination was replaced.
    pub const fn is_translated(&self) -> bool {
        self.status & DESTINATION_TRANSLATED != 0
    }
}

/// Which connections are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    All,
    /// Those of a protocol. Kernels before 5.8 list all.
    Protocol(Protocol),
    /// Those that have these bits of the mark.
    Mark(u32),
}

impl Filter {
    pub(super) fn write(self, message: &mut Writer) {
        match self {
            Self::All => {}
            Self::Protocol(protocol) => {
                message.nest(TUPLE_ORIGINAL, |tuple| {
                    tuple.nest(TUPLE_PROTOCOL, |of| of.put(PROTOCOL_NUMBER, &[protocol.number()]));
                });
                // Unlike all other numbers, in the machine's order.
                message.nest(FILTER, |flags| {
                    flags.put(FILTER_ORIGINAL_FLAGS, &FILTER_PROTOCOL.to_ne_bytes());
                });
            }
            Self::Mark(bits) => {
                message.put_u32(MARK, bits);
                message.put_u32(MARK_MASK, bits);
            }
        }
    }

    pub(super) fn fits(self, flow: &Flow) -> bool {
        match self {
            Self::All => true,
            Self::Protocol(protocol) => flow.original.protocol == protocol.number(),
            Self::Mark(bits) => flow.mark & bits == bits,
        }
    }
}

/// What the kernel knows a connection by, as it wrote it.
#[derive(Debug)]
pub(super) struct Key {
    tuple: Vec<u8>,
    id: Vec<u8>,
}

/// The key of a connection that could be parsed, from its attributes.
pub(super) fn key(attributes: &[u8]) -> Key {
    let bytes = |kind| find(attributes, kind).unwrap_or_default().to_vec();
    Key { tuple: bytes(TUPLE_ORIGINAL), id: bytes(ID) }
}

impl Key {
    /// Adds the message that does what was decided; asks for an answer to it if it is the last one.
    pub(super) fn write(
        &self,
        writer: &mut Writer,
        verdict: Verdict,
        family: IpFamily,
        sequence: u32,
        is_last: bool,
    ) {
        let kind = match verdict {
            Verdict::Delete => DELETE,
            Verdict::Keep | Verdict::Deny | Verdict::Admit => NEW,
        };
        let flags = if is_last { NLM_F_ACK } else { 0 };
        writer.message(kind, flags, sequence, [number(family), 0, 0, 0], |message| {
            message.put_nested(TUPLE_ORIGINAL, &self.tuple);
            message.put(ID, &self.id);
            if verdict != Verdict::Delete {
                message.put_u32(MARK, if verdict == Verdict::Deny { DENIED_MARK } else { 0 });
                message.put_u32(MARK_MASK, DENIED_MARK);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::attribute::{NFGEN, messages};

    /// An entry as the kernel writes it: a pod asks a Service, and 10.244.1.2 answers.
    fn entry(protocol: u8, zone: Option<u16>) -> Vec<u8> {
        let tuple = |writer: &mut Writer, kind, source: [u8; 4], destination: [u8; 4], ports: [u16; 2]| {
            writer.nest(kind, |tuple| {
                tuple.nest(TUPLE_IP, |ip| {
                    ip.put(1, &source);
                    ip.put(2, &destination);
                });
                tuple.nest(TUPLE_PROTOCOL, |of| {
                    of.put(PROTOCOL_NUMBER, &[protocol]);
                    if protocol == 1 {
                        of.put(4, &ports[0].to_be_bytes());
                        of.put(5, &[8]);
                        of.put(6, &[0]);
                    } else {
                        of.put(SOURCE_PORT, &ports[0].to_be_bytes());
                        of.put(DESTINATION_PORT, &ports[1].to_be_bytes());
                    }
                });
            });
        };
        let mut writer = Writer::default();
        tuple(&mut writer, TUPLE_ORIGINAL, [10, 244, 1, 3], [10, 96, 0, 1], [5000, 53]);
        tuple(&mut writer, TUPLE_REPLY, [10, 244, 1, 2], [10, 244, 1, 3], [8053, 5000]);
        writer.put_u32(STATUS, CONFIRMED | DESTINATION_TRANSLATED);
        writer.put_u32(MARK, 0x1007);
        writer.put_u32(ID, 77);
        if let Some(zone) = zone {
            writer.put(ZONE, &zone.to_be_bytes());
        }
        writer.into_bytes()
    }

    #[test]
    fn an_entry_is_read() {
        let flow = Flow::parse(&entry(17, None)).unwrap();
        assert_eq!(flow.original.destination_port(), Some("10.96.0.1:53".parse().unwrap()));
        assert_eq!(flow.reply.source_port(), Some("10.244.1.2:8053".parse().unwrap()));
        assert_eq!((flow.zone, flow.mark, flow.id), (0, 0x1007, 77));
        assert!(flow.is_running() && flow.is_translated() && !flow.is_answered());
        assert_eq!(Flow::parse(&entry(17, Some(3))).unwrap().zone, 3);
        let echo = Flow::parse(&entry(1, None)).unwrap();
        assert_eq!(echo.original.payload, Payload::Icmp { id: 5000, kind: 8, code: 0 });
    }

    #[test]
    fn changes_name_the_entry_as_the_kernel_did() {
        let bytes = entry(17, None);
        for (verdict, kind) in [(Verdict::Delete, DELETE), (Verdict::Deny, NEW), (Verdict::Admit, NEW)] {
            let mut writer = Writer::default();
            key(&bytes).write(&mut writer, verdict, IpFamily::V4, 1, true);
            let message = messages(writer.as_bytes()).next().unwrap();
            let body = &message.body[NFGEN..];
            assert_eq!(message.kind, kind);
            assert_eq!(find(body, TUPLE_ORIGINAL), find(&bytes, TUPLE_ORIGINAL));
            assert_eq!(find_u32(body, ID), Some(77));
            let mark = (find_u32(body, MARK), find_u32(body, MARK_MASK));
            let expected = match verdict {
                Verdict::Keep | Verdict::Delete => (None, None),
                Verdict::Deny => (Some(DENIED_MARK), Some(DENIED_MARK)),
                Verdict::Admit => (Some(0), Some(DENIED_MARK)),
            };
            assert_eq!(mark, expected);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Flow::parse(&bytes), key(&bytes));
        }

        /// Bytes that are nearly right come further.
        #[test]
        fn no_damage_makes_the_reader_panic(
            at in 0_usize..200, to: u8, end in 0_usize..300, protocol in prop_oneof![Just(1_u8), Just(17)],
        ) {
            let mut bytes = entry(protocol, Some(1));
            bytes.truncate(end);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            let _ = (Flow::parse(&bytes), key(&bytes));
        }
    }
}
