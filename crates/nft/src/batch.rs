//! Batches: changes that the kernel makes all at once, or not at all.

use std::borrow::Cow;

use dyad_net::IpFamily;

use crate::TABLE;
use crate::attribute::{HEADER, NFGEN, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, Writer};
use crate::element::Element;
use crate::expression::Expression;
use crate::layout::{self, Chain, DATA_TYPE_VERDICT, Layout, Rule, SetId, SetShape, Values};

const SUBSYSTEM: u8 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const BATCH_GENERATION: u16 = 1;

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
pub(crate) const NEW_CHAIN: u16 = 3;
const DELETE_CHAIN: u16 = 5;
pub(crate) const NEW_RULE: u16 = 6;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const DELETE_SET: u16 = 11;
pub(crate) const NEW_ELEMENT: u16 = 12;
const DELETE_ELEMENT: u16 = 14;

/// The same attribute in the objects of all kinds.
pub(crate) const TABLE_NAME: u16 = 1;
pub(crate) const TABLE_FLAGS: u16 = 2;
pub(crate) const CHAIN_NAME: u16 = 3;
pub(crate) const CHAIN_HOOK: u16 = 4;
pub(crate) const CHAIN_POLICY: u16 = 5;
pub(crate) const CHAIN_TYPE: u16 = 7;
pub(crate) const HOOK_NUMBER: u16 = 1;
pub(crate) const HOOK_PRIORITY: u16 = 2;
pub(crate) const ACCEPT: u32 = 1;
pub(crate) const RULE_CHAIN: u16 = 2;
pub(crate) const RULE_EXPRESSIONS: u16 = 4;
pub(crate) const RULE_USER_DATA: u16 = 7;
pub(crate) const SET_NAME: u16 = 2;
pub(crate) const SET_FLAGS: u16 = 3;
pub(crate) const SET_KEY_TYPE: u16 = 4;
pub(crate) const SET_KEY_LENGTH: u16 = 5;
pub(crate) const SET_DATA_TYPE: u16 = 6;
pub(crate) const SET_DATA_LENGTH: u16 = 7;
pub(crate) const SET_DESCRIPTION: u16 = 9;
pub(crate) const SET_DESCRIPTION_SIZE: u16 = 1;
pub(crate) const SET_DESCRIPTION_FIELDS: u16 = 2;
pub(crate) const FIELD_LENGTH: u16 = 1;
const SET_NUMBER: u16 = 10;
const SET_USER_DATA: u16 = 13;
/// Tells `nft` in which order to print the bytes of a number.
const KEY_BYTE_ORDER: u8 = 0;
const HOST_ORDER: u32 = 1;
pub(crate) const ELEMENTS_SET: u16 = 2;
pub(crate) const ELEMENTS_LIST: u16 = 3;
pub(crate) const LIST_ELEMENT: u16 = 1;
/// The tag of a comment in the user data of a rule, as `nft` has it.
pub(crate) const COMMENT: u8 = 0;
/// The tag of a direction, which `nft` leaves alone: it uses those from zero on.
pub(crate) const DIRECTION: u8 = 100;

/// The message type of an nf_tables message.
pub(crate) const fn subsystem(kind: u16) -> u16 {
    (SUBSYSTEM as u16) << 8 | kind
}

/// A finished batch.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) bytes: Vec<u8>,
    /// The number of the message whose acknowledgement says that all is done.
    pub(crate) acknowledged: u32,
    /// How many sequence numbers it takes.
    pub(crate) sequences: u32,
}

/// Changes, in as few batches as they fit into: nearly always one.
#[derive(Debug)]
pub(crate) struct Changes {
    /// The name of the tables that change.
    table: Cow<'static, str>,
    /// The number of their family, if it is neither of those that changes say.
    number: Option<u8>,
    limit: usize,
    batches: Vec<Vec<Message>>,
    bytes: usize,
    run: Option<Run>,
    /// How many sets are made.
    sets: u32,
}

/// A message, written when its batch is sealed and its number known.
#[derive(Debug)]
enum Message {
    /// With flags.
    NewTable(IpFamily, u32),
    DeleteTable(IpFamily),
    NewChain(IpFamily, String, Option<layout::Hook>),
    DeleteChain(IpFamily, String),
    NewRule(IpFamily, String, Rule),
    /// All rules of a chain.
    DeleteRules(IpFamily, String),
    NewSet(IpFamily, String, SetShape, u32),
    DeleteSet(IpFamily, String),
    Elements(Run),
    FlushSet(IpFamily, SetId),
}

/// Elements of one set that are added or deleted together.
#[derive(Debug)]
struct Run {
    add: bool,
    family: IpFamily,
    set: SetId,
    elements: Vec<Element>,
}

impl Changes {
    /// No changes; batches are to be at most `limit` bytes long.
    pub(crate) fn new(limit: usize) -> Self {
        Self::of(TABLE, limit)
    }

    /// The same for tables of another name.
    pub(crate) fn of(table: impl Into<Cow<'static, str>>, limit: usize) -> Self {
        Self {
            table: table.into(),
            number: None,
            limit,
            batches: vec![Vec::new()],
            bytes: 0,
            run: None,
            sets: 0,
        }
    }

    /// The same in a family of tables that is not one of addresses, whatever the changes say.
    pub(crate) fn in_family(self, number: u8) -> Self {
        Self { number: Some(number), ..self }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.run.is_none() && self.batches.iter().all(Vec::is_empty)
    }

    pub(crate) fn delete_table(&mut self, family: IpFamily) {
        self.push(Message::DeleteTable(family));
    }

    /// Makes a table, which must not be there, with everything but elements.
    pub(crate) fn new_table(&mut self, family: IpFamily, layout: Layout) {
        self.new_empty_table(family, 0);
        self.fill_table(family, layout);
    }

    /// Makes a table, which must not be there, with these flags and nothing in it.
    pub(crate) fn new_empty_table(&mut self, family: IpFamily, flags: u32) {
        self.push(Message::NewTable(family, flags));
    }

    /// Makes everything of an empty table but elements.
    pub(crate) fn fill_table(&mut self, family: IpFamily, layout: Layout) {
        // All chains before the rules that lead to them.
        for (name, chain) in &layout.chains {
            self.new_chain(family, name, chain.hook);
        }
        for (name, shape) in layout.sets {
            self.new_set(family, name, shape);
        }
        for (name, chain) in layout.chains {
            self.new_rules(family, &name, chain);
        }
    }

    /// Makes an empty chain.
    pub(crate) fn new_chain(&mut self, family: IpFamily, name: &str, hook: Option<layout::Hook>) {
        self.may_cut();
        self.push(Message::NewChain(family, name.into(), hook));
    }

    /// Adds rules to a chain that is there.
    pub(crate) fn new_rules(&mut self, family: IpFamily, name: &str, chain: Chain) {
        for rule in chain.rules {
            self.push(Message::NewRule(family, name.into(), rule));
        }
        self.may_cut();
    }

    /// Deletes all rules of a chain.
    pub(crate) fn delete_rules(&mut self, family: IpFamily, name: &str) {
        self.push(Message::DeleteRules(family, name.into()));
    }

    /// Makes an empty set.
    pub(crate) fn new_set(&mut self, family: IpFamily, name: String, shape: SetShape) {
        // The kernel wants numbers, that differ within a batch.
        self.sets += 1;
        self.may_cut();
        self.push(Message::NewSet(family, name, shape, self.sets));
    }

    /// Deletes a set and what is in it.
    pub(crate) fn delete_set(&mut self, family: IpFamily, set: SetId) {
        self.push(Message::DeleteSet(family, set.name().into_owned()));
    }

    /// Deletes a chain and its rules.
    pub(crate) fn delete_chain(&mut self, family: IpFamily, name: String) {
        self.push(Message::DeleteChain(family, name));
    }

    /// Adds or deletes an element.
    pub(crate) fn element(&mut self, add: bool, family: IpFamily, set: SetId, element: Element) {
        match &mut self.run {
            Some(run) if (run.add, run.family, run.set) == (add, family, set) => run.elements.push(element),
            Some(_) | None => {
                self.end_run();
                self.run = Some(Run { add, family, set, elements: vec![element] });
            }
        }
    }

    /// Deletes all elements of a set.
    pub(crate) fn flush_set(&mut self, family: IpFamily, set: SetId) {
        self.push(Message::FlushSet(family, set));
    }

    /// Says that a batch may end here.
    pub(crate) fn may_cut(&mut self) {
        // Far more than an element or rule takes.
        const SLACK: usize = 4096;
        let run = self.run.as_ref().map_or(0, Run::size);
        if self.bytes + run + SLACK > self.limit {
            self.end_run();
            self.batches.push(Vec::new());
            self.bytes = 0;
        }
    }

    /// Says that a batch ends here: what comes is to find this in the kernel.
    pub(crate) fn cut(&mut self) {
        self.end_run();
        if self.batches.last().is_some_and(|batch| !batch.is_empty()) {
            self.batches.push(Vec::new());
            self.bytes = 0;
        }
    }

    /// Adds other changes behind these.
    pub(crate) fn append(&mut self, mut others: Self) {
        self.end_run();
        others.end_run();
        for (at, messages) in others.batches.into_iter().enumerate() {
            if at > 0 {
                self.batches.push(Vec::new());
                self.bytes = 0;
            }
            messages.into_iter().for_each(|message| self.add(message));
            self.may_cut();
        }
    }

    fn end_run(&mut self) {
        if let Some(run) = self.run.take() {
            self.add(Message::Elements(run));
        }
    }

    fn push(&mut self, message: Message) {
        self.end_run();
        self.add(message);
    }

    fn add(&mut self, message: Message) {
        self.bytes += message.size();
        self.batches.last_mut().expect("there is always one").push(message);
    }

    /// The batches; each needs the tables to be what the one before it left, if a generation is given.
    pub(crate) fn seal(mut self, first_sequence: u32, generation: impl Into<Option<u32>>) -> Vec<Sealed> {
        self.end_run();
        let (mut sequence, mut generation) = (first_sequence, generation.into());
        let mut sealed = Vec::new();
        for messages in self.batches.into_iter().filter(|messages| !messages.is_empty()) {
            let batch = seal(&self.table, self.number, messages, sequence, generation);
            sequence = sequence.wrapping_add(batch.sequences);
            generation = generation.map(next_generation);
            sealed.push(batch);
        }
        sealed
    }
}

/// The generation after a batch: the kernel leaves zero out.
pub(crate) fn next_generation(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}

fn seal(
    table: &str,
    number: Option<u8>,
    messages: Vec<Message>,
    first: u32,
    generation: Option<u32>,
) -> Sealed {
    let mut writer = Writer::default();
    let edge = [0, 0, 0, SUBSYSTEM];
    writer.message(BATCH_BEGIN, 0, first, edge, |begin| {
        if let Some(generation) = generation {
            begin.put_u32(BATCH_GENERATION, generation);
        }
    });
    let (mut sequence, mut last) = (first, 0);
    for message in messages {
        let mut left = message.elements();
        // A long run of elements becomes several messages.
        loop {
            sequence = sequence.wrapping_add(1);
            last = writer.len();
            let (kind, flags) = message.kind();
            let nfgen = [number.unwrap_or(layout::number(message.family())), 0, 0, 0];
            writer.message(subsystem(kind), flags, sequence, nfgen, |body| {
                message.write(table, body, &mut left)
            });
            if left.is_empty() {
                break;
            }
        }
    }
    writer.flag(last, NLM_F_ACK);
    let end = sequence.wrapping_add(1);
    writer.message(BATCH_END, 0, end, edge, |_| {});
    Sealed { acknowledged: sequence, sequences: end.wrapping_sub(first) + 1, bytes: writer.into_bytes() }
}

impl Run {
    /// An upper bound of the bytes.
    fn size(&self) -> usize {
        // Nests, flags and the longest verdict there is.
        const PER_ELEMENT: usize = 100;
        self.elements.len() * (PER_ELEMENT + self.elements.first().map_or(0, |element| 2 * element.key.len()))
    }
}

impl Message {
    /// An upper bound of the bytes.
    fn size(&self) -> usize {
        const OTHERS: usize = 2048;
        match self {
            Self::Elements(run) => run.size() + HEADER + NFGEN + 64,
            Self::NewTable(..)
            | Self::DeleteTable(_)
            | Self::NewChain(..)
            | Self::DeleteChain(..)
            | Self::NewRule(..)
            | Self::DeleteRules(..)
            | Self::NewSet(..)
            | Self::DeleteSet(..)
            | Self::FlushSet(..) => OTHERS,
        }
    }

    fn elements(&self) -> &[Element] {
        if let Self::Elements(run) = self { &run.elements } else { &[] }
    }

    fn family(&self) -> IpFamily {
        match self {
            Self::NewTable(family, _)
            | Self::DeleteTable(family)
            | Self::NewChain(family, ..)
            | Self::DeleteChain(family, _)
            | Self::NewRule(family, ..)
            | Self::DeleteRules(family, _)
            | Self::NewSet(family, ..)
            | Self::DeleteSet(family, _)
            | Self::Elements(Run { family, .. })
            | Self::FlushSet(family, _) => *family,
        }
    }

    fn kind(&self) -> (u16, u16) {
        match self {
            Self::NewTable(..) => (NEW_TABLE, NLM_F_CREATE | NLM_F_EXCL),
            Self::DeleteTable(_) => (DELETE_TABLE, 0),
            Self::NewChain(..) => (NEW_CHAIN, NLM_F_CREATE),
            Self::DeleteChain(..) => (DELETE_CHAIN, 0),
            Self::NewRule(..) => (NEW_RULE, NLM_F_CREATE | NLM_F_APPEND),
            Self::DeleteRules(..) => (DELETE_RULE, 0),
            Self::NewSet(..) => (NEW_SET, NLM_F_CREATE),
            Self::DeleteSet(..) => (DELETE_SET, 0),
            Self::Elements(Run { add: true, .. }) => (NEW_ELEMENT, NLM_F_CREATE),
            Self::Elements(Run { add: false, .. }) | Self::FlushSet(..) => (DELETE_ELEMENT, 0),
        }
    }

    fn write(&self, table: &str, body: &mut Writer, left: &mut &[Element]) {
        body.put_text(TABLE_NAME, table);
        match self {
            Self::NewTable(_, 0) | Self::DeleteTable(_) => {}
            Self::NewTable(_, flags) => body.put_u32(TABLE_FLAGS, *flags),
            Self::NewChain(_, name, hook) => {
                body.put_text(CHAIN_NAME, name);
                if let Some(hook) = hook {
                    body.nest(CHAIN_HOOK, |nest| {
                        nest.put_u32(HOOK_NUMBER, hook.number);
                        nest.put_u32(HOOK_PRIORITY, hook.priority.cast_unsigned());
                    });
                    body.put_u32(CHAIN_POLICY, ACCEPT);
                    body.put_text(CHAIN_TYPE, hook.kind.name());
                }
            }
            Self::DeleteChain(_, name) => body.put_text(CHAIN_NAME, name),
            Self::DeleteRules(_, chain) => body.put_text(RULE_CHAIN, chain),
            Self::NewRule(_, chain, Rule { comment, direction, expressions }) => {
                body.put_text(RULE_CHAIN, chain);
                body.nest(RULE_EXPRESSIONS, |list| {
                    expressions
                        .iter()
                        .for_each(|expression: &Expression| expression.write(list, LIST_ELEMENT));
                });
                let length = u8::try_from(comment.len() + 1).expect("comments are short");
                let direction = direction.map(|of| [DIRECTION, 1, of as u8]);
                let direction = direction.as_ref().map_or(&[][..], |bytes| bytes);
                let comment = [&[COMMENT, length], comment.as_bytes(), &[0]].concat();
                body.put(RULE_USER_DATA, &[&comment, direction].concat());
            }
            Self::NewSet(_, name, shape, number) => {
                body.put_text(SET_NAME, name);
                body.put_u32(SET_FLAGS, shape.flags);
                body.put_u32(SET_KEY_TYPE, shape.key_type);
                body.put_u32(SET_KEY_LENGTH, shape.key_length);
                match shape.values {
                    None => {}
                    Some(Values::Verdicts) => body.put_u32(SET_DATA_TYPE, DATA_TYPE_VERDICT),
                    Some(Values::Data { kind, length }) => {
                        body.put_u32(SET_DATA_TYPE, kind);
                        body.put_u32(SET_DATA_LENGTH, length);
                    }
                }
                if shape.size.is_some() || !shape.fields.is_empty() {
                    body.nest(SET_DESCRIPTION, |description| {
                        if let Some(size) = shape.size {
                            description.put_u32(SET_DESCRIPTION_SIZE, size);
                        }
                        if !shape.fields.is_empty() {
                            description.nest(SET_DESCRIPTION_FIELDS, |fields| {
                                for length in &shape.fields {
                                    fields.nest(LIST_ELEMENT, |field| field.put_u32(FIELD_LENGTH, *length));
                                }
                            });
                        }
                    });
                }
                body.put_u32(SET_NUMBER, *number);
                if shape.key_type == layout::TYPE_MARK {
                    body.put(SET_USER_DATA, &[&[KEY_BYTE_ORDER, 4][..], &HOST_ORDER.to_ne_bytes()].concat());
                }
            }
            Self::DeleteSet(_, name) => body.put_text(SET_NAME, name),
            Self::Elements(run) => {
                body.put_text(ELEMENTS_SET, &run.set.name());
                body.nest_some(ELEMENTS_LIST, left, |list, element| {
                    element.write(list, LIST_ELEMENT, run.add);
                });
            }
            Self::FlushSet(_, set) => body.put_text(ELEMENTS_SET, &set.name()),
        }
    }
}
