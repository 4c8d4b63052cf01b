//! What others know: from memory, or from them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Chain, name, names, question_name};
use crate::cache::{Asked, Hit};
use crate::corefile;
#[cfg(feature = "dnssec")]
use crate::dnssec::{AnchorsError, Validator};
use crate::forward::{Dice, ForwardError, Forwarder, TlsError};
use crate::wire::{Edns, EdnsOption, MAX_MESSAGE, Message, Name, Rcode, ede};

/// How long an upstream may take before an old answer is given in its place (RFC 8767 §5).
const STALE_AFTER: Duration = Duration::from_millis(1800);

/// Why others can't be asked as a `forward` says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// Certificates or keys can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Trust anchors can't be used.
    #[cfg(feature = "dnssec")]
    #[error(transparent)]
    Anchors(#[from] AnchorsError),
}

/// A `forward` at work.
#[derive(Clone)]
pub(super) struct Forward {
    pub(super) from: Name,
    except: Vec<Name>,
    pub(super) forwarder: Forwarder,
    #[cfg(feature = "dnssec")]
    validator: Option<Validator>,
}

impl Forward {
    pub(super) fn new(settings: &corefile::Forward, dice: Dice) -> Result<Self, SetupError> {
        let forwarder = Forwarder::new(settings.clone(), dice)?;
        Ok(Self {
            from: name(&settings.from),
            except: names(&settings.except),
            #[cfg(feature = "dnssec")]
            validator: match &settings.dnssec {
                Some(anchors) => Some(Validator::new(forwarder.clone(), anchors)?),
                None => None,
            },
            forwarder,
        })
    }

    /// Whether the answer to a query is validated; who says CD does that himself (RFC 4035 §3.2.2).
    pub(super) fn validates(&self, query: &Message) -> bool {
        self.forwarder.config().dnssec.is_some() && !query.header.checking_disabled
    }

    async fn ask(&self, query: &Message) -> Result<Message, ForwardError> {
        #[cfg(feature = "dnssec")]
        if let Some(validator) = self.validator.as_ref().filter(|_| self.validates(query)) {
            return validator.ask(query).await;
        }
        self.forwarder.ask(query).await
    }
}

impl Chain {
    /// Asks upstream for what is remembered, so that it is newer.
    pub fn renew(self: &Arc<Self>, query: Message) {
        drop(self.refresh(&query));
    }

    pub(super) fn forward(&self, name: &Name) -> Option<&Forward> {
        let fits = |forward: &&Forward| {
            name.is_within(&forward.from) && !forward.except.iter().any(|zone| name.is_within(zone))
        };
        self.forwards.iter().find(fits)
    }

    /// The answer of others, as it is remembered or as they give it.
    pub(super) async fn remembered(self: &Arc<Self>, query: &Message) -> Message {
        if let Some((answer, hit)) = self.find(query, false) {
            if hit.renew {
                drop(self.refresh(query));
            }
            return answer;
        }
        let mut fresh = self.refresh(query);
        let may_be_stale = self.cache.as_ref().is_some_and(|cache| cache.config().serve_stale.is_some());
        if may_be_stale {
            // RFC 8767 §5: the old answer when upstream takes too long, or fails.
            tokio::select! {
                answered = &mut fresh => {
                    let answer = answered.unwrap_or_else(|_| query.response(Rcode::SERVFAIL));
                    if answer.header.rcode != Rcode::SERVFAIL {
                        return answer;
                    }
                    return self.find(query, true).map_or(answer, |(stale, _)| stale);
                }
                () = tokio::time::sleep(STALE_AFTER) => {
                    if let Some((stale, _)) = self.find(query, true) {
                        return stale;
                    }
                }
            }
        }
        fresh.await.unwrap_or_else(|_| query.response(Rcode::SERVFAIL))
    }

    pub(super) fn find(&self, query: &Message, stale: bool) -> Option<(Message, Hit)> {
        let mut out = Vec::new();
        let asked = Asked::of(query, MAX_MESSAGE)?;
        let hit = self.cache.as_ref()?.answer(&asked, Instant::now(), stale, &mut out)?;
        Some((Message::parse(&out).ok()?, hit))
    }

    /// Asks upstream and remembers what it says, also if nobody waits for it any more.
    fn refresh(self: &Arc<Self>, query: &Message) -> tokio::task::JoinHandle<Message> {
        let (chain, query) = (self.clone(), query.clone());
        tokio::spawn(async move {
            let Some(forward) = chain.forward(&question_name(&query)) else {
                return query.response(Rcode::REFUSED);
            };
            let answer = match forward.ask(&query).await {
                Ok(answer) => answer,
                Err(error) => failure(&query, &error),
            };
            if let (Some(cache), Some(asked)) = (&chain.cache, Asked::of(&query, MAX_MESSAGE)) {
                cache.insert(&asked, &answer, Instant::now());
            }
            answer
        })
    }
}

/// What the client is told of a failure.
fn failure(query: &Message, error: &ForwardError) -> Message {
    let (rcode, code) = match error {
        ForwardError::Overloaded(_) => (Rcode::REFUSED, None),
        ForwardError::Question => (Rcode::FORMERR, None),
        ForwardError::NoUpstream | ForwardError::AllDown => {
            (Rcode::SERVFAIL, Some(ede::NO_REACHABLE_AUTHORITY))
        }
        ForwardError::NoAnswer(_) => (Rcode::SERVFAIL, Some(ede::NETWORK_ERROR)),
    };
    tracing::debug!(%error, "upstream failed");
    let mut answer = query.response(rcode);
    let option = |code| EdnsOption::Error(code, "".into());
    answer.edns = code.map(|code| Edns { options: vec![option(code)], ..Edns::default() });
    answer
}
