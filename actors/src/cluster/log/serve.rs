//! What this node's log answers to others.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::{VoteRequest, VoteResponse};
use serde::Serialize;
use troupe_protocol::id::NodeId;
use troupe_protocol::wire as encoding;

use super::alive;
use super::command::{Request, Term};
use super::core::Core;
use super::error::LogError;
use super::machine::number;
use super::propose::Proposed;
use super::raft::RaftNode;
use super::stand;
use super::voice::candidate_of;
use super::wire::{AppendAnswer, LeaderAnswer, Question, VoteAnswer};
use crate::runtime::Deadline;

/// The longest that another node may have this one wait.
const WITHIN_MAX: Duration = Duration::from_secs(60);
/// Between two rounds to the voters that confirm a leader, when the first was not answered by a majority in time.
const CONFIRM_AGAIN: Duration = Duration::from_millis(20);

/// Answers a question of another node.
pub(super) async fn answer(core: &Core, from: NodeId, question: &[u8]) -> Result<Bytes, LogError> {
    let question: Question = encoding::decode(question).map_err(|error| LogError::Misunderstood {
        from,
        reason: error.to_string(),
    })?;
    match question {
        Question::Append(append) => {
            let taken = core.raft.append_entries(append.unpack(from)).await;
            let taken = taken.map_err(|error| core.fatal(error))?;
            core.reach.lock().heard();
            encoded(&AppendAnswer(taken))
        }
        Question::Vote(request) => {
            if request.vote.leader_id.node_id.0 != from {
                return Err(LogError::Misunderstood {
                    from,
                    reason: "it asks for votes for another node".to_owned(),
                });
            }
            encoded(&VoteAnswer(vote(core, request).await?))
        }
        Question::SnapshotPart(part) => encoded(&core.receiver.part(core, from, part).await?),
        Question::SnapshotEnd { snapshot, vote, meta } => {
            encoded(&core.receiver.end(core, from, snapshot, vote, meta).await?)
        }
        Question::Propose { requests, within_ms } => {
            encoded(&propose_all(core, requests, within(within_ms)).await)
        }
        Question::StandForElection => {
            // Whoever asks may lead no more without knowing, and another be heard.
            if stand::when_free(core, from, Duration::ZERO).await? {
                return Ok(Bytes::new());
            }
            let leader = core.leader_now().map(|(leader, _)| leader);
            Err(LogError::NotLeader { leader })
        }
        Question::Follow { term } => alive::follow(core, from, Term(term)),
        Question::ReadIndex { within_ms } => encoded(&read_index(core, within(within_ms)).await),
    }
}

async fn vote(core: &Core, request: VoteRequest<RaftNode>) -> Result<VoteResponse<RaftNode>, LogError> {
    let mut ballot = core.network.voice.ballot().await;
    if !ballot.is_free() || !core.may_vote() {
        return Ok(core.refusal());
    }
    ballot.give(candidate_of(&request.vote));
    let answer = core.raft.vote(request).await;
    let answer = answer.map_err(|error| core.fatal(error))?;
    if !answer.vote_granted {
        ballot.take_back();
    }
    Ok(answer)
}

fn within(within_ms: u64) -> Deadline {
    Deadline::within(Duration::from_millis(within_ms).min(WITHIN_MAX))
}

fn encoded<T: Serialize>(answer: &T) -> Result<Bytes, LogError> {
    let bytes = encoding::encode(answer).map_err(|error| LogError::Stopped {
        reason: error.to_string(),
    })?;
    Ok(bytes.into())
}

/// Proposes requests at this node, if it leads.
pub(super) async fn propose_all(core: &Core, requests: Vec<Request>, deadline: Deadline) -> LeaderAnswer {
    if let Err(refusal) = refuse_to_lead(core) {
        return refusal;
    }
    let proposed = requests
        .into_iter()
        .map(|request| core.proposals.propose(request));
    let proposed = futures::future::join_all(proposed);
    let Ok(proposed) = tokio::time::timeout_at(deadline.instant(), proposed).await else {
        let reason = "the entry was not committed in time".to_owned();
        return LeaderAnswer::Unknown { reason };
    };
    let mut done = Vec::with_capacity(proposed.len());
    for proposed in proposed {
        match proposed {
            Proposed::Done(number, outcome) => done.push((number, outcome)),
            Proposed::NotLeader { may: false } => {
                return LeaderAnswer::NotLeader {
                    leader: core.leader_now().map(|(leader, _)| leader),
                };
            }
            Proposed::NotLeader { may: true } => {
                let reason = "the leader stepped down".to_owned();
                return LeaderAnswer::Unknown { reason };
            }
            Proposed::Overloaded => {
                let waiting = core.proposals.waiting() as u64;
                return LeaderAnswer::Overloaded { waiting };
            }
            Proposed::Stopped(reason) => return LeaderAnswer::Stopped { reason },
        }
    }
    LeaderAnswer::Done(done)
}

fn refuse_to_lead(core: &Core) -> Result<(), LeaderAnswer> {
    if let Err(error) = core.refuse_stopped() {
        let reason = error.to_string();
        return Err(LeaderAnswer::Stopped { reason });
    }
    match core.leader_now() {
        Some((leader, _)) if leader == core.own => {
            if core.hands_over.load(Ordering::SeqCst) {
                return Err(LeaderAnswer::NotLeader { leader: None });
            }
        }
        other => {
            return Err(LeaderAnswer::NotLeader {
                leader: other.map(|(leader, _)| leader),
            });
        }
    }
    if core.has_lost_quorum() {
        let reason = "the leader hears of no majority".to_owned();
        return Err(LeaderAnswer::NoQuorum { reason });
    }
    Ok(())
}

/// Up to which entry one must have applied to see what was acknowledged before this was asked.
pub(super) async fn read_index(core: &Core, deadline: Deadline) -> LeaderAnswer {
    loop {
        if let Err(refusal) = refuse_to_lead(core) {
            return refusal;
        }
        let confirmed = tokio::time::timeout_at(deadline.instant(), core.raft.get_read_log_id()).await;
        let reason = match confirmed {
            Ok(Ok((read, _))) => {
                let read = number(read.as_ref()).max(core.committed_before_start());
                return LeaderAnswer::ReadIndex(read);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no majority answered in time".to_owned(),
        };
        if deadline.remaining() < CONFIRM_AGAIN {
            return LeaderAnswer::NoQuorum { reason };
        }
        tokio::time::sleep(CONFIRM_AGAIN).await;
    }
}

/// A majority has followed this node as leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmation {
    /// Which turn it is.
    pub term: Term,
    /// When it sent what the majority has followed: not before this was asked for.
    pub sent_at: tokio::time::Instant,
}

/// Has this node, if it leads, speak to the others now, unless it has fallen silent to lead no more.
pub(super) async fn speak(core: &Core) -> Result<(), LogError> {
    if core.hands_over.load(Ordering::SeqCst) {
        return Ok(());
    }
    core.alive.ask_now();
    let spoken = core.raft.trigger().heartbeat().await;
    spoken.map_err(|error| core.fatal(error))
}

/// Returns once a majority has followed this node in what it sent after this was called.
///
/// Waits for the answers to the heartbeats that are sent anyway, so that many nodes which ask often cost no messages.
pub(super) async fn confirm_leadership(core: &Core, deadline: Deadline) -> Result<Confirmation, LogError> {
    let asked_at = tokio::time::Instant::now();
    let mut changes = core.network.quorum.changes();
    let mut leaders = core.leader.subscribe();
    loop {
        let term = match core.leader_now() {
            Some((leader, term)) if leader == core.own => term,
            other => {
                return Err(LogError::NotLeader {
                    leader: other.map(|(leader, _)| leader),
                });
            }
        };
        let sent_at = core.quorum_at().filter(|sent_at| *sent_at > asked_at);
        let still = core.leader_now() == Some((core.own, term));
        if let Some(sent_at) = sent_at.filter(|_| still) {
            return Ok(Confirmation { term, sent_at });
        }
        let changed = async {
            tokio::select! {
                _ = changes.changed() => {}
                _ = leaders.changed() => {}
            }
        };
        if tokio::time::timeout_at(deadline.instant(), changed)
            .await
            .is_err()
        {
            let reason = "no majority answered the leader in time".to_owned();
            return Err(LogError::NoQuorum { reason });
        }
    }
}
