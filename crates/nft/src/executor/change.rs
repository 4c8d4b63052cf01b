//! Changes of one table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use dyad_net::IpFamily;
use dyad_program::rule::{Id, Member, SetKind};
use dyad_program::{Entry, Op, RangeSet, Table};

use crate::batch::Changes;
use crate::element::{Element, element, pick, range_elements, set};
use crate::layout::{Layout, Pick, Rules, SetId, SetShape, actions, chain_name};
use crate::read::Held;

/// No hash table is smaller: four kilobytes of buckets.
const LEAST_SIZE: u32 = 256;
/// New tables have room for so many times what is in them.
const ROOM: usize = 4;
/// No member of a set comes before it.
const FIRST: Member = Member::Peer(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

/// What has to be known of a table in order to change it.
#[derive(Clone, Debug, Default)]
pub(super) struct TableState {
    sizes: BTreeMap<SetId, u32>,
    counts: BTreeMap<SetId, usize>,
    /// The pick chains, with the number of elements that lead there.
    picks: BTreeMap<Pick, usize>,
    /// The sets and chains of policies.
    sets: BTreeSet<(SetKind, Id)>,
    chains: BTreeSet<Id>,
}

impl TableState {
    fn of(table: &Table, sizes: BTreeMap<SetId, u32>) -> Self {
        let (sets, chains) = (table.sets.clone(), table.chains.keys().copied().collect());
        let picks = Pick::standing().map(|pick| (pick, 0)).collect();
        let mut state = Self { sizes, sets, chains, picks, ..Self::default() };
        table.entries().for_each(|entry| state.count(&entry, true));
        state
    }

    /// The state of a table that was found, if it has the shape it should have.
    pub(super) fn adopt(family: IpFamily, held: &Held) -> Option<Self> {
        let table = held.table.as_ref()?;
        let sizes =
            held.layout.sets.iter().filter_map(|(name, shape)| {
                SetId::from_name(name).filter(|id| id.is_sized()).zip(shape.size)
            });
        let mut state = Self::of(table, sizes.collect());
        // Those that nothing leads to, too.
        let picks = held.layout.chains.keys().filter_map(|name| Pick::from_chain(name));
        picks.for_each(|pick| {
            state.picks.entry(pick).or_default();
        });
        let picks = || state.picks.keys().copied();
        let is_ours = held.layout == Layout::new(family, &state.sizes, picks(), table)
            && held.actions == actions(picks());
        is_ours.then_some(state)
    }

    /// The pick chains that nothing leads to, and that need not be there.
    fn idle_picks(&self) -> Vec<Pick> {
        let idle = self.picks.iter().filter(|(_, count)| **count == 0).map(|(pick, _)| *pick);
        let standing: BTreeSet<Pick> = Pick::standing().collect();
        idle.filter(|pick| !standing.contains(pick)).collect()
    }

    fn count(&mut self, entry: &Entry, add: bool) {
        let change = |count: &mut usize| {
            *count = if add { *count + 1 } else { count.saturating_sub(1) };
        };
        if let Some(set) = set(entry) {
            change(self.counts.entry(set).or_default());
        }
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
        let of_policies = table.sets.iter().map(|(kind, id)| SetId::Policy(*kind, *id));
        let sized = SetId::fixed().chain(of_policies).filter(|id| id.is_sized());
        sized.map(|id| (id, roomy(counts.get(&id).copied().unwrap_or(0)))).collect()
    }
}

/// The size of a set with so many elements.
fn roomy(count: usize) -> u32 {
    let wanted = count.saturating_mul(ROOM).next_power_of_two();
    u32::try_from(wanted).unwrap_or(1 << 31).max(LEAST_SIZE)
}

/// Writes a table anew, with what the kernel remembers for sticky frontends.
pub(super) fn rebuild(
    changes: &mut Changes,
    family: IpFamily,
    table: &Table,
    is_there: bool,
    remembered: Vec<(SetId, Element)>,
) -> TableState {
    let state = TableState::of(table, TableState::generous(table));
    if is_there {
        changes.delete_table(family);
    }
    let picks = || state.picks.keys().copied();
    changes.new_table(family, Layout::new(family, &state.sizes, picks(), table));
    for ((set, key), data) in actions(picks()) {
        changes.element(true, family, set, Element::new(key, data));
    }
    for entry in table.entries() {
        changes.may_cut();
        if let Some((element, set)) = element(&entry).zip(set(&entry)) {
            changes.element(true, family, set, element);
        }
    }
    let of_policies = table.sets.iter().map(|(kind, id)| SetId::Policy(*kind, *id));
    let of_ranges = RangeSet::ALL.map(SetId::Range).into_iter().chain(of_policies);
    of_ranges.filter(|id| id.is_of_ranges()).for_each(|id| fill_ranges(changes, family, table, id));
    for (set, element) in remembered {
        changes.may_cut();
        changes.element(true, family, set, element);
    }
    state
}

/// What of a table comes and goes beside elements.
#[derive(Debug, Default)]
struct Plan {
    new_sets: BTreeSet<(SetKind, Id)>,
    old_sets: BTreeSet<(SetKind, Id)>,
    new_chains: BTreeSet<Id>,
    old_chains: BTreeSet<Id>,
}

impl Plan {
    fn of(state: &TableState, table: &Table, ops: &[Op]) -> Self {
        let mut plan = Self::default();
        for op in ops {
            match parts(op).1 {
                Entry::Set(kind, id) => {
                    let key = (*kind, *id);
                    match (state.sets.contains(&key), table.sets.contains(&key)) {
                        (false, true) => drop(plan.new_sets.insert(key)),
                        (true, false) => drop(plan.old_sets.insert(key)),
                        (true, true) | (false, false) => {}
                    }
                }
                Entry::Chain(id, _) => match (state.chains.contains(id), table.chains.contains_key(id)) {
                    (false, true) => drop(plan.new_chains.insert(*id)),
                    (true, false) => drop(plan.old_chains.insert(*id)),
                    (true, true) | (false, false) => {}
                },
                _ => {}
            }
        }
        plan
    }
}

/// Whether a change adds, and what.
fn parts(op: &Op) -> (bool, &Entry) {
    match op {
        Op::Add(_, entry) => (true, entry),
        Op::Remove(_, entry) => (false, entry),
    }
}

/// Writes changes of a table that end with `table`; false, with `changes` of no use, if a set has no room for them.
///
/// Sets and chains come before, and go after, everything that leads to them, whatever the order of the changes.
pub(super) fn change(
    changes: &mut Changes,
    state: &mut TableState,
    family: IpFamily,
    table: &Table,
    ops: &[Op],
) -> bool {
    let plan = Plan::of(state, table, ops);
    for (kind, id) in &plan.new_sets {
        state.sets.insert((*kind, *id));
        let set = SetId::Policy(*kind, *id);
        if set.is_sized() {
            let members = table.members.range((*id, FIRST)..);
            let count = members.take_while(|(of, _)| of == id).filter(|(_, member)| member.kind() == *kind);
            state.sizes.insert(set, roomy(count.count()));
        }
    }
    let mut new_picks = BTreeSet::new();
    for op in ops {
        let (add, entry) = parts(op);
        new_picks.extend(pick(entry).filter(|pick| !state.picks.contains_key(pick)));
        state.count(entry, add);
        // After each of them: the kernel refuses an element for which there is no room at its turn, even if others
        // are to go later in the same batch.
        if set(entry).is_some_and(|set| !state.fits(set)) {
            return false;
        }
    }
    let rules = Rules { family };
    for id in &plan.new_chains {
        state.chains.insert(*id);
        changes.new_chain(family, &chain_name(*id), None);
    }
    for (kind, id) in &plan.new_sets {
        let set = SetId::Policy(*kind, *id);
        let shape = SetShape::new(set, family, state.sizes.get(&set).copied());
        changes.new_set(family, set.name().into_owned(), shape);
    }
    for id in &plan.new_chains {
        changes.new_rules(family, &chain_name(*id), rules.policy(&table.chains[id]));
    }
    let has_new_chains = !plan.new_chains.is_empty() || !new_picks.is_empty();
    for pick in new_picks {
        changes.new_chain(family, &pick.chain(), None);
        changes.new_rules(family, &pick.chain(), rules.pick(pick));
        let (set, key, data) = pick.action();
        changes.element(true, family, set, Element::new(key, data));
    }
    if has_new_chains {
        // A packet among the rules from before a batch can find elements from after it, and a chain that is new in that
        // batch has no rules for it: it would pass.
        changes.cut();
    }
    change_elements(changes, family, table, &plan, ops);
    // They may lead to one another.
    plan.old_chains.iter().for_each(|id| changes.delete_rules(family, &chain_name(*id)));
    for id in plan.old_chains {
        state.chains.remove(&id);
        changes.delete_chain(family, chain_name(id));
    }
    for (kind, id) in plan.old_sets {
        state.sets.remove(&(kind, id));
        let set = SetId::Policy(kind, id);
        state.sizes.remove(&set);
        state.counts.remove(&set);
        changes.delete_set(family, set);
    }
    true
}

/// Deletes the pick chains that nothing leads to, after everything else.
pub(super) fn tidy(changes: &mut Changes, state: &mut TableState, family: IpFamily) {
    for pick in state.idle_picks() {
        let (set, key, data) = pick.action();
        changes.element(false, family, set, Element::new(key, data));
        changes.delete_chain(family, pick.chain());
        state.picks.remove(&pick);
    }
}

/// Writes the changes of elements, and of the rules of policies.
fn change_elements(changes: &mut Changes, family: IpFamily, table: &Table, plan: &Plan, ops: &[Op]) {
    let rules = Rules { family };
    let (mut ranges, mut chains) = (BTreeSet::new(), BTreeSet::new());
    let mut removed = None;
    for (add, entry) in ops.iter().map(parts) {
        if let Some((element, set)) = element(entry).zip(set(entry)) {
            // An element that changes is removed and added: that must not be torn apart.
            if !(add && removed.as_ref() == Some(&element.key)) {
                changes.may_cut();
            }
            removed = (!add).then(|| element.key.clone());
            changes.element(add, family, set, element);
            continue;
        }
        // As a whole, and as it is in the end.
        if let Entry::Chain(id, _) = entry
            && let Some(chain) = table.chains.get(id)
            && !plan.new_chains.contains(id)
            && chains.insert(*id)
        {
            changes.may_cut();
            changes.delete_rules(family, &chain_name(*id));
            changes.new_rules(family, &chain_name(*id), rules.policy(chain));
        }
        if let Some(set) = set(entry).filter(|set| set.is_of_ranges() && !is_old(*set, plan))
            && ranges.insert(set)
        {
            changes.may_cut();
            changes.flush_set(family, set);
            fill_ranges(changes, family, table, set);
        }
    }
}

fn is_old(set: SetId, plan: &Plan) -> bool {
    matches!(set, SetId::Policy(kind, id) if plan.old_sets.contains(&(kind, id)))
}

fn fill_ranges(changes: &mut Changes, family: IpFamily, table: &Table, set: SetId) {
    let elements = match set {
        SetId::Range(set) => {
            range_elements(table.ranges.iter().filter(|(of, _)| *of == set).map(|(_, range)| *range))
        }
        SetId::Policy(_, id) => {
            let members = table.members.range((id, FIRST)..).take_while(|(of, _)| *of == id);
            range_elements(members.filter_map(|(_, member)| match member {
                Member::Block(range) => Some(*range),
                Member::Peer(_) | Member::NamedPort(..) => None,
            }))
        }
        _ => Vec::new(),
    };
    elements.into_iter().for_each(|element| changes.element(true, family, set, element));
}

#[cfg(test)]
mod tests {
    use dyad_program::rule::{Decision, Direction, Peers, Ports, Rule};
    use dyad_program::{Action, Endpoint, Frontend, Protocol, Scope, diff};

    use super::*;
    use crate::attribute::messages;
    use crate::batch::{NEW_CHAIN, NEW_ELEMENT, NEW_RULE, subsystem};

    #[test]
    fn chains_are_there_before_what_leads_to_them() {
        let pod = IpAddr::from([10, 0, 0, 1]);
        let at = Frontend::NodePort(Protocol::Tcp, 30001);
        let policy = Id::of("policy");
        let rule = Rule {
            direction: Direction::Ingress,
            peers: Peers::Any,
            ports: Ports::Any,
            decision: Decision::Accept,
            because: "it is so".into(),
        };
        let entries = [
            Entry::Chain(policy, [rule].into()),
            Entry::Isolated(Direction::Ingress, pod, policy),
            Entry::Endpoint(Scope::Cluster, at, 0, Endpoint { ip: pod, port: 80 }),
            Entry::Frontend(Scope::Cluster, at, Action::forward(1)),
        ];
        for (name, entries) in [("policy", &entries[..2]), ("pick", &entries[2..]), ("both", &entries)] {
            let (mut table, family) = (Table::default(), IpFamily::V4);
            let mut state = TableState::of(&table, TableState::generous(&table));
            entries.iter().for_each(|entry| table.insert(entry.clone()));
            let ops = diff(family, &Table::default(), &table);
            let mut changes = Changes::new(usize::MAX);
            assert!(change(&mut changes, &mut state, family, &table, &ops));
            let batches = changes.seal(1, 1);
            let kinds: Vec<BTreeSet<u16>> = batches
                .iter()
                .map(|batch| messages(&batch.bytes).map(|message| message.kind).collect())
                .collect();
            let has = |batch: usize, kind| kinds[batch].contains(&subsystem(kind));
            assert_eq!(kinds.len(), 2, "{name}");
            assert!(has(0, NEW_CHAIN) && has(0, NEW_RULE), "{name}");
            assert!(has(1, NEW_ELEMENT) && !has(1, NEW_CHAIN) && !has(1, NEW_RULE), "{name}");
        }
    }
}
