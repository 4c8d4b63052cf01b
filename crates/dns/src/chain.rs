//! The slow path of a server block: rewrite, templates, hosts, the cluster, DNS64 over a cache over other servers.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dyad_net::Pref64;

use crate::cache::{Asked, Cache, Hit};
use crate::corefile;
use crate::dns64::{self, Dns64, Reverse, Selection, Verdict};
use crate::forward::{Dice, Forwarder};
use crate::respond::{Local, UDP_SIZE};
use crate::wire::{
    Class, Edns, EdnsOption, Header, Message, Name, Opcode, Question, Rcode, Rdata, Record, Rtype,
};

mod chains;
mod hosts;
mod local;
mod looping;
mod rewrite;
mod template;
mod upstream;

pub use chains::Chains;
use hosts::Hosts;
use rewrite::Rewrites;
use template::Templates;
use upstream::Forward;
pub use upstream::SetupError;

/// Aliases that lead from one to the next.
const ALIASES: usize = 8;

/// The names of the cluster.
pub trait Cluster: Send + Sync {
    /// What they say to a question; `None` if it is for others to answer. Sets begin where `random` says.
    fn lookup(&self, question: &Question, random: u32) -> Option<Local>;

    /// The namespace of the pod that has an address.
    fn namespace(&self, ip: IpAddr) -> Option<String>;
}

/// What a chain lives on.
#[derive(Clone)]
pub struct World {
    /// The names of the cluster, if there is one.
    pub cluster: Option<Arc<dyn Cluster>>,
    /// Whether the translator of a prefix works now.
    pub usable: Arc<dyn Fn(Pref64) -> bool + Send + Sync>,
    /// Random numbers.
    pub dice: Dice,
}

/// A server block at work.
pub struct Chain {
    world: World,
    rewrites: Rewrites,
    templates: Templates,
    hosts: Option<Arc<Hosts>>,
    kubernetes: Option<Kubernetes>,
    cache: Option<Arc<Cache>>,
    dns64: Option<Dns64>,
    forwards: Vec<Forward>,
    probe: Mutex<Option<Name>>,
    is_looping: AtomicBool,
    /// Answers that were synthesised.
    synthesised: AtomicU64,
}

/// Where names of the cluster are answered, and where others may know more.
struct Kubernetes {
    fallthrough: Vec<Name>,
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Template,
    Cluster,
    Other,
}

impl Chain {
    /// A chain as a server block says. What `old` has learnt is taken over where the settings are the same.
    pub fn new(server: &corefile::Server, world: World, old: Option<&Self>) -> Result<Self, SetupError> {
        let forward = |settings: &corefile::Forward| {
            let mut known = old.into_iter().flat_map(|old| &old.forwards);
            match known.find(|known| known.forwarder.config() == settings) {
                Some(known) => Ok(known.clone()),
                None => Forward::new(settings, world.dice.clone()),
            }
        };
        let cache = server.cache.as_ref().map(|settings| {
            let known = old.and_then(|old| old.cache.as_ref()).filter(|known| known.config() == settings);
            known.cloned().unwrap_or_else(|| Arc::new(Cache::new(settings.clone())))
        });
        Ok(Self {
            rewrites: Rewrites::new(&server.rewrites),
            templates: Templates::new(&server.templates),
            hosts: server.hosts.as_ref().map(|settings| Arc::new(Hosts::new(settings.clone()))),
            kubernetes: server
                .kubernetes
                .as_ref()
                .map(|kubernetes| Kubernetes { fallthrough: names(&kubernetes.fallthrough) }),
            cache,
            dns64: server.dns64.clone().map(Dns64::new),
            forwards: server.forwards.iter().map(forward).collect::<Result<_, _>>()?,
            probe: Mutex::new(None),
            is_looping: AtomicBool::new(false),
            synthesised: AtomicU64::new(0),
            world,
        })
    }

    /// The memory of answers, if there is one.
    pub const fn cache(&self) -> Option<&Arc<Cache>> {
        self.cache.as_ref()
    }

    /// Whether names of the cluster are answered here.
    pub const fn has_cluster(&self) -> bool {
        self.kubernetes.is_some()
    }

    /// Whether names of the cluster get synthesised addresses.
    pub fn synthesizes_for_cluster(&self) -> bool {
        self.dns64.as_ref().is_some_and(|dns64| dns64.config().cluster_zones)
    }

    /// Who else is asked.
    pub fn forwarders(&self) -> impl Iterator<Item = &Forwarder> {
        self.forwards.iter().map(|forward| &forward.forwarder)
    }

    /// How many answers were synthesised (RFC 6147).
    pub fn synthesised(&self) -> u64 {
        self.synthesised.load(Relaxed)
    }

    /// Keeps files that were named up to date; ends with the chain.
    pub async fn watch_files(&self) {
        let mut watches = tokio::task::JoinSet::new();
        for forwarder in self.forwarders() {
            let forwarder = forwarder.clone();
            watches.spawn(async move { forwarder.watch_files().await });
        }
        if let Some(hosts) = self.hosts.clone() {
            watches.spawn(async move { hosts.watch().await });
        }
        while watches.join_next().await.is_some() {}
    }

    /// Writes the answer to `out` if it is remembered and nothing else has a say. Needs no waiting: it is for the
    /// thread that has the query, after the cluster's own names. With [`Hit::renew`], [`renew`](Self::renew) is to be
    /// called.
    pub fn quick(&self, asked: &Asked<'_>, now: Instant, out: &mut Vec<u8>) -> Option<Hit> {
        let cache = self.cache.as_ref()?;
        if self.overrides(asked.name, asked.rtype) {
            return None;
        }
        let hit = cache.answer(asked, now, false, out)?;
        // What is made of it needs to be looked into.
        let stays = self.dns64.as_ref().is_none_or(|dns64| dns64.leaves(asked.rtype, out));
        if !stays && hit.renew {
            cache.put_off(asked);
        }
        stays.then_some(hit)
    }

    /// Whether a rewriting, a template or a host goes before what the cluster or the cache says to a question; the name
    /// is in wire form.
    pub fn overrides(&self, name: &[u8], rtype: Rtype) -> bool {
        if self.rewrites.is_empty() && self.templates.is_empty() && self.hosts.is_none() {
            return false;
        }
        let Ok(name) = Name::from_wire(name) else { return true };
        let query = Message::new(Header::query(0), Some(Question::new(name, rtype)));
        self.rewrites.concern(&query)
            || self.templates.answer(&query).is_some()
            || self.hosts.as_ref().is_some_and(|hosts| hosts.answer(&query).is_some())
    }

    /// The answer to a query of a client.
    pub async fn answer(self: &Arc<Self>, query: &Message, client: IpAddr) -> Message {
        let mut answer = match self.refuse(query) {
            Some(rcode) => query.response(rcode),
            None => {
                let (rewritten, undo) = self.rewrites.apply(query);
                let answer = self.resolve(&rewritten, client, ALIASES).await;
                undo.undo(query, answer)
            }
        };
        answer.header.id = query.header.id;
        answer.header.recursion_desired = query.header.recursion_desired;
        answer.header.checking_disabled = query.header.checking_disabled;
        answer.header.recursion_available = true;
        let dnssec = query.edns.as_ref().is_some_and(|edns| edns.dnssec_ok);
        // RFC 6840 §5.8: AD only for those who understand it.
        answer.header.authentic_data &= dnssec || query.header.authentic_data;
        answer.questions.clone_from(&query.questions);
        let options = answer.edns.take().map(|edns| edns.options).unwrap_or_default();
        answer.edns = query.edns.as_ref().map(|edns| Edns {
            udp_size: UDP_SIZE,
            dnssec_ok: edns.dnssec_ok,
            options: options.into_iter().filter(|option| matches!(option, EdnsOption::Error(..))).collect(),
            version: 0,
        });
        answer
    }

    /// The code for what is not answered at all (A.3).
    fn refuse(&self, query: &Message) -> Option<Rcode> {
        if query.header.opcode != Opcode::QUERY {
            return Some(Rcode::NOTIMP);
        }
        match query.question() {
            None => Some(Rcode::FORMERR),
            Some(question) if question.class != Class::IN => Some(Rcode::REFUSED),
            Some(question) if matches!(question.rtype, Rtype::AXFR | Rtype::IXFR) => Some(Rcode::REFUSED),
            Some(_) => None,
        }
    }

    /// The answer, with synthesised addresses if the client gets some.
    async fn resolve(self: &Arc<Self>, query: &Message, client: IpAddr, aliases: usize) -> Message {
        let namespace = self.namespace(client);
        let client_of = dns64::Client { ip: client, namespace: namespace.as_deref() };
        let usable = &*self.world.usable;
        let selection = self.dns64.as_ref().and_then(|dns64| dns64.select(client_of, usable));
        let prefixes: Vec<Pref64> = selection.iter().flat_map(Selection::prefixes).collect();
        if let Some(answer) = self.probed(query) {
            return answer;
        }
        if let Some(answer) = dns64::discovery(query, &prefixes) {
            return self.discovered(query, answer).await;
        }
        let Some(dns64) = &self.dns64 else {
            return self.direct(query, client, aliases).await.0;
        };
        match dns64.reverse(query) {
            Some(Reverse::Nothing) => return query.response(Rcode::NXDOMAIN),
            Some(Reverse::Alias(target)) => {
                let asked = instead(query, target.clone(), None);
                let answer = self.direct(&asked, client, aliases).await.0;
                return dns64.alias(query, target, Some(&answer));
            }
            None => {}
        }
        let (answer, origin) = self.direct(query, client, aliases).await;
        let wanted = match origin {
            Origin::Template => false,
            Origin::Cluster => dns64.config().cluster_zones,
            // RFC 6147 §5.5: with validation, that there is no AAAA is proven first.
            Origin::Other => {
                answer.header.rcode != Rcode::SERVFAIL
                    || !self.forward(&question_name(query)).is_some_and(|forward| forward.validates(query))
            }
        };
        let Some(selection) = selection.filter(|_| wanted && dns64.concerns(query)) else { return answer };
        match dns64.judge(Some(&answer)) {
            Verdict::Keep => answer,
            Verdict::Filtered(answer) => answer,
            Verdict::AskA => {
                // One after the other: what there is no name for is not asked for twice (A.15). Clients ask for both
                // at once, so that the second is most often known, or under way.
                let asked = instead(query, question_name(query), Some(Rtype::A));
                let a = self.direct(&asked, client, aliases).await.0;
                self.synthesised.fetch_add(1, Relaxed);
                dns64.synthesise(query, Some(&answer), Some(&a), &selection)
            }
        }
    }

    /// What there is to say of prefixes. Where no addresses are synthesised, those who are asked may do so, and tell of theirs.
    async fn discovered(self: &Arc<Self>, query: &Message, own: Message) -> Message {
        let name = question_name(query);
        let is_open = query.question().is_some_and(|question| question.rtype == Rtype::AAAA)
            && own.header.rcode == Rcode::NOERROR
            && self.dns64.is_none();
        if !is_open || self.forward(&name).is_none() {
            return own;
        }
        let told = self.remembered(query).await;
        if told.header.rcode == Rcode::NOERROR && !told.answers.is_empty() { told } else { own }
    }

    #[expect(clippy::cast_possible_truncation, reason = "any 32 bits of a random number")]
    fn random(&self) -> u32 {
        (self.world.dice)() as u32
    }

    fn namespace(&self, client: IpAddr) -> Option<String> {
        let config = self.dns64.as_ref()?.config();
        let needed = !config.namespaces.is_empty() || !config.except_namespaces.is_empty();
        self.world.cluster.as_ref().filter(|_| needed)?.namespace(client.to_canonical())
    }

    /// What there really is: here, or elsewhere.
    async fn direct(self: &Arc<Self>, query: &Message, client: IpAddr, aliases: usize) -> (Message, Origin) {
        let Some(question) = query.question() else { return (query.response(Rcode::FORMERR), Origin::Other) };
        if let Some(answer) = local::answer(query).or_else(|| self.templates.answer(query)) {
            return (answer, Origin::Template);
        }
        let mut last = None;
        if let Some(hosts) = &self.hosts
            && let Some((answer, is_final)) = hosts.answer(query)
        {
            if is_final {
                return (answer, Origin::Other);
            }
            last = Some((answer, Origin::Other));
        }
        if let Some((kubernetes, cluster)) = self.kubernetes.as_ref().zip(self.world.cluster.as_ref())
            && let Some(found) = cluster.lookup(question, self.random())
        {
            let falls = found.message.header.rcode == Rcode::NXDOMAIN
                && kubernetes.fallthrough.iter().any(|zone| question.name.is_within(zone));
            if !falls {
                return (self.chase(query, found, client, aliases).await, Origin::Cluster);
            }
            last = Some((found.message, Origin::Cluster));
        }
        if question.rtype == Rtype::ANY {
            return (local::minimal(query), Origin::Other);
        }
        match (self.forward(&question.name), last) {
            (Some(_), _) => (self.remembered(query).await, Origin::Other),
            (None, Some(last)) => last,
            (None, None) => (query.response(Rcode::REFUSED), Origin::Other),
        }
    }

    /// Follows the alias of an ExternalName (A.2, row 10).
    async fn chase(
        self: &Arc<Self>,
        query: &Message,
        found: Local,
        client: IpAddr,
        aliases: usize,
    ) -> Message {
        let Local { mut message, chase } = found;
        let Some(target) = chase else { return message };
        let Some(aliases) = aliases.checked_sub(1) else {
            return query.response(Rcode::SERVFAIL);
        };
        let asked = instead(query, target, None);
        let answer = Box::pin(self.resolve(&asked, client, aliases)).await;
        message.header.rcode = answer.header.rcode;
        message.header.truncated |= answer.header.truncated;
        message.header.authentic_data = false;
        message.answers.extend(answer.answers);
        message.authority = answer.authority;
        message.edns = answer.edns;
        message
    }
}

/// The same query for another name or type.
fn instead(query: &Message, name: Name, rtype: Option<Rtype>) -> Message {
    let mut asked = query.clone();
    for question in &mut asked.questions {
        question.name = name.clone();
        question.rtype = rtype.unwrap_or(question.rtype);
    }
    asked
}

fn question_name(query: &Message) -> Name {
    query.question().map_or_else(Name::root, |question| question.name.clone())
}

/// A name of a Corefile: it was found to be one when that was read.
fn name(text: &str) -> Name {
    text.parse().unwrap_or_else(|_| Name::root())
}

fn names(texts: &[String]) -> Vec<Name> {
    texts.iter().map(|text| name(text)).collect()
}

/// The SOA of a zone of ours, under its denials.
fn denial(zone: Name, ttl: u32) -> Record {
    let under = |label: &str| zone.child(label).unwrap_or_else(|_| zone.clone());
    let soa = crate::wire::Soa {
        mname: under("ns"),
        rname: under("hostmaster"),
        serial: 1,
        refresh: 7200,
        retry: 1800,
        expire: 86_400,
        minimum: ttl,
    };
    Record::new(zone, ttl, Rdata::Soa(Box::new(soa)))
}

/// A lock whose holder never leaves things half done.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
