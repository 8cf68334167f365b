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
/// So many failures within [`WINDOW`] do, if they are more than half of all calls.
const FAILURES_IN_WINDOW_MIN: u64 = 10;
const WINDOW: Duration = Duration::from_secs(10);
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
    window_began_ms: u64,
    /// Calls that had begun by then.
    begun_before: u64,
    failures: u64,
    /// How often it was opened without being closed.
    opened: u32,
    trials_succeeded: u32,
}

/// Leave to make a call. Dropped without a word, it says nothing about the server.
#[derive(Debug)]
pub(super) struct Leave<'a> {
    circuit: &'a Circuit,
    is_trial: bool,
    is_told: bool,
}

impl Circuit {
    /// Leave to make a call now, or how long the server is to be left alone.
    pub fn enter(&self, now: Duration) -> Result<Leave<'_>, Duration> {
        let open_until = Duration::from_millis(self.open_until_ms.load(Ordering::Acquire));
        if open_until.is_zero() {
            return Ok(self.leave(false));
        }
        if now < open_until {
            return Err(open_until - now);
        }
        match self.is_tried.swap(true, Ordering::AcqRel) {
            true => Err(TRIAL_TAKES),
            false => Ok(self.leave(true)),
        }
    }

    fn leave(&self, is_trial: bool) -> Leave<'_> {
        Leave {
            circuit: self,
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

    fn failed(&self, is_trial: bool, now: Duration, begun: u64) {
        let in_a_row = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        let mut failing = self.failing.lock();
        let opens = is_trial || (!self.is_open() && failing.note(in_a_row, now, begun));
        if opens {
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

impl Failing {
    /// Notes a failure; whether it is one too many.
    fn note(&mut self, in_a_row: u32, now: Duration, begun: u64) -> bool {
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let window_ms = WINDOW.as_millis() as u64;
        if self.failures == 0 || now_ms.saturating_sub(self.window_began_ms) > window_ms {
            self.window_began_ms = now_ms;
            self.begun_before = begun.saturating_sub(1);
            self.failures = 0;
        }
        self.failures += 1;
        let calls = begun.saturating_sub(self.begun_before);
        let is_most = self.failures >= FAILURES_IN_WINDOW_MIN && self.failures * 2 > calls;
        in_a_row >= FAILURES_IN_A_ROW_MAX || is_most
    }
}

impl Leave<'_> {
    /// Says what the call has shown, at this time and after so many calls had begun. Whether the server is left alone from now
    /// on.
    pub fn tell(mut self, sign: Sign, now: Duration, begun: u64) -> bool {
        self.is_told = true;
        let was_open = self.circuit.is_open();
        match sign {
            Sign::Works => self.circuit.succeeded(self.is_trial),
            Sign::Fails => self.circuit.failed(self.is_trial, now, begun),
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

    fn call(circuit: &Circuit, sign: Sign, now: Duration, begun: u64) -> bool {
        circuit.enter(now).unwrap().tell(sign, now, begun)
    }

    fn opened() -> Circuit {
        let circuit = Circuit::default();
        for number in 1..FAILURES_IN_A_ROW_MAX {
            assert!(!call(&circuit, Sign::Fails, s(0), u64::from(number)));
        }
        assert!(call(
            &circuit,
            Sign::Fails,
            s(0),
            u64::from(FAILURES_IN_A_ROW_MAX)
        ));
        circuit
    }

    #[test]
    fn a_server_that_only_fails_is_left_alone_and_then_tried_by_one_call_at_a_time() {
        let circuit = opened();
        assert_eq!(circuit.enter(s(1)).unwrap_err(), s(1));
        let trial = circuit.enter(s(2)).unwrap();
        assert_eq!(circuit.enter(s(2)).unwrap_err(), TRIAL_TAKES, "one at a time");
        trial.tell(Sign::Fails, s(3), 6);
        assert_eq!(circuit.enter(s(3)).unwrap_err(), s(4), "twice as long");
        for trial in 1..=TRIALS {
            assert!(circuit.is_open(), "before trial {trial}");
            call(&circuit, Sign::Works, s(7), 7);
        }
        assert!(!circuit.is_open());
        assert!(!call(&circuit, Sign::Fails, s(8), 20), "it begins anew");
    }

    #[test]
    fn a_trial_that_says_nothing_makes_room_for_another() {
        let circuit = opened();
        drop(circuit.enter(s(2)).unwrap());
        call(&circuit, Sign::Nothing, s(2), 6);
        assert!(circuit.enter(s(2)).is_ok());
        circuit.reset();
        assert!(!circuit.is_open());
    }

    #[test]
    fn failures_among_successes_count_when_they_are_most() {
        let circuit = Circuit::default();
        let mut begun = 0;
        for _ in 0..40 {
            begun += 2;
            assert!(!call(&circuit, Sign::Fails, s(1), begun), "half of them fail");
            call(&circuit, Sign::Works, s(1), begun);
        }
        let opened = (0..40).any(|number| {
            begun += 1;
            let sign = if number % 4 == 0 { Sign::Works } else { Sign::Fails };
            call(&circuit, sign, s(20), begun)
        });
        assert!(opened, "three of four fail");
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
