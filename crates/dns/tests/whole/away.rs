//! The API is away for long, while queries go on.

use std::time::{Duration, Instant};

use dyad_dns::wire::{Rcode, Rtype};

use crate::api::Fake;
use crate::lab::{CLUSTER, Lab, addresses};

#[test]
fn names_stay_while_the_api_is_away_and_change_when_it_is_back() {
    let api = Fake::new();
    api.service("web", &["10.96.0.1", "fd00:10:96::1"]);
    api.service("old", &["10.96.0.2"]);
    let lab = Lab::start(CLUSTER, Some(&api));
    let (web, old, new) = (
        "web.default.svc.cluster.local.",
        "old.default.svc.cluster.local.",
        "new.default.svc.cluster.local.",
    );
    lab.until(web, Rtype::A, |answer| addresses(answer) == ["10.96.0.1"]);

    api.set_away(true);
    // What happens meanwhile is not seen as it happens.
    api.service("web", &["10.96.0.9", "fd00:10:96::9"]);
    api.remove("services", "old");
    api.service("new", &["10.96.0.3"]);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(addresses(&lab.ask(web, Rtype::A)), ["10.96.0.1"]);
        assert_eq!(addresses(&lab.ask(old, Rtype::A)), ["10.96.0.2"]);
        assert_eq!(lab.ask(new, Rtype::A).header.rcode, Rcode::NXDOMAIN);
    }
    let attempts = api.refused();
    assert!((3..200).contains(&attempts), "it is asked for, and not all the time: {attempts} times");

    api.set_away(false);
    // The longest wait between two attempts is five seconds.
    lab.until(web, Rtype::A, |answer| addresses(answer) == ["10.96.0.9"]);
    lab.until(old, Rtype::A, |answer| answer.header.rcode == Rcode::NXDOMAIN);
    lab.until(new, Rtype::A, |answer| addresses(answer) == ["10.96.0.3"]);
}

#[test]
fn without_an_api_from_the_beginning_nothing_is_denied() {
    let api = Fake::new();
    api.service("web", &["10.96.0.1"]);
    api.set_away(true);
    let lab = Lab::start(CLUSTER, Some(&api));
    let web = "web.default.svc.cluster.local.";
    for _ in 0..100 {
        // An NXDOMAIN would be remembered by clients.
        assert_eq!(lab.ask(web, Rtype::A).header.rcode, Rcode::SERVFAIL);
    }
    api.set_away(false);
    lab.until(web, Rtype::A, |answer| addresses(answer) == ["10.96.0.1"]);
}
