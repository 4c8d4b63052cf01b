use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn pool(band: StaticBand, ranges: &[&str]) -> Pool {
    let nets: Vec<IpNet> = ranges.iter().map(|range| range.parse().unwrap()).collect();
    let mut pool = Pool::new(nets[0].into(), band);
    for net in nets {
        pool.add_range(net).unwrap();
    }
    pool
}

#[test]
fn c15_the_static_band_comes_last() {
    #[rustfmt::skip]
    let cases = [
        // range, size of the band, first address above it
        ("10.0.0.0/28",  0,   "10.0.0.1"),
        ("10.0.0.0/27",  16,  "10.0.0.17"),
        ("10.0.0.0/24",  16,  "10.0.0.17"),
        ("10.0.0.0/21",  128, "10.0.0.129"),
        ("10.0.0.0/20",  256, "10.0.1.1"),
        ("10.96.0.0/12", 256, "10.96.1.1"),
        ("fd00::/124",   0,   "fd00::1"),
        ("fd00::/120",   16,  "fd00::11"),
        ("fd00::/112",   256, "fd00::101"),
        ("fd00::/64",    256, "fd00::101"),
        ("fd00::/8",     256, "fd00::101"),
    ];
    for (range, size, first) in cases {
        let mut pool = pool(StaticBand::Services, &[range]);
        assert_eq!(StaticBand::Services.size(&pool.ranges()[0]), size, "{range}");
        assert_eq!(pool.take(0).unwrap(), first.parse::<IpAddr>().unwrap(), "{range}");
    }
}

#[test]
fn a_range_far_too_large_to_count_works() {
    let mut pool = pool(StaticBand::Services, &["::/0", "fd00::/8"]);
    let taken: BTreeSet<IpAddr> = (0..1000).map(|i| pool.take(u128::MAX - i % 7).unwrap()).collect();
    assert_eq!(taken.len(), 1000);
}

#[test]
fn c34_a_removed_range_gives_nothing_and_forgets_nothing() {
    let mut pool = pool(StaticBand::None, &["10.0.0.0/30", "10.1.0.0/30"]);
    let held: IpAddr = "10.0.0.1".parse().unwrap();
    pool.take_ip(held).unwrap();
    pool.remove_range(&"10.0.0.0/30".parse().unwrap());
    assert!(pool.is_used(held));
    assert_eq!(pool.take_ip(held), Err(PoolError::OutOfRange));
    let given: BTreeSet<_> = (0..2).map(|seed| pool.take(seed).unwrap().to_string()).collect();
    assert_eq!(given, ["10.1.0.1", "10.1.0.2"].map(str::to_owned).into());
    assert_eq!(pool.take(0), Err(PoolError::Full));
    pool.add_range("10.0.0.0/30".parse().unwrap()).unwrap();
    assert_eq!(pool.take(0).unwrap().to_string(), "10.0.0.2");
}

#[test]
fn the_other_family_is_refused() {
    let mut pool = pool(StaticBand::None, &["10.0.0.0/24"]);
    assert!(matches!(pool.add_range("fd00::/64".parse().unwrap()), Err(PoolError::WrongFamily { .. })));
    let other: IpAddr = "::a00:1".parse().unwrap();
    assert_eq!(pool.take_ip(other), Err(PoolError::OutOfRange));
    assert!(!pool.occupy(other) && !pool.release(other) && !pool.is_used(other));
}

const RANGES: [&[&str]; 2] =
    [&["10.0.0.0/29", "10.0.0.64/27", "10.0.0.64/28"], &["fd00::/125", "fd00::40/123", "fd00::40/124"]];

#[derive(Clone, Debug)]
enum Step {
    Take(u128),
    TakeIp(u8),
    Release(u8),
    Remove(usize),
    Add(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<u128>().prop_map(Step::Take),
        2 => (0u8..110).prop_map(Step::TakeIp),
        2 => (0u8..110).prop_map(Step::Release),
        1 => (0usize..3).prop_map(Step::Remove),
        1 => (0usize..3).prop_map(Step::Add),
    ]
}

proptest! {
    /// Both families, several and overlapping ranges, against a plain set.
    #[test]
    fn agrees_with_a_set(v6: bool, banded: bool, steps in prop::collection::vec(step(), 1..120)) {
        let texts = RANGES[usize::from(v6)];
        let band = if banded { StaticBand::Services } else { StaticBand::None };
        let mut pool = pool(band, &texts[..1]);
        let nets: Vec<IpNet> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let base = to_bits(nets[0].network());
        let ip = |offset: u8| from_bits(nets[0].into(), base + u128::from(offset));
        let mut ranges = BTreeSet::from([0usize]);
        let mut used: BTreeSet<IpAddr> = BTreeSet::new();
        for step in steps {
            let usable = || (0u8..110).map(ip).filter(|ip| ranges.iter().any(|at| service_range_contains(&nets[*at], *ip)));
            match step {
                Step::Take(seed) => match pool.take(seed) {
                    Ok(ip) => {
                        prop_assert!(usable().any(|usable| usable == ip), "{} is outside", ip);
                        prop_assert!(used.insert(ip), "{} twice", ip);
                    }
                    Err(error) => {
                        prop_assert_eq!(error, PoolError::Full);
                        prop_assert!(usable().all(|ip| used.contains(&ip)));
                    }
                },
                Step::TakeIp(offset) => {
                    let want = if !usable().any(|usable| usable == ip(offset)) {
                        Err(PoolError::OutOfRange)
                    } else if used.insert(ip(offset)) {
                        Ok(())
                    } else {
                        Err(PoolError::Taken)
                    };
                    prop_assert_eq!(pool.take_ip(ip(offset)), want);
                }
                Step::Release(offset) => prop_assert_eq!(pool.release(ip(offset)), used.remove(&ip(offset))),
                Step::Remove(at) => {
                    pool.remove_range(&nets[at]);
                    ranges.remove(&at);
                }
                Step::Add(at) => {
                    pool.add_range(nets[at]).unwrap();
                    ranges.insert(at);
                }
            }
        }
    }

    /// Everything is given once, and the band only when there is nothing else.
    #[test]
    fn every_address_once_and_the_band_last(seed: u128, v6: bool) {
        let range = if v6 { "fd00::/122" } else { "10.0.0.0/26" };
        let mut pool = pool(StaticBand::Services, &[range]);
        let net = pool.ranges()[0];
        let given: Vec<u128> = std::iter::from_fn(|| pool.take(seed).ok()).map(to_bits).collect();
        prop_assert_eq!(given.len() as u128, crate::usable_addresses(&net));
        let first = to_bits(net.network()) + 1;
        let (open, band) = given.split_at(given.len() - 16);
        prop_assert!(open.iter().all(|bits| *bits >= first + 16));
        prop_assert_eq!(band.iter().copied().collect::<BTreeSet<_>>(), (first..first + 16).collect());
    }
}
