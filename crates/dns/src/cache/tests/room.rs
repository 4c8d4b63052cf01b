//! Bounds and eviction.

use proptest::prelude::*;

use super::*;

fn numbered(at: usize) -> Message {
    query(Rtype::A, &format!("name-{at}.example.org."))
}

fn fill(cache: &Cache, at: usize, now: Instant) {
    let asked = numbered(at);
    let owner = asked.questions[0].name.clone();
    let record = Record::new(owner, 600, Rdata::A(u32::try_from(at).unwrap().to_be_bytes().into()));
    insert(cache, &asked, &positive(&asked, &[record]), now);
}

fn has(cache: &Cache, at: usize, now: Instant) -> bool {
    get(cache, &numbered(at), now).is_some_and(|(got, _)| {
        assert_eq!(
            got.answers[0].data,
            Rdata::A(u32::try_from(at).unwrap().to_be_bytes().into()),
            "never another's"
        );
        true
    })
}

#[test]
fn a_flood_of_names_asked_for_once_does_not_displace_what_is_in_use() {
    let (cache, now) = (cache("bytes 256KiB"), Instant::now());
    let used = 0..200;
    for at in used.clone() {
        fill(&cache, at, now);
        assert!(has(&cache, at, now));
    }
    for at in 1000..20_000 {
        fill(&cache, at, now);
        if at % 1000 == 0 {
            assert!(used.clone().all(|at| has(&cache, at, now)), "at {at}");
        }
    }
    let (entries, bytes) = cache.size();
    assert!(bytes <= 256 << 10, "{bytes}");
    assert!(entries > 400, "{entries}");
    assert!(cache.counters().evictions.load(Relaxed) > 10_000);
    assert_eq!(used.filter(|at| !has(&cache, *at, now)).count(), 0);
}

#[test]
fn what_comes_back_stays() {
    let (cache, now) = (cache("bytes 64KiB"), Instant::now());
    // It fills the cache, goes, and comes back: then it is no longer the first to go.
    (0..400).for_each(|at| fill(&cache, at, now));
    let (entries, _) = cache.size();
    let gone = (0..400).find(|at| has(&cache, *at, now)).unwrap() - 1;
    fill(&cache, gone, now);
    (1000..1000 + entries / 4).for_each(|at| fill(&cache, at, now));
    assert!(has(&cache, gone, now));
}

#[test]
fn one_answer_is_never_all_there_is() {
    let (cache, now) = (cache("bytes 64KiB"), Instant::now());
    let asked = query(Rtype::TXT, "large.example.org.");
    let text = |_| Rdata::Txt(vec![vec![0; 250].into(); 10]);
    let records: Vec<_> = (0..26).map(|at| Record::new(name("large.example.org."), 600, text(at))).collect();
    insert(&cache, &asked, &positive(&asked, &records), now);
    assert_eq!(cache.size(), (0, 0));
    assert_eq!(get(&cache, &asked, now), None);
}

proptest! {
    /// Whatever comes, in whatever order: the bound holds, and what is found is what was put there.
    #[test]
    fn bytes_are_bounded(steps in prop::collection::vec((0..400_usize, any::<bool>(), 0..3_u64), 1..600)) {
        let (cache, start) = (cache("bytes 20000"), Instant::now());
        let mut now = start;
        for (at, put, pause) in steps {
            now += Duration::from_secs(pause);
            if put {
                fill(&cache, at, now);
            } else {
                has(&cache, at, now);
            }
            let (entries, bytes) = cache.size();
            prop_assert!(bytes <= 20_000 && entries * 100 <= bytes, "{entries} entries in {bytes} bytes");
        }
    }
}
