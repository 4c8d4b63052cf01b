//! The cache beside a slow one that is written from the specification.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 3] = ["a.example.org.", "B.example.org.", "c."];
const TYPES: [Rtype; 3] = [Rtype::A, Rtype::AAAA, Rtype::TXT];

#[derive(Clone, Debug)]
enum Step {
    /// An answer comes: of a code, with as many records that hold so long.
    Insert(usize, usize, bool, Rcode, u8, u32),
    Get(usize, usize, bool),
    Stale(usize, usize, bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let key = || (0..NAMES.len(), 0..TYPES.len(), any::<bool>());
    let rcode = prop::sample::select(vec![Rcode::NOERROR, Rcode::NXDOMAIN, Rcode::SERVFAIL, Rcode::REFUSED]);
    let ttl = prop_oneof![Just(0_u32), 1..100_u32, Just(100_000)];
    prop_oneof![
        4 => (key(), rcode, 0..3_u8, ttl).prop_map(|((n, t, d), rcode, count, ttl)| Step::Insert(n, t, d, rcode, count, ttl)),
        4 => key().prop_map(|(n, t, d)| Step::Get(n, t, d)),
        1 => key().prop_map(|(n, t, d)| Step::Stale(n, t, d)),
        2 => (1..60_u64).prop_map(Step::Wait),
    ]
}

/// What is known, in seconds.
#[derive(Clone)]
struct Known {
    rcode: Rcode,
    records: Vec<Record>,
    from: u64,
    until: u64,
    recheck: u64,
}

#[derive(Default)]
struct Model {
    typed: HashMap<(usize, usize, bool), Known>,
    gone: HashMap<(usize, bool), Known>,
}

const WINDOW: u64 = 40;

impl Model {
    fn get(&mut self, n: usize, t: usize, d: bool) -> Option<&mut Known> {
        match self.gone.get_mut(&(n, d)) {
            Some(known) => Some(known),
            None => self.typed.get_mut(&(n, t, d)),
        }
    }

    fn insert(&mut self, (n, t, d): (usize, usize, bool), now: u64, response: &Message, ttl: u32) {
        let records = response.answers.clone();
        let keep = |max: u32| u64::from(ttl.clamp(5, max));
        let (life, is_name) = match response.header.rcode {
            Rcode::SERVFAIL => {
                let old =
                    self.get(n, t, d).filter(|old| old.rcode != Rcode::SERVFAIL && now < old.until + WINDOW);
                if let Some(old) = old {
                    old.recheck = now + 30;
                    return;
                }
                (5, false)
            }
            _ if ttl == 0 => return,
            Rcode::NOERROR if !records.is_empty() => (keep(3600), false),
            Rcode::NOERROR => (keep(1800), false),
            Rcode::NXDOMAIN => (keep(1800), records.is_empty()),
            _ => return,
        };
        let known = Known { rcode: response.header.rcode, records, from: now, until: now + life, recheck: 0 };
        if is_name {
            self.gone.insert((n, d), known);
        } else {
            self.gone.remove(&(n, d));
            self.typed.insert((n, t, d), known);
        }
    }
}

fn asked(n: usize, t: usize, dnssec_ok: bool) -> Message {
    let mut query = query(TYPES[t], NAMES[n]);
    query.edns = Some(Edns { udp_size: 1232, dnssec_ok, ..Edns::default() });
    query
}

fn answer(query: &Message, rcode: Rcode, count: u8, ttl: u32) -> Message {
    let mut response = query.response(rcode);
    let question = &query.questions[0];
    for at in 0..count {
        let data = match question.rtype {
            // Where there is no name, there may be an alias.
            _ if rcode != Rcode::NOERROR => Rdata::Cname(name(&format!("{at}.example."))),
            Rtype::A => Rdata::A([192, 0, 2, at].into()),
            Rtype::AAAA => Rdata::Aaaa([u16::from(at), 0, 0, 0, 0, 0, 0, 1].into()),
            _ => Rdata::Txt(vec![Box::new([at])]),
        };
        response.answers.push(Record::new(question.name.clone(), ttl, data));
    }
    if response.answers.is_empty() || rcode != Rcode::NOERROR {
        response.authority.push(soa(ttl, ttl));
    }
    response
}

proptest! {
    #[test]
    fn the_cache_knows_what_the_model_knows(steps in prop::collection::vec(step(), 1..80)) {
        let (cache, start) = (cache(&format!("serve_stale {WINDOW}s verify")), Instant::now());
        let (mut model, mut now) = (Model::default(), 0);
        for step in steps {
            match step {
                Step::Wait(seconds) => now += seconds,
                Step::Insert(n, t, d, rcode, count, ttl) => {
                    let query = asked(n, t, d);
                    let response = answer(&query, rcode, count, ttl);
                    insert(&cache, &query, &response, after(start, now));
                    model.insert((n, t, d), now, &response, ttl);
                }
                Step::Get(n, t, d) | Step::Stale(n, t, d) => {
                    let stale = matches!(step, Step::Stale(..));
                    let got = find(&cache, &asked(n, t, d), after(start, now), stale);
                    let want = model.get(n, t, d).filter(|known| {
                        let late = known.rcode != Rcode::SERVFAIL && now < known.until + WINDOW;
                        now < known.until || late && (stale || now < known.recheck)
                    });
                    let Some(want) = want else {
                        prop_assert_eq!(got, None);
                        continue;
                    };
                    let (got, hit) = got.expect("the model knows it");
                    prop_assert_eq!(hit.stale, now >= want.until);
                    prop_assert_eq!(got.header.rcode, want.rcode);
                    let life = u32::try_from(want.until - want.from).unwrap();
                    for (got, want) in got.answers.iter().zip(&want.records) {
                        prop_assert_eq!(&got.name, &want.name);
                    }
                    let data = |records: &[Record]| {
                        let mut data: Vec<_> = records.iter().map(|record| format!("{:?}", record.data)).collect();
                        data.sort();
                        data
                    };
                    prop_assert_eq!(data(&got.answers), data(&want.records));
                    let left = if hit.stale { 30 } else { life - u32::try_from(now - want.from).unwrap() };
                    for record in got.answers.iter().chain(&got.authority) {
                        prop_assert!(want.rcode == Rcode::SERVFAIL || record.ttl == left, "{:?}", record);
                    }
                }
            }
        }
    }
}
