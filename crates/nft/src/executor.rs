//! Makes the kernel hold a program.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use dyad_net::IpFamily;
use dyad_program::{Op, Program, Table, diff};
use rustix::io::Errno;

use self::change::{TableState, change, rebuild, tidy};
use crate::batch::{Changes, next_generation};
use crate::element::Element;
use crate::layout::{Kind, SetId, SetShape};
use crate::read::{Kernel, read_counters, read_set};
use crate::socket::{ListError, Socket};
use crate::watch::Watch;
use crate::{Error, Result};

mod change;

/// How often is tried again when others change tables at the same time.
const ATTEMPTS: usize = 16;

/// Whose counter it is: the family, the chain, and the comment of the rule, which for a rule of a policy is its reason.
pub type CounterKey = (IpFamily, String, String);

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
    /// Listens whenever there is a state.
    watch: Watch,
    /// Listens while somebody only looks.
    looking: Watch,
    /// What our own last change left; `None` when that is not known.
    state: Option<State>,
}

#[derive(Debug)]
struct State {
    generation: u32,
    tables: BTreeMap<IpFamily, TableState>,
}

impl Executor {
    /// An executor for the network namespace of the calling thread; it stays there.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open()?, watch: Watch::open()?, looking: Watch::open()?, state: None })
    }

    /// Makes the kernel hold `program`: reads what is there and changes what differs.
    ///
    /// Tables of families the program does not have are deleted. Costs a reading of all elements: for the start, and
    /// whenever [`is_current`](Self::is_current) says no.
    pub fn apply(&mut self, program: &Program) -> Result<Report> {
        for attempt in 0..ATTEMPTS {
            self.state = None;
            let mut report = Report::default();
            let kernel = Kernel::read(&mut self.socket, &self.watch)?;
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
                let adopted =
                    held.and_then(|held| Some((TableState::adopt(family, held)?, held.table.as_ref()?)));
                let mut state = TableState::default();
                let mut fits = false;
                if let Some((adopted, held_table)) = adopted {
                    let ops = diff(family, held_table, table);
                    state = adopted;
                    fits = change(&mut changes, &mut state, family, table, &ops);
                    if fits {
                        tidy(&mut changes, &mut state, family);
                    }
                    report.changes += ops.len();
                }
                if !fits {
                    let shapes = held.map(|held| &held.layout.sets);
                    let remembered = self.remembered(family, |set, shape| {
                        shapes.is_some_and(|shapes| shapes.get(&*set.name()) == Some(shape))
                    });
                    state = rebuild(&mut changes, family, table, held.is_some(), remembered);
                    report.rebuilt.push(family);
                }
                tables.insert(family, state);
            }
            match self.commit(changes, kernel.generation) {
                Ok(generation) => {
                    self.state = generation.map(|generation| State { generation, tables });
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
    /// Costs microseconds per change. If anything but us has changed our tables meanwhile, does what
    /// [`apply`](Self::apply) does.
    pub fn update(&mut self, program: &Program, ops: &[Op]) -> Result<Report> {
        let Some(State { mut generation, mut tables }) = self.state.take() else {
            return self.apply(program);
        };
        let news = self.watch.news(&mut self.socket.buffer);
        if news.is_ours {
            return self.apply(program);
        }
        generation = news.generation.unwrap_or(generation);
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
                let remembered = self.remembered(family, |_, _| true);
                *state = rebuild(&mut changes, family, table, true, remembered);
                report.rebuilt.push(family);
            }
        }
        match self.commit(changes, generation) {
            Ok(generation) => {
                self.state = generation.map(|generation| State { generation, tables });
                Ok(report)
            }
            Err(error) => {
                tracing::info!(%error, "nf_tables is not what it was left as; comparing all of it");
                self.apply(program)
            }
        }
    }

    /// A descriptor that becomes readable when somebody else changes any table in the namespace, to wait on; what is to be
    /// read there is [`is_current`](Self::is_current)'s.
    pub fn changes(&self) -> Result<OwnedFd> {
        self.watch.socket().try_clone().map_err(Error::Open)
    }

    /// Whether nobody has changed our tables since our last change. What others do with tables of their own is no matter.
    pub fn is_current(&mut self) -> Result<bool> {
        if let Some(mut state) = self.state.take()
            && let Some(generation) = self.watch.catch_up(&mut self.socket, state.generation)?
        {
            state.generation = generation;
            self.state = Some(state);
        }
        Ok(self.state.is_some())
    }

    /// What our rules have counted since they were made: packets and bytes. Only rules that decide about new
    /// connections count, and what is dropped; rules of one chain with the same comment count together.
    pub fn counters(&mut self) -> Result<BTreeMap<CounterKey, (u64, u64)>> {
        for _ in 0..ATTEMPTS {
            match read_counters(&mut self.socket) {
                Ok(counters) => return Ok(counters),
                Err(ListError::Interrupted | ListError::Gone) => {}
                Err(ListError::Failed(error)) => return Err(error),
            }
        }
        Err(Error::Contended)
    }

    /// Where clients of sticky frontends went last, from the sets that are there as they should be. A table that is made
    /// anew keeps it if it can be read: without it clients go to any endpoint once.
    fn remembered(
        &mut self,
        family: IpFamily,
        is_there: impl Fn(SetId, &SetShape) -> bool,
    ) -> Vec<(SetId, Element)> {
        let mut remembered = Vec::new();
        for set in Kind::BOTH.map(SetId::Affinity) {
            if is_there(set, &SetShape::new(set, family, None)) {
                let mut found = Vec::new();
                let read = read_set(&mut self.socket, family, set, |element| found.extend(element));
                match read {
                    Ok(()) => remembered.extend(found.into_iter().map(|element| (set, element))),
                    Err(error) => tracing::debug!(?error, "reading what sticky frontends remember"),
                }
            }
        }
        remembered
    }

    #[cfg(test)]
    pub(crate) fn limit_batches(&mut self, bytes: usize) {
        self.socket.batch_limit = bytes;
    }

    /// What the kernel holds, by family; tables that hold something no program asks for are left out.
    pub fn read_back(&mut self) -> Result<BTreeMap<IpFamily, Table>> {
        let kernel = Kernel::read(&mut self.socket, &self.looking)?;
        self.looking.stop()?;
        Ok(kernel.tables.into_iter().filter_map(|(family, held)| Some((family, held.table?))).collect())
    }

    /// Deletes our tables, and nothing else.
    pub fn cleanup(&mut self) -> Result<()> {
        self.state = None;
        for _ in 0..ATTEMPTS {
            let kernel = Kernel::read(&mut self.socket, &self.watch)?;
            let mut changes = Changes::new(self.socket.batch_limit);
            kernel.tables.keys().for_each(|family| changes.delete_table(*family));
            match self.commit(changes, kernel.generation) {
                Ok(_) => return self.watch.stop(),
                Err(error) if is_transient(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Contended)
    }

    /// Makes the changes if the tables are still of this generation; the generation after them, if our tables are still
    /// what was left.
    fn commit(&mut self, changes: Changes, generation: u32) -> Result<Option<u32>> {
        let mut after = generation;
        if !changes.is_empty() {
            self.watch.stop()?;
            let first = self.socket.sequences(0);
            for batch in &changes.seal(first, generation) {
                self.socket.sequences(batch.sequences);
                self.socket.commit(batch)?;
                after = next_generation(after);
            }
            self.watch.start(&mut self.socket.buffer)?;
        }
        self.watch.catch_up(&mut self.socket, after)
    }
}

/// Whether trying again helps.
fn is_transient(error: &Error) -> bool {
    // The generation was another one; an answer was lost; memory was short.
    const ERESTART: Errno = Errno::from_raw_os_error(85);
    matches!(error.errno(), Some(ERESTART | Errno::NOBUFS | Errno::AGAIN | Errno::INTR))
}
