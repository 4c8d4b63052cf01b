//! What the kernel holds.

use std::collections::BTreeMap;

use dyad_net::IpFamily;
use dyad_program::rule::{Direction, Member, SetKind};
use dyad_program::{Entry, Table};

use crate::attribute::{Writer, attributes, find, find_text, find_u32};
use crate::batch::{
    ACCEPT, CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TYPE, COMMENT, DIRECTION, ELEMENTS_LIST,
    ELEMENTS_SET, FIELD_LENGTH, HOOK_NUMBER, HOOK_PRIORITY, RULE_CHAIN, RULE_EXPRESSIONS, RULE_USER_DATA,
    SET_DATA_LENGTH, SET_DATA_TYPE, SET_DESCRIPTION, SET_DESCRIPTION_FIELDS, SET_DESCRIPTION_SIZE, SET_FLAGS,
    SET_KEY_LENGTH, SET_KEY_TYPE, SET_NAME, TABLE_FLAGS, TABLE_NAME,
};
use crate::element::{Data, Element, read_entry, read_ranges};
use crate::executor::CounterKey;
use crate::expression::Expression;
use crate::layout::{
    self, Chain, ChainKind, DATA_TYPE_VERDICT, Hook, Kind, Layout, Rule, Rules, SetId, SetShape, Values,
    policy_id,
};
use crate::socket::{GET_CHAIN, GET_ELEMENT, GET_RULE, GET_SET, GET_TABLE, ListError, Socket};
use crate::watch::Watch;
use crate::{Error, Result, TABLE};

/// How often is read again when the tables change meanwhile.
const ATTEMPTS: usize = 32;

/// One of our tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) layout: Layout,
    /// Its elements; `None` if there is something that no program asks for.
    pub(crate) table: Option<Table>,
    /// The elements of its [`SetId::Actions`].
    pub(crate) actions: BTreeMap<(SetId, Vec<u8>), Data>,
}

/// All of our tables, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) generation: u32,
    pub(crate) tables: BTreeMap<IpFamily, Held>,
}

impl Kernel {
    /// Reads it, and has `watch` listen from then on.
    pub(crate) fn read(socket: &mut Socket, watch: &Watch) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            watch.start(&mut socket.buffer)?;
            let generation = socket.generation()?;
            match read_tables(socket) {
                // The kernel tells of changes during one listing; between listings the generation does. Those of
                // tables that are not ours don't matter.
                Ok(tables) => {
                    if let Some(generation) = watch.catch_up(socket, generation)? {
                        return Ok(Self { generation, tables });
                    }
                }
                Err(ListError::Interrupted | ListError::Gone) => {}
                Err(ListError::Failed(error)) => return Err(error),
            }
        }
        Err(Error::Contended)
    }
}

fn read_tables(socket: &mut Socket) -> std::result::Result<BTreeMap<IpFamily, Held>, ListError> {
    let mut found = Vec::new();
    socket.list(
        "listing tables",
        GET_TABLE,
        0,
        |_| {},
        |family, table| {
            if find_text(table, TABLE_NAME) == Some(TABLE) {
                found.extend(
                    layout::family(family).map(|family| (family, find_u32(table, TABLE_FLAGS).unwrap_or(0))),
                );
            }
        },
    )?;
    let mut tables = BTreeMap::new();
    for (family, flags) in found {
        let mut held = Held { layout: read_layout(socket, family)?, ..Held::default() };
        // A dormant table is none.
        if flags == 0 {
            read_elements(socket, family, &mut held)?;
        }
        tables.insert(family, held);
    }
    Ok(tables)
}

/// A listing of things in our table.
fn in_table(
    socket: &mut Socket,
    what: &'static str,
    kind: u16,
    family: IpFamily,
    mut read: impl FnMut(&[u8]),
) -> std::result::Result<(), ListError> {
    let filter = |message: &mut Writer| message.put_text(TABLE_NAME, TABLE);
    let wanted = layout::number(family);
    // Not every kind of listing knows filters.
    socket.list(what, kind, wanted, filter, |family, object| {
        if family == wanted && find_text(object, TABLE_NAME) == Some(TABLE) {
            read(object);
        }
    })
}

fn read_layout(socket: &mut Socket, family: IpFamily) -> std::result::Result<Layout, ListError> {
    let mut layout = Layout::default();
    in_table(socket, "listing chains", GET_CHAIN, family, |chain| {
        if let Some(name) = find_text(chain, CHAIN_NAME) {
            layout.chains.insert(name.to_owned(), Chain { hook: read_hook(chain), rules: Vec::new() });
        }
    })?;
    in_table(socket, "listing rules", GET_RULE, family, |rule| {
        if let Some(chain) = find_text(rule, RULE_CHAIN).and_then(|name| layout.chains.get_mut(name)) {
            chain.rules.push(read_rule(rule));
        }
    })?;
    in_table(socket, "listing sets", GET_SET, family, |set| {
        if let Some((name, shape)) = find_text(set, SET_NAME).zip(read_shape(set)) {
            layout.sets.insert(name.to_owned(), shape);
        }
    })?;
    Ok(layout)
}

fn read_hook(chain: &[u8]) -> Option<Hook> {
    let hook = find(chain, CHAIN_HOOK)?;
    let is_ours = find_u32(chain, CHAIN_POLICY) == Some(ACCEPT);
    // One that never equals one of ours.
    let foreign = Hook { kind: ChainKind::Nat, number: u32::MAX, priority: 0 };
    let read = || {
        let name = find_text(chain, CHAIN_TYPE)?;
        let kind = ChainKind::BOTH.into_iter().find(|kind| kind.name() == name)?;
        let priority = find_u32(hook, HOOK_PRIORITY)?.cast_signed();
        Some(Hook { kind, number: find_u32(hook, HOOK_NUMBER)?, priority })
    };
    Some(read().filter(|_| is_ours).unwrap_or(foreign))
}

/// A rule; without expressions, which never equals one of ours, if it has any that we don't know.
fn read_rule(rule: &[u8]) -> Rule {
    let (comment, direction) = read_user_data(find(rule, RULE_USER_DATA).unwrap_or_default());
    let expressions = find(rule, RULE_EXPRESSIONS).and_then(Expression::read_list).unwrap_or_default();
    Rule { comment, direction, expressions }
}

/// Parts of a tag, a length and so many bytes.
fn read_user_data(mut bytes: &[u8]) -> (String, Option<Direction>) {
    let (mut comment, mut direction) = (String::new(), None);
    while let [tag, length, rest @ ..] = bytes {
        let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        match (*tag, value) {
            (COMMENT, text) => comment = String::from_utf8_lossy(text).trim_end_matches('\0').to_owned(),
            (DIRECTION, [of]) => {
                direction = Direction::BOTH.into_iter().find(|direction| *direction as u8 == *of);
            }
            (_, _) => {}
        }
        bytes = rest;
    }
    (comment, direction)
}

fn read_shape(set: &[u8]) -> Option<SetShape> {
    let values = match find_u32(set, SET_DATA_TYPE) {
        None => None,
        Some(DATA_TYPE_VERDICT) => Some(Values::Verdicts),
        Some(kind) => Some(Values::Data { kind, length: find_u32(set, SET_DATA_LENGTH)? }),
    };
    let description = find(set, SET_DESCRIPTION).unwrap_or_default();
    let fields = attributes(find(description, SET_DESCRIPTION_FIELDS).unwrap_or_default());
    Some(SetShape {
        flags: find_u32(set, SET_FLAGS).unwrap_or(0),
        key_type: find_u32(set, SET_KEY_TYPE)?,
        key_length: find_u32(set, SET_KEY_LENGTH)?,
        values,
        size: find_u32(description, SET_DESCRIPTION_SIZE).filter(|size| *size != 0),
        fields: fields.filter_map(|(_, field)| find_u32(field, FIELD_LENGTH)).collect(),
    })
}

/// Reads one set; `None` for elements we don't know.
pub(crate) fn read_set(
    socket: &mut Socket,
    family: IpFamily,
    set: SetId,
    mut read: impl FnMut(Option<Element>),
) -> std::result::Result<(), ListError> {
    let filter = |message: &mut Writer| {
        message.put_text(TABLE_NAME, TABLE);
        message.put_text(ELEMENTS_SET, &set.name());
    };
    let listed = socket.list("listing elements", GET_ELEMENT, layout::number(family), filter, |_, object| {
        let elements = attributes(find(object, ELEMENTS_LIST).unwrap_or_default());
        elements.for_each(|(_, element)| read(Element::read(element)));
    });
    match listed {
        // Only a change of this set itself would matter, and that is watched for: large sets would never be read
        // where others change tables of theirs all the time.
        Err(ListError::Interrupted) => Ok(()),
        listed => listed,
    }
}

fn read_elements(
    socket: &mut Socket,
    family: IpFamily,
    held: &mut Held,
) -> std::result::Result<(), ListError> {
    // If something is missing or there is more, the layout differs, and that decides.
    let sets: Vec<SetId> = held.layout.sets.keys().filter_map(|name| SetId::from_name(name)).collect();
    if sets.len() < held.layout.sets.len() || !SetId::fixed().all(|id| sets.contains(&id)) {
        return Ok(());
    }
    let (mut table, mut sound) = (Table::default(), true);
    let rules = Rules { family };
    for (id, chain) in held.layout.chains.iter().filter_map(|(name, chain)| Some((policy_id(name)?, chain))) {
        match rules.read_policy(chain) {
            Some(rules) => table.insert(Entry::Chain(id, rules)),
            None => sound = false,
        }
    }
    for id in sets {
        if let SetId::Policy(kind, id) = id {
            table.insert(Entry::Set(kind, id));
        }
        match id {
            // What the kernel remembers is no part of a program.
            SetId::Affinity(Kind::Address | Kind::NodePort) => {}
            SetId::Actions(..) => read_set(socket, family, id, |element| match element {
                Some(element) => drop(held.actions.insert((id, element.key), element.data)),
                None => sound = false,
            })?,
            _ if id.is_of_ranges() => {
                let mut edges = Vec::new();
                read_set(socket, family, id, |edge| match edge {
                    Some(edge) => edges.push(edge),
                    None => sound = false,
                })?;
                let entry = |range| match id {
                    SetId::Range(set) => Some(Entry::Range(set, range)),
                    SetId::Policy(SetKind::Blocks, id) => Some(Entry::Member(id, Member::Block(range))),
                    _ => None,
                };
                match read_ranges(&edges, family) {
                    Some(ranges) => {
                        ranges.into_iter().filter_map(entry).for_each(|entry| table.insert(entry));
                    }
                    None => sound = false,
                }
            }
            _ => read_set(socket, family, id, |element| {
                match element.and_then(|element| read_entry(id, family, &element)) {
                    Some(entry) => table.insert(entry),
                    None => sound = false,
                }
            })?,
        }
    }
    held.table = sound.then_some(table);
    Ok(())
}

/// What the counters of our rules say: packets and bytes. Rules of one chain with the same comment count together.
pub(crate) fn read_counters(
    socket: &mut Socket,
) -> std::result::Result<BTreeMap<CounterKey, (u64, u64)>, ListError> {
    let mut counters = BTreeMap::new();
    for family in IpFamily::BOTH {
        in_table(socket, "listing rules", GET_RULE, family, |rule| {
            let chain = find_text(rule, RULE_CHAIN);
            let counted = find(rule, RULE_EXPRESSIONS).and_then(Expression::counted);
            if let Some((chain, (packets, bytes))) = chain.zip(counted) {
                let (comment, _) = read_user_data(find(rule, RULE_USER_DATA).unwrap_or_default());
                let sum: &mut (u64, u64) = counters.entry((family, chain.to_owned(), comment)).or_default();
                *sum = (sum.0.saturating_add(packets), sum.1.saturating_add(bytes));
            }
        })?;
    }
    Ok(counters)
}
