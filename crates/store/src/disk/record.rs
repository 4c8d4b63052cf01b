//! One write as bytes.
//!
//! ```text
//! u8   1 = value follows, 0 = deletion
//! u64  revision that created the key (0 for a deletion)      little endian
//! u64  revision that wrote the key before (0: none)
//! u32  length of the key
//!      key, value
//! ```

use bytes::Bytes;

use crate::api::{Event, Kv};

const HEADER_BYTES: usize = 1 + 8 + 8 + 4;

/// A record, borrowed from the page it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) key: &'a [u8],
    /// `None` for a deletion.
    pub(super) value: Option<&'a [u8]>,
    pub(super) create_rev: u64,
    /// Where the key was written before, 0 for nowhere.
    pub(super) prev_rev: u64,
}

impl<'a> Record<'a> {
    pub(super) fn of(event: &'a Event) -> Self {
        Self {
            key: &event.key,
            value: event.value.as_ref().map(|kv| &kv.value[..]),
            create_rev: event.value.as_ref().map_or(0, |kv| kv.create_rev),
            prev_rev: event.prev.as_ref().map_or(0, |kv| kv.mod_rev),
        }
    }

    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        let key_len =
            u32::try_from(self.key.len()).expect("a key of 4 GiB is refused by redb's limits long before");
        into.clear();
        into.reserve(HEADER_BYTES + self.key.len() + self.value.map_or(0, <[u8]>::len));
        into.push(u8::from(self.value.is_some()));
        into.extend_from_slice(&self.create_rev.to_le_bytes());
        into.extend_from_slice(&self.prev_rev.to_le_bytes());
        into.extend_from_slice(&key_len.to_le_bytes());
        into.extend_from_slice(self.key);
        into.extend_from_slice(self.value.unwrap_or_default());
    }

    /// `None` if these bytes are no record.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (create_rev, rest) = rest.split_first_chunk()?;
        let (prev_rev, rest) = rest.split_first_chunk()?;
        let (key_len, rest) = rest.split_first_chunk()?;
        let (key, value) = rest.split_at_checked(u32::from_le_bytes(*key_len) as usize)?;
        let value = match kind {
            1 => Some(value),
            0 if value.is_empty() => None,
            _ => return None,
        };
        let (create_rev, prev_rev) = (u64::from_le_bytes(*create_rev), u64::from_le_bytes(*prev_rev));
        Some(Self { key, value, create_rev, prev_rev })
    }

    /// The value as it stood at `rev`; `None` for a deletion.
    pub(super) fn to_kv(self, rev: u64) -> Option<Kv> {
        // One allocation for both: keys are short and live exactly as long as their value.
        let value = self.value?;
        let mut both = Vec::with_capacity(self.key.len() + value.len());
        both.extend_from_slice(self.key);
        both.extend_from_slice(value);
        let both = Bytes::from(both);
        Some(Kv {
            key: both.slice(..self.key.len()),
            value: both.slice(self.key.len()..),
            create_rev: self.create_rev,
            mod_rev: rev,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_survives_the_round_trip(
            key in prop::collection::vec(any::<u8>(), 0..40),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
            create_rev: u64,
            prev_rev: u64,
        ) {
            let record = Record { key: &key, value: value.as_deref(), create_rev, prev_rev };
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            prop_assert_eq!(Record::decode(&bytes), Some(record));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Record::decode(&bytes);
        }
    }
}
