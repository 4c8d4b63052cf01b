//! Ports out of one range: node ports.

use std::ops::RangeInclusive;

use crate::PoolError;
use crate::intervals::Intervals;

/// Hands out ports; the low end of the range is kept for ports asked for by number (A148, KEP-3668).
#[derive(Clone, Debug)]
pub struct PortPool {
    range: RangeInclusive<u16>,
    used: Intervals,
}

impl PortPool {
    /// A pool with all ports of `range` free.
    pub fn new(range: RangeInclusive<u16>) -> Self {
        Self { range, used: Intervals::default() }
    }

    /// The ports it hands out.
    pub const fn range(&self) -> &RangeInclusive<u16> {
        &self.range
    }

    /// Size of the static band (A148): none up to 16 ports, else one in 32, at least 16 and at most 128.
    fn band(&self) -> u128 {
        let size = self.range.len() as u128;
        if size <= 16 { 0 } else { (size / 32).clamp(16, 128) }
    }

    /// Whether `port` is in use.
    pub fn is_used(&self, port: u16) -> bool {
        self.used.contains(port.into())
    }

    /// Takes a free port: the first at or above the position `seed` gives, wrapping; the static band comes last.
    ///
    /// Fails only with [`PoolError::Full`].
    pub fn take(&mut self, seed: u128) -> Result<u16, PoolError> {
        let (first, last) = (u128::from(*self.range.start()), u128::from(*self.range.end()));
        let open = first + self.band();
        let scan = |first: u128, last: u128| {
            let start = first + seed.checked_rem((last + 1).saturating_sub(first))?;
            self.used.next_free(start..=last).or_else(|| self.used.next_free(first..=last))
        };
        let port = scan(open, last).or_else(|| scan(first, open.checked_sub(1)?)).ok_or(PoolError::Full)?;
        self.used.insert(port);
        u16::try_from(port).map_err(|_| PoolError::Full)
    }

    /// Takes `port` itself.
    pub fn take_port(&mut self, port: u16) -> Result<(), PoolError> {
        if !self.range.contains(&port) {
            Err(PoolError::OutOfRange)
        } else if self.used.insert(port.into()) {
            Ok(())
        } else {
            Err(PoolError::Taken)
        }
    }

    /// Marks `port` as used, in the range or not; false if it was.
    pub fn occupy(&mut self, port: u16) -> bool {
        self.used.insert(port.into())
    }

    /// Gives a port back; false if it was not in use.
    pub fn release(&mut self, port: u16) -> bool {
        self.used.remove(port.into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a148_the_static_band() {
        for (range, band) in [
            (30000..=32767, 86),
            (30000..=30015, 0),
            (30000..=30016, 16),
            (1..=65535, 128),
            (30000..=30000, 0),
        ] {
            assert_eq!(PortPool::new(range.clone()).band(), band, "{range:?}");
        }
        assert_eq!(PortPool::new(30000..=32767).take(0), Ok(30086));
    }

    #[test]
    fn an_empty_range_gives_nothing() {
        #[expect(clippy::reversed_empty_ranges, reason = "empty is what is tested")]
        let mut pool = PortPool::new(2..=1);
        assert_eq!(pool.take(5), Err(PoolError::Full));
        assert_eq!(pool.take_port(1), Err(PoolError::OutOfRange));
    }

    proptest! {
        #[test]
        fn every_port_once_and_the_band_last(seeds in prop::collection::vec(any::<u128>(), 40), size in 1u16..40) {
            let mut pool = PortPool::new(65536u32.wrapping_sub(u32::from(size)) as u16..=65535);
            let band = usize::try_from(pool.band()).unwrap();
            let given: Vec<u16> = seeds.iter().map_while(|seed| pool.take(*seed).ok()).collect();
            prop_assert_eq!(given.iter().copied().collect::<BTreeSet<_>>(), pool.range().clone().collect());
            let edge = pool.range().start() + u16::try_from(band).unwrap();
            prop_assert!(given[given.len() - band..].iter().all(|port| *port < edge || band == 0));
            prop_assert_eq!(pool.take_port(given[0]), Err(PoolError::Taken));
            prop_assert!(pool.release(given[0]) && !pool.release(given[0]));
            prop_assert_eq!(pool.take(7), Ok(given[0]));
        }
    }
}
