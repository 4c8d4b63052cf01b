//! Whom to ask, and how long to wait before the next is asked, too.

use std::time::Duration;

use dyad_net::IpFamily;

use crate::corefile::Policy;

/// How long somebody is waited for before another is asked, who is not known (RFC 8305 §5).
const PATIENCE: Duration = Duration::from_millis(250);
const LEAST: Duration = Duration::from_millis(20);
/// When all have been asked once, packets may have been lost.
const AGAIN: Duration = Duration::from_secs(1);

/// What is known of an upstream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) family: IpFamily,
    /// Smoothed time of its answers.
    pub(super) srtt: Option<Duration>,
    pub(super) down: bool,
    /// Its time was not measured lately.
    pub(super) outdated: bool,
}

/// How often anybody is asked at most: everybody twice, one alone a few times more.
pub(super) const fn attempts(upstreams: usize) -> usize {
    match upstreams {
        1 => 4,
        2 | 3 => 2 * upstreams,
        // More than that do not fit in the time there is.
        _ => upstreams + 2,
    }
}

/// The order to ask in: by policy, those that are down last; the second is of the other family if there is one, as what
/// fails is often all of a family.
pub(super) fn order(candidates: &[Candidate], policy: Policy, turn: usize, random: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    match policy {
        Policy::Sequential => {}
        Policy::RoundRobin => order.rotate_left(turn % candidates.len().max(1)),
        Policy::Random => shuffle(&mut order, random),
        // Who is not known is asked to become known.
        Policy::LowestRtt => order.sort_by_key(|at| candidates[*at].srtt.unwrap_or_default()),
    }
    order.sort_by_key(|at| candidates[*at].down);
    if let [first, rest @ ..] = order.as_mut_slice()
        && let Some(other) = rest.iter().position(|at| {
            let (first, other) = (&candidates[*first], &candidates[*at]);
            other.family != first.family && other.down == first.down
        })
    {
        rest[..=other].rotate_right(1);
    }
    order
}

/// How long to wait for `asked` before `next` is asked, too; there is none when all were asked once.
pub(super) fn patience(asked: &Candidate, next: Option<&Candidate>) -> Duration {
    match next {
        None => AGAIN,
        // The loser of former races gets a chance to show that it has become better.
        Some(next) if next.outdated && !next.down => Duration::ZERO,
        Some(_) if asked.down => LEAST,
        Some(_) => asked.srtt.map_or(PATIENCE, |srtt| (3 * srtt).clamp(LEAST, PATIENCE)),
    }
}

fn shuffle(order: &mut [usize], mut random: u64) {
    for end in (1..order.len()).rev() {
        // Enough bits of one number for as many upstreams as there ever are; mixed so that each step has its own.
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        order.swap(end, (random >> 33) as usize % (end + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(family: IpFamily, millis: u64, down: bool) -> Candidate {
        let srtt = (millis > 0).then(|| Duration::from_millis(millis));
        Candidate { family, srtt, down, outdated: false }
    }

    #[test]
    fn policies() {
        use IpFamily::{V4, V6};
        use Policy::{LowestRtt, RoundRobin, Sequential};
        let one = [candidate(V4, 30, false), candidate(V4, 20, false), candidate(V4, 10, false)];
        let down = [candidate(V4, 30, true), candidate(V4, 20, false), candidate(V4, 10, false)];
        let all = [candidate(V4, 30, true), candidate(V4, 20, true), candidate(V4, 10, true)];
        let unknown = [candidate(V4, 30, false), candidate(V4, 0, false)];
        let mixed = [candidate(V4, 10, false), candidate(V4, 20, false), candidate(V6, 30, false)];
        let lame = [candidate(V4, 10, false), candidate(V4, 20, false), candidate(V6, 30, true)];
        type Case<'a> = (&'a str, &'a [Candidate], Policy, usize, &'a [usize]);
        let cases: &[Case<'_>] = &[
            ("as they stand", &one, Sequential, 7, &[0, 1, 2]),
            ("in turn", &one, RoundRobin, 7, &[1, 2, 0]),
            ("the fastest", &one, LowestRtt, 7, &[2, 1, 0]),
            ("who is down is last", &down, Sequential, 7, &[1, 2, 0]),
            ("all are down", &all, Sequential, 7, &[0, 1, 2]),
            ("who is not known", &unknown, LowestRtt, 7, &[1, 0]),
            ("the other family is second", &mixed, Sequential, 7, &[0, 2, 1]),
            ("unless it is down", &lame, Sequential, 7, &[0, 1, 2]),
        ];
        for (what, candidates, policy, turn, want) in cases {
            assert_eq!(order(candidates, *policy, *turn, 1), *want, "{what}");
        }
    }

    #[test]
    fn random_order_is_each_order_about_as_often() {
        let candidates = [candidate(IpFamily::V4, 1, false); 3];
        let mut first = [0; 3];
        for random in 0..3000 {
            let order = order(&candidates, Policy::Random, 0, random);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2]);
            first[order[0]] += 1;
        }
        assert!(first.iter().all(|count| (800..1200).contains(count)), "{first:?}");
    }

    #[test]
    fn patience_follows_what_is_known() {
        let of = |millis, down| candidate(IpFamily::V4, millis, down);
        let millis = |asked: &Candidate, next: Option<&Candidate>| patience(asked, next).as_millis();
        let next = of(10, false);
        assert_eq!(millis(&of(0, false), Some(&next)), 250);
        assert_eq!(millis(&of(30, false), Some(&next)), 90);
        assert_eq!(millis(&of(1, false), Some(&next)), 20);
        assert_eq!(millis(&of(900, false), Some(&next)), 250);
        assert_eq!(millis(&of(30, true), Some(&next)), 20);
        assert_eq!(millis(&of(30, false), None), 1000);
        assert_eq!(millis(&of(30, false), Some(&Candidate { outdated: true, ..next })), 0);
    }
}
