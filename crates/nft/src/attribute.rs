//! Netlink messages and attributes (RFC 3549 §2.3); numbers inside nf_tables attributes are in network byte order.

/// `nlmsghdr`: length, type, flags, sequence, port.
pub(crate) const HEADER: usize = 16;
/// `nfgenmsg`: family, version, resource.
pub(crate) const NFGEN: usize = 4;
const NESTED: u16 = 0x8000;
/// The two top bits of an attribute's type are flags (nested, network byte order).
const TYPE_MASK: u16 = 0x3fff;
/// The largest value of an attribute, a multiple of four that leaves room for its header.
const MAX_VALUE: usize = 0xfff8;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;

const fn align(length: usize) -> usize {
    (length + 3) & !3
}

/// Messages under construction, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Appends a message; `fill` adds its attributes.
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        nfgen: [u8; NFGEN],
        fill: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&nfgen);
        fill(self);
        let length = u32::try_from(self.bytes.len() - start).expect("attributes limit a message to far less");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds an attribute.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).expect("values are keys and names, far below 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// Adds a number.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Adds a long number.
    pub(crate) fn put_u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Adds a NUL-terminated string.
    pub(crate) fn put_text(&mut self, kind: u16, text: &str) {
        let length = u16::try_from(text.len() + 5).expect("names are far below 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// Adds an attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("lists are cut before 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds an attribute that holds attributes, given as bytes.
    pub(crate) fn put_nested(&mut self, kind: u16, attributes: &[u8]) {
        self.put(kind | NESTED, attributes);
    }

    /// Adds an attribute that holds as many of `items` as fit into one, and takes those off.
    pub(crate) fn nest_some<T>(&mut self, kind: u16, items: &mut &[T], mut write: impl FnMut(&mut Self, &T)) {
        let start = self.bytes.len();
        self.nest(kind, |list| {
            while let Some((item, rest)) = items.split_first() {
                let before = list.bytes.len();
                write(list, item);
                if list.bytes.len() - start > MAX_VALUE {
                    list.bytes.truncate(before);
                    return;
                }
                *items = rest;
            }
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Adds flags to the message that starts at `at`.
    pub(crate) fn flag(&mut self, at: usize, flags: u16) {
        let now = u16_at(&self.bytes, at + 6).unwrap_or_default();
        self.bytes[at + 6..at + 8].copy_from_slice(&(now | flags).to_ne_bytes());
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
        let length = native_u32(bytes.get(..4)?)? as usize;
        if length < HEADER {
            return None;
        }
        let message = Received {
            kind: u16_at(bytes, 4)?,
            flags: u16_at(bytes, 6)?,
            sequence: native_u32(bytes.get(8..12)?)?,
            body: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in a value; stops at the first that does not fit.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a type.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A number in network byte order.
pub(crate) fn u32_of(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.get(..4)?.try_into().ok()?))
}

/// A number attribute of a type.
pub(crate) fn find_u32(bytes: &[u8], kind: u16) -> Option<u32> {
    find(bytes, kind).and_then(u32_of)
}

/// A long number attribute of a type.
pub(crate) fn find_u64(bytes: &[u8], kind: u16) -> Option<u64> {
    Some(u64::from_be_bytes(find(bytes, kind)?.get(..8)?.try_into().ok()?))
}

/// A string attribute of a type, up to its NUL.
pub(crate) fn find_text(bytes: &[u8], kind: u16) -> Option<&str> {
    let value = find(bytes, kind)?;
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()
}

/// The number at the start, in the machine's byte order.
pub(crate) fn native_u32(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::default();
        writer.message(0xa00, NLM_F_ACK, 7, [2, 0, 0, 0], |message| {
            message.put_text(1, "dyad");
            message.nest(2, |inner| inner.put_u32(1, 5));
        });
        let [received] = messages(writer.as_bytes()).collect::<Vec<_>>().try_into().unwrap();
        assert_eq!((received.kind, received.flags, received.sequence), (0xa00, NLM_F_ACK | NLM_F_REQUEST, 7));
        let body = &received.body[NFGEN..];
        assert_eq!(find_text(body, 1), Some("dyad"));
        assert_eq!(find_u32(find(body, 2).unwrap(), 1), Some(5));
        // struct nlmsghdr, struct nfgenmsg, struct nlattr by hand, on a little-endian machine.
        if cfg!(target_endian = "little") {
            let golden = [
                &[48, 0, 0, 0, 0, 10, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0][..],
                &[9, 0, 1, 0, b'd', b'y', b'a', b'd', 0, 0, 0, 0],
                &[12, 0, 2, 0x80, 8, 0, 1, 0, 0, 0, 0, 5],
            ];
            assert_eq!(writer.as_bytes()[4..], golden.concat()[4..]);
            assert_eq!(writer.as_bytes()[0] as usize, golden.concat().len());
        }
    }

    #[test]
    fn lists_are_cut_to_what_an_attribute_can_hold() {
        let all: Vec<u32> = (0..20_000).collect();
        let (mut rest, mut found) = (&all[..], Vec::new());
        while !rest.is_empty() {
            let mut writer = Writer::default();
            writer.nest_some(3, &mut rest, |list, item| list.put_u32(1, *item));
            let list = find(writer.as_bytes(), 3).unwrap();
            found.extend(attributes(list).filter_map(|(_, value)| u32_of(value)));
        }
        assert_eq!(found, all);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_run_forever(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                prop_assert!(attributes(message.body).count() <= bytes.len());
                let _ = (find_text(message.body, 1), find_u32(message.body, 2));
            }
        }
    }
}
