//! Errors of JSON syntax in the words of Go's decoder.

/// The text Go has for an error that serde_json found in `body`.
pub fn syntax_error(error: &serde_json::Error, body: &[u8]) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    let text = error.to_string();
    let place = match text.split(" at line ").next().unwrap_or_default() {
        "expected value" => "looking for beginning of value",
        "key must be a string" => "looking for beginning of object key string",
        "trailing comma" => "looking for beginning of value",
        "expected `:`" => "after object key",
        "expected `,` or `}`" => "after object key:value pair",
        "expected `,` or `]`" => "after array element",
        "trailing characters" => "after top-level value",
        "expected ident" => "in literal",
        "invalid number" => "in numeric literal",
        "invalid escape" => "in string escape code",
        "control character (\\u0000-\\u001F) found while parsing a string" => "in string literal",
        _ => return text,
    };
    match at(body, error.line(), error.column()) {
        Some(byte) => format!("invalid character {} {place}", quoted(byte)),
        None => text,
    }
}

/// The byte at a line and a column that count from one.
fn at(body: &[u8], line: usize, column: usize) -> Option<u8> {
    let line = body.split(|byte| *byte == b'\n').nth(line.checked_sub(1)?)?;
    line.get(column.saturating_sub(1)).or(line.last()).copied()
}

fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b' '..=b'~' => format!("'{}'", char::from(byte)),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0..0x20 | 0x7f => format!(r"'\x{byte:02x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}
