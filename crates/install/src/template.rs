//! The part of Go's templates that the chart in `deploy/helm` is written in: what Helm makes of it, `dyad install` makes
//! of it, too.
//!
//! Actions are values with functions behind pipes, `if`, `else`, `range` and `end`; whitespace goes with `{{-` and `-}}`. There
//! are no variables and no named templates, so that the chart stays something one can read.

use serde_json::{Value, json};

mod expression;

use expression::Expression;

/// A template that says what this part of the language has not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TemplateError {
    line: usize,
    problem: String,
}

/// What a template consists of.
enum Piece {
    Text(String),
    Show(Expression),
    If(Expression, Vec<Self>, Vec<Self>),
    Range(Expression, Vec<Self>),
}

/// What the template makes of `root`, which is `$` everywhere and `.` outside of `range`.
pub(crate) fn render(template: &str, root: &Value) -> Result<String, TemplateError> {
    let mut tokens = tokens(template)?.into_iter();
    let (pieces, end) = block(&mut tokens, false)?;
    debug_assert!(end.is_none(), "an outermost block ends with its template");
    let mut text = String::new();
    show(&pieces, root, root, &mut text).map_err(|problem| TemplateError { line: 1, problem })?;
    Ok(text)
}

enum Token {
    Text(String),
    Action(usize, String),
}

/// Text and actions in turn, the whitespace taken away where it has to go.
fn tokens(template: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let (mut rest, mut line, mut trim) = (template, 1, false);
    while let Some(at) = rest.find("{{") {
        let (text, action) = rest.split_at(at);
        let trims = action[2..].starts_with("- ") || action[2..].starts_with("-\n");
        let start = if trim { text.trim_start() } else { text };
        tokens.push(Token::Text(if trims { start.trim_end() } else { start }.to_owned()));
        line += text.matches('\n').count();
        let Some(end) = action.find("}}") else {
            return Err(TemplateError { line, problem: "an action without an end".into() });
        };
        let inner = &action[2 + usize::from(trims)..end];
        trim = inner.ends_with('-') && inner.len() > 1;
        tokens.push(Token::Action(line, inner.trim_end_matches('-').trim().to_owned()));
        line += action[..end].matches('\n').count();
        rest = &action[end + 2..];
    }
    tokens.push(Token::Text(if trim { rest.trim_start() } else { rest }.to_owned()));
    Ok(tokens)
}

/// The pieces up to the `else` or `end` that closes the block, which is returned.
fn block(
    tokens: &mut impl Iterator<Item = Token>,
    inside: bool,
) -> Result<(Vec<Piece>, Option<String>), TemplateError> {
    let mut pieces = Vec::new();
    while let Some(token) = tokens.next() {
        let (line, action) = match token {
            Token::Text(text) => {
                pieces.push(Piece::Text(text));
                continue;
            }
            Token::Action(line, action) => (line, action),
        };
        let wrong = |problem: &str| TemplateError { line, problem: format!("{{{{ {action} }}}}: {problem}") };
        let parse = |text: &str| Expression::parse(text).map_err(|problem| TemplateError { line, problem });
        let (word, rest) = action.split_once(' ').unwrap_or((&action, ""));
        match word {
            "end" | "else" if inside && rest.is_empty() => return Ok((pieces, Some(action))),
            "end" | "else" => return Err(wrong("nothing is open")),
            "if" => {
                let condition = parse(rest)?;
                let (then, closed) = block(tokens, true)?;
                let otherwise = match closed.as_deref() {
                    Some("else") => match block(tokens, true)? {
                        (otherwise, Some(end)) if end == "end" => otherwise,
                        _ => return Err(wrong("has no end")),
                    },
                    Some(_) => Vec::new(),
                    None => return Err(wrong("has no end")),
                };
                pieces.push(Piece::If(condition, then, otherwise));
            }
            "range" => {
                let list = parse(rest)?;
                match block(tokens, true)? {
                    (body, Some(end)) if end == "end" => pieces.push(Piece::Range(list, body)),
                    _ => return Err(wrong("has no end")),
                }
            }
            _ => pieces.push(Piece::Show(parse(&action)?)),
        }
    }
    Ok((pieces, None))
}

fn show(pieces: &[Piece], root: &Value, dot: &Value, to: &mut String) -> Result<(), String> {
    for piece in pieces {
        match piece {
            Piece::Text(text) => to.push_str(text),
            Piece::Show(expression) => match expression.value(root, dot)? {
                Value::String(text) => to.push_str(&text),
                Value::Null => {}
                value => to.push_str(&value.to_string()),
            },
            Piece::If(condition, then, otherwise) => {
                let branch = if is_true(&condition.value(root, dot)?) { then } else { otherwise };
                show(branch, root, dot, to)?;
            }
            Piece::Range(list, body) => {
                if let Value::Array(items) = list.value(root, dot)? {
                    items.iter().try_for_each(|item| show(body, root, item, to))?;
                }
            }
        }
    }
    Ok(())
}

/// What counts as true in Go's templates: what is not empty.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// What a chart is rendered with.
pub(crate) fn root(values: &Value, namespace: &str, service: &str, version: &str) -> Value {
    json!({
        "Values": values,
        "Release": {"Name": "dyad", "Namespace": namespace, "Service": service},
        "Chart": {"Name": "dyad", "Version": version, "AppVersion": version},
    })
}

#[cfg(test)]
mod tests;
