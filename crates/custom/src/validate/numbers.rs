//! Bounds of numbers. Those of whole numbers are compared as such, as Kubernetes does.

use serde_json::{Number, Value};

use super::{Found, invalid, of_all};
use crate::schema::{Schema, Type};

pub(super) fn check(number: &Number, schema: &Schema, path: &str) -> Found {
    let mut found = Found { matches: 1, ..Found::default() };
    let value = Value::Number(number.clone());
    let float = number.as_f64().unwrap_or_default();
    let integer = number.as_i64();
    let int32 = schema.format.as_ref().is_some_and(|format| format.name() == "int32");
    if let Some(wrong) = out_of_range(float, integer, schema, int32) {
        found.add(of_all(format!("Checked value must be of type {wrong} in {path}")));
    }
    let bounds = &schema.numbers;
    if let Some(factor) = bounds.multiple_of {
        // Kubernetes cuts the factor of a whole number off: of one below 1 nothing is left.
        let factor = if integer.is_some() { factor.trunc() } else { factor };
        let multiple = match integer {
            Some(integer) => factor > 0.0 && integer % (factor as i64) == 0,
            None if factor < 1.0 => whole(1.0 / factor * float),
            None => whole(float / factor),
        };
        if factor <= 0.0 {
            let detail =
                format!("factor MultipleOf declared for {path} must be positive: {}", go_float(factor));
            found.add(invalid(path, number_of(factor), detail));
        } else if !multiple {
            let detail = format!("{path} in body should be a multiple of {}", go_float(factor));
            found.add(invalid(path, value.clone(), detail));
        }
    }
    if let Some(max) = bounds.maximum {
        let over = match integer {
            Some(integer) if bounds.exclusive_maximum => integer >= max as i64,
            Some(integer) => integer > max as i64,
            None if bounds.exclusive_maximum => float >= max,
            None => float > max,
        };
        if over {
            let than = if bounds.exclusive_maximum { "less than" } else { "less than or equal to" };
            let detail = format!("{path} in body should be {than} {}", bound(max, integer));
            found.add(invalid(path, value.clone(), detail));
        }
    }
    if let Some(min) = bounds.minimum {
        let under = match integer {
            Some(integer) if bounds.exclusive_minimum => integer <= min as i64,
            Some(integer) => integer < min as i64,
            None if bounds.exclusive_minimum => float <= min,
            None => float < min,
        };
        if under {
            let than = if bounds.exclusive_minimum { "greater than" } else { "greater than or equal to" };
            let detail = format!("{path} in body should be {than} {}", bound(min, integer));
            found.add(invalid(path, value, detail));
        }
    }
    found
}

/// What the number should fit into, if it does not.
fn out_of_range(float: f64, integer: Option<i64>, schema: &Schema, int32: bool) -> Option<String> {
    let format = schema.format.as_ref().map(|format| format.name());
    match schema.kind {
        Some(Type::Integer) => {
            let fits = match integer {
                Some(integer) => !int32 || i32::try_from(integer).is_ok(),
                None => whole(float) && float.abs() < if int32 { 2_147_483_648.0 } else { 9.2e18 },
            };
            (!fits).then(|| match format {
                Some(format) => format!("integer with format {format}"),
                None => "integer (default format)".to_owned(),
            })
        }
        Some(Type::Number) if format == Some("float") && float.abs() > f64::from(f32::MAX) => {
            Some("number with format float".to_owned())
        }
        _ => None,
    }
}

fn whole(float: f64) -> bool {
    float.is_finite() && float.fract() == 0.0
}

/// A bound as it is compared.
fn bound(bound: f64, integer: Option<i64>) -> String {
    if integer.is_some() { (bound as i64).to_string() } else { go_float(bound) }
}

fn number_of(float: f64) -> Value {
    if whole(float) && float.abs() < 9e15 { Value::from(float as i64) } else { Value::from(float) }
}

/// A float as Go prints it.
fn go_float(float: f64) -> String {
    let exponent = if float == 0.0 { 0 } else { float.abs().log10().floor() as i32 };
    if (-4..21).contains(&exponent) {
        return float.to_string();
    }
    let text = format!("{float:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("+", exponent), |rest| ("-", rest));
    format!("{digits}e{sign}{exponent:0>2}")
}
