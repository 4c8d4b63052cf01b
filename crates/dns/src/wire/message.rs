//! Whole messages.

use super::{Class, Edns, Error, HEADER, Header, MAX_NAME, Name, Rcode, Rdata, Reader, Rtype, Writer};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name, letters as they came: a response repeats them (0x20).
    pub name: Name,
    /// The type.
    pub rtype: Rtype,
    /// The class.
    pub class: Class,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Whose it is.
    pub name: Name,
    /// The class.
    pub class: Class,
    /// How many seconds it holds.
    pub ttl: u32,
    /// What it says.
    pub data: Rdata,
}

/// Where a record stands in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Section {
    /// What was asked for.
    Answer,
    /// Who says so, or how long there is nothing.
    Authority,
    /// What may be asked next.
    Additional,
}

/// A message. The OPT record stands in `edns`, not in `additional`; the upper bits of its code are in the header's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Identifier, flags and code.
    pub header: Header,
    /// Questions; one, in all messages that mean something.
    pub questions: Vec<Question>,
    /// Answers in order, aliases first.
    pub answers: Vec<Record>,
    /// Authority.
    pub authority: Vec<Record>,
    /// Additional records but OPT.
    pub additional: Vec<Record>,
    /// What the OPT record says, if there is one.
    pub edns: Option<Edns>,
}

impl Question {
    /// A question of class IN.
    pub const fn new(name: Name, rtype: Rtype) -> Self {
        Self { name, rtype, class: Class::IN }
    }

    /// Reads a question.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(Self { name: reader.name()?, rtype: Rtype(reader.u16()?), class: Class(reader.u16()?) })
    }
}

impl Record {
    /// A record of class IN.
    pub const fn new(name: Name, ttl: u32, data: Rdata) -> Self {
        Self { name, class: Class::IN, ttl, data }
    }

    /// Its type.
    pub const fn rtype(&self) -> Rtype {
        self.data.rtype()
    }

    /// The type it is a signature of, if it is one (RFC 4034 section 3.1.1).
    pub fn signed(&self) -> Option<Rtype> {
        match &self.data {
            Rdata::Other(Rtype::RRSIG, data) => Some(Rtype(u16::from_be_bytes(*data.first_chunk()?))),
            _ => None,
        }
    }

    /// Whether both belong to the same set of records (RFC 2181 section 5).
    pub fn is_of_set(&self, other: &Self) -> bool {
        self.rtype() == other.rtype() && self.class == other.class && self.name == other.name
    }
}

impl Message {
    /// A message with nothing in it but a question, if any.
    pub fn new(header: Header, question: Option<Question>) -> Self {
        Self {
            header,
            questions: question.into_iter().collect(),
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            edns: None,
        }
    }

    /// The response to this query, empty so far.
    pub fn response(&self, rcode: Rcode) -> Self {
        let mut response = Self::new(self.header.response(rcode), None);
        response.questions.clone_from(&self.questions);
        response
    }

    /// Reads a message. What follows its last record is not looked at.
    pub fn parse(packet: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(packet);
        let header = Header::read(&mut reader)?;
        let [questions, counts @ ..] = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        let mut message = Self::new(header, None);
        for _ in 0..questions {
            message.questions.push(Question::read(&mut reader)?);
        }
        for (section, count) in Section::ALL.into_iter().zip(counts) {
            for _ in 0..count {
                message.read_record(section, &mut reader)?;
            }
        }
        Ok(message)
    }

    fn read_record(&mut self, section: Section, reader: &mut Reader<'_>) -> Result<(), Error> {
        let name = reader.name()?;
        let (rtype, class, ttl) = (Rtype(reader.u16()?), reader.u16()?, reader.u32()?);
        let length = reader.u16()?;
        let mut data = reader.part(length.into())?;
        if rtype == Rtype::OPT {
            if section != Section::Additional || !name.is_root() || self.edns.is_some() {
                return Err(Error::Opt);
            }
            let (edns, upper) = Edns::read(class, ttl, &mut data)?;
            self.edns = Some(edns);
            self.header.rcode.0 |= upper.0;
            return Ok(());
        }
        // Updates and the like have records without data (RFC 2136 section 2.4).
        let data = if length == 0 && class != Class::IN.0 {
            Rdata::Other(rtype, Box::default())
        } else {
            Rdata::read(rtype, &mut data)?
        };
        self.section_mut(section).push(Record { name, class: Class(class), ttl, data });
        Ok(())
    }

    /// The only question; none if there are none or several.
    pub fn question(&self) -> Option<&Question> {
        if let [question] = &*self.questions { Some(question) } else { None }
    }

    /// The records of a section.
    pub fn section(&self, section: Section) -> &[Record] {
        match section {
            Section::Answer => &self.answers,
            Section::Authority => &self.authority,
            Section::Additional => &self.additional,
        }
    }

    /// The records of a section, to change them.
    pub const fn section_mut(&mut self, section: Section) -> &mut Vec<Record> {
        match section {
            Section::Answer => &mut self.answers,
            Section::Authority => &mut self.authority,
            Section::Additional => &mut self.additional,
        }
    }

    /// Writes the message over what `out` holds, in at most `limit` bytes (A.9).
    ///
    /// What does not fit goes in whole sets, additional ones first, then authority; of the answer as many records
    /// stay as fit, and TC says so. It says so, too, where authority is all the answer there is (RFC 2308) and is
    /// missing.
    pub fn encode(&self, out: &mut Vec<u8>, limit: usize) {
        let opt = self.edns.as_ref().map(|edns| edns.to_bytes(self.header.rcode)).unwrap_or_default();
        let mut writer = Writer::new(out, self.header, limit.saturating_sub(opt.len()));
        let mut whole = self.questions.iter().all(|question| writer.question(question));
        for section in Section::ALL {
            if !whole {
                break;
            }
            whole = self.write_section(section, &mut writer);
            if !whole
                && (section == Section::Answer || section == Section::Authority && self.answers.is_empty())
            {
                writer.set_truncated();
            }
        }
        writer.finish(&opt, limit);
    }

    fn write_section(&self, section: Section, writer: &mut Writer<'_>) -> bool {
        for set in self.section(section).chunk_by(Record::is_of_set) {
            let before = writer.mark();
            if !set.iter().all(|record| writer.record(section, record)) {
                if section != Section::Answer {
                    writer.back_to(before);
                }
                return false;
            }
        }
        true
    }

    /// The message in as many bytes as it needs.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + MAX_NAME);
        self.encode(&mut out, super::MAX_MESSAGE);
        out
    }
}

impl Section {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Answer, Self::Authority, Self::Additional];
}
