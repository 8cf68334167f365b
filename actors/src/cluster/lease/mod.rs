//! The lease: who may act for placed actors at all, and when a former owner surely does no more.
//!
//! # The rules
//! A node renews its lease with the log's leader. The leader answers on the strength of a round in which a majority
//! confirmed its leadership; the lease lasts [`LeaseTiming::lasts`] from when that was *sent which they confirmed*. Who is
//! elected later was so by at least one of those who confirmed, after it had heard that, and not before it had heard nothing
//! of a leader for [`LeaseTiming::silence_before_election`] (nor, if it is that leader, had been followed); a new leader
//! that waits, from its election, for one lease without that silence therefore knows that all leases its predecessors gave
//! have ended. (It need not wait for members that have got a lease from itself since, and must wait for a whole lease when
//! it may be its own predecessor, restarted.) The leader tells how long the lease lasts from when the question arrived, the node counts from when it asked, so that
//! delays only make it shorter.
//!
//! A node that holds a lease acts for what it owned at each epoch it has seen since the last *cleared* one. With each
//! renewal it says up to which epoch it has *settled*, that is, given up what it does not own. The leader clears the
//! current epoch when all who may hold a lease have settled for exactly this epoch, and grants leases only to those who
//! have settled for the last cleared epoch, and, after an election, for the epoch at that time. Hence, if two nodes hold
//! leases, the one that knows the earlier cleared epoch has seen the later one and keeps to it; so no address has two
//! nodes that act for it. (`model` plays this against delays, losses, pauses and elections.)
//!
//! The death of a leader alone takes no lease from those who live: voters elect another as soon as they are free to vote, it
//! gives leases at once, and by then those that the dead one gave have, as a rule, not run out ([`LeaseTiming::lasts`] is
//! chosen so).
//!
//! A member that is declared down loses its addresses with that epoch; others get them when the epoch is cleared: when it
//! has settled, or its lease is over. A node whose lease has ended stops everything before it asks for the next.
//!
//! # Layout
//! - `tenant`: the holder's side, pure; `lessor`: the leader's side, pure
//! - `actor`: the actor of both sides; `messages`: what it is told, and [`LeaseHandle`]; `service`: over links
//! - `clock`: until when this node may act, readable by everyone
//! - `wire`: what they say to each other

mod actor;
mod clock;
mod lessor;
mod messages;
#[cfg(test)]
mod model;
mod service;
mod tenant;
mod wire;

use std::time::Duration;

pub(in crate::cluster) use actor::{LeaseParts, child};
pub(in crate::cluster) use clock::LeaseClock;
pub(in crate::cluster) use messages::LeaseHandle;
pub(in crate::cluster) use service::LeaseService;
pub(in crate::cluster) use tenant::Tenant;

/// How long leases last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTiming {
    /// From when the leader sent what a majority confirmed to the end of the lease.
    pub lasts: Duration,
    /// What a node may take to stop when its lease has ended, and clocks may differ in speed meanwhile.
    pub grace: Duration,
    /// How often a node renews a lease that it got; one that it did not get it asks for twice as often. This and
    /// [`round_serves`](Self::round_serves) are how much older a lease may be than the last word of a leader that dies.
    pub renew_every: Duration,
    /// Between the begin of the last round of a leader and the election of its successor lies at least so much: voters
    /// grant no vote while they hear of a leader.
    pub silence_before_election: Duration,
    /// A confirmation of this age still serves for a renewal, so that those of many nodes share one round.
    pub round_serves: Duration,
}

impl Default for LeaseTiming {
    fn default() -> Self {
        Self {
            lasts: Duration::from_millis(1_100),
            grace: Duration::from_millis(150),
            renew_every: Duration::from_millis(244),
            silence_before_election: Duration::from_millis(600),
            round_serves: Duration::from_millis(40),
        }
    }
}
