//! Domain names.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use super::{Error, NameError, Reader};

mod text;

/// Bytes of the longest name, with the root's (RFC 1035 section 2.3.4).
pub const MAX_NAME: usize = 255;
/// Bytes of the longest label.
pub const MAX_LABEL: usize = 63;

/// An absolute domain name in wire form. The case of letters is kept, but does not count: equality, order and hash are
/// those of the name in lower case.
#[derive(Clone)]
pub struct Name(Box<[u8]>);

impl Name {
    /// The root.
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// A name of labels, the first one first.
    pub fn from_labels<L: AsRef<[u8]>>(labels: impl IntoIterator<Item = L>) -> Result<Self, NameError> {
        let mut wire = Vec::with_capacity(32);
        for label in labels {
            let label = label.as_ref();
            let length = u8::try_from(label.len()).ok().filter(|length| usize::from(*length) <= MAX_LABEL);
            match length.ok_or(NameError::LabelTooLong)? {
                0 => return Err(NameError::EmptyLabel),
                length => wire.push(length),
            }
            wire.extend_from_slice(label);
        }
        wire.push(0);
        if wire.len() > MAX_NAME { Err(NameError::NameTooLong) } else { Ok(Self(wire.into())) }
    }

    /// A name in wire form: nothing else, and not compressed.
    pub fn from_wire(wire: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(wire);
        let name = reader.name()?;
        if reader.is_empty() { Ok(name) } else { Err(Error::Excess) }
    }

    /// A name whose wire form is known to be right.
    pub(super) fn from_checked(wire: &[u8]) -> Self {
        Self(wire.into())
    }

    /// The wire form, as it came.
    pub const fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// The name in lower case: its wire form is the key of hash tables (RFC 4034 section 6.2).
    #[must_use]
    pub fn to_lowercase(&self) -> Self {
        // Lengths are below the letters.
        Self(self.0.to_ascii_lowercase().into())
    }

    /// Whether this is the root.
    pub const fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The labels without the root's, the first one first.
    pub const fn labels(&self) -> Labels<'_> {
        Labels(&self.0)
    }

    /// The name without its first label; none for the root.
    pub fn parent(&self) -> Option<Self> {
        let first = self.labels().next()?;
        Some(Self(self.0[first.len() + 1..].into()))
    }

    /// Whether `ancestor` is this name, or above it.
    pub fn is_within(&self, ancestor: &Self) -> bool {
        self.below(ancestor).is_some()
    }

    /// The labels below `ancestor` as they stand in the wire form; empty for `ancestor` itself.
    pub fn below(&self, ancestor: &Self) -> Option<&[u8]> {
        let split = self.0.len().checked_sub(ancestor.0.len())?;
        let ends = self.0[split..].eq_ignore_ascii_case(&ancestor.0);
        (ends && self.is_boundary(split)).then(|| &self.0[..split])
    }

    /// The name with `from` at its end replaced by `to`, as DNAME does (RFC 6672 section 2.2). `None` if it does not end
    /// so, or would become too long.
    pub fn rebase(&self, from: &Self, to: &Self) -> Option<Self> {
        let wire = [self.below(from)?, &to.0].concat();
        (wire.len() <= MAX_NAME).then(|| Self(wire.into()))
    }

    /// The name with a label in front.
    pub fn child(&self, label: impl AsRef<[u8]>) -> Result<Self, NameError> {
        Self::from_labels(std::iter::once(label.as_ref()).chain(self.labels()))
    }

    fn is_boundary(&self, split: usize) -> bool {
        let mut at = 0;
        while at < split {
            at += usize::from(self.0[at]) + 1;
        }
        at == split
    }
}

/// The labels of a name.
#[derive(Clone, Debug)]
pub struct Labels<'a>(&'a [u8]);

impl<'a> Labels<'a> {
    /// The labels of a piece of a name's wire form.
    pub const fn of(wire: &'a [u8]) -> Self {
        Self(wire)
    }
}

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first().filter(|(length, _)| **length > 0)?;
        let (label, rest) = rest.split_at_checked((*length).into())?;
        self.0 = rest;
        Some(label)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut lower = [0; MAX_NAME];
        let lower = &mut lower[..self.0.len()];
        lower.copy_from_slice(&self.0);
        lower.make_ascii_lowercase();
        state.write(lower);
    }
}

impl Ord for Name {
    /// Canonical order (RFC 4034 section 6.1): what is below a name comes right after it.
    fn cmp(&self, other: &Self) -> Ordering {
        let reversed = |name: &Self| {
            let mut labels: Vec<_> = name.labels().map(<[u8]>::to_ascii_lowercase).collect();
            labels.reverse();
            labels
        };
        reversed(self).cmp(&reversed(other))
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
