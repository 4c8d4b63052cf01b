//! Another implementation beside ours.

use hickory_proto::op;
use hickory_proto::rr::RData;

use super::*;

fn wire_of(name: &hickory_proto::rr::Name) -> Name {
    Name::from_labels(name.iter()).unwrap()
}

proptest! {
    /// What we write, hickory reads as we meant it.
    #[test]
    fn hickory_reads_what_we_write(message in any_message()) {
        let theirs = op::Message::from_vec(&message.to_bytes());
        let theirs = theirs.map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(theirs.id, message.header.id);
        for (section, records) in Section::ALL.into_iter().zip([&theirs.answers, &theirs.authorities, &theirs.additionals]) {
            prop_assert_eq!(message.section(section).len(), records.len());
            for (ours, theirs) in message.section(section).iter().zip(records) {
                prop_assert_eq!((&ours.name, ours.ttl), (&wire_of(&theirs.name), theirs.ttl));
                compare(&ours.data, &theirs.data)?;
            }
        }
    }

    /// What hickory writes of what it read, we read as before: its compression differs from ours.
    #[test]
    fn we_read_what_hickory_writes(message in any_message()) {
        let theirs = op::Message::from_vec(&message.to_bytes()).unwrap().to_vec();
        let Ok(theirs) = theirs else { return Ok(()) };
        let again = Message::parse(&theirs).unwrap();
        for section in Section::ALL {
            prop_assert_eq!(again.section(section), message.section(section));
        }
    }
}

fn compare(ours: &Rdata, theirs: &RData) -> Result<(), TestCaseError> {
    match (ours, theirs) {
        (Rdata::A(ours), RData::A(theirs)) => prop_assert_eq!(*ours, theirs.0),
        (Rdata::Aaaa(ours), RData::AAAA(theirs)) => prop_assert_eq!(*ours, theirs.0),
        (Rdata::Ns(ours), RData::NS(theirs)) => prop_assert_eq!(ours, &wire_of(&theirs.0)),
        (Rdata::Cname(ours), RData::CNAME(theirs)) => prop_assert_eq!(ours, &wire_of(&theirs.0)),
        (Rdata::Ptr(ours), RData::PTR(theirs)) => prop_assert_eq!(ours, &wire_of(&theirs.0)),
        (Rdata::Mx(preference, ours), RData::MX(theirs)) => {
            prop_assert_eq!((*preference, ours), (theirs.preference, &wire_of(&theirs.exchange)));
        }
        (Rdata::Soa(ours), RData::SOA(theirs)) => {
            prop_assert_eq!(&ours.mname, &wire_of(&theirs.mname));
            prop_assert_eq!(&ours.rname, &wire_of(&theirs.rname));
            prop_assert_eq!((ours.serial, ours.minimum), (theirs.serial, theirs.minimum));
        }
        (Rdata::Srv(ours), RData::SRV(theirs)) => {
            prop_assert_eq!(&ours.target, &wire_of(&theirs.target));
            prop_assert_eq!((ours.priority, ours.weight), (theirs.priority, theirs.weight));
            prop_assert_eq!(ours.port, theirs.port);
        }
        (Rdata::Txt(ours), RData::TXT(theirs)) => prop_assert_eq!(&**ours, &*theirs.txt_data),
        (ours, theirs) => prop_assert_eq!(ours.rtype().0, u16::from(theirs.record_type())),
    }
    Ok(())
}
