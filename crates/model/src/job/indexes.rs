//! Sets of indexes of an Indexed Job, as its status writes them: `1,3-5,7`.

use std::fmt;

/// Why a text is no set of indexes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexesError {
    /// More than one dash.
    #[error(
        "the fragment {0:?} violates the requirement that an index interval can have at most two parts separated by '-'"
    )]
    Parts(String),
    /// Not a number.
    #[error("cannot convert string to integer for index: {0:?}")]
    Number(String),
    /// Not one of the Job's indexes.
    #[error("too large index: {0:?}")]
    TooLarge(String),
    /// Not in order.
    #[error("non-increasing order, previous: {0}, current: {1}")]
    Order(i64, i64),
}

/// A set of indexes, held as intervals that neither touch nor overlap, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i64, i64)>);

impl Indexes {
    /// Reads a set whose indexes are all below `completions`.
    pub fn parse(text: &str, completions: i64) -> Result<Self, IndexesError> {
        let mut intervals: Vec<(i64, i64)> = Vec::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = interval(part, completions)?;
            match intervals.last_mut() {
                Some((_, previous)) if *previous >= first => {
                    return Err(IndexesError::Order(*previous, first));
                }
                Some((_, previous)) if *previous + 1 == first => *previous = last,
                _ => intervals.push((first, last)),
            }
        }
        Ok(Self(intervals))
    }

    /// Reads a set of our own writing, and leaves out what is no longer among `completions`.
    pub fn parse_lenient(text: &str, completions: i64) -> Self {
        let intervals = text.split(',').filter_map(|part| interval(part, i64::MAX).ok());
        let kept = intervals.filter(|(first, _)| *first < completions);
        kept.flat_map(|(first, last)| first..=last.min(completions - 1)).collect()
    }

    /// How many indexes there are.
    pub fn len(&self) -> i64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an index is among them.
    pub fn contains(&self, index: i64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= index);
        after.checked_sub(1).is_some_and(|at| self.0[at].1 >= index)
    }

    /// Adds an index.
    pub fn insert(&mut self, index: i64) {
        if self.contains(index) {
            return;
        }
        let at = self.0.partition_point(|(first, _)| *first < index);
        let joins_left = at > 0 && self.0[at - 1].1 + 1 == index;
        let joins_right = self.0.get(at).is_some_and(|(first, _)| *first == index + 1);
        match (joins_left, joins_right) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = index,
            (false, true) => self.0[at].0 = index,
            (false, false) => self.0.insert(at, (index, index)),
        }
    }

    /// The indexes in order.
    pub fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        self.0.iter().flat_map(|(first, last)| *first..=*last)
    }

    /// The first index that both sets have.
    pub fn overlap(&self, other: &Self) -> Option<i64> {
        self.0.iter().find_map(|(first, last)| {
            let mut common = other.0.iter().filter(|(from, to)| from <= last && first <= to);
            common.next().map(|(from, _)| *from.max(first))
        })
    }
}

impl FromIterator<i64> for Indexes {
    fn from_iter<T: IntoIterator<Item = i64>>(indexes: T) -> Self {
        let mut set = Self::default();
        indexes.into_iter().for_each(|index| set.insert(index));
        set
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (first, last)) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                // Two in a row are not an interval.
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

fn interval(part: &str, completions: i64) -> Result<(i64, i64), IndexesError> {
    let limits: Vec<&str> = part.split('-').collect();
    if limits.len() > 2 {
        return Err(IndexesError::Parts(part.to_owned()));
    }
    let number = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(IndexesError::Number(text.to_owned())),
        Ok(index) if index >= completions => Err(IndexesError::TooLarge(text.to_owned())),
        Ok(index) => Ok(index),
    };
    let first = number(limits[0])?;
    let Some(last) = limits.get(1) else { return Ok((first, first)) };
    let last = number(last)?;
    if first >= last { Err(IndexesError::Order(first, last)) } else { Ok((first, last)) }
}
