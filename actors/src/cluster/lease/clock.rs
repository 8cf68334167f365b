//! Until when this node may act, readable by everyone at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Until when the lease lasts. Whoever reads it compares with the clock, so that a lease ends in time even if nobody has
/// noticed yet.
#[derive(Debug)]
pub(in crate::cluster) struct LeaseClock {
    base: Instant,
    /// In nanoseconds after the base; zero for none.
    until_ns: AtomicU64,
}

impl Default for LeaseClock {
    fn default() -> Self {
        Self {
            base: Instant::now(),
            until_ns: AtomicU64::new(0),
        }
    }
}

impl LeaseClock {
    /// Whether the lease is held now.
    pub fn is_held(&self) -> bool {
        match self.until_ns.load(Ordering::Acquire) {
            0 => false,
            u64::MAX => true,
            until_ns => self.base.elapsed() < Duration::from_nanos(until_ns),
        }
    }

    /// When the lease ends, if it is held now and ends at all.
    pub fn ends_at(&self) -> Option<Instant> {
        match self.until_ns.load(Ordering::Acquire) {
            0 | u64::MAX => None,
            until_ns => Some(self.base + Duration::from_nanos(until_ns)),
        }
        .filter(|_| self.is_held())
    }

    /// The lease lasts until then, or is lost.
    pub fn set(&self, until: Option<Instant>) {
        let until_ns = until.map_or(0, |until| {
            let after_base = until.saturating_duration_since(self.base).as_nanos();
            u64::try_from(after_base).unwrap_or(u64::MAX - 1)
        });
        self.until_ns.store(until_ns, Ordering::Release);
    }

    /// The lease never ends: there are no others.
    pub fn hold_for_ever(&self) {
        self.until_ns.store(u64::MAX, Ordering::Release);
    }
}
