//! A set of numbers, kept as the runs it consists of.
//!
//! Its size follows the number of gaps, not the span: what all pools here are made of.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Disjoint runs, never touching each other: first to last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intervals {
    runs: BTreeMap<u128, u128>,
}

impl Intervals {
    /// The run that holds `value`.
    fn run(&self, value: u128) -> Option<(u128, u128)> {
        self.runs
            .range(..=value)
            .next_back()
            .map(|(first, last)| (*first, *last))
            .filter(|run| run.1 >= value)
    }

    pub(crate) fn contains(&self, value: u128) -> bool {
        self.run(value).is_some()
    }

    /// Adds one number; false if it was there.
    pub(crate) fn insert(&mut self, value: u128) -> bool {
        let new = !self.contains(value);
        if new {
            self.insert_range(value..=value);
        }
        new
    }

    /// Removes one number; false if it was not there.
    pub(crate) fn remove(&mut self, value: u128) -> bool {
        let old = self.contains(value);
        if old {
            self.remove_range(value..=value);
        }
        old
    }

    pub(crate) fn insert_range(&mut self, range: RangeInclusive<u128>) {
        let (mut first, mut last) = range.into_inner();
        // Runs that overlap or touch become one with the new one.
        if let Some((start, end)) = self.run(first.saturating_sub(1)) {
            (first, last) = (start.min(first), end.max(last));
        }
        while let Some((&start, &end)) = self.runs.range(first..=last.saturating_add(1)).next() {
            self.runs.remove(&start);
            last = last.max(end);
        }
        self.runs.insert(first, last);
    }

    pub(crate) fn remove_range(&mut self, range: RangeInclusive<u128>) {
        let (first, last) = range.into_inner();
        if let Some((start, end)) = self.run(first).filter(|run| run.0 < first) {
            self.runs.insert(start, first - 1);
            if end > last {
                self.runs.insert(last + 1, end);
            }
        }
        while let Some((&start, &end)) = self.runs.range(first..=last).next() {
            self.runs.remove(&start);
            if end > last {
                self.runs.insert(last + 1, end);
            }
        }
    }

    /// The least number in `range` that is not in the set.
    pub(crate) fn next_free(&self, range: RangeInclusive<u128>) -> Option<u128> {
        let (first, last) = range.into_inner();
        let free = match self.run(first) {
            // Runs never touch, so what follows a run is free.
            Some((_, end)) => end.checked_add(1)?,
            None => first,
        };
        (free <= last).then_some(free)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set(steps in prop::collection::vec((any::<bool>(), 0u8..40, 0u8..6), 1..60), high: bool) {
            // The far end of the numbers too, where one more does not fit.
            let base = if high { u128::MAX - 45 } else { 0 };
            let (mut ours, mut model) = (Intervals::default(), BTreeSet::new());
            for (add, first, length) in steps {
                let (first, last) = (base + u128::from(first), base + u128::from(first) + u128::from(length));
                if add {
                    ours.insert_range(first..=last);
                    model.extend(first..=last);
                } else {
                    ours.remove_range(first..=last);
                    model.retain(|value| !(first..=last).contains(value));
                }
                for value in base..=base + 45 {
                    prop_assert_eq!(ours.contains(value), model.contains(&value), "{}", value - base);
                    prop_assert_eq!(
                        ours.next_free(value..=base + 45),
                        (value..=base + 45).find(|value| !model.contains(value))
                    );
                }
                let gaps = model.iter().filter(|value| !model.contains(&value.wrapping_sub(1))).count();
                prop_assert_eq!(ours.runs.len(), gaps, "runs are joined");
            }
        }
    }
}
