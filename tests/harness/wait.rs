//! Waiting for something to become true. Tests never sleep for a guessed time.

use std::time::{Duration, Instant};

/// How often a condition is looked at; short against every limit that the tests assert.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Calls `look` until it answers `Some`, and panics saying `what` was awaited when `within` has passed.
pub async fn eventually<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < within, "{what}: not within {within:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
