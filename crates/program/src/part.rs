//! All that a table has of one frontend, and the changes that lead there.

use dyad_net::{IpFamily, IpNet};

use crate::{Action, Endpoint, Entry, Frontend, Op, Scope, Table};

/// What is done with connections of one scope.
#[derive(Debug)]
pub(crate) struct Way {
    /// What becomes of them.
    pub(crate) action: Action,
    /// Where they go.
    pub(crate) slots: Vec<Endpoint>,
    /// The different ones among these, sorted; none if the frontend is not sticky.
    pub(crate) members: Vec<Endpoint>,
}

/// What a table should have of one frontend.
#[derive(Debug, Default)]
pub(crate) struct Part<'a> {
    /// In scope `Cluster`.
    pub(crate) cluster: Option<&'a Way>,
    /// In scope `Local`.
    pub(crate) local: Option<&'a Way>,
    /// If it is guarded, who may use it; disjoint ranges.
    pub(crate) sources: Option<Vec<IpNet>>,
}

impl<'a> Part<'a> {
    fn way(&self, scope: Scope) -> Option<&'a Way> {
        match scope {
            Scope::Cluster => self.cluster,
            Scope::Local => self.local,
        }
    }

    /// Adds the changes that make what `table` has of the frontend `at` what it should have, in the order of
    /// [`diff`](crate::diff).
    pub(crate) fn changes(&self, family: IpFamily, table: &Table, at: Frontend, ops: &mut Vec<Op>) {
        let add = |entry| Op::Add(family, entry);
        let remove = |entry| Op::Remove(family, entry);
        let mut late = Vec::new();

        for scope in Scope::BOTH {
            let (slots, members) = self
                .way(scope)
                .map_or((&[][..], &[][..]), |way| (way.slots.as_slice(), way.members.as_slice()));
            let (gone, new) = differences(table.members(scope, at), members);
            ops.extend(new.into_iter().map(|member| add(Entry::Sticky(scope, at, member))));
            late.extend(gone.into_iter().map(|member| remove(Entry::Sticky(scope, at, member))));

            let mut old = table.slots(scope, at);
            for (slot, to) in (0..).zip(slots) {
                let before = old.next().map(|(_, before)| before);
                if before != Some(*to) {
                    ops.extend(before.map(|before| remove(Entry::Endpoint(scope, at, slot, before))));
                    ops.push(add(Entry::Endpoint(scope, at, slot, *to)));
                }
            }
            late.extend(old.map(|(slot, to)| remove(Entry::Endpoint(scope, at, slot, to))));
        }

        let (gone, new) = differences(table.sources_of(at), self.sources.as_deref().unwrap_or_default());
        ops.extend(gone.into_iter().map(|range| remove(Entry::Source(at, range))));
        ops.extend(new.into_iter().map(|range| add(Entry::Source(at, range))));
        let was_guarded = table.guarded.contains(&at);
        if self.sources.is_some() && !was_guarded {
            ops.push(add(Entry::Guarded(at)));
        }

        for scope in Scope::BOTH {
            let old = table.frontends.get(&(scope, at)).copied();
            let new = self.way(scope).map(|way| way.action);
            if old != new {
                ops.extend(old.map(|action| remove(Entry::Frontend(scope, at, action))));
                ops.extend(new.map(|action| add(Entry::Frontend(scope, at, action))));
            }
        }
        if self.sources.is_none() && was_guarded {
            ops.push(remove(Entry::Guarded(at)));
        }
        ops.append(&mut late);
    }
}

/// What of `old` is not in `new`, and the other way round; both are sorted and have everything once.
fn differences<T: Ord + Copy>(old: impl Iterator<Item = T>, new: &[T]) -> (Vec<T>, Vec<T>) {
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    let mut new = new.iter().copied().peekable();
    for before in old {
        come.extend(std::iter::from_fn(|| new.next_if(|next| *next < before)));
        if new.next_if_eq(&before).is_none() {
            gone.push(before);
        }
    }
    come.extend(new);
    (gone, come)
}
