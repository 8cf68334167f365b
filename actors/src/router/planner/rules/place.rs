//! Places → time zones: the names of the IANA database ("Tokyo" is in `Asia/Tokyo`), a table of larger cities and of
//! countries with one zone that the database does not name, and the usual abbreviations.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::LazyLock;

/// Cities that have no zone of their own name, and countries with a single zone (or one that nearly all live in).
const TABLE: &str = include_str!("places.txt");

/// The regions whose zones are named after places. The rest (`Etc`, `US`, `Brazil`, …) are aliases.
const REGIONS: [&str; 9] = [
    "Africa",
    "America",
    "Antarctica",
    "Asia",
    "Atlantic",
    "Australia",
    "Europe",
    "Indian",
    "Pacific",
];

/// Places whose names are common words: only taken where they are capitalised.
const COMMON_WORDS: &[&str] = &[
    "center",
    "chad",
    "cuba",
    "easter",
    "jersey",
    "jordan",
    "mobile",
    "nice",
    "nome",
    "orange",
    "reading",
    "split",
    "troll",
    "turkey",
    "us",
    "georgia",
    "casey",
    "davis",
    "wake",
    "midway",
    "bath",
    "cork",
    "lima",
    "male",
    "niger",
    "mali",
    "guinea",
    "china",
    "louisville",
    "vincennes",
    "knox",
    "marengo",
    "petersburg",
    "thule",
];

/// Longest place name, in words.
const WORDS_MAX: usize = 4;

/// Zones by place, both in lower case with single spaces.
static ZONES: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let mut zones = HashMap::new();
    for name in jiff::tz::db().available() {
        let name = name.as_str();
        let Some((region, rest)) = name.split_once('/') else {
            continue;
        };
        if !REGIONS.contains(&region) {
            continue;
        }
        let place = rest
            .rsplit('/')
            .next()
            .unwrap_or(rest)
            .replace('_', " ")
            .to_lowercase();
        zones.entry(place).or_insert_with(|| name.to_owned());
    }
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        let Some((zone, places)) = line.split_once(':') else {
            continue;
        };
        for place in places.split(',').map(str::trim).filter(|place| !place.is_empty()) {
            zones.insert(place.to_lowercase(), zone.trim().to_owned());
        }
    }
    zones
});

/// A place in a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where its name stands.
    pub span: Range<usize>,
    /// Its name, as written.
    pub name: String,
    /// Its time zone, as the IANA database names it.
    pub zone: String,
}

/// The places in a question, in order.
pub fn places(question: &str) -> Vec<Place> {
    let words = word_spans(question);
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        match place_at(question, &words[at..]) {
            Some((place, words_taken)) => {
                found.push(place);
                at += words_taken;
            }
            None => at += 1,
        }
    }
    found
}

/// The zone that an IANA name or a place stands for.
pub fn zone_of(text: &str) -> Option<String> {
    let text = text.trim();
    if let Some(zone) = iana_name(text) {
        return Some(zone);
    }
    ZONES.get(&text.to_lowercase()).cloned()
}

fn place_at(question: &str, words: &[Range<usize>]) -> Option<(Place, usize)> {
    let first = words.first()?;
    (1..=WORDS_MAX.min(words.len())).rev().find_map(|length| {
        let span = first.start..words[length - 1].end;
        let name = &question[span.clone()];
        let zone = iana_name(name).or_else(|| named_place(name))?;
        Some((
            Place {
                span,
                name: name.to_owned(),
                zone,
            },
            length,
        ))
    })
}

fn named_place(name: &str) -> Option<String> {
    let lower = name.to_lowercase();
    let is_common = COMMON_WORDS.contains(&lower.as_str());
    if is_common && !name.starts_with(char::is_uppercase) {
        return None;
    }
    // Abbreviations are shouted: "IST" is a zone, "ist" is a typing error.
    let is_short = lower.len() <= 4 && !lower.contains(' ');
    let zone = ZONES.get(&lower)?;
    let is_abbreviation = is_short && ABBREVIATIONS.contains(&lower.as_str());
    (!is_abbreviation || name.chars().all(|c| c.is_uppercase()) || lower == "utc" || lower == "gmt")
        .then(|| zone.clone())
}

const ABBREVIATIONS: &[&str] = &[
    "aest", "bst", "cest", "cet", "cst", "edt", "eest", "eet", "est", "gmt", "hst", "ist", "jst", "kst",
    "la", "msk", "mst", "nyc", "nzst", "pdt", "pst", "sf", "sgt", "uae", "uk", "us", "utc", "wet", "dc",
];

/// `europe/paris` → `Europe/Paris`, if there is such a zone.
fn iana_name(text: &str) -> Option<String> {
    if !text.contains('/') || text.len() > 64 {
        return None;
    }
    let zone = jiff::tz::TimeZone::get(text).ok()?;
    zone.iana_name().map(str::to_owned)
}

/// Words, where a slash, an underscore or a hyphen within is part of the word (`America/New_York`).
fn word_spans(text: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut begin = None;
    for (at, c) in text.char_indices() {
        let is_within = c.is_alphabetic() || matches!(c, '/' | '_' | '-' | '\'');
        match (is_within, begin) {
            (true, None) if c.is_alphabetic() => begin = Some(at),
            (false, Some(start)) => {
                spans.push(trimmed(text, start..at));
                begin = None;
            }
            _ => {}
        }
    }
    if let Some(start) = begin {
        spans.push(trimmed(text, start..text.len()));
    }
    spans
}

/// Without a possessive 's and without a trailing hyphen or slash.
fn trimmed(text: &str, span: Range<usize>) -> Range<usize> {
    let word = &text[span.clone()];
    let word = word
        .strip_suffix("'s")
        .unwrap_or(word)
        .trim_end_matches(['/', '-', '_', '\'']);
    span.start..span.start + word.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(question: &str) -> Vec<String> {
        places(question).into_iter().map(|place| place.zone).collect()
    }

    #[test]
    fn finds_places_by_many_names() {
        assert_eq!(zones("what time is it in Tokyo?"), ["Asia/Tokyo"]);
        assert_eq!(zones("what time is it in tokyo"), ["Asia/Tokyo"]);
        assert_eq!(
            zones("convert 3 pm New York to London"),
            ["America/New_York", "Europe/London"]
        );
        assert_eq!(
            zones("is it late in San Francisco, or in Munich?"),
            ["America/Los_Angeles", "Europe/Berlin"]
        );
        assert_eq!(zones("the time in Europe/Paris and UTC"), ["Europe/Paris", "UTC"]);
        assert_eq!(zones("Tokyo's morning in Japan"), ["Asia/Tokyo", "Asia/Tokyo"]);
    }

    #[test]
    fn leaves_common_words_alone() {
        assert_eq!(
            zones("a nice reading of the mobile la la la"),
            Vec::<String>::new()
        );
        assert_eq!(zones("the weather in Nice"), ["Europe/Paris"]);
    }

    #[test]
    fn every_zone_of_the_table_exists() {
        for zone in TABLE
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once(':'))
        {
            assert!(
                jiff::tz::TimeZone::get(zone.0.trim()).is_ok(),
                "{} is no zone",
                zone.0
            );
        }
    }
}
