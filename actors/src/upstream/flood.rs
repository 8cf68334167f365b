//! A bound on what a server says unasked: notifications over one connection within a second.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

/// Notifications that one connection passes on within a second; more are dropped.
pub(super) const NOTIFICATIONS_PER_SECOND_MAX: u64 = 1_000;
/// Bits of [`Flood::counted`] that count.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// What becomes of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passage {
    Passes,
    /// Dropped, the first within this second: that is worth a note.
    Drops,
    /// Dropped too.
    DropsSilently,
}

/// Counts the notifications of one connection.
#[derive(Debug)]
pub(super) struct Flood {
    made: Instant,
    /// The second since then, and how many came in it.
    counted: AtomicU64,
}

impl Default for Flood {
    fn default() -> Self {
        Self {
            made: Instant::now(),
            counted: AtomicU64::new(0),
        }
    }
}

impl Flood {
    /// Whether what comes within this second is dropped.
    pub fn is_on(&self) -> bool {
        let counted = self.counted.load(Ordering::Relaxed);
        let is_now = counted >> COUNT_BITS == self.made.elapsed().as_secs();
        is_now && counted & COUNT_MASK > NOTIFICATIONS_PER_SECOND_MAX
    }

    /// Counts one that has come now. They come one after the other over a connection, or nearly: two at once may count as
    /// one.
    pub fn count(&self) -> Passage {
        let second = self.made.elapsed().as_secs();
        let before = self.counted.load(Ordering::Relaxed);
        let count = match before >> COUNT_BITS == second {
            true => (before & COUNT_MASK) + 1,
            false => 1,
        };
        let kept = count.min(NOTIFICATIONS_PER_SECOND_MAX + 1);
        self.counted.store(second << COUNT_BITS | kept, Ordering::Relaxed);
        match before & COUNT_MASK {
            _ if count <= NOTIFICATIONS_PER_SECOND_MAX => Passage::Passes,
            NOTIFICATIONS_PER_SECOND_MAX => Passage::Drops,
            _ => Passage::DropsSilently,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn more_than_the_bound_is_dropped_until_the_next_second_and_noted_once() {
        let flood = Flood::default();
        for _ in 0..2 {
            for _ in 0..NOTIFICATIONS_PER_SECOND_MAX {
                assert_eq!(flood.count(), Passage::Passes);
            }
            assert_eq!(flood.count(), Passage::Drops);
            for _ in 0..5_000 {
                assert_eq!(flood.count(), Passage::DropsSilently);
            }
            assert!(flood.is_on());
            tokio::time::advance(Duration::from_secs(1)).await;
            assert!(!flood.is_on());
        }
    }
}
