//! Until when an answer is of use.

use std::time::Duration;
use tokio::time::Instant;

/// The moment after which nobody waits for the answer any more. Every ask has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// So long from now.
    pub fn within(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// At this moment.
    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The moment.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// How long until then; zero afterwards.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn is_over(self) -> bool {
        self.0 <= Instant::now()
    }

    /// The earlier of two.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        self.min(other)
    }
}
