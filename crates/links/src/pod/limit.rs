//! How much a pod may send and take (`Limits`): token buckets at the node's end of its link, and at an `ifb` of its own.

use std::collections::BTreeSet;

use super::name as pod_name;
use crate::{Handle, Limits, Link, LinkChange, NewLink, Result};

/// The group of all that is named by [`name`].
const GROUP: u32 = 0x6479_0003;
/// What the alias of a limiter starts with; the key follows.
const ALIAS: &str = "dyad-limit:";
/// The kind of a queue that limits.
const TOKEN_BUCKET: &str = "tbf";
/// What names of limiters start with; the digits of the pod link's name follow.
const PREFIX: &str = "dl";

/// The name of the link through which what a pod sends goes.
pub(super) fn name(key: &str) -> String {
    super::named(PREFIX, key)
}

/// Limits a pod that is there, in place of what limits it now.
pub fn limit(node: &mut Handle, key: &str, limits: &Limits) -> Result<()> {
    if !limits.any() {
        return Ok(());
    }
    let Some(link) = node.link(&pod_name(key))? else { return node.index(&pod_name(key)).map(drop) };
    let name = name(key);
    let through = NewLink { mtu: Some(link.mtu), group: GROUP, ..NewLink::named(&name) };
    node.limit(link.index, limits, &through)?;
    if limits.egress.is_some() {
        let (index, alias) = (node.index(&name)?, format!("{ALIAS}{key}"));
        node.change_link(index, &LinkChange { alias: Some(&alias), ..LinkChange::default() })?;
    }
    Ok(())
}

/// The names of pod links that are limited.
pub(super) fn limited(links: &[Link]) -> BTreeSet<String> {
    let by_limiter = limiters(links).map(|(_, key)| pod_name(key));
    let of_pods = links.iter().filter(|link| link.group == super::GROUP);
    let by_queue = of_pods.filter(|link| link.queue.as_deref() == Some(TOKEN_BUCKET));
    by_limiter.chain(by_queue.map(|link| link.name.clone())).collect()
}

/// The names of limiters whose pod links are gone.
pub(super) fn leftovers(links: &[Link]) -> impl Iterator<Item = &str> {
    let is_there = |key: &str| links.iter().any(|link| link.name == pod_name(key));
    limiters(links).filter(move |(_, key)| !is_there(key)).map(|(link, _)| &*link.name)
}

/// All limiters, each with the key of its pod.
fn limiters(links: &[Link]) -> impl Iterator<Item = (&Link, &str)> {
    let of_group = links.iter().filter(|link| link.group == GROUP);
    of_group.filter_map(|link| Some((link, link.alias.as_deref()?.strip_prefix(ALIAS)?)))
}
