//! The last lines that a server wrote, and what Troupe noted about it. Cached state: gone with the node.

use std::collections::VecDeque;

use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use troupe_protocol::upstream::{LogLine, LogSource};

/// Lines kept of one server; the oldest goes first.
pub const LOG_LINES_MAX: usize = 1_000;
/// Bytes kept of one line; the rest is cut.
pub const LOG_LINE_BYTES_MAX: usize = 4_096;
/// Shorter secrets are not searched for: they would blot out ordinary words.
const REDACTED_SECRET_BYTES_MIN: usize = 6;

/// Tokens of one server that are blotted out, the newest and some before it.
const TOKENS_MAX: usize = 4;

/// A bounded log in which no secret of the server appears in clear.
#[derive(Default)]
pub struct LogRing {
    lines: Mutex<VecDeque<LogLine>>,
    secrets: Mutex<Vec<SecretString>>,
    /// Tokens, which change; the last is the newest.
    tokens: Mutex<VecDeque<SecretString>>,
}

impl LogRing {
    /// Replaces the values that are blotted out of every line from now on.
    pub(super) fn redact(&self, secrets: impl IntoIterator<Item = SecretString>) {
        let long_enough = |secret: &SecretString| secret.expose_secret().len() >= REDACTED_SECRET_BYTES_MIN;
        let mut secrets: Vec<SecretString> = secrets.into_iter().filter(long_enough).collect();
        // The longest first: one may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.expose_secret().len()));
        *self.secrets.lock() = secrets;
    }

    /// Blots out a token, too, and the one before it: the oldest of them are good no more.
    pub(super) fn redact_also(&self, token: SecretString) {
        let mut tokens = self.tokens.lock();
        let is_known = |known: &SecretString| known.expose_secret() == token.expose_secret();
        if token.expose_secret().len() < REDACTED_SECRET_BYTES_MIN || tokens.iter().any(is_known) {
            return;
        }
        if tokens.len() == TOKENS_MAX {
            tokens.pop_front();
        }
        tokens.push_back(token);
    }

    /// The text without the server's secrets.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets.lock().iter().chain(self.tokens.lock().iter()) {
            if text.contains(secret.expose_secret()) {
                text = text.replace(secret.expose_secret(), "[secret]");
            }
        }
        text
    }

    /// Adds a line.
    pub(super) fn push(&self, source: LogSource, level: Option<String>, text: &str) {
        let mut text = self.clean(text);
        if text.len() > LOG_LINE_BYTES_MAX {
            let cut = text.floor_char_boundary(LOG_LINE_BYTES_MAX);
            text.truncate(cut);
            text.push('…');
        }
        let mut lines = self.lines.lock();
        if lines.len() == LOG_LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(LogLine {
            at: jiff::Timestamp::now().into(),
            source,
            level,
            text,
        });
    }

    /// Adds a line of Troupe's own.
    pub(super) fn note(&self, text: &str) {
        self.push(LogSource::Troupe, None, text);
    }

    /// All lines, oldest first.
    pub fn lines(&self) -> Vec<LogLine> {
        self.lines.lock().iter().cloned().collect()
    }

    /// The last lines that the server itself wrote to standard error, joined: what explains an early end.
    pub(super) fn last_words(&self, lines_max: usize) -> String {
        let lines = self.lines.lock();
        let since_start = lines
            .iter()
            .rev()
            .take_while(|line| line.source != LogSource::Troupe);
        let mut words: Vec<&str> = since_start
            .filter(|line| line.source == LogSource::Stderr && !line.text.trim().is_empty())
            .take(lines_max)
            .map(|line| line.text.trim())
            .collect();
        words.reverse();
        words.join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_their_length_are_bounded() {
        let ring = LogRing::default();
        for number in 0..LOG_LINES_MAX + 5 {
            ring.push(
                LogSource::Stderr,
                None,
                &format!("{number} {}", "ä".repeat(LOG_LINE_BYTES_MAX)),
            );
        }
        let lines = ring.lines();
        assert_eq!(lines.len(), LOG_LINES_MAX);
        assert!(lines[0].text.starts_with("5 "));
        assert!(
            lines
                .iter()
                .all(|line| line.text.len() <= LOG_LINE_BYTES_MAX + "…".len())
        );
    }

    #[test]
    fn secrets_are_blotted_out() {
        let ring = LogRing::default();
        ring.redact([SecretString::from("hunter2hunter2"), SecretString::from("abc")]);
        ring.push(LogSource::Stderr, None, "using hunter2hunter2 for abc");
        assert_eq!(ring.lines()[0].text, "using [secret] for abc");
    }

    #[test]
    fn tokens_are_blotted_out_whatever_other_secrets_there_are() {
        let ring = LogRing::default();
        for number in 0..TOKENS_MAX + 1 {
            ring.redact_also(SecretString::from(format!("token-{number}")));
        }
        ring.redact([SecretString::from("hunter2hunter2")]);
        assert_eq!(
            ring.clean("token-4 after token-3, not token-0, hunter2hunter2"),
            "[secret] after [secret], not token-0, [secret]"
        );
    }

    #[test]
    fn last_words_are_those_since_the_last_start() {
        let ring = LogRing::default();
        ring.push(LogSource::Stderr, None, "old");
        ring.note("starting");
        ring.push(LogSource::Stderr, None, "Traceback");
        ring.push(LogSource::Stderr, None, "ImportError: x");
        assert_eq!(ring.last_words(5), "Traceback | ImportError: x");
    }
}
