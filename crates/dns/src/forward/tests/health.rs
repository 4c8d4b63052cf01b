//! Upstreams that die and return.

use super::*;

/// A place where nobody is.
async fn nowhere(family: IpFamily) -> SocketAddr {
    Server::start(family, |_| Vec::new()).await.at
}

#[tokio::test]
async fn a_dead_upstream_costs_no_answer_in_either_family() {
    for family in IpFamily::BOTH {
        let fine = Server::start(family.other(), |heard| vec![Say::Answer(good(heard))]).await;
        // One whose host says so, and one that is silent.
        let silent = Server::start(family, |_| Vec::new()).await;
        for dead in [nowhere(family).await, silent.at] {
            let forwarder = forwarder(&[dead, fine.at], |_| ());
            for at in 0..4 {
                let answer = forwarder.ask(&query(&format!("a{at}.test."), Rtype::A)).await.unwrap();
                assert!(is_good(&answer, b'a'));
            }
            eventually("who is silent is down", || forwarder.upstreams()[0].fails() >= 2).await;
            // It is asked no more, but by probes.
            let before = forwarder.upstreams()[0].counters().requests.load(Relaxed);
            for at in 0..4 {
                forwarder.ask(&query(&format!("b{at}.test."), Rtype::A)).await.unwrap();
            }
            assert_eq!(forwarder.upstreams()[0].counters().requests.load(Relaxed), before);
            eventually("it is probed", || {
                forwarder.upstreams()[0].counters().health_failures.load(Relaxed) > 0
            })
            .await;
        }
    }
}

#[tokio::test]
async fn who_returns_is_asked_again() {
    let at = nowhere(IpFamily::V6).await;
    let fine = Server::start(IpFamily::V4, |heard| vec![Say::Answer(good(heard))]).await;
    let forwarder = forwarder(&[at, fine.at], |settings| settings.health_domain = "probe.test.".to_owned());
    for text in ["a.test.", "b.test."] {
        forwarder.ask(&query(text, Rtype::A)).await.unwrap();
    }
    eventually("it is down", || forwarder.upstreams()[0].fails() >= 2).await;
    let returned = Server::start_at(at, |heard| vec![Say::Answer(good(heard))]).await;
    eventually("it is back", || forwarder.upstreams()[0].fails() == 0).await;
    let probe = &returned.heard()[0].query;
    assert_eq!(
        (probe.questions[0].name.to_string().to_lowercase().as_str(), probe.questions[0].rtype),
        ("probe.test.", Rtype::NS)
    );
    let before = fine.heard().len();
    assert!(is_good(&forwarder.ask(&query("c.test.", Rtype::A)).await.unwrap(), b'c'));
    assert_eq!(fine.heard().len(), before, "it is the first in line again");
}

#[tokio::test]
async fn when_all_are_down_they_are_asked_unless_that_is_to_fail_at_once() {
    let at = nowhere(IpFamily::V4).await;
    let patient = forwarder(&[at], |settings| settings.health_check = Duration::from_secs(3600));
    let hasty = forwarder(&[at], |settings| {
        settings.health_check = Duration::from_secs(3600);
        settings.fail_fast = true;
    });
    for forwarder in [&patient, &hasty] {
        let failed = forwarder.ask(&query("a.test.", Rtype::A)).await;
        assert!(
            matches!(&failed, Err(ForwardError::NoAnswer(why)) if why.contains(&at.to_string())),
            "{failed:?}"
        );
    }
    let _returned = Server::start_at(at, |heard| vec![Say::Answer(good(heard))]).await;
    assert_eq!(hasty.ask(&query("b.test.", Rtype::A)).await, Err(ForwardError::AllDown));
    assert!(is_good(&patient.ask(&query("b.test.", Rtype::A)).await.unwrap(), b'b'));
    assert_eq!(patient.upstreams()[0].fails(), 0);
}

#[tokio::test]
async fn a_lost_packet_is_sent_again() {
    let server = Server::start(IpFamily::V6, |heard| match heard.before {
        0 => Vec::new(),
        _ => vec![Say::Answer(good(heard))],
    })
    .await;
    let forwarder = forwarder(&[server.at], |_| ());
    assert!(is_good(&forwarder.ask(&query("a.test.", Rtype::A)).await.unwrap(), b'a'));
    let heard = server.heard();
    assert_eq!(heard.len(), 2);
    assert_ne!(heard[0].query.header.id, heard[1].query.header.id, "each time with an identifier of its own");
}

#[tokio::test]
async fn silence_ends() {
    let server = Server::start(IpFamily::V4, |_| Vec::new()).await;
    let forwarder = forwarder(&[server.at], |settings| settings.max_fails = 0);
    let failed = forwarder.ask(&query("a.test.", Rtype::A)).await;
    assert!(matches!(failed, Err(ForwardError::NoAnswer(_))), "{failed:?}");
    assert!(server.heard().len() > 1);
    assert!(!forwarder.upstreams()[0].candidate(forwarder.config()).down, "max_fails 0 is never down");
}
