//! Whatever comes from upstream: what is kept of it is what it says, or it is not kept.

use proptest::prelude::*;

use super::*;
use crate::wire::Section;
use crate::wire::tests::{any_name, any_record};

fn any_response() -> impl Strategy<Value = Message> {
    let records = || prop::collection::vec(any_record(), 0..5);
    let rcode = prop::sample::select(vec![Rcode::NOERROR, Rcode::NXDOMAIN, Rcode::SERVFAIL]);
    let rtype = prop::sample::select(vec![Rtype::A, Rtype::TXT, Rtype::SRV]);
    (any_name(), rtype, rcode, [records(), records(), records()], 1..=i32::MAX as u32).prop_map(
        |(name, rtype, rcode, [answers, authority, additional], ttl)| {
            let query = Message::new(Header::query(1), Some(Question::new(name, rtype)));
            let mut response = query.response(rcode);
            (response.answers, response.authority, response.additional) = (answers, authority, additional);
            response.authority.push(soa(ttl, ttl));
            for section in Section::ALL {
                response.section_mut(section).iter_mut().for_each(|record| record.ttl = ttl);
            }
            response
        },
    )
}

proptest! {
    #[test]
    fn what_is_kept_is_what_was_said(response in any_response(), later in 0..5_u64) {
        let (cache, start) = (cache("bytes 8MiB"), Instant::now());
        let mut asked = Message::new(Header::query(9), response.question().cloned());
        asked.questions[0].name = asked.questions[0].name.to_lowercase();
        if !insert(&cache, &asked, &response, start) {
            return Ok(());
        }
        let (got, _) = get(&cache, &asked, after(start, later.min(4))).expect("it was kept");
        prop_assert_eq!(&got.questions, &asked.questions);
        prop_assert_eq!(got.header.rcode, response.header.rcode);
        let texts = |message: &Message| {
            let text = |section| {
                let records = message.section(section).iter();
                // Addresses take turns.
                let mut texts: Vec<_> = records.map(|record| format!("{:?} {:?}", record.name.to_lowercase(), record.data).to_lowercase()).collect();
                texts.sort();
                texts
            };
            Section::ALL.map(text)
        };
        prop_assert_eq!(texts(&got), texts(&response));
    }

    /// Bytes that were changed on the way and still are a message.
    #[test]
    fn damaged_responses(response in any_response(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let cache = cache("");
        let mut packet = response.to_bytes();
        for (at, byte) in damage {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        let asked = Message::new(Header::query(9), response.question().cloned());
        if let Ok(damaged) = Message::parse(&packet) {
            let now = Instant::now();
            insert(&cache, &asked, &damaged, now);
            if let Some((got, _)) = get(&cache, &asked, now) {
                prop_assert_eq!(&got.questions, &asked.questions);
            }
        }
    }
}
