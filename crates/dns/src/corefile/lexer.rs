//! Words of a Corefile: separated by blanks, quoted with `"`, ended by `#`.

use std::sync::Arc;

use super::{At, CorefileError, Outside};

/// A word with its place.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) at: At,
    pub(super) text: String,
    /// In quotes: never a brace, never a variable.
    pub(super) quoted: bool,
}

impl Word {
    pub(super) fn is(&self, brace: &str) -> bool {
        !self.quoted && self.text == brace
    }

    /// An error at this word.
    pub(super) fn error(&self, what: impl Into<String>) -> CorefileError {
        self.at.error(what)
    }
}

/// A line that has words.
pub(super) type Words = Vec<Word>;

/// Splits a file into lines of words.
pub(super) fn lines(file: &Arc<str>, text: &str, outside: &dyn Outside) -> Result<Vec<Words>, CorefileError> {
    let mut lexer = Lexer { chars: text.chars().peekable(), at: At { file: file.clone(), line: 1 }, outside };
    let mut lines = Vec::new();
    loop {
        let (words, more) = lexer.line()?;
        if !words.is_empty() {
            lines.push(words);
        }
        if !more {
            return Ok(lines);
        }
    }
}

struct Lexer<'a> {
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    at: At,
    outside: &'a dyn Outside,
}

impl Lexer<'_> {
    /// The words up to the end of the line, and whether there is another.
    fn line(&mut self) -> Result<(Words, bool), CorefileError> {
        let mut words = Words::new();
        loop {
            match self.chars.peek() {
                None => return Ok((words, false)),
                Some('\n') => {
                    self.chars.next();
                    self.at.line += 1;
                    return Ok((words, true));
                }
                Some('#') => while self.chars.next_if(|c| *c != '\n').is_some() {},
                Some('"') => words.push(self.quoted()?),
                // A byte order mark is no word either.
                Some(c) if c.is_whitespace() || *c == '\u{feff}' => {
                    self.chars.next();
                }
                Some(_) => words.extend(self.plain()?),
            }
        }
    }

    /// One word, or as many as its variables have.
    fn plain(&mut self) -> Result<Words, CorefileError> {
        let mut text = String::new();
        while let Some(c) = self.chars.next_if(|c| !c.is_whitespace() && *c != '#') {
            text.push(c);
        }
        let word = |text: &str| Word { at: self.at.clone(), text: text.to_owned(), quoted: false };
        Ok(self.fill(&text)?.split_whitespace().map(word).collect())
    }

    fn quoted(&mut self) -> Result<Word, CorefileError> {
        let at = self.at.clone();
        self.chars.next();
        let mut text = String::new();
        loop {
            match self.chars.next() {
                None => return Err(at.error("a quotation that begins here never ends: add a \"")),
                Some('"') => return Ok(Word { at, text, quoted: true }),
                Some('\\') if self.chars.peek() == Some(&'"') => text.extend(self.chars.next()),
                Some(c) => {
                    self.at.line += usize::from(c == '\n');
                    text.push(c);
                }
            }
        }
    }

    /// Fills in variables: `{$NAME}`, `{%NAME%}`, and the `__PILLAR__NAME__` of node caches.
    fn fill(&self, text: &str) -> Result<String, CorefileError> {
        if text.starts_with("__PILLAR__") {
            let unknown = || self.at.error(format!("{text} is not known here: write the addresses"));
            return self.outside.variable(text).ok_or_else(unknown);
        }
        let mut filled = String::new();
        let mut rest = text;
        loop {
            let found = [("{$", "}"), ("{%", "%}")]
                .into_iter()
                .filter_map(|(open, close)| {
                    let (before, after) = rest.split_once(open)?;
                    let (name, after) = after.split_once(close)?;
                    Some((before, name, after))
                })
                .min_by_key(|(before, ..)| before.len());
            let Some((before, name, after)) = found else {
                return Ok(filled + rest);
            };
            let unset = || self.at.error(format!("the environment variable {name} is not set"));
            filled += before;
            filled += &self.outside.variable(name).ok_or_else(unset)?;
            rest = after;
        }
    }
}
