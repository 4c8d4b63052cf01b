//! Values with functions: `.Values.a | default "b"`, `and .x (eq .y "z")`.

use serde_json::Value;

use super::is_true;

/// What stands in an action.
#[derive(Debug, PartialEq)]
pub(super) enum Expression {
    Literal(Value),
    /// The words after `.`, or after `$` if it begins there.
    Path(bool, Vec<String>),
    Call(Function, Vec<Self>),
}

/// The functions, named and meant as in Go and Sprig.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    And,
    Default,
    Eq,
    Index,
    Join,
    Not,
    Or,
    Ternary,
    ToJson,
}

impl Function {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "and" => Self::And,
            "default" => Self::Default,
            "eq" => Self::Eq,
            "index" => Self::Index,
            "join" => Self::Join,
            "not" => Self::Not,
            "or" => Self::Or,
            "ternary" => Self::Ternary,
            "toJson" => Self::ToJson,
            _ => return None,
        })
    }

    /// How many arguments it takes, at least and at most.
    const fn arguments(self) -> (usize, usize) {
        match self {
            Self::Not | Self::ToJson => (1, 1),
            Self::Default | Self::Eq | Self::Index | Self::Join => (2, 2),
            Self::Ternary => (3, 3),
            Self::And | Self::Or => (2, usize::MAX),
        }
    }

    fn call(self, of: &[Value]) -> Result<Value, String> {
        Ok(match (self, of) {
            (Self::And, all) => {
                all.iter().find(|one| !is_true(one)).or(all.last()).cloned().unwrap_or_default()
            }
            (Self::Or, all) => {
                all.iter().find(|one| is_true(one)).or(all.last()).cloned().unwrap_or_default()
            }
            (Self::Not, [one]) => Value::Bool(!is_true(one)),
            (Self::Eq, [one, other]) => Value::Bool(one == other),
            (Self::Default, [otherwise, value]) => if is_true(value) { value } else { otherwise }.clone(),
            (Self::Ternary, [yes, no, condition]) => if is_true(condition) { yes } else { no }.clone(),
            (Self::ToJson, [value]) => Value::String(value.to_string()),
            (Self::Join, [Value::String(between), Value::Array(items)]) => {
                let texts = items.iter().map(|item| match item {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                });
                Value::String(texts.collect::<Vec<_>>().join(between))
            }
            (Self::Index, [Value::Array(items), Value::Number(at)]) => {
                let item = at.as_u64().and_then(|at| items.get(usize::try_from(at).ok()?));
                item.cloned().ok_or_else(|| format!("index {at} of {} items", items.len()))?
            }
            (function, of) => return Err(format!("{function:?} of {of:?} makes no sense")),
        })
    }
}

impl Expression {
    /// Reads one, with its pipes.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let words = words(text)?;
        let mut at = 0;
        let expression =
            pipeline(&words, &mut at).map_err(|problem| format!("{{{{ {text} }}}}: {problem}"))?;
        match words.get(at) {
            None => Ok(expression),
            Some(word) => Err(format!("{{{{ {text} }}}}: {word:?} is one too many")),
        }
    }

    /// Its value, where `.` and `$` are these.
    pub(super) fn value(&self, root: &Value, dot: &Value) -> Result<Value, String> {
        match self {
            Self::Literal(value) => Ok(value.clone()),
            Self::Path(from_root, words) => {
                let start = if *from_root { root } else { dot };
                let step = |value: &'_ Value, word: &String| value.get(word).cloned();
                let found = words.iter().try_fold(start.clone(), |value, word| step(&value, word));
                found.ok_or_else(|| format!("there is no .{}", words.join(".")))
            }
            Self::Call(function, of) => {
                let values = of.iter().map(|one| one.value(root, dot)).collect::<Result<Vec<_>, _>>()?;
                function.call(&values)
            }
        }
    }
}

/// Parentheses, pipes, texts in quotes, and everything else between blanks.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '(' | ')' | '|' => 1,
            '"' => 2 + rest[1..].find('"').ok_or_else(|| format!("{text}: a text without an end"))?,
            _ => rest.find(|c: char| c.is_whitespace() || "()|\"".contains(c)).unwrap_or(rest.len()),
        };
        words.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    Ok(words)
}

fn pipeline(words: &[String], at: &mut usize) -> Result<Expression, String> {
    let mut value = command(words, at, None)?;
    while words.get(*at).is_some_and(|word| word == "|") {
        *at += 1;
        value = command(words, at, Some(value))?;
    }
    Ok(value)
}

/// A value alone, or a function with its arguments, of which the last one comes out of the pipe.
fn command(words: &[String], at: &mut usize, piped: Option<Expression>) -> Result<Expression, String> {
    let Some(function) = words.get(*at).and_then(|word| Function::named(word)) else {
        let alone = operand(words, at)?;
        return if piped.is_none() { Ok(alone) } else { Err("only functions stand behind a pipe".into()) };
    };
    *at += 1;
    let mut arguments = Vec::new();
    while words.get(*at).is_some_and(|word| word != "|" && word != ")") {
        arguments.push(operand(words, at)?);
    }
    arguments.extend(piped);
    let (least, most) = function.arguments();
    if arguments.len() < least || arguments.len() > most {
        return Err(format!("{function:?} does not take {} arguments", arguments.len()));
    }
    Ok(Expression::Call(function, arguments))
}

fn operand(words: &[String], at: &mut usize) -> Result<Expression, String> {
    let word = words.get(*at).ok_or("something is missing")?;
    *at += 1;
    let path = |from_root: bool, path: &str| {
        let words = path.split('.').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        Expression::Path(from_root, words)
    };
    Ok(match word.as_str() {
        "(" => {
            let inner = pipeline(words, at)?;
            if words.get(*at).is_none_or(|word| word != ")") {
                return Err("a parenthesis is not closed".into());
            }
            *at += 1;
            inner
        }
        "true" => Expression::Literal(true.into()),
        "false" => Expression::Literal(false.into()),
        text if text.starts_with('"') => Expression::Literal(text.trim_matches('"').into()),
        text if text.starts_with('.') => path(false, text),
        text if text.starts_with('$') => path(true, &text[1..]),
        text => match text.parse::<i64>() {
            Ok(number) => Expression::Literal(number.into()),
            Err(_) => return Err(format!("{text:?} is not known")),
        },
    })
}
