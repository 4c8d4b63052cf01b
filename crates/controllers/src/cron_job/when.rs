//! When a schedule is due, by the clock of a time zone. Pure.

use dyad_model::schedule::{Schedule, Times};
use jiff::civil::{DateTime, time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// No schedule is looked at further ahead, in years: what is not due by then never is.
const YEARS: i16 = 5;

/// How far back to look for the last time, in seconds: in short spans first, lest many be gone through.
const SPANS: [i64; 5] = [3600, 86_400, 32 * 86_400, 400 * 86_400, 5 * 366 * 86_400];

/// The first time after `after`.
pub(super) fn next(schedule: &Schedule, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    match schedule {
        Schedule::Every(seconds) => {
            let whole = Timestamp::from_second(after.as_second()).ok()?;
            whole.checked_add(i64::try_from(*seconds).ok()?.seconds()).ok()
        }
        Schedule::At(times) => {
            let mut from = after.to_zoned(zone.clone()).datetime();
            loop {
                from = next_local(times, from)?;
                // A time that does not exist is the one that far after it; one that is twice is the first.
                let found = from.to_zoned(zone.clone()).ok()?.timestamp();
                if found > after {
                    return Some(found);
                }
            }
        }
    }
}

/// The first minute of the calendar after `from`.
fn next_local(times: &Times, from: DateTime) -> Option<DateTime> {
    let last = from.year().checked_add(YEARS)?;
    let mut at = from.with().second(0).subsec_nanosecond(0).build().ok()?.checked_add(1.minute()).ok()?;
    while at.year() <= last {
        let midnight = |date: DateTime| date.date().to_datetime(time(0, 0, 0, 0));
        let unsigned = |number: i8| u8::try_from(number).unwrap_or_default();
        let (month, day) = (unsigned(at.month()), unsigned(at.day()));
        let weekday = unsigned(at.weekday().to_sunday_zero_offset());
        at = if !times.month(month) {
            midnight(at.first_of_month().checked_add(1.month()).ok()?)
        } else if !times.day(day, weekday) {
            midnight(at.checked_add(1.day()).ok()?)
        } else if !times.hour(unsigned(at.hour())) {
            at.with().minute(0).build().ok()?.checked_add(1.hour()).ok()?
        } else if !times.minute(unsigned(at.minute())) {
            at.checked_add(1.minute()).ok()?
        } else {
            return Some(at);
        };
    }
    None
}

/// The last time after `earliest` and not after `now`.
pub(super) fn last(
    schedule: &Schedule,
    earliest: Timestamp,
    now: Timestamp,
    zone: &TimeZone,
) -> Option<Timestamp> {
    if let Schedule::Every(seconds) = schedule {
        let seconds = i64::try_from(*seconds).ok()?;
        let times = (now.as_second() - earliest.as_second()) / seconds;
        return (times > 0)
            .then(|| Timestamp::from_second(earliest.as_second() + times * seconds).ok())
            .flatten();
    }
    for span in SPANS {
        let from = earliest.max(now.checked_sub(span.seconds()).unwrap_or(earliest));
        let mut found = None;
        let mut at = from;
        while let Some(time) = next(schedule, at, zone).filter(|time| *time <= now) {
            found = Some(time);
            at = time;
        }
        if found.is_some() || from == earliest {
            return found;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times_are_those_of_the_zone() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        #[rustfmt::skip]
        let rows = [
            ("*/5 * * * *",   "2026-01-01T00:03:10Z", TimeZone::UTC, "2026-01-01T00:05:00Z"),
            ("0 0 1 1 *",     "2026-01-01T00:00:00Z", TimeZone::UTC, "2027-01-01T00:00:00Z"),
            ("30 8 * * mon",  "2026-01-01T00:00:00Z", TimeZone::UTC, "2026-01-05T08:30:00Z"),
            ("0 8 * * *",     "2026-01-01T00:00:00Z", berlin.clone(), "2026-01-01T07:00:00Z"),
            ("0 8 * * *",     "2026-07-01T00:00:00Z", berlin.clone(), "2026-07-01T06:00:00Z"),
            ("30 2 * * *",    "2026-03-28T12:00:00Z", berlin.clone(), "2026-03-29T01:30:00Z"),
            ("0 0 29 2 *",    "2026-01-01T00:00:00Z", TimeZone::UTC, "2028-02-29T00:00:00Z"),
            ("@every 90s",    "2026-01-01T00:00:00.5Z", TimeZone::UTC, "2026-01-01T00:01:30Z"),
        ];
        for (schedule, after, zone, wanted) in rows {
            let schedule = Schedule::parse(schedule).unwrap();
            assert_eq!(next(&schedule, at(after), &zone), Some(at(wanted)), "{schedule:?}");
        }
        let never = Schedule::parse("0 0 31 2 *").unwrap();
        assert_eq!(next(&never, at("2026-01-01T00:00:00Z"), &TimeZone::UTC), None);
        assert_eq!(
            last(&never, at("2006-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"), &TimeZone::UTC),
            None
        );
    }

    #[test]
    fn the_last_time_is_found_however_long_ago() {
        let last = |schedule: &str, from: &str, now: &str| {
            last(&Schedule::parse(schedule).unwrap(), at(from), at(now), &TimeZone::UTC)
        };
        assert_eq!(
            last("* * * * *", "2020-01-01T00:00:00Z", "2026-01-01T00:00:30Z"),
            Some(at("2026-01-01T00:00:00Z"))
        );
        assert_eq!(
            last("0 0 1 1 *", "2020-06-01T00:00:00Z", "2026-06-01T00:00:30Z"),
            Some(at("2026-01-01T00:00:00Z"))
        );
        assert_eq!(
            last("0 0 1 1 *", "2026-01-01T00:00:00Z", "2026-06-01T00:00:30Z"),
            None,
            "that was the last one"
        );
        assert_eq!(
            last("@every 1h", "2026-01-01T00:00:00Z", "2026-01-01T05:59:59Z"),
            Some(at("2026-01-01T05:00:00Z"))
        );
    }
}
