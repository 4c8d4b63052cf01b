//! The compiler alone: from objects to a program, and a change of one endpoint.

use std::time::Instant;

use anyhow::Result;
use dyad_net::IpFamily;

use crate::figure::Figure;
use crate::world::{self, words};
use crate::{Plan, Report};

/// So many changes at each size.
const CHANGES: u32 = 200;

pub(crate) fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    for (services, endpoints) in crate::programming::sizes(plan) {
        let words = words(services, endpoints);
        let mut whole = Vec::new();
        let mut change = Vec::new();
        for _ in 0..plan.rounds {
            let begun = Instant::now();
            let mut compiler = world::compiler(services, endpoints);
            compiler.step();
            whole.push(begun.elapsed().as_secs_f64());
            for round in 0..CHANGES {
                let number = round * 7 % services;
                let (name, slice) = world::slice(number, endpoints, IpFamily::V4, 9000 + round as u16);
                let begun = Instant::now();
                compiler.set_slice(name, Some(slice));
                let ops = compiler.step();
                change.push(begun.elapsed().as_secs_f64() * 1e6);
                anyhow::ensure!(!ops.is_empty(), "a change that changes nothing");
            }
        }
        report.add(Figure::alone(format!("compile: {words}"), "s", &whole));
        report.add(Figure::limited(format!("compile: {words}, one slice"), "us", &change, 1_000.0));
    }
    Ok(())
}
