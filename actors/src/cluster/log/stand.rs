//! Standing for election: never before this voter is free to vote, and then at once when the leader seems to be gone.
//!
//! A voter that has heard of a leader grants nobody its vote for `election_max_ms`, itself neither: that is how whoever is
//! elected knows when the leases of its predecessors end. openraft keeps to it when another asks for the vote, also after a
//! restart; and before it stands by itself, it lets 300 to 600 ms more pass. Whoever knows that the link to the leader has
//! ended need not wait for those. The voters do so one after the other, so that they do not split the votes.

use std::time::Duration;

use troupe_protocol::id::NodeId;

use super::core::Core;
use super::error::LogError;

/// What clocks and messages may take beyond the time after which voters are free.
const MARGIN: Duration = Duration::from_millis(30);
/// How much later the next voter stands, should the one before have not been elected.
const APART: Duration = Duration::from_millis(100);
/// So many stand before openraft's own time is over.
const IN_HASTE_MAX: u32 = 3;
/// A leader whose last words came after the end of its link is waited for again, so often.
const LAST_WORDS_MAX: u32 = 2;

/// Stands for election whenever the link to the leader has ended, until cancelled.
pub(super) async fn run(core: &Core) {
    let mut lost = core.lost_leader.subscribe();
    while lost.changed().await.is_ok() {
        let Some(leader) = *lost.borrow_and_update() else {
            continue;
        };
        let Some(rank) = rank_after(core, leader) else {
            continue;
        };
        for _ in 0..LAST_WORDS_MAX {
            match when_free(core, leader, MARGIN + APART * rank).await {
                Ok(true) => {
                    tracing::info!(%leader, "the link to the leader has ended: this node stands for election")
                }
                Ok(false) if follows(core, leader) => continue,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "this node could not stand for election"),
            }
            break;
        }
    }
}

/// Stands for election so long after this voter has become free to vote. Does not, and answers false, when a leader was
/// heard meanwhile.
pub(super) async fn when_free(core: &Core, leader: NodeId, after: Duration) -> Result<bool, LogError> {
    let heard_before = core.reach.lock().heard_at();
    let silence = Duration::from_millis(core.settings.election_max_ms);
    let free_at = heard_before.unwrap_or(core.opened_at) + silence;
    tokio::time::sleep_until(free_at + after).await;
    if core.reach.lock().heard_at() != heard_before || !may_stand_after(core, leader) {
        return Ok(false);
    }
    let standing = core.raft.trigger().elect().await;
    standing.map_err(|error| core.fatal(error)).map(|()| true)
}

/// Whether no other leader is known.
fn may_stand_after(core: &Core, leader: NodeId) -> bool {
    core.leader_now().is_none_or(|(known, _)| known == leader)
}

/// How much later than free this voter stands, so that those who lost the leader at the same time do not split the votes.
pub(super) fn later(core: &Core, leader: NodeId) -> Duration {
    MARGIN + APART * rank_after(core, leader).unwrap_or(IN_HASTE_MAX)
}

fn follows(core: &Core, leader: NodeId) -> bool {
    core.leader_now().is_some_and(|(known, _)| known == leader)
}

/// How many voters stand before this one; nothing when it need not stand in haste.
fn rank_after(core: &Core, leader: NodeId) -> Option<u32> {
    let metrics = core.raft.metrics();
    let metrics = metrics.borrow();
    let mut others: Vec<NodeId> = metrics
        .membership_config
        .voter_ids()
        .map(|voter| voter.0)
        .collect();
    others.retain(|voter| *voter != leader);
    others.sort_unstable();
    let rank = others.iter().position(|voter| *voter == core.own)?;
    u32::try_from(rank).ok().filter(|rank| *rank < IN_HASTE_MAX)
}
