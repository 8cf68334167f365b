//! Times of day and dates, absolute and relative.

use std::ops::Range;
use std::sync::LazyLock;

use jiff::civil::{Date, Weekday};
use jiff::{Span, ToSpan, Zoned};
use regex::{Captures, Regex};

use super::pattern::constant;

/// A time of day in a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockTime {
    /// Where it stands.
    pub span: Range<usize>,
    /// The hour, from 0 to 23.
    pub hour: u8,
    /// The minute.
    pub minute: u8,
}

impl ClockTime {
    /// As `15:30`.
    pub fn to_24_hours(&self) -> String {
        format!("{:02}:{:02}", self.hour, self.minute)
    }
}

/// A date, or a moment, in a question.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// Where it stands.
    pub span: Range<usize>,
    /// What it means.
    pub at: Zoned,
    /// Whether it is exact to the minute rather than a day.
    pub has_time: bool,
}

impl Moment {
    /// As `2026-11-22`.
    pub fn to_date(&self) -> String {
        self.at.date().to_string()
    }

    /// As `2026-11-22T15:30:00Z`.
    pub fn to_rfc3339(&self) -> String {
        self.at.timestamp().to_string()
    }
}

static TWELVE_HOURS: LazyLock<Regex> =
    LazyLock::new(|| constant(r"(?i)\b(1[0-2]|0?[1-9])(?::([0-5]\d))?\s*(a\.?m\b\.?|p\.?m\b\.?)"));
static TWENTY_FOUR_HOURS: LazyLock<Regex> =
    LazyLock::new(|| constant(r"\b([01]?\d|2[0-3]):([0-5]\d)(?::[0-5]\d)?\b"));
static NAMED_HOUR: LazyLock<Regex> = LazyLock::new(|| constant(r"(?i)\b(noon|midday|midnight)\b"));
static O_CLOCK: LazyLock<Regex> = LazyLock::new(|| constant(r"(?i)\b(\d{1,2})\s*o['’]?clock\b"));

static ISO: LazyLock<Regex> =
    LazyLock::new(|| constant(r"\b(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?)(Z|[+-]\d{2}:\d{2})?)?"));
static DAY_WORD: LazyLock<Regex> = LazyLock::new(|| constant(r"(?i)\b(today|tonight|tomorrow|yesterday)\b"));
static WEEKDAY: LazyLock<Regex> = LazyLock::new(|| {
    constant(r"(?i)\b(?:(next|last|this|on)\s+)?(monday|tuesday|wednesday|thursday|friday|saturday|sunday)\b")
});
static FROM_NOW: LazyLock<Regex> = LazyLock::new(|| {
    constant(
        r"(?i)\bin\s+(\d{1,4}|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve)\s+(minute|hour|day|week|month|year)s?\b",
    )
});
static AGO: LazyLock<Regex> = LazyLock::new(|| {
    constant(
        r"(?i)\b(\d{1,4}|an?|one|two|three|four|five|six|seven|eight|nine|ten|twelve)\s+(minute|hour|day|week|month|year)s?\s+ago\b",
    )
});
static ADJACENT: LazyLock<Regex> = LazyLock::new(|| {
    constant(
        r"(?i)\b(next|last|past)\s+(?:(\d{1,4}|two|three|four|five|six|seven)\s+)?(hour|day|week|month|year)s?\b",
    )
});
static MONTH_DAY: LazyLock<Regex> = LazyLock::new(|| {
    constant(
        r"(?i)\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?\s+(\d{1,2})(?:st|nd|rd|th)?(?:,?\s+(\d{4}))?\b",
    )
});
static DAY_MONTH: LazyLock<Regex> = LazyLock::new(|| {
    constant(
        r"(?i)\b(\d{1,2})(?:st|nd|rd|th)?\.?\s+(?:of\s+)?(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?(?:,?\s+(\d{4}))?\b",
    )
});

/// The times of day in a question, in order.
pub fn clock_times(question: &str) -> Vec<ClockTime> {
    let mut found: Vec<ClockTime> = Vec::new();
    type Read = fn(&Captures<'_>) -> Option<(u8, u8)>;
    let readers: [(&Regex, Read); 4] = [
        (&TWELVE_HOURS, twelve_hours),
        (&TWENTY_FOUR_HOURS, |c| Some((number(c, 1)?, number(c, 2)?))),
        (&NAMED_HOUR, |c| {
            Some((
                if c[1].eq_ignore_ascii_case("midnight") {
                    0
                } else {
                    12
                },
                0,
            ))
        }),
        (&O_CLOCK, |c| Some((number(c, 1).filter(|hour| *hour < 24)?, 0))),
    ];
    for (pattern, read) in readers {
        for captures in pattern.captures_iter(question) {
            let (Some(whole), Some((hour, minute))) = (captures.get(0), read(&captures)) else {
                continue;
            };
            if found.iter().all(|known| !overlap(&known.span, &whole.range())) {
                found.push(ClockTime {
                    span: whole.range(),
                    hour,
                    minute,
                });
            }
        }
    }
    found.sort_by_key(|time| time.span.start);
    found
}

/// The dates and moments in a question, in order, relative to `now`.
pub fn moments(question: &str, now: &Zoned) -> Vec<Moment> {
    type Read = fn(&Captures<'_>, &Zoned) -> Option<(Zoned, bool)>;
    let readers: [(&Regex, Read); 8] = [
        (&ISO, iso),
        (&AGO, |c, now| shifted(now, -count(c, 1)?, &c[2])),
        (&FROM_NOW, |c, now| shifted(now, count(c, 1)?, &c[2])),
        (&ADJACENT, adjacent),
        (&DAY_WORD, day_word),
        (&WEEKDAY, weekday),
        (&MONTH_DAY, |c, now| {
            month_day(now, &c[1], number(c, 2)?, number(c, 3))
        }),
        (&DAY_MONTH, |c, now| {
            month_day(now, &c[2], number(c, 1)?, number(c, 3))
        }),
    ];
    let mut found: Vec<Moment> = Vec::new();
    for (pattern, read) in readers {
        for captures in pattern.captures_iter(question) {
            let Some(whole) = captures.get(0) else { continue };
            let Some((at, has_time)) = read(&captures, now) else {
                continue;
            };
            if found.iter().all(|known| !overlap(&known.span, &whole.range())) {
                found.push(Moment {
                    span: whole.range(),
                    at,
                    has_time,
                });
            }
        }
    }
    found.sort_by_key(|moment| moment.span.start);
    found
}

fn twelve_hours(captures: &Captures<'_>) -> Option<(u8, u8)> {
    let hour: u8 = number(captures, 1)?;
    let minute = number(captures, 2).unwrap_or(0);
    let is_afternoon = captures[3].starts_with(['p', 'P']);
    Some((hour % 12 + if is_afternoon { 12 } else { 0 }, minute))
}

fn iso(captures: &Captures<'_>, now: &Zoned) -> Option<(Zoned, bool)> {
    let date: Date = captures[1].parse().ok()?;
    let Some(time) = captures.get(2) else {
        return Some((at_midnight(date, now)?, false));
    };
    if let Some(offset) = captures.get(3) {
        let seconds = if time.as_str().len() == 5 { ":00" } else { "" };
        let text = format!("{date}T{}{seconds}{}", time.as_str(), offset.as_str());
        let timestamp: jiff::Timestamp = text.parse().ok()?;
        return Some((timestamp.to_zoned(now.time_zone().clone()), true));
    }
    let time: jiff::civil::Time = time.as_str().parse().ok()?;
    Some((
        date.to_datetime(time).to_zoned(now.time_zone().clone()).ok()?,
        true,
    ))
}

fn day_word(captures: &Captures<'_>, now: &Zoned) -> Option<(Zoned, bool)> {
    let days = match captures[1].to_lowercase().as_str() {
        "tomorrow" => 1,
        "yesterday" => -1,
        _ => 0,
    };
    Some((
        at_midnight(now.date().checked_add(days.days()).ok()?, now)?,
        false,
    ))
}

/// The next such day, or the last one.
fn weekday(captures: &Captures<'_>, now: &Zoned) -> Option<(Zoned, bool)> {
    let weekday = match captures[2].to_lowercase().as_str() {
        "monday" => Weekday::Monday,
        "tuesday" => Weekday::Tuesday,
        "wednesday" => Weekday::Wednesday,
        "thursday" => Weekday::Thursday,
        "friday" => Weekday::Friday,
        "saturday" => Weekday::Saturday,
        _ => Weekday::Sunday,
    };
    let is_last = captures
        .get(1)
        .is_some_and(|which| which.as_str().eq_ignore_ascii_case("last"));
    let date = now
        .date()
        .nth_weekday(if is_last { -1 } else { 1 }, weekday)
        .ok()?;
    Some((at_midnight(date, now)?, false))
}

fn adjacent(captures: &Captures<'_>, now: &Zoned) -> Option<(Zoned, bool)> {
    let forward = captures[1].eq_ignore_ascii_case("next");
    let amount = if captures.get(2).is_some() {
        count(captures, 2)?
    } else {
        1
    };
    shifted(now, if forward { amount } else { -amount }, &captures[3])
}

fn shifted(now: &Zoned, amount: i64, unit: &str) -> Option<(Zoned, bool)> {
    let span = match unit.to_lowercase().as_str() {
        "minute" => Span::new().try_minutes(amount),
        "hour" => Span::new().try_hours(amount),
        "day" => Span::new().try_days(amount),
        "week" => Span::new().try_weeks(amount),
        "month" => Span::new().try_months(amount),
        _ => Span::new().try_years(amount),
    }
    .ok()?;
    let at = now.checked_add(span).ok()?;
    let is_exact = matches!(unit.to_lowercase().as_str(), "minute" | "hour");
    Some(if is_exact {
        (at, true)
    } else {
        (at_midnight(at.date(), now)?, false)
    })
}

fn month_day(now: &Zoned, month: &str, day: i8, year: Option<i16>) -> Option<(Zoned, bool)> {
    const MONTHS: [&str; 12] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    let month = MONTHS
        .iter()
        .position(|name| month.to_lowercase().starts_with(name))? as i8
        + 1;
    let date = Date::new(year.unwrap_or(now.year()), month, day).ok()?;
    Some((at_midnight(date, now)?, false))
}

fn at_midnight(date: Date, now: &Zoned) -> Option<Zoned> {
    date.to_zoned(now.time_zone().clone()).ok()
}

fn number<N: std::str::FromStr>(captures: &Captures<'_>, group: usize) -> Option<N> {
    captures.get(group)?.as_str().parse().ok()
}

fn count(captures: &Captures<'_>, group: usize) -> Option<i64> {
    let text = captures.get(group)?.as_str().to_lowercase();
    text.parse().ok().or_else(|| number_word(&text))
}

/// The value of a small number word; `a` and `an` count as one.
pub fn number_word(word: &str) -> Option<i64> {
    const WORDS: [&str; 13] = [
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
        "twelve",
    ];
    match word {
        "a" | "an" => Some(1),
        _ => WORDS
            .iter()
            .position(|known| *known == word)
            .map(|value| value as i64),
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A Sunday.
    fn now() -> Zoned {
        "2026-11-22T12:30:00+00:00[UTC]".parse().unwrap()
    }

    #[test]
    fn reads_times_of_day() {
        let cases = [
            ("convert 3 pm New York", "15:00"),
            ("at 3:45pm", "15:45"),
            ("12 am", "00:00"),
            ("12 p.m. sharp", "12:00"),
            ("at 09:05", "09:05"),
            ("noon in Paris", "12:00"),
            ("5 o'clock", "05:00"),
        ];
        for (question, wanted) in cases {
            let times: Vec<String> = clock_times(question).iter().map(ClockTime::to_24_hours).collect();
            assert_eq!(times, [wanted], "{question}");
        }
        assert!(clock_times("3 people and 12 amps").is_empty());
    }

    #[test]
    fn reads_dates() {
        let cases = [
            ("on 2026-02-03", "2026-02-03"),
            ("since yesterday", "2026-11-21"),
            ("2 weeks ago", "2026-11-08"),
            ("in three days", "2026-11-25"),
            ("last month", "2026-10-22"),
            ("the last 3 days", "2026-11-19"),
            ("next Friday", "2026-11-27"),
            ("last Friday", "2026-11-20"),
            ("March 5th", "2026-03-05"),
            ("5 March 2024", "2024-03-05"),
            ("on the 1st of May, 2025", "2025-05-01"),
        ];
        for (question, wanted) in cases {
            let dates: Vec<String> = moments(question, &now()).iter().map(Moment::to_date).collect();
            assert_eq!(dates, [wanted], "{question}");
        }
    }

    #[test]
    fn exact_moments_keep_their_time() {
        let found = moments("2 hours ago and at 2026-01-02T03:04Z", &now());
        assert_eq!(found[0].to_rfc3339(), "2026-11-22T10:30:00Z");
        assert_eq!(found[1].to_rfc3339(), "2026-01-02T03:04:00Z");
        assert!(found.iter().all(|moment| moment.has_time));
    }
}
