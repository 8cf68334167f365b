//! A leader that wants to lead no more: because it votes no more, or because its node is about to stop.
//!
//! Voters grant no vote while they hear of a leader. So it falls silent, takes no writes, and when they are free to vote
//! it asks one of them to stand for election. Writes wait meanwhile, at whatever node, for less than a second.

use std::sync::atomic::Ordering;
use std::time::Duration;

use troupe_protocol::id::NodeId;
use troupe_protocol::wire as encoding;

use super::core::Core;
use super::error::LogError;
use super::wire::Question;
use crate::runtime::Deadline;

/// What clocks and messages may take beyond the time after which voters are free.
const MARGIN: Duration = Duration::from_millis(50);
/// After this long without another leader, it goes on itself.
const ELECTED_WITHIN: Duration = Duration::from_secs(2);

/// Has another node lead. Returns once some other node does.
pub(super) async fn run(core: &Core, to: NodeId, deadline: Deadline) -> Result<(), LogError> {
    let _silence = Silence::begin(core);
    let free_after = Duration::from_millis(core.settings.election_max_ms) + MARGIN;
    tokio::time::sleep(free_after).await;
    let question = encoding::encode(&Question::StandForElection);
    let question = question.map_err(|error| core.fatal(error))?;
    let within = deadline.earlier(Deadline::within(ELECTED_WITHIN));
    let asked = core.network.transport.ask(to, question.into(), within).await;
    asked.map_err(|error| LogError::NoQuorum {
        reason: format!("node {to} could not be asked to lead: {error}"),
    })?;
    let mut leaders = core.leader.subscribe();
    let other = leaders.wait_for(|leader| leader.is_some_and(|(leader, _)| leader != core.own));
    match tokio::time::timeout_at(within.instant(), other).await {
        Ok(_) => Ok(()),
        Err(_) => Err(LogError::NoQuorum {
            reason: "no other node was elected".to_owned(),
        }),
    }
}

/// While this is there, this node neither speaks as leader nor takes writes.
struct Silence<'a>(&'a Core);

impl<'a> Silence<'a> {
    fn begin(core: &'a Core) -> Self {
        core.hands_over.store(true, Ordering::SeqCst);
        core.raft.runtime_config().heartbeat(false);
        Self(core)
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.0.raft.runtime_config().heartbeat(true);
        self.0.hands_over.store(false, Ordering::SeqCst);
    }
}
