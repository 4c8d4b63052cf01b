use std::fmt;

use serde_json::Value;

use super::SelectorError;
use crate::{names, wire};

/// How a requirement relates a key to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `key in (a,b)`.
    In,
    /// `key notin (a,b)`; a missing key matches.
    NotIn,
    /// `key=a`.
    Equals,
    /// `key==a`, the same as `key=a` but printed as it was written.
    DoubleEquals,
    /// `key!=a`; a missing key matches.
    NotEquals,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key>1`, for integers.
    GreaterThan,
    /// `key<1`, for integers.
    LessThan,
}

impl Operator {
    /// The operator of a `matchExpressions` or node selector entry.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "In" => Self::In,
            "NotIn" => Self::NotIn,
            "Exists" => Self::Exists,
            "DoesNotExist" => Self::DoesNotExist,
            "Gt" => Self::GreaterThan,
            "Lt" => Self::LessThan,
            _ => return None,
        })
    }
}

/// One condition on a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    /// One value for comparisons, one or more for `in` and `notin`, none for existence; in order.
    values: Vec<String>,
}

impl Requirement {
    /// A requirement whose key, number of values and values are right for its operator.
    pub fn new(
        key: impl Into<String>,
        operator: Operator,
        mut values: Vec<String>,
    ) -> Result<Self, SelectorError> {
        use Operator::{
            DoesNotExist, DoubleEquals, Equals, Exists, GreaterThan, In, LessThan, NotEquals, NotIn,
        };
        let key = key.into();
        let mut problems = Vec::new();
        let invalid = |field: &str, value: &dyn fmt::Debug, text: &str| {
            format!("{field}: Invalid value: {value:?}: {text}")
        };
        let key_problems = names::qualified_name(&key);
        if !key_problems.is_empty() {
            problems.push(invalid("key", &key, &key_problems.join("; ")));
        }
        let count = match operator {
            In | NotIn if values.is_empty() => "for 'in', 'notin' operators, values set can't be empty",
            Equals | DoubleEquals | NotEquals if values.len() != 1 => {
                "exact-match compatibility requires one single value"
            }
            Exists | DoesNotExist if !values.is_empty() => {
                "values set must be empty for exists and does not exist"
            }
            GreaterThan | LessThan if values.len() != 1 => {
                "for 'Gt', 'Lt' operators, exactly one value is required"
            }
            _ => "",
        };
        if !count.is_empty() {
            problems.push(invalid("values", &values, count));
        }
        for (index, value) in values.iter().enumerate() {
            if matches!(operator, GreaterThan | LessThan) && value.parse::<i64>().is_err() {
                let text = "for 'Gt', 'Lt' operators, the value must be an integer";
                problems.push(invalid(&format!("values[{index}]"), value, text));
            }
            let value_problems = names::label_value(value);
            if !value_problems.is_empty() {
                problems.push(invalid(&format!("values[{index}][{key}]"), value, &value_problems.join("; ")));
            }
        }
        match problems.as_slice() {
            [] => {
                values.sort_unstable();
                Ok(Self { key, operator, values })
            }
            [problem] => Err(SelectorError(problem.clone())),
            problems => Err(SelectorError(format!("[{}]", problems.join(", ")))),
        }
    }

    /// Whether a label with this value, or its absence, fulfils the requirement.
    pub fn matches(&self, value: Option<&str>) -> bool {
        let has = |value: &str| self.values.binary_search_by(|wanted| (**wanted).cmp(value)).is_ok();
        let integers = || {
            let wanted = self.values.first()?.parse::<i64>().ok()?;
            Some((value?.parse::<i64>().ok()?, wanted))
        };
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(has),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(has),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => integers().is_some_and(|(value, wanted)| value > wanted),
            Operator::LessThan => integers().is_some_and(|(value, wanted)| value < wanted),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// Requirements that all must hold (J54).
///
/// The default selects everything. Prints as the string form, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// How many requirements there are.
    pub fn len(&self) -> usize {
        self.requirements.len()
    }

    /// The selector that matches no labels at all.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Parses the string form, e.g. `a=b,c!=d,e in (f,g),h,!i`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { tokens: scan(text), position: 0 };
        parser.requirements().map(Self::of)
    }

    /// A `LabelSelector` object with `matchLabels` and `matchExpressions`; absent selects nothing, empty
    /// everything.
    pub fn from_object(object: &Value) -> Result<Self, SelectorError> {
        if object.is_null() {
            return Ok(Self::nothing());
        }
        let labels = wire::entries(object, "matchLabels").map(|(key, value)| {
            Requirement::new(key, Operator::Equals, vec![value.as_str().unwrap_or_default().to_owned()])
        });
        let expressions = wire::list(object, "matchExpressions").iter().map(|expression| {
            let name = wire::text(expression, "operator");
            let operator = match Operator::from_name(name) {
                Some(Operator::GreaterThan | Operator::LessThan) | None => {
                    return Err(SelectorError(format!("{name:?} is not a valid label selector operator")));
                }
                Some(operator) => operator,
            };
            let values = wire::texts(expression, "values").map(str::to_owned).collect();
            Requirement::new(wire::text(expression, "key"), operator, values)
        });
        Ok(Self::of(labels.chain(expressions).collect::<Result<_, _>>()?))
    }

    /// A map of labels that all must be there, as in `Service.spec.selector`; not validated.
    pub fn from_map(map: &Value) -> Self {
        let requirements = map.as_object().into_iter().flatten().map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.as_str().unwrap_or_default().to_owned()],
        });
        Self::of(requirements.collect())
    }

    fn of(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|left, right| left.key.cmp(&right.key));
        Self { requirements, nothing: false }
    }

    /// Whether the selector selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether a `labels` map (or `Null`) matches.
    pub fn matches(&self, labels: &Value) -> bool {
        self.matches_by(|key| labels.get(key).and_then(Value::as_str))
    }

    /// Whether labels match, given a way to look them up.
    pub fn matches_by<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|requirement| requirement.matches(label(&requirement.key)))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

/// What a selector's text is made of: words, and runs of operator characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'static str),
    End,
}

impl Token<'_> {
    fn literal(&self) -> &str {
        match self {
            Token::Word(text) | Token::Symbol(text) => text,
            Token::End => "",
        }
    }
}

fn scan(text: &str) -> Vec<Token<'_>> {
    const SYMBOLS: [&str; 9] = ["!=", "==", "=", "!", "(", ")", ",", ">", "<"];
    let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while !rest.is_empty() {
        let length = if let Some(symbol) = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)) {
            tokens.push(Token::Symbol(symbol));
            symbol.len()
        } else {
            let ends_word = |c: char| special(c) || matches!(c, ' ' | '\t' | '\r' | '\n');
            let length = rest.find(ends_word).unwrap_or(rest.len());
            tokens.push(Token::Word(&rest[..length]));
            length
        };
        rest = rest[length..].trim_start_matches([' ', '\t', '\r', '\n']);
    }
    tokens.push(Token::End);
    tokens
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    position: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.position).copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.position += 1;
        token
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                Token::Word(_) | Token::Symbol("!") => {}
                other => return Err(unexpected(other, "!, identifier, or 'end of string'")),
            }
            let requirement = self.requirement();
            requirements.push(
                requirement
                    .map_err(|error| SelectorError(format!("unable to parse requirement: {error}")))?,
            );
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Symbol(",") => match self.peek() {
                    Token::Word(_) | Token::Symbol("!") => {}
                    other => return Err(unexpected(other, "identifier after ','")),
                },
                other => return Err(unexpected(other, "',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let mut token = self.next();
        let negated = token == Token::Symbol("!");
        if negated {
            token = self.next();
        }
        let Token::Word(key) = token else { return Err(unexpected(token, "identifier")) };
        let problems = names::qualified_name(key);
        if !problems.is_empty() {
            // Kubernetes has no path at this point and prints that.
            return Err(SelectorError(format!("<nil>: Invalid value: {key:?}: {}", problems.join("; "))));
        }
        if negated {
            return Requirement::new(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Requirement::new(key, Operator::Exists, Vec::new());
        }
        let operator = match self.next() {
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            Token::Symbol("=") => Operator::Equals,
            Token::Symbol("==") => Operator::DoubleEquals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            other => return Err(unexpected(other, "in, notin, =, ==, !=, gt, lt")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.set()?,
            _ => vec![self.value()?],
        };
        Requirement::new(key, operator, values)
    }

    /// `(a,b)`; what is missing between commas is the empty value.
    fn set(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next() {
            Token::Symbol("(") => {}
            other => return Err(SelectorError(format!("found '{}' expected: '('", other.literal()))),
        }
        let mut values = Vec::new();
        loop {
            let value = match self.peek() {
                Token::Word(word) => {
                    self.next();
                    word
                }
                Token::Symbol("," | ")") => "",
                other => return Err(unexpected(other, "',', ')' or identifier")),
            };
            values.push(value.to_owned());
            match self.next() {
                Token::Symbol(",") => {}
                Token::Symbol(")") => break,
                other => return Err(unexpected(other, "',' or ')'")),
            }
        }
        values.sort_unstable();
        values.dedup();
        Ok(values)
    }

    fn value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(String::new());
        }
        match self.next() {
            Token::Word(word) => Ok(word.to_owned()),
            other => Err(unexpected(other, "identifier")),
        }
    }
}

fn unexpected(found: Token<'_>, expected: &str) -> SelectorError {
    SelectorError(format!("found '{}', expected: {expected}", found.literal()))
}
