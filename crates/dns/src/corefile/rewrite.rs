//! `rewrite [continue|stop] name [exact|prefix|suffix|substring|regex] FROM TO [answer ...]`.

use regex::Regex;

use super::lexer::{Word, Words};
use super::tree::Directive;
use super::{CorefileError, words};

/// Which names are another.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// This one, absolute and in lower case.
    Exact(String),
    /// Those that begin so.
    Prefix(String),
    /// Those that end so.
    Suffix(String),
    /// Those that have it somewhere.
    Substring(String),
    /// Those that match; `{1}` in the other name is the first group.
    Regex(Regex),
}

/// What names in answers become.
#[derive(Clone, Debug)]
pub struct AnswerRule {
    /// Names in the data of records, not those records are at.
    pub value: bool,
    /// Names that match.
    pub from: Regex,
    /// Become this; `{1}` is the first group.
    pub to: String,
}

/// A question is another.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// The next rule is looked at, too.
    pub goes_on: bool,
    /// Which names.
    pub matcher: Matcher,
    /// Become this.
    pub to: String,
    /// Names in answers are mapped back by what the rule did.
    pub answer_auto: bool,
    /// Names in answers.
    pub answers: Vec<AnswerRule>,
}

pub(super) fn read(directive: &Directive) -> Result<Rewrite, CorefileError> {
    let mut arguments = directive.arguments.as_slice();
    let mut goes_on = false;
    if let [first, rest @ ..] = arguments
        && matches!(first.text.as_str(), "continue" | "stop")
    {
        goes_on = first.text == "continue";
        arguments = rest;
    }
    // The rule stands in the line, or is the first line of the block.
    let mut lines: Vec<&[Word]> = directive.options.iter().map(Words::as_slice).collect();
    if !arguments.is_empty() {
        lines.insert(0, arguments);
    }
    let Some((rule, answers)) = lines.split_first() else {
        return Err(directive.name.error("rewrite needs a rule: rewrite name FROM TO"));
    };
    let [field, rest @ ..] = *rule else {
        return Err(directive.name.error("rewrite needs a rule: rewrite name FROM TO"));
    };
    if field.text != "name" {
        let what = "is not supported: only names are rewritten";
        return Err(field.error(format!("rewrite {} {what}", field.text)));
    }
    let (kind, rest) = match rest {
        [kind, rest @ ..]
            if matches!(kind.text.as_str(), "exact" | "prefix" | "suffix" | "substring" | "regex") =>
        {
            (kind.text.as_str(), rest)
        }
        _ => ("exact", rest),
    };
    let [from, to, inline @ ..] = rest else {
        return Err(field.error("rewrite name needs two names: rewrite name FROM TO"));
    };
    let lower = |word: &Word| word.text.to_ascii_lowercase();
    // A suffix or an expression may leave out the dot at the end.
    let dotted = |mut text: String| {
        if !text.ends_with('.') {
            text.push('.');
        }
        text
    };
    let (matcher, to) = match kind {
        "exact" => (Matcher::Exact(words::name(from)?), words::name(to)?),
        "prefix" => (Matcher::Prefix(lower(from)), lower(to)),
        "suffix" => (Matcher::Suffix(dotted(lower(from))), dotted(lower(to))),
        "substring" => (Matcher::Substring(lower(from)), lower(to)),
        _ => (Matcher::Regex(words::regex(from)?), lower(to)),
    };
    let mut read = Rewrite { goes_on, matcher, to, answer_auto: false, answers: Vec::new() };
    for answer in [inline].into_iter().chain(answers.iter().copied()) {
        answer_rules(&mut read, answer)?;
    }
    Ok(read)
}

/// `answer auto`, or any number of `answer [name|value] [regex] FROM TO`.
fn answer_rules(read: &mut Rewrite, mut words: &[Word]) -> Result<(), CorefileError> {
    while let [answer, rest @ ..] = words {
        if answer.text != "answer" {
            return Err(answer.error(format!("{:?} is not expected here: write answer ...", answer.text)));
        }
        if let [auto, rest @ ..] = rest
            && auto.text == "auto"
        {
            read.answer_auto = true;
            words = rest;
            continue;
        }
        let (value, rest) = match rest {
            [field, rest @ ..] if matches!(field.text.as_str(), "name" | "value") => {
                (field.text == "value", rest)
            }
            _ => (false, rest),
        };
        let rest = match rest {
            [regex, rest @ ..] if regex.text == "regex" => rest,
            _ => rest,
        };
        let [from, to, rest @ ..] = rest else {
            return Err(answer.error("answer needs auto, or an expression and a name"));
        };
        let from = words::regex(from)?;
        read.answers.push(AnswerRule { value, from, to: to.text.to_ascii_lowercase() });
        words = rest;
    }
    Ok(())
}
