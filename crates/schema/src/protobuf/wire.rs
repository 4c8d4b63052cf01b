//! The wire format: numbers, tags and lengths, read within bounds; messages, written from their end.

use super::ProtobufError;

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const BYTES: u8 = 2;
const GROUP: u8 = 3;
const GROUP_END: u8 = 4;
const FIXED32: u8 = 5;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    /// Four bytes: no field of the table is of that sort.
    Fixed32,
    /// A group: nor of this one.
    Group,
}

impl Payload<'_> {
    pub(super) const fn wire(self) -> u8 {
        match self {
            Self::Varint(_) => VARINT,
            Self::Fixed64(_) => FIXED64,
            Self::Bytes(_) => BYTES,
            Self::Fixed32 => FIXED32,
            Self::Group => GROUP,
        }
    }
}

/// Reads the fields of a message.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    name: &'static str,
}

impl<'a> Reader<'a> {
    /// `name` is the message's, for errors.
    pub(super) const fn new(bytes: &'a [u8], name: &'static str) -> Self {
        Self { bytes, name }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.bytes.split_first().ok_or(ProtobufError::End)?;
            self.bytes = rest;
            // The tenth byte has room for one bit; more is lost, as it is in Go.
            number |= u64::from(first & 0x7f) << shift;
            if *first < 0x80 {
                return Ok(number);
            }
        }
        Err(ProtobufError::Overflow)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ProtobufError> {
        if i64::try_from(length).is_err() {
            return Err(ProtobufError::Length);
        }
        let length = usize::try_from(length).map_err(|_| ProtobufError::End)?;
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(ProtobufError::End)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// The number and content of the next field; `None` at the end.
    pub(super) fn field(&mut self) -> Result<Option<(u32, Payload<'a>)>, ProtobufError> {
        if self.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = (tag & 7) as u8;
        // Go's field numbers are int32.
        let number = (tag >> 3) as i32;
        if wire == GROUP_END {
            return Err(ProtobufError::GroupInstead(self.name));
        }
        let Some(number) = u32::try_from(number).ok().filter(|number| *number > 0) else {
            return Err(ProtobufError::IllegalTag { name: self.name, number, tag });
        };
        let payload = match wire {
            VARINT => Payload::Varint(self.varint()?),
            FIXED64 => Payload::Fixed64(self.fixed64()?),
            BYTES => {
                let length = self.varint()?;
                Payload::Bytes(self.take(length)?)
            }
            GROUP => {
                self.skip_group()?;
                Payload::Group
            }
            FIXED32 => {
                self.take(4)?;
                Payload::Fixed32
            }
            other => return Err(ProtobufError::IllegalWire(other)),
        };
        Ok(Some((number, payload)))
    }

    pub(super) fn fixed64(&mut self) -> Result<u64, ProtobufError> {
        let bytes = self.take(8)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// Skips to the end of the group that has begun; groups may nest, but need no stack to be counted.
    fn skip_group(&mut self) -> Result<(), ProtobufError> {
        let mut depth = 1_usize;
        while depth > 0 {
            match (self.varint()? & 7) as u8 {
                VARINT => _ = self.varint()?,
                FIXED64 => _ = self.take(8)?,
                BYTES => {
                    let length = self.varint()?;
                    self.take(length)?;
                }
                GROUP => depth += 1,
                GROUP_END => depth -= 1,
                FIXED32 => _ = self.take(4)?,
                other => return Err(ProtobufError::IllegalWire(other)),
            }
        }
        Ok(())
    }
}

/// Writes messages from their end to their beginning, so that the length of what is within a message is known when it
/// is written.
#[derive(Default)]
pub(super) struct Writer {
    reversed: Vec<u8>,
}

impl Writer {
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.reversed.reverse();
        self.reversed
    }

    /// Where what is written next ends.
    pub(super) fn mark(&self) -> usize {
        self.reversed.len()
    }

    fn put_varint(&mut self, mut number: u64) {
        let start = self.reversed.len();
        while number >= 0x80 {
            self.reversed.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.reversed.push((number & 0x7f) as u8);
        self.reversed[start..].reverse();
    }

    fn put_tag(&mut self, number: u32, wire: u8) {
        self.put_varint(u64::from(number) << 3 | u64::from(wire));
    }

    pub(super) fn varint(&mut self, number: u32, value: u64) {
        self.put_varint(value);
        self.put_tag(number, VARINT);
    }

    pub(super) fn signed(&mut self, number: u32, value: i64) {
        self.varint(number, value.cast_unsigned());
    }

    pub(super) fn fixed64(&mut self, number: u32, value: u64) {
        self.reversed.extend(value.to_be_bytes());
        self.put_tag(number, FIXED64);
    }

    pub(super) fn bytes(&mut self, number: u32, bytes: &[u8]) {
        let mark = self.mark();
        self.reversed.extend(bytes.iter().rev());
        self.close(number, mark);
    }

    /// Makes a message of everything written since `mark`.
    pub(super) fn close(&mut self, number: u32, mark: usize) {
        self.put_varint((self.reversed.len() - mark) as u64);
        self.put_tag(number, BYTES);
    }
}
