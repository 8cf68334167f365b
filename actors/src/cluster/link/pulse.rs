//! Signs of life of a peer: round trips, its clock, and when silence means that it is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;
use super::settings::{BULK_BYTES_PER_US, BULK_FLIGHT_BYTES_MIN, LinkSettings};

/// Looks at a peer of which something is expected, before its silence counts as death.
const LOOKS: u32 = 10;
/// From this silent look on it is asked for a sign of life, at every other look: most answers need no asking for, and a
/// lease may wait for the next word of the log's leader to its followers.
const ASK_FROM_LOOK: u32 = 4;
/// A look that comes so much later than planned says more about this node than about the peer.
const LATE_LOOKS: u32 = 2;
/// How often a round trip is measured at least.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// Without a measurement.
const UNKNOWN: u64 = u64::MAX;

/// What is known of a peer's round trips and clock.
#[derive(Debug)]
pub(super) struct Pulse {
    began: Instant,
    round_trip_us: AtomicU64,
    round_trip_us_min: AtomicU64,
    clock_skew_ms: AtomicI64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            round_trip_us: AtomicU64::new(UNKNOWN),
            round_trip_us_min: AtomicU64::new(UNKNOWN),
            clock_skew_ms: AtomicI64::new(0),
        }
    }

    /// This node's monotonic clock, for pings.
    pub(super) fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(UNKNOWN)
    }

    /// A ping came back with the peer's wall clock.
    pub(super) fn heard(&self, sent_us: u64, peer_clock_us: i64, own_clock_us: i64) {
        let round_trip_us = self.now_us().saturating_sub(sent_us);
        self.round_trip_us.store(round_trip_us, Ordering::Relaxed);
        self.round_trip_us_min.fetch_min(round_trip_us, Ordering::Relaxed);
        let half_us = i64::try_from(round_trip_us / 2).unwrap_or(0);
        // The peer read its clock in the middle of the round trip, give or take half of it.
        let skew_us = peer_clock_us.saturating_add(half_us).saturating_sub(own_clock_us);
        self.clock_skew_ms.store(skew_us / 1_000, Ordering::Relaxed);
    }

    /// The last round trip, and the peer's clock minus ours.
    pub(super) fn last(&self) -> Option<(u64, i64)> {
        match self.round_trip_us.load(Ordering::Relaxed) {
            UNKNOWN => None,
            round_trip_us => Some((round_trip_us, self.clock_skew_ms.load(Ordering::Relaxed))),
        }
    }

    /// How many bytes of large frames may be under way: what a fast network carries in a round trip.
    pub(super) fn bulk_flight_bytes_max(&self) -> usize {
        match self.round_trip_us_min.load(Ordering::Relaxed) {
            UNKNOWN => BULK_FLIGHT_BYTES_MIN,
            round_trip_us => usize::try_from(round_trip_us)
                .unwrap_or(usize::MAX)
                .saturating_mul(BULK_BYTES_PER_US),
        }
    }
}

/// Whether a peer lives, judged by what is heard of it at each look.
#[derive(Debug, Default)]
struct Vigil {
    bytes_heard: u64,
    silent_looks: u32,
}

/// What follows from a look.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Alive,
    Wait,
    Ask,
    Dead,
}

impl Vigil {
    /// `was_late`: this node did not get to look in time, so that it may not have got to hear either.
    fn look(&mut self, bytes_heard: u64, was_late: bool) -> Verdict {
        let is_heard = bytes_heard != self.bytes_heard;
        self.bytes_heard = bytes_heard;
        if is_heard {
            self.silent_looks = 0;
            return Verdict::Alive;
        }
        if !was_late {
            self.silent_looks += 1;
        }
        match self.silent_looks {
            LOOKS.. => Verdict::Dead,
            looks if looks >= ASK_FROM_LOOK && (looks - ASK_FROM_LOOK).is_multiple_of(2) => Verdict::Ask,
            _ => Verdict::Wait,
        }
    }
}

/// Watches a connection until it ends, and ends it when the peer is silent.
///
/// While something is expected of the peer it is looked at often; else it is asked for a sign of life now and then, so
/// that an idle cluster sends next to nothing. What it says by itself, its own questions included, is such a sign.
pub(super) async fn watch(connection: Arc<Connection>, settings: LinkSettings) {
    let look_every = Duration::from_millis(settings.silence_ms_max.max(50)) / LOOKS;
    let ask_every = Duration::from_millis(settings.idle_ping_interval_ms);
    let mut bytes_heard = connection.traffic().bytes_in();
    connection.ping();
    loop {
        connection.watched(false);
        if !connection.expects_something() {
            tokio::select! {
                () = connection.ended().cancelled() => return,
                () = connection.expecting() => {}
                () = tokio::time::sleep(ask_every) => {
                    let bytes_in = connection.traffic().bytes_in();
                    if std::mem::replace(&mut bytes_heard, bytes_in) != bytes_in {
                        continue;
                    }
                    connection.ping();
                }
            }
        }
        connection.watched(true);
        if !keep_vigil(&connection, look_every).await {
            return;
        }
    }
}

/// Looks until nothing is expected any more and the peer has been heard. False when the connection has ended.
async fn keep_vigil(connection: &Connection, look_every: Duration) -> bool {
    let mut vigil = Vigil {
        bytes_heard: connection.traffic().bytes_in(),
        silent_looks: 0,
    };
    let mut ticks = tokio::time::interval(look_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut last_look = Instant::now();
    loop {
        tokio::select! {
            () = connection.ended().cancelled() => return false,
            _ = ticks.tick() => {}
        }
        let was_late = last_look.elapsed() > look_every * LATE_LOOKS;
        last_look = Instant::now();
        match vigil.look(connection.traffic().bytes_in(), was_late) {
            Verdict::Alive if !connection.expects_something() => return true,
            Verdict::Alive | Verdict::Wait => {}
            Verdict::Ask => connection.ping(),
            Verdict::Dead => {
                let silence_ms = (look_every * LOOKS).as_millis();
                connection.end(&format!("the peer has been silent for {silence_ms} ms"));
                return false;
            }
        }
    }
}

/// Measures the round trip and the peer's clock every now and then, however busy or idle the link is, until it ends.
pub(super) async fn measure(connection: &Connection) {
    let mut ticks = tokio::time::interval(MEASURE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = connection.ended().cancelled() => return,
            _ = ticks.tick() => connection.ping(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_dead_after_some_looks_in_time() {
        let mut vigil = Vigil::default();
        assert_eq!(vigil.look(10, false), Verdict::Alive);
        let verdicts: Vec<Verdict> = (1..LOOKS).map(|_| vigil.look(10, false)).collect();
        use Verdict::{Ask, Wait};
        assert_eq!(verdicts, [Wait, Wait, Wait, Ask, Wait, Ask, Wait, Ask, Wait]);
        assert_eq!(vigil.look(10, false), Verdict::Dead);
    }

    #[test]
    fn a_node_that_was_stopped_itself_blames_nobody() {
        let mut vigil = Vigil::default();
        for _ in 0..20 {
            assert_ne!(vigil.look(0, true), Verdict::Dead);
        }
        assert_eq!(vigil.look(1, true), Verdict::Alive);
    }

    #[tokio::test(start_paused = true)]
    async fn round_trips_and_clocks_are_measured() {
        let pulse = Pulse::new();
        assert_eq!(pulse.last(), None);
        assert_eq!(pulse.bulk_flight_bytes_max(), BULK_FLIGHT_BYTES_MIN);
        let sent_us = pulse.now_us();
        tokio::time::advance(Duration::from_millis(4)).await;
        pulse.heard(sent_us, 9_000_000, 5_000_000);
        assert_eq!(pulse.last(), Some((4_000, 4_002)));
        assert_eq!(pulse.bulk_flight_bytes_max(), 4_000 * BULK_BYTES_PER_US);
    }
}
