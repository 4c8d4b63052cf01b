//! Blocks and directives: what braces, snippets and imports make of the words.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::lexer::{self, Word, Words};
use super::{CorefileError, Outside};

/// Imports in imports end somewhere, or they import themselves.
const DEPTH: usize = 10;

/// A server block: its keys, and what it does.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) keys: Vec<Word>,
    pub(super) directives: Vec<Directive>,
}

/// A plugin with arguments and options.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    pub(super) name: Word,
    pub(super) arguments: Vec<Word>,
    /// Lines of its block, none of them empty.
    pub(super) options: Vec<Words>,
}

/// Reads a file with everything it imports.
pub(super) fn read(file: &str, text: &str, outside: &dyn Outside) -> Result<Vec<Block>, CorefileError> {
    let mut reader = Reader { outside, snippets: BTreeMap::new(), blocks: Vec::new() };
    reader.file(&file.into(), text, 0)?;
    Ok(reader.blocks)
}

struct Reader<'a> {
    outside: &'a dyn Outside,
    snippets: BTreeMap<String, Vec<Words>>,
    blocks: Vec<Block>,
}

type Lines = std::iter::Peekable<std::vec::IntoIter<Words>>;

impl Reader<'_> {
    fn file(&mut self, file: &Arc<str>, text: &str, depth: usize) -> Result<(), CorefileError> {
        let mut lines = lexer::lines(file, text, self.outside)?.into_iter().peekable();
        while let Some(mut line) = lines.next() {
            if let [import, pattern] = line.as_slice()
                && import.is("import")
            {
                self.import_files(pattern, depth)?;
                continue;
            }
            // Keys may go on in the next line after a comma.
            while line.last().is_some_and(|word| word.text.ends_with(','))
                && let Some(more) = lines.next()
            {
                line.extend(more);
            }
            let Some(brace) = line.pop() else { continue };
            let alone = |(name, rest): (&Word, &[Word])| rest.is_empty().then(|| name.clone());
            if let Some(early) = line.iter().find(|word| word.is("{")) {
                return Err(early.error("what follows a { must begin a line of its own"));
            }
            if !brace.is("{") {
                return Err(brace.error(format!(
                    "expected a server block, found {:?}: end the line with {{",
                    brace.text
                )));
            }
            let body = body(&brace, &mut lines)?;
            let snippet = line
                .split_first()
                .and_then(alone)
                .and_then(|name| Some(name.text.strip_prefix('(')?.strip_suffix(')')?.to_owned()));
            if let Some(name) = snippet {
                self.snippets.insert(name, body);
                continue;
            }
            let split = |word: Word| {
                let texts: Vec<String> = word.text.split(',').map(str::to_owned).collect();
                texts.into_iter().map(move |text| Word { text, ..word.clone() })
            };
            let keys = line.into_iter().flat_map(split).filter(|word| !word.text.is_empty()).collect();
            let mut directives = Vec::new();
            self.directives(body, depth, &mut directives)?;
            self.blocks.push(Block { keys, directives });
        }
        Ok(())
    }

    fn import_files(&mut self, pattern: &Word, depth: usize) -> Result<(), CorefileError> {
        for (file, text) in self.matches(pattern, depth)? {
            self.file(&file.into(), &text, depth + 1)?;
        }
        Ok(())
    }

    fn matches(&self, pattern: &Word, depth: usize) -> Result<Vec<(String, String)>, CorefileError> {
        if depth == DEPTH {
            return Err(pattern.error(format!("{} is imported by itself", pattern.text)));
        }
        self.outside
            .files(&pattern.at.file, &pattern.text)
            .map_err(|error| pattern.error(format!("can't import {}: {error}", pattern.text)))
    }

    fn directives(
        &mut self,
        lines: Vec<Words>,
        depth: usize,
        into: &mut Vec<Directive>,
    ) -> Result<(), CorefileError> {
        let mut lines = lines.into_iter().peekable();
        while let Some(line) = lines.next() {
            let mut words = line.into_iter();
            let Some(name) = words.next() else { continue };
            let mut arguments: Words = words.collect();
            if name.is("import") {
                let [pattern] = arguments.as_slice() else {
                    return Err(name.error("import takes one snippet or one pattern of files"));
                };
                if let Some(snippet) = self.snippets.get(&pattern.text).cloned() {
                    if depth == DEPTH {
                        return Err(pattern.error(format!("{} is imported by itself", pattern.text)));
                    }
                    self.directives(snippet, depth + 1, into)?;
                    continue;
                }
                for (file, text) in self.matches(pattern, depth)? {
                    let lines = lexer::lines(&file.into(), &text, self.outside)?;
                    self.directives(lines, depth + 1, into)?;
                }
                continue;
            }
            let mut options = Vec::new();
            if let Some(brace) = arguments.pop_if(|word| word.is("{")) {
                options = body(&brace, &mut lines)?;
                if let Some(nested) = options.iter().flatten().find(|word| word.is("{")) {
                    return Err(nested.error(format!("{} has no block in its block", name.text)));
                }
            }
            if let Some(brace) =
                [&name].into_iter().chain(&arguments).find(|word| word.is("{") || word.is("}"))
            {
                return Err(brace.error(format!("a {} is not expected here", brace.text)));
            }
            into.push(Directive { name, arguments, options });
        }
        Ok(())
    }
}

/// The lines up to the brace that closes `open`.
fn body(open: &Word, lines: &mut Lines) -> Result<Vec<Words>, CorefileError> {
    let mut body = Vec::new();
    let mut depth = 1_usize;
    for mut line in lines {
        let last = line.len().saturating_sub(1);
        for at in 0..line.len() {
            if line[at].is("}") {
                depth -= 1;
                if depth == 0 {
                    if let Some(after) = line.get(at + 1) {
                        return Err(after.error(format!("{:?} must begin a line of its own", after.text)));
                    }
                    line.truncate(at);
                    body.extend((!line.is_empty()).then_some(line));
                    return Ok(body);
                }
            } else if line[at].is("{") {
                if at != last {
                    return Err(line[at].error("what follows a { must begin a line of its own"));
                }
                depth += 1;
            }
        }
        body.push(line);
    }
    Err(open.error("a block that begins here never ends: add a }"))
}
