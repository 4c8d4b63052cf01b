//! What is not believed, and what servers do that is not by the book.

use super::*;
use crate::wire::{Cookie, Edns, EdnsOption, Opcode};

#[tokio::test]
async fn forged_answers_are_not_believed() {
    for family in IpFamily::BOTH {
        let server = Server::start(family, |heard| {
            let forged = |change: &dyn Fn(&mut Message)| {
                let mut answer = heard.query.response(Rcode::NOERROR);
                answer.answers.push(Record::new(
                    heard.query.questions[0].name.clone(),
                    60,
                    Rdata::A([6, 6, 6, 6].into()),
                ));
                change(&mut answer);
                answer
            };
            vec![
                Say::FromElsewhere(forged(&|_| ())),
                Say::Answer(forged(&|answer| answer.header.id ^= 1)),
                Say::Answer(forged(&|answer| answer.questions[0].name = "other.test.".parse().unwrap())),
                Say::Answer(forged(&|answer| answer.questions[0].rtype = Rtype::AAAA)),
                Say::Answer(forged(&|answer| answer.header.response = false)),
                Say::Answer(forged(&|answer| answer.header.opcode = Opcode::NOTIFY)),
                Say::Raw(forged(&|_| ()).to_bytes()[..25].to_vec()),
                Say::Raw(vec![0; 3]),
                Say::Answer(good(heard)),
            ]
        })
        .await;
        let forwarder = forwarder(&[server.at], |_| ());
        let answer = forwarder.ask(&query("a.test.", Rtype::A)).await.unwrap();
        assert!(is_good(&answer, b'a'), "{answer:?}");
        assert_eq!(
            forwarder.upstreams()[0].counters().bogus.load(Relaxed),
            7,
            "the one from elsewhere is not even seen"
        );
    }
}

#[tokio::test]
async fn who_guesses_too_often_is_not_listened_to() {
    // The case of letters is guessed, or there are too many guesses: then only a connection will do.
    let server = Server::start(IpFamily::V6, |heard| {
        let mut forged = good(heard);
        forged.answers[0].data = Rdata::A([6, 6, 6, 6].into());
        match heard.by {
            By::Tcp(_) => vec![Say::Answer(good(heard))],
            By::Udp if is_good(&good(heard), b'a') => {
                forged.questions[0].name = forged.questions[0].name.to_lowercase();
                vec![Say::Answer(forged)]
            }
            By::Udp => {
                forged.header.id ^= 1;
                vec![Say::Answer(forged); 50]
            }
        }
    })
    .await;
    let forwarder = forwarder(&[server.at], |_| ());
    for text in ["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.test.", "b.test."] {
        let answer = forwarder.ask(&query(text, Rtype::A)).await.unwrap();
        assert!(is_good(&answer, text.as_bytes()[0]), "{answer:?}");
    }
    assert!(server.heard().iter().any(|heard| matches!(heard.by, By::Tcp(_))));
}

#[tokio::test]
async fn truncated_answers_are_asked_for_again_over_tcp() {
    for family in IpFamily::BOTH {
        let server = Server::start(family, |heard| {
            let mut answer = good(heard);
            answer.header.truncated = heard.by == By::Udp;
            if heard.by == By::Udp {
                answer.answers.clear();
            }
            vec![Say::Answer(answer)]
        })
        .await;
        let forwarder = forwarder(&[server.at], |_| ());
        for text in ["a.test.", "aa.test."] {
            assert!(is_good(&forwarder.ask(&query(text, Rtype::A)).await.unwrap(), b'a'));
        }
        let by: Vec<_> = server.heard().iter().map(|heard| heard.by).collect();
        assert_eq!(by, [By::Udp, By::Tcp(0), By::Udp, By::Tcp(0)], "RFC 7766 §6.2.1: over one connection");
        assert_eq!(forwarder.upstreams()[0].counters().truncated.load(Relaxed), 2);
    }
}

#[tokio::test]
async fn rfc_6891_7_servers_without_edns() {
    let server = Server::start(IpFamily::V4, |heard| {
        if heard.query.edns.is_none() {
            return vec![Say::Answer(good(heard))];
        }
        // With the question, or with nothing at all.
        let mut answer = heard.query.response(Rcode::FORMERR);
        if heard.before == 0 {
            answer.questions.clear();
        }
        vec![Say::Answer(answer)]
    })
    .await;
    let forwarder = forwarder(&[server.at], |_| ());
    for text in ["a.test.", "b.test."] {
        assert!(is_good(&forwarder.ask(&query(text, Rtype::A)).await.unwrap(), text.as_bytes()[0]));
    }
    assert_eq!(server.heard().len(), 3, "it is remembered");
}

#[tokio::test]
async fn rfc_7873_cookies() {
    let with = |heard: &Heard, server: &[u8], rcode| {
        let mut answer = good(heard);
        let client = heard.query.edns.as_ref().and_then(Edns::cookie).unwrap().client;
        let cookie = EdnsOption::Cookie(Cookie { client, server: server.into() });
        answer.header.rcode = rcode;
        answer.edns = Some(Edns { udp_size: 1232, options: vec![cookie], ..Edns::default() });
        answer
    };
    // It takes its cookie only, and from the fourth query on a new one each time.
    let server = Server::start(IpFamily::V6, move |heard| {
        if let By::Tcp(_) = heard.by {
            return vec![Say::Answer(good(heard))];
        }
        let known = heard.query.edns.as_ref().and_then(Edns::cookie).unwrap().server.clone();
        vec![Say::Answer(match heard.before {
            ..3 if *known == [9; 8] => with(heard, &[9; 8], Rcode::NOERROR),
            ..3 => with(heard, &[9; 8], Rcode::BADCOOKIE),
            n => with(heard, &[u8::try_from(n).unwrap(); 8], Rcode::BADCOOKIE),
        })]
    })
    .await;
    let forwarder = forwarder(&[server.at], |_| ());
    for text in ["a.test.", "b.test.", "c.test."] {
        let answer = forwarder.ask(&query(text, Rtype::A)).await.unwrap();
        assert!(is_good(&answer, text.as_bytes()[0]) && answer.header.rcode == Rcode::NOERROR, "{answer:?}");
    }
    let by: Vec<_> = server.heard().iter().map(|heard| heard.by).collect();
    assert_eq!(by, [By::Udp, By::Udp, By::Udp, By::Udp, By::Udp, By::Tcp(0)]);
}
