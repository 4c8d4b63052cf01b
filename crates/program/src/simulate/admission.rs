//! What policy says about a leg of a packet's way.

use std::sync::Arc;

use super::{Endpoint, Node};

/// What policy says.
pub(super) struct Policy {
    pub(super) admitted: bool,
    /// What was decided, with the object that says so.
    pub(super) words: Vec<(String, Option<Arc<str>>)>,
}

impl Node<'_> {
    pub(super) fn policy(&self, _to: Option<Endpoint>) -> Policy {
        Policy { admitted: true, words: Vec::new() }
    }
}
