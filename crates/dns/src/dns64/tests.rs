use proptest::prelude::*;

use super::*;
use crate::corefile::{Corefile, Disk};
use crate::wire::{Edns, Header, Name, Question, Section, Soa};
use dyad_net::Pref64;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// The rules of a `dns64` with these options.
fn dns64(options: &str) -> Dns64 {
    let text = format!(". {{\n dns64 {{\n{options}\n}}\n}}");
    let mut parsed = Corefile::parse("Corefile", &text, &Disk::default()).unwrap();
    Dns64::new(parsed.servers.remove(0).dns64.unwrap())
}

fn query(rtype: Rtype, text: &str) -> Message {
    Message::new(Header::query(7), Some(Question::new(name(text), rtype)))
}

/// An answer with records written as `OWNER TTL TYPE DATA`; a SOA stands in authority.
fn answer(to: &Message, rcode: Rcode, records: &[&str]) -> Message {
    let mut answer = to.response(rcode);
    for text in records {
        let [owner, ttl, rtype, data] = *text.split(' ').collect::<Vec<_>>() else { panic!("{text}") };
        let (section, data) = match rtype {
            "A" => (Section::Answer, Rdata::A(data.parse().unwrap())),
            "AAAA" => (Section::Answer, Rdata::Aaaa(data.parse().unwrap())),
            "CNAME" => (Section::Answer, Rdata::Cname(name(data))),
            "DNAME" => (Section::Answer, Rdata::Dname(name(data))),
            "PTR" => (Section::Answer, Rdata::Ptr(name(data))),
            "RRSIG" => {
                let covered: Rtype = data.parse().unwrap();
                (Section::Answer, Rdata::Other(Rtype::RRSIG, covered.0.to_be_bytes().into()))
            }
            "SOA" => (Section::Authority, soa(data)),
            other => panic!("{other}"),
        };
        answer.section_mut(section).push(Record::new(name(owner), ttl.parse().unwrap(), data));
    }
    answer
}

fn soa(mname: &str) -> Rdata {
    let (mname, rname) = (name(mname), name("h."));
    Rdata::Soa(Box::new(Soa { mname, rname, serial: 1, refresh: 1, retry: 1, expire: 1, minimum: 1 }))
}

fn texts(message: &Message) -> Vec<String> {
    let text = |record: &Record| {
        let data = match &record.data {
            Rdata::A(ip) => ip.to_string(),
            Rdata::Aaaa(ip) => ip.to_string(),
            Rdata::Cname(name) | Rdata::Dname(name) | Rdata::Ptr(name) => name.to_string(),
            Rdata::Other(..) => record.signed().unwrap().to_string(),
            other => panic!("{other:?}"),
        };
        format!("{} {} {} {data}", record.name, record.ttl, record.rtype())
    };
    message.answers.iter().map(text).collect()
}

const POD: Client<'_> =
    Client { ip: IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 7)), namespace: Some("default") };

/// What a client gets who asks for AAAA, where upstream has these; and whether A was asked for.
fn ask(dns64: &Dns64, aaaa: Option<&Message>, a: Option<&Message>) -> (Message, bool) {
    let query = query(Rtype::AAAA, "x.");
    let selection = dns64.select(POD, &|_| true).unwrap();
    match dns64.judge(aaaa) {
        Verdict::Keep => (aaaa.unwrap().clone(), false),
        Verdict::Filtered(message) => (message, false),
        Verdict::AskA => (dns64.synthesise(&query, aaaa, a, &selection), true),
    }
}

#[test]
fn a15_vectors() {
    let wkp = "prefix 64:ff9b::/96";
    let local = "prefix 64:ff9b:1:fffe::/96";
    let (ok, nx, fail) = (Rcode::NOERROR, Rcode::NXDOMAIN, Rcode::SERVFAIL);
    type Answer<'a> = Option<(Rcode, &'a [&'a str])>;
    type Row<'a> = (&'a str, &'a str, Answer<'a>, Answer<'a>, Rcode, &'a [&'a str], bool);
    #[rustfmt::skip]
    let rows: &[Row<'_>] = &[
        // what, options, AAAA, A, code, answers, whether A is asked for
        ("the lower TTL is that of A", wkp, Some((ok, &["x. 900 SOA m."])), Some((ok, &["x. 300 A 93.184.216.34"])),
            ok, &["x. 300 AAAA 64:ff9b::5db8:d822"], true),
        ("the lower TTL is that of the SOA", wkp, Some((ok, &["x. 60 SOA m."])), Some((ok, &["x. 300 A 93.184.216.34"])),
            ok, &["x. 60 AAAA 64:ff9b::5db8:d822"], true),
        ("no SOA", wkp, Some((ok, &[])), Some((ok, &["x. 3600 A 93.184.216.34"])),
            ok, &["x. 600 AAAA 64:ff9b::5db8:d822"], true),
        ("only a mapped address", "prefix 2001:db8:122:344::/64", Some((ok, &["x. 9 AAAA ::ffff:1.2.3.4"])),
            Some((ok, &["x. 300 A 192.0.2.33"])), ok, &["x. 300 AAAA 2001:db8:122:344:c0:2:2100:0"], true),
        ("a mapped address and another", wkp, Some((ok, &["x. 9 AAAA 2001:db8::1", "x. 9 AAAA ::ffff:1.2.3.4", "x. 9 RRSIG AAAA"])),
            None, ok, &["x. 9 AAAA 2001:db8::1"], false),
        ("a private address and the well-known prefix", wkp, Some((ok, &["x. 9 SOA m."])), Some((ok, &["x. 300 A 10.0.0.5"])),
            ok, &[], true),
        ("a private address and another prefix", local, Some((ok, &["x. 900 SOA m."])), Some((ok, &["x. 300 A 10.0.0.5"])),
            ok, &["x. 300 AAAA 64:ff9b:1:fffe::a00:5"], true),
        ("AAAA fails", wkp, Some((fail, &[])), Some((ok, &["x. 300 A 93.184.216.34"])),
            ok, &["x. 300 AAAA 64:ff9b::5db8:d822"], true),
        ("AAAA is not answered", wkp, None, Some((ok, &["x. 300 A 93.184.216.34"])),
            ok, &["x. 300 AAAA 64:ff9b::5db8:d822"], true),
        ("AAAA does not exist", wkp, Some((nx, &["x. 9 SOA m."])), None, nx, &[], false),
        ("an alias", wkp, Some((ok, &["x. 50 CNAME b.", "b. 900 SOA m."])), Some((ok, &["x. 50 CNAME b.", "b. 300 A 93.184.216.34"])),
            ok, &["x. 50 CNAME b.", "b. 300 AAAA 64:ff9b::5db8:d822"], true),
        ("an alias by DNAME, signed", wkp, Some((ok, &["x. 900 SOA m."])),
            Some((ok, &["d. 50 DNAME b.", "d. 50 RRSIG DNAME", "x. 50 CNAME b.", "b. 300 A 93.184.216.34", "b. 300 RRSIG A"])),
            ok, &["d. 50 DNAME b.", "d. 50 RRSIG DNAME", "x. 50 CNAME b.", "b. 300 AAAA 64:ff9b::5db8:d822"], true),
        ("two prefixes", "prefix 64:ff9b::/96\nprefix 2001:db8::/32", Some((ok, &["x. 900 SOA m."])),
            Some((ok, &["x. 300 A 93.184.216.34", "x. 300 A 93.184.216.35"])), ok,
            &["x. 300 AAAA 64:ff9b::5db8:d822", "x. 300 AAAA 64:ff9b::5db8:d823",
              "x. 300 AAAA 2001:db8:5db8:d822::", "x. 300 AAAA 2001:db8:5db8:d823::"], true),
        ("two prefixes, the first that fits", "prefix 64:ff9b::/96\nprefix 2001:db8::/32\nsynthesize first",
            Some((ok, &["x. 900 SOA m."])), Some((ok, &["x. 300 A 93.184.216.34", "x. 300 A 10.0.0.1"])), ok,
            &["x. 300 AAAA 64:ff9b::5db8:d822", "x. 300 AAAA 2001:db8:a00:1::"], true),
        ("prefixes by range", "prefix 64:ff9b::/96\nprefix 2001:db8:1::/48 for 93.0.0.0/8\nprefix 2001:db8:2::/48 for 93.184.0.0/16",
            Some((ok, &["x. 900 SOA m."])), Some((ok, &["x. 300 A 93.184.216.34", "x. 300 A 93.1.2.3", "x. 300 A 94.1.2.3"])), ok,
            &["x. 300 AAAA 64:ff9b::5e01:203", "x. 300 AAAA 2001:db8:1:5d01:2:300::", "x. 300 AAAA 2001:db8:2:5db8:d8:2200::"], true),
        ("our own prefix from a DNS64 before us", wkp, Some((ok, &["x. 9 AAAA 64:ff9b::1.2.3.4"])),
            Some((ok, &["x. 300 A 93.184.216.34"])), ok, &["x. 300 AAAA 64:ff9b::5db8:d822"], true),
        ("an excluded range", "exclude 2001:db8::/32", Some((ok, &["x. 9 AAAA 2001:db8::1"])),
            Some((ok, &["x. 300 A 93.184.216.34"])), ok, &["x. 300 AAAA 64:ff9b::5db8:d822"], true),
        ("an excluded address and no other", wkp, Some((ok, &["x. 9 AAAA ::ffff:1.2.3.4"])), Some((ok, &[])), ok, &[], true),
        ("a denied address", "deny 93.184.216.0/24", Some((ok, &["x. 900 SOA m."])),
            Some((ok, &["x. 300 A 93.184.216.34", "x. 300 A 94.1.1.1"])), ok, &["x. 300 AAAA 64:ff9b::5e01:101"], true),
        ("translate_all", "translate_all", Some((ok, &["x. 9 AAAA 2001:db8::1"])), Some((ok, &["x. 300 A 93.184.216.34"])),
            ok, &["x. 300 AAAA 64:ff9b::5db8:d822"], true),
        ("translate_all without A", "translate_all", Some((ok, &["x. 9 AAAA 2001:db8::1"])), Some((ok, &[])),
            ok, &["x. 9 AAAA 2001:db8::1"], true),
        ("A does not exist", wkp, Some((ok, &["x. 9 SOA m."])), Some((nx, &["x. 8 SOA m."])), nx, &[], true),
        ("A fails", wkp, Some((ok, &["x. 9 SOA m."])), Some((Rcode::REFUSED, &[])), Rcode::REFUSED, &[], true),
        ("A is not answered", wkp, Some((ok, &["x. 9 SOA m."])), None, ok, &[], true),
        ("neither is answered", wkp, None, None, fail, &[], true),
        ("AAAA fails, A is empty", wkp, Some((fail, &[])), Some((ok, &["x. 9 SOA m."])), ok, &[], true),
    ];
    for (what, options, aaaa, a, rcode, want, asked) in rows {
        let make = |rtype, answer_: &Answer<'_>| {
            answer_.map(|(rcode, records)| answer(&query(rtype, "x."), rcode, records))
        };
        let (aaaa, a) = (make(Rtype::AAAA, aaaa), make(Rtype::A, a));
        let (got, did) = ask(&dns64(options), aaaa.as_ref(), a.as_ref());
        let canonical = |text: &&str| match text.rsplit_once(" AAAA ") {
            Some((before, ip)) => format!("{before} AAAA {}", ip.parse::<Ipv6Addr>().unwrap()),
            None => (*text).to_owned(),
        };
        assert_eq!(texts(&got), want.iter().map(canonical).collect::<Vec<_>>(), "{what}");
        assert_eq!((got.header.rcode, did), (*rcode, asked.to_owned()), "{what}");
        assert_eq!(got.questions, query(Rtype::AAAA, "x.").questions, "{what}");
        if texts(&got).is_empty()
            && aaaa.as_ref().is_some_and(|aaaa| aaaa.header.rcode == Rcode::NOERROR)
            && *rcode == Rcode::NOERROR
        {
            assert_eq!(got.authority, aaaa.unwrap().authority, "{what}: the SOA is that of AAAA");
        }
    }
}

#[test]
fn rfc_6147_5_5_flags() {
    let ours = dns64("");
    let with = |checking_disabled, dnssec_ok| {
        let mut query = query(Rtype::AAAA, "x.");
        query.header.checking_disabled = checking_disabled;
        query.edns = Some(Edns { udp_size: 1232, dnssec_ok, ..Edns::default() });
        query
    };
    for (cd, dnssec, want) in
        [(false, false, true), (true, false, true), (false, true, true), (true, true, false)]
    {
        assert_eq!(ours.concerns(&with(cd, dnssec)), want, "CD {cd} DO {dnssec}");
        assert!(dns64("checking_disabled synthesize").concerns(&with(cd, dnssec)), "as BIND does");
    }
    assert!(!ours.concerns(&query(Rtype::A, "x.")));
    assert!(!ours.concerns(&query(Rtype::ANY, "x.")));
    let mut chaos = query(Rtype::AAAA, "x.");
    chaos.questions[0].class = Class::CH;
    assert!(!ours.concerns(&chaos));
    // What is made here is not authentic, and what is cut says so.
    let mut a = answer(&query(Rtype::A, "x."), Rcode::NOERROR, &["x. 300 A 93.184.216.34"]);
    (a.header.authentic_data, a.header.truncated) = (true, true);
    let (got, _) = ask(&ours, None, Some(&a));
    assert!(!got.header.authentic_data && got.header.truncated);
    // A truncated answer without addresses may have had some.
    let mut aaaa = answer(&query(Rtype::AAAA, "x."), Rcode::NOERROR, &[]);
    aaaa.header.truncated = true;
    assert_eq!(ours.judge(Some(&aaaa)), Verdict::Keep);
}

#[test]
fn who_gets_synthesised_addresses() {
    let of = |options: &str, ip: &str, namespace: Option<&str>| {
        let ours = dns64(options);
        let client = Client { ip: ip.parse().unwrap(), namespace };
        ours.select(client, &|prefix| prefix != Pref64::LOCAL)
            .map(|selection| selection.prefixes().map(|prefix| prefix.to_string()).collect::<Vec<_>>())
    };
    let wkp = || Some(vec!["64:ff9b::/96".to_owned()]);
    assert_eq!(of("", "fd00::1", None), wkp());
    assert_eq!(of("", "10.0.0.1", None), None, "the default is for those who come by IPv6");
    assert_eq!(of("", "::ffff:10.0.0.1", None), None, "and this is not IPv6");
    assert_eq!(of("allow_ipv4", "10.0.0.1", None), wkp());
    assert_eq!(of("clients 10.0.0.0/8", "fd00::1", None), None);
    assert_eq!(of("clients 10.0.0.0/8 fd00::/8", "fd00::1", None), wkp());
    assert_eq!(of("namespaces a b", "fd00::1", Some("b")), wkp());
    assert_eq!(of("namespaces a b", "fd00::1", Some("c")), None);
    assert_eq!(of("namespaces a b", "fd00::1", None), None);
    assert_eq!(of("except_namespaces a", "fd00::1", Some("a")), None);
    assert_eq!(of("except_namespaces a", "fd00::1", None), wkp());
    let two = "prefix 2001:db8::/32 clients fd00:1::/32\nprefix 64:ff9b::/96 clients fd00:2::/32";
    assert_eq!(of(two, "fd00:1::1", None), Some(vec!["2001:db8::/32".to_owned()]));
    assert_eq!(of(two, "fd00:2::1", None), wkp());
    assert_eq!(of(two, "fd00:3::1", None), Some(Vec::new()));
    assert_eq!(of("prefix 64:ff9b:1:fffe::/96", "fd00::1", None), Some(Vec::new()), "its translator is down");
}

#[test]
fn a_translator_that_is_down_is_not_led_to() {
    let ours = dns64("prefix 64:ff9b:1:fffe::/96 for 10.0.0.0/8\nprefix 2001:db8::/32\nprefix 2001:db9::/32");
    let (private, public) = ("10.0.0.1", "93.184.216.34");
    let of = |up: &dyn Fn(Pref64) -> bool, ip: &str| {
        let selection = ours.select(POD, up).unwrap();
        let served = |prefix: &Pref64| selection.serves(*prefix, ip.parse().unwrap());
        let all = ours.config().prefixes.iter().map(|prefix| prefix.prefix);
        all.filter(served).map(|prefix| prefix.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(of(&|_| true, private), ["64:ff9b:1:fffe::/96"]);
    assert_eq!(of(&|prefix| prefix != Pref64::LOCAL, private), [""; 0], "the others lead elsewhere");
    assert_eq!(of(&|_| true, public), ["2001:db8::/32", "2001:db9::/32"]);
    assert_eq!(of(&|prefix| prefix != "2001:db8::/32".parse().unwrap(), public), ["2001:db9::/32"]);
}

#[test]
fn rfc_6147_5_3_1_reverse_names() {
    let ours = dns64("prefix 64:ff9b::/96\nprefix 2001:db8:122:344::/64");
    let of =
        |ip: &str| ours.reverse(&query(Rtype::PTR, &crate::reverse::name(ip.parse().unwrap()).to_string()));
    let alias = |text: &str| Some(Reverse::Alias(name(text)));
    assert_eq!(of("64:ff9b::5db8:d822"), alias("34.216.184.93.in-addr.arpa."));
    assert_eq!(of("2001:db8:122:344:c0:2:2100::"), alias("33.2.0.192.in-addr.arpa."));
    assert_eq!(of("2001:db8:122:344:c0:2:2100:1"), Some(Reverse::Nothing), "a suffix");
    assert_eq!(of("2001:db8:122:344:1c0:2:2100::"), Some(Reverse::Nothing), "octet u");
    assert_eq!(of("64:ff9b::10.0.0.5"), Some(Reverse::Nothing), "never synthesised");
    assert_eq!(of("2001:db8::1"), None);
    assert_eq!(of("93.184.216.34"), None);
    assert_eq!(
        dns64("ptr off")
            .reverse(&query(Rtype::PTR, &crate::reverse::name("64:ff9b::1".parse().unwrap()).to_string())),
        None
    );
    // The answer leads there.
    let asked =
        query(Rtype::PTR, "2.2.8.d.8.b.d.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa.");
    let Some(Reverse::Alias(target)) = ours.reverse(&asked) else { panic!("an alias") };
    let there = answer(
        &query(Rtype::PTR, &target.to_string()),
        Rcode::NOERROR,
        &["34.216.184.93.in-addr.arpa. 60 PTR example.org."],
    );
    let got = ours.alias(&asked, target, Some(&there));
    assert_eq!(
        texts(&got),
        [
            "2.2.8.d.8.b.d.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa. 600 CNAME 34.216.184.93.in-addr.arpa.",
            "34.216.184.93.in-addr.arpa. 60 PTR example.org.",
        ]
    );
    assert_eq!(got.questions, asked.questions);
}

#[test]
fn rfc_8880_discovery() {
    let two = [Pref64::WELL_KNOWN, "2001:db8:122:344::/64".parse().unwrap()];
    type Row<'a> = (&'a [Pref64], Rtype, &'a str, Rcode, &'a [&'a str]);
    #[rustfmt::skip]
    let rows: &[Row<'_>] = &[
        (&two, Rtype::A, "ipv4only.arpa.", Rcode::NOERROR, &["192.0.0.170", "192.0.0.171"]),
        (&two[..1], Rtype::AAAA, "IPv4Only.Arpa.", Rcode::NOERROR, &["64:ff9b::c000:aa", "64:ff9b::c000:ab"]),
        (&two, Rtype::AAAA, "ipv4only.arpa.", Rcode::NOERROR,
            &["64:ff9b::c000:aa", "64:ff9b::c000:ab", "2001:db8:122:344:c0:0:aa00:0", "2001:db8:122:344:c0:0:ab00:0"]),
        (&[], Rtype::AAAA, "ipv4only.arpa.", Rcode::NOERROR, &[]),
        (&two, Rtype::MX, "ipv4only.arpa.", Rcode::NOERROR, &[]),
        (&two, Rtype::A, "x.ipv4only.arpa.", Rcode::NXDOMAIN, &[]),
        (&two, Rtype::PTR, "170.0.0.192.in-addr.arpa.", Rcode::NOERROR, &["ipv4only.arpa."]),
        (&two, Rtype::PTR, "171.0.0.192.in-addr.arpa.", Rcode::NOERROR, &["ipv4only.arpa."]),
        (&two, Rtype::A, "171.0.0.192.in-addr.arpa.", Rcode::NOERROR, &[]),
    ];
    for (prefixes, rtype, asked, rcode, want) in rows {
        let asked = query(*rtype, asked);
        let got = discovery(&asked, prefixes).unwrap();
        let of = |text: &String| text.rsplit(' ').next().unwrap().to_owned();
        let canonical =
            |text: &&str| text.parse::<Ipv6Addr>().map_or_else(|_| (*text).to_owned(), |ip| ip.to_string());
        assert_eq!(
            texts(&got).iter().map(of).collect::<Vec<_>>(),
            want.iter().map(canonical).collect::<Vec<_>>(),
            "{asked:?}"
        );
        assert_eq!((got.header.rcode, got.header.authoritative), (*rcode, true), "{asked:?}");
        assert_eq!(got.authority.is_empty(), !want.is_empty(), "{asked:?}: nothing has a SOA");
        assert_eq!(got.questions, asked.questions);
    }
    let reverse = |ip: &str| query(Rtype::PTR, &crate::reverse::name(ip.parse().unwrap()).to_string());
    assert!(discovery(&reverse("64:ff9b::192.0.0.170"), &two).is_some());
    assert_eq!(discovery(&reverse("64:ff9b::192.0.0.170"), &[]), None);
    assert_eq!(discovery(&reverse("192.0.0.169"), &two), None);
    assert_eq!(discovery(&query(Rtype::A, "arpa."), &two), None);
    assert_eq!(discovery(&query(Rtype::A, "xipv4only.arpa."), &two), None);
}

proptest! {
    /// RFC 6147 §5.1.6, §5.1.7: every synthesised address leads back to one that was there, holds no longer, and is one
    /// the prefix may carry.
    #[test]
    fn nothing_is_made_up(ips in prop::collection::vec((any::<u32>(), 0..5000_u32), 0..6), cap in prop::option::of(0..5000_u32)) {
        let ours = dns64("prefix 64:ff9b::/96\nprefix 2001:db8::/32 for 128.0.0.0/1\nprefix 2001:db9::/64 for 192.0.0.0/2");
        let ips: Vec<(std::net::Ipv4Addr, u32)> = ips.into_iter().map(|(bits, ttl)| (bits.into(), ttl)).collect();
        let records: Vec<String> = ips.iter().map(|(ip, ttl)| format!("x. {ttl} A {ip}")).collect();
        let soa = cap.map(|ttl| format!("x. {ttl} SOA m."));
        let soa: Vec<&str> = soa.iter().map(String::as_str).collect();
        let aaaa = answer(&query(Rtype::AAAA, "x."), Rcode::NOERROR, &soa);
        let a = answer(&query(Rtype::A, "x."), Rcode::NOERROR, &records.iter().map(String::as_str).collect::<Vec<_>>());
        let (got, _) = ask(&ours, Some(&aaaa), Some(&a));
        for record in &got.answers {
            let Rdata::Aaaa(ip) = record.data else { panic!("{record:?}") };
            let prefix = ours.prefix_of(ip.into()).unwrap();
            let from = prefix.extract_strict(ip).unwrap();
            prop_assert!(prefix.may_carry(from));
            prop_assert!(ips.iter().any(|(known, ttl)| *known == from && record.ttl == (*ttl).min(cap.unwrap_or(600))));
        }
        for (ip, _) in &ips {
            let prefix = if ip.to_bits() >> 30 == 3 { 2 } else { usize::from(ip.to_bits() >> 31 == 1) };
            let prefix = ours.config().prefixes[prefix].prefix;
            let there = addresses(&got).any(|found| found == prefix.embed(*ip));
            prop_assert_eq!(there, prefix.may_carry(*ip), "{} {}", ip, prefix);
        }
    }
}
