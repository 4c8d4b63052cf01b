//! The first twelve bytes (RFC 1035 section 4.1.1, RFC 4035 section 3.1.6).

use super::{Error, Opcode, Rcode, Reader};

/// Bytes of a header.
pub const HEADER: usize = 12;

const RESPONSE: u16 = 1 << 15;
const AUTHORITATIVE: u16 = 1 << 10;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const RECURSION_AVAILABLE: u16 = 1 << 7;
const AUTHENTIC_DATA: u16 = 1 << 5;
const CHECKING_DISABLED: u16 = 1 << 4;

/// A header without its counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The query's identifier.
    pub id: u16,
    /// QR.
    pub response: bool,
    /// What is asked for.
    pub opcode: Opcode,
    /// AA.
    pub authoritative: bool,
    /// TC.
    pub truncated: bool,
    /// RD.
    pub recursion_desired: bool,
    /// RA.
    pub recursion_available: bool,
    /// AD.
    pub authentic_data: bool,
    /// CD.
    pub checking_disabled: bool,
    /// The code; only its lower four bits stand in the header itself.
    pub rcode: Rcode,
}

impl Header {
    /// A query that asks for recursion.
    pub const fn query(id: u16) -> Self {
        Self {
            id,
            response: false,
            opcode: Opcode::QUERY,
            authoritative: false,
            truncated: false,
            recursion_desired: true,
            recursion_available: false,
            authentic_data: false,
            checking_disabled: false,
            rcode: Rcode::NOERROR,
        }
    }

    /// The response to this query: its identifier, opcode, RD and CD, with RA set.
    pub const fn response(self, rcode: Rcode) -> Self {
        Self {
            response: true,
            authoritative: false,
            truncated: false,
            recursion_available: true,
            authentic_data: false,
            rcode,
            ..self
        }
    }

    /// Reads identifier and flags.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let (id, flags) = (reader.u16()?, reader.u16()?);
        let is = |bit| flags & bit != 0;
        Ok(Self {
            id,
            response: is(RESPONSE),
            opcode: Opcode(((flags >> 11) & 0xf) as u8),
            authoritative: is(AUTHORITATIVE),
            truncated: is(TRUNCATED),
            recursion_desired: is(RECURSION_DESIRED),
            recursion_available: is(RECURSION_AVAILABLE),
            authentic_data: is(AUTHENTIC_DATA),
            checking_disabled: is(CHECKING_DISABLED),
            rcode: Rcode(flags & 0xf),
        })
    }

    /// Identifier and flags as they stand in a packet.
    pub fn to_bytes(self) -> [u8; 4] {
        let bit = |set: bool, bit: u16| if set { bit } else { 0 };
        let flags = bit(self.response, RESPONSE)
            | u16::from(self.opcode.0 & 0xf) << 11
            | bit(self.authoritative, AUTHORITATIVE)
            | bit(self.truncated, TRUNCATED)
            | bit(self.recursion_desired, RECURSION_DESIRED)
            | bit(self.recursion_available, RECURSION_AVAILABLE)
            | bit(self.authentic_data, AUTHENTIC_DATA)
            | bit(self.checking_disabled, CHECKING_DISABLED)
            | self.rcode.0 & 0xf;
        let ([a, b], [c, d]) = (self.id.to_be_bytes(), flags.to_be_bytes());
        [a, b, c, d]
    }
}
