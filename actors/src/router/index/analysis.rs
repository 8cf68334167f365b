//! Text → terms: split at everything that is no letter or digit and inside `camelCase`, lower-cased, without stop
//! words, stemmed by Snowball's English stemmer.
//!
//! Names of tools and questions go through the same steps, so that `listResourceGroups` and "list my resource groups"
//! meet in the terms `list`, `resourc` and `group`.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;
use rust_stemmers::{Algorithm, Stemmer};

/// Words that say nothing about which tool is meant: function words, and the ways people ask for something.
const STOP_WORDS: &[&str] = &[
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "could", "do", "does", "for", "from", "give",
    "has", "have", "how", "i", "in", "into", "is", "it", "its", "let", "me", "my", "need", "now", "of", "on",
    "or", "our", "please", "right", "s", "show", "so", "tell", "that", "the", "their", "them", "then",
    "there", "these", "they", "this", "to", "us", "use", "using", "via", "want", "was", "we", "were", "what",
    "when", "where", "which", "who", "will", "with", "would", "you", "your",
];

/// Longest text that is analysed, in bytes: what follows is ignored. Bounds the work that a hostile description costs.
const TEXT_BYTES_MAX: usize = 16 * 1024;

static STOP_WORD_SET: LazyLock<HashSet<&'static str>> =
    LazyLock::new(|| STOP_WORDS.iter().copied().collect());

/// Spans that are values rather than intent: quoted or bracketed text, placeholders, addresses, paths, names.
static VALUE_SPANS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r#""[^"]*"|'[^']{2,}'|`[^`]*`|<[^>]*>|\([^)]*\)|https?://\S+|\S+@\S+|\S*/\S*/\S*|\b\w+-\w+\b|(?i:(?:called|named)\s+\S+)"#).ok()
});

/// A term of a question, with how it was used.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryTerm {
    /// The stemmed term.
    pub term: String,
    /// How often it occurs.
    pub occurrences: u32,
    /// Whether it looks like the value of an argument (a name, a number, quoted text) rather than like intent.
    pub is_value: bool,
}

/// The terms of a text, in order, with repetitions.
pub fn terms(text: &str) -> Vec<String> {
    let stemmer = Stemmer::create(Algorithm::English);
    words(prefix(text))
        .map(|word| word.to_lowercase())
        .filter(|word| !STOP_WORD_SET.contains(word.as_str()))
        .map(|word| stemmer.stem(&word).into_owned())
        .collect()
}

/// The terms of a question, each once, in order of appearance.
pub fn query_terms(question: &str) -> Vec<QueryTerm> {
    let question = prefix(question);
    let values = value_terms(question);
    let mut found: Vec<QueryTerm> = Vec::new();
    for term in terms(question) {
        match found.iter_mut().find(|known| known.term == term) {
            Some(known) => known.occurrences += 1,
            None => found.push(QueryTerm {
                is_value: values.contains(&term),
                term,
                occurrences: 1,
            }),
        }
    }
    found
}

/// A name as words: `git_diff-staged` and `gitDiffStaged` both give `git diff staged`.
pub fn spaced(name: &str) -> String {
    words(prefix(name)).collect::<Vec<_>>().join(" ")
}

fn value_terms(question: &str) -> HashSet<String> {
    let mut values: HashSet<String> = HashSet::new();
    if let Some(pattern) = VALUE_SPANS.as_ref() {
        values.extend(pattern.find_iter(question).flat_map(|span| terms(span.as_str())));
    }
    let mut after_number = false;
    for (position, word) in words(question).enumerate() {
        let is_number = word.starts_with(|c: char| c.is_ascii_digit());
        let is_name = position > 0 && word.starts_with(char::is_uppercase);
        // What follows a number is its unit: 3 pm, 5 miles.
        if is_number || is_name || after_number {
            values.extend(terms(word));
        }
        after_number = is_number;
    }
    values
}

/// Runs of letters or of digits; a run of letters is split where lower case meets upper case, and before the last
/// capital of an abbreviation (`HTTPServer` → `HTTP`, `Server`).
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric())
        .flat_map(split_run)
        .filter(|word| !word.is_empty())
}

fn split_run(run: &str) -> Vec<&str> {
    let chars: Vec<(usize, char)> = run.char_indices().collect();
    let mut pieces = Vec::new();
    let mut begin = 0;
    for pair in 1..chars.len() {
        let (_, before) = chars[pair - 1];
        let (at, here) = chars[pair];
        let after_is_lower = chars.get(pair + 1).is_some_and(|(_, next)| next.is_lowercase());
        let digits_meet_letters = before.is_numeric() != here.is_numeric();
        let camel = before.is_lowercase() && here.is_uppercase();
        let abbreviation_ends = before.is_uppercase() && here.is_uppercase() && after_is_lower;
        if digits_meet_letters || camel || abbreviation_ends {
            pieces.push(&run[begin..at]);
            begin = at;
        }
    }
    pieces.push(&run[begin..]);
    pieces
}

fn prefix(text: &str) -> &str {
    if text.len() <= TEXT_BYTES_MAX {
        return text;
    }
    let end = (0..=TEXT_BYTES_MAX)
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_questions_meet_in_the_same_terms() {
        assert_eq!(terms("listResourceGroups"), terms("list my resource groups"));
        assert_eq!(terms("git_diff-staged"), ["git", "diff", "stage"]);
        assert_eq!(spaced("HTTPServerV2"), "HTTP Server V 2");
    }

    #[test]
    fn values_are_told_from_intent() {
        let terms = query_terms("Convert 3 pm in New York to \"London\"");
        let intent: Vec<&str> = terms
            .iter()
            .filter(|t| !t.is_value)
            .map(|t| t.term.as_str())
            .collect();
        assert_eq!(intent, ["convert"]);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert!(prefix(&"ä".repeat(TEXT_BYTES_MAX)).len() <= TEXT_BYTES_MAX);
    }
}
