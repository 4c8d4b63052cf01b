//! The node agent: what the API says about Services and nodes becomes rules and routes of the node it runs on.
//!
//! Desired, diff, apply: watches fill a [`view::View`]; a change of it lets `dyad-program` compile what should be and
//! `dyad-nft` write the difference to the kernel. Routes go the same way. The agent works in the network namespace
//! of the thread that calls [`run`]. While the API is away, and while no agent runs at all, the kernel goes on with
//! what it has; an agent that starts adopts what it finds.
#![forbid(unsafe_code)]

mod routes;
mod rules;
mod view;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dyad_net::{DualStack, IpNet};
use kube::Client;
use tokio::task::JoinSet;

use view::View;

/// What an agent is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node it runs on.
    pub node_name: String,
    /// The cluster's pod ranges: where pods come from, and what is never masqueraded.
    pub pod_ranges: DualStack<IpNet>,
    /// The cluster's Service ranges: addresses in them without a Service are refused.
    pub service_ranges: DualStack<IpNet>,
}

/// What ends an agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The kernel does not let us program Services.
    #[error("can't program Services: {0}")]
    Rules(#[from] dyad_nft::Error),
    /// The kernel does not let us see links and routes.
    #[error("can't work on routes: {0}")]
    Routes(#[from] dyad_links::Error),
    /// A part of the agent ended, which is a bug.
    #[error("a part of the agent ended: {0}")]
    Ended(String),
}

/// Runs until `shutdown` resolves. What is in the kernel stays there.
pub async fn run(
    client: Client,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    let view = Arc::new(View::default());
    let mut tasks = JoinSet::new();
    // Opened here: sockets belong to the namespace of the thread that opens them.
    let rules = rules::Rules::open(config.clone())?;
    let routes = routes::Routes::open(config)?;
    for watch in view::watches(&client, &view) {
        tasks.spawn(async move {
            watch.await;
            Ok(())
        });
    }
    tasks.spawn(rules.keep(view.clone()));
    tasks.spawn(routes.keep(view.clone()));
    tokio::select! {
        () = shutdown => Ok(()),
        ended = tasks.join_next() => match ended {
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(AgentError::Ended(error.to_string())),
            Some(Ok(Ok(()))) | None => Err(AgentError::Ended("nothing is left to do".into())),
        },
    }
}

/// Waits a moment after a change, so that several that come together are one.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}
