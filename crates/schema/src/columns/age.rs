//! Ages, as kubectl prints durations: two or three digits that matter.

use serde_json::Value;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// How long before `now` (seconds since 1970) a time was, or `<unknown>` if there is none.
pub fn since(time: &Value, now: i64) -> String {
    match seconds(time) {
        Some(then) => human(now - then),
        None => "<unknown>".to_owned(),
    }
}

/// A duration in seconds. Clocks may disagree by a second; more than that in the future is `<invalid>`.
pub(super) fn human(seconds: i64) -> String {
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(seconds, MINUTE, "m", 1, "s"),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(seconds, HOUR, "h", MINUTE, "m"),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(seconds, DAY, "d", HOUR, "h"),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => two(seconds, YEAR, "y", DAY, "d"),
        252_288_000.. => format!("{}y", seconds / YEAR),
    }
}

/// A duration in a large and a small unit, the small one only if it counts.
fn two(seconds: i64, large: i64, large_name: &str, small: i64, small_name: &str) -> String {
    match seconds % large / small {
        0 => format!("{}{large_name}", seconds / large),
        rest => format!("{}{large_name}{rest}{small_name}", seconds / large),
    }
}

/// Seconds since 1970 of an RFC 3339 time in UTC, the only form in which objects are stored; fractions are dropped.
pub(super) fn seconds(time: &Value) -> Option<i64> {
    let text = time.as_str()?.strip_suffix('Z')?;
    let part = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
    let (hour, minute, second) = (part(11..13)?, part(14..16)?, part(17..19)?);
    // Years that begin in March end with the leap day, so that the months before any month have a fixed length.
    let year = year - i64::from(month < 3);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year;
    const MARCH_0000_TO_1970: i64 = 719_468;
    Some((days - MARCH_0000_TO_1970) * DAY + hour * HOUR + minute * MINUTE + second)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_printed_as_kubectl_does() {
        for (seconds, wanted) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 61, "3h1m"),
            (8 * HOUR - 1, "7h59m"),
            (8 * HOUR, "8h"),
            (2 * DAY - 1, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + HOUR, "2d1h"),
            (8 * DAY - 1, "7d23h"),
            (8 * DAY, "8d"),
            (2 * YEAR - 1, "729d"),
            (2 * YEAR, "2y"),
            (2 * YEAR + DAY, "2y1d"),
            (8 * YEAR - 1, "7y364d"),
            (8 * YEAR, "8y"),
        ] {
            assert_eq!(human(seconds), wanted, "{seconds} s");
        }
    }

    #[test]
    fn times_are_counted_from_1970() {
        for (text, wanted) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1969-12-31T23:59:59Z", Some(-1)),
            ("2000-02-29T00:00:00Z", Some(951_782_400)),
            ("2000-03-01T00:00:00Z", Some(951_868_800)),
            ("2026-11-21T05:38:24Z", Some(1_795_239_504)),
            ("2026-11-21T05:38:24.999999Z", Some(1_795_239_504)),
            ("2026-11-21", None),
            ("", None),
            ("é", None),
        ] {
            assert_eq!(seconds(&json!(text)), wanted, "{text}");
        }
        assert_eq!(since(&Value::Null, 0), "<unknown>");
    }
}
