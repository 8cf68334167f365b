//! When to connect, when to wait, when to give up for now. Pure: time and chance come in from outside.
//!
//! A server that ends is no failure of an actor, so its restarts are decided here and not by the supervisor, whose
//! restart intensity would let one bad server take its neighbours with it.

use std::time::Duration;

use tokio::time::Instant;

/// The pause before the first attempt after a loss; doubled for each failure in a row.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The pause between attempts at a server that others start, while calls hope for its return: knocking costs next to
/// nothing, and each moment counts.
const KNOCK_PAUSE: Duration = Duration::from_millis(50);
/// A connection that lasted this long was a good one: the count of failures begins anew.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Attempts made unasked after a loss. Later ones wait until somebody needs the server.
const UNASKED_ATTEMPTS_MAX: u32 = 10;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nobody has needed it.
    Idle,
    /// An attempt is under way.
    Connecting { attempt: u64 },
    /// Calls are answered.
    Ready { since: Instant },
    /// The next attempt comes at this moment, or, if `asked` is set, when somebody needs it after that.
    Waiting { retry_at: Instant, asked: bool },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Do {
    /// Connect; the result is reported with this number.
    Connect { attempt: u64 },
    /// Wait so long, then report `retry_due` with this number.
    Retry { after: Duration, attempt: u64 },
    /// Wait until somebody needs the server.
    Rest,
}

/// Decides about the connection to one server.
#[derive(Debug)]
pub(super) struct Lifecycle {
    phase: Phase,
    attempt: u64,
    failures: u32,
    lost_at: Option<Instant>,
    pause_max: Duration,
    hope: Duration,
    /// Whether an attempt only knocks at a server that runs, or will, without us.
    knocks: bool,
}

impl Lifecycle {
    /// `pause_max` bounds the pause between attempts; `hope` is how long calls wait for a server that was up.
    pub fn new(pause_max: Duration, hope: Duration) -> Self {
        Self {
            phase: Phase::Idle,
            attempt: 0,
            failures: 0,
            lost_at: None,
            pause_max,
            hope,
            knocks: false,
        }
    }

    /// Whether an attempt only knocks at a server that others start, instead of starting it.
    pub fn set_knocks(&mut self, knocks: bool) {
        self.knocks = knocks;
    }

    /// Takes over a connection that outlived the actor which made it.
    pub fn adopt(&mut self, now: Instant) {
        self.phase = Phase::Ready { since: now };
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Until when calls wait for the server to come back.
    pub fn hopeful_until(&self) -> Option<Instant> {
        self.lost_at.map(|lost_at| lost_at + self.hope)
    }

    /// Somebody needs the server.
    pub fn demanded(&mut self, now: Instant) -> Option<Do> {
        match self.phase {
            Phase::Idle => Some(self.connect()),
            Phase::Waiting { retry_at, .. } if retry_at <= now => Some(self.connect()),
            Phase::Waiting { .. } | Phase::Connecting { .. } | Phase::Ready { .. } => None,
        }
    }

    /// The pause before an attempt is over.
    pub fn retry_due(&mut self, attempt: u64) -> Option<Do> {
        let is_waiting = matches!(self.phase, Phase::Waiting { .. });
        (is_waiting && attempt == self.attempt).then(|| self.connect())
    }

    /// An attempt has succeeded. False if it is not the current one: its connection is not wanted.
    pub fn connected(&mut self, attempt: u64, now: Instant) -> bool {
        let is_current = self.phase == Phase::Connecting { attempt };
        if is_current {
            self.phase = Phase::Ready { since: now };
            self.lost_at = None;
        }
        is_current
    }

    /// An attempt has failed; nothing if it was not the current one. `chance` is between 0 and 1.
    pub fn failed(&mut self, attempt: u64, now: Instant, chance: f64) -> Option<Do> {
        if self.phase != (Phase::Connecting { attempt }) {
            return None;
        }
        if !self.knocks_at(now) {
            self.failures = self.failures.saturating_add(1);
        }
        Some(self.wait(now, chance))
    }

    /// The connection has ended by itself.
    pub fn lost(&mut self, now: Instant, chance: f64) -> Option<Do> {
        let Phase::Ready { since } = self.phase else {
            return None;
        };
        if now.duration_since(since) >= STABLE_AFTER {
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        self.lost_at = Some(now);
        Some(self.wait(now, chance))
    }

    /// The server is reached in another way from now on. Says whether to connect at once, because it was needed.
    pub fn reconfigured(&mut self) -> Option<Do> {
        let was_needed = self.phase != Phase::Idle;
        self.failures = 0;
        self.lost_at = None;
        self.phase = Phase::Idle;
        was_needed.then(|| self.connect())
    }

    fn connect(&mut self) -> Do {
        self.attempt += 1;
        self.phase = Phase::Connecting {
            attempt: self.attempt,
        };
        Do::Connect {
            attempt: self.attempt,
        }
    }

    fn knocks_at(&self, now: Instant) -> bool {
        self.knocks && self.hopeful_until().is_some_and(|until| now < until)
    }

    fn wait(&mut self, now: Instant, chance: f64) -> Do {
        let doubled = PAUSE_MIN.saturating_mul(1 << self.failures.min(20));
        let pause = if self.knocks_at(now) { KNOCK_PAUSE } else { doubled };
        let after = pause.min(self.pause_max).mul_f64(0.5 + chance / 2.0);
        // A server that was never up is not started again and again for nobody.
        let asked = self.lost_at.is_none() || self.failures > UNASKED_ATTEMPTS_MAX;
        self.phase = Phase::Waiting {
            retry_at: now + after,
            asked,
        };
        if asked {
            Do::Rest
        } else {
            Do::Retry {
                after,
                attempt: self.attempt,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lifecycle() -> Lifecycle {
        Lifecycle::new(Duration::from_secs(30), Duration::from_secs(15))
    }

    fn up(lifecycle: &mut Lifecycle, now: Instant) {
        let Some(Do::Connect { attempt }) = lifecycle.demanded(now) else {
            panic!("not connecting")
        };
        assert!(lifecycle.connected(attempt, now));
    }

    #[test]
    fn the_first_of_many_demands_connects() {
        let (mut lifecycle, now) = (lifecycle(), Instant::now());
        assert_eq!(lifecycle.demanded(now), Some(Do::Connect { attempt: 1 }));
        assert_eq!(lifecycle.demanded(now), None);
        assert!(!lifecycle.connected(7, now), "a stranger's attempt");
        assert!(lifecycle.connected(1, now));
        assert_eq!(lifecycle.demanded(now), None);
    }

    #[test]
    fn a_lost_server_is_restarted_unasked_and_calls_may_hope() {
        let (mut lifecycle, now) = (lifecycle(), Instant::now());
        up(&mut lifecycle, now);
        let later = now + STABLE_AFTER;
        let Some(Do::Retry { after, attempt }) = lifecycle.lost(later, 1.0) else {
            panic!("no retry")
        };
        assert_eq!(after, PAUSE_MIN);
        assert_eq!(lifecycle.hopeful_until(), Some(later + Duration::from_secs(15)));
        assert_eq!(
            lifecycle.retry_due(attempt),
            Some(Do::Connect { attempt: attempt + 1 })
        );
        assert_eq!(lifecycle.retry_due(attempt), None, "an old timer");
    }

    #[test]
    fn a_lost_server_that_others_start_is_knocked_at_often_while_calls_hope() {
        let (mut lifecycle, start) = (lifecycle(), Instant::now());
        lifecycle.set_knocks(true);
        up(&mut lifecycle, start);
        let (mut now, mut knocks) = (start, 0);
        let mut todo = lifecycle.lost(now, 1.0);
        while let Some(Do::Retry { after, attempt }) = todo {
            now += after;
            if now >= start + Duration::from_secs(15) {
                break;
            }
            knocks += 1;
            assert_eq!(after, KNOCK_PAUSE);
            let Some(Do::Connect { attempt }) = lifecycle.retry_due(attempt) else {
                panic!("not connecting")
            };
            todo = lifecycle.failed(attempt, now, 1.0);
        }
        assert!(knocks > 250, "{knocks}");
        assert_eq!(lifecycle.failures(), 1, "knocks are no failed starts");
    }

    #[test]
    fn a_server_that_keeps_ending_is_restarted_ever_more_slowly_and_then_only_when_needed() {
        let (mut lifecycle, mut now) = (lifecycle(), Instant::now());
        up(&mut lifecycle, now);
        let mut pauses = Vec::new();
        while let Some(Do::Retry { after, attempt }) = lifecycle.lost(now, 1.0) {
            pauses.push(after);
            now += after;
            let Some(Do::Connect { attempt }) = lifecycle.retry_due(attempt) else {
                panic!("not connecting")
            };
            assert!(lifecycle.connected(attempt, now));
        }
        assert_eq!(pauses.len(), UNASKED_ATTEMPTS_MAX as usize);
        assert!(pauses.is_sorted() && *pauses.last().unwrap() == Duration::from_secs(30));
        assert_eq!(lifecycle.demanded(now), None, "not before the pause is over");
        assert!(lifecycle.demanded(now + Duration::from_secs(31)).is_some());
    }

    #[test]
    fn a_server_that_was_never_up_rests_until_it_is_needed() {
        let (mut lifecycle, now) = (lifecycle(), Instant::now());
        lifecycle.demanded(now);
        assert_eq!(lifecycle.failed(1, now, 0.0), Some(Do::Rest));
        assert_eq!(lifecycle.hopeful_until(), None);
        assert_eq!(lifecycle.failed(1, now, 0.0), None, "twice told");
    }

    #[test]
    fn a_changed_transport_makes_old_attempts_worthless() {
        let (mut lifecycle, now) = (lifecycle(), Instant::now());
        assert_eq!(lifecycle.reconfigured(), None, "nobody needs it");
        lifecycle.demanded(now);
        assert_eq!(lifecycle.reconfigured(), Some(Do::Connect { attempt: 2 }));
        assert!(!lifecycle.connected(1, now));
        assert_eq!(lifecycle.failed(1, now, 0.0), None);
        assert!(lifecycle.connected(2, now));
    }
}
