//! Targets that are questions: `PROTOCOL://SERVER:PORT/TYPE/NAME/EXPECTED,.../POD:PORT,...`.
//!
//! Protocols: `dns` and `dns-tcp` (the server says what is expected), `dns-search` (so does the name server of its family in
//! this pod's resolv.conf, by the search list there), `dns64` (it says addresses that stand for those expected). Names that
//! do not end with a dot lie in the cluster's domain. Nothing expected is a name without such records.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dyad_dns::ask::{self, ask};
use dyad_dns::wire::{Message, Name, Rcode, Rdata, Rtype};
use dyad_net::{IpFamily, IpNet, Pref64};

use super::{ATTEMPT, reason};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where names of the cluster lie if the search list does not tell.
const DOMAIN: &str = "cluster.local";
/// Port of name servers that `resolv.conf` names.
const PORT: u16 = 53;
/// The name that tells of prefixes (RFC 7050), its addresses, and how long prefixes are (RFC 6052 section 2.2).
const DISCOVERY: &str = "ipv4only.arpa.";
const DISCOVERED: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
const LENGTHS: [u8; 6] = [96, 64, 56, 48, 40, 32];

/// How it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Udp,
    Tcp,
    Search,
    Translated,
}

impl Manner {
    pub(super) fn named(protocol: &str) -> Option<Self> {
        match protocol {
            "dns" => Some(Self::Udp),
            "dns-tcp" => Some(Self::Tcp),
            "dns-search" => Some(Self::Search),
            "dns64" => Some(Self::Translated),
            _ => None,
        }
    }
}

/// A question, and what is expected of it.
#[derive(Debug)]
pub(super) struct Asked {
    manner: Manner,
    server: SocketAddr,
    rtype: Rtype,
    name: String,
    expected: BTreeSet<String>,
    pods: Vec<SocketAddr>,
}

impl Asked {
    pub(super) fn parse(manner: Manner, server: SocketAddr, path: &str) -> Option<Self> {
        let mut parts = path.split('/');
        let (rtype, name, expected, pods) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            manner,
            server,
            rtype: rtype.parse().ok()?,
            name: name.to_owned(),
            expected: list(expected).map(str::to_owned).collect(),
            pods: list(pods).map(str::parse).collect::<Result<_, _>>().ok()?,
        })
    }

    pub(super) fn ask(&self) -> Result<(), String> {
        match self.manner {
            Manner::Search => self.search(&Resolver::read()?),
            Manner::Udp | Manner::Tcp | Manner::Translated => self.ask_at(self.server, &domain()),
        }
    }

    /// The pods that do not say what is expected either; nothing if there is none to ask.
    pub(super) fn failing_pods(&self) -> Option<Vec<IpAddr>> {
        let domain = domain();
        let failing = self.pods.iter().filter(|pod| self.ask_at(**pod, &domain).is_err());
        (!self.pods.is_empty()).then(|| failing.map(SocketAddr::ip).collect())
    }

    fn ask_at(&self, server: SocketAddr, domain: &str) -> Result<(), String> {
        let name = match self.manner {
            // Its own namespace is what the search list begins with.
            Manner::Search => {
                Resolver::read()?.searches.first().map(|first| format!("{}.{first}.", self.name))
            }
            Manner::Udp | Manner::Tcp | Manner::Translated => None,
        };
        let name = name.unwrap_or_else(|| complete(&self.name, domain));
        let answer = question(server, &name, self.rtype, self.manner == Manner::Tcp)?;
        self.check(&answer, server, domain)
    }

    /// What a resolver of a C library does with a short name.
    fn search(&self, resolver: &Resolver) -> Result<(), String> {
        let family = IpFamily::from(self.server.ip());
        let server = resolver.servers.iter().find(|ip| IpFamily::from(**ip) == family);
        let server = server.ok_or_else(|| format!("{RESOLV_CONF} has no {family} name server"))?;
        let server = SocketAddr::new(*server, PORT);
        for name in resolver.candidates(&self.name) {
            let answer = question(server, &name, self.rtype, false)?;
            match answer.header.rcode {
                Rcode::NXDOMAIN => {}
                Rcode::NOERROR if answer.answers.is_empty() => {}
                _ => return self.check(&answer, server, DOMAIN),
            }
        }
        Err(format!("{} is in none of the {} search domains", self.name, resolver.searches.len()))
    }

    fn check(&self, answer: &Message, server: SocketAddr, domain: &str) -> Result<(), String> {
        if answer.header.rcode != Rcode::NOERROR {
            return Err(answer.header.rcode.to_string());
        }
        let found: BTreeSet<String> =
            answer.answers.iter().filter(|record| record.rtype() == self.rtype).filter_map(text).collect();
        let expected: BTreeSet<String> = match self.manner {
            Manner::Translated => self.translated(server)?,
            _ if matches!(self.rtype, Rtype::SRV | Rtype::PTR) => {
                self.expected.iter().map(|one| complete(one, domain)).collect()
            }
            _ => self.expected.clone(),
        };
        if found == expected {
            return Ok(());
        }
        let list = |of: BTreeSet<String>| of.into_iter().collect::<Vec<_>>().join(" ");
        match found.is_empty() {
            true => Err(format!("no {} record", self.rtype)),
            false => Err(format!("{} and not {}", list(found), list(expected))),
        }
    }

    /// The addresses that stand for those expected, by the prefixes that the server tells of.
    fn translated(&self, server: SocketAddr) -> Result<BTreeSet<String>, String> {
        let answer = question(server, DISCOVERY, Rtype::AAAA, false)?;
        let prefixes: BTreeSet<Pref64> =
            answer.answers.iter().filter_map(|record| prefix(&record.data)).collect();
        if prefixes.is_empty() {
            return Err(format!("{DISCOVERY} tells of no prefix"));
        }
        let targets: Vec<Ipv4Addr> = self.expected.iter().filter_map(|ip| ip.parse().ok()).collect();
        let of = |prefix: &Pref64| targets.iter().map(|ip| prefix.embed(*ip).to_string()).collect::<Vec<_>>();
        Ok(prefixes.iter().flat_map(of).collect())
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(|one| !one.is_empty())
}

/// The prefix of an address of [`DISCOVERY`].
fn prefix(data: &Rdata) -> Option<Pref64> {
    let Rdata::Aaaa(ip) = data else { return None };
    let of_length = |length: u8| {
        let IpNet::V6(net) = IpNet::new((*ip).into(), length).ok()?.trunc() else { return None };
        let prefix = Pref64::new(net).ok()?;
        prefix.extract_strict(*ip).filter(|found| DISCOVERED.contains(found)).map(|_| prefix)
    };
    LENGTHS.into_iter().find_map(of_length)
}

fn question(server: SocketAddr, name: &str, rtype: Rtype, tcp: bool) -> Result<Message, String> {
    let name: Name = name.parse().map_err(|_| format!("{name:?} is not a name"))?;
    let manner = ask::Manner { tcp, patience: ATTEMPT, attempts: 1, ..ask::Manner::default() };
    ask(server, &name, rtype, manner).map(|told| told.message).map_err(|error| reason(&error))
}

/// What a record says, if anything is expected of its kind.
fn text(record: &dyad_dns::wire::Record) -> Option<String> {
    match &record.data {
        Rdata::A(ip) => Some(ip.to_string()),
        Rdata::Aaaa(ip) => Some(ip.to_string()),
        Rdata::Srv(srv) => Some(format!("{} {}", srv.port, srv.target)),
        Rdata::Ptr(name) => Some(name.to_string()),
        _ => None,
    }
}

fn complete(name: &str, domain: &str) -> String {
    if name.ends_with('.') { name.to_owned() } else { format!("{name}.{domain}.") }
}

/// The cluster's domain, as the search list of this pod has it.
fn domain() -> String {
    let searches = Resolver::read().map(|resolver| resolver.searches).unwrap_or_default();
    let found = searches.iter().find_map(|search| search.strip_prefix("svc."));
    found.unwrap_or(DOMAIN).to_owned()
}

/// What `resolv.conf` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Resolver {
    servers: Vec<IpAddr>,
    searches: Vec<String>,
    /// Names with fewer dots are looked for in the search list first.
    ndots: usize,
}

impl Resolver {
    fn read() -> Result<Self, String> {
        let text = std::fs::read_to_string(RESOLV_CONF).map_err(|error| format!("{RESOLV_CONF}: {error}"))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut resolver = Self { ndots: 1, ..Self::default() };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    resolver.servers.extend(words.next().and_then(|ip| ip.parse::<IpAddr>().ok()));
                }
                Some("search") => {
                    resolver.searches = words.map(|word| word.trim_end_matches('.').to_owned()).collect();
                }
                Some("options") => {
                    let ndots =
                        words.filter_map(|word| word.strip_prefix("ndots:")?.parse().ok()).next_back();
                    resolver.ndots = ndots.unwrap_or(resolver.ndots);
                }
                _ => {}
            }
        }
        resolver
    }

    /// The names to ask for, in order.
    fn candidates(&self, name: &str) -> Vec<String> {
        let mut names: Vec<String> = self.searches.iter().map(|search| format!("{name}.{search}.")).collect();
        let own = if name.matches('.').count() < self.ndots { names.len() } else { 0 };
        names.insert(own, format!("{name}."));
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_and_its_search_list() {
        let text = "search a.svc.x.test svc.x.test. x.test\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:2\n";
        let resolver = Resolver::parse(text);
        assert_eq!(resolver.servers, ["10.0.0.10".parse::<IpAddr>().unwrap(), "fd00::a".parse().unwrap()]);
        assert_eq!(
            resolver.candidates("web"),
            ["web.a.svc.x.test.", "web.svc.x.test.", "web.x.test.", "web."]
        );
        assert_eq!(resolver.candidates("a.b.c")[0], "a.b.c.");
        assert_eq!(Resolver::parse("nameserver ::1").candidates("web"), ["web."]);
    }

    #[test]
    fn prefixes_are_found_in_every_length() {
        for text in
            ["64:ff9b::/96", "64:ff9b:1:fffe::/96", "2001:db8:1::/48", "2001:db8::/32", "fd00:1:2:3::/64"]
        {
            let wanted: Pref64 = text.parse().unwrap();
            for ip in DISCOVERED {
                assert_eq!(prefix(&Rdata::Aaaa(wanted.embed(ip))), Some(wanted), "{text}");
            }
        }
        assert_eq!(prefix(&Rdata::Aaaa("2001:db8::1".parse().unwrap())), None);
    }

    #[test]
    fn questions_are_read() {
        let server: SocketAddr = "[fd00::a]:53".parse().unwrap();
        let path = "SRV/_tcp._tcp.web.a.svc/8080 web.a.svc/[fd00::1]:53,10.0.0.1:53";
        let asked = Asked::parse(Manner::Udp, server, path).unwrap();
        assert_eq!((asked.rtype, asked.pods.len(), asked.expected.len()), (Rtype::SRV, 2, 1));
        assert_eq!(complete("8080 web.a.svc", "x.test"), "8080 web.a.svc.x.test.");
        assert_eq!(complete("www.example.", "x.test"), "www.example.");
        assert!(Asked::parse(Manner::Udp, server, "A/web//").unwrap().expected.is_empty());
    }
}
