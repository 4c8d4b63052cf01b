//! The netlink wire format: messages and attributes, in the byte order of the machine (RFC 3549 §2.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dyad_net::IpFamily;

pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// In an error message: the request's payload is left out.
const NLM_F_CAPPED: u16 = 0x100;
/// In an error message: attributes follow, among them the kernel's own words.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// `nlmsghdr`: length, type, flags, sequence, port.
const HEADER: usize = 16;
/// The two top bits of an attribute's type are flags (nested, network byte order).
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// A message under construction.
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Starts a message of type `kind` with the fixed header of its family (`ifinfomsg`, `rtmsg`, ...).
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// Adds an attribute.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        self.nest_raw(kind, |message| message.bytes.extend_from_slice(value));
    }

    /// Adds a 32-bit attribute.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// Adds a NUL-terminated string.
    pub(crate) fn put_text(&mut self, kind: u16, text: &str) {
        self.nest_raw(kind, |message| {
            message.bytes.extend_from_slice(text.as_bytes());
            message.bytes.push(0);
        });
    }

    /// Adds an address.
    pub(crate) fn put_ip(&mut self, kind: u16, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) => self.put(kind, &ip.octets()),
            IpAddr::V6(ip) => self.put(kind, &ip.octets()),
        }
    }

    /// Adds an attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.nest_raw(kind | NESTED, fill);
    }

    /// Adds an attribute whose value `fill` writes as it likes.
    pub(crate) fn nest_raw(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        self.close(start);
    }

    /// Adds something that starts with its own length as the first 16 bits (`rtnexthop`): `fixed` without them.
    pub(crate) fn counted(&mut self, fixed: &[u8], fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(fixed);
        fill(self);
        self.close(start);
    }

    /// Adds bytes as they are, inside an attribute that is still open.
    pub(crate) fn unpadded(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds bytes as they are, padded.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// The finished message.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("a message is a few hundred bytes");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }

    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.bytes.len() - start).expect("an attribute is a few hundred bytes");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(align(self.bytes.len()), 0);
    }
}

/// A received message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

/// The messages in a datagram; stops at the first that does not fit.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        if length < HEADER {
            return None;
        }
        let message = Received {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: u32_at(bytes, 8)?,
            body: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes after a fixed header; stops at the first that does not fit.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The error number (zero for an acknowledgement) and the kernel's words in an `NLMSG_ERROR`.
pub(crate) fn error(message: Received<'_>) -> Option<(i32, Option<String>)> {
    let code = i32::from_ne_bytes(message.body.get(..4)?.try_into().ok()?);
    let mut hint = None;
    if message.flags & NLM_F_ACK_TLVS != 0 {
        let echoed =
            if message.flags & NLM_F_CAPPED != 0 { HEADER } else { u32_at(message.body, 4)? as usize };
        let tail = message.body.get(4 + align(echoed)..).unwrap_or_default();
        hint = attributes(tail).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG).map(|(_, value)| text(value));
    }
    Some((code.saturating_neg(), hint))
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A string up to its NUL.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An address, told apart by its length.
pub(crate) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

/// The kernel's number of a family.
pub(crate) const fn af(family: IpFamily) -> u8 {
    match family {
        IpFamily::V4 => libc::AF_INET as u8,
        IpFamily::V6 => libc::AF_INET6 as u8,
    }
}

/// The all-zero address of a family, for destinations the kernel leaves out.
pub(crate) const fn unspecified(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The family of a kernel number.
pub(crate) fn family(af_number: u8) -> Option<IpFamily> {
    IpFamily::BOTH.into_iter().find(|&family| af(family) == af_number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut message = Message::new(16, NLM_F_ACK, &[7; 16]);
        message.put_text(3, "eth0");
        message.put_u32(4, 1500);
        message.nest(18, |inner| inner.put_ip(1, "fd00::1".parse().unwrap()));
        let bytes = message.finish(42);
        let [received] = messages(&bytes).collect::<Vec<_>>().try_into().unwrap();
        assert_eq!((received.kind, received.flags, received.sequence), (16, NLM_F_ACK | NLM_F_REQUEST, 42));
        let found: Vec<_> = attributes(&received.body[16..]).collect();
        assert_eq!(text(found[0].1), "eth0");
        assert_eq!((found[1].0, u32_at(found[1].1, 0)), (4, Some(1500)));
        let inner: Vec<_> = attributes(found[2].1).collect();
        assert_eq!(ip(inner[0].1), Some("fd00::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_run_forever(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                let _ = error(message);
                prop_assert!(attributes(message.body).count() <= bytes.len());
            }
        }
    }
}
