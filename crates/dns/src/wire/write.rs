//! Writing messages: names compressed, size bounded.

use super::{Class, HEADER, Header, Labels, Name, Question, Record, Rtype, Section};

/// Bytes of the longest message: its length over TCP has 16 bits.
pub const MAX_MESSAGE: usize = 65_535;
/// Where pointers reach (RFC 1035 section 4.1.4).
const REACH: usize = 1 << 14;
/// How many ends of names are remembered. What comes later is compressed with those.
const REMEMBERED: usize = 128;

/// Writes a message, record by record, as long as they fit.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
    /// Counts of questions and of the records of each section.
    counts: [u16; 4],
    /// Where labels begin that later names may end with.
    ends: Vec<u16>,
}

/// How far a message was written, to go back to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    length: usize,
    counts: [u16; 4],
    ends: usize,
}

impl<'a> Writer<'a> {
    /// Begins a message over what `out` holds; it gets `limit` bytes at most, the header aside.
    pub fn new(out: &'a mut Vec<u8>, header: Header, limit: usize) -> Self {
        out.clear();
        out.extend(header.to_bytes());
        out.resize(HEADER, 0);
        Self { out, limit: limit.min(MAX_MESSAGE), counts: [0; 4], ends: Vec::new() }
    }

    /// What has been written so far.
    pub fn mark(&self) -> Mark {
        Mark { length: self.out.len(), counts: self.counts, ends: self.ends.len() }
    }

    /// Takes back what was written after `mark`.
    pub fn back_to(&mut self, mark: Mark) {
        self.out.truncate(mark.length);
        self.ends.truncate(mark.ends);
        self.counts = mark.counts;
    }

    /// Adds a question; `false`, and nothing added, if it does not fit.
    pub fn question(&mut self, question: &Question) -> bool {
        self.add(0, |writer| {
            writer.put_name(&question.name);
            writer.put_type(question.rtype, question.class);
        })
    }

    /// Adds a record; `false`, and nothing added, if it does not fit.
    pub fn record(&mut self, section: Section, record: &Record) -> bool {
        self.add(section as usize + 1, |writer| {
            writer.put_name(&record.name);
            writer.put_type(record.rtype(), record.class);
            writer.put(&record.ttl.to_be_bytes());
            let at = writer.out.len();
            writer.put(&[0; 2]);
            record.data.write(writer);
            let length = u16::try_from(writer.out.len() - at - 2).unwrap_or(u16::MAX);
            writer.out[at..at + 2].copy_from_slice(&length.to_be_bytes());
        })
    }

    fn add(&mut self, count: usize, write: impl FnOnce(&mut Self)) -> bool {
        let before = self.mark();
        write(self);
        let fits = self.out.len() <= self.limit && self.counts[count] < u16::MAX;
        if fits {
            self.counts[count] += 1;
        } else {
            self.back_to(before);
        }
        fits
    }

    /// Says that answers are missing.
    pub fn set_truncated(&mut self) {
        self.out[2] |= 2;
    }

    /// Ends the message with an OPT record in wire form, if that is not empty and fits in `limit`.
    pub(super) fn finish(mut self, opt: &[u8], limit: usize) {
        if !opt.is_empty() && self.out.len() + opt.len() <= limit.min(MAX_MESSAGE) {
            self.put(opt);
            self.counts[3] = self.counts[3].saturating_add(1);
        }
        for (count, at) in self.counts.iter().zip((4..).step_by(2)) {
            self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn put_type(&mut self, rtype: Rtype, class: Class) {
        self.put(&rtype.0.to_be_bytes());
        self.put(&class.0.to_be_bytes());
    }

    /// A character string; what is longer than one can be is cut.
    pub(super) fn put_string(&mut self, string: &[u8]) {
        let length = u8::try_from(string.len()).unwrap_or(u8::MAX);
        self.put(&[length]);
        self.put(&string[..length.into()]);
    }

    /// A name, ending with a pointer if its end was written before.
    pub(super) fn put_name(&mut self, name: &Name) {
        // Not with its own labels: it has no end yet.
        let known = self.ends.len();
        let mut rest = name.as_wire();
        while rest.len() > 1 {
            if let Some(at) = self.ends[..known].iter().find(|at| self.is_at(rest, (**at).into())) {
                let pointer = 0xc000 | *at;
                self.put(&pointer.to_be_bytes());
                return;
            }
            rest = self.put_label(rest);
        }
        self.put(&[0]);
    }

    /// A name without pointers; later names may point to it.
    pub(super) fn put_plain_name(&mut self, name: &Name) {
        let mut rest = name.as_wire();
        while rest.len() > 1 {
            rest = self.put_label(rest);
        }
        self.put(&[0]);
    }

    fn put_label<'n>(&mut self, rest: &'n [u8]) -> &'n [u8] {
        let at = self.out.len();
        if at < REACH && self.ends.len() < REMEMBERED {
            self.ends.extend(u16::try_from(at));
        }
        let (label, rest) = rest.split_at(usize::from(rest[0]) + 1);
        self.put(label);
        rest
    }

    /// Whether the name at `at` is `name`.
    fn is_at(&self, name: &[u8], mut at: usize) -> bool {
        for label in Labels::of(name) {
            while self.out[at] >= 0xc0 {
                at = usize::from(self.out[at] & 0x3f) << 8 | usize::from(self.out[at + 1]);
            }
            let length = usize::from(self.out[at]);
            if length != label.len() || !self.out[at + 1..][..length].eq_ignore_ascii_case(label) {
                return false;
            }
            at += length + 1;
        }
        while self.out[at] >= 0xc0 {
            at = usize::from(self.out[at] & 0x3f) << 8 | usize::from(self.out[at + 1]);
        }
        self.out[at] == 0
    }
}
