//! Who acts: every controller under a name of its own, with what its role lets it do and no more (J62).

use std::fmt;
use std::sync::Arc;

use kube::Client;

/// Who watches, and holds the lease.
pub const MANAGER: &str = "kube-controller-manager";
/// Who puts pods on nodes.
pub const SCHEDULER: &str = "kube-scheduler";

type Of = dyn Fn(&str) -> Client + Send + Sync;

/// Clients by the name of who acts.
#[derive(Clone)]
pub struct Clients(Arc<Of>);

impl Clients {
    /// As `of` makes them, from [`MANAGER`], [`SCHEDULER`] and the names of controllers.
    pub fn new(of: impl Fn(&str) -> Client + Send + Sync + 'static) -> Self {
        Self(Arc::new(of))
    }

    /// The client of this name.
    pub(crate) fn of(&self, name: &str) -> Client {
        (self.0)(name)
    }
}

/// One for all of them.
impl From<Client> for Clients {
    fn from(client: Client) -> Self {
        Self::new(move |_| client.clone())
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}
