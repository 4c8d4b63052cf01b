//! The expressions rules are made of: written to the kernel, and read back to compare.

use std::num::NonZeroU32;

use crate::attribute::{Writer, attributes, find, find_text, find_u32, find_u64};

/// A 32-bit register, 0 to 15. The kernel also calls every fourth one by the number of a 128-bit register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u8);

/// `NFT_REG32_00`.
const FIRST_REGISTER: u32 = 8;
/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;

impl Register {
    fn number(self) -> u32 {
        FIRST_REGISTER + u32::from(self.0)
    }

    fn from_number(number: u32) -> Option<Self> {
        let index = match number {
            1..=4 => (number - 1) * 4,
            FIRST_REGISTER..=23 => number - FIRST_REGISTER,
            _ => return None,
        };
        u8::try_from(index).ok().map(Self)
    }
}

/// Where payload is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// What is read about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meta {
    Mark = 3,
    InputName = 6,
    L4Proto = 16,
}

/// What is read about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    State = 0,
    Status = 2,
    Mark = 3,
}

/// What a packet does to a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// An element is added that is forgotten after so many seconds, or one that is there lives on for as long, with
    /// the value it has. When the map is full, the rule ends.
    Remember(NonZeroU32),
    /// An element goes.
    Forget,
}

/// Where a packet goes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reject {
    /// ICMP destination unreachable with this code.
    Unreachable(u8),
    Reset,
}

/// What a lookup does with what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The rule goes on.
    Match,
    /// The rule goes on when nothing is found.
    NoMatch,
    /// Its value goes there.
    Value(Register),
    /// Its verdict is carried out.
    Verdict,
}

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    /// Loads `length` bytes of the packet.
    Payload { base: Base, offset: u32, length: u32, to: Register },
    /// Loads something about the packet.
    Meta { key: Meta, to: Register },
    /// Loads something about the connection.
    Connection { key: Connection, to: Register },
    /// Sets something about the packet.
    SetMeta { key: Meta, from: Register },
    /// Goes on if the bytes at `from` are equal to `value`, or if they are not.
    Compare { from: Register, equal: bool, value: Vec<u8> },
    /// Goes on if the bytes at `from` are neither less than `first` nor more than `last`.
    Range { from: Register, first: Vec<u8>, last: Vec<u8> },
    /// `to = (from & mask) ^ xor`.
    Bitwise { from: Register, to: Register, mask: Vec<u8>, xor: Vec<u8> },
    /// Looks the bytes at `from` up.
    Lookup { set: String, from: Register, found: Found },
    /// Changes a map: `key` leads to the bytes at `data`.
    Change { set: String, key: Register, data: Register, change: Change },
    /// Counts packets and bytes that come so far in the rule.
    Counter,
    /// A random number below `modulus`.
    Random { to: Register, modulus: u32 },
    /// What kind of address the destination is (`RTN_LOCAL`, ...).
    DestinationType { to: Register },
    /// Loads bytes.
    Immediate { to: Register, value: Vec<u8> },
    /// Rewrites the destination. `family` is the kernel's number.
    Dnat { family: u8, address: Register, port: Register },
    /// Rewrites the source to an address of the outgoing link, with ports at random.
    Masquerade,
    /// Refuses the packet.
    Reject(Reject),
    /// The packet belongs to no connection, and is not followed.
    Untracked,
    /// Ends the rule.
    Verdict(Verdict),
}

/// `IFNAMSIZ`.
const LINK_NAME: usize = 16;

/// The name of a link as [`Meta::InputName`] has it.
pub(crate) fn link_name(name: &str) -> Vec<u8> {
    let mut whole = name.as_bytes().to_vec();
    whole.resize(LINK_NAME, 0);
    whole
}

pub(crate) const EXPR_NAME: u16 = 1;
pub(crate) const EXPR_DATA: u16 = 2;
pub(crate) const DATA_VALUE: u16 = 1;
pub(crate) const DATA_VERDICT: u16 = 2;
pub(crate) const VERDICT_CODE: u16 = 1;
pub(crate) const VERDICT_CHAIN: u16 = 2;
pub(crate) const IMMEDIATE_DATA: u16 = 2;
pub(crate) const PAYLOAD_OFFSET: u16 = 3;
pub(crate) const CMP_OPERATION: u16 = 2;
pub(crate) const CMP_DATA: u16 = 3;
pub(crate) const NF_DROP: u32 = 0;
pub(crate) const NF_ACCEPT: u32 = 1;
const NFT_JUMP: u32 = -3i32 as u32;
const NFT_GOTO: u32 = -4i32 as u32;
const NFT_RETURN: u32 = -5i32 as u32;
const RANGE_EQ: u32 = 0;
const DYNSET_UPDATE: u32 = 1;
const DYNSET_DELETE: u32 = 2;
pub(crate) const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const LOOKUP_F_INV: u32 = 1;
const NG_RANDOM: u32 = 1;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_F_DADDR: u32 = 2;
const NAT_DNAT: u32 = 1;
const RANGE_PROTO_RANDOM_FULLY: u32 = 0x10;
const REJECT_UNREACHABLE: u32 = 0;
const REJECT_RESET: u32 = 1;

/// Writes the verdict as the data of a rule or an element.
pub(crate) fn write_verdict(writer: &mut Writer, verdict: &Verdict) {
    writer.nest(DATA_VERDICT, |data| match verdict {
        Verdict::Accept => data.put_u32(VERDICT_CODE, NF_ACCEPT),
        Verdict::Drop => data.put_u32(VERDICT_CODE, NF_DROP),
        Verdict::Return => data.put_u32(VERDICT_CODE, NFT_RETURN),
        Verdict::Jump(chain) => {
            data.put_u32(VERDICT_CODE, NFT_JUMP);
            data.put_text(VERDICT_CHAIN, chain);
        }
        Verdict::Goto(chain) => {
            data.put_u32(VERDICT_CODE, NFT_GOTO);
            data.put_text(VERDICT_CHAIN, chain);
        }
    });
}

/// Reads what [`write_verdict`] writes.
pub(crate) fn read_verdict(data: &[u8]) -> Option<Verdict> {
    let verdict = find(data, DATA_VERDICT)?;
    let chain = || find_text(verdict, VERDICT_CHAIN).map(str::to_owned);
    match find_u32(verdict, VERDICT_CODE)? {
        NF_ACCEPT => Some(Verdict::Accept),
        NF_DROP => Some(Verdict::Drop),
        NFT_RETURN => Some(Verdict::Return),
        NFT_JUMP => chain().map(Verdict::Jump),
        NFT_GOTO => chain().map(Verdict::Goto),
        _ => None,
    }
}

impl Expression {
    /// Writes the expression as the attribute `kind`.
    pub(crate) fn write(&self, writer: &mut Writer, kind: u16) {
        writer.nest(kind, |element| {
            element.put_text(EXPR_NAME, self.name());
            element.nest(EXPR_DATA, |data| self.write_data(data));
        });
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Payload { .. } => "payload",
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Connection { .. } => "ct",
            Self::Compare { .. } => "cmp",
            Self::Range { .. } => "range",
            Self::Change { .. } => "dynset",
            Self::Counter => "counter",
            Self::Bitwise { .. } => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::Random { .. } => "numgen",
            Self::DestinationType { .. } => "fib",
            Self::Dnat { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Reject(_) => "reject",
            Self::Untracked => "notrack",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
        }
    }

    fn write_data(&self, data: &mut Writer) {
        let value =
            |data: &mut Writer, kind, bytes: &[u8]| data.nest(kind, |value| value.put(DATA_VALUE, bytes));
        match self {
            Self::Payload { base, offset, length, to } => {
                data.put_u32(1, to.number());
                data.put_u32(2, *base as u32);
                data.put_u32(3, *offset);
                data.put_u32(4, *length);
            }
            Self::Meta { key, to } => {
                data.put_u32(2, *key as u32);
                data.put_u32(1, to.number());
            }
            Self::Connection { key, to } => {
                data.put_u32(1, to.number());
                data.put_u32(2, *key as u32);
            }
            Self::SetMeta { key, from } => {
                data.put_u32(2, *key as u32);
                data.put_u32(3, from.number());
            }
            Self::Compare { from, equal, value: bytes } => {
                data.put_u32(1, from.number());
                data.put_u32(2, if *equal { CMP_EQ } else { CMP_NEQ });
                value(data, 3, bytes);
            }
            Self::Range { from, first, last } => {
                data.put_u32(1, from.number());
                data.put_u32(2, RANGE_EQ);
                value(data, 3, first);
                value(data, 4, last);
            }
            Self::Bitwise { from, to, mask, xor } => {
                data.put_u32(1, from.number());
                data.put_u32(2, to.number());
                data.put_u32(3, u32::try_from(mask.len()).expect("at most an address"));
                value(data, 4, mask);
                value(data, 5, xor);
            }
            Self::Lookup { set, from, found } => {
                data.put_text(1, set);
                data.put_u32(2, from.number());
                match found {
                    Found::Match => {}
                    Found::NoMatch => data.put_u32(5, LOOKUP_F_INV),
                    Found::Value(to) => data.put_u32(3, to.number()),
                    Found::Verdict => data.put_u32(3, VERDICT_REGISTER),
                }
            }
            Self::Change { set, key, data: from, change } => {
                data.put_text(1, set);
                let (operation, seconds) = match change {
                    Change::Remember(seconds) => (DYNSET_UPDATE, Some(seconds.get())),
                    Change::Forget => (DYNSET_DELETE, None),
                };
                data.put_u32(3, operation);
                data.put_u32(4, key.number());
                data.put_u32(5, from.number());
                if let Some(seconds) = seconds {
                    data.put_u64(6, u64::from(seconds) * 1000);
                }
            }
            Self::Counter | Self::Untracked => {}
            Self::Random { to, modulus } => {
                data.put_u32(1, to.number());
                data.put_u32(2, *modulus);
                data.put_u32(3, NG_RANDOM);
            }
            Self::DestinationType { to } => {
                data.put_u32(1, to.number());
                data.put_u32(2, FIB_RESULT_ADDRTYPE);
                data.put_u32(3, FIB_F_DADDR);
            }
            Self::Immediate { to, value: bytes } => {
                data.put_u32(1, to.number());
                value(data, 2, bytes);
            }
            Self::Dnat { family, address, port } => {
                data.put_u32(1, NAT_DNAT);
                data.put_u32(2, u32::from(*family));
                data.put_u32(3, address.number());
                data.put_u32(5, port.number());
            }
            Self::Masquerade => data.put_u32(1, RANGE_PROTO_RANDOM_FULLY),
            Self::Reject(Reject::Unreachable(code)) => {
                data.put_u32(1, REJECT_UNREACHABLE);
                data.put(2, &[*code]);
            }
            Self::Reject(Reject::Reset) => data.put_u32(1, REJECT_RESET),
            Self::Verdict(verdict) => {
                data.put_u32(1, VERDICT_REGISTER);
                data.nest(2, |data| write_verdict(data, verdict));
            }
        }
    }

    /// Reads an expression; `None` if it is none of ours.
    fn read(element: &[u8]) -> Option<Self> {
        let data = find(element, EXPR_DATA).unwrap_or_default();
        let number = |kind| find_u32(data, kind);
        let register = |kind| number(kind).and_then(Register::from_number);
        let value = |kind| find(data, kind).and_then(|value| find(value, DATA_VALUE)).map(<[u8]>::to_vec);
        Some(match find_text(element, EXPR_NAME)? {
            "payload" => {
                let base = [Base::Link, Base::Network, Base::Transport].into_iter();
                let base = base.into_iter().find(|base| Some(*base as u32) == number(2))?;
                Self::Payload { base, offset: number(3)?, length: number(4)?, to: register(1)? }
            }
            "meta" => {
                let key = [Meta::Mark, Meta::InputName, Meta::L4Proto]
                    .into_iter()
                    .find(|key| Some(*key as u32) == number(2))?;
                match (register(1), register(3)) {
                    (Some(to), None) => Self::Meta { key, to },
                    (None, Some(from)) => Self::SetMeta { key, from },
                    (None, None) | (Some(_), Some(_)) => return None,
                }
            }
            "ct" if number(3).is_none() && number(4).is_none() => {
                let mut keys = [Connection::State, Connection::Status, Connection::Mark].into_iter();
                Self::Connection { key: keys.find(|key| Some(*key as u32) == number(2))?, to: register(1)? }
            }
            "range" if number(2) == Some(RANGE_EQ) => {
                Self::Range { from: register(1)?, first: value(3)?, last: value(4)? }
            }
            // With expressions of its own, or flags, it is none of ours.
            "dynset"
                if find(data, 7).is_none() && find(data, 10).is_none() && number(9).unwrap_or(0) == 0 =>
            {
                let change = match (number(3)?, find_u64(data, 6).unwrap_or(0)) {
                    (DYNSET_UPDATE, life) if life % 1000 == 0 => {
                        Change::Remember(NonZeroU32::new(u32::try_from(life / 1000).ok()?)?)
                    }
                    (DYNSET_DELETE, 0) => Change::Forget,
                    (_, _) => return None,
                };
                let set = find_text(data, 1)?.to_owned();
                Self::Change { set, key: register(4)?, data: register(5)?, change }
            }
            "counter" => Self::Counter,
            "notrack" => Self::Untracked,
            "cmp" => {
                let equal = match number(2)? {
                    CMP_EQ => true,
                    CMP_NEQ => false,
                    _ => return None,
                };
                Self::Compare { from: register(1)?, equal, value: value(3)? }
            }
            "bitwise" if number(6).unwrap_or(0) == 0 => {
                Self::Bitwise { from: register(1)?, to: register(2)?, mask: value(4)?, xor: value(5)? }
            }
            "lookup" => {
                let found = match (number(3), number(5).unwrap_or(0)) {
                    (None, 0) => Found::Match,
                    (None, LOOKUP_F_INV) => Found::NoMatch,
                    (Some(VERDICT_REGISTER), 0) => Found::Verdict,
                    (Some(_), 0) => Found::Value(register(3)?),
                    (_, _) => return None,
                };
                Self::Lookup { set: find_text(data, 1)?.to_owned(), from: register(2)?, found }
            }
            "numgen" if number(3) == Some(NG_RANDOM) && number(4).unwrap_or(0) == 0 => {
                Self::Random { to: register(1)?, modulus: number(2)? }
            }
            "fib" if (number(2), number(3)) == (Some(FIB_RESULT_ADDRTYPE), Some(FIB_F_DADDR)) => {
                Self::DestinationType { to: register(1)? }
            }
            "nat" if number(1) == Some(NAT_DNAT) => {
                // The kernel lists the ends of ranges too, equal to their starts.
                let family = u8::try_from(number(2)?).ok()?;
                Self::Dnat { family, address: register(3)?, port: register(5)? }
            }
            "masq" if number(1) == Some(RANGE_PROTO_RANDOM_FULLY) => Self::Masquerade,
            "reject" => match number(1)? {
                REJECT_UNREACHABLE => Self::Reject(Reject::Unreachable(*find(data, 2)?.first()?)),
                REJECT_RESET => Self::Reject(Reject::Reset),
                _ => return None,
            },
            "immediate" if number(1) == Some(VERDICT_REGISTER) => {
                Self::Verdict(read_verdict(find(data, 2)?)?)
            }
            "immediate" => Self::Immediate { to: register(1)?, value: value(2)? },
            _ => return None,
        })
    }

    /// What the counters among the expressions of a rule have counted, packets and bytes; `None` without a counter.
    pub(crate) fn counted(list: &[u8]) -> Option<(u64, u64)> {
        let counters = attributes(list).map(|(_, element)| element);
        let mut counters = counters.filter(|element| find_text(element, EXPR_NAME) == Some("counter"));
        let data = find(counters.next()?, EXPR_DATA)?;
        Some((find_u64(data, 2)?, find_u64(data, 1)?))
    }

    /// Reads the expressions of a rule; `None` if one of them is none of ours.
    pub(crate) fn read_list(list: &[u8]) -> Option<Vec<Self>> {
        attributes(list).map(|(_, element)| Self::read(element)).collect()
    }
}
