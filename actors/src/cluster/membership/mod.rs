//! Membership: the leader notices who is silent and who is back, and has the log say so.
//!
//! Each node renews its lease with the leader several times a second, so the leader hears of every member anyway: a
//! renewal is the sign of life, and the end of a link a hint that hastens the judgement. Only the leader judges, and what
//! it judges is an entry of the log; followers believe the log. That costs no message of its own.
//!
//! Gossip (chitchat) was measured for this and is not used: `gossip_cost`. Between 10 nodes it takes, per node, 16 kB/s
//! when it gossips every 100 ms, 6 kB/s at 250 ms and 3 kB/s at 500 ms, without UDP and the sealing of messages, which come
//! to 70 bytes a message: at an interval that notices silence within a second, more than all that a node may write while
//! nothing happens (4 kB/s). Leases are renewed anyway, over links that are sealed anyway.
//!
//! # Layout
//! - `state`: who is silent, who is back, pure; `actor`: the actor; `messages`: [`MembershipHandle`]
//!
//! State is cached: a new leader begins by listening.

mod actor;
#[cfg(test)]
mod gossip_cost;
mod messages;
mod state;

use std::time::Duration;

pub(in crate::cluster) use actor::child;
pub(in crate::cluster) use messages::MembershipHandle;

/// When a member counts as silent, and when as back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DetectionTiming {
    /// A member of which nothing was heard for so long is down.
    pub silent_after: Duration,
    /// As above, for a member whose link has ended, too.
    pub silent_after_link_end: Duration,
    /// A member that is heard and never gets a lease for so long cannot hear us: it is down, too.
    pub deaf_after: Duration,
    /// A member that is down is up when it was heard without a pause for so long.
    pub back_after: Duration,
    /// Each time a member went down lately doubles the time until it is up, to this at most.
    pub back_after_max: Duration,
}

impl DetectionTiming {
    /// The longest pause between two signs of life of a member that is heard without a pause: two of its renewals.
    fn pause_max(&self) -> Duration {
        self.silent_after * 2 / 3
    }
}

impl Default for DetectionTiming {
    fn default() -> Self {
        Self {
            silent_after: Duration::from_millis(900),
            silent_after_link_end: Duration::from_millis(350),
            deaf_after: Duration::from_millis(1_500),
            back_after: Duration::from_millis(300),
            back_after_max: Duration::from_secs(8),
        }
    }
}
