//! Makes the kernel hold a program.

use std::collections::{BTreeMap, BTreeSet};

use dyad_net::IpFamily;
use dyad_program::{Entry, Op, Program, RangeSet, Table, diff};
use rustix::io::Errno;

use crate::batch::{Changes, next_generation};
use crate::element::{element, pick, range_elements, set};
use crate::layout::{Layout, Pick, Rules, SetId};
use crate::read::Kernel;
use crate::socket::Socket;
use crate::{Error, Result};

/// How often is tried again when others change tables at the same time.
const ATTEMPTS: usize = 16;
/// No hash table is smaller: four kilobytes of buckets.
const LEAST_SIZE: u32 = 256;
/// New tables have room for so many times what is in them.
const ROOM: usize = 4;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Elements added and removed in tables that were there.
    pub changes: usize,
    /// Families whose table was made anew: it was missing, damaged, of another version, or too small.
    pub rebuilt: Vec<IpFamily>,
}

/// Programs the kernel's tables in one network namespace.
#[derive(Debug)]
pub struct Executor {
    socket: Socket,
    /// What our own last change left; `None` when that is not known.
    state: Option<State>,
}

#[derive(Debug)]
struct State {
    generation: u32,
    tables: BTreeMap<IpFamily, TableState>,
}

/// What has to be known of a table in order to change it.
#[derive(Clone, Debug, Default)]
struct TableState {
    sizes: BTreeMap<SetId, u32>,
    counts: BTreeMap<SetId, usize>,
    /// The pick chains, with the number of elements that lead there.
    picks: BTreeMap<Pick, usize>,
}

impl TableState {
    fn of(table: &Table, sizes: BTreeMap<SetId, u32>) -> Self {
        let mut state = Self { sizes, ..Self::default() };
        table.entries().for_each(|entry| state.count(&entry, true));
        state
    }

    /// The state of a table that was found, if it has the shape it should have.
    fn adopt(family: IpFamily, layout: &Layout, table: &Table) -> Option<Self> {
        let size = |id: SetId| Some((id, layout.sets.get(id.name())?.size?));
        let mut state = Self::of(table, SetId::ALL.into_iter().filter_map(size).collect());
        // Those that nothing leads to are known too, so that they go.
        let picks = layout.chains.keys().filter_map(|name| Pick::from_chain(name));
        picks.for_each(|pick| {
            state.picks.entry(pick).or_default();
        });
        (*layout == Layout::new(family, &state.sizes, state.picks.keys().copied())).then_some(state)
    }

    fn count(&mut self, entry: &Entry, add: bool) {
        let change = |count: &mut usize| {
            *count = if add { *count + 1 } else { count.saturating_sub(1) };
        };
        change(self.counts.entry(set(entry)).or_default());
        if let Some(pick) = pick(entry) {
            change(self.picks.entry(pick).or_default());
        }
    }

    /// Whether a set has room for all that is in it.
    fn fits(&self, id: SetId) -> bool {
        let count = self.counts.get(&id).copied().unwrap_or(0);
        !id.is_sized() || self.sizes.get(&id).is_some_and(|size| count <= *size as usize)
    }

    /// Sizes with room to grow.
    fn generous(table: &Table) -> BTreeMap<SetId, u32> {
        let counts = Self::of(table, BTreeMap::new()).counts;
        let size = |id: &SetId| {
            let wanted = counts.get(id).copied().unwrap_or(0).saturating_mul(ROOM).next_power_of_two();
            u32::try_from(wanted).unwrap_or(1 << 31).max(LEAST_SIZE)
        };
        SetId::ALL.into_iter().filter(|id| id.is_sized()).map(|id| (id, size(&id))).collect()
    }
}

impl Executor {
    /// An executor for the network namespace of the calling thread; it stays there.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open()?, state: None })
    }

    /// Makes the kernel hold `program`: reads what is there and changes what differs.
    ///
    /// Tables of families the program does not have are deleted. Costs a reading of all elements: for the start, and
    /// whenever [`is_current`](Self::is_current) says no.
    pub fn apply(&mut self, program: &Program) -> Result<Report> {
        let mut report = Report::default();
        for attempt in 0..ATTEMPTS {
            self.state = None;
            let kernel = Kernel::read(&mut self.socket)?;
            let mut changes = Changes::new(self.socket.batch_limit);
            let mut tables = BTreeMap::new();
            for family in IpFamily::BOTH {
                let held = kernel.tables.get(&family);
                let Some(table) = program.get(family) else {
                    if held.is_some() {
                        changes.delete_table(family);
                    }
                    continue;
                };
                let adopted = held.and_then(|held| {
                    let held_table = held.table.as_ref()?;
                    Some((TableState::adopt(family, &held.layout, held_table)?, held_table))
                });
                let mut state = TableState::default();
                let mut fits = false;
                if let Some((adopted, held_table)) = adopted {
                    let ops = diff(family, held_table, table);
                    state = adopted;
                    fits = change(&mut changes, &mut state, family, table, &ops);
                    report.changes += ops.len();
                }
                if !fits {
                    state = rebuild(&mut changes, family, table, held.is_some());
                    report.rebuilt.push(family);
                }
                tables.insert(family, state);
            }
            match self.commit(changes, kernel.generation) {
                Ok(generation) => {
                    self.state = Some(State { generation, tables });
                    return Ok(report);
                }
                // Somebody was faster, or an answer was lost: look again.
                Err(error) if is_transient(&error) && attempt + 1 < ATTEMPTS => {
                    tracing::debug!(%error, "reading nf_tables again");
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Contended)
    }

    /// Makes the kernel hold `program`, which differs by `ops` from what it was given last.
    ///
    /// Costs microseconds per change. If anything but us has changed tables meanwhile, does what
    /// [`apply`](Self::apply) does.
    pub fn update(&mut self, program: &Program, ops: &[Op]) -> Result<Report> {
        let Some(State { generation, mut tables }) = self.state.take() else { return self.apply(program) };
        let mut changes = Changes::new(self.socket.batch_limit);
        let mut report = Report { changes: ops.len(), rebuilt: Vec::new() };
        for (family, table) in program.iter() {
            let Some(state) = tables.get_mut(&family) else { return self.apply(program) };
            let of_family = |op: &&Op| matches!(op, Op::Add(of, _) | Op::Remove(of, _) if *of == family);
            let ops: Vec<Op> = ops.iter().filter(of_family).cloned().collect();
            let mut part = Changes::new(self.socket.batch_limit);
            if change(&mut part, state, family, table, &ops) {
                changes.append(part);
            } else {
                *state = rebuild(&mut changes, family, table, true);
                report.rebuilt.push(family);
            }
        }
        match self.commit(changes, generation) {
            Ok(generation) => {
                self.state = Some(State { generation, tables });
                Ok(report)
            }
            Err(error) => {
                tracing::info!(%error, "nf_tables is not what it was left as; comparing all of it");
                self.apply(program)
            }
        }
    }

    /// Whether nobody has changed any table of the namespace since our last change.
    pub fn is_current(&mut self) -> Result<bool> {
        match &self.state {
            Some(state) => Ok(self.socket.generation()? == state.generation),
            None => Ok(false),
        }
    }

    #[cfg(test)]
    pub(crate) fn limit_batches(&mut self, bytes: usize) {
        self.socket.batch_limit = bytes;
    }

    /// What the kernel holds, by family; tables that hold something no program asks for are left out.
    pub fn read_back(&mut self) -> Result<BTreeMap<IpFamily, Table>> {
        let kernel = Kernel::read(&mut self.socket)?;
        Ok(kernel.tables.into_iter().filter_map(|(family, held)| Some((family, held.table?))).collect())
    }

    /// Deletes our tables, and nothing else.
    pub fn cleanup(&mut self) -> Result<()> {
        self.state = None;
        for _ in 0..ATTEMPTS {
            let kernel = Kernel::read(&mut self.socket)?;
            let mut changes = Changes::new(self.socket.batch_limit);
            kernel.tables.keys().for_each(|family| changes.delete_table(*family));
            match self.commit(changes, kernel.generation) {
                Ok(_) => return Ok(()),
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Contended)
    }

    /// Makes the changes if the tables are still of this generation; the generation after them.
    fn commit(&mut self, changes: Changes, generation: u32) -> Result<u32> {
        if changes.is_empty() {
            return Ok(generation);
        }
        let first = self.socket.sequences(0);
        let (mut after, batches) = (generation, changes.seal(first, generation));
        for batch in &batches {
            self.socket.sequences(batch.sequences);
            self.socket.commit(batch)?;
            after = next_generation(after);
        }
        Ok(after)
    }
}

/// Whether trying again helps.
fn is_transient(error: &Error) -> bool {
    // The generation was another one; an answer was lost; memory was short.
    const ERESTART: Errno = Errno::from_raw_os_error(85);
    matches!(error.errno(), Some(ERESTART | Errno::NOBUFS | Errno::AGAIN | Errno::INTR))
}

/// Writes a table anew.
fn rebuild(changes: &mut Changes, family: IpFamily, table: &Table, is_there: bool) -> TableState {
    let state = TableState::of(table, TableState::generous(table));
    if is_there {
        changes.delete_table(family);
    }
    changes.new_table(family, Layout::new(family, &state.sizes, state.picks.keys().copied()));
    for entry in table.entries() {
        changes.may_cut();
        if let Some(element) = element(&entry) {
            changes.element(true, family, set(&entry), element);
        }
    }
    for set in RangeSet::ALL {
        fill_ranges(changes, family, table, set);
    }
    state
}

/// Writes changes of a table; false, with `changes` of no use, if a set has no room for them.
fn change(
    changes: &mut Changes,
    state: &mut TableState,
    family: IpFamily,
    table: &Table,
    ops: &[Op],
) -> bool {
    let before: BTreeSet<Pick> = state.picks.keys().copied().collect();
    for op in ops {
        match op {
            Op::Add(_, entry) => state.count(entry, true),
            Op::Remove(_, entry) => state.count(entry, false),
        }
        // After each of them: the kernel refuses an element for which there is no room at its turn, even if others
        // are to go later in the same batch.
        let (Op::Add(_, entry) | Op::Remove(_, entry)) = op;
        if !state.fits(set(entry)) {
            return false;
        }
    }
    state.picks.retain(|_, count| *count > 0);
    for pick in state.picks.keys().filter(|pick| !before.contains(pick)) {
        changes.new_chain(family, &pick.chain(), Rules { family }.pick(*pick));
    }
    let mut ranges = BTreeSet::new();
    let mut removed = None;
    for op in ops {
        let (add, entry) = match op {
            Op::Add(_, entry) => (true, entry),
            Op::Remove(_, entry) => (false, entry),
        };
        let Some(element) = element(entry) else {
            if let Entry::Range(set, _) = entry {
                ranges.insert(*set);
            }
            continue;
        };
        // An element that changes is removed and added: that must not be torn apart.
        if !(add && removed.as_ref() == Some(&element.key)) {
            changes.may_cut();
        }
        removed = (!add).then(|| element.key.clone());
        changes.element(add, family, set(entry), element);
    }
    for set in ranges {
        changes.flush_set(family, SetId::Range(set));
        fill_ranges(changes, family, table, set);
    }
    for pick in before.into_iter().filter(|pick| !state.picks.contains_key(pick)) {
        changes.delete_chain(family, pick.chain());
    }
    true
}

fn fill_ranges(changes: &mut Changes, family: IpFamily, table: &Table, set: RangeSet) {
    let ranges = table.ranges.iter().filter(|(of, _)| *of == set).map(|(_, range)| *range);
    for element in range_elements(ranges) {
        changes.element(true, family, SetId::Range(set), element);
    }
}
