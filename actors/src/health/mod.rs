//! Health: how the registered servers fare.
//!
//! A prober for each enabled server, one in the whole cluster (placed state, rebuilt by probing), makes a cheap real exchange every now and then:
//! `ping` in the legacy era, `server/discover` in the modern one. A stdio server is started by that and kept warm.
//! What a connection tells by itself (up, down) is taken into account at once.
//!
//! # Layout
//! - `state`: when a server is online, degraded or offline, pure
//! - `history`: uptime and latency over 24 hours, pure and bounded
//! - `prober`: the actor of one server; `keeper`: the actor that starts and stops them as the registry says
//! - `placed`: which node probes what, and what nodes tell each other
//! - `board`: what they write and everyone reads; `messages`: [`HealthHandle`]
//! - `reach`: how a server is reached; the connections themselves are the business of [`crate::upstream`]
//!
//! Uptime is of the time observed: it starts anew with the node.

mod board;
mod history;
mod keeper;
mod messages;
mod placed;
mod prober;
mod reach;
mod state;

#[cfg(test)]
mod real;

pub use keeper::child;
pub use messages::{HealthError, HealthHandle, HealthSettings};
pub use reach::{Answer, Failure, Reach};

pub use crate::registry::Health;
