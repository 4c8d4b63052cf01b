//! The cache in its place: hits without waiting, stale answers, renewal.

use std::sync::atomic::AtomicU64;

use super::*;
use crate::forward::tests::eventually;

fn quick(chain: &Chain, asked: &Message) -> Option<(Message, Hit)> {
    let mut out = Vec::new();
    let hit = chain.quick(&Asked::of(asked, MAX_MESSAGE).unwrap(), Instant::now(), &mut out)?;
    Some((Message::parse(&out).unwrap(), hit))
}

#[tokio::test]
async fn what_is_remembered_needs_no_waiting() {
    let server = upstream().await;
    let chain = chain(&format!(
        "forward . {}\ncache\nhosts /dev/null {{\n192.0.2.1 h.test\nfallthrough\n}}\nrewrite name r.test a.test",
        server.at
    ));
    let asked = query("A.test.", Rtype::A);
    assert_eq!(quick(&chain, &asked), None);
    let slow = chain.answer(&asked, POD).await;
    let (fast, _) = quick(&chain, &asked).unwrap();
    assert_eq!(fast.to_bytes(), slow.to_bytes());
    // The name that is not there, for every type.
    ask(&chain, Rtype::A, "gone.test.").await;
    assert_eq!(quick(&chain, &query("gone.test.", Rtype::TXT)).unwrap().1.rcode, Rcode::NXDOMAIN);
    // What others have a say in is theirs.
    for text in ["h.test.", "r.test."] {
        ask(&chain, Rtype::A, text).await;
        assert_eq!(quick(&chain, &query(text, Rtype::A)), None, "{text}");
        assert!(chain.overrides(parsed(text).as_wire(), Rtype::A), "{text}");
    }
    assert!(!chain.overrides(parsed("a.test.").as_wire(), Rtype::A));
    assert_eq!(server.heard().len(), 2);
}

#[tokio::test]
async fn stale_answers_when_upstream_fails_or_is_slow() {
    // 0 is good, 1 fails, 2 waits.
    let mood = Arc::new(AtomicU64::new(0));
    let now = mood.clone();
    let server = Server::start(IpFamily::V6, move |heard| match now.load(Relaxed) {
        0 => {
            let mut answer = good(heard);
            answer.answers[0].ttl = 1;
            vec![Say::Answer(answer)]
        }
        1 => vec![Say::Answer(heard.query.response(Rcode::SERVFAIL))],
        _ => Vec::new(),
    })
    .await;
    let chain =
        chain(&format!("forward . {}\ncache {{\nsuccess 1000 1 0\nserve_stale 1h verify\n}}", server.at));
    let mut with_opt = query("a.test.", Rtype::A);
    with_opt.edns = Some(Edns::default());
    for (bad, name) in [(1, "a.test."), (2, "b.test.")] {
        mood.store(0, Relaxed);
        let asked = Message { questions: query(name, Rtype::A).questions, ..with_opt.clone() };
        let fresh = chain.answer(&asked, POD).await;
        assert_eq!(fresh.edns.as_ref().unwrap().options, []);
        mood.store(bad, Relaxed);
        eventually("its time is over", || quick(&chain, &asked).is_none()).await;
        let stale = chain.answer(&asked, POD).await;
        assert_eq!(stale.answers[0].data, fresh.answers[0].data, "{name}");
        assert_eq!(stale.edns.unwrap().options, [EdnsOption::Error(ede::STALE_ANSWER, "".into())], "{name}");
    }
    // The failure is known, so that the old answer is given at once.
    assert!(
        quick(&chain, &Message { questions: query("a.test.", Rtype::A).questions, ..with_opt })
            .unwrap()
            .1
            .stale
    );
}

#[tokio::test]
async fn what_is_stale_is_renewed_behind_the_clients_back() {
    let server = Server::start(IpFamily::V4, |heard| {
        let mut answer = good(heard);
        answer.answers[0].ttl = if heard.before == 0 { 1 } else { 3600 };
        vec![Say::Answer(answer)]
    })
    .await;
    let chain = chain(&format!("forward . {}\ncache {{\nsuccess 1000 3600 0\nserve_stale 1h\n}}", server.at));
    let asked = query("a.test.", Rtype::A);
    chain.answer(&asked, POD).await;
    eventually("its time is over", || {
        // It is looked at from outside: a hit would have it renewed.
        let hit = quick(&chain, &asked).unwrap().1;
        if hit.renew {
            chain.renew(asked.clone());
        }
        hit.stale
    })
    .await;
    eventually("it is new", || !quick(&chain, &asked).unwrap().1.stale).await;
    assert_eq!(server.heard().len(), 2);
}

#[tokio::test]
async fn without_a_cache_each_query_goes_out() {
    let server = upstream().await;
    let chain = chain(&format!("forward . {}", server.at));
    for _ in 0..3 {
        assert_eq!(text(&ask(&chain, Rtype::A, "a.test.").await), "192.0.2.97");
    }
    assert_eq!(server.heard().len(), 3);
    assert_eq!(quick(&chain, &query("a.test.", Rtype::A)), None);
}
