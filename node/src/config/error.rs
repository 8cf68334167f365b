//! What is said about a wrong setting: where it stands, what it is, and what would be right.

use std::{ops::Range, path::Path};

/// A setting that cannot be used. `Display` is one line for a person.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{file}: cannot read the configuration: {reason}")]
    Unreadable {
        /// Path as it was given.
        file: String,
        /// The system's words.
        reason: String,
    },
    /// The file is no TOML, or holds an unknown or wrong setting.
    #[error("{file}:{line}:{column}: {what}")]
    Wrong {
        /// Path as it was given.
        file: String,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// The setting, its value, and what is allowed.
        what: String,
    },
    /// A `TROUPE_…` variable is unknown or wrong.
    #[error("environment variable {name}: {what}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong and what is allowed.
        what: String,
    },
    /// A flag is wrong, or two settings do not go together.
    #[error("{0}")]
    Conflict(String),
}

impl ConfigError {
    /// Places a TOML error in its file.
    pub(super) fn in_file(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        let (line, column) = line_and_column(text, span.start);
        let what = describe(text, &span, error.message());
        Self::Wrong {
            file: file.display().to_string(),
            line,
            column,
            what,
        }
    }
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// `edge.listen = "nowhere": invalid socket address…`, or only the message where no setting is meant.
fn describe(text: &str, span: &Range<usize>, message: &str) -> String {
    let message = with_suggestion(message);
    match setting_at(text, span.start) {
        Some(setting) => format!("{setting}: {message}"),
        None => message,
    }
}

/// The assignment on the line of `offset`, with the section it stands in.
fn setting_at(text: &str, offset: usize) -> Option<String> {
    let line_start = text.get(..offset)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next()?.trim();
    if !line.contains('=') {
        return None;
    }
    let section = text[..line_start].lines().rev().find_map(|line| {
        let header = line.trim().strip_prefix('[')?;
        header.split(']').next()
    });
    Some(section.map_or_else(|| line.to_owned(), |section| format!("[{section}] {line}")))
}

/// Adds "did you mean" to serde's list of what is allowed.
fn with_suggestion(message: &str) -> String {
    let message = message
        .replace("unknown field", "unknown setting")
        .replace("expected one of", "allowed:");
    let message = match message.split_once("invalid socket address syntax") {
        Some(_) => {
            "no socket address; allowed: an IP address and a port such as 127.0.0.1:7500 or [::1]:7500"
                .to_owned()
        }
        None => message,
    };
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (Some(unknown), true) = (quoted.next(), message.starts_with("unknown setting")) else {
        return message;
    };
    match nearest(unknown, quoted) {
        Some(known) => format!("{message}; did you mean `{known}`?"),
        None => message,
    }
}

/// The candidate most like `word`, if any is like it at all.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const LIKENESS_MIN: f64 = 0.8;
    candidates
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, candidate)| candidate)
}
