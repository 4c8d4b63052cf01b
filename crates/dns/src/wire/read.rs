//! A position in a packet.

use super::Error;
use super::name::{MAX_NAME, Name};

/// Reads a packet from front to back; names may point to what came before.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    /// At the beginning of a packet.
    pub const fn new(packet: &'a [u8]) -> Self {
        Self { packet, at: 0, end: packet.len() }
    }

    /// Bytes before the position.
    pub const fn position(&self) -> usize {
        self.at
    }

    /// Whether all has been read.
    pub const fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.end).ok_or(Error::Truncated)?;
        let bytes = &self.packet[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    /// The rest.
    pub fn rest(&mut self) -> &'a [u8] {
        let bytes = &self.packet[self.at..self.end];
        self.at = self.end;
        bytes
    }

    /// A reader of the next `length` bytes only, whose names may still point anywhere before.
    pub fn part(&mut self, length: usize) -> Result<Self, Error> {
        let at = self.at;
        self.take(length)?;
        Ok(Self { packet: self.packet, at, end: self.at })
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    /// As many bytes as the array has.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        self.take(N)?.try_into().map_err(|_| Error::Truncated)
    }

    /// A character string: a length and as many bytes (RFC 1035 section 3.3).
    pub fn string(&mut self) -> Result<&'a [u8], Error> {
        let length = self.u8()?;
        self.take(length.into())
    }

    /// A name, decompressed.
    pub fn name(&mut self) -> Result<Name, Error> {
        let mut wire = [0; MAX_NAME];
        let length = self.name_into(&mut wire)?;
        Ok(Name::from_checked(&wire[..length]))
    }

    /// Writes a name, decompressed, to `wire`, and returns its length.
    ///
    /// A pointer must lead to before the name, or the part of it, that it stands in: so there are no loops.
    pub fn name_into(&mut self, wire: &mut [u8; MAX_NAME]) -> Result<usize, Error> {
        let (mut at, mut end, mut length) = (self.at, self.end, 0);
        // Where the part of the name begins that is being read, and where the name ends in the packet.
        let (mut start, mut after) = (at, None);
        loop {
            let size = usize::from(*self.packet[..end].get(at).ok_or(Error::Truncated)?);
            match size >> 6 {
                0 => {
                    let label = self.packet[..end].get(at..=at + size).ok_or(Error::Truncated)?;
                    // The root's byte is still to come after any other.
                    if length + label.len() + usize::from(size > 0) > MAX_NAME {
                        return Err(Error::NameTooLong);
                    }
                    wire[length..][..label.len()].copy_from_slice(label);
                    length += label.len();
                    at += label.len();
                    if size == 0 {
                        self.at = after.unwrap_or(at);
                        return Ok(length);
                    }
                }
                3 => {
                    let low = usize::from(*self.packet[..end].get(at + 1).ok_or(Error::Truncated)?);
                    let to = (size & 0x3f) << 8 | low;
                    if to >= start {
                        return Err(Error::Pointer);
                    }
                    after = after.or(Some(at + 2));
                    // What is pointed to lies before, so the end of a record's data is no bound any more.
                    (at, start, end) = (to, to, start);
                }
                _ => return Err(Error::LabelType),
            }
        }
    }
}
