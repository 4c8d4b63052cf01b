//! Responses, written from front to back into a buffer that is used again and again.

use crate::wire::{HEADER, Header, Rcode, Rtype, Section};

/// Where pointers reach (RFC 1035 section 4.1.4).
const REACH: usize = 1 << 14;

/// A response in the making.
#[derive(Debug)]
pub(super) struct Reply<'a> {
    out: &'a mut Vec<u8>,
    header: Header,
    limit: usize,
    counts: [u16; 3],
    has_question: bool,
}

/// How far a response was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(usize, [u16; 3]);

impl<'a> Reply<'a> {
    /// Begins the response to a query, whose question is repeated as it came.
    pub(super) fn new(out: &'a mut Vec<u8>, query: Header, question: &[u8], limit: usize) -> Self {
        out.clear();
        out.resize(HEADER, 0);
        out.extend_from_slice(question);
        let header = query.response(Rcode::NOERROR);
        Self { out, header, limit, counts: [0; 3], has_question: !question.is_empty() }
    }

    /// Keeps room for an OPT record.
    pub(super) const fn reserve(&mut self, bytes: usize) {
        self.limit = self.limit.saturating_sub(bytes);
    }

    pub(super) const fn set_authoritative(&mut self, authoritative: bool) {
        self.header.authoritative = authoritative;
    }

    pub(super) const fn set_truncated(&mut self) {
        self.header.truncated = true;
    }

    pub(super) const fn is_truncated(&self) -> bool {
        self.header.truncated
    }

    /// Bytes so far.
    pub(super) const fn len(&self) -> usize {
        self.out.len()
    }

    pub(super) const fn mark(&self) -> Mark {
        Mark(self.out.len(), self.counts)
    }

    pub(super) fn back_to(&mut self, mark: Mark) {
        self.out.truncate(mark.0);
        self.counts = mark.1;
    }

    /// Adds a record of the name at `owner`, with data in pieces. `false`, and nothing added, if it does not fit.
    pub(super) fn record(
        &mut self,
        section: Section,
        owner: usize,
        rtype: Rtype,
        ttl: u32,
        data: &[&[u8]],
    ) -> bool {
        let length: usize = data.iter().map(|piece| piece.len()).sum();
        let (Ok(length), true) = (u16::try_from(length), owner < REACH) else { return false };
        if self.out.len() + 12 + usize::from(length) > self.limit {
            return false;
        }
        let pointer = (0xc000 | owner as u16).to_be_bytes();
        let ([t0, t1], [l0, l1]) = (rtype.0.to_be_bytes(), length.to_be_bytes());
        let [s0, s1, s2, s3] = ttl.to_be_bytes();
        self.out.extend_from_slice(&[pointer[0], pointer[1], t0, t1, 0, 1, s0, s1, s2, s3, l0, l1]);
        for piece in data {
            self.out.extend_from_slice(piece);
        }
        self.counts[section as usize] += 1;
        true
    }

    /// Adds an OPT record, for which there is room.
    pub(super) fn opt(
        &mut self,
        size: u16,
        rcode: Rcode,
        dnssec_ok: bool,
        write: impl FnOnce(&mut Options<'_>),
    ) {
        let ([s0, s1], upper) = (size.to_be_bytes(), (rcode.0 >> 4) as u8);
        let flags = if dnssec_ok { 0x80 } else { 0 };
        self.out.extend_from_slice(&[0, 0, 41, s0, s1, upper, 0, flags, 0, 0, 0]);
        let at = self.out.len();
        write(&mut Options(self.out));
        let length = (self.out.len() - at) as u16;
        self.out[at - 2..at].copy_from_slice(&length.to_be_bytes());
        self.counts[2] += 1;
    }

    /// Writes the header.
    pub(super) fn finish(mut self, rcode: Rcode) {
        self.header.rcode = rcode;
        self.out[..4].copy_from_slice(&self.header.to_bytes());
        self.out[5] = self.has_question.into();
        for (count, at) in self.counts.iter().zip([6, 8, 10]) {
            self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
    }
}

/// Options of an OPT record.
#[derive(Debug)]
pub(super) struct Options<'a>(&'a mut Vec<u8>);

impl Options<'_> {
    pub(super) fn put(&mut self, code: u16, data: &[&[u8]]) {
        let length: usize = data.iter().map(|piece| piece.len()).sum();
        self.0.extend_from_slice(&code.to_be_bytes());
        self.0.extend_from_slice(&(length as u16).to_be_bytes());
        data.iter().for_each(|piece| self.0.extend_from_slice(piece));
    }
}
