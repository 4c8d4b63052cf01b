//! The query string of a request.

use std::num::{IntErrorKind, ParseIntError};

use crate::status::ApiError;

/// The parameters of a query string, decoded, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key, true), decode(value, true))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter, `""` if it is not given.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.all(key).next().unwrap_or_default()
    }

    /// Every value of a parameter.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A boolean parameter: absent, `false` and `0` are false, everything else (also no value at all) is true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.all(key).next().is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// A number, `None` if absent or empty.
    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>, ApiError> {
        match self.get(key) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|error| {
                ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: {}", go_error(&error)))
            }),
        }
    }

    /// The resourceVersion that a read of one object demands.
    pub(crate) fn version(&self) -> Result<Option<u64>, ApiError> {
        match self.get("resourceVersion") {
            "" => Ok(None),
            text => parse_version(text).map(Some).map_err(ApiError::unknown),
        }
    }
}

/// A natural number, or what Go says of a text that is none.
pub(crate) fn parse_unsigned(text: &str) -> Result<u64, String> {
    text.parse().map_err(|error| format!("strconv.ParseUint: parsing {text:?}: {}", go_error(&error)))
}

/// The resourceVersion of a read.
pub(crate) fn parse_version(text: &str) -> Result<u64, String> {
    parse_unsigned(text).map_err(|why| format!("resourceVersion: Invalid value: {text:?}: {why}"))
}

fn go_error(error: &ParseIntError) -> &'static str {
    match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    }
}

/// Decodes `%41` (and `+`, in query strings). What does not decode stays as it is.
pub(crate) fn decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |offset: usize| bytes.get(at + offset).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                #[expect(clippy::cast_possible_truncation, reason = "two hexadecimal digits make a byte")]
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', _, _) if plus => {
                out.push(b' ');
                at += 1;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db%2Cc+in+(d)&watch&limit=5&x=%zz");
        assert_eq!(query.get("labelSelector"), "a=b,c in (d)");
        assert!(query.flag("watch"));
        assert_eq!(query.number("limit").unwrap(), Some(5));
        assert_eq!(query.get("x"), "%zz");
        assert!(!query.flag("absent"));
        let error = query.number("x").unwrap_err();
        assert_eq!(error.to_string(), "strconv.ParseInt: parsing \"%zz\": invalid syntax");
    }

    #[test]
    fn versions_are_natural_numbers() {
        let refused =
            |text: &str| Query::parse(&format!("resourceVersion={text}")).version().unwrap_err().to_string();
        assert_eq!(
            refused("x"),
            "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax"
        );
        assert!(refused("99999999999999999999").ends_with("value out of range"));
        assert_eq!(Query::parse("resourceVersion=7").version().unwrap(), Some(7));
    }
}
