//! What callers do, written down whether or not they wait for its end.

use std::{
    borrow::Cow,
    fmt::Display,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use troupe_actors::audit::{AuditHandle, NewAuditEvent};
use troupe_protocol::access::Principal;

/// Failed sign-ins that are written down in a minute: anybody can fail, and the log forgets its oldest events.
const FAILED_SIGN_INS_MAX: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);

/// Something that somebody begins to do. Who acts makes one before, and says afterwards how it [`ended`](Self::ended);
/// one that is dropped before (the client hung up, the time was over) is written down as of unknown outcome.
#[must_use = "dropped at once, it says that nobody knows how it ended"]
pub struct Audited {
    log: AuditHandle,
    event: Option<NewAuditEvent>,
}

impl Audited {
    /// The principal begins to do something to a subject.
    pub fn begin(
        log: &AuditHandle,
        principal: &Principal,
        action: impl Into<Cow<'static, str>>,
        subject: &str,
    ) -> Self {
        Self {
            log: log.clone(),
            event: Some(NewAuditEvent::new(principal, action, subject)),
        }
    }

    /// It was done, or failed.
    pub fn ended<T, E: Display>(mut self, outcome: &Result<T, E>) {
        if let Some(event) = self.event.take() {
            self.log.record(match outcome {
                Ok(_) => event,
                Err(error) => event.failed(error),
            });
        }
    }
}

impl Drop for Audited {
    fn drop(&mut self) {
        if let Some(event) = self.event.take() {
            let reason = "whoever asked did not wait for the end: it may have been done";
            self.log.record(event.unknown(reason));
        }
    }
}

/// How often signing in has failed in the minute in hand.
pub struct FailedSignIns(Mutex<(Instant, u32)>);

impl Default for FailedSignIns {
    fn default() -> Self {
        Self(Mutex::new((Instant::now(), 0)))
    }
}

impl FailedSignIns {
    /// Counts one more; whether it is to be written down.
    pub fn count(&self, now: Instant) -> bool {
        let mut minute = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(minute.0) >= MINUTE {
            *minute = (now, 0);
        }
        minute.1 = minute.1.saturating_add(1);
        minute.1 <= FAILED_SIGN_INS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_sign_ins_are_written_down_up_to_a_number_in_each_minute() {
        let (sign_ins, began) = (FailedSignIns::default(), Instant::now());
        let written = |now| (0..1_000).filter(|_| sign_ins.count(now)).count();
        assert_eq!(written(began), 10);
        assert_eq!(written(began + MINUTE / 2), 0);
        assert_eq!(written(began + 2 * MINUTE), 10);
    }
}
