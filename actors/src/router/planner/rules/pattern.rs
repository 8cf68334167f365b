//! Regular expressions that are constants of the program.

use regex::Regex;

/// The compiled pattern. Patterns are literals, each used in a test, so that a wrong one never ships.
#[allow(
    clippy::expect_used,
    reason = "the pattern is a literal; a wrong one fails every test that touches it"
)]
pub fn constant(pattern: &'static str) -> Regex {
    Regex::new(pattern).expect("a literal pattern is well formed")
}
