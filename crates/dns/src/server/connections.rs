//! How many connections there are, and whose.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Config, client_prefix};

/// Lets this process have as many descriptors as it may have: by default those are as many as connections can take, and
/// then there is none left to ask an upstream with.
pub(super) fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Whoever forbids it must live with fewer.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Connections by client.
#[derive(Clone, Debug)]
pub(super) struct Connections(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: usize,
    per_client: usize,
    /// How many there are in all, and of each client.
    open: Mutex<(usize, HashMap<IpAddr, usize>)>,
}

/// A connection, as long as it is held.
#[derive(Debug)]
pub(super) struct Held {
    of: Connections,
    client: IpAddr,
}

impl Connections {
    pub(super) fn new(config: &Config) -> Self {
        let (all, per_client) = (config.connections, config.connections_per_client);
        Self(Arc::new(Inner { all, per_client, open: Mutex::default() }))
    }

    /// One more for a client, if it may have that.
    pub(super) fn take(&self, client: IpAddr) -> Option<Held> {
        let client = client_prefix(client);
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, of_client) = (open.0, open.1.get(&client).copied().unwrap_or_default());
        if all >= self.0.all || of_client >= self.0.per_client {
            return None;
        }
        open.0 += 1;
        open.1.insert(client, of_client + 1);
        Some(Held { of: self.clone(), client })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut open = self.of.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.0 -= 1;
        if let Some(count) = open.1.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.1.remove(&self.client);
            }
        }
    }
}
