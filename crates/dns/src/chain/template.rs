//! Questions that get no answer by configuration.

use regex::Regex;

use super::{denial, names};
use crate::corefile::Template;
use crate::wire::{Message, Name, Rcode};

/// Seconds such answers hold.
const TTL: u32 = 60;

pub(super) struct Templates(Vec<Rule>);

struct Rule {
    template: Template,
    zones: Vec<Name>,
    fallthrough: Vec<Name>,
}

impl Templates {
    pub(super) fn new(templates: &[Template]) -> Self {
        let rule = |template: &Template| Rule {
            zones: names(&template.zones),
            fallthrough: names(&template.fallthrough),
            template: template.clone(),
        };
        Self(templates.iter().map(rule).collect())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The answer of the first that has one.
    pub(super) fn answer(&self, query: &Message) -> Option<Message> {
        let question = query.question()?;
        let text = question.name.to_string().to_ascii_lowercase();
        for rule in &self.0 {
            let zone = rule.zones.iter().filter(|zone| question.name.is_within(zone));
            let longest = zone.max_by_key(|zone| zone.as_wire().len());
            let kind = rule.template.kind.is_none_or(|kind| kind == question.rtype.0);
            let Some(zone) = longest.filter(|_| kind) else { continue };
            let matches = |regex: &Regex| regex.is_match(&text);
            if rule.template.matches.is_empty() || rule.template.matches.iter().any(matches) {
                let mut response = query.response(Rcode(rule.template.rcode.into()));
                response.header.authoritative = true;
                response.authority.push(denial(zone.clone(), TTL));
                return Some(response);
            }
            if !rule.fallthrough.iter().any(|zone| question.name.is_within(zone)) {
                return Some(query.response(Rcode::SERVFAIL));
            }
        }
        None
    }
}
