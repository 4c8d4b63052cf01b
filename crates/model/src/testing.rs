//! What the tests of strategies share: one request through a strategy, in the order the server has.

use std::net::IpAddr;

use dyad_net::{DualStack, IpFamily};
use serde_json::Value;

use crate::{AllocError, Allocator, ClusterNet, Context, NoObjects, Strategy};

/// Strategies of this crate's tests that use it must not allocate.
struct NoAllocator;

impl Allocator for NoAllocator {
    fn take_ip(&mut self, family: IpFamily, _wanted: Option<IpAddr>) -> Result<IpAddr, AllocError> {
        Err(AllocError::NoRange(family))
    }
    fn release_ip(&mut self, _ip: IpAddr) {}
    fn take_port(&mut self, _wanted: Option<u16>) -> Result<u16, AllocError> {
        Err(AllocError::Full)
    }
    fn release_port(&mut self, _port: u16) {}
}

/// A dual-stack cluster.
fn cluster() -> &'static ClusterNet {
    static CLUSTER: std::sync::LazyLock<ClusterNet> = std::sync::LazyLock::new(|| ClusterNet {
        service_ranges: DualStack::dual(
            IpFamily::V4,
            "10.96.0.0/16".parse().expect("a prefix"),
            "fd00:10:96::/112".parse().expect("a prefix"),
        ),
        node_ports: 30000..=32767,
    });
    &CLUSTER
}

/// The circumstances of a request.
pub(crate) fn context(subresource: &'static str) -> Context<'static> {
    Context { objects: &NoObjects, cluster: cluster(), subresource, now: "2026-01-01T00:00:00Z" }
}

/// What becomes of a new object, and what the strategy has against it.
pub(crate) fn created(strategy: &dyn Strategy, mut object: Value) -> (Value, Vec<String>) {
    let cx = context("");
    strategy.default(&mut object);
    strategy.begin_create(&mut object, &cx, &mut NoAllocator).expect("not refused");
    strategy.prepare_create(&mut object, &cx);
    let errors = strategy.validate_create(&object, &cx).iter().map(ToString::to_string).collect();
    (object, errors)
}

/// What becomes of a changed object, and what the strategy has against it.
pub(crate) fn updated(
    strategy: &dyn Strategy,
    mut object: Value,
    old: &Value,
    subresource: &'static str,
) -> (Value, Vec<String>) {
    let cx = context(subresource);
    strategy.default(&mut object);
    if subresource.is_empty() {
        strategy.begin_update(&mut object, old, &cx, &mut NoAllocator).expect("not refused");
    }
    strategy.prepare_update(&mut object, old, &cx);
    let errors = strategy.validate_update(&object, old, &cx).iter().map(ToString::to_string).collect();
    (object, errors)
}
