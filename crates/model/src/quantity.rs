//! Resource quantities: `100m`, `1.5`, `64Mi`, `2e3`.

/// A quantity in billionths, the finest step Kubernetes keeps. Saturates far beyond any machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity(i128);

impl Quantity {
    /// In whole units, rounded up; negative ones count as zero.
    pub fn whole(self) -> u64 {
        self.in_steps(1_000_000_000)
    }

    /// In thousandths, rounded up; negative ones count as zero.
    pub fn millis(self) -> u64 {
        self.in_steps(1_000_000)
    }

    fn in_steps(self, billionths: i128) -> u64 {
        let steps = self.0 / billionths + i128::from(self.0 % billionths > 0);
        u64::try_from(steps.max(0)).unwrap_or(u64::MAX)
    }

    /// Parses a quantity; nothing if the text is none. Finer fractions round away from zero.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, text) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let (factor, decimals) = Self::scale(suffix)?;
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0');
        // 30 digits are beyond every limit; more would overflow below.
        let mantissa =
            if digits.is_empty() { 0 } else { digits.get(..30).unwrap_or(digits).parse::<i128>().ok()? };
        let dropped = i32::try_from(digits.len().saturating_sub(30)).ok()?;
        let exponent = decimals + 9 + dropped - i32::try_from(fraction.len()).ok()?;
        let scaled = mantissa.saturating_mul(factor);
        let value = if exponent >= 0 {
            10_i128
                .checked_pow(exponent.unsigned_abs())
                .map_or(i128::MAX, |power| scaled.saturating_mul(power))
        } else {
            10_i128
                .checked_pow(exponent.unsigned_abs())
                .map_or(i128::from(scaled > 0), |power| scaled / power + i128::from(scaled % power != 0))
        };
        Some(Self(if negative { -value } else { value }))
    }

    /// Factor and power of ten of a suffix.
    fn scale(suffix: &str) -> Option<(i128, i32)> {
        Some(match suffix {
            "" => (1, 0),
            "n" => (1, -9),
            "u" => (1, -6),
            "m" => (1, -3),
            "k" => (1, 3),
            "M" => (1, 6),
            "G" => (1, 9),
            "T" => (1, 12),
            "P" => (1, 15),
            "E" => (1, 18),
            "Ki" => (1 << 10, 0),
            "Mi" => (1 << 20, 0),
            "Gi" => (1 << 30, 0),
            "Ti" => (1 << 40, 0),
            "Pi" => (1 << 50, 0),
            "Ei" => (1 << 60, 0),
            exponent => {
                let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
                (1, power.clamp(-40, 40))
            }
        })
    }

    /// As Kubernetes writes it, in powers of two if `binary` and nothing is lost by it.
    pub(crate) fn shown(self, binary: bool) -> String {
        const BILLION: i128 = 1_000_000_000;
        const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let reduce = |mut number: i128, base: i128, suffixes: &[&str]| {
            let mut power = 0;
            while number != 0 && number % base == 0 && power + 1 < suffixes.len() {
                number /= base;
                power += 1;
            }
            format!("{number}{}", suffixes[power])
        };
        if self.0 == 0 {
            return "0".to_owned();
        }
        if binary && self.is_whole() && self.0.abs() >= 1024 * BILLION {
            return reduce(self.0 / BILLION, 1024, &BINARY);
        }
        reduce(self.0, 1000, &DECIMAL)
    }

    /// In whole units, rounded away from zero.
    pub(crate) fn value(self) -> i64 {
        let whole = self.0 / 1_000_000_000 + (self.0 % 1_000_000_000).signum();
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }

    /// What is left of it after another is taken.
    pub(crate) const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Whether it is more than nothing.
    pub(crate) const fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// Whether it is less than nothing.
    pub(crate) const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Whether it is a whole number.
    pub(crate) const fn is_whole(self) -> bool {
        self.0 % 1_000_000_000 == 0
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_compare_by_value() {
        let equal = [
            ("1", "1000m"),
            ("0.5", "500m"),
            ("1Ki", "1024"),
            ("1.5Gi", "1536Mi"),
            ("1e3", "1k"),
            ("1E", "1000P"),
            ("1E3", "1000"),
            ("-1", "-1000m"),
            (".5", "0.50"),
            ("1n", "0.000000001"),
        ];
        for (left, right) in equal {
            assert_eq!(Quantity::parse(left).unwrap(), Quantity::parse(right).unwrap(), "{left} {right}");
        }
        assert!(Quantity::parse("1Mi") > Quantity::parse("1M"));
        assert!(Quantity::parse("0.1n").unwrap().is_positive(), "rounds away from zero");
        assert!(!Quantity::parse("100m").unwrap().is_whole());
    }

    #[test]
    fn quantities_are_shown_as_kubernetes_writes_them() {
        let rows = [
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("2000m", "2"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("0.5Gi", "512Mi"),
            ("1000Ki", "1000Ki"),
            ("512Ki", "512Ki"),
            ("0.5Ki", "512"),
            ("1000000", "1M"),
            ("0", "0"),
            ("-3k", "-3k"),
        ];
        for (text, wanted) in rows {
            let shown = Quantity::parse(text).unwrap().shown(text.ends_with('i'));
            assert_eq!(shown, wanted, "{text}");
            assert_eq!(Quantity::parse(&shown), Quantity::parse(text), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_quantities() {
        for text in ["", "m", "1x", "1.2.3", "1 ", "-", "1e", "1Kim", "é"] {
            assert_eq!(Quantity::parse(text), None, "{text:?}");
        }
        assert!(Quantity::parse(&"9".repeat(400)).unwrap().is_positive(), "huge numbers saturate");
    }
}
