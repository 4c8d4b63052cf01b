//! Times: RFC 3339 in any offset in, RFC 3339 in UTC out, with the errors of Go's `time.Parse`.

/// How much of a second a type keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// `metav1.Time`: whole seconds; a fraction is accepted and dropped.
    Seconds,
    /// `metav1.MicroTime`: exactly six digits.
    Micros,
}

impl Precision {
    const fn layout(self) -> &'static str {
        match self {
            Self::Seconds => "2006-01-02T15:04:05Z07:00",
            Self::Micros => "2006-01-02T15:04:05.000000Z07:00",
        }
    }
}

/// A moment of UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Microseconds of the second.
    pub micros: u32,
}

impl Moment {
    /// Go's zero time, which is written as `null`: the first of January of the year 1.
    pub const ZERO: Self = Self { seconds: -62_135_596_800, micros: 0 };
}

/// The text in UTC; `None` for Go's zero time, which is written as `null`.
pub fn canonical(text: &str, precision: Precision) -> Result<Option<String>, String> {
    written(moment(text, precision)?, precision)
}

/// The moment that a text names.
pub(crate) fn moment(text: &str, precision: Precision) -> Result<Moment, String> {
    let mut cursor = Cursor { text, rest: text, layout: precision.layout() };
    let year = i64::from(cursor.number(4, "2006")?);
    cursor.literal("-")?;
    let month = cursor.number(2, "01")?;
    if !(1..=12).contains(&month) {
        return Err(cursor.out_of_range("month"));
    }
    cursor.literal("-")?;
    let day = cursor.number(2, "02")?;
    cursor.literal("T")?;
    let hour = cursor.number(2, "15")?;
    if hour > 23 {
        return Err(cursor.out_of_range("hour"));
    }
    cursor.literal(":")?;
    let minute = cursor.number(2, "04")?;
    if minute > 59 {
        return Err(cursor.out_of_range("minute"));
    }
    cursor.literal(":")?;
    let second = cursor.number(2, "05")?;
    if second > 59 {
        return Err(cursor.out_of_range("second"));
    }
    let micros = cursor.fraction(precision)?;
    let offset = cursor.offset()?;
    if !cursor.rest.is_empty() {
        return Err(format!("parsing time {text:?}: extra text: {:?}", cursor.rest));
    }
    if !(1..=days_in(year, month)).contains(&day) {
        return Err(cursor.out_of_range("day"));
    }
    let seconds = days_from_civil(year, month, day) * 86_400 + i64::from(hour * 3600 + minute * 60 + second)
        - i64::from(offset);
    Ok(Moment { seconds, micros })
}

/// The text of a moment; `None` for Go's zero time, which is written as `null`.
pub(crate) fn written(moment: Moment, precision: Precision) -> Result<Option<String>, String> {
    if moment == Moment::ZERO {
        return Ok(None);
    }
    let Moment { seconds, micros } = moment;
    let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
    if !(0..=9999).contains(&year) {
        return Err("Time.MarshalJSON: year outside of range [0,9999]".to_owned());
    }
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let fraction = match precision {
        Precision::Seconds => String::new(),
        Precision::Micros => format!(".{micros:06}"),
    };
    Ok(Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")))
}

struct Cursor<'a> {
    text: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl Cursor<'_> {
    fn cannot(&self, element: &str) -> String {
        format!(
            "parsing time {:?} as {:?}: cannot parse {:?} as {element:?}",
            self.text, self.layout, self.rest
        )
    }

    fn out_of_range(&self, what: &str) -> String {
        format!("parsing time {:?}: {what} out of range", self.text)
    }

    /// Exactly `digits` digits.
    fn number(&mut self, digits: usize, element: &str) -> Result<u32, String> {
        let taken = self.rest.get(..digits).filter(|taken| taken.bytes().all(|byte| byte.is_ascii_digit()));
        let number = taken.and_then(|taken| taken.parse().ok()).ok_or_else(|| self.cannot(element))?;
        self.rest = &self.rest[digits..];
        Ok(number)
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        self.rest = self.rest.strip_prefix(literal).ok_or_else(|| self.cannot(literal))?;
        Ok(())
    }

    /// Microseconds.
    fn fraction(&mut self, precision: Precision) -> Result<u32, String> {
        match precision {
            Precision::Micros => {
                let before = self.rest;
                self.rest = self.rest.strip_prefix(['.', ',']).ok_or_else(|| self.cannot(".000000"))?;
                match self.number(6, ".000000") {
                    Ok(micros) => Ok(micros),
                    Err(_) => {
                        self.rest = before;
                        Err(self.cannot(".000000"))
                    }
                }
            }
            Precision::Seconds => {
                if let Some(rest) = self.rest.strip_prefix(['.', ',']) {
                    let after = rest.trim_start_matches(|character: char| character.is_ascii_digit());
                    if after.len() < rest.len() {
                        self.rest = after;
                    }
                }
                Ok(0)
            }
        }
    }

    /// Seconds east of UTC.
    fn offset(&mut self) -> Result<i32, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let failure = self.cannot("Z07:00");
        let sign = match self.rest.as_bytes().first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Err(failure),
        };
        self.rest = &self.rest[1..];
        let hours = self.zone_part(24, &failure)?;
        self.rest = self.rest.strip_prefix(':').ok_or_else(|| failure.clone())?;
        let minutes = self.zone_part(60, &failure)?;
        Ok(sign * (hours * 3600 + minutes * 60))
    }

    /// Hours or minutes of an offset.
    fn zone_part(&mut self, limit: u32, failure: &str) -> Result<i32, String> {
        let number = self.number(2, "Z07:00").map_err(|_| failure.to_owned())?;
        if number > limit {
            return Err(format!("parsing time {:?}: time zone offset out of range", self.text));
        }
        i32::try_from(number).map_err(|_| failure.to_owned())
    }
}

fn days_in(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01. Years begin in March here, so that the leap day is the last one.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = i64::from((153 * ((month + 9) % 12) + 2) / 5 + day - 1);
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of a number of days since 1970-01-01.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_utc() {
        #[rustfmt::skip]
        let rows = [
            ("2024-02-29T23:59:59Z", Precision::Seconds, Ok(Some("2024-02-29T23:59:59Z"))),
            ("2024-02-29T23:59:59.999Z", Precision::Seconds, Ok(Some("2024-02-29T23:59:59Z"))),
            ("2024-01-01T01:00:00+02:00", Precision::Seconds, Ok(Some("2023-12-31T23:00:00Z"))),
            ("1969-12-31T20:00:00-04:30", Precision::Seconds, Ok(Some("1970-01-01T00:30:00Z"))),
            ("0001-01-01T00:00:00Z", Precision::Seconds, Ok(None)),
            ("2024-01-01T00:00:00.123456Z", Precision::Micros, Ok(Some("2024-01-01T00:00:00.123456Z"))),
            ("2024-01-01T00:00:00Z", Precision::Micros, Err(r#"parsing time "2024-01-01T00:00:00Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#)),
            ("yesterday", Precision::Seconds, Err(r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#)),
            ("", Precision::Seconds, Err(r#"parsing time "" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006""#)),
            ("2024-01-01", Precision::Seconds, Err(r#"parsing time "2024-01-01" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#)),
            ("2023-02-29T00:00:00Z", Precision::Seconds, Err(r#"parsing time "2023-02-29T00:00:00Z": day out of range"#)),
            ("2023-13-01T00:00:00Z", Precision::Seconds, Err(r#"parsing time "2023-13-01T00:00:00Z": month out of range"#)),
            ("2023-01-01T00:00:00Zx", Precision::Seconds, Err(r#"parsing time "2023-01-01T00:00:00Zx": extra text: "x""#)),
            ("2023-01-01T00:00:00", Precision::Seconds, Err(r#"parsing time "2023-01-01T00:00:00" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "Z07:00""#)),
        ];
        for (text, precision, want) in rows {
            let want = want.map(|text| text.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(canonical(text, precision), want, "{text}");
        }
    }

    #[test]
    fn days_and_dates_agree() {
        for days in (-800_000..3_000_000).step_by(37) {
            let (year, month, day) = civil_from_days(days);
            let (month, day) = (u32::try_from(month).unwrap(), u32::try_from(day).unwrap());
            assert_eq!(days_from_civil(year, month, day), days);
            assert!((1..=days_in(year, month)).contains(&day));
        }
    }
}
