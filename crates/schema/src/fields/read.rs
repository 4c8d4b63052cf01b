//! Reads the text of the table.

use std::collections::HashMap;

use super::{Field, Kind, ListType, Proto, Shape, Struct, StructId, Table, Wire};

/// What a line says that cannot be; only a broken table has these, and a test reads the table.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the table of fields: {problem}")]
pub(super) struct TableError {
    line: usize,
    problem: String,
}

/// A line of a struct before the names of types can be resolved.
struct Line<'a> {
    number: usize,
    owner: usize,
    text: &'a str,
}

/// Declared names: `type` lines by package and name.
type Named<'a> = HashMap<(&'a str, &'a str), (&'a str, Vec<&'a str>)>;

pub(super) fn table(text: &'static str) -> Result<Table, TableError> {
    let mut structs: Vec<Struct> = Vec::new();
    let mut lines: Vec<Line<'static>> = Vec::new();
    let mut named: Named<'static> = HashMap::new();
    let (mut package, mut prefix) = ("", "");
    for (number, text) in (1..).zip(text.lines()) {
        let fail = |problem: &str| TableError { line: number, problem: problem.to_owned() };
        if let Some(text) = text.strip_prefix(' ') {
            let owner = structs.len().checked_sub(1).ok_or_else(|| fail("field outside a struct"))?;
            lines.push(Line { number, owner, text });
            continue;
        }
        let mut words = text.split(' ');
        let directive = words.next().unwrap_or_default();
        if directive.starts_with('#') {
            continue;
        }
        let name = words.next().ok_or_else(|| fail("no name"))?;
        match directive {
            "package" => {
                package = name;
                prefix = words.next().ok_or_else(|| fail("no OpenAPI prefix"))?;
            }
            "type" => {
                let go = words.next().ok_or_else(|| fail("no type"))?;
                named.insert((package, name), (go, words.map(|word| word.trim_matches('"')).collect()));
            }
            "struct" => structs.push(Struct {
                name,
                package,
                openapi: format!("{prefix}.{name}"),
                atomic: words.next() == Some("atomic"),
                fields: Vec::new(),
                json: Vec::new(),
                index: HashMap::new(),
            }),
            other => return Err(fail(&format!("unknown directive {other}"))),
        }
    }
    let by_name: HashMap<_, _> =
        (0..).map(StructId).zip(&structs).map(|(id, item)| ((item.package, item.name), id)).collect();
    for line in lines {
        let package = structs[line.owner].package;
        let field = field(line.text, package, &named, &by_name)
            .map_err(|problem| TableError { line: line.number, problem })?;
        structs[line.owner].fields.push(field);
    }
    for owner in 0..structs.len() {
        let json = spread(&structs, owner);
        structs[owner].index = json.iter().enumerate().map(|(at, field)| (field.name, at)).collect();
        structs[owner].json = json;
    }
    Ok(Table { structs, by_name })
}

/// The fields of a struct as JSON sees them.
fn spread(structs: &[Struct], owner: usize) -> Vec<Field> {
    let mut json = Vec::new();
    for field in &structs[owner].fields {
        match (&field.shape.kind, field.inline) {
            (Kind::Struct(id), true) => json.append(&mut spread(structs, id.0 as usize)),
            _ => json.push(field.clone()),
        }
    }
    json
}

fn field(
    text: &'static str,
    package: &'static str,
    named: &Named<'static>,
    by_name: &HashMap<(&'static str, &'static str), StructId>,
) -> Result<Field, String> {
    let mut words = text.split(' ');
    let (Some(name), Some(go), Some(proto), Some(flags)) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("a field has at least four words".to_owned());
    };
    let mut field = Field {
        name: if name == "^" { "" } else { name },
        shape: shape(go, package, named, by_name)?,
        inline: name == "^",
        omit_empty: flags.contains('e'),
        omit_zero: flags.contains('z'),
        optional: flags.contains('o'),
        required: flags.contains('r'),
        proto: proto_tag(proto)?,
        list: None,
        atomic: false,
        granular: false,
        merge: false,
        replace: false,
        retain_keys: false,
        merge_key: None,
        default: None,
    };
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("{word} has no value"))?;
        match key {
            "list" => {
                field.list = Some(match value.split_once(':') {
                    Some((_, keys)) => ListType::Map(keys.split(',').collect()),
                    None if value == "set" => ListType::Set,
                    None => ListType::Atomic,
                });
            }
            "map" | "struct" => {
                field.atomic = value == "atomic";
                field.granular = value == "granular";
            }
            "patch" => {
                for strategy in value.split(',') {
                    match strategy {
                        "merge" => field.merge = true,
                        "replace" => field.replace = true,
                        "retainKeys" => field.retain_keys = true,
                        other => return Err(format!("unknown patch strategy {other}")),
                    }
                }
            }
            "key" => field.merge_key = Some(value),
            "default" => {
                field.default = Some(serde_json::from_str(value).map_err(|error| error.to_string())?);
            }
            other => return Err(format!("unknown word {other}")),
        }
    }
    Ok(field)
}

fn proto_tag(text: &str) -> Result<Option<Proto>, String> {
    if text == "-" {
        return Ok(None);
    }
    let (tag, repeated) = match text.strip_suffix('+') {
        Some(tag) => (tag, true),
        None => (text, false),
    };
    let split = tag.len().saturating_sub(1);
    let (number, wire) = tag.split_at_checked(split).ok_or("no protobuf tag")?;
    let wire = match wire {
        "b" => Wire::Bytes,
        "v" => Wire::Varint,
        "d" => Wire::Fixed64,
        other => return Err(format!("unknown wire type {other}")),
    };
    Ok(Some(Proto {
        number: number.parse().map_err(|_| format!("{number} is no field number"))?,
        wire,
        repeated,
    }))
}

fn shape(
    go: &'static str,
    package: &'static str,
    named: &Named<'static>,
    by_name: &HashMap<(&'static str, &'static str), StructId>,
) -> Result<Shape, String> {
    let plain = |kind, go: &str| Shape { kind, pointer: false, go: go.to_owned(), values: Vec::new() };
    if let Some(rest) = go.strip_prefix('*') {
        return Ok(Shape { pointer: true, ..shape(rest, package, named, by_name)? });
    }
    if let Some(rest) = go.strip_prefix("[]") {
        let item = shape(rest, package, named, by_name)?;
        let go = format!("[]{}{}", if item.pointer { "*" } else { "" }, item.go);
        return Ok(Shape { kind: Kind::List(Box::new(item)), pointer: false, go, values: Vec::new() });
    }
    if let Some(rest) = go.strip_prefix("map[") {
        let (key, value) = rest.split_once(']').ok_or("map without a key")?;
        let (key, value) = (shape(key, package, named, by_name)?, shape(value, package, named, by_name)?);
        let go = format!("map[{}]{}{}", key.go, if value.pointer { "*" } else { "" }, value.go);
        return Ok(Shape { kind: Kind::Map(Box::new(value)), pointer: false, go, values: Vec::new() });
    }
    Ok(match go {
        "string" => plain(Kind::String, go),
        "bool" => plain(Kind::Bool, go),
        "int32" => plain(Kind::Int32, go),
        "int64" => plain(Kind::Int64, go),
        "float64" => plain(Kind::Float64, go),
        "bytes" => plain(Kind::Bytes, "[]uint8"),
        "Time" => plain(Kind::Time, "v1.Time"),
        "MicroTime" => plain(Kind::MicroTime, "v1.MicroTime"),
        "Quantity" => plain(Kind::Quantity, "resource.Quantity"),
        "IntOrString" => plain(Kind::IntOrString, "intstr.IntOrString"),
        "RawExtension" => plain(Kind::RawExtension, "runtime.RawExtension"),
        "JSON" => plain(Kind::Json, "v1.JSON"),
        "FieldsV1" => plain(Kind::FieldsV1, "v1.FieldsV1"),
        "UID" => plain(Kind::String, "types.UID"),
        name => {
            let (package, name) = name.rsplit_once('.').unwrap_or((package, name));
            let (_, version) = package.split_once('/').unwrap_or(("", package));
            let printed = format!("{version}.{name}");
            if let Some(id) = by_name.get(&(package, name)) {
                plain(Kind::Struct(*id), &printed)
            } else {
                let (go, values) =
                    named.get(&(package, name)).ok_or_else(|| format!("no type {name} in {package}"))?;
                Shape { go: printed, values: values.clone(), ..shape(go, package, named, by_name)? }
            }
        }
    })
}
