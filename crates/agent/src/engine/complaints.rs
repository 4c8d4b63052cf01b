//! What there is to complain about: logged once, and said on the Node while it is true.

use tracing::warn;

use crate::Status;

/// Complaints, by who has them.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// Of what is on the machine.
    pub(super) of_machine: Vec<String>,
    /// Of nodes that there is no way to.
    pub(super) of_ways: Vec<String>,
}

impl Complaints {
    pub(super) fn tell(&self, status: &mut Status) {
        let all: Vec<String> = self.of_machine.iter().chain(&self.of_ways).cloned().collect();
        for text in all.iter().filter(|text| !status.warnings.contains(text)) {
            warn!("{text}");
        }
        status.warnings = all;
    }
}
