//! The syntax rules of names, label keys and the like, with the texts Kubernetes refuses them in.
//!
//! Every function returns what is wrong, nothing if all is well. Lengths are in bytes.

use crate::FieldError;

/// A rule of this module: what is wrong with a value.
pub(crate) type Rule = fn(&str) -> Vec<String>;

/// The errors of a value at `field` that must keep a rule of this module.
pub(crate) fn check(rule: Rule, field: impl Into<String>, value: &str) -> Vec<FieldError> {
    let field = field.into();
    rule(value).into_iter().map(|text| FieldError::invalid(field.as_str(), value, text)).collect()
}

/// Longest DNS label (RFC 1123 §2.1).
const LABEL_MAX: usize = 63;
/// Longest DNS subdomain.
const SUBDOMAIN_MAX: usize = 253;

const LABEL_FORMAT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FORMAT: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const KEY_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// A rule broken, with the expression that states it and examples that keep it.
fn pattern(message: &str, format: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{format}')");
    }
    let examples = examples.iter().map(|example| format!("'{example}', ")).collect::<Vec<_>>().join(" or ");
    format!("{message} (e.g. {examples}regex used for validation is '{format}')")
}

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

/// What Kubernetes says of keys and values of labels, which are counted alike.
fn too_many_bytes(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

/// `must be between LOW and HIGH, inclusive`.
pub(crate) fn between(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

const fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Not empty, of `inside` bytes, beginning and ending with `edge` bytes.
fn framed(value: &str, edge: fn(u8) -> bool, inside: fn(u8) -> bool) -> bool {
    match value.as_bytes() {
        [] => false,
        [only] => edge(*only),
        [first, middle @ .., last] => edge(*first) && edge(*last) && middle.iter().all(|byte| inside(*byte)),
    }
}

fn is_label_text(value: &str) -> bool {
    framed(value, is_lower_alphanumeric, |byte| is_lower_alphanumeric(byte) || byte == b'-')
}

fn is_subdomain_text(value: &str) -> bool {
    value.split('.').all(is_label_text)
}

/// RFC 1123 subdomain: most names.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        problems.push(too_long(SUBDOMAIN_MAX));
    }
    problems.extend(subdomain_text(value));
    problems
}

fn subdomain_text(value: &str) -> Option<String> {
    (!is_subdomain_text(value)).then(|| {
        pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
             and must start and end with an alphanumeric character",
            SUBDOMAIN_FORMAT,
            &["example.com"],
        )
    })
}

/// RFC 1123 subdomain that may have `_` in its labels, for the search domains of pods.
pub fn search_domain(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        problems.push(too_long(SUBDOMAIN_MAX));
    }
    let is_label = |label: &str| {
        let label = label.strip_prefix('_').unwrap_or(label);
        framed(label, is_lower_alphanumeric, |byte| {
            is_lower_alphanumeric(byte) || matches!(byte, b'-' | b'_')
        })
    };
    if !value.split('.').all(is_label) {
        const LABEL: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
        problems.push(pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must \
             start and end with an alphanumeric character",
            &format!(r"{LABEL}(\.{LABEL})*"),
            &["example.com"],
        ));
    }
    problems
}

/// RFC 1123 label: names of Namespaces, Services, containers and volumes.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > LABEL_MAX {
        problems.push(too_long(LABEL_MAX));
    }
    if !is_label_text(value) {
        problems.push(if is_subdomain_text(value) {
            "must not contain dots".to_owned()
        } else {
            pattern(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                 and end with an alphanumeric character",
                LABEL_FORMAT,
                &["my-name", "123-abc"],
            )
        });
    }
    problems
}

/// RFC 1123 subdomain behind a `*.`: wildcard hosts of Ingresses.
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        problems.push(too_long(SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(is_subdomain_text) {
        problems.push(pattern(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
             of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!(r"\*\.{SUBDOMAIN_FORMAT}"),
            &["*.example.com"],
        ));
    }
    problems
}

/// RFC 1035 label: does not begin with a digit.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > LABEL_MAX {
        problems.push(too_long(LABEL_MAX));
    }
    if !is_label_text(value) || value.starts_with(|c: char| c.is_ascii_digit()) {
        problems.push(pattern(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    problems
}

fn is_key_text(value: &str) -> bool {
    framed(
        value,
        |byte| byte.is_ascii_alphanumeric(),
        |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'),
    )
}

/// Qualified name, `[subdomain/]name`: label and annotation keys, finalizers, resource names.
pub fn qualified_name(value: &str) -> Vec<String> {
    const RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                        alphanumeric character";
    const EXAMPLES: [&str; 3] = ["MyName", "my.name", "123-abc"];
    let mut problems = Vec::new();
    let name = match value.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                if prefix.len() > SUBDOMAIN_MAX {
                    problems.push(format!("prefix part {}", too_many_bytes(SUBDOMAIN_MAX)));
                }
                problems.extend(subdomain_text(prefix).map(|text| format!("prefix part {text}")));
            }
            name
        }
        _ => {
            let rule = pattern(RULE, KEY_FORMAT, &EXAMPLES);
            problems.push(format!(
                "a valid label key {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
            return problems;
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        problems.push(format!("name part {}", too_many_bytes(LABEL_MAX)));
    }
    if !is_key_text(name) {
        problems.push(format!("name part {}", pattern(RULE, KEY_FORMAT, &EXAMPLES)));
    }
    problems
}

/// Value of a label; may be empty.
pub fn label_value(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > LABEL_MAX {
        problems.push(too_many_bytes(LABEL_MAX));
    }
    if !value.is_empty() && !is_key_text(value) {
        problems.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character",
            &format!("({KEY_FORMAT})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    problems
}

/// A name that fits between two slashes of a URL: the least every name must satisfy.
pub fn path_segment(value: &str) -> Vec<String> {
    if value == "." || value == ".." {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"]
        .into_iter()
        .filter(|part| value.contains(part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// Name of a port (RFC 6335 §5.1).
pub fn port_name(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > 15 {
        problems.push(too_long(15));
    }
    if value.is_empty() || !value.bytes().all(|byte| is_lower_alphanumeric(byte) || byte == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// Number of a port.
pub fn port_number(value: i64) -> Vec<String> {
    if (1..=65535).contains(&value) { Vec::new() } else { vec![between(1, 65535)] }
}

/// Name of an environment variable, as pods may have it since 1.34.
pub fn environment_variable(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.is_empty() {
        problems.push("environment variable name must be non-empty".to_owned());
    }
    if value.bytes().any(|byte| !(b' '..=b'~').contains(&byte) || byte == b'=') {
        problems.push(
            "a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned(),
        );
    }
    problems
}

/// Key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        problems.push(too_long(SUBDOMAIN_MAX));
    }
    if value.is_empty()
        || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    {
        problems.push(pattern(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    if value == "." || value == ".." {
        problems.push(format!("must not be '{value}'"));
    } else if value.starts_with("..") {
        problems.push("must not start with '..'".to_owned());
    }
    problems
}

/// Name of an HTTP header in a probe.
pub fn http_header(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    vec![pattern(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// The path of a domain-prefixed name, as of an ingress controller.
pub(crate) fn http_path(value: &str) -> Vec<String> {
    const OTHERS: &str = "/-._~%!$&'()*+,;=:";
    if !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || OTHERS.contains(c)) {
        return Vec::new();
    }
    vec![pattern("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[])]
}

/// The errors of a required name with a domain in front, at `field`.
pub(crate) fn domain_prefixed(field: &str, value: &str) -> Vec<FieldError> {
    match value.split_once('/') {
        _ if value.is_empty() => vec![FieldError::required(field, "")],
        Some((host, path)) if !host.is_empty() && !path.is_empty() => {
            let mut errors = check(dns1123_subdomain, field, host);
            errors.extend(check(http_path, field, path));
            errors
        }
        _ => {
            let text = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            vec![FieldError::invalid(field, value, text)]
        }
    }
}

/// Reason of a condition.
pub(crate) fn condition_reason(value: &str) -> Vec<String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_,:".contains(&byte);
    let fits = value.starts_with(|c: char| c.is_ascii_alphabetic())
        && value.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && value.bytes().all(inner);
    if fits {
        return Vec::new();
    }
    vec![pattern(
        "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric \
         characters or '_,:', and must end with an alphanumeric character or '_'",
        "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
        &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
    )]
}

/// A number followed by `%`.
pub fn percentage(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or_default();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Vec::new();
    }
    vec![pattern(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

#[cfg(test)]
mod tests;
