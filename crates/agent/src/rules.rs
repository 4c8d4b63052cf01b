//! Services in the kernel: compile, compare, write; and mend what somebody else has broken.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dyad_nft::Executor;
use dyad_program::{Inputs, Name, NodeView, Program, compile};
use tracing::{info, warn};

use crate::view::{Table, View};
use crate::{AgentError, Config, settle};

/// How often the kernel is asked whether our tables are as we left them.
const LOOK: Duration = Duration::from_millis(800);

pub(crate) struct Rules {
    config: Config,
    executor: Executor,
}

impl Rules {
    pub(crate) fn open(config: Config) -> Result<Self, AgentError> {
        Ok(Self { config, executor: Executor::open()? })
    }

    /// Keeps the rules current for ever.
    pub(crate) async fn keep(mut self, view: Arc<View>) -> Result<(), AgentError> {
        let mut changes = view.changes();
        let mut last: Option<Program> = None;
        loop {
            if view.is_complete() {
                let program = compile(&self.inputs(&view));
                if last.as_ref() != Some(&program) {
                    match self.executor.apply(&program) {
                        Ok(applied) => {
                            info!(?applied, "Services programmed");
                            last = Some(program);
                        }
                        Err(error) => warn!(%error, "can't program Services; will be tried again"),
                    }
                }
            }
            tokio::select! {
                // The sender lives in the view that this task holds.
                _ = changes.changed() => settle().await,
                () = tokio::time::sleep(LOOK) => {
                    if last.is_some() && !matches!(self.executor.is_current(), Ok(true)) {
                        warn!("the tables were changed by somebody else: writing them anew");
                        self.executor = Executor::open()?;
                        last = None;
                    }
                }
            }
        }
    }

    fn inputs(&self, view: &View) -> Inputs {
        fn rows<T: Clone>(table: &Mutex<Table<T>>) -> BTreeMap<Name, T> {
            let table = table.lock().expect("nothing panics here");
            table
                .rows
                .iter()
                .map(|((namespace, name), row)| (Name::new(namespace, name), row.clone()))
                .collect()
        }
        let nodes = view.nodes.lock().expect("nothing panics here");
        let me = nodes.rows.get(&(String::new(), self.config.node_name.clone()));
        Inputs {
            node: NodeView {
                name: self.config.node_name.clone(),
                own_pods: me.map(|node| node.pod_ranges.clone()).unwrap_or_default(),
                cluster_pods: self.config.pod_ranges.clone(),
                services: self.config.service_ranges.clone(),
                nodes: nodes.rows.values().flat_map(|node| node.ips.iter().copied()).collect(),
            },
            services: rows(&view.services),
            slices: rows(&view.slices),
        }
    }
}
