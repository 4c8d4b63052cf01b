//! Services whose traffic policy is Local while this node has no endpoint of theirs, as kube-proxy counts them.

use std::collections::{BTreeMap, BTreeSet};

use dyad_net::IpFamily;
use dyad_program::{Action, Compiler, Entry, Frontend, Op, Owner, Scope};

use crate::metrics::Traffic;

/// The frontends that drop, with the Services they belonged to when they began to.
#[derive(Debug, Default)]
pub(super) struct NoLocal(BTreeMap<(IpFamily, Scope, Frontend), Owner>);

impl NoLocal {
    /// Takes in changes of the program; whether they changed anything here.
    pub(super) fn follow(&mut self, compiler: &Compiler, ops: &[Op]) -> bool {
        let mut changed = false;
        for op in ops {
            match op {
                Op::Add(family, Entry::Frontend(scope, at, Action::Drop)) => {
                    if let Some(owner) = compiler.owner(*family, *at) {
                        changed |= self.0.insert((*family, *scope, *at), owner).is_none();
                    }
                }
                Op::Remove(family, Entry::Frontend(scope, at, Action::Drop)) => {
                    changed |= self.0.remove(&(*family, *scope, *at)).is_some();
                }
                Op::Add(..) | Op::Remove(..) => {}
            }
        }
        changed
    }

    /// How many Services there are, by family and by where their traffic comes from.
    pub(super) fn counts(&self) -> BTreeMap<(IpFamily, Traffic), usize> {
        let mut services: BTreeMap<(IpFamily, Traffic), BTreeSet<&Owner>> = BTreeMap::new();
        for ((family, scope, _), owner) in &self.0 {
            let traffic = match scope {
                // Own pods and processes may go anywhere but by `internalTrafficPolicy`.
                Scope::Cluster => Traffic::Internal,
                Scope::Local => Traffic::External,
            };
            services.entry((*family, traffic)).or_default().insert(owner);
        }
        services.into_iter().map(|(key, owners)| (key, owners.len())).collect()
    }
}
