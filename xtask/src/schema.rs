//! `cargo xtask schema`: reads the Go API types of a Kubernetes checkout and writes the table of fields.
//!
//! Everything the table needs stands in the struct tags and in the `// +marker=` lines, so this reads the
//! sources line by line and leaves every sentence behind. The format of the table is described in
//! `crates/schema/src/fields.rs`, which reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// One Go package: short name in the table, directory below `staging/src/k8s.io`, OpenAPI prefix, files.
struct Package {
    short: &'static str,
    dir: &'static str,
    openapi: &'static str,
    files: &'static [&'static str],
}

macro_rules! api {
    ($($group:literal $version:literal),*) => {
        &[
            $(Package {
                short: concat!($group, "/", $version),
                dir: concat!("api/", $group, "/", $version),
                openapi: concat!("io.k8s.api.", $group, ".", $version),
                files: &["types.go"],
            },)*
            Package {
                short: "meta/v1",
                dir: "apimachinery/pkg/apis/meta/v1",
                openapi: "io.k8s.apimachinery.pkg.apis.meta.v1",
                files: &["types.go", "watch.go"],
            },
        ]
    };
}

const PACKAGES: &[Package] = api![
    "core" "v1",
    "apps" "v1",
    "discovery" "v1",
    "networking" "v1",
    "rbac" "v1",
    "coordination" "v1",
    "events" "v1",
    "batch" "v1",
    "policy" "v1",
    "autoscaling" "v1",
    "autoscaling" "v2",
    "authentication" "v1",
    "authorization" "v1",
    "storage" "v1",
    "scheduling" "v1",
    "node" "v1",
    "admissionregistration" "v1",
    "resource" "v1",
    "certificates" "v1"
];

/// Types that the reader of the table knows by name: their JSON form is not that of their struct.
const SPECIAL: &[(&str, &str)] = &[
    ("meta/v1.Time", "Time"),
    ("meta/v1.MicroTime", "MicroTime"),
    ("meta/v1.Duration", "Duration"),
    ("meta/v1.FieldsV1", "FieldsV1"),
    ("k8s.io/apimachinery/pkg/api/resource.Quantity", "Quantity"),
    ("k8s.io/apimachinery/pkg/util/intstr.IntOrString", "IntOrString"),
    ("k8s.io/apimachinery/pkg/runtime.RawExtension", "RawExtension"),
    ("k8s.io/apimachinery/pkg/types.UID", "UID"),
];

/// Structs that exist in Go only and never travel as JSON.
const SKIPPED: &[&str] = &["RawExtension", "FieldsV1", "List", "TableRow", "Table"];

#[derive(Default)]
struct Source {
    /// Import name to package short name or path.
    imports: BTreeMap<String, String>,
    /// Type declarations in the order of the file.
    types: Vec<(String, Decl)>,
    /// Values of constants by their type, for enumerations.
    constants: BTreeMap<String, BTreeSet<String>>,
    /// Constant name to value, for defaults that refer to one.
    values: BTreeMap<String, String>,
}

enum Decl {
    Struct { markers: Vec<String>, fields: Vec<GoField> },
    Named { markers: Vec<String>, go: String },
}

struct GoField {
    go: String,
    tag: String,
    markers: Vec<String>,
}

/// Reads the checkout at `kubernetes` and writes the table to `out`.
pub(crate) fn run(kubernetes: &Path, out: &Path) -> Result<()> {
    let mut text = String::from(
        "# Fields of the built-in kinds. Written by `cargo xtask schema`; the format is described in fields.rs.\n",
    );
    for package in PACKAGES {
        let mut source = Source::default();
        for file in package.files {
            let path: PathBuf = kubernetes.join("staging/src/k8s.io").join(package.dir).join(file);
            let go = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            parse(&go, &mut source).with_context(|| format!("in {}", path.display()))?;
        }
        write_package(&mut text, package, &source)?;
    }
    if let Some(parent) = out.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(out, text).with_context(|| format!("writing {}", out.display()))
}

fn parse(go: &str, source: &mut Source) -> Result<()> {
    let mut markers: Vec<String> = Vec::new();
    let mut previous: Vec<String> = Vec::new();
    let mut open: Option<(String, Vec<String>, Vec<GoField>)> = None;
    let (mut in_import, mut in_comment) = (false, false);
    for line in go.lines() {
        let line = line.trim();
        if in_comment || line.starts_with("/*") {
            in_comment = !line.ends_with("*/");
            continue;
        }
        if in_import {
            if line == ")" {
                in_import = false;
            } else if let Some((name, path)) = import(line) {
                source.imports.insert(name, path);
            }
            continue;
        }
        if line == "import (" {
            in_import = true;
        } else if let Some(comment) = line.strip_prefix("//") {
            let comment = comment.trim();
            if let Some(marker) = comment.strip_prefix('+') {
                markers.push(marker.to_owned());
            }
        } else if line.is_empty() {
            // Markers of a type may stand one comment block above the one that touches it.
            if open.is_none() && !markers.is_empty() {
                previous = std::mem::take(&mut markers);
            }
        } else if let Some((name, struct_markers, mut fields)) = open.take() {
            if line == "}" {
                source.types.push((name, Decl::Struct { markers: struct_markers, fields }));
            } else {
                fields.push(
                    field(line, std::mem::take(&mut markers)).with_context(|| format!("{name}: {line}"))?,
                );
                open = Some((name, struct_markers, fields));
            }
        } else if let Some(rest) = line.strip_prefix("type ") {
            let mut all = std::mem::take(&mut previous);
            all.append(&mut markers);
            let (name, go) = rest.split_once(' ').context("type without a body")?;
            if go == "struct {" {
                open = Some((name.to_owned(), all, Vec::new()));
            } else if !go.starts_with('=') && !go.ends_with('{') {
                source.types.push((name.to_owned(), Decl::Named { markers: all, go: go.to_owned() }));
            }
        } else {
            markers.clear();
            previous.clear();
            constant(line, source);
        }
    }
    Ok(())
}

/// `name "path"` or `"path"` of an import block.
fn import(line: &str) -> Option<(String, String)> {
    let (name, path) = line.split_once('"')?;
    let path = path.strip_suffix('"')?;
    let name = if name.is_empty() { path.rsplit('/').next()? } else { name.trim() };
    let short = PACKAGES
        .iter()
        .find(|package| path.strip_prefix("k8s.io/") == Some(package.dir))
        .map_or(path, |package| package.short);
    Some((name.to_owned(), short.to_owned()))
}

/// `Name Type = "value"` in a const block.
fn constant(line: &str, source: &mut Source) {
    let line = line.strip_prefix("const ").unwrap_or(line);
    let Some((left, right)) = line.split_once('=') else { return };
    let Some(value) = right.trim().strip_prefix('"').and_then(|rest| rest.split('"').next()) else { return };
    let mut words = left.split_whitespace();
    let (Some(name), Some(kind), None) = (words.next(), words.next(), words.next()) else { return };
    source.values.insert(name.to_owned(), value.to_owned());
    source.constants.entry(kind.to_owned()).or_default().insert(value.to_owned());
}

/// `Name Type `tags``, or an embedded `Type `tags``.
fn field(line: &str, markers: Vec<String>) -> Result<GoField> {
    let (left, rest) = line.split_once('`').context("field without tags")?;
    let (tag, _) = rest.split_once('`').context("tags not closed")?;
    let left = left.trim();
    let go = left.split_once(char::is_whitespace).map_or(left, |(_, go)| go.trim());
    Ok(GoField { go: go.to_owned(), tag: tag.to_owned(), markers })
}

/// The value of one key of a struct tag.
fn tag<'a>(tags: &'a str, key: &str) -> Option<&'a str> {
    let start = tags.split(' ').find_map(|part| part.strip_prefix(key)?.strip_prefix(":\""))?;
    start.strip_suffix('"')
}

fn write_package(text: &mut String, package: &Package, source: &Source) -> Result<()> {
    writeln!(text, "package {} {}", package.short, package.openapi)?;
    for (name, decl) in &source.types {
        match decl {
            Decl::Named { markers, go } => {
                let full = format!("{}.{name}", package.short);
                if SPECIAL.iter().any(|(known, _)| *known == full)
                    || go == "metav1.List"
                    || go == "watch.Event"
                {
                    continue;
                }
                write!(text, "type {name} {}", resolve(go, package, source)?)?;
                if markers.iter().any(|marker| marker == "enum") {
                    for value in source.constants.get(name).into_iter().flatten() {
                        write!(text, " {value:?}")?;
                    }
                }
                text.push('\n');
            }
            Decl::Struct { markers, fields } => {
                let full = format!("{}.{name}", package.short);
                let is_special = SPECIAL.iter().any(|(known, _)| *known == full);
                if is_special || SKIPPED.contains(&name.as_str()) {
                    continue;
                }
                write!(text, "struct {name}")?;
                for marker in markers {
                    if let Some(kind) = marker.strip_prefix("structType=") {
                        write!(text, " {kind}")?;
                    }
                }
                text.push('\n');
                for field in fields {
                    write_field(text, field, package, source)
                        .with_context(|| format!("{full}: {}", field.tag))?;
                }
            }
        }
    }
    Ok(())
}

fn write_field(text: &mut String, field: &GoField, package: &Package, source: &Source) -> Result<()> {
    let json = tag(&field.tag, "json").context("no json tag")?;
    let mut json = json.split(',');
    let name = json.next().unwrap_or_default();
    if name == "-" {
        return Ok(());
    }
    let mut flags = String::new();
    let mut inline = false;
    for option in json {
        match option {
            "omitempty" => flags.push('e'),
            "omitzero" => flags.push('z'),
            "inline" => inline = true,
            other => bail!("unknown json option {other}"),
        }
    }
    let proto = match tag(&field.tag, "protobuf") {
        None => "-".to_owned(),
        Some(proto) => {
            let mut parts = proto.split(',');
            let wire = parts.next().unwrap_or_default();
            let number = parts.next().unwrap_or_default();
            let repeated = if parts.next() == Some("rep") { "+" } else { "" };
            let letter = match wire {
                "bytes" => "b",
                "varint" => "v",
                "fixed64" => "d",
                other => bail!("unknown wire type {other}"),
            };
            format!("{number}{letter}{repeated}")
        }
    };
    let mut extra = String::new();
    let (mut keys, mut list) = (Vec::new(), None);
    for marker in &field.markers {
        let (marker, value) = marker.split_once('=').unwrap_or((marker, ""));
        match marker {
            "optional" => flags.push('o'),
            "required" => flags.push('r'),
            "listType" => list = Some(value),
            "listMapKey" => keys.push(value),
            "mapType" => write!(extra, " map={value}")?,
            "structType" => write!(extra, " struct={value}")?,
            "default" => {
                let value = match value.strip_prefix("ref(") {
                    None => value.to_owned(),
                    Some(reference) => {
                        let reference = reference.trim_end_matches(')');
                        format!("{:?}", source.values.get(reference).context("default refers to nothing")?)
                    }
                };
                write!(extra, " default={value}")?;
            }
            _ => {}
        }
    }
    match list {
        Some("map") => write!(extra, " list=map:{}", keys.join(","))?,
        Some(list) => write!(extra, " list={list}")?,
        None => {}
    }
    if let Some(strategy) = tag(&field.tag, "patchStrategy") {
        write!(extra, " patch={strategy}")?;
    }
    if let Some(key) = tag(&field.tag, "patchMergeKey") {
        write!(extra, " key={key}")?;
    }
    if flags.is_empty() {
        flags.push('-');
    }
    // A struct embedded under a name of its own (ListMeta in Status) is an ordinary field.
    let name = if name.is_empty() && inline { "^" } else { name };
    if name.is_empty() {
        bail!("neither name nor inline");
    }
    writeln!(text, " {name} {} {proto} {flags}{extra}", resolve(&field.go, package, source)?)?;
    Ok(())
}

/// A Go type expression with every name resolved: `[]*metav1.Time` becomes `[]*Time`, a type of another package
/// gets that package's short name.
fn resolve(go: &str, package: &Package, source: &Source) -> Result<String> {
    for prefix in ["*", "[]"] {
        if let Some(rest) = go.strip_prefix(prefix) {
            return Ok(match (prefix, rest) {
                ("[]", "byte") => "bytes".to_owned(),
                _ => format!("{prefix}{}", resolve(rest, package, source)?),
            });
        }
    }
    if let Some(rest) = go.strip_prefix("map[") {
        let (key, value) = rest.split_once(']').context("map without a key")?;
        return Ok(format!("map[{}]{}", resolve(key, package, source)?, resolve(value, package, source)?));
    }
    if matches!(go, "string" | "bool" | "int32" | "int64" | "float64") {
        return Ok(go.to_owned());
    }
    // Old names that upstream keeps as aliases.
    let go = go.strip_suffix("PolicyType").map_or_else(
        || go.to_owned(),
        |stem| {
            let target = format!("{stem}Policy");
            let is_name = |decl: &Decl| matches!(decl, Decl::Named { .. });
            let known = source.types.iter().any(|(name, decl)| *name == target && is_name(decl));
            if known { target } else { go.to_owned() }
        },
    );
    let full = match go.split_once('.') {
        None => format!("{}.{go}", package.short),
        Some((import, name)) => {
            format!(
                "{}.{name}",
                source.imports.get(import).with_context(|| format!("import {import} unknown"))?
            )
        }
    };
    if let Some((_, short)) = SPECIAL.iter().find(|(known, _)| *known == full) {
        return Ok((*short).to_owned());
    }
    if full.starts_with("k8s.io/") {
        bail!("type {full} is of no package in the table");
    }
    Ok(full.strip_prefix(package.short).and_then(|rest| rest.strip_prefix('.')).unwrap_or(&full).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_struct_becomes_lines() {
        let go = r#"
import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Protocol of a port.
// +enum
type Protocol string

const (
	// TCP.
	ProtocolTCP Protocol = "TCP"
)

// +structType=atomic

// Thing says a thing.
type Thing struct {
	metav1.TypeMeta `json:",inline"`
	// A sentence.
	// +listType=map
	// +listMapKey=port
	// +listMapKey=protocol
	Ports []Port `json:"ports,omitempty" patchStrategy:"merge" patchMergeKey:"port" protobuf:"bytes,1,rep,name=ports"`
	// +default=ref(ProtocolTCP)
	Protocol *Protocol `json:"protocol" protobuf:"bytes,2,opt,name=protocol,casttype=Protocol"`
	Target intstr.IntOrString `json:"target" protobuf:"bytes,3,opt,name=target"`
	Data map[string][]byte `json:"data,omitempty" protobuf:"bytes,4,rep,name=data"`
}
"#;
        let mut source = Source::default();
        parse(go, &mut source).unwrap();
        let mut text = String::new();
        write_package(&mut text, &PACKAGES[0], &source).unwrap();
        assert_eq!(
            text,
            "package core/v1 io.k8s.api.core.v1\n\
             type Protocol string \"TCP\"\n\
             struct Thing atomic\n\
             \x20^ meta/v1.TypeMeta - -\n\
             \x20ports []Port 1b+ e list=map:port,protocol patch=merge key=port\n\
             \x20protocol *Protocol 2b - default=\"TCP\"\n\
             \x20target IntOrString 3b -\n\
             \x20data map[string]bytes 4b+ e\n"
        );
    }
}
