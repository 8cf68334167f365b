//! A circuit breaker for each server, pure but for the clock that it is told: a server to which every call is lost is
//! left alone for a moment, and then tried by one call at a time.
//!
//! Only what the transport shows counts. An answer, whatever it says, shows that the server works; that a caller has
//! waited in vain shows nothing, for tools may take as long as they like. A call of a server that works costs two reads of
//! atomics here; only failures take a lock.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::error::Failure;

/// So many failures without a success between them open the circuit.
const FAILURES_IN_A_ROW_MAX: u32 = 5;
/// Calls that begin within this of a failure and fail too tell of the same event: connections of one process end one after
/// the other.
const SAME_EVENT: Duration = Duration::from_millis(250);
/// How long the server is left alone, the first time and at most: twice as long after each trial that fails.
const OPEN_FOR: Duration = Duration::from_secs(1);
const OPEN_FOR_MAX: Duration = Duration::from_secs(30);
/// So many trials that succeed close it.
const TRIALS: u32 = 3;
/// After that another call may try the server, though the trial has not ended.
const TRIAL_TAKES_MAX: Duration = Duration::from_secs(5);
/// When those are to come back who come while another call tries the server.
const TRIED_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What an outcome says about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It answers, if only with an error.
    Works,
    /// The call was lost on the way there or back.
    Fails,
    /// Nothing: the caller went away, or something else was in the way.
    Nothing,
}

impl Sign {
    /// What a failure of a connection says.
    pub fn of(failure: &Failure) -> Self {
        match failure {
            // What a proxy says of a server that it does not reach.
            Failure::Lost(_)
            | Failure::Refused {
                status: 502..=504, ..
            } => Self::Fails,
            // It answers, though not as it should.
            Failure::Refused { .. } | Failure::TooLarge(_) | Failure::Protocol(_) | Failure::NeedsLogin => {
                Self::Works
            }
            // The pause between attempts to connect sees to the former.
            Failure::NotSent(_) | Failure::Overloaded(_) => Self::Nothing,
        }
    }
}

/// What changes for callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// From now on the server is left alone.
    Opened,
    /// It is called again as usual.
    Closed,
}

/// Whether a server is called at all.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    /// Until when, in milliseconds after the slot was made; zero while the circuit is closed.
    open_until_ms: AtomicU64,
    /// Since when a call tries the server, plus one; zero if none does.
    tried_since_ms: AtomicU64,
    failures_in_a_row: AtomicU32,
    failing: Mutex<Failing>,
}

#[derive(Debug, Default)]
struct Failing {
    /// The last failure that counted. Calls that were under way then, or began just after, and fail too tell of the same
    /// event: the end of a process ends all its calls.
    last_at: Option<Duration>,
    /// How often it was opened without being closed.
    opened: u32,
    succeeded: u32,
}

/// Leave to make a call. Dropped without a word, it says nothing about the server.
#[derive(Debug)]
pub(super) struct Leave<'a> {
    circuit: &'a Circuit,
    entered_at: Duration,
    /// What `tried_since_ms` is while this call tries the server.
    trial: Option<u64>,
}

impl Circuit {
    /// Leave to make a call now, or how long the server is to be left alone.
    pub fn enter(&self, now: Duration) -> Result<Leave<'_>, Duration> {
        let open_until = Duration::from_millis(self.open_until_ms.load(Ordering::Acquire));
        if open_until.is_zero() {
            return Ok(self.leave(now, None));
        }
        if now < open_until {
            return Err(open_until - now);
        }
        let since = self.tried_since_ms.load(Ordering::Acquire);
        if since != 0 && now < Duration::from_millis(since) + TRIAL_TAKES_MAX {
            return Err(TRIED_AGAIN_AFTER);
        }
        let trial = as_ms(now).saturating_add(1);
        let begun = self
            .tried_since_ms
            .compare_exchange(since, trial, Ordering::AcqRel, Ordering::Acquire);
        match begun {
            Ok(_) => Ok(self.leave(now, Some(trial))),
            Err(_) => Err(TRIED_AGAIN_AFTER),
        }
    }

    fn leave(&self, entered_at: Duration, trial: Option<u64>) -> Leave<'_> {
        Leave {
            circuit: self,
            entered_at,
            trial,
        }
    }

    /// Whether the server is left alone, or being tried again.
    pub fn is_open(&self) -> bool {
        self.open_until_ms.load(Ordering::Acquire) != 0
    }

    /// As new: the server is another now.
    pub fn reset(&self) {
        let mut failing = self.failing.lock();
        self.close(&mut failing);
    }

    fn close(&self, failing: &mut Failing) {
        *failing = Failing::default();
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        self.open_until_ms.store(0, Ordering::Release);
    }

    fn failed(&self, leave: &Leave<'_>, now: Duration) -> Option<Turn> {
        let mut failing = self.failing.lock();
        let is_known = failing
            .last_at
            .is_some_and(|last_at| leave.entered_at < last_at + SAME_EVENT);
        if is_known && leave.trial.is_none() {
            return None;
        }
        failing.last_at = Some(now);
        let in_a_row = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        let was_open = self.is_open();
        let is_trial = was_open && leave.trial.is_some();
        if !is_trial && (was_open || in_a_row < FAILURES_IN_A_ROW_MAX) {
            return None;
        }
        failing.succeeded = 0;
        let open_for = (OPEN_FOR * (1 << failing.opened.min(8))).min(OPEN_FOR_MAX);
        failing.opened = failing.opened.saturating_add(1);
        self.open_until_ms
            .store(as_ms(now + open_for).max(1), Ordering::Release);
        (!was_open).then_some(Turn::Opened)
    }

    fn succeeded(&self, is_trial: bool) -> Option<Turn> {
        if self.failures_in_a_row.load(Ordering::Relaxed) != 0 {
            self.failures_in_a_row.store(0, Ordering::Relaxed);
        }
        if !is_trial || !self.is_open() {
            return None;
        }
        let mut failing = self.failing.lock();
        failing.succeeded += 1;
        if failing.succeeded < TRIALS {
            return None;
        }
        self.close(&mut failing);
        Some(Turn::Closed)
    }
}

impl Leave<'_> {
    /// Says what the call has shown. What changes by that, if anything does.
    pub fn tell(self, sign: Sign, now: Duration) -> Option<Turn> {
        match sign {
            Sign::Works => self.circuit.succeeded(self.trial.is_some()),
            Sign::Fails => self.circuit.failed(&self, now),
            Sign::Nothing => None,
        }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Some(trial) = self.trial {
            // Another may be at it, if this one took its time.
            let _ =
                self.circuit
                    .tried_since_ms
                    .compare_exchange(trial, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

fn as_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn call(circuit: &Circuit, sign: Sign, now: Duration) -> Option<Turn> {
        circuit.enter(now).unwrap().tell(sign, now)
    }

    /// Opened at the tenth second, for a second.
    fn opened() -> Circuit {
        let circuit = Circuit::default();
        for second in 1..u64::from(FAILURES_IN_A_ROW_MAX) {
            assert_eq!(call(&circuit, Sign::Fails, s(second)), None);
        }
        assert_eq!(call(&circuit, Sign::Fails, s(10)), Some(Turn::Opened));
        circuit
    }

    #[test]
    fn a_server_that_only_fails_is_left_alone_and_then_tried_by_one_call_at_a_time() {
        let circuit = opened();
        assert_eq!(circuit.enter(s(10)).unwrap_err(), s(1));
        let trial = circuit.enter(s(11)).unwrap();
        assert_eq!(
            circuit.enter(s(11)).unwrap_err(),
            TRIED_AGAIN_AFTER,
            "one at a time"
        );
        assert_eq!(trial.tell(Sign::Fails, s(13)), None, "it is open still");
        assert_eq!(circuit.enter(s(13)).unwrap_err(), s(2), "twice as long");
        for _ in 1..TRIALS {
            assert_eq!(call(&circuit, Sign::Works, s(17)), None);
            assert!(circuit.is_open());
        }
        assert_eq!(call(&circuit, Sign::Works, s(17)), Some(Turn::Closed));
        assert!(!circuit.is_open());
        assert_eq!(call(&circuit, Sign::Fails, s(18)), None, "it begins anew");
    }

    #[test]
    fn a_trial_that_says_nothing_or_takes_too_long_makes_room_for_another() {
        let circuit = opened();
        drop(circuit.enter(s(12)).unwrap());
        call(&circuit, Sign::Nothing, s(12));
        let slow = circuit.enter(s(12)).unwrap();
        let next = circuit.enter(s(12) + TRIAL_TAKES_MAX + s(1)).unwrap();
        drop(slow);
        assert!(circuit.enter(s(18)).is_err(), "the second is at it still");
        drop(next);
        assert!(circuit.enter(s(18)).is_ok());
        circuit.reset();
        assert!(!circuit.is_open());
    }

    #[test]
    fn a_server_that_stays_away_is_left_alone_ever_longer_up_to_a_bound() {
        let circuit = opened();
        let mut now = s(11);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            call(&circuit, Sign::Fails, now);
            let pause = circuit.enter(now).unwrap_err();
            pauses.push(pause);
            now += pause;
        }
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&OPEN_FOR_MAX));
    }

    #[test]
    fn calls_that_end_together_fail_once_and_a_success_makes_up_for_all() {
        let circuit = Circuit::default();
        let together: Vec<Leave<'_>> = (0..20).map(|_| circuit.enter(s(1)).unwrap()).collect();
        for leave in together {
            assert_eq!(leave.tell(Sign::Fails, s(2)), None);
        }
        for _ in 0..20 {
            assert_eq!(call(&circuit, Sign::Fails, s(2) + SAME_EVENT / 2), None);
        }
        for _ in 0..40 {
            assert_eq!(call(&circuit, Sign::Fails, s(3)), None);
            call(&circuit, Sign::Works, s(3));
        }
    }

    #[test]
    fn only_what_the_transport_shows_counts() {
        let refused = |status| Failure::Refused {
            status,
            body: String::new(),
        };
        assert_eq!(Sign::of(&refused(404)), Sign::Works);
        assert_eq!(Sign::of(&refused(500)), Sign::Works);
        assert_eq!(Sign::of(&refused(502)), Sign::Fails);
        assert_eq!(Sign::of(&Failure::Lost(String::new())), Sign::Fails);
        assert_eq!(Sign::of(&Failure::NotSent(String::new())), Sign::Nothing);
    }
}
