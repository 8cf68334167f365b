//! Which calls are made again when they are lost on the way, how often and when. Pure: chance comes in from outside.
//!
//! Only what changes nothing, or nothing more the second time, is made again: what lists and reads, and tools whose server
//! says so of them (`readOnlyHint`, `idempotentHint`). A server in trouble must not get more of it by that, so of all calls
//! to it one in ten at most is such a repetition.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use troupe_protocol::mcp::{Descriptor, method};

/// How often one call is made again.
pub(super) const RETRIES_MAX: u32 = 2;
/// The longest pause before the first repetition; twice as long before the next. At least half of it is waited.
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// So many calls earn one repetition.
const CALLS_PER_RETRY: u32 = 10;
/// Repetitions that are saved up at most, and at the beginning.
const SAVED_MAX: u32 = 10;

/// Whether a request of this method may be made twice whatever it asks for.
pub(super) fn is_harmless(requested: &str) -> bool {
    matches!(
        requested,
        method::PING
            | method::DISCOVER
            | method::TOOLS_LIST
            | method::RESOURCES_LIST
            | method::RESOURCES_TEMPLATES_LIST
            | method::RESOURCES_READ
            | method::PROMPTS_LIST
            | method::PROMPTS_GET
            | method::COMPLETION_COMPLETE
    )
}

/// Whether a tool's server says that calling it twice does no more than calling it once.
pub(super) fn is_repeatable(tool: &Descriptor) -> bool {
    // Most say nothing of the kind, and are not read for it.
    let text = tool.raw.get();
    if !text.contains("readOnlyHint") && !text.contains("idempotentHint") {
        return false;
    }
    tool.tool()
        .annotations
        .is_some_and(|hints| hints.read_only_hint == Some(true) || hints.idempotent_hint == Some(true))
}

/// How long is waited before this repetition, counted from zero. `chance` is between 0 and 1.
pub(super) fn pause(retry: u32, chance: f64) -> Duration {
    (PAUSE_MAX * (1 << retry.min(8))).mul_f64(0.5 + chance / 2.0)
}

/// What is left of a server's repetitions.
#[derive(Debug)]
pub(super) struct RetryBudget {
    /// In calls: each earns one, a repetition takes [`CALLS_PER_RETRY`].
    saved: AtomicU32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            saved: AtomicU32::new(SAVED_MAX * CALLS_PER_RETRY),
        }
    }
}

impl RetryBudget {
    /// A call was made, not for another time.
    pub fn earn(&self) {
        const FULL: u32 = SAVED_MAX * CALLS_PER_RETRY;
        // It is full nearly always; two at once may pass that by a little.
        if self.saved.load(Ordering::Relaxed) < FULL {
            self.saved.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes one repetition, if there is one.
    pub fn take(&self) -> bool {
        let less = |saved: u32| saved.checked_sub(CALLS_PER_RETRY);
        self.saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::value::RawValue;
    use troupe_protocol::mcp::ListKind;

    use super::*;

    fn tool(annotations: &str) -> Descriptor {
        let text = format!(r#"{{"name":"x","inputSchema":{{}},"annotations":{annotations}}}"#);
        Descriptor::read(ListKind::Tools, &RawValue::from_string(text).unwrap()).unwrap()
    }

    #[test]
    fn only_what_does_no_more_the_second_time_is_repeated() {
        assert!(is_harmless(method::RESOURCES_READ) && !is_harmless(method::TOOLS_CALL));
        assert!(!is_harmless("unheard/of"));
        assert!(is_repeatable(&tool(r#"{"readOnlyHint":true}"#)));
        assert!(is_repeatable(&tool(
            r#"{"idempotentHint":true,"destructiveHint":true}"#
        )));
        assert!(!is_repeatable(&tool(
            r#"{"readOnlyHint":false,"idempotentHint":false}"#
        )));
        assert!(!is_repeatable(&tool("{}")));
    }

    #[test]
    fn one_call_in_ten_is_a_repetition_at_most() {
        let budget = RetryBudget::default();
        let saved = (0..100).filter(|_| budget.take()).count();
        assert_eq!(saved, SAVED_MAX as usize, "what was saved up");
        let repeated = (0..1_000).filter(|_| {
            budget.earn();
            budget.take()
        });
        assert_eq!(repeated.count(), 100);
        (0..10_000).for_each(|_| budget.earn());
        assert_eq!((0..100).filter(|_| budget.take()).count(), SAVED_MAX as usize);
    }

    #[test]
    fn pauses_differ_and_grow() {
        assert_eq!(pause(0, 0.0), PAUSE_MAX / 2);
        assert_eq!(pause(0, 1.0), PAUSE_MAX);
        assert_eq!(pause(1, 1.0), PAUSE_MAX * 2);
    }
}
