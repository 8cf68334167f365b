//! A circuit breaker for each server, pure but for the clock that it is told: a server that only fails is left alone for
//! a while, and then tried by one call at a time.
//!
//! A call of a server that works costs two reads of atomics here. Only failures take a lock.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::error::Failure;

/// So many failures without a success between them open the circuit.
const FAILURES_IN_A_ROW_MAX: u32 = 5;
/// How long the server is left alone, the first time and at most: twice as long after each trial that fails.
const OPEN_FOR: Duration = Duration::from_secs(2);
const OPEN_FOR_MAX: Duration = Duration::from_secs(30);
/// So many trials in a row that succeed close it.
const TRIALS: u32 = 3;
/// While another call tries the server.
const TRIAL_TAKES: Duration = Duration::from_millis(500);
/// A caller who does not wait that long says nothing about the server by giving up.
const PATIENCE_MIN: Duration = Duration::from_secs(5);

/// What an outcome says about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// It answers, if only with an error.
    Works,
    /// It does not.
    Fails,
    /// Nothing: the caller went away, or something else was in the way.
    Nothing,
}

impl Sign {
    /// What a failure of a connection says.
    pub fn of(failure: &Failure) -> Self {
        match failure {
            Failure::Lost(_) | Failure::Protocol(_) => Self::Fails,
            Failure::Refused { status, .. } if *status >= 500 => Self::Fails,
            // It answers, though not as it should.
            Failure::Refused { .. } | Failure::TooLarge(_) => Self::Works,
            // The pause between attempts to connect sees to the former.
            Failure::NotSent(_) | Failure::Overloaded(_) => Self::Nothing,
        }
    }

    /// What it says that nothing was answered for so long.
    pub fn of_silence(waited: Duration) -> Self {
        match waited >= PATIENCE_MIN {
            true => Self::Fails,
            false => Self::Nothing,
        }
    }
}

/// Whether a server is called at all.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    /// Until when, in milliseconds after the slot was made; zero while the circuit is closed.
    open_until_ms: AtomicU64,
    failures_in_a_row: AtomicU32,
    is_tried: AtomicBool,
    failing: Mutex<Failing>,
}

#[derive(Debug, Default)]
struct Failing {
    /// The last failure that counted. Calls that were under way then and fail too tell of the same event: the end of a
    /// process ends all its calls.
    last_at: Option<Duration>,
    /// How often it was opened without being closed.
    opened: u32,
    trials_succeeded: u32,
}

/// Leave to make a call. Dropped without a word, it says nothing about the server.
#[derive(Debug)]
pub(super) struct Leave<'a> {
    circuit: &'a Circuit,
    entered_at: Duration,
    is_trial: bool,
    is_told: bool,
}

impl Circuit {
    /// Leave to make a call now, or how long the server is to be left alone.
    pub fn enter(&self, now: Duration) -> Result<Leave<'_>, Duration> {
        let open_until = Duration::from_millis(self.open_until_ms.load(Ordering::Acquire));
        if open_until.is_zero() {
            return Ok(self.leave(now, false));
        }
        if now < open_until {
            return Err(open_until - now);
        }
        match self.is_tried.swap(true, Ordering::AcqRel) {
            true => Err(TRIAL_TAKES),
            false => Ok(self.leave(now, true)),
        }
    }

    fn leave(&self, entered_at: Duration, is_trial: bool) -> Leave<'_> {
        Leave {
            circuit: self,
            entered_at,
            is_trial,
            is_told: false,
        }
    }

    /// Whether the server is left alone, or being tried again.
    pub fn is_open(&self) -> bool {
        self.open_until_ms.load(Ordering::Acquire) != 0
    }

    /// As new: the server is another now.
    pub fn reset(&self) {
        *self.failing.lock() = Failing::default();
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        self.open_until_ms.store(0, Ordering::Release);
    }

    fn failed(&self, leave: &Leave<'_>, now: Duration) {
        let mut failing = self.failing.lock();
        if failing.last_at.is_some_and(|last_at| leave.entered_at < last_at) {
            return;
        }
        failing.last_at = Some(now);
        let in_a_row = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        if leave.is_trial || (!self.is_open() && in_a_row >= FAILURES_IN_A_ROW_MAX) {
            failing.trials_succeeded = 0;
            let doublings = failing.opened.min(8);
            failing.opened = failing.opened.saturating_add(1);
            let open_for = (OPEN_FOR * (1 << doublings)).min(OPEN_FOR_MAX);
            let until_ms = u64::try_from((now + open_for).as_millis()).unwrap_or(u64::MAX);
            self.open_until_ms.store(until_ms.max(1), Ordering::Release);
        }
    }

    fn succeeded(&self, is_trial: bool) {
        if self.failures_in_a_row.load(Ordering::Relaxed) != 0 {
            self.failures_in_a_row.store(0, Ordering::Relaxed);
        }
        if is_trial {
            let mut failing = self.failing.lock();
            failing.trials_succeeded += 1;
            if failing.trials_succeeded >= TRIALS {
                *failing = Failing::default();
                self.open_until_ms.store(0, Ordering::Release);
            }
        }
    }
}

impl Leave<'_> {
    /// Says what the call has shown. Whether the server is left alone from now on.
    pub fn tell(mut self, sign: Sign, now: Duration) -> bool {
        self.is_told = true;
        let was_open = self.circuit.is_open();
        match sign {
            Sign::Works => self.circuit.succeeded(self.is_trial),
            Sign::Fails => self.circuit.failed(&self, now),
            Sign::Nothing => {}
        }
        if self.is_trial {
            self.circuit.is_tried.store(false, Ordering::Release);
        }
        !was_open && self.circuit.is_open()
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.is_trial && !self.is_told {
            self.circuit.is_tried.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn call(circuit: &Circuit, sign: Sign, now: Duration) -> bool {
        circuit.enter(now).unwrap().tell(sign, now)
    }

    fn opened() -> Circuit {
        let circuit = Circuit::default();
        for _ in 1..FAILURES_IN_A_ROW_MAX {
            assert!(!call(&circuit, Sign::Fails, s(0)));
        }
        assert!(call(&circuit, Sign::Fails, s(0)));
        circuit
    }

    #[test]
    fn a_server_that_only_fails_is_left_alone_and_then_tried_by_one_call_at_a_time() {
        let circuit = opened();
        assert_eq!(circuit.enter(s(1)).unwrap_err(), s(1));
        let trial = circuit.enter(s(2)).unwrap();
        assert_eq!(circuit.enter(s(2)).unwrap_err(), TRIAL_TAKES, "one at a time");
        trial.tell(Sign::Fails, s(3));
        assert_eq!(circuit.enter(s(3)).unwrap_err(), s(4), "twice as long");
        for trial in 1..=TRIALS {
            assert!(circuit.is_open(), "before trial {trial}");
            call(&circuit, Sign::Works, s(7));
        }
        assert!(!circuit.is_open());
        assert!(!call(&circuit, Sign::Fails, s(8)), "it begins anew");
    }

    #[test]
    fn a_trial_that_says_nothing_makes_room_for_another() {
        let circuit = opened();
        drop(circuit.enter(s(2)).unwrap());
        call(&circuit, Sign::Nothing, s(2));
        assert!(circuit.enter(s(2)).is_ok());
        circuit.reset();
        assert!(!circuit.is_open());
    }

    #[test]
    fn calls_that_end_together_fail_once_and_a_success_makes_up_for_all() {
        let circuit = Circuit::default();
        let together: Vec<Leave<'_>> = (0..20).map(|_| circuit.enter(s(1)).unwrap()).collect();
        for leave in together {
            assert!(!leave.tell(Sign::Fails, s(2)));
        }
        for _ in 0..40 {
            assert!(!call(&circuit, Sign::Fails, s(3)));
            call(&circuit, Sign::Works, s(3));
        }
    }

    #[test]
    fn callers_without_patience_and_errors_of_the_request_say_nothing_against_a_server() {
        assert_eq!(Sign::of_silence(Duration::from_millis(100)), Sign::Nothing);
        assert_eq!(Sign::of_silence(PATIENCE_MIN), Sign::Fails);
        let refused = |status| Failure::Refused {
            status,
            body: String::new(),
        };
        assert_eq!(Sign::of(&refused(404)), Sign::Works);
        assert_eq!(Sign::of(&refused(502)), Sign::Fails);
    }
}
