//! Signs of life between the leader and the other voters, which no disk delays.
//!
//! openraft waits for the disk with each entry and answers nothing meanwhile. On slow disks followers would not hear of
//! their leader, nor it of them: leases would run out, and voters elect others that are no quicker. So a leader asks voters
//! from which it has had no answer for a moment whether they follow it still, and those say so from memory. What such an
//! answer promises is in [`super::voice`].
//!
//! A disk that hangs is not slow: a node that openraft has kept waiting for longer than [`STUCK_AFTER`] neither asks nor
//! answers, and falls silent as if it were gone.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use troupe_protocol::id::NodeId;
use troupe_protocol::wire as encoding;

use super::command::Term;
use super::core::Core;
use super::error::LogError;
use super::stand;
use super::wire::Question;
use crate::runtime::Deadline;

/// The longest that a disk may take and count as slow.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// A question that is answered later than that is of no use any more.
const ANSWERED_WITHIN: Duration = Duration::from_millis(600);

/// What is known of this node's own liveliness.
#[derive(Debug, Default)]
pub(super) struct Alive {
    /// Since when openraft has not come to answering.
    waits_since: Mutex<Option<Instant>>,
    /// Somebody waits for a majority: it is asked now.
    urgent: Notify,
}

impl Alive {
    /// Has the voters asked now, if this node leads.
    pub(super) fn ask_now(&self) {
        self.urgent.notify_one();
    }

    fn is_stuck(&self) -> bool {
        let waits_since = *self.waits_since.lock();
        waits_since.is_some_and(|since| since.elapsed() > STUCK_AFTER)
    }
}

/// Answers whether this node follows the leader of this term, and if so, stays with it for a while.
pub(super) fn follow(core: &Core, leader: NodeId, term: Term) -> Result<Bytes, LogError> {
    let known = core.leader_now();
    let may_follow = known == Some((leader, term)) && !core.alive.is_stuck();
    if !may_follow || !core.network.voice.follow((term, leader)) {
        let leader = known.map(|(known, _)| known).filter(|known| *known != leader);
        return Err(LogError::NotLeader { leader });
    }
    core.raft.runtime_config().elect(false);
    core.reach.lock().heard();
    Ok(Bytes::new())
}

/// Asks while this node leads, and sees to the rest, until cancelled.
pub(super) async fn run(core: &Core) {
    tokio::join!(watch_openraft(core), ask_voters(core), stand_again(core));
}

async fn watch_openraft(core: &Core) {
    loop {
        *core.alive.waits_since.lock() = Some(Instant::now());
        if core.raft.with_raft_state(|_| ()).await.is_err() {
            return; // it has stopped, and this node says nothing more
        }
        *core.alive.waits_since.lock() = None;
        tokio::time::sleep(core.settings.heartbeat()).await;
    }
}

async fn ask_voters(core: &Core) {
    let mut asked = BTreeSet::new();
    let mut questions = FuturesUnordered::new();
    let mut look = tokio::time::interval(core.settings.heartbeat() / 2);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let quiet_for = tokio::select! {
            Some(voter) = questions.next(), if !questions.is_empty() => {
                asked.remove(&voter);
                continue;
            }
            () = core.alive.urgent.notified() => Duration::ZERO,
            _ = look.tick() => core.settings.heartbeat() * 2,
        };
        let Some(term) = speaks_as_leader(core) else {
            continue;
        };
        let answered_since = Instant::now() - quiet_for;
        for voter in core.network.voters.load().iter() {
            let is_quiet = !core.network.quorum.has_answered(*voter, term, answered_since);
            if *voter != core.own && is_quiet && asked.insert(*voter) {
                questions.push(ask(core, *voter, term));
            }
        }
    }
}

/// The term in which this node leads and says so.
fn speaks_as_leader(core: &Core) -> Option<Term> {
    let (leader, term) = core.leader_now()?;
    let is_silent = core.hands_over.load(Ordering::SeqCst) || core.alive.is_stuck();
    (leader == core.own && !is_silent).then_some(term)
}

async fn ask(core: &Core, voter: NodeId, term: Term) -> NodeId {
    let sent_at = Instant::now();
    if let Ok(question) = encoding::encode(&Question::Follow { term: term.0 }) {
        let within = Deadline::within(ANSWERED_WITHIN);
        let answer = core.network.transport.ask(voter, question.into(), within).await;
        if answer.is_ok() {
            // Unless this node has voted for another meanwhile.
            let note = || core.network.quorum.answered(voter, term, sent_at);
            core.network.voice.unless_voted((term, core.own), note);
        }
    }
    voter
}

/// A follower that waited for its disk seems to openraft to have heard of no leader. It may stand again when it has heard no
/// sign of life either; one voter after the other.
async fn stand_again(core: &Core) {
    loop {
        tokio::time::sleep(core.settings.heartbeat()).await;
        let free_at = core.network.voice.free_at().await;
        let later = core.leader_now().map(|(leader, _)| stand::later(core, leader));
        let may_stand = free_at.is_none_or(|at| at + later.unwrap_or_default() <= Instant::now());
        core.raft.runtime_config().elect(may_stand);
    }
}
