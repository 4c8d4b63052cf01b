//! What the kernel holds.

use std::collections::BTreeMap;

use dyad_net::IpFamily;
use dyad_program::{Entry, Table};

use crate::attribute::{Writer, attributes, find, find_text, find_u32};
use crate::batch::{
    ACCEPT, CHAIN_HOOK, CHAIN_NAME, CHAIN_POLICY, CHAIN_TYPE, COMMENT, ELEMENTS_LIST, ELEMENTS_SET,
    HOOK_NUMBER, HOOK_PRIORITY, NAT, RULE_CHAIN, RULE_EXPRESSIONS, RULE_USER_DATA, SET_DATA_LENGTH,
    SET_DATA_TYPE, SET_DESCRIPTION, SET_DESCRIPTION_SIZE, SET_FLAGS, SET_KEY_LENGTH, SET_KEY_TYPE, SET_NAME,
    TABLE_NAME,
};
use crate::element::{Element, read_entry, read_ranges};
use crate::expression::Expression;
use crate::layout::{self, Chain, DATA_TYPE_VERDICT, Hook, Layout, Rule, SetId, SetShape, Values};
use crate::socket::{GET_CHAIN, GET_ELEMENT, GET_RULE, GET_SET, GET_TABLE, ListError, Socket};
use crate::{Error, Result, TABLE};

const TABLE_FLAGS: u16 = 2;
/// How often is read again when the tables change meanwhile.
const ATTEMPTS: usize = 32;

/// One of our tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    pub(crate) layout: Layout,
    /// Its elements; `None` if there is something that no program asks for.
    pub(crate) table: Option<Table>,
}

/// All of our tables, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) generation: u32,
    pub(crate) tables: BTreeMap<IpFamily, Held>,
}

impl Kernel {
    pub(crate) fn read(socket: &mut Socket) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            let generation = socket.generation()?;
            match read_tables(socket) {
                // The kernel tells of changes during one listing; between listings the generation does.
                Ok(tables) if socket.generation()? == generation => return Ok(Self { generation, tables }),
                Ok(_) | Err(ListError::Interrupted) => {}
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
        let mut held = Held { layout: read_layout(socket, family)?, table: None };
        // A dormant table is none.
        if flags == 0 {
            held.table = read_elements(socket, family, &held.layout)?;
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
    let is_ours = find_u32(chain, CHAIN_POLICY) == Some(ACCEPT) && find_text(chain, CHAIN_TYPE) == Some(NAT);
    // One that never equals one of ours.
    let foreign = Hook { number: u32::MAX, priority: 0 };
    let read = || {
        let priority = find_u32(hook, HOOK_PRIORITY)?.cast_signed();
        Some(Hook { number: find_u32(hook, HOOK_NUMBER)?, priority })
    };
    Some(read().filter(|_| is_ours).unwrap_or(foreign))
}

/// A rule; without expressions, which never equals one of ours, if it has any that we don't know.
fn read_rule(rule: &[u8]) -> Rule {
    let user_data = find(rule, RULE_USER_DATA).unwrap_or_default();
    let comment = match user_data {
        [COMMENT, length, text @ ..] if usize::from(*length) == text.len() => text,
        _ => &[],
    };
    let comment = String::from_utf8_lossy(comment).trim_end_matches('\0').to_owned();
    let expressions = find(rule, RULE_EXPRESSIONS).and_then(Expression::read_list).unwrap_or_default();
    Rule { comment, expressions }
}

fn read_shape(set: &[u8]) -> Option<SetShape> {
    let values = match find_u32(set, SET_DATA_TYPE) {
        None => None,
        Some(DATA_TYPE_VERDICT) => Some(Values::Verdicts),
        Some(kind) => Some(Values::Data { kind, length: find_u32(set, SET_DATA_LENGTH)? }),
    };
    Some(SetShape {
        flags: find_u32(set, SET_FLAGS).unwrap_or(0),
        key_type: find_u32(set, SET_KEY_TYPE)?,
        key_length: find_u32(set, SET_KEY_LENGTH)?,
        values,
        size: find(set, SET_DESCRIPTION)
            .and_then(|description| find_u32(description, SET_DESCRIPTION_SIZE))
            .filter(|size| *size != 0),
    })
}

fn read_elements(
    socket: &mut Socket,
    family: IpFamily,
    layout: &Layout,
) -> std::result::Result<Option<Table>, ListError> {
    let (mut table, mut sound) = (Table::default(), true);
    for id in SetId::ALL {
        // The layout differs then, and that decides.
        if !layout.sets.contains_key(id.name()) {
            return Ok(None);
        }
        let filter = |message: &mut Writer| {
            message.put_text(TABLE_NAME, TABLE);
            message.put_text(ELEMENTS_SET, id.name());
        };
        let mut edges = Vec::new();
        socket.list("listing elements", GET_ELEMENT, layout::number(family), filter, |_, object| {
            for (_, element) in attributes(find(object, ELEMENTS_LIST).unwrap_or_default()) {
                match (id, Element::read(element)) {
                    (SetId::Range(_), Some(edge)) => edges.push(edge),
                    (SetId::Hairpin | SetId::Endpoints(..) | SetId::Frontends(..), Some(element)) => {
                        match read_entry(id, family, &element) {
                            Some(entry) => table.insert(entry),
                            None => sound = false,
                        }
                    }
                    (_, None) => sound = false,
                }
            }
        })?;
        if let SetId::Range(set) = id {
            match read_ranges(&edges, family) {
                Some(ranges) => ranges.into_iter().for_each(|range| table.insert(Entry::Range(set, range))),
                None => sound = false,
            }
        }
    }
    Ok(sound.then_some(table))
}
