//! What a question mentions: quoted text, addresses, paths, places, times, numbers. Found once, used by all parameters.

use std::ops::Range;
use std::sync::LazyLock;

use jiff::Zoned;
use regex::Regex;

use super::moment::{self, ClockTime, Moment};
use super::pattern::constant;
use super::place::{self, Place};

/// A piece of the question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where it stands, quotes included.
    pub span: Range<usize>,
    /// What it says, without quotes.
    pub text: String,
}

/// A number, with the words around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Number {
    /// Where it stands.
    pub span: Range<usize>,
    /// Its value.
    pub value: f64,
    /// Whether it is written without a fraction.
    pub is_whole: bool,
}

/// All that a question mentions.
#[derive(Debug, Clone)]
pub struct Entities<'a> {
    /// The question.
    pub text: &'a str,
    /// Text in quotes.
    pub quoted: Vec<Piece>,
    /// `http` and `https` addresses.
    pub urls: Vec<Piece>,
    /// Mail addresses.
    pub emails: Vec<Piece>,
    /// File paths, and names with an extension.
    pub paths: Vec<Piece>,
    /// Places with their zones.
    pub places: Vec<Place>,
    /// Times of day.
    pub clock_times: Vec<ClockTime>,
    /// Dates and moments.
    pub moments: Vec<Moment>,
    /// Numbers that belong to no time and no date.
    pub numbers: Vec<Number>,
    /// An SQL statement.
    pub sql: Option<Piece>,
}

static QUOTED: LazyLock<Regex> =
    LazyLock::new(|| constant(r#""([^"]+)"|“([^”]+)”|`([^`]+)`|(?:^|[\s(=:])'([^']+)'(?:$|[\s).,;:?!])"#));
static URL: LazyLock<Regex> = LazyLock::new(|| constant(r#"https?://[^\s<>"'`]+"#));
static EMAIL: LazyLock<Regex> =
    LazyLock::new(|| constant(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"));
static PATH: LazyLock<Regex> = LazyLock::new(|| {
    constant(
        r#"(?:^|[\s(\[=:])((?:~|\.{1,2})?/[^\s"'`<>,;?)]*|[A-Za-z]:\\[^\s"'`<>]+|[\w-]+(?:/[\w.-]+)+|[\w-]+\.[A-Za-z][A-Za-z0-9]{0,4})(?:$|[\s?!,;)\]]|\.(?:\s|$))"#,
    )
});
static NUMBER: LazyLock<Regex> =
    LazyLock::new(|| constant(r"(?i)(?:^|[^\w.])(-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?)(?:%|\b)"));
static NUMBER_WORD: LazyLock<Regex> = LazyLock::new(|| {
    constant(r"(?i)\b(zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b")
});
static SQL: LazyLock<Regex> = LazyLock::new(|| {
    constant(
        r"(?is)\b(select\s.+\sfrom\s.+|insert\s+into\s.+|update\s+\S+\s+set\s.+|delete\s+from\s.+|create\s+(?:table|view|index)\s.+|alter\s+table\s.+|drop\s+(?:table|view|index)\s.+|with\s+\w+\s+as\s*\(.+)$",
    )
});

impl<'a> Entities<'a> {
    /// Reads a question; relative times count from `now`.
    pub fn read(text: &'a str, now: &Zoned) -> Self {
        let quoted = quoted(text);
        let urls = urls(text);
        let emails = whole_matches(&EMAIL, text);
        let moments = moment::moments(text, now);
        let clock_times: Vec<ClockTime> = moment::clock_times(text)
            .into_iter()
            .filter(|time| moments.iter().all(|moment| !overlaps(&moment.span, &time.span)))
            .collect();
        let taken: Vec<Range<usize>> = urls
            .iter()
            .chain(&emails)
            .map(|piece| piece.span.clone())
            .collect();
        let paths = paths(text, &taken);
        let dated = moments
            .iter()
            .map(|m| &m.span)
            .chain(clock_times.iter().map(|t| &t.span));
        let not_numbers: Vec<Range<usize>> = taken
            .iter()
            .chain(dated)
            .cloned()
            .chain(paths.iter().map(|path| path.span.clone()))
            .collect();
        Self {
            numbers: numbers(text, &not_numbers),
            places: place::places(text),
            sql: sql(text),
            text,
            quoted,
            urls,
            emails,
            paths,
            clock_times,
            moments,
        }
    }
}

/// Whether two spans have a byte in common.
pub fn overlaps(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

fn quoted(text: &str) -> Vec<Piece> {
    QUOTED
        .captures_iter(text)
        .filter_map(|captures| {
            let inner = (1..captures.len()).find_map(|group| captures.get(group))?;
            let span = inner.start().saturating_sub(1)..(inner.end() + 1).min(text.len());
            Some(Piece {
                span,
                text: inner.as_str().to_owned(),
            })
        })
        .collect()
}

/// Without the punctuation that ends the sentence.
fn urls(text: &str) -> Vec<Piece> {
    URL.find_iter(text)
        .map(|found| {
            let url = found
                .as_str()
                .trim_end_matches(['.', ',', '?', '!', ')', ';', ':']);
            Piece {
                span: found.start()..found.start() + url.len(),
                text: url.to_owned(),
            }
        })
        .collect()
}

fn whole_matches(pattern: &Regex, text: &str) -> Vec<Piece> {
    pattern
        .find_iter(text)
        .map(|found| Piece {
            span: found.range(),
            text: found.as_str().to_owned(),
        })
        .collect()
}

fn paths(text: &str, taken: &[Range<usize>]) -> Vec<Piece> {
    let mut found = Vec::new();
    let mut from = 0;
    // Step by step, since neighbouring paths share the blank between them.
    while let Some(captures) = text.get(from..).and_then(|rest| PATH.captures(rest)) {
        let Some(path) = captures.get(1) else { break };
        let span = from + path.start()..from + path.end();
        let written = path.as_str();
        let is_free = taken.iter().all(|other| !overlaps(other, &span));
        let is_path = written.len() > 1 && place::zone_of(written).is_none();
        if written == "/" || (is_path && is_free) {
            found.push(Piece {
                span: span.clone(),
                text: written.to_owned(),
            });
        }
        from = span.end.max(from + 1);
    }
    found
}

fn numbers(text: &str, taken: &[Range<usize>]) -> Vec<Number> {
    let mut found: Vec<Number> = NUMBER
        .captures_iter(text)
        .filter_map(|captures| {
            let digits = captures.get(1)?;
            let value: f64 = digits.as_str().replace(',', "").parse().ok()?;
            Some(Number {
                span: digits.range(),
                value,
                is_whole: !digits.as_str().contains('.'),
            })
        })
        .collect();
    found.extend(NUMBER_WORD.find_iter(text).filter_map(|word| {
        let value = moment::number_word(&word.as_str().to_lowercase())? as f64;
        Some(Number {
            span: word.range(),
            value,
            is_whole: true,
        })
    }));
    found.retain(|number| taken.iter().all(|span| !overlaps(span, &number.span)));
    found.sort_by_key(|number| number.span.start);
    found
}

fn sql(text: &str) -> Option<Piece> {
    let captures = SQL.captures(text)?;
    let statement = captures.get(1)?;
    let trimmed = statement
        .as_str()
        .trim_end()
        .trim_end_matches(['"', '`', '”', '?'])
        .trim_end();
    Some(Piece {
        span: statement.start()..statement.start() + trimmed.len(),
        text: trimmed.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(text: &str) -> Entities<'_> {
        Entities::read(text, &"2026-11-22T12:30:00+00:00[UTC]".parse().unwrap())
    }

    fn texts(pieces: &[Piece]) -> Vec<&str> {
        pieces.iter().map(|piece| piece.text.as_str()).collect()
    }

    #[test]
    fn tells_paths_urls_and_mail_apart() {
        let found =
            read("move /tmp/a.txt to ./b/c.md, see https://example.org/x.html. or mail a.b@example.org");
        assert_eq!(texts(&found.paths), ["/tmp/a.txt", "./b/c.md"]);
        assert_eq!(texts(&found.urls), ["https://example.org/x.html"]);
        assert_eq!(texts(&found.emails), ["a.b@example.org"]);
        assert_eq!(
            texts(&read("read notes.txt and src/main.rs").paths),
            ["notes.txt", "src/main.rs"]
        );
        assert!(read("the time in Europe/Paris").paths.is_empty());
    }

    #[test]
    fn numbers_are_not_times_or_dates() {
        let found = read("add 3 and 4.5 at 15:30 on 2026-01-02, then 1,000 and minus two");
        let values: Vec<f64> = found.numbers.iter().map(|number| number.value).collect();
        assert_eq!(values, [3.0, 4.5, 1000.0, 2.0]);
    }

    #[test]
    fn quotes_of_every_kind() {
        assert_eq!(
            texts(&read("say \"hello there\" and 'it' or `x = 1`").quoted),
            ["hello there", "it", "x = 1"]
        );
        assert!(read("what's the user's name").quoted.is_empty());
    }

    #[test]
    fn a_statement_is_taken_whole() {
        let found = read("run SELECT name, count(*) FROM users WHERE age > 3");
        assert_eq!(
            found.sql.unwrap().text,
            "SELECT name, count(*) FROM users WHERE age > 3"
        );
        assert!(read("select the best option").sql.is_none());
    }
}
