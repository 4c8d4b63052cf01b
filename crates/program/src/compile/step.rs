//! A step: what has changed, made into changes of the program.

use std::collections::BTreeSet;

use dyad_net::IpFamily;

use super::{Changed, Compiler};
use crate::part::Part;
use crate::service::{self, Rank, Ways};
use crate::{Entry, Frontend, Name, Op, Table, apply, diff, ranges};

impl Compiler {
    /// Compiles what has changed since the last step; the changes of the program, already made in
    /// [`program`](Self::program).
    pub fn step(&mut self) -> Vec<Op> {
        let Changed { node, services, mut frontends, local } = std::mem::take(&mut self.changed);
        let mut ops = Vec::new();
        if node {
            self.compile_ranges(&mut ops);
        }
        // Before anything leads to a pod, it is known who may come to it.
        let of_program = |op: &Op| match op {
            Op::Add(family, _) | Op::Remove(family, _) => self.program.get(*family).is_some(),
        };
        ops.extend(self.policies.step().into_iter().filter(of_program));
        for ip in local {
            let family = IpFamily::from(ip);
            let Some(table) = self.program.get(family) else { continue };
            let entry = Entry::Hairpin(ip);
            match (table.hairpin.contains(&ip), self.local.contains_key(&ip)) {
                (false, true) => ops.push(Op::Add(family, entry)),
                (true, false) => ops.push(Op::Remove(family, entry)),
                (true, true) | (false, false) => {}
            }
        }
        for (name, family) in &services {
            self.compile_service(name, *family, &mut frontends, &mut ops);
        }
        for (family, at) in frontends {
            self.compile_frontend(family, at, &mut ops);
        }
        apply(&mut self.program, &ops);
        ops
    }

    fn compile_ranges(&self, ops: &mut Vec<Op>) {
        for (family, table) in self.program.iter() {
            let of_ranges = |ranges| Table { ranges, ..Table::default() };
            let (old, new) = (table.ranges.clone(), ranges::of_node(&self.node, family));
            ops.extend(diff(family, &of_ranges(old), &of_ranges(new)));
        }
    }

    /// Compiles all frontends a Service has, and takes them out of `frontends`: what those lead to is known then.
    fn compile_service(
        &self,
        name: &Name,
        family: IpFamily,
        frontends: &mut BTreeSet<(IpFamily, Frontend)>,
        ops: &mut Vec<Op>,
    ) {
        let Some(state) = self.services.get(name) else { return };
        let (Some(service), Some(table)) = (&state.service, self.program.get(family)) else { return };
        let mut done = BTreeSet::new();
        for port in &service.ports {
            let mut ways = None;
            for (rank, at) in service::claims(service, port, family) {
                // A frontend may be claimed twice by one Service; it counts as what goes first.
                if self.winner(family, at) != Some((rank, name)) || !done.insert(at) {
                    continue;
                }
                let ways =
                    ways.get_or_insert_with(|| Ways::of(service, port, state.slices(), &self.node, family));
                ways.part(service, rank, at).changes(family, table, at, ops);
                frontends.remove(&(family, at));
            }
        }
    }

    /// Compiles one frontend for the one who has it now.
    fn compile_frontend(&self, family: IpFamily, at: Frontend, ops: &mut Vec<Op>) {
        let Some(table) = self.program.get(family) else { return };
        match self.winner(family, at) {
            None => Part::default().changes(family, table, at, ops),
            Some((Rank::HostPort, name)) => {
                let ways = self.hosted.get(name).into_iter().flat_map(|pod| pod.frontends(family));
                if let Some((_, way)) = ways.into_iter().find(|(of, _)| *of == at) {
                    let part = Part { cluster: Some(&way), local: Some(&way), sources: None };
                    part.changes(family, table, at, ops);
                }
            }
            Some((rank, name)) => {
                let Some((service, state)) =
                    self.services.get(name).and_then(|state| Some((state.service.as_ref()?, state)))
                else {
                    return;
                };
                let claims = |port| service::claims(service, port, family).any(|claim| claim == (rank, at));
                if let Some(port) = service.ports.iter().find(|port| claims(port)) {
                    let ways = Ways::of(service, port, state.slices(), &self.node, family);
                    ways.part(service, rank, at).changes(family, table, at, ops);
                }
            }
        }
    }
}
