//! Queries of one port, led to the chains of the Corefile in force.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use super::log::Logging;
use crate::cache::Asked;
use crate::chain::{Chain, Chains};
use crate::corefile::Corefile;
use crate::respond::{self, Client, Rules, dress};
use crate::server::{self, Answered};
use crate::wire::{Message, Name, Rtype};

/// What is in force for all ports.
#[derive(Default)]
pub(super) struct Current {
    state: RwLock<Arc<State>>,
    /// Whether the cluster's names are not always the first to be looked at.
    is_mixed: AtomicBool,
    /// Whether any query is logged.
    is_logged: AtomicBool,
    is_looping: AtomicBool,
    is_ending: AtomicBool,
}

/// What a Corefile says.
#[derive(Default)]
pub(super) struct State {
    pub(super) chains: Arc<Chains>,
    pub(super) logging: Logging,
}

impl Current {
    pub(super) fn state(&self) -> Arc<State> {
        self.read().clone()
    }

    /// The state for a moment, at less cost.
    fn read(&self) -> RwLockReadGuard<'_, Arc<State>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn chains(&self) -> Arc<Chains> {
        self.state().chains.clone()
    }

    /// Puts a Corefile in force; `zones` are those of the cluster.
    pub(super) fn set(&self, chains: Chains, corefile: &Corefile, zones: &[Name]) {
        self.is_mixed.store(is_mixed(corefile, zones), Relaxed);
        self.is_logged.store(corefile.servers.iter().any(|server| server.log.is_some()), Relaxed);
        self.is_looping.store(false, Relaxed);
        let state = State { chains: Arc::new(chains), logging: Logging::new(corefile) };
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }

    pub(super) fn set_looping(&self) {
        self.is_looping.store(true, Relaxed);
    }

    pub(super) fn is_looping(&self) -> bool {
        self.is_looping.load(Relaxed)
    }

    pub(super) fn set_ending(&self) {
        self.is_ending.store(true, Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Relaxed)
    }
}

/// Whether a query for a name of the cluster may be for somebody else: another block, a rewriting, a host.
fn is_mixed(corefile: &Corefile, zones: &[Name]) -> bool {
    corefile.servers.iter().any(|server| {
        let goes_before = !server.rewrites.is_empty()
            || !server.templates.is_empty()
            || server.hosts.is_some()
            || server.dns64.as_ref().is_some_and(|dns64| dns64.cluster_zones);
        let meets = server.zones.iter().any(|key| {
            let zone = key.zone.parse().unwrap_or_else(|_| Name::root());
            zones.iter().any(|own| own.is_within(&zone) || zone.is_within(own))
        });
        meets && (goes_before || server.kubernetes.is_none())
    })
}

/// Answers the queries of one port.
pub(super) struct Handler {
    port: u16,
    current: Arc<Current>,
    rules: Rules,
}

impl Handler {
    pub(super) const fn new(port: u16, current: Arc<Current>, rules: Rules) -> Self {
        Self { port, current, rules }
    }

    fn chain(&self, name: &[u8]) -> Option<Arc<Chain>> {
        self.current.state().chains.find(self.port, name).cloned()
    }
}

impl server::Handler for Handler {
    fn claims(&self, packet: &[u8]) -> bool {
        if !self.current.is_mixed.load(Relaxed) {
            return false;
        }
        let Some((name, rtype)) = respond::question(packet) else { return false };
        match self.chain(name.as_wire()) {
            Some(chain) => {
                !chain.has_cluster()
                    || rtype == Rtype::AAAA && chain.synthesizes_for_cluster()
                    || chain.overrides(name.as_wire(), rtype)
            }
            None => true,
        }
    }

    fn recall(
        &self,
        packet: &[u8],
        client: &Client,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Option<&'static str> {
        respond::with_asked(packet, &self.rules, client, |asked: &Asked<'_>| {
            let state = self.current.read();
            let chain = state.chains.find(self.port, asked.name)?;
            let hit = chain.quick(asked, now, out)?;
            if hit.renew {
                chain.renew(Message::parse(packet).ok()?);
            }
            Some("cache")
        })
    }

    async fn handle(&self, query: Vec<u8>, client: Client) -> Option<Answered> {
        let message = Message::parse(&query).ok();
        let name = message.as_ref().and_then(Message::question).map(|question| question.name.to_lowercase());
        let chain = name.and_then(|name| self.chain(name.as_wire()));
        let (Some(message), Some(chain)) = (message, chain) else {
            // Nobody here has a say in this name.
            let mut bytes = Vec::new();
            let refused = respond::refuse(&query, crate::wire::Rcode::REFUSED, false, &mut bytes);
            return refused.then_some(Answered { bytes, plugin: "" });
        };
        let mut answer = chain.answer(&message, client.peer.ip()).await;
        dress(&query, &self.rules, &client, &mut answer);
        Some(Answered { bytes: answer.to_bytes(), plugin: "forward" })
    }

    fn answered(&self, packet: &[u8], response: &[u8], client: &Client, took: Duration) {
        if self.current.is_logged.load(Relaxed) {
            self.current.state().logging.tell(self.port, packet, response, client, took);
        }
    }
}
