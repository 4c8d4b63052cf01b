//! When a CronJob is due: five fields of a crontab, or a word for them, as Kubernetes' parser reads them.

/// Why a text is no schedule, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(String);

/// When something is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// At the times whose fields are all among these.
    At(Times),
    /// So many seconds after the last time.
    Every(u64),
}

/// Minutes, hours, days and months, a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
}

/// Set in a field that was `*` or `?`.
const ANY: u64 = 1 << 63;

/// What a field may hold.
struct Bounds {
    low: u64,
    high: u64,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { low: 0, high: 59, names: &[] };
const HOURS: Bounds = Bounds { low: 0, high: 23, names: &[] };
const DAYS: Bounds = Bounds { low: 1, high: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    low: 1,
    high: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds =
    Bounds { low: 0, high: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

impl Times {
    /// Whether a month, 1 to 12, is among them.
    pub fn month(&self, month: u8) -> bool {
        self.months & 1 << month != 0
    }

    /// Whether a day, 1 to 31, that is a weekday, 0 for Sunday, is among them: if both are given, one is enough.
    pub fn day(&self, day: u8, weekday: u8) -> bool {
        let (by_day, by_weekday) = (self.days & 1 << day != 0, self.weekdays & 1 << weekday != 0);
        if (self.days | self.weekdays) & ANY != 0 { by_day && by_weekday } else { by_day || by_weekday }
    }

    /// Whether an hour is among them.
    pub fn hour(&self, hour: u8) -> bool {
        self.hours & 1 << hour != 0
    }

    /// Whether a minute is among them.
    pub fn minute(&self, minute: u8) -> bool {
        self.minutes & 1 << minute != 0
    }
}

impl Schedule {
    /// Reads a schedule. One that names a time zone is read without it: there is a field for that.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let fail = |why: String| Err(ScheduleError(why));
        if text.is_empty() {
            return fail("empty spec string".to_owned());
        }
        let text = match text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            true => match text.split_once(' ') {
                Some((_, rest)) => rest.trim(),
                None => return fail(format!("invalid schedule format: {text}")),
            },
            false => text,
        };
        if text.starts_with('@') {
            return descriptor(text);
        }
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            let found = fields.join(" ");
            return fail(format!("expected exactly 5 fields, found {}: [{found}]", fields.len()));
        };
        Ok(Self::At(Times {
            minutes: field(minutes, &MINUTES)?,
            hours: field(hours, &HOURS)?,
            days: field(days, &DAYS)?,
            months: field(months, &MONTHS)?,
            weekdays: field(weekdays, &WEEKDAYS)?,
        }))
    }
}

fn descriptor(text: &str) -> Result<Schedule, ScheduleError> {
    let fields = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(duration) = text.strip_prefix("@every ") else {
                return Err(ScheduleError(format!("unrecognized descriptor: {text}")));
            };
            let seconds = duration_seconds(duration).ok_or_else(|| {
                ScheduleError(format!("failed to parse duration {text}: time: invalid duration {duration:?}"))
            })?;
            return Ok(Schedule::Every(seconds.max(1)));
        }
    };
    Schedule::parse(fields)
}

/// Whole seconds of a duration as Go writes it: `1h30m`, `1.5h`, `500ms`. Negative ones count as none.
fn duration_seconds(text: &str) -> Option<u64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut nanos = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        nanos += number.parse::<f64>().ok()? * scale;
        rest = next;
    }
    // Go's durations end after some 292 years.
    let fits = nanos < 9.2e18;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive and below 2^63")]
    fits.then(|| if negative { 0 } else { (nanos / 1e9) as u64 })
}

/// A list of ranges.
fn field(text: &str, bounds: &Bounds) -> Result<u64, ScheduleError> {
    let mut bits = 0;
    for range in text.split(',').filter(|range| !range.is_empty()) {
        bits |= self::range(range, bounds)?;
    }
    Ok(bits)
}

/// `*`, a number, `LOW-HIGH`, each with `/STEP` or without.
fn range(text: &str, bounds: &Bounds) -> Result<u64, ScheduleError> {
    let fail = |why: String| Err(ScheduleError(why));
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let is_any = matches!(ends[0], "*" | "?");
    let (low, mut high) = match ends[..] {
        _ if is_any => (bounds.low, bounds.high),
        [one] => (number(one, bounds)?, number(one, bounds)?),
        [low, high] => (number(low, bounds)?, number(high, bounds)?),
        _ => return fail(format!("too many hyphens: {text}")),
    };
    let step = match parts[..] {
        [_] => 1,
        [_, step] => {
            let step = integer(step)?;
            if ends.len() == 1 {
                high = bounds.high;
            }
            step
        }
        _ => return fail(format!("too many slashes: {text}")),
    };
    if low < bounds.low {
        return fail(format!("beginning of range ({low}) below minimum ({}): {text}", bounds.low));
    }
    if high > bounds.high {
        return fail(format!("end of range ({high}) above maximum ({}): {text}", bounds.high));
    }
    if low > high {
        return fail(format!("beginning of range ({low}) beyond end of range ({high}): {text}"));
    }
    let Ok(width @ 1..) = usize::try_from(step) else {
        return fail(format!("step of range should be a positive number: {text}"));
    };
    let any = if is_any && step == 1 { ANY } else { 0 };
    Ok((low..=high).step_by(width).fold(any, |bits, value| bits | 1 << value))
}

fn number(text: &str, bounds: &Bounds) -> Result<u64, ScheduleError> {
    let name = text.to_lowercase();
    match bounds.names.iter().position(|known| *known == name) {
        Some(position) => Ok(position as u64 + bounds.low),
        None => integer(text),
    }
}

fn integer(text: &str) -> Result<u64, ScheduleError> {
    let number: i64 = text.parse().map_err(|error: std::num::ParseIntError| {
        let why = match error.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        ScheduleError(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {why}"))
    })?;
    u64::try_from(number)
        .map_err(|_| ScheduleError(format!("negative number ({number}) not allowed: {text}")))
}

#[cfg(test)]
mod tests;
