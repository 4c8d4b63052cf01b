//! What is written is read back; what is not ours is not mistaken for ours; nothing makes the readers panic.

use dyad_net::IpNet;
use dyad_program::{Action, Endpoint, Entry, Frontend, MAX_SLOTS, Protocol, Scope, Table};
use proptest::prelude::*;
use std::num::NonZeroU32;

use super::*;
use crate::attribute::{Writer, attributes, find, messages};
use crate::batch::{Changes, RULE_EXPRESSIONS};
use crate::element::{Element, element, range_elements, read_entry, read_ranges, set};
use crate::expression::Expression;
use crate::layout::{Kind, Layout, Pick, Rules, SetId};

fn picks() -> Vec<Pick> {
    let kinds = [Kind::Address, Kind::NodePort];
    let pairs = Scope::BOTH.into_iter().flat_map(|scope| kinds.map(|kind| (scope, kind)));
    let of = |(scope, kind)| {
        [(1, None), (2, None), (521, None), (1, NonZeroU32::new(1)), (521, NonZeroU32::new(86_400))]
            .map(|(slots, sticky)| Pick { scope, kind, slots, sticky })
    };
    pairs.flat_map(of).collect()
}

fn with_policies(family: IpFamily) -> Table {
    let mut table = Table::default();
    policies(family).into_iter().for_each(|entry| table.insert(entry));
    table
}

#[test]
fn names_of_sets_are_read_back() {
    let of_policies = SetKind::ALL.map(|kind| SetId::Policy(kind, Id::of("x")));
    for id in SetId::fixed().chain(of_policies) {
        assert_eq!(SetId::from_name(&id.name()), Some(id));
    }
    for name in ["", "peers-", "peers-0", "named-000000000000000G", "services-", "policy-0000000000000000"] {
        assert_eq!(SetId::from_name(name), None, "{name}");
    }
}

#[test]
fn all_rules_are_read_back() {
    for family in IpFamily::BOTH {
        let layout = Layout::new(family, &BTreeMap::new(), picks(), &with_policies(family));
        let mut count = 0;
        for rule in layout.chains.values().flat_map(|chain| &chain.rules) {
            let mut writer = Writer::default();
            writer.nest(RULE_EXPRESSIONS, |list| {
                rule.expressions.iter().for_each(|expression| expression.write(list, 1));
            });
            let list = find(writer.as_bytes(), RULE_EXPRESSIONS).unwrap();
            assert_eq!(Expression::read_list(list).as_ref(), Some(&rule.expressions), "{}", rule.comment);
            count += 1;
        }
        assert_eq!(layout.chains.len(), 6 + 3 + picks().len() + 3);
        assert!(count > 100, "{count}");
    }
}

#[test]
fn pick_chains_are_known_by_their_names() {
    for pick in picks() {
        assert_eq!(Pick::from_chain(&pick.chain()), Some(pick));
    }
    for name in [
        "service-endpoints-0",
        "service-endpoints-01",
        "service-endpoints-+1",
        "service-endpoints-65536",
        "services-1",
        "service-endpoints",
        "hairpin-1",
        "service-endpoints-1-sticky-0",
        "service-endpoints-1-sticky-01",
        "service-endpoints-1-sticky-",
        "service-endpoints-sticky-1",
        "-1",
        "",
        "refuse",
    ] {
        assert_eq!(Pick::from_chain(name), None, "{name}");
    }
}

/// A batch byte for byte, as the kernel's headers say (`nfnetlink.h`, `nf_tables.h`), on little-endian machines.
#[cfg(target_endian = "little")]
#[test]
fn a_batch_is_what_the_kernel_expects() {
    let mut changes = Changes::new(100_000);
    let at = Frontend::NodePort(Protocol::Udp, 30001);
    let entry =
        Entry::Endpoint(Scope::Cluster, at, 1, Endpoint { ip: IpAddr::from([10, 0, 0, 9]), port: 53 });
    changes.element(true, IpFamily::V4, set(&entry).unwrap(), element(&entry).unwrap());
    let [batch] = changes.seal(7, 0x0102).try_into().unwrap();
    assert_eq!((batch.acknowledged, batch.sequences), (8, 3));
    #[rustfmt::skip]
    let expected = [
        // NFNL_MSG_BATCH_BEGIN, request, 7; for subsystem 10; NFNL_BATCH_GENID.
        &[28, 0, 0, 0, 16, 0, 1, 0, 7, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 10,  8, 0, 1, 0, 0, 0, 1, 2][..],
        // NFT_MSG_NEWSETELEM, request | ack | create, 8; family 2.
        &[100, 0, 0, 0, 12, 10, 5, 4, 8, 0, 0, 0, 0, 0, 0, 0,  2, 0, 0, 0],
        // NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET.
        &[9, 0, 1, 0, b'd', b'y', b'a', b'd', 0, 0, 0, 0],
        &[24, 0, 2, 0], b"node-port-endpoints\0",
        // NFTA_SET_ELEM_LIST_ELEMENTS { NFTA_LIST_ELEM {
        &[44, 0, 3, 0x80, 40, 0, 1, 0x80],
        // NFTA_SET_ELEM_KEY { NFTA_DATA_VALUE protocol . port . slot },
        &[20, 0, 1, 0x80, 16, 0, 1, 0, 17, 0, 0, 0, 0x75, 0x31, 0, 0, 1, 0, 0, 0],
        // NFTA_SET_ELEM_DATA { NFTA_DATA_VALUE address . port } } }.
        &[16, 0, 2, 0x80, 12, 0, 1, 0, 10, 0, 0, 9, 0, 53, 0, 0],
        // NFNL_MSG_BATCH_END, request, 9.
        &[20, 0, 0, 0, 17, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 10],
    ].concat();
    assert_eq!(batch.bytes, expected);
}

#[test]
fn long_runs_of_elements_become_several_messages_of_one_batch() {
    let mut changes = Changes::new(usize::MAX);
    for n in 0..10_000u16 {
        let entry = Entry::Hairpin(IpAddr::from([10, 0, (n >> 8) as u8, n as u8]));
        changes.element(true, IpFamily::V4, set(&entry).unwrap(), element(&entry).unwrap());
    }
    let [batch] = changes.seal(1, 1).try_into().unwrap();
    let numbers: Vec<u32> = messages(&batch.bytes).map(|message| message.sequence).collect();
    assert_eq!(numbers, (1..=numbers.len() as u32).collect::<Vec<_>>());
    assert!(numbers.len() > 3 && batch.sequences as usize == numbers.len());
    let with_ack: Vec<u32> = messages(&batch.bytes)
        .filter(|message| message.flags & 4 != 0)
        .map(|message| message.sequence)
        .collect();
    assert_eq!(with_ack, [batch.acknowledged], "only the last change is acknowledged");
}

fn an_address(family: IpFamily) -> BoxedStrategy<IpAddr> {
    match family {
        IpFamily::V4 => any::<[u8; 4]>().prop_map(IpAddr::from).boxed(),
        IpFamily::V6 => any::<[u8; 16]>().prop_map(IpAddr::from).boxed(),
    }
}

fn an_entry(family: IpFamily) -> impl Strategy<Value = Entry> {
    let protocol = prop::sample::select(&Protocol::ALL[..]);
    let frontend = prop_oneof![
        (an_address(family), protocol.clone(), any::<u16>())
            .prop_map(|(ip, protocol, port)| Frontend::Address(ip, protocol, port)),
        (protocol.clone(), any::<u16>()).prop_map(|(protocol, port)| Frontend::NodePort(protocol, port)),
    ];
    let action = prop_oneof![
        Just(Action::Drop),
        Just(Action::Reject),
        (1..=MAX_SLOTS, 0..=86_400u32)
            .prop_map(|(slots, sticky)| Action::Forward { slots, sticky: NonZeroU32::new(sticky) }),
    ];
    let scope = prop::sample::select(&Scope::BOTH[..]);
    let direction = prop::sample::select(&Direction::BOTH[..]);
    let endpoint = (an_address(family), any::<u16>()).prop_map(|(ip, port)| Endpoint { ip, port }).boxed();
    let address = (an_address(family), protocol, any::<u16>());
    let id = any::<u8>().prop_map(|number| Id::of(&number.to_string()));
    let member = prop_oneof![
        an_address(family).prop_map(Member::Peer),
        address.clone().prop_map(|(ip, protocol, port)| Member::NamedPort(ip, protocol, port)),
    ];
    let range = (an_address(family), 0u8..=family.bits())
        .prop_map(|(ip, length)| IpNet::new(ip, length).unwrap().trunc());
    let at_address = address.prop_map(|(ip, protocol, port)| Frontend::Address(ip, protocol, port)).boxed();
    prop_oneof![
        an_address(family).prop_map(Entry::Hairpin),
        (scope.clone(), frontend.clone(), action)
            .prop_map(|(scope, at, action)| Entry::Frontend(scope, at, action)),
        (scope.clone(), frontend.clone(), any::<u16>(), endpoint.clone())
            .prop_map(|(scope, at, slot, to)| Entry::Endpoint(scope, at, slot, to)),
        (scope, frontend, endpoint).prop_map(|(scope, at, to)| Entry::Sticky(scope, at, to)),
        at_address.clone().prop_map(Entry::Guarded),
        (at_address, range).prop_map(|(at, range)| Entry::Source(at, range)),
        (direction, an_address(family), id.clone())
            .prop_map(|(direction, ip, id)| Entry::Isolated(direction, ip, id)),
        (id, member).prop_map(|(id, member)| Entry::Member(id, member)),
    ]
}

fn an_entry_of_any_family() -> impl Strategy<Value = (IpFamily, Entry)> {
    prop::sample::select(&IpFamily::BOTH[..]).prop_flat_map(|family| (Just(family), an_entry(family)))
}

fn a_rule() -> impl Strategy<Value = Rule> {
    let id = any::<u8>().prop_map(|number| Id::of(&number.to_string())).boxed();
    let peers =
        prop_oneof![Just(Peers::Any), id.clone().prop_map(Peers::Set), id.clone().prop_map(Peers::Blocks),];
    let protocol = prop::sample::select(&Protocol::ALL[..]);
    let ports = prop_oneof![
        Just(Ports::Any),
        (protocol, any::<u16>(), any::<u16>()).prop_map(|(protocol, a, b)| Ports::Range(
            protocol,
            a.min(b),
            a.max(b)
        )),
        id.clone().prop_map(Ports::Named),
    ];
    let decision = prop_oneof![Just(Decision::Accept), Just(Decision::Deny), id.prop_map(Decision::Goto)];
    let direction = prop::sample::select(&Direction::BOTH[..]);
    (direction, peers, ports, decision, "[a-zA-Z0-9 ä/:,]{0,100}").prop_map(
        |(direction, peers, ports, decision, because)| Rule {
            direction,
            peers,
            ports,
            decision,
            because: because.into(),
        },
    )
}

proptest! {
    #[test]
    fn entries_are_read_back((family, entry) in an_entry_of_any_family()) {
        let mut writer = Writer::default();
        element(&entry).unwrap().write(&mut writer, 1, true);
        let read = Element::read(find(writer.as_bytes(), 1).unwrap()).unwrap();
        prop_assert_eq!(&read, &element(&entry).unwrap());
        let of = set(&entry).unwrap();
        prop_assert_eq!(read_entry(of, family, &read), Some(entry.clone()));
        // In any other set it means something else or nothing.
        for id in SetId::fixed().filter(|id| *id != of) {
            prop_assert_ne!(read_entry(id, family, &read), Some(entry.clone()));
        }
    }

    #[test]
    fn ranges_are_read_back(bits in prop::collection::vec((any::<u32>(), 0u8..=32), 0..12), v6: bool) {
        let net = |(bits, length): (u32, u8)| -> IpNet {
            if v6 {
                let ip = u128::from(bits) << 96 | 0xffff;
                IpNet::new(IpAddr::V6(ip.into()), length * 4).unwrap().trunc()
            } else {
                IpNet::new(IpAddr::V4(bits.into()), length).unwrap().trunc()
            }
        };
        let family = if v6 { IpFamily::V6 } else { IpFamily::V4 };
        let given: Vec<IpNet> = bits.into_iter().map(net).collect();
        let mut expected = IpNet::aggregate(&given);
        expected.sort();
        // Unordered, as the kernel may list them; overlapping, as no program has them.
        let mut elements = range_elements(given.iter().copied());
        elements.reverse();
        let mut found = read_ranges(&elements, family).unwrap();
        found.sort();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn no_bytes_make_the_readers_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        keys in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), any::<bool>()), 0..6),
    ) {
        let _ = Expression::read_list(&bytes);
        let mut read = vec![Element::read(&bytes)];
        read.extend(attributes(&bytes).map(|(_, value)| Element::read(value)));
        let data = || crate::element::Data::Value(bytes.clone());
        let keys: Vec<Element> =
            keys.into_iter().map(|(key, is_end)| Element { is_end, ..Element::new(key, data()) }).collect();
        for family in IpFamily::BOTH {
            for element in read.iter().flatten().chain(&keys) {
                for id in SetId::fixed() {
                    if let Some(entry) = read_entry(id, family, element) {
                        Table::default().insert(entry);
                    }
                }
            }
            let _ = read_ranges(&keys, family);
        }
    }

    /// What a policy says comes back from its rules, and rules that are not written so are none.
    #[test]
    fn rules_of_policies_are_read_back(rules in prop::collection::vec(a_rule(), 0..6), v6: bool) {
        let rules: dyad_program::rule::Chain = rules.into();
        let writer = Rules { family: if v6 { IpFamily::V6 } else { IpFamily::V4 } };
        let mut chain = writer.policy(&rules);
        prop_assert_eq!(writer.read_policy(&chain), Some(rules.clone()));
        if let Some(rule) = chain.rules.first_mut() {
            rule.expressions.insert(0, Expression::Counter);
            prop_assert_eq!(writer.read_policy(&chain), None);
        }
    }

    /// Rules with any byte changed are read as something else, or not at all; never as the same with a panic.
    #[test]
    fn damaged_rules_do_not_make_the_reader_panic(at in any::<prop::sample::Index>(), byte: u8) {
        for family in IpFamily::BOTH {
            let table = with_policies(family);
            for rule in Layout::new(family, &BTreeMap::new(), picks(), &table).chains.values().flat_map(|chain| &chain.rules) {
                let mut writer = Writer::default();
                rule.expressions.iter().for_each(|expression| expression.write(&mut writer, 1));
                let mut bytes = writer.into_bytes();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                let _ = Expression::read_list(&bytes);
            }
        }
    }
}
