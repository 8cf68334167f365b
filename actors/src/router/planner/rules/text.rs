//! Free text in a question: the word beside a parameter's noun, what follows a colon or the verb.

use std::ops::Range;

use super::entities::{Entities, Piece};
use crate::router::index::analysis;
use crate::router::index::document::ToolDocument;
use crate::router::planner::schema::Parameter;

/// Endings of parameter names that say "what it is called" rather than what it is: `table_name`, `branch_id`.
const NAME_ENDINGS: &[&str] = &[
    "name", "names", "id", "ids", "key", "value", "string", "str", "title",
];

/// Words that are never the value of something.
const NOT_VALUES: &[&str] = &[
    "a", "an", "the", "this", "that", "these", "those", "my", "our", "your", "its", "all", "any", "some",
    "each", "every", "of", "in", "on", "at", "to", "for", "from", "with", "by", "and", "or", "is", "are",
    "was", "be", "it", "do", "does", "has", "have", "called", "named", "which", "what", "where", "who",
    "how", "there", "exists", "exist", "please", "new", "me", "you", "i", "we", "us", "up", "out", "about",
    "into", "as", "so", "then", "now", "not", "no", "current",
];

/// Verbs and openings after which the rest of the question is the text itself.
const TEXT_OPENINGS: &[&str] = &[
    "echo",
    "say",
    "saying",
    "repeat",
    "print",
    "write",
    "send",
    "post",
    "note",
    "remember that",
    "remember",
    "search for",
    "search",
    "look up",
    "look for",
    "find",
    "query",
    "google",
    "about",
    "translate",
    "summarize",
    "summarise",
    "think about",
    "for",
];

/// Whether `text` has this word, where `_`, `-` and other signs divide words.
pub fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric())
        .any(|part| part == word)
}

/// The word before a place in the text, in lower case; empty at the beginning.
pub fn word_before(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or_default();
    before
        .split_whitespace()
        .next_back()
        .map(clean)
        .unwrap_or_default()
}

/// Whether the question says no to what a flag is called: "without comments", "not recursive".
pub fn is_denied(text: &str, name: &str) -> bool {
    let words: Vec<String> = text.split_whitespace().map(clean).collect();
    let first = analysis::terms(name).into_iter().next();
    words.iter().enumerate().any(|(at, word)| {
        let is_flag = first.is_some() && analysis::terms(word).into_iter().next() == first;
        let before = words[at.saturating_sub(2)..at].iter();
        is_flag
            && before
                .into_iter()
                .any(|w| matches!(w.as_str(), "no" | "not" | "without" | "don't" | "non" | "disable"))
    })
}

/// Whether a number stands beside the parameter's own words: "max count 5", "5 lines", "limit of 10".
pub fn is_beside(text: &str, span: &Range<usize>, parameter: &Parameter<'_>) -> bool {
    let mut wanted: Vec<String> = analysis::terms(parameter.name);
    match parameter.name.to_lowercase().as_str() {
        "head" => wanted.push("first".to_owned()),
        "tail" => wanted.push("last".to_owned()),
        _ => {}
    }
    let near = words_around(text, span, 3, 2);
    wanted.iter().any(|word| near.contains(word))
}

/// Whether an optional count is meant: "the last 5 commits", "top 10", "first three", where the parameter counts.
pub fn counts_things(text: &str, span: &Range<usize>, parameter: &Parameter<'_>) -> bool {
    let name = analysis::spaced(parameter.name).to_lowercase();
    let about = format!("{name} {}", parameter.description.to_lowercase());
    let counts = [
        "count", "limit", "max", "maximum", "number", "top", "size", "head", "tail", "lines", "n",
    ]
    .iter()
    .any(|word| has_word(&about, word));
    let before = word_before(text, span.start);
    let is_counted = matches!(
        before.as_str(),
        "last"
            | "first"
            | "top"
            | "latest"
            | "recent"
            | "limit"
            | "only"
            | "past"
            | "most"
            | "of"
            | "to"
            | "show"
            | "list"
            | "get"
            | "give"
            | "with"
            | "for"
    );
    let after = words_around(text, span, 0, 1);
    let is_of_counted_thing = after
        .iter()
        .any(|word| analysis::terms(parameter.description).contains(word));
    counts && (is_counted || is_of_counted_thing)
}

/// A quoted text that directly follows the parameter's name: `title "Project review"`.
pub fn quoted_after_name(entities: &Entities<'_>, parameter: &Parameter<'_>) -> Option<Piece> {
    let wanted = nouns(parameter.name);
    let found = entities.quoted.iter().find(|piece| {
        let before = entities.text.get(..piece.span.start).unwrap_or_default();
        let near: Vec<String> = before
            .split_whitespace()
            .rev()
            .take(2)
            .flat_map(analysis::terms)
            .collect();
        wanted.iter().any(|noun| near.contains(noun))
    })?;
    Some(found.clone())
}

/// The value beside the parameter's noun: `table users`, `the users table`, `branch called main`, `owner: jane`.
pub fn beside_noun(text: &str, parameter: &Parameter<'_>) -> Option<Piece> {
    let wanted = nouns(parameter.name);
    if wanted.is_empty() {
        return None;
    }
    let words = spans(text);
    let is_noun = |at: usize| {
        let terms = analysis::terms(&text[words[at].clone()]);
        terms.len() == 1 && wanted.contains(&terms[0])
    };
    let noun = (0..words.len()).find(|&at| is_noun(at))?;
    after_noun(text, &words, noun).or_else(|| before_noun(text, &words, noun))
}

/// A capitalised name after "in", "at", "for" or "of".
pub fn capitalised_after_preposition(text: &str) -> Option<Piece> {
    let words = spans(text);
    let start = (1..words.len()).find(|&at| {
        let before = clean(&text[words[at - 1].clone()]);
        matches!(before.as_str(), "in" | "at" | "for" | "of" | "near")
            && text[words[at].clone()].starts_with(char::is_uppercase)
    })?;
    let end = (start..words.len())
        .take_while(|&at| text[words[at].clone()].starts_with(char::is_uppercase))
        .last()?;
    Some(piece(text, words[start].start..words[end].end))
}

/// What follows a colon, the tool's own verb, or one of the usual openings.
pub fn remainder(text: &str, parameter: &Parameter<'_>, tool: &ToolDocument) -> Option<Piece> {
    if let Some(colon) = text.find(": ") {
        return Some(piece(text, colon + 2..text.len())).filter(|piece| !piece.text.is_empty());
    }
    // Positions in it must be positions in the text: only ASCII changes.
    let lower = text.to_ascii_lowercase();
    let is_search = ["search", "look", "find"]
        .iter()
        .any(|verb| lower.starts_with(verb));
    if let Some(after) = end_of_word(&lower, "for").filter(|_| is_search) {
        return Some(piece(text, skip_fillers(text, after)..text.len()))
            .filter(|piece| !piece.text.is_empty());
    }
    let verb = analysis::spaced(&tool.name)
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_lowercase();
    let noun = analysis::spaced(parameter.name).to_lowercase();
    let openings = [noun.as_str()]
        .into_iter()
        .chain(TEXT_OPENINGS.iter().copied())
        .chain([verb.as_str()]);
    let after = openings
        .filter(|opening| !opening.is_empty())
        .find_map(|opening| end_of_word(&lower, opening))?;
    let rest = skip_fillers(text, after);
    let found = piece(text, rest..text.len());
    (!found.text.is_empty()).then_some(found)
}

/// `table_name` → `tabl`; `branch` → `branch`; a bare `name` has no noun.
fn nouns(parameter: &str) -> Vec<String> {
    let words: Vec<String> = analysis::spaced(parameter)
        .to_lowercase()
        .split(' ')
        .map(str::to_owned)
        .collect();
    let nouns = words.iter().filter(|word| !NAME_ENDINGS.contains(&word.as_str()));
    nouns.flat_map(|word| analysis::terms(word)).collect()
}

fn after_noun(text: &str, words: &[Range<usize>], noun: usize) -> Option<Piece> {
    let mut at = noun + 1;
    let mut was_introduced = text[words[noun].clone()].ends_with([':', '=']);
    while at < words.len()
        && matches!(
            clean(&text[words[at].clone()]).as_str(),
            "called" | "named" | "is" | "=" | "to"
        )
    {
        was_introduced = true;
        at += 1;
    }
    let word = words.get(at)?;
    let is_last = words
        .get(at + 1)
        .is_none_or(|next| ends_a_phrase(&clean(&text[next.clone()])));
    value_at(text, word).filter(|piece| was_introduced || looks_like_a_name(&piece.text) || is_last)
}

/// Words after which something else is said.
fn ends_a_phrase(word: &str) -> bool {
    matches!(
        word,
        "in" | "on" | "at" | "of" | "from" | "to" | "with" | "and" | "for" | "by" | "into" | "please"
    )
}

fn before_noun(text: &str, words: &[Range<usize>], noun: usize) -> Option<Piece> {
    let word = words.get(noun.checked_sub(1)?)?;
    // The first word of a request is its verb.
    let is_verb = noun == 1;
    value_at(text, word).filter(|_| !is_verb)
}

fn value_at(text: &str, span: &Range<usize>) -> Option<Piece> {
    let found = piece(text, span.clone());
    let lower = found.text.to_lowercase();
    (!found.text.is_empty() && !NOT_VALUES.contains(&lower.as_str())).then_some(found)
}

/// Names are written unlike words: with capitals, digits, dots, underscores, or in quotes.
fn looks_like_a_name(word: &str) -> bool {
    word.chars()
        .any(|c| c.is_uppercase() || c.is_numeric() || matches!(c, '_' | '-' | '.' | '/'))
}

fn words_around(text: &str, span: &Range<usize>, before: usize, after: usize) -> Vec<String> {
    let left = text
        .get(..span.start)
        .unwrap_or_default()
        .split_whitespace()
        .rev()
        .take(before);
    let right = text
        .get(span.end..)
        .unwrap_or_default()
        .split_whitespace()
        .take(after);
    left.chain(right).flat_map(analysis::terms).collect()
}

fn end_of_word(text: &str, word: &str) -> Option<usize> {
    text.match_indices(word)
        .map(|(at, _)| (at, at + word.len()))
        .find_map(|(begin, end)| {
            let free_before = text[..begin]
                .chars()
                .next_back()
                .is_none_or(|c| !c.is_alphanumeric());
            let free_after = text[end..].chars().next().is_some_and(|c| !c.is_alphanumeric());
            (free_before && free_after).then_some(end)
        })
}

fn skip_fillers(text: &str, from: usize) -> usize {
    const FILLERS: [&str; 9] = [
        "of", "for", "the", "that", "me", "this", "message", "text", "about",
    ];
    let mut at = from;
    loop {
        let rest = &text[at..];
        let begin = at + (rest.len() - rest.trim_start().len());
        let word_len = text[begin..]
            .find(char::is_whitespace)
            .unwrap_or(text.len() - begin);
        let word = &text[begin..begin + word_len];
        let is_last = begin + word_len >= text.len();
        if is_last || !FILLERS.contains(&word.to_lowercase().as_str()) {
            return begin;
        }
        at = begin + word_len;
    }
}

fn spans(text: &str) -> Vec<Range<usize>> {
    let begin_of = |word: &str| word.as_ptr() as usize - text.as_ptr() as usize;
    text.split_whitespace()
        .map(|word| begin_of(word)..begin_of(word) + word.len())
        .collect()
}

/// The text of a span without the quotes and punctuation around it.
fn piece(text: &str, span: Range<usize>) -> Piece {
    let raw = &text[span.clone()];
    let trimmed = raw
        .trim()
        .trim_end_matches(['?', '!', ',', ';', ':'])
        .trim_matches(['"', '\'', '`', '“', '”']);
    let trimmed = trimmed.strip_suffix('.').unwrap_or(trimmed);
    Piece {
        span,
        text: trimmed.to_owned(),
    }
}

fn clean(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric() && c != '\'' && c != '=')
        .to_lowercase()
}
