//! When a token is renewed. Decides; reads no clock.

use std::time::Duration;

use tokio::time::Instant;

/// A token is renewed at most so long before it ends; one of a short life when three quarters of that are over.
const RENEW_BEFORE_MAX: Duration = Duration::from_secs(60);
/// A token is not renewed sooner after it was: neither one that lives for seconds, nor since a call that began earlier
/// was refused.
const BETWEEN_RENEWALS_MIN: Duration = Duration::from_secs(10);
/// The pauses after renewals that failed.
const AGAIN_AFTER_MIN: Duration = Duration::from_secs(15);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(300);
/// How often it is looked whether there is another login, when nothing can be done with this one.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// A token that says nothing of its end is good until it is refused.
const FOR_LONG: Duration = Duration::from_secs(24 * 3_600);
/// Nodes that come after this one all have the same moment.
const TURNS_MAX: u32 = 5;

/// For how long a token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    /// From when it was given.
    pub lifetime: Duration,
    /// From now on.
    pub remaining: Duration,
}

impl Validity {
    /// How long it is until the token is to be renewed by the node whose turn this is: 0 is the first, and the others
    /// follow, so that they find what it got.
    pub fn until_renewal(self, turn: u32) -> Duration {
        let first = RENEW_BEFORE_MAX.min(self.lifetime / 4);
        let before = first - first * turn.min(TURNS_MAX) / 8;
        self.remaining.saturating_sub(before)
    }
}

/// What was tried for one login.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct History {
    /// Which login, so that what is remembered of one does not count for another.
    pub login: LoginId,
    renewed_at: Option<Instant>,
    failed: Option<(Instant, u32)>,
    /// The authorization server will never renew it.
    is_refused: bool,
}

/// Which login, and which of its tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LoginId {
    /// The same for all tokens of one login.
    pub lineage: u64,
    /// In seconds since 1970.
    pub received_at_s: u64,
}

impl History {
    /// Of a login of which nothing is known.
    pub fn of(login: LoginId) -> Self {
        Self {
            login,
            ..Self::default()
        }
    }

    pub fn renewed(&mut self, login: LoginId, now: Instant) {
        *self = Self {
            renewed_at: Some(now),
            ..Self::of(login)
        };
    }

    pub fn failed(&mut self, now: Instant) {
        let failures = self.failed.map_or(0, |(_, failures)| failures);
        self.failed = Some((now, failures.saturating_add(1)));
    }

    /// The authorization server says that this login is over, or gave nothing to renew it with.
    pub fn refused(&mut self) {
        self.is_refused = true;
    }

    /// Whether a renewal that failed is to be tried again.
    pub fn has_failed(&self) -> bool {
        self.failed.is_some() && !self.is_refused
    }

    /// How long it is until a renewal may be tried; nothing when it would be in vain.
    pub fn until_allowed(&self, now: Instant) -> Option<Duration> {
        if self.is_refused {
            return None;
        }
        let after_renewal = self.renewed_at.map(|at| at + BETWEEN_RENEWALS_MIN);
        let after_failure = self.failed.map(|(at, failures)| {
            let doubled = 1_u32 << (failures - 1).min(8);
            at + (AGAIN_AFTER_MIN * doubled).min(AGAIN_AFTER_MAX)
        });
        let earliest = after_renewal.max(after_failure);
        Some(earliest.map_or(Duration::ZERO, |at| at.saturating_duration_since(now)))
    }

    /// How long nothing is to be done.
    pub fn pause(&self, validity: Option<Validity>, turn: u32, now: Instant) -> Duration {
        let Some(until_allowed) = self.until_allowed(now) else {
            return LOOK_EVERY;
        };
        if self.has_failed() {
            return until_allowed;
        }
        let until_due = validity.map_or(FOR_LONG, |validity| validity.until_renewal(turn));
        until_due.max(until_allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fresh(lifetime_s: u64) -> Option<Validity> {
        Some(Validity {
            lifetime: s(lifetime_s),
            remaining: s(lifetime_s),
        })
    }

    #[test]
    fn a_token_is_renewed_a_minute_before_it_ends_or_when_three_quarters_are_over() {
        let now = Instant::now();
        let history = History::default();
        assert_eq!(history.pause(fresh(3_600), 0, now), s(3_540));
        assert_eq!(history.pause(fresh(40), 0, now), s(30));
        assert_eq!(history.pause(None, 0, now), FOR_LONG);
    }

    #[test]
    fn nodes_renew_one_after_the_other() {
        let until = |turn| {
            Validity {
                lifetime: s(3_600),
                remaining: s(3_600),
            }
            .until_renewal(turn)
        };
        assert!((0..TURNS_MAX).all(|turn| until(turn + 1) > until(turn)));
        assert!(until(1_000) < s(3_600));
    }

    #[test]
    fn a_token_that_lives_for_seconds_is_not_renewed_all_the_time() {
        let now = Instant::now();
        let mut history = History::default();
        history.renewed(LoginId::default(), now);
        assert_eq!(history.pause(fresh(1), 0, now), BETWEEN_RENEWALS_MIN);
        assert_eq!(history.until_allowed(now + s(4)), Some(s(6)));
        assert_eq!(history.until_allowed(now + s(11)), Some(s(0)));
    }

    #[test]
    fn failures_are_followed_by_longer_and_longer_pauses() {
        let now = Instant::now();
        let mut history = History::default();
        let mut pauses = Vec::new();
        for _ in 0..40 {
            history.failed(now);
            pauses.push(history.pause(fresh(0), 0, now).as_secs());
        }
        assert_eq!(pauses[..6], [15, 30, 60, 120, 240, 300]);
        assert_eq!(pauses.last(), Some(&300));
        history.renewed(LoginId::default(), now);
        assert!(!history.has_failed());
    }

    #[test]
    fn what_can_never_succeed_is_not_tried() {
        let now = Instant::now();
        let mut history = History::default();
        history.failed(now);
        history.refused();
        assert_eq!(history.until_allowed(now + s(100_000)), None);
        assert!(!history.has_failed());
        assert_eq!(history.pause(fresh(3_600), 0, now), LOOK_EVERY);
    }
}
