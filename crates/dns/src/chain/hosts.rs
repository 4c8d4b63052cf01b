//! Names of files like `/etc/hosts`.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use dyad_net::IpFamily;

use super::{denial, name, names};
use crate::corefile;
use crate::reverse;
use crate::wire::{Message, Name, Rcode, Rdata, Record, Rtype};

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    addresses: HashMap<Name, Vec<IpAddr>>,
    names: HashMap<IpAddr, Vec<Name>>,
    /// Names that others lie below: they exist, and have no records (RFC 8020).
    above: HashSet<Name>,
}

pub(super) struct Hosts {
    settings: corefile::Hosts,
    zones: Vec<Name>,
    fallthrough: Vec<Name>,
    table: RwLock<Arc<Table>>,
}

impl Table {
    fn add(&mut self, ip: IpAddr, name: Name) {
        for below in [&name, &reverse::name(ip)] {
            self.above.extend(std::iter::successors(below.parent(), Name::parent));
        }
        let (addresses, names) =
            (self.addresses.entry(name.clone()).or_default(), self.names.entry(ip).or_default());
        if !addresses.contains(&ip) {
            addresses.push(ip);
            names.push(name);
        }
    }

    /// Adds what a text in the form of hosts(5) says; lines that are none say nothing.
    fn read(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            // Addresses of a link mean nothing to others.
            let Some(ip) = words.next().and_then(|ip| ip.parse().ok()) else { continue };
            words.filter_map(|word| word.parse().ok()).for_each(|name| self.add(ip, name));
        }
    }
}

impl Hosts {
    pub(super) fn new(settings: corefile::Hosts) -> Self {
        let hosts = Self {
            zones: names(&settings.zones),
            fallthrough: names(&settings.fallthrough),
            table: RwLock::default(),
            settings,
        };
        hosts.reread();
        hosts
    }

    fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reread(&self) {
        let mut table = Table::default();
        for (ip, texts) in &self.settings.inline {
            texts.iter().for_each(|text| table.add(*ip, name(text)));
        }
        match self.settings.file.as_ref().map(std::fs::read_to_string) {
            Some(Ok(text)) => table.read(&text),
            // A file that is gone for a moment is no reason to forget what it said.
            Some(Err(error)) if *self.table() != Table::default() => {
                tracing::warn!(file = self.settings.file, %error, "can't read hosts");
                return;
            }
            Some(Err(_)) | None => {}
        }
        if *self.table() != table {
            *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        }
    }

    /// Looks at the file from time to time; returns at once if there is none.
    pub(super) async fn watch(&self) {
        while self.settings.file.is_some() && !self.settings.reload.is_zero() {
            tokio::time::sleep(self.settings.reload).await;
            self.reread();
        }
    }

    /// The answer to a question in its zones, and whether nobody else is to be asked.
    pub(super) fn answer(&self, query: &Message) -> Option<(Message, bool)> {
        let question = query.question()?;
        let within = |zones: &[Name]| zones.iter().any(|zone| question.name.is_within(zone));
        let table = self.table();
        let ip = reverse::address(&question.name).filter(|_| !self.settings.no_reverse);
        let found = ip.and_then(|ip| table.names.get(&ip));
        let addresses = within(&self.zones).then(|| table.addresses.get(&question.name)).flatten();
        let data: Vec<Rdata> = match (question.rtype, found, addresses) {
            (Rtype::PTR, Some(names), _) => names.iter().cloned().map(Rdata::Ptr).collect(),
            (rtype, _, Some(addresses)) => {
                addresses.iter().filter(|ip| address_type(**ip) == rtype).map(|ip| address(*ip)).collect()
            }
            (_, Some(_), None) => Vec::new(),
            // All who are in the zones and are not known, do not exist, unless others may know more.
            (_, None, None) => {
                let zone = self.zone(&question.name)?;
                let exists = table.above.contains(&question.name);
                let mut response = query.response(if exists { Rcode::NOERROR } else { Rcode::NXDOMAIN });
                response.header.authoritative = true;
                response.authority.push(denial(zone.clone(), self.settings.ttl));
                return Some((response, !within(&self.fallthrough)));
            }
        };
        let mut response = query.response(Rcode::NOERROR);
        response.header.authoritative = true;
        let record = |data| Record::new(question.name.clone(), self.settings.ttl, data);
        response.answers = data.into_iter().map(record).collect();
        if response.answers.is_empty() {
            // The name has addresses of the other family only: it exists (A.3).
            let zone = self.zone(&question.name).unwrap_or(&question.name);
            response.authority.push(denial(zone.clone(), self.settings.ttl));
        }
        Some((response, true))
    }

    /// The zone a name lies in. Without one, or with the root, the rest of the world would not exist.
    fn zone(&self, name: &Name) -> Option<&Name> {
        if self.zones.iter().any(Name::is_root) {
            return None;
        }
        let zones = self.zones.iter().filter(|zone| name.is_within(zone));
        zones.max_by_key(|zone| zone.as_wire().len())
    }
}

fn address_type(ip: IpAddr) -> Rtype {
    match IpFamily::from(ip) {
        IpFamily::V4 => Rtype::A,
        IpFamily::V6 => Rtype::AAAA,
    }
}

fn address(ip: IpAddr) -> Rdata {
    match ip {
        IpAddr::V4(ip) => Rdata::A(ip),
        IpAddr::V6(ip) => Rdata::Aaaa(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::{Corefile, Disk};
    use crate::wire::{Header, Question};

    fn hosts(text: &str) -> Hosts {
        let mut parsed = Corefile::parse("Corefile", &format!(". {{\n{text}\n}}"), &Disk::default()).unwrap();
        Hosts::new(parsed.servers.remove(0).hosts.unwrap())
    }

    /// The answers to a question, if there are any to be had here; whether others may know more is `more`.
    fn ask(hosts: &Hosts, rtype: Rtype, asked: &str) -> String {
        let query = Message::new(Header::query(1), Some(Question::new(name(asked), rtype)));
        let Some((answer, is_final)) = hosts.answer(&query) else { return "-".to_owned() };
        let data = |record: &Record| match &record.data {
            Rdata::A(ip) => ip.to_string(),
            Rdata::Aaaa(ip) => ip.to_string(),
            Rdata::Ptr(name) => name.to_string(),
            other => panic!("{other:?}"),
        };
        let mut texts: Vec<_> = answer.answers.iter().map(data).collect();
        texts.extend(answer.answers.is_empty().then(|| answer.header.rcode.to_string()));
        texts.extend((!is_final).then(|| "more".to_owned()));
        texts.join(" ")
    }

    #[test]
    fn names_and_addresses() {
        let inline = "192.0.2.1 a.test b.test\n192.0.2.2 A.test\n2001:db8::1 a.test\n";
        let all = hosts(&format!("hosts {{\n{inline}fallthrough\n}}"));
        let zone = hosts(&format!("hosts /dev/null test {{\n{inline}}}"));
        let shy = hosts(&format!("hosts /dev/null test {{\n{inline}no_reverse\nfallthrough\n}}"));
        let (v4, v6) = ("1.2.0.192.in-addr.arpa.", reverse::name("2001:db8::1".parse().unwrap()).to_string());
        #[rustfmt::skip]
        let rows = [
            (&all,  Rtype::A,    "a.TEST.", "192.0.2.1 192.0.2.2"),
            (&all,  Rtype::AAAA, "a.test.", "2001:db8::1"),
            (&all,  Rtype::AAAA, "b.test.", "NOERROR"),
            (&all,  Rtype::MX,   "a.test.", "NOERROR"),
            (&all,  Rtype::A,    "c.test.", "-"),
            (&all,  Rtype::PTR,  v4,        "a.test. b.test."),
            (&all,  Rtype::PTR,  &v6,       "a.test."),
            (&all,  Rtype::A,    v4,        "NOERROR"),
            (&all,  Rtype::PTR,  "9.2.0.192.in-addr.arpa.", "-"),
            (&zone, Rtype::A,    "a.test.", "192.0.2.1 192.0.2.2"),
            (&zone, Rtype::A,    "c.test.", "NXDOMAIN"),
            (&zone, Rtype::A,    "c.org.",  "-"),
            (&zone, Rtype::PTR,  v4,        "a.test. b.test."),
            (&shy,  Rtype::A,    "c.test.", "NXDOMAIN more"),
            (&shy,  Rtype::PTR,  v4,        "-"),
        ];
        for (hosts, rtype, asked, want) in rows {
            assert_eq!(ask(hosts, rtype, asked), want, "{rtype} {asked}");
        }
    }

    #[test]
    fn names_above_others_exist() {
        let inline = "192.0.2.1 a.b.test\n2001:db8::1 a.b.test\n";
        let zones = hosts(&format!("hosts /dev/null test 192.0.2.0/24 2001:db8::/32 {{\n{inline}}}"));
        let part = hosts(&format!("hosts {{\n{inline}fallthrough\n}}"));
        let v6 = reverse::name("2001:db8::1".parse().unwrap());
        let above = v6.parent().unwrap().to_string();
        #[rustfmt::skip]
        let rows = [
            (&zones, Rtype::A,    "test.",                   "NOERROR"),
            (&zones, Rtype::AAAA, "b.TEST.",                 "NOERROR"),
            (&zones, Rtype::A,    "c.test.",                 "NXDOMAIN"),
            (&zones, Rtype::A,    "c.a.b.test.",             "NXDOMAIN"),
            (&zones, Rtype::PTR,  "2.0.192.in-addr.arpa.",   "NOERROR"),
            (&zones, Rtype::PTR,  "9.2.0.192.in-addr.arpa.", "NXDOMAIN"),
            (&zones, Rtype::PTR,  &above,                    "NOERROR"),
            // Others may have records at such a name.
            (&part,  Rtype::A,    "b.test.",                 "-"),
        ];
        for (hosts, rtype, asked, want) in rows {
            assert_eq!(ask(hosts, rtype, asked), want, "{rtype} {asked}");
        }
        let query = Message::new(Header::query(1), Some(Question::new(name("c.b.test."), Rtype::A)));
        let (answer, _) = zones.answer(&query).unwrap();
        assert_eq!(answer.authority[0].name, name("test."), "so that others remember that it does not exist");
    }

    #[test]
    fn files_are_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hosts");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("# hosts\n192.0.2.1 a.test # and so on\nfe80::1%eth0 b.test\nnonsense\n::1 localhost\n");
        let hosts = hosts(&format!("hosts {} {{\n192.0.2.9 z.test\n}}", file.display()));
        assert_eq!(ask(&hosts, Rtype::A, "a.test."), "192.0.2.1");
        assert_eq!(ask(&hosts, Rtype::A, "z.test."), "192.0.2.9");
        assert_eq!(ask(&hosts, Rtype::AAAA, "b.test."), "-");
        write("192.0.2.2 a.test");
        hosts.reread();
        assert_eq!(ask(&hosts, Rtype::A, "a.test."), "192.0.2.2");
        std::fs::remove_file(&file).unwrap();
        hosts.reread();
        assert_eq!(ask(&hosts, Rtype::A, "a.test."), "192.0.2.2", "gone for a moment");
    }
}
