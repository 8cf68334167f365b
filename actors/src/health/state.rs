//! When a server is online, degraded or offline.
//!
//! A single failure says little (a restart, a lost packet), and a single success after failures says as little: so
//! there are steps in both directions, and while a verdict is open the next probe comes soon.
//!
//! | from | what | to |
//! |---|---|---|
//! | testing | an answer | online |
//! | testing | a failure | offline |
//! | online | a failure, the connection lost, two slow answers in a row | degraded |
//! | degraded | three failures in a row | offline |
//! | degraded, offline | two quick answers in a row | online |
//! | offline | an answer | degraded |
//! | any | a failure that repeating cannot mend | offline |

use std::time::Duration;

use troupe_protocol::health::HealthStatus;

/// Failures in a row after which a server is offline.
const FAILURES_TO_OFFLINE: u32 = 3;
/// Quick answers in a row after which a server is online again.
const ANSWERS_TO_ONLINE: u32 = 2;
/// Slow answers in a row after which a server is degraded.
const SLOW_TO_DEGRADED: u32 = 2;
/// The pause before a probe that shall settle an open verdict.
const SETTLE_AFTER: Duration = Duration::from_secs(1);

/// What was seen of a server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Sight {
    /// It answered.
    Answered { latency: Duration },
    /// It is still being started; nothing is known.
    Starting,
    /// It did not answer. Some failures stay until somebody changes something: a command that does not exist.
    Failed { is_lasting: bool },
    /// The connection was lost.
    Lost,
}

/// Judges one server by what is seen of it.
#[derive(Debug, Clone)]
pub(crate) struct Judge {
    status: HealthStatus,
    slow_from: Duration,
    failures: u32,
    /// Answers in a row that were not slow.
    quick: u32,
    /// Answers in a row that were slow.
    slow: u32,
}

impl Judge {
    /// Of a server of which nothing is known. Answers are slow from `slow_from` on.
    pub fn new(slow_from: Duration) -> Self {
        Self {
            status: HealthStatus::Testing,
            slow_from,
            failures: 0,
            quick: 0,
            slow: 0,
        }
    }

    pub fn status(&self) -> HealthStatus {
        self.status
    }

    /// How many probes in a row have failed.
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures
    }

    /// Takes into account what was seen. Answers the status after it.
    pub fn see(&mut self, sight: Sight) -> HealthStatus {
        self.count(sight);
        self.status = self.verdict(sight);
        self.status
    }

    fn count(&mut self, sight: Sight) {
        match sight {
            Sight::Answered { latency } => {
                self.failures = 0;
                let is_slow = latency >= self.slow_from;
                self.slow = if is_slow { self.slow.saturating_add(1) } else { 0 };
                self.quick = if is_slow { 0 } else { self.quick.saturating_add(1) };
            }
            Sight::Failed { .. } | Sight::Lost => {
                self.failures = self.failures.saturating_add(1);
                self.quick = 0;
                self.slow = 0;
            }
            // A server that was known and has to be started again does not answer.
            Sight::Starting if self.status != HealthStatus::Testing => {
                self.failures = self.failures.saturating_add(1);
                self.quick = 0;
                self.slow = 0;
            }
            Sight::Starting => {}
        }
    }

    fn verdict(&self, sight: Sight) -> HealthStatus {
        use HealthStatus::{Degraded, Disabled, Offline, Online, Testing};
        match (self.status, sight) {
            (Disabled, _) => Disabled,
            (_, Sight::Failed { is_lasting: true }) => Offline,
            (Testing, Sight::Answered { .. }) => Online,
            (Testing, Sight::Starting | Sight::Lost) => Testing,
            (Testing, Sight::Failed { .. }) => Offline,
            (Online, Sight::Answered { .. }) if self.slow >= SLOW_TO_DEGRADED => Degraded,
            (Online, Sight::Answered { .. }) => Online,
            (Degraded | Offline, Sight::Answered { .. }) if self.quick >= ANSWERS_TO_ONLINE => Online,
            (Degraded | Offline, Sight::Answered { .. }) => Degraded,
            (Offline, _) => Offline,
            (Online | Degraded, _) if self.failures >= FAILURES_TO_OFFLINE => Offline,
            (Online | Degraded, _) => Degraded,
        }
    }

    /// The pause before the next probe: short while the verdict is open, else the usual one.
    pub fn next_probe_after(&self, interval: Duration) -> Duration {
        let is_open = match self.status {
            HealthStatus::Testing => true,
            HealthStatus::Degraded => self.failures > 0 || (self.quick > 0 && self.quick < ANSWERS_TO_ONLINE),
            HealthStatus::Online | HealthStatus::Offline | HealthStatus::Disabled => false,
        };
        if is_open {
            SETTLE_AFTER.min(interval)
        } else {
            interval
        }
    }
}

#[cfg(test)]
mod tests {
    use HealthStatus::{Degraded, Offline, Online, Testing};
    use proptest::prelude::*;

    use super::*;

    const QUICK: Sight = Sight::Answered {
        latency: Duration::from_millis(5),
    };
    const SLOW: Sight = Sight::Answered {
        latency: Duration::from_secs(3),
    };
    const FAILED: Sight = Sight::Failed { is_lasting: false };
    const LASTING: Sight = Sight::Failed { is_lasting: true };

    fn course(sights: &[Sight]) -> Vec<HealthStatus> {
        let mut judge = Judge::new(Duration::from_secs(2));
        sights.iter().map(|sight| judge.see(*sight)).collect()
    }

    #[test]
    fn the_first_sight_decides() {
        assert_eq!(course(&[QUICK]), [Online]);
        assert_eq!(course(&[FAILED]), [Offline]);
        assert_eq!(
            course(&[Sight::Starting, Sight::Starting, QUICK]),
            [Testing, Testing, Online]
        );
    }

    #[test]
    fn one_failure_is_no_outage_and_one_answer_no_recovery() {
        let sights = [QUICK, FAILED, FAILED, FAILED, QUICK, FAILED, QUICK, QUICK];
        assert_eq!(
            course(&sights),
            [
                Online, Degraded, Degraded, Offline, Degraded, Degraded, Degraded, Online
            ]
        );
    }

    #[test]
    fn a_lost_connection_is_seen_at_once_and_forgiven_when_it_is_back() {
        assert_eq!(
            course(&[QUICK, Sight::Lost, QUICK, QUICK]),
            [Online, Degraded, Degraded, Online]
        );
        let sights = [QUICK, Sight::Lost, Sight::Starting, Sight::Starting];
        assert_eq!(course(&sights), [Online, Degraded, Degraded, Offline]);
    }

    #[test]
    fn slow_answers_degrade_and_quick_ones_mend() {
        assert_eq!(
            course(&[SLOW, SLOW, SLOW, QUICK, QUICK]),
            [Online, Degraded, Degraded, Degraded, Online]
        );
    }

    #[test]
    fn what_repeating_cannot_mend_is_an_outage_at_once() {
        assert_eq!(
            course(&[QUICK, LASTING, QUICK, QUICK]),
            [Online, Offline, Degraded, Online]
        );
    }

    #[test]
    fn an_open_verdict_is_settled_soon() {
        let interval = Duration::from_secs(30);
        let mut judge = Judge::new(Duration::from_secs(2));
        let mut pause = |sight| {
            judge.see(sight);
            judge.next_probe_after(interval)
        };
        assert_eq!(pause(QUICK), interval);
        assert_eq!(pause(FAILED), SETTLE_AFTER);
        assert_eq!(pause(FAILED), SETTLE_AFTER);
        assert_eq!(pause(FAILED), interval, "offline servers are not hammered");
        assert_eq!(pause(QUICK), SETTLE_AFTER);
        assert_eq!(pause(QUICK), interval);
    }

    fn sight() -> impl Strategy<Value = Sight> {
        prop_oneof![
            Just(QUICK),
            Just(SLOW),
            Just(FAILED),
            Just(LASTING),
            Just(Sight::Starting),
            Just(Sight::Lost)
        ]
    }

    proptest! {
        #[test]
        fn two_quick_answers_mend_everything_and_three_failures_break_it(sights in prop::collection::vec(sight(), 0..40)) {
            let mut judge = Judge::new(Duration::from_secs(2));
            sights.iter().for_each(|sight| { judge.see(*sight); });
            let mut broken = judge.clone();
            judge.see(QUICK);
            prop_assert_eq!(judge.see(QUICK), Online);
            (0..3).for_each(|_| { broken.see(FAILED); });
            prop_assert_eq!(broken.status(), Offline);
        }
    }
}
