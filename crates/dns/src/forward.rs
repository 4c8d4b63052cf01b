//! Asking other servers (A.7): whom, how often, and what of that is believed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::corefile;
use crate::wire::{Message, Question, Rcode};

mod counters;
mod exchange;
mod health;
mod pick;
mod query;
mod resolv;
mod stream;
mod tls;
mod udp;
mod upstream;

pub use counters::{BUCKETS, Counters, UpstreamCounters};
pub use resolv::name_servers;
pub use tls::TlsError;
pub use upstream::Upstream;

/// For all attempts together.
const BUDGET: Duration = Duration::from_secs(5);
/// For one attempt.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Between looks at files of name servers.
const REREAD: Duration = Duration::from_secs(5);

/// Where random numbers come from.
pub type Dice = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Too many queries are under way.
    #[error("more than {0} queries are under way: raise max_concurrent, or look why upstreams are slow")]
    Overloaded(usize),
    /// There is nobody to ask.
    #[error("there is no upstream: the files named in forward have no name servers")]
    NoUpstream,
    /// Nobody is healthy, and that is to be the end of it.
    #[error("all upstreams are down")]
    AllDown,
    /// Nobody answered in time.
    #[error("no upstream answered in time: {0}")]
    NoAnswer(String),
    /// The query has not exactly one question.
    #[error("the query has not exactly one question")]
    Question,
}

/// What identifies queries whose answer is the same.
type Key = (Question, [bool; 3]);
type Outcome = Result<Arc<Message>, ForwardError>;

/// Servers to ask for the names of one zone.
#[derive(Clone)]
pub struct Forwarder(Arc<Inner>);

struct Inner {
    config: corefile::Forward,
    tls: Option<Arc<rustls::ClientConfig>>,
    dice: Dice,
    upstreams: RwLock<Arc<[Arc<Upstream>]>>,
    flights: Mutex<HashMap<Key, watch::Receiver<Option<Outcome>>>>,
    limit: Option<Semaphore>,
    turn: AtomicUsize,
    counters: Counters,
}

impl Forwarder {
    /// Servers as configured; reads the files that name them.
    pub fn new(config: corefile::Forward, dice: Dice) -> Result<Self, TlsError> {
        let encrypted = |to: &corefile::Upstream| {
            matches!(to, corefile::Upstream::Address { transport: corefile::Transport::Tls, .. })
        };
        let tls = config.to.iter().any(encrypted).then(|| tls::config(&config)).transpose()?;
        let limit = config.max_concurrent.map(Semaphore::new);
        let inner = Inner {
            config,
            tls,
            dice,
            upstreams: RwLock::new(Arc::new([])),
            flights: Mutex::default(),
            limit,
            turn: AtomicUsize::new(0),
            counters: Counters::default(),
        };
        inner.reread();
        Ok(Self(Arc::new(inner)))
    }

    /// The settings.
    pub fn config(&self) -> &corefile::Forward {
        &self.0.config
    }

    /// What was counted of all upstreams together.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// The servers there are now, with what was counted of each.
    pub fn upstreams(&self) -> Arc<[Arc<Upstream>]> {
        self.0.upstreams.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks again at the files that name servers.
    pub fn reread(&self) {
        self.0.reread();
    }

    /// Keeps looking at the files that name servers; returns at once if there are none.
    pub async fn watch_files(&self) {
        let is_file = |to: &corefile::Upstream| matches!(to, corefile::Upstream::File(_));
        while self.0.config.to.iter().any(is_file) {
            tokio::time::sleep(REREAD).await;
            self.0.reread();
        }
    }

    /// The answer to a query: its identifier and question are the query's, and an OPT record has only what was said of
    /// errors.
    ///
    /// Who asks for what is being asked for already gets the same answer. The query goes on when the caller is gone.
    pub async fn ask(&self, query: &Message) -> Result<Message, ForwardError> {
        let question = query.question().ok_or(ForwardError::Question)?;
        let dnssec = query.edns.as_ref().is_some_and(|edns| edns.dnssec_ok);
        let flags = [dnssec, query.header.checking_disabled, query.header.authentic_data];
        let key = (question.clone(), flags);
        let mut flight = self.join(key, query)?;
        let landed = flight.wait_for(Option::is_some).await;
        let outcome = landed.ok().and_then(|outcome| outcome.clone());
        let answer =
            outcome.unwrap_or_else(|| Err(ForwardError::NoAnswer("the query was given up".to_owned())))?;
        let mut answer = Message::clone(&answer);
        answer.header.id = query.header.id;
        answer.header.recursion_desired = query.header.recursion_desired;
        answer.questions.clone_from(&query.questions);
        Ok(answer)
    }

    fn join(&self, key: Key, query: &Message) -> Result<watch::Receiver<Option<Outcome>>, ForwardError> {
        let mut flights = self.0.flights();
        if let Some(flight) = flights.get(&key) {
            self.0.counters.coalesced.fetch_add(1, Relaxed);
            return Ok(flight.clone());
        }
        if let Some(limit) = &self.0.limit {
            match limit.try_acquire() {
                Ok(permit) => permit.forget(),
                Err(_) => {
                    self.0.counters.rejected.fetch_add(1, Relaxed);
                    return Err(ForwardError::Overloaded(self.0.config.max_concurrent.unwrap_or_default()));
                }
            }
        }
        let (sender, receiver) = watch::channel(None);
        flights.insert(key.clone(), receiver.clone());
        drop(flights);
        let (inner, mut query) = (self.0.clone(), query.clone());
        query.header.recursion_desired = true;
        tokio::spawn(async move {
            let _done = Done { inner: &inner, key };
            let outcome = inner.run(&query).await;
            sender.send_replace(Some(outcome));
        });
        Ok(receiver)
    }
}

/// Ends a flight, also if it ends by panic.
struct Done<'a> {
    inner: &'a Inner,
    key: Key,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.inner.flights().remove(&self.key);
        self.inner.limit.iter().for_each(|limit| limit.add_permits(1));
    }
}

impl Inner {
    fn flights(&self) -> MutexGuard<'_, HashMap<Key, watch::Receiver<Option<Outcome>>>> {
        // Every change is a whole one.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reread(&self) {
        let mut upstreams = self.upstreams.write().unwrap_or_else(PoisonError::into_inner);
        let known = upstreams.clone();
        let mut found: Vec<Arc<Upstream>> = Vec::new();
        for to in resolv::expand(&self.config.to) {
            if let Some(place) = upstream::Place::new(&to, &self.config)
                && !found.iter().any(|upstream| *upstream.place() == place)
            {
                let old = known.iter().find(|upstream| *upstream.place() == place).cloned();
                found.push(
                    old.unwrap_or_else(|| Arc::new(Upstream::new(place, self.tls.clone(), &self.dice))),
                );
            }
        }
        // A file that is being written, or gone for a moment, is no reason to forget everybody.
        if !found.is_empty() || known.is_empty() {
            *upstreams = found.into();
        }
    }

    async fn run(self: &Arc<Self>, query: &Message) -> Outcome {
        let mut last = String::new();
        match tokio::time::timeout(BUDGET, self.race(query, &mut last)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ForwardError::NoAnswer(last)),
        }
    }

    /// Asks one after the other, the next when one fails or lets us wait; the first good answer wins.
    async fn race(self: &Arc<Self>, query: &Message, last: &mut String) -> Outcome {
        let upstreams = self.upstreams.read().unwrap_or_else(PoisonError::into_inner).clone();
        if upstreams.is_empty() {
            return Err(ForwardError::NoUpstream);
        }
        let candidates: Vec<_> = upstreams.iter().map(|upstream| upstream.candidate(&self.config)).collect();
        if self.config.fail_fast && candidates.iter().all(|candidate| candidate.down) {
            return Err(ForwardError::AllDown);
        }
        let turn = self.turn.fetch_add(1, Relaxed);
        let order = pick::order(&candidates, self.config.policy, turn, (self.dice)());
        let mut attempts = JoinSet::new();
        let mut fallback = None;
        let mut started = 0;
        loop {
            if started < pick::attempts(order.len()) {
                let upstream = upstreams[order[started % order.len()]].clone();
                let (inner, query) = (self.clone(), query.clone());
                attempts.spawn(async move { inner.attempt(&upstream, &query).await });
                started += 1;
            }
            let next = order.get(started).map(|at| &candidates[*at]);
            let wait = pick::patience(&candidates[order[(started - 1) % order.len()]], next);
            let more = started < pick::attempts(order.len());
            let joined = tokio::select! {
                joined = attempts.join_next() => joined,
                () = tokio::time::sleep(wait), if more => continue,
            };
            match joined {
                Some(Ok(Ok(answer)))
                    if self.config.failover.iter().any(|code| u16::from(*code) == answer.header.rcode.0) =>
                {
                    *last = format!("upstreams answer {}", answer.header.rcode);
                    fallback = Some(answer);
                }
                Some(Ok(Ok(answer))) => {
                    // Those that lost tell us something, too.
                    attempts.detach_all();
                    return Ok(Arc::new(answer));
                }
                Some(Ok(Err(error))) => *last = error,
                Some(Err(error)) => *last = error.to_string(),
                None if !more => {
                    return fallback.map(Arc::new).ok_or_else(|| ForwardError::NoAnswer(last.clone()));
                }
                None => {}
            }
        }
    }

    async fn attempt(self: &Arc<Self>, upstream: &Arc<Upstream>, query: &Message) -> Result<Message, String> {
        let begin = tokio::time::Instant::now();
        upstream.counters().requests.fetch_add(1, Relaxed);
        let answered =
            tokio::time::timeout(ATTEMPT, exchange::exchange(upstream, &self.config, query, &self.dice));
        let error = match answered.await {
            Ok(Ok(answer)) => {
                upstream.succeeded(begin.elapsed());
                upstream.counters().answered(begin.elapsed(), answer.header.rcode);
                return Ok(clean(answer));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                upstream.give_up_stream();
                format!("no answer within {}s", ATTEMPT.as_secs())
            }
        };
        upstream.counters().failures.fetch_add(1, Relaxed);
        let fails = upstream.failed();
        if self.config.max_fails > 0 && fails >= self.config.max_fails {
            health::watch(upstream.clone(), self.config.clone(), self.dice.clone());
        }
        tracing::debug!(upstream = %upstream.place().at, error, "upstream did not answer");
        Err(format!("{}: {error}", upstream.place().at))
    }
}

/// What of an answer is the client's business: no OPT but errors, no code that is between us and the upstream.
fn clean(mut answer: Message) -> Message {
    answer.header.authoritative = false;
    if answer.header.rcode.0 > 0xf {
        answer.header.rcode = Rcode::SERVFAIL;
    }
    answer.edns = answer.edns.take().and_then(|mut edns| {
        edns.options.retain(|option| matches!(option, crate::wire::EdnsOption::Error(..)));
        (!edns.options.is_empty()).then_some(edns)
    });
    answer
}

#[cfg(test)]
pub(crate) mod tests;
