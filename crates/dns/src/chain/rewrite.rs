//! Questions that are asked as others, and answers that are told as if they had not been.

use regex::{Captures, Regex};

use super::question_name;
use crate::corefile::{AnswerRule, Matcher, Rewrite};
use crate::wire::{Message, Name, Rdata, Record, Section};

pub(super) struct Rewrites(Vec<Rewrite>);

/// What was done to a question, to be undone in the answer.
pub(super) struct Undo<'a> {
    /// The name that was asked for in the end.
    rewritten: Name,
    rules: Vec<&'a Rewrite>,
}

impl Rewrites {
    pub(super) fn new(rules: &[Rewrite]) -> Self {
        Self(rules.to_vec())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a rule fits.
    pub(super) fn concern(&self, query: &Message) -> bool {
        !self.is_empty() && !self.apply(query).1.rules.is_empty()
    }

    /// The query as it is to be asked: by the first rule that fits, and those after it if it says so.
    pub(super) fn apply(&self, query: &Message) -> (Message, Undo<'_>) {
        let mut undo = Undo { rewritten: question_name(query), rules: Vec::new() };
        for rule in &self.0 {
            let text = undo.rewritten.to_string().to_ascii_lowercase();
            // What would be no name is no rewriting.
            let Some(other) = replace(rule, &text).and_then(|text| text.parse().ok()) else { continue };
            undo.rewritten = other;
            undo.rules.push(rule);
            if !rule.goes_on {
                break;
            }
        }
        let mut asked = query.clone();
        if !undo.rules.is_empty() {
            for question in &mut asked.questions {
                question.name = undo.rewritten.clone();
            }
        }
        (asked, undo)
    }
}

impl Undo<'_> {
    /// The answer with the names the client knows.
    pub(super) fn undo(&self, query: &Message, mut answer: Message) -> Message {
        if self.rules.is_empty() {
            return answer;
        }
        let original = question_name(query);
        for section in Section::ALL {
            for record in answer.section_mut(section) {
                // Without this the answer would be to another question.
                if record.name == self.rewritten {
                    record.name = original.clone();
                }
                self.rules.iter().rev().for_each(|rule| restore(rule, record));
            }
        }
        // What others signed is not what is said now.
        answer.header.authentic_data = false;
        answer
    }
}

fn restore(rule: &Rewrite, record: &mut Record) {
    let automatic = |name: &Name| {
        let text = name.to_string();
        let back = match &rule.matcher {
            Matcher::Prefix(from) => format!("{from}{}", text.strip_prefix(&rule.to)?),
            Matcher::Suffix(from) => format!("{}{from}", text.strip_suffix(&rule.to)?),
            Matcher::Exact(_) | Matcher::Substring(_) | Matcher::Regex(_) => return None,
        };
        back.parse().ok()
    };
    if rule.answer_auto {
        for name in std::iter::once(&mut record.name).chain(target(&mut record.data)) {
            if let Some(back) = automatic(name) {
                *name = back;
            }
        }
    }
    for AnswerRule { value, from, to } in &rule.answers {
        let name = if *value { target(&mut record.data) } else { Some(&mut record.name) };
        if let Some(name) = name
            && let Some(other) = by_regex(from, to, &name.to_string()).and_then(|text| text.parse().ok())
        {
            *name = other;
        }
    }
}

/// The name in the data of a record.
const fn target(data: &mut Rdata) -> Option<&mut Name> {
    match data {
        Rdata::Cname(name) | Rdata::Dname(name) | Rdata::Ns(name) | Rdata::Ptr(name) | Rdata::Mx(_, name) => {
            Some(name)
        }
        Rdata::Srv(srv) => Some(&mut srv.target),
        _ => None,
    }
}

/// The other name, if the rule fits.
fn replace(rule: &Rewrite, text: &str) -> Option<String> {
    match &rule.matcher {
        Matcher::Exact(from) => (text == from).then(|| rule.to.clone()),
        Matcher::Prefix(from) => Some(format!("{}{}", rule.to, text.strip_prefix(from)?)),
        Matcher::Suffix(from) => Some(format!("{}{}", text.strip_suffix(from)?, rule.to)),
        Matcher::Substring(from) => text.contains(from).then(|| text.replace(from, &rule.to)),
        Matcher::Regex(regex) => by_regex(regex, &rule.to, text),
    }
}

/// What the expression makes of a name, with or without the dot at its end.
fn by_regex(regex: &Regex, to: &str, text: &str) -> Option<String> {
    let captures = regex.captures(text).or_else(|| regex.captures(text.strip_suffix('.')?))?;
    Some(expand(to, &captures))
}

/// `{1}` is the first group.
fn expand(to: &str, captures: &Captures<'_>) -> String {
    let group = |text: String, (index, group): (usize, Option<regex::Match<'_>>)| {
        text.replace(&format!("{{{index}}}"), group.map_or("", |group| group.as_str()))
    };
    captures.iter().enumerate().fold(to.to_owned(), group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corefile::{Corefile, Disk};
    use crate::wire::{Header, Question, Rcode, Rtype};

    fn rewrites(text: &str) -> Rewrites {
        let parsed = Corefile::parse("Corefile", &format!(". {{\n{text}\n}}"), &Disk::default()).unwrap();
        Rewrites::new(&parsed.servers[0].rewrites)
    }

    fn query(text: &str) -> Message {
        Message::new(Header::query(1), Some(Question::new(text.parse().unwrap(), Rtype::A)))
    }

    #[test]
    fn questions() {
        let stop = r"
            rewrite name exact.test other.test
            rewrite name prefix pre- post-
            rewrite name suffix .old.test .new.test
            rewrite name substring mid middle
            rewrite name regex ^(.*)\.(eu|us)\.x\.test$ {2}.{1}.y.test
            rewrite name regex (.*)\.z\.test {1}..";
        let on = "
            rewrite continue name suffix .a.test .b.test
            rewrite continue name suffix .b.test .c.test
            rewrite name suffix .never.test .x.test
            rewrite name exact w.c.test last.test
            rewrite name exact last.test beyond.test";
        for (rules, from, want) in [
            (stop, "EXACT.test.", "other.test."),
            (stop, "x.exact.test.", "x.exact.test."),
            (stop, "pre-a.old.test.", "post-a.old.test."),
            (stop, "w.Old.test.", "w.new.test."),
            (stop, "old.test.", "old.test."),
            (stop, "a.mid.mid.", "a.middle.middle."),
            (stop, "w.eu.x.test.", "eu.w.y.test."),
            (stop, "w.de.x.test.", "w.de.x.test."),
            (stop, "w.z.test.", "w.z.test."),
            (on, "w.a.test.", "last.test."),
            (on, "v.a.test.", "v.c.test."),
        ] {
            let rules = rewrites(rules);
            let asked = query(from);
            let (rewritten, _) = rules.apply(&asked);
            assert_eq!(rewritten.questions[0].name.to_string(), want, "{from}");
            if from == want {
                assert_eq!(rewritten, asked);
            }
        }
    }

    #[test]
    fn answers() {
        let record = |owner: &str, data| Record::new(owner.parse().unwrap(), 60, data);
        let cname = |target: &str| Rdata::Cname(target.parse().unwrap());
        let a = || Rdata::A([192, 0, 2, 1].into());
        let of = |rules: &str, from: &str, records: &[Record]| {
            let (rules, asked) = (rewrites(rules), query(from));
            let (rewritten, undo) = rules.apply(&asked);
            let mut answer = rewritten.response(Rcode::NOERROR);
            answer.answers = records.to_vec();
            answer.header.authentic_data = true;
            let got = undo.undo(&asked, answer);
            assert!(!got.header.authentic_data);
            got.answers
                .iter()
                .map(|record| match &record.data {
                    Rdata::Cname(name) => format!("{} {name}", record.name),
                    _ => record.name.to_string(),
                })
                .collect::<Vec<_>>()
        };
        let chain = [record("w.new.test.", cname("v.new.test.")), record("v.new.test.", a())];
        let rule = "rewrite name suffix .old.test .new.test";
        assert_eq!(of(rule, "w.old.test.", &chain), ["w.old.test. v.new.test.", "v.new.test."]);
        let auto = format!("{rule} answer auto");
        assert_eq!(of(&auto, "w.old.test.", &chain), ["w.old.test. v.old.test.", "v.old.test."]);
        let by_hand = r"rewrite stop {
            name regex (.*)\.old\.test {1}.new.test
            answer name (.*)\.new\.test {1}.old.test
        }";
        assert_eq!(of(by_hand, "w.old.test.", &chain), ["w.old.test. v.new.test.", "v.old.test."]);
        let value =
            r"rewrite name regex (.*)\.old\.test {1}.new.test answer value (.*)\.new\.test\.$ {1}.else.test";
        assert_eq!(of(value, "w.old.test.", &chain), ["w.old.test. v.else.test.", "v.new.test."]);
        let prefix = "rewrite name prefix a- b- answer auto";
        assert_eq!(
            of(prefix, "a-w.test.", &[record("b-w.test.", cname("b-v.test.")), record("b-v.test.", a())]),
            ["a-w.test. a-v.test.", "a-v.test."]
        );
    }
}
