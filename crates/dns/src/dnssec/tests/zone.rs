//! Signed zones, and what a resolver in front of them says.

use std::collections::BTreeMap;
use std::time::SystemTime;

use hickory_net::proto::dnssec::crypto::Ed25519SigningKey;
use hickory_net::proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS, NSEC, RRSIG, SigInput};
use hickory_net::proto::dnssec::{DigestType, DnssecSigner, SigningKey as _, TBS};
use hickory_net::proto::op::{self, Query, ResponseCode};
use hickory_net::proto::rr::rdata::{A, CNAME, NS, NULL, SOA};
use hickory_net::proto::rr::{DNSClass, Name, RData, Record, RecordType, SerialNumber};
use hickory_net::proto::serialize::binary::{BinDecodable as _, BinEncodable as _};

use crate::wire::Message;

const DAY: u32 = 86_400;
const TTL: u32 = 300;

pub(super) fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub(super) fn a(last: u8) -> RData {
    RData::A(A::new(192, 0, 2, last))
}

pub(super) fn alias(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

pub(super) fn dname(target: &str) -> RData {
    RData::Unknown { code: RecordType::DNAME, rdata: NULL::with(name(target).to_bytes().unwrap()) }
}

/// A zone: sets of records with their signatures, if it is signed.
pub(super) struct Zone {
    apex: Name,
    signer: Option<DnssecSigner>,
    sets: BTreeMap<(Name, RecordType), Vec<Record>>,
}

impl Zone {
    pub(super) fn new(apex: &str, is_signed: bool) -> Self {
        let apex = name(apex);
        let signer = is_signed.then(|| {
            let key = Ed25519SigningKey::from_pkcs8(&Ed25519SigningKey::generate_pkcs8().unwrap()).unwrap();
            let dnskey = DNSKEY::from_key(&key.to_public_key().unwrap());
            DnssecSigner::new(dnskey, Box::new(key), apex.clone(), Default::default())
        });
        let mut zone = Self { apex: apex.clone(), signer, sets: BTreeMap::new() };
        let soa = SOA::new(name("ns."), name("host."), 1, 7200, 1800, 86_400, TTL);
        zone.add(&apex.to_ascii(), RData::SOA(soa));
        zone.add(&apex.to_ascii(), RData::NS(NS(name("ns."))));
        if let Some(key) = zone.signer.as_ref().map(DnssecSigner::to_dnskey) {
            zone.add(&apex.to_ascii(), RData::DNSSEC(DNSSECRData::DNSKEY(key)));
        }
        zone
    }

    /// The line of a file of trust anchors.
    pub(super) fn anchor(&self) -> String {
        format!("{} 300 IN DNSKEY {}\n", self.apex, self.signer.as_ref().unwrap().dnskey())
    }

    pub(super) fn add(&mut self, owner: &str, data: RData) {
        let record = Record::from_rdata(name(owner), TTL, data);
        self.sets.entry((name(owner), record.record_type())).or_default().push(record);
    }

    /// A delegation of `child`, which is secure if that is signed.
    pub(super) fn delegate(&mut self, child: &Self) {
        let owner = child.apex.to_ascii();
        self.add(&owner, RData::NS(NS(name("ns."))));
        if let Some(signer) = &child.signer {
            let key = signer.key().to_public_key().unwrap();
            let ds = DS::from_key(&key, &child.apex, DigestType::SHA256).unwrap();
            self.add(&owner, RData::DNSSEC(DNSSECRData::DS(ds)));
        }
    }

    /// Adds NSEC records, and signs everything but delegations.
    pub(super) fn sign(&mut self) {
        if self.signer.is_none() {
            return;
        }
        let mut names: Vec<Name> = self.sets.keys().map(|(name, _)| name.clone()).collect();
        names.dedup();
        for (at, owner) in names.iter().enumerate() {
            let next = names.get(at + 1).unwrap_or(&self.apex).clone();
            let types: Vec<_> = self.sets.keys().filter(|(name, _)| name == owner).map(|key| key.1).collect();
            let nsec = NSEC::new_cover_self(next, types);
            self.add(&owner.to_ascii(), RData::DNSSEC(DNSSECRData::NSEC(nsec)));
        }
        let keys: Vec<_> = self.sets.keys().cloned().collect();
        for (owner, rtype) in keys {
            if rtype != RecordType::NS || owner == self.apex {
                self.sign_set(&owner, rtype, -1, 1);
            }
        }
    }

    /// Signs a set anew, from one day to another.
    pub(super) fn sign_set(&mut self, owner: &Name, rtype: RecordType, from: i64, to: i64) {
        let signer = self.signer.as_ref().unwrap();
        let set = self.sets.get_mut(&(owner.clone(), rtype)).unwrap();
        set.retain(|record| record.record_type() == rtype);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let day = |days: i64| SerialNumber::new(now.wrapping_add_signed(days * i64::from(DAY)) as u32);
        let input = SigInput {
            type_covered: rtype,
            algorithm: signer.key().algorithm(),
            num_labels: owner.num_labels(),
            original_ttl: TTL,
            sig_expiration: day(to),
            sig_inception: day(from),
            key_tag: signer.calculate_key_tag().unwrap(),
            signer_name: self.apex.clone(),
        };
        let tbs = TBS::from_input(owner, DNSClass::IN, &input, set.iter()).unwrap();
        let signature = RRSIG::from_sig(input, signer.sign(&tbs).unwrap());
        set.push(Record::from_rdata(owner.clone(), TTL, RData::DNSSEC(DNSSECRData::RRSIG(signature))));
    }

    /// The records of a set with its signature, to change them.
    pub(super) fn set(&mut self, owner: &str, rtype: RecordType) -> &mut Vec<Record> {
        self.sets.get_mut(&(name(owner), rtype)).unwrap()
    }

    fn get(&self, owner: &Name, rtype: RecordType) -> Vec<Record> {
        self.sets.get(&(owner.clone(), rtype)).cloned().unwrap_or_default()
    }

    /// The NSEC record at a name, or the one that covers it.
    fn nsec(&self, owner: &Name) -> Vec<Record> {
        let before = self.sets.range(..=(owner.clone(), RecordType::ANY));
        let key = before.map(|(key, _)| key).rfind(|(_, rtype)| *rtype == RecordType::NSEC);
        key.map(|(name, rtype)| self.get(name, *rtype)).unwrap_or_default()
    }

    fn answer(&self, query: &Query, message: &mut op::Message) {
        let (asked, rtype) = (query.name(), query.query_type());
        let above = self.get(&asked.base_name(), RecordType::DNAME);
        if let Some(RData::Unknown { rdata, .. }) = above.first().map(|record| &record.data) {
            let label = asked.iter().next().unwrap();
            let target = Name::from_bytes(&rdata.anything).unwrap().prepend_label(label).unwrap();
            message.answers.extend(above);
            message.answers.push(Record::from_rdata(asked.clone(), TTL, RData::CNAME(CNAME(target))));
            return;
        }
        let wildcard = asked.base_name().prepend_label("*").unwrap();
        let exists = |owner: &Name| self.sets.keys().any(|(name, _)| owner.zone_of(name));
        let at = if exists(asked) { asked } else { &wildcard };
        let mut found = self.get(at, rtype);
        if found.is_empty() {
            found = self.get(at, RecordType::CNAME);
        }
        found.iter_mut().for_each(|record| record.name = asked.clone());
        if found.is_empty() || at != asked {
            message.authorities.extend(self.nsec(asked));
        }
        if found.is_empty() {
            message.authorities.extend(self.get(&self.apex, RecordType::SOA));
            let of_wildcard = self.nsec(&wildcard);
            if at != asked && of_wildcard != self.nsec(asked) {
                message.authorities.extend(of_wildcard);
            }
            if !exists(at) {
                message.metadata.response_code = ResponseCode::NXDomain;
            }
        }
        message.answers.extend(found);
    }
}

/// What a resolver says that knows these zones.
pub(super) fn resolve(zones: &[Zone], query: &Message) -> Message {
    let packet = op::Message::from_vec(&query.to_bytes()).unwrap();
    let mut asked = packet.queries[0].clone();
    let mut response = packet.into_response();
    for _ in 0..4 {
        let lies = |zone: &&Zone| {
            let parents = asked.query_type() == RecordType::DS && zone.apex == *asked.name();
            zone.apex.zone_of(asked.name()) && (!parents || zone.apex.is_root())
        };
        let zone = zones.iter().filter(lies).max_by_key(|zone| zone.apex.num_labels()).unwrap();
        zone.answer(&asked, &mut response);
        let last = response.answers.iter().rfind(|record| record.record_type() != RecordType::RRSIG);
        match last.map(|record| &record.data) {
            Some(RData::CNAME(CNAME(target))) if target != asked.name() => {
                asked = Query::query(target.clone(), asked.query_type());
            }
            _ => break,
        }
    }
    let mut response = Message::parse(&response.to_vec().unwrap()).unwrap();
    response.header.id = query.header.id;
    response.questions.clone_from(&query.questions);
    response
}
