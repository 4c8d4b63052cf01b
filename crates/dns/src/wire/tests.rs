use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

mod fuzz;
mod oracle;

pub(crate) use fuzz::Dice;

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn record(owner: &str, data: Rdata) -> Record {
    Record::new(name(owner), 30, data)
}

/// Names that share labels, so that compression has something to do.
pub(crate) fn any_name() -> impl Strategy<Value = Name> {
    let known = || prop::sample::select(vec!["a", "b", "Svc", "svc", "cluster", "local", "_http", "x-1"]);
    let label = prop_oneof![
        9 => known().prop_map(|label| label.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..=MAX_LABEL),
    ];
    prop::collection::vec(label, 0..5).prop_filter_map("too long", |labels| Name::from_labels(labels).ok())
}

pub(crate) fn any_rdata() -> impl Strategy<Value = Rdata> {
    let bytes = |range| prop::collection::vec(any::<u8>(), range).prop_map(Vec::into_boxed_slice);
    let string = || bytes(0..40);
    let soa = (any_name(), any_name(), any::<[u32; 5]>());
    prop_oneof![
        any::<Ipv4Addr>().prop_map(Rdata::A),
        any::<Ipv6Addr>().prop_map(Rdata::Aaaa),
        any_name().prop_map(Rdata::Ns),
        any_name().prop_map(Rdata::Cname),
        any_name().prop_map(Rdata::Ptr),
        any_name().prop_map(Rdata::Dname),
        (any::<u16>(), any_name()).prop_map(|(preference, name)| Rdata::Mx(preference, name)),
        soa.prop_map(|(mname, rname, [serial, refresh, retry, expire, minimum])| Rdata::Soa(Box::new(Soa {
            mname,
            rname,
            serial,
            refresh,
            retry,
            expire,
            minimum
        }))),
        prop::collection::vec(string(), 1..4).prop_map(Rdata::Txt),
        (any::<[u16; 3]>(), any_name()).prop_map(|([priority, weight, port], target)| Rdata::Srv(Srv {
            priority,
            weight,
            port,
            target
        })),
        (string(), string()).prop_map(|(cpu, os)| Rdata::Hinfo(cpu, os)),
        bytes(1..40).prop_map(|data| Rdata::Other(Rtype(65_280), data)),
    ]
}

pub(crate) fn any_record() -> impl Strategy<Value = Record> {
    (any_name(), any::<u32>(), any_rdata()).prop_map(|(name, ttl, data)| Record::new(name, ttl, data))
}

fn any_edns() -> impl Strategy<Value = Edns> {
    let bytes = |range| prop::collection::vec(any::<u8>(), range).prop_map(Vec::into_boxed_slice);
    let server = prop_oneof![bytes(0..1), bytes(8..33)];
    let option = prop_oneof![
        (any::<[u8; 8]>(), server).prop_map(|(client, server)| EdnsOption::Cookie(Cookie { client, server })),
        bytes(0..20).prop_map(EdnsOption::Nsid),
        any::<Option<u16>>().prop_map(EdnsOption::Keepalive),
        (any::<u16>(), "[a-z ]{0,20}").prop_map(|(code, text)| EdnsOption::Error(code, text.into())),
        (100_u16..200, bytes(0..20)).prop_map(|(code, data)| EdnsOption::Other(code, data)),
    ];
    (any::<(u16, u8, bool)>(), prop::collection::vec(option, 0..4))
        .prop_map(|((udp_size, version, dnssec_ok), options)| Edns { udp_size, version, dnssec_ok, options })
}

pub(crate) fn any_message() -> impl Strategy<Value = Message> {
    let header = (any::<u16>(), 0_u8..16, any::<[bool; 7]>(), 0_u16..16).prop_map(
        |(id, opcode, [response, aa, tc, rd, ra, ad, cd], rcode)| Header {
            id,
            response,
            opcode: Opcode(opcode),
            authoritative: aa,
            truncated: tc,
            recursion_desired: rd,
            recursion_available: ra,
            authentic_data: ad,
            checking_disabled: cd,
            rcode: Rcode(rcode),
        },
    );
    let question = (any_name(), any::<u16>()).prop_map(|(name, rtype)| Question::new(name, Rtype(rtype)));
    let records = || prop::collection::vec(any_record(), 0..6);
    (header, question, records(), records(), records(), prop::option::of(any_edns())).prop_map(
        |(header, question, answers, authority, additional, edns)| Message {
            answers,
            authority,
            additional,
            edns,
            ..Message::new(header, Some(question))
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(message in any_message()) {
        prop_assert_eq!(Message::parse(&message.to_bytes()), Ok(message));
    }

    /// A.9: what does not fit goes from the end, in whole sets but for answers; the question and OPT stay.
    #[test]
    fn truncation_keeps_the_front(mut message in any_message(), limit in 512_usize..1232) {
        message.header.truncated = false;
        let mut out = b"old".to_vec();
        message.encode(&mut out, limit);
        prop_assert!(out.len() <= limit);
        let short = Message::parse(&out).unwrap();
        prop_assert_eq!(&short.questions, &message.questions);
        prop_assert_eq!(&short.edns, &message.edns);
        let mut whole = true;
        for section in Section::ALL {
            let (kept, all) = (short.section(section), message.section(section));
            prop_assert!(all.starts_with(kept));
            prop_assert!(whole || kept.is_empty());
            whole &= kept.len() == all.len();
            if section != Section::Answer && !whole && !kept.is_empty() {
                prop_assert!(!kept[kept.len() - 1].is_of_set(&all[kept.len()]));
            }
        }
        let missing = |section| short.section(section).len() < message.section(section).len();
        let negative = message.answers.is_empty() && missing(Section::Authority);
        prop_assert_eq!(short.header.truncated, missing(Section::Answer) || negative);
    }

    #[test]
    fn names_are_read_as_they_print(name in any_name()) {
        let again: Name = name.to_string().parse().unwrap();
        prop_assert_eq!(again.as_wire(), name.as_wire());
        prop_assert_eq!(name.to_lowercase(), name);
    }

    #[test]
    fn order_is_that_of_the_tree(a in any_name(), b in any_name(), c in any_name()) {
        prop_assert_eq!(a.cmp(&b).is_eq(), a == b);
        // Whatever stands between a name and one below it is below it, too.
        if b.is_within(&a) && a <= c && c <= b {
            prop_assert!(c.is_within(&a));
        }
    }
}

#[test]
fn names_from_text() {
    for (text, wire) in [
        (".", Ok(&b"\0"[..])),
        ("a.b", Ok(b"\x01a\x01b\0")),
        ("a.b.", Ok(b"\x01a\x01b\0")),
        (r"a\.b.c", Ok(b"\x03a.b\x01c\0")),
        (r"\065\\.", Ok(b"\x02A\\\0")),
        ("", Err(NameError::EmptyLabel)),
        ("..", Err(NameError::EmptyLabel)),
        (".a", Err(NameError::EmptyLabel)),
        ("a..b", Err(NameError::EmptyLabel)),
        (r"\256", Err(NameError::Escape)),
        (r"\25", Err(NameError::Escape)),
        (r"a\", Err(NameError::Escape)),
    ] {
        assert_eq!(text.parse::<Name>().as_ref().map(Name::as_wire).map_err(|error| *error), wire, "{text}");
    }
    assert_eq!("a".repeat(64).parse::<Name>(), Err(NameError::LabelTooLong));
    let longest = format!("{}.{}", vec!["a".repeat(63); 3].join("."), "a".repeat(61));
    assert_eq!(name(&longest).as_wire().len(), MAX_NAME);
    assert_eq!(format!("{longest}a").parse::<Name>(), Err(NameError::NameTooLong));
}

#[test]
fn names_within_names() {
    let zone = name("cluster.local");
    for (text, below) in [
        ("Cluster.LOCAL", Some(&b""[..])),
        ("a.cluster.local", Some(b"\x01a")),
        ("local", None),
        ("acluster.local", None),
        // The end looks like the zone, but begins inside a label.
        (r"x\007cluster.local", None),
    ] {
        assert_eq!(name(text).below(&zone), below, "{text}");
    }
    assert_eq!(name("a.b.old").rebase(&name("old"), &name("new.zone")), Some(name("a.b.new.zone")));
    assert_eq!(name("a.b.").parent(), Some(name("b")));
    assert_eq!(Name::root().parent(), None);
    assert_eq!(name("b").child("a").unwrap(), name("a.b"));
}

/// RFC 1035 section 4.1.4, RFC 2782: aliases and owners are compressed, targets of SRV are not, but serve later names.
#[test]
fn compression() {
    let mut message = Message::new(Header::query(1), Some(Question::new(name("a.example"), Rtype::SRV)));
    let srv = Srv { priority: 0, weight: 1, port: 53, target: name("b.EXAMPLE") };
    message.answers.push(record("a.example", Rdata::Srv(srv)));
    message.additional.push(record("b.example", Rdata::A([10, 0, 0, 1].into())));
    message.additional.push(record("a.a.example", Rdata::Cname(name("a.a.a.example"))));
    let bytes = message.to_bytes();
    assert_eq!(Message::parse(&bytes), Ok(message));
    let question = 12 + 11 + 4;
    let target = question + 2 + 10 + 6;
    assert_eq!(bytes[question..][..2], [0xc0, 12]);
    assert_eq!(bytes[target..][..11], *b"\x01b\x07EXAMPLE\0");
    assert_eq!(bytes[target + 11..][..2], [0xc0, target as u8]);
    let rest = &bytes[target + 11 + 2 + 10 + 4..];
    assert_eq!(rest[..4], [1, b'a', 0xc0, 12]);
    assert_eq!(rest[4 + 10..], [1, b'a', 0xc0, (bytes.len() - 18) as u8]);
}

#[test]
fn malformed_names() {
    for (packet, error) in [
        (&[0xc0, 0][..], Error::Pointer),
        (&[1, b'a', 0xc0, 0], Error::Pointer),
        (&[1, b'a', 0xc0, 2], Error::Pointer),
        (&[0xc0], Error::Truncated),
        (&[0xc0, 9], Error::Pointer),
        (&[3, b'a'], Error::Truncated),
        (&[1, b'a'], Error::Truncated),
        (&[], Error::Truncated),
        (&[0x40, 0], Error::LabelType),
        (&[0x80, 0], Error::LabelType),
    ] {
        assert_eq!(Reader::new(packet).name(), Err(error), "{packet:?}");
    }
    // Two names that point at each other: the second is read from behind.
    let mut reader = Reader::new(&[0xc0, 2, 0xc0, 0]);
    reader.take(2).unwrap();
    assert_eq!(reader.name(), Err(Error::Pointer));
    // 255 bytes are allowed, also by way of pointers, 256 are not.
    let mut packet = [&[63; 64][..], &[63; 64], &[63; 64], &[60; 61], &[0]].concat();
    packet.extend([1, b'x', 0xc0, 0, 0xc0, 0]);
    let mut reader = Reader::new(&packet);
    assert_eq!(reader.name().unwrap().as_wire().len(), 254);
    assert_eq!(reader.name(), Err(Error::NameTooLong));
}

/// RFC 3597 section 4: names inside of old types are decompressed, so that the data can be sent on.
#[test]
fn opaque_data_is_complete() {
    let mut packet = Message::new(Header::query(1), Some(Question::new(name("a.b"), Rtype(17)))).to_bytes();
    packet[7] = 1;
    packet.extend([0xc0, 12, 0, 17, 0, 1, 0, 0, 0, 9, 0, 4, 0xc0, 12, 0xc0, 14]);
    let message = Message::parse(&packet).unwrap();
    assert_eq!(message.answers[0].data, Rdata::Other(Rtype(17), (*b"\x01a\x01b\0\x01b\0").into()));
    assert_eq!(Message::parse(&message.to_bytes()), Ok(message));
}

#[test]
fn opt_records() {
    let bare = Message::new(Header::query(1), Some(Question::new(name("a"), Rtype::A))).to_bytes();
    let opt = [0, 0, 41, 4, 208, 1, 0, 0x80, 0, 0, 0];
    let with = |section: usize, count: u8, opts: &[&[u8]]| {
        let mut packet = [&bare, &*opts.concat()].concat();
        packet[section] = count;
        Message::parse(&packet)
    };
    let message = with(11, 1, &[&opt]).unwrap();
    assert_eq!(message.header.rcode, Rcode::BADVERS);
    assert_eq!(message.edns, Some(Edns { udp_size: 1232, dnssec_ok: true, ..Edns::default() }));
    assert_eq!(with(11, 2, &[&opt, &opt]), Err(Error::Opt));
    assert_eq!(with(7, 1, &[&opt]), Err(Error::Opt));
    for data in [&[0, 10, 0, 7, 1, 2, 3, 4, 5, 6, 7][..], &[0, 11, 0, 1, 0], &[0, 15, 0, 1, 0]] {
        let length = [data.len() as u8];
        assert_eq!(with(11, 1, &[&opt[..10], &length, data]), Err(Error::Opt), "{data:?}");
    }
    assert_eq!(with(11, 1, &[&opt[..10], &[4], &[0, 3, 0, 1]]), Err(Error::Truncated));
}

#[test]
fn codes_have_names() {
    assert_eq!(Rtype::AAAA.to_string(), "AAAA");
    assert_eq!(Rtype(999).to_string(), "TYPE999");
    assert_eq!("aaaa".parse(), Ok(Rtype::AAAA));
    assert_eq!("type28".parse(), Ok(Rtype::AAAA));
    assert!("nothing".parse::<Rtype>().is_err());
    assert_eq!(Rcode::NXDOMAIN.to_string(), "NXDOMAIN");
}
