//! The JSONPath of printer columns and selectable fields: names, indexes, wildcards and filters by one comparison.

use serde_json::Value;

/// A path that was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Name(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    /// `[?(@.type=="Ready")]`
    Filter {
        path: Vec<Step>,
        compare: Option<(Compare, Value)>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Compare {
    Equal,
    Different,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

/// Most steps of a path: as deep as an object may be.
const STEPS_MAX: usize = 128;

impl Path {
    /// Reads a path like `.status.conditions[?(@.type=="Ready")].status`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut rest = text;
        let steps = steps(&mut rest, false)?;
        if rest.is_empty() {
            Ok(Self(steps))
        } else {
            Err(format!("unrecognized character in path: {rest:?}"))
        }
    }

    /// What is at the path; more than one where it says so.
    pub(crate) fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        find(&self.0, vec![object])
    }

    /// The fields that lead to one value, if the path is nothing else.
    pub(crate) fn fields(&self) -> Option<Vec<&str>> {
        self.0
            .iter()
            .map(|step| if let Step::Name(name) = step { Some(name.as_str()) } else { None })
            .collect()
    }
}

fn find<'a>(steps: &[Step], mut found: Vec<&'a Value>) -> Vec<&'a Value> {
    for step in steps {
        found = found.into_iter().flat_map(|value| take(step, value)).collect();
    }
    found
}

fn take<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    let items = value.as_array().map_or(&[][..], Vec::as_slice);
    let place = |index: i64| {
        let from_end = i64::try_from(items.len()).unwrap_or(i64::MAX) + index;
        usize::try_from(if index < 0 { from_end } else { index }).unwrap_or(usize::MAX)
    };
    match step {
        Step::Name(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => items.get(place(*index)).into_iter().collect(),
        Step::Slice(from, to) => {
            let to = to.map_or(items.len(), place).min(items.len());
            items.get(from.map_or(0, place)..to).into_iter().flatten().collect()
        }
        Step::All => match value {
            Value::Object(map) => map.values().collect(),
            _ => items.iter().collect(),
        },
        Step::Filter { path, compare } => {
            let passes = |item: &&Value| {
                let found = find(path, vec![*item]);
                match (found.as_slice(), compare) {
                    ([], _) => false,
                    (_, None) => true,
                    ([left, ..], Some((compare, right))) => holds(*compare, left, right),
                }
            };
            items.iter().filter(passes).collect()
        }
    }
}

fn holds(compare: Compare, left: &Value, right: &Value) -> bool {
    let order = match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        (Value::Number(left), Value::Number(right)) => {
            left.as_f64().zip(right.as_f64()).and_then(|(left, right)| left.partial_cmp(&right))
        }
        _ => None,
    };
    let Some(order) = order else { return false };
    match compare {
        Compare::Equal => order.is_eq(),
        Compare::Different => order.is_ne(),
        Compare::Less => order.is_lt(),
        Compare::LessOrEqual => order.is_le(),
        Compare::More => order.is_gt(),
        Compare::MoreOrEqual => order.is_ge(),
    }
}

/// Reads steps; those of a filter end where its comparison begins.
fn steps(rest: &mut &str, filter: bool) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if steps.len() >= STEPS_MAX {
            return Err(format!("a path has at most {STEPS_MAX} steps"));
        }
        if let Some(after) = rest.strip_prefix('.') {
            *rest = after;
            if rest.starts_with('[') {
                continue;
            }
            if let Some(after) = rest.strip_prefix('*') {
                *rest = after;
                steps.push(Step::All);
                continue;
            }
            let name = name(rest);
            if !name.is_empty() {
                steps.push(Step::Name(name));
            } else if rest.starts_with('.') {
                return Err("recursive descent is not supported".to_owned());
            }
        } else if let Some(after) = rest.strip_prefix('[') {
            *rest = after;
            steps.push(bracket(rest)?);
        } else if filter {
            break;
        } else if steps.is_empty() {
            // `metadata.name`: the first dot may be left out.
            let name = name(rest);
            if name.is_empty() {
                return Err(format!("unrecognized character in path: {rest:?}"));
            }
            steps.push(Step::Name(name));
        } else {
            return Err(format!("unrecognized character in path: {rest:?}"));
        }
    }
    Ok(steps)
}

/// A name up to the next step; a backslash takes the meaning of what follows away.
fn name(rest: &mut &str) -> String {
    let mut name = String::new();
    let mut letters = rest.char_indices();
    let mut end = rest.len();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
            '.' | '[' | ']' | ' ' | '=' | '!' | '<' | '>' | ')' | '{' | '}' | '@' | '$' => {
                end = at;
                break;
            }
            letter => name.push(letter),
        }
    }
    *rest = &rest[end..];
    name
}

/// What is in brackets, of which the first has been read.
fn bracket(rest: &mut &str) -> Result<Step, String> {
    if let Some(after) = rest.strip_prefix("?(") {
        *rest = after;
        return filter(rest);
    }
    let quote = rest.chars().next().filter(|first| matches!(first, '\'' | '"'));
    if let Some(quote) = quote {
        let (name, after) =
            rest[1..].split_once(quote).ok_or_else(|| "unterminated quoted name in brackets".to_owned())?;
        *rest = after.strip_prefix(']').ok_or_else(|| "unterminated array".to_owned())?;
        return Ok(Step::Name(name.to_owned()));
    }
    let (inside, after) = rest.split_once(']').ok_or_else(|| "unterminated array".to_owned())?;
    *rest = after;
    let number = |text: &str| {
        let text = text.trim();
        let read = || text.parse::<i64>().map_err(|_| format!("invalid array index {text}"));
        if text.is_empty() { Ok(None) } else { read().map(Some) }
    };
    match inside.split_once(':') {
        _ if inside == "*" => Ok(Step::All),
        Some((from, to)) => Ok(Step::Slice(number(from)?, number(to)?)),
        None => number(inside)?.map(Step::Index).ok_or_else(|| "invalid array index ".to_owned()),
    }
}

fn filter(rest: &mut &str) -> Result<Step, String> {
    *rest = rest.trim_start();
    *rest = rest.strip_prefix('@').ok_or_else(|| "a filter begins with @".to_owned())?;
    let path = steps(rest, true)?;
    *rest = rest.trim_start();
    const OPERATORS: [(&str, Compare); 6] = [
        ("==", Compare::Equal),
        ("!=", Compare::Different),
        ("<=", Compare::LessOrEqual),
        (">=", Compare::MoreOrEqual),
        ("<", Compare::Less),
        (">", Compare::More),
    ];
    let operator = OPERATORS.iter().find_map(|(text, compare)| Some((rest.strip_prefix(text)?, *compare)));
    let compare = match operator {
        None => None,
        Some((after, compare)) => {
            *rest = after.trim_start();
            Some((compare, literal(rest)?))
        }
    };
    *rest = rest.trim_start();
    *rest = rest.strip_prefix(")]").ok_or_else(|| "unterminated filter".to_owned())?;
    Ok(Step::Filter { path, compare })
}

fn literal(rest: &mut &str) -> Result<Value, String> {
    if let Some(quote) = rest.chars().next().filter(|first| matches!(first, '\'' | '"')) {
        let (text, after) = rest[1..].split_once(quote).ok_or_else(|| "unterminated text".to_owned())?;
        *rest = after;
        return Ok(text.into());
    }
    let end = rest.find([')', ' ']).unwrap_or(rest.len());
    let (text, after) = rest.split_at(end);
    *rest = after;
    serde_json::from_str(text).map_err(|_| format!("cannot compare with {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_what_they_name() {
        let object = json!({
            "spec": {"replicas": 3, "list": [1, 2, 3], "a.b": "dot", "none": null},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]},
        });
        let cases = [
            (".spec.replicas", json!([3])),
            ("spec.replicas", json!([3])),
            (".spec.list[1]", json!([2])),
            (".spec.list[-1]", json!([3])),
            (".spec.list[0:2]", json!([1, 2])),
            (".spec.list[*]", json!([1, 2, 3])),
            (r".spec.a\.b", json!(["dot"])),
            (".spec['a.b']", json!(["dot"])),
            (".spec.missing.deep", json!([])),
            (".spec.none", json!([null])),
            (r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"])),
            (r#".status.conditions[?(@.type != 'Ready')].type"#, json!(["Other"])),
            (".status.conditions[*].type", json!(["Ready", "Other"])),
        ];
        for (path, found) in cases {
            assert_eq!(json!(Path::parse(path).unwrap().find(&object)), found, "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for path in [".a[", ".a[?(@.b==1]", ".a[x]", ".a..b", "{.a}", ".a[?(b)]", ".a]"] {
            assert!(Path::parse(path).is_err(), "{path}");
        }
    }
}
