//! Uptime and latency of one server over 24 hours, in bounded memory.
//!
//! Time is cut into slots of five minutes. How long the server was up counts by time and not by probes, so that an
//! outage between two probes weighs what it lasted; time in which nobody looked counts for nothing.

use std::collections::VecDeque;

use troupe_protocol::health::{HealthHistory, HealthStatus, LatencyPoint, UptimeSlot};
use troupe_protocol::time::Timestamp;

/// The length of a slot in milliseconds.
const SLOT_MS: i64 = 5 * 60 * 1_000;
/// How many slots are kept: 24 hours.
const SLOTS_MAX: usize = 288;
/// How many probes are kept as points.
const POINTS_MAX: usize = 360;
/// How many latencies of a slot are kept for its percentile.
const SLOT_LATENCIES_MAX: usize = 64;
/// The longest time between two looks that counts as observed: beyond it the node itself was away.
const OBSERVED_GAP_MS_MAX: i64 = 15 * 60 * 1_000;

#[derive(Debug, Clone)]
struct Slot {
    /// Counts slots since 1970.
    number: i64,
    observed_ms: u32,
    up_ms: u32,
    latencies_ms: Vec<f32>,
    /// Sum of all latencies, also of those that are not kept.
    latency_sum_ms: f64,
    probes_ok: u32,
    probes_failed: u32,
}

impl Slot {
    fn new(number: i64) -> Self {
        Self {
            number,
            observed_ms: 0,
            up_ms: 0,
            latencies_ms: Vec::new(),
            latency_sum_ms: 0.0,
            probes_ok: 0,
            probes_failed: 0,
        }
    }

    fn report(&self) -> UptimeSlot {
        let is_observed = self.observed_ms > 0;
        let has_latency = self.probes_ok > 0;
        UptimeSlot {
            at: Timestamp::from_unix_ms(self.number * SLOT_MS),
            uptime: if is_observed {
                f64::from(self.up_ms) / f64::from(self.observed_ms)
            } else {
                0.0
            },
            latency_avg_ms: has_latency.then(|| self.latency_sum_ms / f64::from(self.probes_ok)),
            latency_p95_ms: percentile_95(&self.latencies_ms),
            probes_ok: self.probes_ok,
            probes_failed: self.probes_failed,
        }
    }
}

fn percentile_95(latencies_ms: &[f32]) -> Option<f64> {
    let mut sorted = latencies_ms.to_vec();
    sorted.sort_by(f32::total_cmp);
    let index = (sorted.len() * 95).div_ceil(100).checked_sub(1)?;
    sorted.get(index).map(|latency| f64::from(*latency))
}

/// The last 24 hours of a server.
#[derive(Debug, Default)]
pub(crate) struct History {
    slots: VecDeque<Slot>,
    points: VecDeque<LatencyPoint>,
    /// Until when time is accounted for, and whether the server has been up since; nothing while nobody looks.
    observed: Option<(i64, bool)>,
}

impl History {
    /// The status from `now` on. The time until now belongs to the status before.
    pub fn status_is(&mut self, status: HealthStatus, now: Timestamp) {
        let now_ms = now.unix_ms();
        self.account_until(now_ms);
        let is_up = match status {
            HealthStatus::Online | HealthStatus::Degraded => Some(true),
            HealthStatus::Offline => Some(false),
            HealthStatus::Testing | HealthStatus::Disabled => None,
        };
        self.observed = is_up.map(|is_up| (now_ms, is_up));
    }

    /// A probe has ended, with its round-trip time when it succeeded.
    pub fn probed(&mut self, latency_ms: Option<f64>, now: Timestamp) {
        if self.points.len() == POINTS_MAX {
            self.points.pop_front();
        }
        self.points.push_back(LatencyPoint { at: now, latency_ms });
        let slot = self.slot(now.unix_ms());
        match latency_ms {
            Some(latency_ms) => {
                slot.probes_ok = slot.probes_ok.saturating_add(1);
                slot.latency_sum_ms += latency_ms;
                if slot.latencies_ms.len() < SLOT_LATENCIES_MAX {
                    slot.latencies_ms.push(latency_ms as f32);
                }
            }
            None => slot.probes_failed = slot.probes_failed.saturating_add(1),
        }
    }

    /// The part of the observed time of the last 24 hours that the server was up.
    pub fn uptime(&mut self, now: Timestamp) -> Option<f64> {
        self.account_until(now.unix_ms());
        self.forget_before(now.unix_ms());
        let observed: u64 = self.slots.iter().map(|slot| u64::from(slot.observed_ms)).sum();
        let up: u64 = self.slots.iter().map(|slot| u64::from(slot.up_ms)).sum();
        (observed > 0).then(|| up as f64 / observed as f64)
    }

    /// The history as it is shown.
    pub fn report(&mut self, now: Timestamp) -> HealthHistory {
        self.account_until(now.unix_ms());
        self.forget_before(now.unix_ms());
        HealthHistory {
            latency: self.points.iter().copied().collect(),
            slots: self.slots.iter().map(Slot::report).collect(),
        }
    }

    fn account_until(&mut self, now_ms: i64) {
        let Some((from_ms, is_up)) = self.observed else {
            return;
        };
        // A clock that was set back accounts for nothing.
        if now_ms <= from_ms {
            return;
        }
        self.observed = Some((now_ms, is_up));
        if now_ms - from_ms > OBSERVED_GAP_MS_MAX {
            return;
        }
        let mut at_ms = from_ms;
        while at_ms < now_ms {
            let slot_end_ms = (at_ms.div_euclid(SLOT_MS) + 1) * SLOT_MS;
            let until_ms = slot_end_ms.min(now_ms);
            let lasted_ms = u32::try_from(until_ms - at_ms).unwrap_or(0);
            let slot = self.slot(at_ms);
            slot.observed_ms = slot.observed_ms.saturating_add(lasted_ms);
            if is_up {
                slot.up_ms = slot.up_ms.saturating_add(lasted_ms);
            }
            at_ms = until_ms;
        }
    }

    /// The slot of an instant; the newest one for an instant before it.
    fn slot(&mut self, at_ms: i64) -> &mut Slot {
        let number = at_ms.div_euclid(SLOT_MS);
        let is_newer = self.slots.back().is_none_or(|last| last.number < number);
        if is_newer {
            if let Some(closed) = self.slots.back_mut() {
                closed.latencies_ms.shrink_to_fit();
            }
            self.slots.push_back(Slot::new(number));
            while self.slots.len() > SLOTS_MAX {
                self.slots.pop_front();
            }
        }
        let newest = self.slots.len() - 1;
        let wanted = self
            .slots
            .iter()
            .rposition(|slot| slot.number == number)
            .unwrap_or(newest);
        &mut self.slots[wanted]
    }

    fn forget_before(&mut self, now_ms: i64) {
        let oldest = now_ms.div_euclid(SLOT_MS) - SLOTS_MAX as i64;
        while self.slots.front().is_some_and(|slot| slot.number <= oldest) {
            self.slots.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use HealthStatus::{Offline, Online, Testing};
    use proptest::prelude::*;

    use super::*;

    const MINUTE_MS: i64 = 60_000;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_unix_ms(1_000 * SLOT_MS + minutes * MINUTE_MS)
    }

    /// Looks every minute, as probes do.
    fn stays(history: &mut History, status: HealthStatus, minutes: std::ops::Range<i64>) {
        minutes.for_each(|minute| history.status_is(status, at(minute)));
    }

    #[test]
    fn uptime_is_weighted_by_time() {
        let mut history = History::default();
        assert_eq!(history.uptime(at(0)), None);
        stays(&mut history, Testing, 0..10);
        assert_eq!(
            history.uptime(at(10)),
            None,
            "time of which nothing is known does not count"
        );
        stays(&mut history, Online, 10..40);
        stays(&mut history, Offline, 40..50);
        assert_eq!(history.uptime(at(50)), Some(0.75));
    }

    #[test]
    fn an_absence_of_the_node_does_not_count() {
        let mut history = History::default();
        stays(&mut history, Online, 0..10);
        history.status_is(Offline, at(100));
        assert_eq!(history.uptime(at(103)), Some(0.75), "nine minutes up, three down");
    }

    #[test]
    fn slots_end_after_a_day() {
        let mut history = History::default();
        stays(&mut history, Offline, 0..60);
        stays(&mut history, Online, 60..(24 * 60 + 30));
        let report = history.report(at(24 * 60 + 30));
        assert_eq!(report.slots.len(), SLOTS_MAX - 1, "and one that begins just now");
        assert_eq!(report.slots[0].at, at(35), "the oldest ended less than a day ago");
        let uptime = history.uptime(at(24 * 60 + 30)).unwrap();
        assert!(
            (uptime - (1.0 - 25.0 / (24.0 * 60.0 - 5.0))).abs() < 0.001,
            "{uptime}"
        );
    }

    #[test]
    fn latencies_are_summed_up_by_slot() {
        let mut history = History::default();
        (0..20).for_each(|n| history.probed(Some(f64::from(n)), at(1)));
        history.probed(None, at(2));
        history.probed(Some(100.0), at(6));
        let report = history.report(at(7));
        assert_eq!(report.latency.len(), 22);
        let first = report.slots[0];
        assert_eq!(
            (first.latency_avg_ms, first.latency_p95_ms),
            (Some(9.5), Some(18.0))
        );
        assert_eq!((first.probes_ok, first.probes_failed), (20, 1));
        assert_eq!(report.slots[1].latency_avg_ms, Some(100.0));
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_uptime_a_part(steps in prop::collection::vec((0i64..3_000_000, 0u8..4, any::<bool>()), 0..2_000)) {
            let mut history = History::default();
            let mut now_ms = 0;
            for (wait_ms, status, succeeds) in steps {
                // Clocks are set back now and then.
                now_ms += wait_ms - 100_000;
                let now = Timestamp::from_unix_ms(now_ms);
                history.probed(succeeds.then_some(1.0), now);
                history.status_is([Online, Offline, Testing, HealthStatus::Degraded][status as usize], now);
                if let Some(uptime) = history.uptime(now) {
                    prop_assert!((0.0..=1.0).contains(&uptime));
                }
            }
            prop_assert!(history.slots.len() <= SLOTS_MAX && history.points.len() <= POINTS_MAX);
            for slot in &history.slots {
                prop_assert!(slot.up_ms <= slot.observed_ms);
                prop_assert!(slot.latencies_ms.len() <= SLOT_LATENCIES_MAX);
            }
        }
    }
}
