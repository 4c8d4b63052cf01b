//! DNS64 in its place.

use super::*;

fn asked(server: &Server) -> Vec<String> {
    let text = |heard: &Heard| {
        let question = &heard.query.questions[0];
        format!("{} {}", question.rtype, question.name.to_string().to_lowercase())
    };
    server.heard().iter().map(text).collect()
}

#[tokio::test]
async fn a15_through_the_whole_chain() {
    let server = upstream().await;
    let chain = chain(&format!(
        "kubernetes cluster.local\nforward . {}\ncache\ndns64 64:ff9b:1:fffe::/96\nhosts /dev/null {{\n192.0.2.1 h.test\nfallthrough\n}}\ntemplate IN AAAA t.test",
        server.at
    ));
    #[rustfmt::skip]
    let rows = [
        (Rtype::AAAA, "a.test.",     "64:ff9b:1:fffe::c000:261", &["AAAA a.test.", "A a.test."][..]),
        (Rtype::A,    "a.test.",     "192.0.2.97", &[]),
        (Rtype::AAAA, "a.test.",     "64:ff9b:1:fffe::c000:261", &[]),
        // No name has no address of any kind, and is asked for once.
        (Rtype::AAAA, "gone.test.",  "NXDOMAIN", &["AAAA gone.test."]),
        (Rtype::TXT,  "a.test.",     "NOERROR", &["TXT a.test."]),
        (Rtype::AAAA, "h.test.",     "64:ff9b:1:fffe::c000:201", &[]),
        (Rtype::AAAA, "t.test.",     "NOERROR", &[]),
        (Rtype::AAAA, "ext.default.svc.cluster.local.", "ext.default.svc.cluster.local.=a.test. 64:ff9b:1:fffe::c000:261", &[]),
        (Rtype::AAAA, "web.default.svc.cluster.local.", "NOERROR", &[]),
        (Rtype::AAAA, "ipv4only.arpa.", "64:ff9b:1:fffe::c000:aa 64:ff9b:1:fffe::c000:ab", &[]),
        (Rtype::PTR,  "1.0.2.0.0.0.0.c.0.0.0.0.0.0.0.0.e.f.f.f.1.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa.",
            "1.0.2.0.0.0.0.c.0.0.0.0.0.0.0.0.e.f.f.f.1.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa.=1.2.0.192.in-addr.arpa. h.test.", &[]),
        (Rtype::PTR,  "1.0.0.7.0.0.0.f.0.0.0.0.0.0.0.0.e.f.f.f.1.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa.", "NXDOMAIN", &[]),
    ];
    for (rtype, name, want, out) in rows {
        let before = asked(&server).len();
        assert_eq!(text(&ask(&chain, rtype, name).await), want, "{rtype} {name}");
        assert_eq!(asked(&server)[before..], *out, "{rtype} {name}");
    }
    // Who comes by IPv4 gets what there is.
    let aaaa = query("a.test.", Rtype::AAAA);
    assert_eq!(text(&chain.answer(&aaaa, [10, 0, 0, 1].into()).await), "NOERROR");
    // So does who validates.
    let mut checking = aaaa.clone();
    checking.header.checking_disabled = true;
    checking.edns = Some(Edns { dnssec_ok: true, ..Edns::default() });
    assert_eq!(text(&chain.answer(&checking, POD).await), "NOERROR");
    assert!(chain.synthesised() > 0);
}

/// A cache in front of DNS64, on a node, knows no prefix.
#[tokio::test]
async fn prefixes_of_others_are_told() {
    let prefix: Pref64 = "64:ff9b:1:fffe::/96".parse().unwrap();
    let server = Server::start(IpFamily::V6, move |heard| {
        let mut answer = known(heard);
        let question = &heard.query.questions[0];
        if question.rtype == Rtype::AAAA {
            let ip = Rdata::Aaaa(prefix.embed([192, 0, 0, 170].into()));
            answer.answers.push(Record::new(question.name.clone(), 60, ip));
            answer.authority.clear();
        }
        vec![Say::Answer(answer)]
    })
    .await;
    let chain = chain(&format!("forward . {}\ncache", server.at));
    #[rustfmt::skip]
    let rows = [
        (Rtype::AAAA, "ipv4only.arpa.",   "64:ff9b:1:fffe::c000:aa"),
        (Rtype::A,    "ipv4only.arpa.",   "192.0.0.170 192.0.0.171"),
        (Rtype::AAAA, "x.ipv4only.arpa.", "NXDOMAIN"),
    ];
    for (rtype, name, want) in rows {
        assert_eq!(text(&ask(&chain, rtype, name).await), want, "{rtype} {name}");
    }
    assert_eq!(asked(&server), ["AAAA ipv4only.arpa."]);
}

#[tokio::test]
async fn services_and_namespaces() {
    let server = upstream().await;
    let with = |options: &str| {
        chain(&format!(
            "kubernetes cluster.local\nforward . {}\ndns64 {{\nprefix 64:ff9b:1:fffe::/96\n{options}\n}}",
            server.at
        ))
    };
    let web = "web.default.svc.cluster.local.";
    assert_eq!(text(&ask(&with("cluster_zones"), Rtype::AAAA, web).await), "64:ff9b:1:fffe::a60:1");
    assert_eq!(
        text(&ask(&with("namespaces default"), Rtype::AAAA, "a.test.").await),
        "64:ff9b:1:fffe::c000:261"
    );
    assert_eq!(text(&ask(&with("namespaces other"), Rtype::AAAA, "a.test.").await), "NOERROR");
    assert_eq!(text(&ask(&with("except_namespaces default"), Rtype::AAAA, "a.test.").await), "NOERROR");
}

#[tokio::test]
async fn a_translator_that_is_down_is_not_led_to() {
    let server = upstream().await;
    let text_ = format!(
        ". {{\nforward . {}\ndns64 {{\nprefix 64:ff9b:1:fffe::/96\nprefix 2001:db8::/32\n}}\n}}",
        server.at
    );
    let parsed = Corefile::parse("Corefile", &text_, &Disk::default()).unwrap();
    let up: Arc<Mutex<Vec<Pref64>>> = Arc::default();
    let known = up.clone();
    let usable = Arc::new(move |prefix| known.lock().unwrap().contains(&prefix));
    let chain = Arc::new(Chain::new(&parsed.servers[0], World { usable, ..world() }, None).unwrap());
    for (now_up, want) in [
        (vec![], "NOERROR"),
        (vec!["2001:db8::/32"], "2001:db8:c000:261::"),
        (vec!["64:ff9b:1:fffe::/96", "2001:db8::/32"], "64:ff9b:1:fffe::c000:261 2001:db8:c000:261::"),
    ] {
        *up.lock().unwrap() = now_up.iter().map(|prefix| prefix.parse().unwrap()).collect();
        assert_eq!(text(&ask(&chain, Rtype::AAAA, "a.test.").await), want);
    }
}

#[tokio::test]
async fn only_what_nothing_is_made_of_is_given_at_once() {
    let server = Server::start(IpFamily::V4, |heard| {
        let mut answer = known(heard);
        let question = &heard.query.questions[0];
        if question.rtype == Rtype::AAAA && question.name == parsed("both.test.") {
            answer.authority.clear();
            answer.answers.push(Record::new(
                question.name.clone(),
                3,
                Rdata::Aaaa("2001:db8::1".parse().unwrap()),
            ));
        }
        vec![Say::Answer(answer)]
    })
    .await;
    let chain = chain(&format!("forward . {}\ncache {{\nprefetch 1 1h 90%\n}}\ndns64", server.at));
    let quick = |rtype, text: &str| {
        let (asked, mut out) = (query(text, rtype), Vec::new());
        chain.quick(&Asked::of(&asked, MAX_MESSAGE).unwrap(), Instant::now(), &mut out).is_some()
    };
    for (rtype, text, want) in [
        (Rtype::A, "v4.test.", true),
        (Rtype::AAAA, "v4.test.", false),
        (Rtype::AAAA, "both.test.", true),
        (Rtype::AAAA, "gone.test.", true),
        (Rtype::PTR, "1.2.0.192.in-addr.arpa.", false),
        (Rtype::TXT, "v4.test.", true),
    ] {
        ask(&chain, rtype, text).await;
        assert_eq!(quick(rtype, text), want, "{rtype} {text}");
    }
}
