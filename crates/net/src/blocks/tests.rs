use proptest::prelude::*;

use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn pool(length: u8, ranges: &[&str]) -> BlockPool {
    let mut pool = BlockPool::new(net(ranges[0]).into(), length).unwrap();
    for range in ranges {
        pool.add_range(net(range)).unwrap();
    }
    pool
}

fn all(pool: &mut BlockPool) -> Vec<String> {
    std::iter::from_fn(|| pool.take().ok()).map(|net| net.to_string()).collect()
}

#[test]
fn d5_blocks_in_order_in_both_families() {
    #[rustfmt::skip]
    let cases: &[(&[&str], u8, &[&str])] = &[
        (&["10.244.0.0/22"], 24, &["10.244.0.0/24", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]),
        (&["fd00:10:244::/62"], 64, &["fd00:10:244::/64", "fd00:10:244:1::/64", "fd00:10:244:2::/64", "fd00:10:244:3::/64"]),
        // The number of the block straddles the 64-bit boundary.
        (&["fd00::/63"], 65, &["fd00::/65", "fd00:0:0:0:8000::/65", "fd00:0:0:1::/65", "fd00:0:0:1:8000::/65"]),
        // Several ranges, of different sizes.
        (&["10.0.0.0/23", "10.9.0.0/24", "10.4.0.0/24"], 24, &["10.0.0.0/24", "10.0.1.0/24", "10.9.0.0/24", "10.4.0.0/24"]),
        (&["10.0.0.7/32"], 32, &["10.0.0.7/32"]),
        (&["fd00::fffe/127"], 128, &["fd00::fffe/128", "fd00::ffff/128"]),
        (&["0.0.0.0/0"], 0, &["0.0.0.0/0"]),
        (&["::/0"], 1, &["::/1", "8000::/1"]),
        // The very end of the address space.
        (&["255.255.255.254/31", "0.0.0.0/31"], 32, &["255.255.255.254/32", "255.255.255.255/32", "0.0.0.0/32", "0.0.0.1/32"]),
    ];
    for (ranges, length, want) in cases {
        let mut pool = pool(*length, ranges);
        assert_eq!(pool.capacity(), want.len() as u128, "{ranges:?}");
        let want: Vec<String> = want.iter().map(|text| net(text).to_string()).collect();
        assert_eq!(all(&mut pool), want, "{ranges:?}");
        assert_eq!(pool.take(), Err(BlockError::Full { length: *length }));
    }
}

#[test]
fn d5_what_is_given_back_comes_last() {
    let mut pool = pool(24, &["10.0.0.0/23", "10.9.0.0/23"]);
    assert_eq!(pool.take().unwrap(), net("10.0.0.0/24"));
    assert_eq!(pool.take().unwrap(), net("10.0.1.0/24"));
    assert!(pool.release(net("10.0.0.0/24")) && !pool.release(net("10.0.0.0/24")));
    assert_eq!(all(&mut pool), ["10.9.0.0/24", "10.9.1.0/24", "10.0.0.0/24"]);
}

#[test]
fn d6_reserved_ranges_are_left_out() {
    let mut pool = pool(24, &["10.0.0.0/22"]);
    pool.reserve(net("10.0.1.128/25"));
    pool.reserve(net("fd00::/64"));
    pool.reserve(net("192.168.0.0/16"));
    assert_eq!(all(&mut pool), ["10.0.0.0/24", "10.0.2.0/24", "10.0.3.0/24"]);
}

#[test]
fn d7_prefixes_of_any_length_can_be_occupied() {
    let mut pool = pool(24, &["10.0.0.0/21"]);
    assert_eq!(pool.occupy(net("10.0.0.0/23")), Ok(true));
    assert_eq!(pool.occupy(net("10.0.0.0/23")), Ok(false));
    assert_eq!(pool.occupy(net("10.0.3.0/26")), Ok(true));
    assert_eq!(pool.occupy(net("10.0.3.64/26")), Ok(true));
    assert_eq!(pool.occupy(net("10.1.0.0/24")), Err(BlockError::OutOfRange(net("10.1.0.0/24"))));
    assert_eq!(pool.occupy(net("10.0.0.0/16")), Err(BlockError::OutOfRange(net("10.0.0.0/16"))));
    assert_eq!(pool.take().unwrap(), net("10.0.2.0/24"));
    // One of the two goes: the block stays taken until the other goes as well.
    assert!(pool.release(net("10.0.3.0/26")));
    assert!(pool.is_used(&net("10.0.3.0/24")) && !pool.is_used(&net("10.0.3.0/26")));
    assert!(pool.release(net("10.0.3.64/26")));
    assert_eq!(pool.take().unwrap(), net("10.0.3.0/24"));
}

#[test]
fn d3_ranges_that_cannot_be_used_are_refused() {
    let mut pool = pool(24, &["10.0.0.0/16"]);
    assert_eq!(
        pool.add_range(net("10.1.0.0/25")),
        Err(BlockError::TooSmall { net: net("10.1.0.0/25"), length: 24 })
    );
    assert_eq!(
        pool.add_range(net("10.0.4.0/24")),
        Err(BlockError::Overlap(net("10.0.0.0/16"), net("10.0.4.0/24")))
    );
    assert!(matches!(pool.add_range(net("fd00::/16")), Err(BlockError::WrongFamily { .. })));
    assert!(BlockPool::new(IpFamily::V4, 64).is_err());
    assert_eq!(pool.add_range(net("10.0.0.0/16")), Ok(()));
    assert_eq!(pool.ranges().len(), 1);
    assert_eq!(BlockPool::new(IpFamily::V4, 24).unwrap().take(), Err(BlockError::Full { length: 24 }));
}

#[test]
fn a_pool_grows_while_in_use() {
    let mut pool = pool(24, &["10.0.0.0/24"]);
    assert_eq!(all(&mut pool), ["10.0.0.0/24"]);
    pool.add_range(net("10.7.0.0/24")).unwrap();
    assert_eq!(all(&mut pool), ["10.7.0.0/24"]);
}

#[derive(Clone, Debug)]
enum Step {
    Take,
    Occupy(u8, u8),
    Release(u8, u8),
    ReleaseTaken(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Take),
        2 => (0u8..64, 0u8..6).prop_map(|(at, length)| Step::Occupy(at, length)),
        2 => (0u8..64, 0u8..6).prop_map(|(at, length)| Step::Release(at, length)),
        2 => any::<prop::sample::Index>().prop_map(Step::ReleaseTaken),
    ]
}

proptest! {
    /// 64 addresses in blocks of 4, with prefixes of all lengths held beside them, around the 64-bit boundary too.
    #[test]
    fn agrees_with_a_set(shift in prop::sample::select(vec![0u32, 60, 63, 64, 66]), steps in prop::collection::vec(step(), 1..80)) {
        let base = 0xfd00u128 << 112;
        let prefix = |at: u8, length: u8| {
            let bits = base + (u128::from(at) << shift);
            let length = 122 + length - u8::try_from(shift).unwrap();
            IpNet::new(from_bits(IpFamily::V6, bits), length).unwrap().trunc()
        };
        let mut pool = BlockPool::new(IpFamily::V6, prefix(0, 4).prefix_len()).unwrap();
        // The second quarter is not part of the pool.
        for range in [prefix(32, 1), prefix(0, 2)] {
            pool.add_range(range).unwrap();
        }
        let mut held: BTreeSet<IpNet> = BTreeSet::new();
        let blocks = || (0u8..64).step_by(4).map(|at| prefix(at, 4)).filter(|net| *net < prefix(16, 4) || *net >= prefix(32, 4));
        for step in steps {
            match step {
                Step::Take => match pool.take() {
                    Ok(net) => {
                        prop_assert!(blocks().any(|block| block == net), "{} is no block", net);
                        prop_assert!(!held.iter().any(|other| overlaps(other, &net)), "{} twice", net);
                        held.insert(net);
                    }
                    Err(_) => prop_assert!(blocks().all(|block| held.iter().any(|other| overlaps(other, &block)))),
                },
                Step::Occupy(at, length) => {
                    let net = prefix(at, length);
                    let inside = prefix(32, 1).contains(&net) || prefix(0, 2).contains(&net);
                    prop_assert_eq!(pool.occupy(net).ok(), inside.then(|| held.insert(net)));
                }
                Step::Release(at, length) => {
                    let net = prefix(at, length);
                    prop_assert_eq!(pool.release(net), held.remove(&net));
                }
                Step::ReleaseTaken(index) => {
                    if !held.is_empty() {
                        let net = *index.get(&held.iter().copied().collect::<Vec<_>>());
                        held.remove(&net);
                        prop_assert!(pool.release(net));
                    }
                }
            }
            for block in blocks() {
                prop_assert_eq!(pool.is_used(&block), held.iter().any(|other| overlaps(other, &block)));
            }
        }
    }
}
