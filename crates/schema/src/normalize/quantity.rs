//! Quantities (`500m`, `1Gi`, `12e6`): the canonical text that a round trip through Go's `resource.Quantity` gives.

/// Why a text is no quantity; the texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// Nothing but a point.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// A suffix that means nothing.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// Which family of suffixes a quantity was written with; it keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// The smallest step: one billionth.
const NANO: i32 = -9;
/// Digits after the point that are kept exactly before rounding up to the smallest step.
const KEPT_FRACTION: usize = 18;
/// Digits before the point that are computed with; far beyond anything a cluster holds.
const KEPT_INTEGER: usize = 18;

/// The canonical form of a quantity.
pub fn canonical(text: &str) -> Result<String, QuantityError> {
    if text.is_empty() {
        return Err(QuantityError::Format);
    }
    let parts = split(text)?;
    let (exponent, format) = interpret(parts.suffix).ok_or(QuantityError::Suffix)?;
    if parts.integer.is_empty() && parts.fraction.is_empty() {
        // A point without digits, unless zeros stood before it.
        return if parts.has_digits { Ok("0".to_owned()) } else { Err(QuantityError::Numeric) };
    }
    if keeps_its_text(&parts, exponent, format) {
        return Ok(text.to_owned());
    }
    match format {
        Format::BinarySi => Ok(binary(&parts, exponent)),
        _ => Ok(decimal(&parts, exponent, format)),
    }
}

struct Parts<'a> {
    negative: bool,
    /// Digits before the point without leading zeros.
    integer: &'a str,
    /// Digits after the point.
    fraction: &'a str,
    suffix: &'a str,
    /// Whether there was any digit.
    has_digits: bool,
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let unpadded = rest.trim_start_matches('0');
    let (integer, after) = unpadded.split_at(digits(unpadded));
    let (fraction, suffix) = match after.strip_prefix('.') {
        Some(after) => after.split_at(digits(after)),
        None => ("", after),
    };
    let letters = suffix.trim_start_matches(|letter| "eEinumkKMGTP".contains(letter));
    let number = letters.strip_prefix(['+', '-']).unwrap_or(letters);
    if digits(number) < number.len() {
        return Err(QuantityError::Format);
    }
    // A sign alone is read as zero upstream.
    let has_digits =
        rest.is_empty() || unpadded.len() < rest.len() || !integer.is_empty() || !fraction.is_empty();
    Ok(Parts { negative, integer, fraction, suffix, has_digits: has_digits || !after.starts_with('.') })
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// The power (of ten, or of two for binary suffixes) and the family of a suffix.
fn interpret(suffix: &str) -> Option<(i32, Format)> {
    const DECIMAL: [(&str, i32); 10] = [
        ("", 0),
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    const BINARY: [(&str, i32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((*exponent, Format::DecimalSi));
    }
    if let Some((_, exponent)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((*exponent, Format::BinarySi));
    }
    let exponent: i64 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((i32::try_from(exponent).ok()?, Format::DecimalExponent))
}

/// Upstream keeps the text of a small number as it was written when that is nearly canonical, and so do we.
fn keeps_its_text(parts: &Parts<'_>, exponent: i32, format: Format) -> bool {
    let length = |text: &str| i32::try_from(text.len()).unwrap_or(i32::MAX / 4);
    let integer = if parts.integer.is_empty() { "0" } else { parts.integer };
    let shifted = format!("{integer}{}", parts.fraction);
    match format {
        Format::BinarySi => {
            // The bits of the suffix, in decimal digits.
            let bits = exponent * 3 / 10;
            let room = 15 - length(integer) - bits - 1;
            parts.fraction.is_empty() && room >= 0 && shifted.parse().is_ok_and(|value: i64| value & 7 != 0)
        }
        Format::DecimalSi | Format::DecimalExponent => {
            let scale = exponent.saturating_sub(length(parts.fraction));
            length(&shifted) <= 18
                && scale >= NANO
                && scale % 3 == 0
                && !shifted.ends_with("000")
                && !shifted.starts_with('0')
        }
    }
}

fn decimal(parts: &Parts<'_>, exponent: i32, format: Format) -> String {
    let fraction = i32::try_from(parts.fraction.len()).unwrap_or(i32::MAX / 4);
    let mut scale = exponent.saturating_sub(fraction);
    let mut mantissa = format!("{}{}", parts.integer, parts.fraction);
    if scale < NANO {
        // Round up to the smallest step.
        let cut = usize::try_from(NANO - scale).unwrap_or(usize::MAX);
        let kept = mantissa.len().saturating_sub(cut);
        let lost = mantissa.split_off(kept);
        scale = NANO;
        if lost.bytes().any(|digit| digit != b'0') {
            mantissa = increment(&mantissa);
        }
    }
    let significant = mantissa.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return "0".to_owned();
    }
    let trailing = mantissa.len() - mantissa.trim_end_matches('0').len();
    let mut scale = scale.saturating_add(i32::try_from(trailing).unwrap_or(0));
    let mut number = significant.to_owned();
    // Suffixes go in steps of a thousand and end at E.
    while scale % 3 != 0 || (format == Format::DecimalSi && scale > 18) {
        number.push('0');
        scale -= 1;
    }
    let suffix = match (format, scale) {
        (_, 0) => String::new(),
        (Format::DecimalExponent, _) => format!("e{scale}"),
        (_, -9) => "n".to_owned(),
        (_, -6) => "u".to_owned(),
        (_, -3) => "m".to_owned(),
        (_, 3) => "k".to_owned(),
        (_, 6) => "M".to_owned(),
        (_, 9) => "G".to_owned(),
        (_, 12) => "T".to_owned(),
        (_, 15) => "P".to_owned(),
        (_, _) => "E".to_owned(),
    };
    format!("{}{number}{suffix}", if parts.negative { "-" } else { "" })
}

/// A decimal number plus one.
fn increment(number: &str) -> String {
    let nines = number.len() - number.trim_end_matches('9').len();
    let head = &number[..number.len() - nines];
    let zeros = "0".repeat(nines);
    match head.as_bytes().split_last() {
        None => format!("1{zeros}"),
        Some((last, front)) => {
            format!("{}{}{zeros}", String::from_utf8_lossy(front), char::from(last + 1))
        }
    }
}

fn binary(parts: &Parts<'_>, exponent: i32) -> String {
    let sign = if parts.negative { "-" } else { "" };
    let unit = 1_i128 << exponent;
    let max = i128::from(i64::MAX);
    let kept = parts.fraction.get(..KEPT_FRACTION).unwrap_or(parts.fraction);
    let denominator = 10_i128.pow(u32::try_from(kept.len()).unwrap_or(0));
    // In steps of 10^-len(kept); anything longer than we compute with is far above the maximum.
    let steps = if parts.integer.len() > KEPT_INTEGER {
        None
    } else {
        let integer: i128 = parts.integer.parse().unwrap_or(0);
        let fraction: i128 = kept.parse().unwrap_or(0);
        integer
            .checked_mul(unit)
            .filter(|whole| *whole <= max)
            .map(|whole| whole * denominator + fraction * unit)
    };
    let steps = steps.unwrap_or(max * denominator).min(max * denominator);
    if steps % denominator != 0 || steps < 1024 * denominator {
        // Not whole, or small: shown with decimal suffixes, so that nothing is lost or confusing.
        let whole = (steps / denominator).to_string();
        let width = kept.len();
        let rest = if width == 0 { String::new() } else { format!("{:0width$}", steps % denominator) };
        let parts = Parts {
            negative: parts.negative,
            integer: &whole,
            fraction: &rest,
            suffix: "",
            has_digits: true,
        };
        return decimal(&parts, 0, Format::DecimalSi);
    }
    let mut number = steps / denominator;
    let mut suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter();
    let mut suffix = suffixes.next().unwrap_or(&"");
    while number % 1024 == 0 {
        let Some(next) = suffixes.next() else { break };
        (number, suffix) = (number / 1024, next);
    }
    format!("{sign}{number}{suffix}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_become_canonical() {
        #[rustfmt::skip]
        let rows = [
            ("0", "0"), ("0.0", "0"), ("-0", "0"), ("0Ki", "0"), ("00012", "00012"), ("+5", "+5"),
            ("1000m", "1"), ("0.5", "500m"), ("1.5", "1500m"), (".5", "500m"), ("5.", "5."), ("100m", "100m"),
            ("1024Mi", "1Gi"), ("1Gi", "1Gi"), ("1.5Gi", "1536Mi"), ("1025Mi", "1025Mi"), ("0.5Gi", "512Mi"),
            ("512Ki", "512Ki"), ("0.5Ki", "512"), ("0.1Ki", "102400m"), ("1Ki", "1Ki"), ("2048", "2048"),
            ("1000", "1k"), ("1000000", "1M"), ("1500000", "1500k"), ("123456", "123456"), ("1000k", "1M"),
            ("1e3", "1e3"), ("1E3", "1E3"), ("12e6", "12e6"), ("1e1", "10"), ("1000e3", "1e6"), ("1e-3", "1e-3"),
            ("0.0000000001", "1n"), ("0.0000000011", "2n"), ("1n", "1n"), ("1.1n", "2n"), ("-1.5", "-1500m"),
            ("99Ei", "9223372036854775807"), ("10E", "10E"), ("10000E", "10000E"), ("8Ki", "8Ki"), ("64Mi", "64Mi"),
        ];
        for (text, want) in rows {
            assert_eq!(canonical(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        let rows = [
            ("", QuantityError::Format),
            ("a", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("1.2.3", QuantityError::Format),
            ("1Gi2x", QuantityError::Format),
            ("1Gi2", QuantityError::Suffix),
            ("1gi", QuantityError::Format),
            ("1K", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            (".", QuantityError::Numeric),
        ];
        for (text, want) in rows {
            assert_eq!(canonical(text), Err(want), "{text}");
        }
    }

    proptest! {
        #[test]
        fn canonical_is_idempotent_and_never_panics(text in "[+-]?[0-9]{0,22}\\.?[0-9]{0,22}(|[numkKMGTPE]i?|[eE][-+]?[0-9]{1,3})") {
            if let Ok(once) = canonical(&text) {
                prop_assert_eq!(canonical(&once), Ok(once.clone()), "{} became {}", text, once);
            }
        }

        #[test]
        fn any_text_is_answered(text in "\\PC{0,12}") {
            _ = canonical(&text);
        }
    }
}
