//! The leader brings who votes, and who gets the entries, after the membership. Every node keeps its own log short.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::{ChangeMembers, EmptyNode};
use tokio::time::Instant;
use troupe_protocol::id::NodeId;

use super::command::Command;
use super::core::Core;
use super::error::LogError;
use super::raft::{Metrics, RaftNode};
use super::state::{DownSince, Situation, Step, next_step};
use super::{forward, hand_over};
use crate::runtime::Deadline;

/// How often it is looked whether anything is to be done, when nothing suggests it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest a step may take; it is tried again then.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// How long openraft may take to report what has changed.
const SETTLE: Duration = Duration::from_millis(50);
/// Who is dropped hears no more; so it is given the time to hear that it was removed, also with a slow disk.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Entries of so many bytes are worth a snapshot.
const COMPACT_EVERY_BYTES: u64 = 64 * 1024 * 1024;
/// A member that lacks no more entries than this has nearly all.
const CAUGHT_UP_ENTRIES: u64 = 200;

/// Looks and acts whenever the membership or the leader changes, and every now and then, until cancelled.
pub(super) async fn run(core: &Core) {
    let mut membership = core.views.membership.clone();
    let mut leader = core.leader.subscribe();
    let mut down = DownSince::default();
    stand_if_alone(core).await;
    loop {
        down.note(&core.membership(), Instant::now());
        let leads = core.leader_now().is_some_and(|(leader, _)| leader == core.own);
        if leads && let Some(step) = next_step(&situation(core, &down)) {
            tracing::info!(?step, "the log's configuration follows the membership");
            match carry_out(core, step).await {
                Ok(()) => {
                    tokio::time::sleep(SETTLE).await;
                    continue;
                }
                Err(error) => tracing::warn!(%error, "the log's configuration could not be changed"),
            }
        }
        compact_if_large(core).await;
        tokio::select! {
            changed = membership.changed() => if changed.is_err() { return },
            changed = leader.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// A node that votes alone need not wait whether another leads.
async fn stand_if_alone(core: &Core) {
    // openraft's metrics may not say yet who votes.
    let voters = core.raft.with_raft_state(|state| {
        let voters = state.membership_state.effective().voter_ids();
        voters.map(|voter| voter.0).collect::<Vec<NodeId>>()
    });
    let is_alone = voters.await.is_ok_and(|voters| voters == [core.own]);
    if is_alone
        && core.leader_now().is_none()
        && let Err(error) = core.raft.trigger().elect().await
    {
        tracing::warn!(%error, "the log's only voter could not stand for election");
    }
}

/// Members that have nearly all entries, as the leader knows.
pub(super) fn caught_up(metrics: &Metrics) -> BTreeSet<NodeId> {
    let last = metrics.last_log_index.unwrap_or_default();
    let has_nearly_all = |matched: u64| last.saturating_sub(matched) <= CAUGHT_UP_ENTRIES;
    let replication = metrics.replication.iter().flatten();
    let caught_up =
        replication.filter(|(_, matched)| matched.is_some_and(|matched| has_nearly_all(matched.index)));
    caught_up.map(|(node, _)| node.0).chain([metrics.id.0]).collect()
}

/// Entries are compacted after so many, or after so many bytes of them; the former by openraft itself.
async fn compact_if_large(core: &Core) {
    if core.entries.have_grown_by(COMPACT_EVERY_BYTES)
        && let Err(error) = core.raft.trigger().snapshot().await
    {
        tracing::warn!(%error, "the log could not be compacted");
    }
}

fn situation(core: &Core, down: &DownSince<Instant>) -> Situation {
    let metrics = core.raft.metrics();
    let metrics = metrics.borrow();
    let groups = metrics.membership_config.membership().get_joint_config().iter();
    let replace_after = core.settings.replace_voter_after;
    Situation {
        own: Some(core.own),
        membership: core.membership().as_ref().clone(),
        voters: groups
            .map(|group| group.iter().map(|voter| voter.0).collect())
            .collect(),
        configured: metrics
            .membership_config
            .nodes()
            .map(|(node, _)| node.0)
            .collect(),
        caught_up: caught_up(&metrics),
        long_down: down.of_which(|since| since.elapsed() >= replace_after),
        voters_max: core.settings.voters_max,
    }
}

async fn carry_out(core: &Core, step: Step) -> Result<(), LogError> {
    let change = match step {
        Step::Write(command) => {
            let deadline = Deadline::within(STEP_WITHIN);
            forward::write(core, Command::Member(command), deadline).await?;
            return Ok(());
        }
        Step::HandOver(to) => return hand_over::run(core, to, Deadline::within(STEP_WITHIN)).await,
        Step::AddLearners(nodes) => {
            let nodes = raft_nodes(nodes).into_iter();
            ChangeMembers::AddNodes(nodes.map(|node| (node, EmptyNode {})).collect())
        }
        Step::SetVoters(nodes) => ChangeMembers::ReplaceAllVoters(raft_nodes(nodes)),
        Step::Drop(nodes) => {
            tokio::time::sleep(LAST_WORDS).await;
            ChangeMembers::RemoveNodes(raft_nodes(nodes))
        }
    };
    // Former voters go on getting entries, until they are dropped.
    let changed = core.raft.change_membership(change, true);
    match tokio::time::timeout(STEP_WITHIN, changed).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(LogError::NoQuorum {
            reason: error.to_string(),
        }),
        Err(_) => Err(LogError::OutcomeUnknown {
            reason: "the configuration was not committed in time".to_owned(),
        }),
    }
}

fn raft_nodes(nodes: BTreeSet<NodeId>) -> BTreeSet<RaftNode> {
    nodes.into_iter().map(RaftNode).collect()
}
