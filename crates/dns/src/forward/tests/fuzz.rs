//! Answers that were damaged on the way, by chance that is the same each time.

use super::*;

/// Some bytes changed, cut or added.
fn damage(packet: &[u8], dice: &Dice) -> Vec<u8> {
    let mut packet = packet.to_vec();
    #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
    let at = |length: usize| dice() as usize % length.max(1);
    for _ in 0..=at(6) {
        match at(4) {
            0 => packet.truncate(at(packet.len() + 1)),
            1 => packet.insert(at(packet.len() + 1), dice().to_be_bytes()[0]),
            2 => packet.extend(dice().to_be_bytes()),
            _ => {
                let (place, length) = (at(packet.len()), packet.len());
                if length > 0 {
                    packet[place] ^= 1 << at(8);
                }
            }
        }
    }
    packet
}

#[tokio::test]
async fn damaged_answers_are_never_somebody_elses() {
    for (family, by_stream) in [(IpFamily::V4, false), (IpFamily::V6, false), (IpFamily::V4, true)] {
        let chance = dice(7);
        let server = Server::start(family, move |heard| {
            let answer = good(heard);
            let damaged = damage(&answer.to_bytes(), &chance);
            vec![Say::Raw(damaged.clone()), Say::Raw(damage(&damaged, &chance)), Say::Answer(answer)]
        })
        .await;
        let forwarder = forwarder(&[server.at], |settings| {
            settings.force_tcp = by_stream;
            settings.max_fails = 0;
        });
        for at in 0..300 {
            let asked = query(&format!("a{at}.example.test."), Rtype::A);
            // What was damaged in its flags or records only is an answer all the same.
            if let Ok(answer) = forwarder.ask(&asked).await {
                assert_eq!((answer.header.id, &answer.questions), (asked.header.id, &asked.questions));
                assert_eq!(Message::parse(&answer.to_bytes()).unwrap().questions, asked.questions);
            }
        }
        assert!(is_good(&good(&server.heard()[0]), b'a'));
    }
}
