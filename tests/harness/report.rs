//! Figures that a test measured, said on the terminal past the test runner's capture, so that a passing run shows them.

use std::io::Write;

/// Prints one measured figure beside its limit.
pub fn figure(what: &str, measured: impl std::fmt::Display, limit: impl std::fmt::Display) {
    let _ = writeln!(
        std::io::stderr().lock(),
        "MEASURED {what}: {measured} (limit {limit})"
    );
}

/// The value below which `percent` of the samples lie; sorts them.
pub fn percentile<T: Ord + Copy>(samples: &mut [T], percent: usize) -> T {
    assert!(!samples.is_empty(), "no samples");
    samples.sort_unstable();
    samples[(samples.len() * percent / 100).min(samples.len() - 1)]
}
