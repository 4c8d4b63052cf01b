use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::wire::{Edns, EdnsOption, Header, Question, Rdata, Record, Soa};

mod fuzz;
mod model;
mod room;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// The cache of a Corefile with these options.
fn cache(options: &str) -> Cache {
    let text = format!(". {{\n cache {{\n{options}\n}}\n}}");
    let mut parsed = corefile::Corefile::parse("Corefile", &text, &corefile::Disk::default()).unwrap();
    Cache::new(parsed.servers.remove(0).cache.unwrap())
}

fn query(rtype: Rtype, text: &str) -> Message {
    let mut query = Message::new(Header::query(77), Some(Question::new(name(text), rtype)));
    query.edns = Some(Edns { udp_size: 1232, ..Edns::default() });
    query
}

fn soa(ttl: u32, minimum: u32) -> Record {
    let soa =
        Soa { mname: name("m."), rname: name("r."), serial: 1, refresh: 1, retry: 1, expire: 1, minimum };
    Record::new(name("example.org."), ttl, Rdata::Soa(Box::new(soa)))
}

fn a(owner: &str, ttl: u32, last: u8) -> Record {
    Record::new(name(owner), ttl, Rdata::A([192, 0, 2, last].into()))
}

fn positive(query: &Message, records: &[Record]) -> Message {
    let mut response = query.response(Rcode::NOERROR);
    response.answers = records.to_vec();
    response
}

fn negative(query: &Message, rcode: Rcode, soa: Option<Record>) -> Message {
    let mut response = query.response(rcode);
    response.authority.extend(soa);
    response
}

fn insert(cache: &Cache, query: &Message, response: &Message, now: Instant) -> bool {
    cache.insert(&Asked::of(query, MAX_MESSAGE).unwrap(), response, now)
}

fn get(cache: &Cache, query: &Message, now: Instant) -> Option<(Message, Hit)> {
    find(cache, query, now, false)
}

fn find(cache: &Cache, query: &Message, now: Instant, stale: bool) -> Option<(Message, Hit)> {
    let mut out = Vec::new();
    let hit = cache.answer(&Asked::of(query, MAX_MESSAGE).unwrap(), now, stale, &mut out)?;
    Some((Message::parse(&out).unwrap(), hit))
}

fn after(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn a_hit_has_the_querys_identifier_flags_and_letters_and_what_is_left_of_the_time() {
    let (cache, start) = (cache(""), Instant::now());
    let asked = query(Rtype::A, "www.example.org.");
    let mut response = positive(
        &asked,
        &[
            Record::new(name("www.example.org."), 300, Rdata::Cname(name("x.example.org."))),
            a("x.example.org.", 200, 1),
        ],
    );
    response.header.authentic_data = true;
    assert!(insert(&cache, &asked, &response, start));
    let mut again = query(Rtype::A, "wWw.eXample.ORG.");
    again.header.id = 4711;
    again.header.recursion_desired = false;
    let (got, hit) = get(&cache, &again, after(start, 50)).unwrap();
    assert_eq!(
        (got.header.id, got.header.recursion_desired, got.header.recursion_available),
        (4711, false, true)
    );
    assert_eq!(got.questions[0].name.as_wire(), again.questions[0].name.as_wire());
    assert_eq!(got.answers[0].name.as_wire(), again.questions[0].name.as_wire());
    // What is kept is kept as long as the shortest of it.
    assert_eq!(got.answers.iter().map(|record| record.ttl).collect::<Vec<_>>(), [250, 150]);
    assert_eq!(got.answers[1].data, Rdata::A([192, 0, 2, 1].into()));
    assert!(!got.header.authentic_data, "RFC 6840 §5.8: nobody asked for it");
    assert_eq!(got.edns.unwrap().udp_size, 1232);
    assert_eq!(hit, Hit { stale: false, renew: false, rcode: Rcode::NOERROR });
    again.header.authentic_data = true;
    again.edns = None;
    let (got, _) = get(&cache, &again, after(start, 199)).unwrap();
    assert!(got.header.authentic_data);
    assert_eq!(got.edns, None, "OPT only for those who sent one");
    assert_eq!(get(&cache, &again, after(start, 200)), None);
}

#[test]
fn do_and_cd_are_questions_of_their_own() {
    let (cache, now) = (cache(""), Instant::now());
    let with = |dnssec_ok, checking_disabled| {
        let mut query = query(Rtype::A, "example.org.");
        query.edns = Some(Edns { udp_size: 1232, dnssec_ok, ..Edns::default() });
        query.header.checking_disabled = checking_disabled;
        query
    };
    for (at, (dnssec, cd)) in
        [(false, false), (false, true), (true, false), (true, true)].into_iter().enumerate()
    {
        let query = with(dnssec, cd);
        assert_eq!(get(&cache, &query, now), None);
        insert(&cache, &query, &positive(&query, &[a("example.org.", 60, u8::try_from(at).unwrap())]), now);
        let (got, _) = get(&cache, &query, now).unwrap();
        assert_eq!(got.answers[0].data, Rdata::A([192, 0, 2, u8::try_from(at).unwrap()].into()));
        assert_eq!((got.header.checking_disabled, got.edns.unwrap().dnssec_ok), (cd, dnssec));
    }
    // No OPT is no DO.
    let mut plain = with(false, false);
    plain.edns = None;
    assert!(get(&cache, &plain, now).is_some());
}

#[test]
fn rfc_2308_what_is_kept_of_denials_and_for_how_long() {
    let asked = || query(Rtype::A, "example.org.");
    #[rustfmt::skip]
    let rows = [
        // what, response, seconds it is kept
        ("the TTL of the SOA is less", negative(&asked(), Rcode::NXDOMAIN, Some(soa(60, 600))), 60_u64),
        ("its minimum is less", negative(&asked(), Rcode::NXDOMAIN, Some(soa(600, 60))), 60),
        ("no data", negative(&asked(), Rcode::NOERROR, Some(soa(600, 60))), 60),
        ("the bound for denials", negative(&asked(), Rcode::NXDOMAIN, Some(soa(90_000, 90_000))), 1800),
        ("the least", negative(&asked(), Rcode::NXDOMAIN, Some(soa(1, 1))), 5),
        ("§5: no SOA", negative(&asked(), Rcode::NXDOMAIN, None), 0),
        ("§5: no SOA, no data", negative(&asked(), Rcode::NOERROR, None), 0),
        ("zero is not kept", negative(&asked(), Rcode::NXDOMAIN, Some(soa(0, 60))), 0),
        ("RFC 9520: a failure", negative(&asked(), Rcode::SERVFAIL, None), 5),
        ("REFUSED", negative(&asked(), Rcode::REFUSED, None), 0),
        ("FORMERR", negative(&asked(), Rcode::FORMERR, None), 0),
        ("an answer", positive(&asked(), &[a("example.org.", 60, 1)]), 60),
        ("the least of several", positive(&asked(), &[a("example.org.", 60, 1), a("example.org.", 30, 2)]), 30),
        ("the bound for answers", positive(&asked(), &[a("example.org.", 90_000, 1)]), 3600),
        ("zero", positive(&asked(), &[a("example.org.", 0, 1)]), 0),
        ("RFC 2181 §8: the top bit", positive(&asked(), &[a("example.org.", 1 << 31, 1)]), 0),
    ];
    for (what, response, seconds) in rows {
        let (cache, start) = (cache(""), Instant::now());
        assert_eq!(insert(&cache, &asked(), &response, start), seconds > 0, "{what}");
        for (passed, there) in [(0, seconds > 0), (seconds.saturating_sub(1), seconds > 0), (seconds, false)]
        {
            let got = get(&cache, &asked(), after(start, passed));
            assert_eq!(got.is_some(), there, "{what} after {passed}");
            let Some((got, _)) = got else { continue };
            assert_eq!(got.header.rcode, response.header.rcode, "{what}");
            let ttls = got.answers.iter().chain(&got.authority).map(|record| u64::from(record.ttl));
            assert!(ttls.min().is_none_or(|ttl| ttl == seconds - passed), "{what} after {passed}: {got:?}");
        }
    }
}

#[test]
fn rfc_2308_no_name_holds_for_every_type_and_no_data_for_one() {
    let (cache, now) = (cache(""), Instant::now());
    let of = |rtype| query(rtype, "example.org.");
    insert(&cache, &of(Rtype::A), &negative(&of(Rtype::A), Rcode::NXDOMAIN, Some(soa(60, 60))), now);
    let (got, _) = get(&cache, &of(Rtype::AAAA), now).unwrap();
    assert_eq!((got.header.rcode, got.questions[0].rtype), (Rcode::NXDOMAIN, Rtype::AAAA));
    // Until the name is seen.
    insert(&cache, &of(Rtype::TXT), &negative(&of(Rtype::TXT), Rcode::NOERROR, Some(soa(60, 60))), now);
    assert_eq!(get(&cache, &of(Rtype::TXT), now).unwrap().0.header.rcode, Rcode::NOERROR);
    assert_eq!(get(&cache, &of(Rtype::AAAA), now), None);
    // An alias whose target does not exist is one for all other types only.
    let mut alias = negative(&of(Rtype::MX), Rcode::NXDOMAIN, Some(soa(60, 60)));
    alias.answers.push(Record::new(name("example.org."), 60, Rdata::Cname(name("none.example."))));
    insert(&cache, &of(Rtype::MX), &alias, now);
    assert_eq!(get(&cache, &of(Rtype::MX), now).unwrap().0.answers.len(), 1);
    assert_eq!(get(&cache, &of(Rtype::AAAA), now), None);
}

#[test]
fn what_is_not_the_answer_is_not_kept() {
    let (cache, now) = (cache("disable success a.example\ndisable denial b.example"), Instant::now());
    let asked = query(Rtype::A, "example.org.");
    let good = positive(&asked, &[a("example.org.", 60, 1)]);
    let mut truncated = good.clone();
    truncated.header.truncated = true;
    let mut other = good.clone();
    other.questions[0].name = name("example.net.");
    let mut typed = good.clone();
    typed.questions[0].rtype = Rtype::AAAA;
    let mut twice = good.clone();
    twice.questions.push(good.questions[0].clone());
    let mut unanswered = good.clone();
    unanswered.header.response = false;
    for (what, response) in
        [("TC", truncated), ("name", other), ("type", typed), ("two", twice), ("QR", unanswered)]
    {
        assert!(!insert(&cache, &asked, &response, now), "{what}");
    }
    let any = query(Rtype::ANY, "example.org.");
    assert!(!insert(&cache, &any, &positive(&any, &[a("example.org.", 60, 1)]), now), "ANY");
    for (under, success, denial) in [("x.a.example.", false, true), ("x.b.example.", true, false)] {
        let asked = query(Rtype::A, under);
        assert_eq!(insert(&cache, &asked, &positive(&asked, &[a(under, 60, 1)]), now), success, "{under}");
        let denied = negative(&asked, Rcode::NXDOMAIN, Some(soa(60, 60)));
        assert_eq!(insert(&cache, &asked, &denied, now), denial, "{under}");
    }
}

#[test]
fn rfc_8767_stale_answers() {
    let (cache, start) = (cache("serve_stale 1h verify"), Instant::now());
    let asked = query(Rtype::A, "example.org.");
    insert(&cache, &asked, &positive(&asked, &[a("example.org.", 60, 1)]), start);
    let over = after(start, 61);
    assert_eq!(get(&cache, &asked, over), None, "§5: upstream is asked first");
    let (got, hit) = find(&cache, &asked, over, true).unwrap();
    assert!(hit.stale);
    assert_eq!(got.answers[0].ttl, 30, "§4");
    assert_eq!(got.edns.unwrap().options, [EdnsOption::Error(ede::STALE_ANSWER, "".into())]);
    // After a failure it is given at once for a while, and the failure is not what is remembered.
    assert!(!insert(&cache, &asked, &negative(&asked, Rcode::SERVFAIL, None), over));
    assert!(get(&cache, &asked, after(over, 29)).unwrap().1.stale);
    assert_eq!(get(&cache, &asked, after(over, 30)), None);
    assert_eq!(find(&cache, &asked, after(start, 60 + 3600), true), None, "too old");
    assert_eq!(cache.counters().served_stale.load(Relaxed), 2);
    // A denial that is stale says so.
    let gone = query(Rtype::A, "none.example.org.");
    insert(&cache, &gone, &negative(&gone, Rcode::NXDOMAIN, Some(soa(60, 60))), start);
    let (got, _) = find(&cache, &gone, over, true).unwrap();
    assert_eq!(got.edns.unwrap().options, [EdnsOption::Error(ede::STALE_NXDOMAIN, "".into())]);
}

#[test]
fn stale_answers_at_once_and_renewed() {
    let (cache, start) = (cache("serve_stale"), Instant::now());
    let asked = query(Rtype::A, "example.org.");
    insert(&cache, &asked, &positive(&asked, &[a("example.org.", 60, 1)]), start);
    let over = after(start, 61);
    let hit = |now| get(&cache, &asked, now).unwrap().1;
    assert_eq!(hit(over), Hit { stale: true, renew: true, rcode: Rcode::NOERROR });
    assert!(!hit(over).renew, "one renews it, not all");
    assert!(hit(after(over, 5)).renew, "unless that came to nothing");
    insert(&cache, &asked, &positive(&asked, &[a("example.org.", 60, 2)]), after(over, 6));
    assert!(!hit(after(over, 7)).stale);
}

#[test]
fn a_remembered_failure_says_so() {
    let (cache, now) = (cache("servfail 10s"), Instant::now());
    let asked = query(Rtype::A, "example.org.");
    assert!(insert(&cache, &asked, &negative(&asked, Rcode::SERVFAIL, None), now));
    let (got, hit) = get(&cache, &asked, after(now, 9)).unwrap();
    assert_eq!((got.header.rcode, hit.rcode), (Rcode::SERVFAIL, Rcode::SERVFAIL));
    assert_eq!(got.edns.unwrap().options, [EdnsOption::Error(ede::CACHED_ERROR, "".into())]);
    assert_eq!(get(&cache, &asked, after(now, 10)), None);
    // Other types are not concerned.
    assert_eq!(get(&cache, &query(Rtype::AAAA, "example.org."), now), None);
}

#[test]
fn what_is_asked_for_often_is_renewed_before_its_end() {
    let (cache, start) = (cache("prefetch 3 1m 10%"), Instant::now());
    let asked = query(Rtype::A, "example.org.");
    insert(&cache, &asked, &positive(&asked, &[a("example.org.", 100, 1)]), start);
    let renew = |seconds| get(&cache, &asked, after(start, seconds)).unwrap().1.renew;
    assert_eq!([30, 60, 89].map(renew), [false; 3], "not near its end");
    assert_eq!([90, 91, 94].map(renew), [true, false, false], "once");
    cache.put_off(&Asked::of(&asked, MAX_MESSAGE).unwrap());
    assert!(renew(90), "unless it is put off");
    assert!(renew(95), "and once more, if that came to nothing");
    assert_eq!(cache.counters().prefetches.load(Relaxed), 3);
    // After a pause, hits count anew.
    insert(&cache, &asked, &positive(&asked, &[a("example.org.", 1000, 1)]), start);
    assert_eq!([1, 2, 3, 901, 902].map(renew), [false; 5]);
    assert!(renew(903));
}

#[test]
fn the_opt_record_may_be_the_callers() {
    let (cache, now) = (cache("servfail 10s"), Instant::now());
    let asked = query(Rtype::A, "example.org.");
    let mut whole = asked.response(Rcode::NOERROR);
    whole.questions.clear();
    let cookie = EdnsOption::Other(65_001, Box::new([1, 2, 3]));
    whole.edns = Some(Edns { udp_size: 1400, options: vec![cookie.clone()], ..Edns::default() });
    let opt = whole.to_bytes().split_off(crate::wire::HEADER);
    let with_opt = || Asked { opt: &opt, ..Asked::of(&asked, MAX_MESSAGE).unwrap() };
    let get = || {
        let mut out = Vec::new();
        cache.answer(&with_opt(), now, false, &mut out).unwrap();
        Message::parse(&out).unwrap().edns.unwrap()
    };
    insert(&cache, &asked, &negative(&asked, Rcode::SERVFAIL, None), now);
    assert_eq!(get().options, [cookie.clone(), EdnsOption::Error(ede::CACHED_ERROR, "".into())]);
    insert(&cache, &asked, &positive(&asked, &[a("example.org.", 60, 1)]), now);
    assert_eq!((get().options, get().udp_size), (vec![cookie], 1400));
}

#[test]
fn addresses_take_turns() {
    let (cache, now) = (cache(""), Instant::now());
    let asked = query(Rtype::A, "www.example.org.");
    let records: Vec<_> = (1..=3).map(|last| a("x.example.org.", 60, last)).collect();
    let alias = Record::new(name("www.example.org."), 60, Rdata::Cname(name("x.example.org.")));
    insert(&cache, &asked, &positive(&asked, &[std::slice::from_ref(&alias), &records].concat()), now);
    let mut first = Vec::new();
    for _ in 0..3 {
        let (got, _) = get(&cache, &asked, now).unwrap();
        assert_eq!(got.answers[0], alias);
        assert!(records.iter().all(|record| got.answers.contains(record)), "{got:?}");
        first.push(got.answers[1].clone());
    }
    assert!(records.iter().all(|record| first.contains(record)), "{first:?}");
}

#[test]
fn what_is_too_large_for_the_client_is_cut() {
    let (cache, now) = (cache(""), Instant::now());
    let asked = query(Rtype::A, "example.org.");
    let records: Vec<_> = (0..100).map(|last| a("example.org.", 60, last)).collect();
    insert(&cache, &asked, &positive(&asked, &records), now);
    for limit in [100, 512, 1232, MAX_MESSAGE] {
        let mut out = Vec::new();
        cache.answer(&Asked::of(&asked, limit).unwrap(), now, false, &mut out).unwrap();
        let got = Message::parse(&out).unwrap();
        assert!(out.len() <= limit);
        assert_eq!(got.header.truncated, limit < 1700, "{limit}");
        assert!(got.edns.is_some() && !got.answers.is_empty());
    }
}

#[test]
fn times_are_shown_as_they_came_if_asked_for() {
    let (cache, start) = (cache("keepttl"), Instant::now());
    let asked = query(Rtype::A, "example.org.");
    insert(&cache, &asked, &positive(&asked, &[a("example.org.", 60, 1)]), start);
    assert_eq!(get(&cache, &asked, after(start, 50)).unwrap().0.answers[0].ttl, 60);
    assert_eq!(get(&cache, &asked, after(start, 60)), None);
    cache.clear();
    assert_eq!(cache.size(), (0, 0));
}
