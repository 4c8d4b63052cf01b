//! Pod ranges for nodes out of pools of our own: of any length, several and growing, by labels of nodes. Pure.
//!
//! What a node holds it keeps, unless somebody older holds a part of it; what it holds outside of all pools, too, as
//! after a pool was taken out. So pools may change at any time, and nothing is ever given twice.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use dyad_net::{BlockError, BlockPool, Blocks, BlocksTextError, IpFamily, IpNet, overlaps};

/// The most ranges of a family that a node may ask for.
const MOST: usize = 64;

/// Ranges, and how much of each a node gets at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Each with the length of what is given out of it.
    pub ranges: Vec<(IpNet, u8)>,
    /// Labels of the nodes it is for; all nodes, if there are none.
    pub selector: BTreeMap<String, String>,
}

/// A pool that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolTextError {
    /// A part of it is no range.
    #[error("{0:?} is no range with a length: write e.g. 10.9.0.0/16:26,fd00:9::/48:64@pool=gpu")]
    Range(String),
    /// A part of it is no label.
    #[error("{0:?} is no label of nodes: write e.g. @pool=gpu,zone=a")]
    Label(String),
    /// Its ranges don't fit what is given out of them, or each other.
    #[error(transparent)]
    Blocks(#[from] BlockError),
}

impl FromStr for Pool {
    type Err = PoolTextError;

    fn from_str(text: &str) -> Result<Self, PoolTextError> {
        let (ranges, labels) = text.split_once('@').unwrap_or((text, ""));
        let range = |part: &str| match part.parse::<Blocks>() {
            Ok(blocks) => Ok((blocks.range(), blocks.length())),
            Err(BlocksTextError::Text(text)) => Err(PoolTextError::Range(text)),
            Err(BlocksTextError::Blocks(error)) => Err(error.into()),
        };
        let label = |part: &str| {
            let wrong = || PoolTextError::Label(part.to_owned());
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        };
        let ranges =
            ranges.split(',').map(|part| range(part.trim())).collect::<Result<Vec<_>, PoolTextError>>()?;
        let labels = labels.split(',').filter(|part| !part.trim().is_empty());
        let pool = Self { ranges, selector: labels.map(label).collect::<Result<_, PoolTextError>>()? };
        pool.check()?;
        Ok(pool)
    }
}

impl Pool {
    /// That each range can be given out of, and that they share nothing.
    pub fn check(&self) -> Result<(), BlockError> {
        for (at, (range, length)) in self.ranges.iter().enumerate() {
            BlockPool::new((*range).into(), *length)?.add_range(*range)?;
            if let Some((other, _)) = self.ranges[..at].iter().find(|(other, _)| overlaps(other, range)) {
                return Err(BlockError::Overlap(*other, *range));
            }
        }
        Ok(())
    }

    fn is_for(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Its families, in the order of its ranges: the first one is the primary.
    fn families(&self) -> Vec<IpFamily> {
        let mut families = Vec::new();
        for (range, _) in &self.ranges {
            if !families.contains(&IpFamily::from(*range)) {
                families.push(IpFamily::from(*range));
            }
        }
        families
    }
}

/// What counts of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claimant {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// What it was given.
    pub(crate) held: Vec<IpNet>,
    /// How many ranges of a family it asks for; one, if it says nothing.
    pub(crate) wanted: BTreeMap<IpFamily, usize>,
}

/// What a node should hold, and why it does not get all that it asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) ranges: Vec<IpNet>,
    pub(crate) problem: Option<BlockError>,
}

/// Gives every node what it should hold; nodes come in the order in which they were made. `reserved` is given to nobody.
pub(crate) fn grant(pools: &[Pool], reserved: &[IpNet], nodes: &[Claimant]) -> BTreeMap<String, Grant> {
    // Everything that is held counts before anything is given.
    let mut held = Vec::new();
    let mut grants: BTreeMap<String, Grant> = BTreeMap::new();
    let mut spans: BTreeSet<(IpFamily, u128, u8)> = BTreeSet::new();
    for node in nodes {
        let kept: Vec<IpNet> = node.held.iter().copied().filter(|range| take(&mut spans, range)).collect();
        held.extend(kept.iter().copied());
        grants.insert(node.name.clone(), Grant { ranges: kept, problem: None });
    }
    let mut free: Vec<Vec<BlockPool>> = pools.iter().map(|pool| open(pool, reserved, &held)).collect();
    for node in nodes {
        let Some(at) = pools.iter().position(|pool| pool.is_for(&node.labels)) else { continue };
        let Some(grant) = grants.get_mut(&node.name) else { continue };
        let is_new = grant.ranges.is_empty();
        for family in pools[at].families() {
            let of_family =
                |ranges: &[IpNet]| ranges.iter().filter(|range| IpFamily::from(**range) == family).count();
            let wanted = node.wanted.get(&family).copied().unwrap_or(1).clamp(1, MOST);
            while of_family(&grant.ranges) < wanted {
                match next(&mut free[at], family) {
                    Ok(range) => {
                        // Pools may share ranges.
                        free.iter_mut().flatten().for_each(|pool| pool.reserve(range));
                        grant.ranges.push(range);
                    }
                    Err(problem) => {
                        grant.problem = Some(problem);
                        break;
                    }
                }
            }
        }
        // All families or none (K2): a node with a half would give its pods a half for ever.
        let lacks = |family: &IpFamily| !grant.ranges.iter().any(|range| IpFamily::from(*range) == *family);
        if is_new && pools[at].families().iter().any(lacks) {
            for range in std::mem::take(&mut grant.ranges) {
                for pool in free.iter_mut().flatten() {
                    pool.release(range);
                }
            }
        }
        let order = pools[at].families();
        let place = |range: &IpNet| order.iter().position(|family| *family == IpFamily::from(*range));
        grant.ranges.sort_by_key(|range| place(range).unwrap_or(usize::MAX));
    }
    grants
}

/// Whether nobody has any part of a range yet; it is somebody's from now on.
fn take(spans: &mut BTreeSet<(IpFamily, u128, u8)>, range: &IpNet) -> bool {
    let bits = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(ip) => u128::from(ip.to_bits()),
        std::net::IpAddr::V6(ip) => ip.to_bits(),
    };
    let (family, length) = (IpFamily::from(*range), range.prefix_len());
    let (first, last) = (bits(range.network()), bits(range.broadcast()));
    let inside = spans.range((family, first, 0)..=(family, last, u8::MAX)).next().is_some();
    let host_bits = |length: u8| u32::from(family.bits() - length);
    let around = (0..length).any(|length| {
        let start =
            (first.checked_shr(host_bits(length)).unwrap_or(0)).checked_shl(host_bits(length)).unwrap_or(0);
        spans.contains(&(family, start, length))
    });
    !inside && !around && spans.insert((family, first, length))
}

fn open(pool: &Pool, reserved: &[IpNet], held: &[IpNet]) -> Vec<BlockPool> {
    let made = pool.ranges.iter().filter_map(|(range, length)| {
        // Checked when it was read.
        let mut blocks = BlockPool::new((*range).into(), *length).ok()?;
        blocks.add_range(*range).ok()?;
        reserved
            .iter()
            .chain(held)
            .filter(|other| overlaps(other, range))
            .for_each(|other| blocks.reserve(*other));
        Some(blocks)
    });
    made.collect()
}

fn next(pools: &mut [BlockPool], family: IpFamily) -> Result<IpNet, BlockError> {
    let mut problem = BlockError::Full { length: family.bits() };
    for pool in
        pools.iter_mut().filter(|pool| pool.ranges().iter().any(|range| IpFamily::from(*range) == family))
    {
        match pool.take() {
            Ok(range) => return Ok(range),
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

#[cfg(test)]
mod tests;
