//! openraft's network over the transport.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::error::{
    Fatal, NetworkError, PayloadTooLarge, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable,
};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetwork, RaftNetworkFactory};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use troupe_protocol::id::NodeId;
use troupe_protocol::wire;

use super::command::Term;
use super::quorum::QuorumClock;
use super::raft::{LogId, RaftNode, Snapshot, Types, Vote};
use super::transport::{RaftTransport, TransportError};
use super::voice::{Voice, candidate_of};
use super::wire::{Append, AppendAnswer, Heartbeat, Question, SnapshotAnswer, SnapshotPart, VoteAnswer};
use crate::runtime::Deadline;

/// Learners do not elect: they need not hear several times a second that the leader lives.
const LEARNER_HEARTBEAT: Duration = Duration::from_secs(5);
/// How soon a node that could not be reached is tried again.
const RETRY_UNREACHABLE: Duration = Duration::from_millis(200);
/// The longest that entries are waited for, which a slow disk writes, before they are sent again.
const ENTRIES_WITHIN: Duration = Duration::from_secs(2);
const SNAPSHOT_PART_BYTES: usize = 128 * 1024;
const SNAPSHOT_PART_WITHIN: Duration = Duration::from_secs(5);
/// Installing replaces the whole state.
const SNAPSHOT_INSTALL_WITHIN: Duration = Duration::from_secs(60);

/// What all connections of this node share. Cheap to clone.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) own: NodeId,
    pub(super) transport: Arc<dyn RaftTransport>,
    pub(super) quorum: Arc<QuorumClock>,
    /// Who votes, as of the latest configuration this node knows.
    pub(super) voters: Arc<ArcSwap<BTreeSet<NodeId>>>,
    pub(super) voice: Arc<Voice>,
}

/// The way to one node.
pub(super) struct Connection {
    network: Network,
    to: NodeId,
    /// The last heartbeat that was answered well, and when it was sent.
    heartbeat: Option<(Heartbeat, Instant)>,
    /// Entries that were not answered yet. openraft waits for one heartbeat's time and then asks for them to be sent again:
    /// for a disk that takes longer, that would only be more to do.
    under_way: Option<UnderWay>,
}

/// Entries on their way to a node and to its disk.
struct UnderWay {
    stretch: Stretch,
    sent_at: Instant,
    /// Never locked: it makes the future shareable, as openraft wants it.
    answer: Mutex<BoxFuture<'static, Result<Bytes, TransportError>>>,
}

/// A stretch of the log, as a leader sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    term: Term,
    previous: Option<LogId>,
    last: Option<LogId>,
}

type AppendResponse = AppendEntriesResponse<RaftNode>;
/// Votes fail in the same ways.
type AppendError = RPCError<RaftNode, EmptyNode, RaftError<RaftNode>>;

/// Why a question to another log had no usable answer.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("the question cannot be sent: {0}")]
    Question(wire::WireError),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the answer cannot be read: {0}")]
    Answer(wire::WireError),
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: RaftNode, _node: &EmptyNode) -> Connection {
        Connection {
            network: self.clone(),
            to: target.0,
            heartbeat: None,
            under_way: None,
        }
    }
}

impl Connection {
    async fn ask<A: DeserializeOwned>(&self, question: &Question, deadline: Deadline) -> Result<A, AskError> {
        let request = wire::encode(question).map_err(AskError::Question)?;
        let transport = &self.network.transport;
        let answer = transport.ask(self.to, Bytes::from(request), deadline).await?;
        wire::decode(&answer).map_err(AskError::Answer)
    }

    async fn beat(
        &mut self,
        append: Append,
        heartbeat: Heartbeat,
        term: Term,
        wait: Duration,
    ) -> Result<AppendResponse, AppendError> {
        if self.is_superfluous(heartbeat) {
            return Ok(AppendEntriesResponse::Success);
        }
        let sent_at = Instant::now();
        let answer = self.ask(&Question::Append(append), Deadline::within(wait)).await;
        let AppendAnswer(answer) = answer.map_err(rpc_error)?;
        self.note(&answer, term, sent_at);
        let is_good = matches!(answer, AppendEntriesResponse::Success);
        self.heartbeat = is_good.then_some((heartbeat, sent_at));
        Ok(answer)
    }

    async fn replicate(
        &mut self,
        append: Append,
        stretch: Stretch,
        wait: Duration,
    ) -> Result<AppendResponse, AppendError> {
        self.heartbeat = None;
        let sent = self.under_way.as_ref().map(|sent| sent.stretch);
        if !sent.is_some_and(|sent| stretch.begins_with(&sent)) {
            let entries = append.entries();
            let sent = self.send(append, stretch);
            self.under_way = Some(sent.map_err(|error| send_error(error, entries))?);
        }
        let Some(sent) = &mut self.under_way else {
            return Err(rpc_error(TransportError::NotSent(String::new()).into()));
        };
        let Ok(answer) = tokio::time::timeout(wait, sent.answer.get_mut()).await else {
            let late = format!("node {} has not written it yet", self.to);
            return Err(rpc_error(TransportError::NoAnswer(late).into()));
        };
        let (beginning, sent_at) = (sent.stretch, sent.sent_at);
        self.under_way = None;
        let answer = answer.map_err(|error| rpc_error(error.into()))?;
        let decoded = wire::decode(&answer).map_err(AskError::Answer);
        let AppendAnswer(answer) = decoded.map_err(rpc_error)?;
        self.note(&answer, beginning.term, sent_at);
        Ok(stretch.answer(&beginning, answer))
    }

    fn send(&self, append: Append, stretch: Stretch) -> Result<UnderWay, AskError> {
        let request = wire::encode(&Question::Append(append)).map_err(AskError::Question)?;
        let sent_at = Instant::now();
        let within = Deadline::within(ENTRIES_WITHIN);
        let answer = self.network.transport.ask(self.to, request.into(), within);
        Ok(UnderWay {
            stretch,
            sent_at,
            answer: Mutex::new(answer),
        })
    }

    fn note(&self, answer: &AppendResponse, term: Term, sent_at: Instant) {
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            // As with signs of life: not if this node has voted for another meanwhile.
            let note = || self.network.quorum.answered(self.to, term, sent_at);
            self.network.voice.unless_voted((term, self.network.own), note);
        }
    }

    fn is_superfluous(&self, heartbeat: Heartbeat) -> bool {
        if self.network.voters.load().contains(&self.to) {
            return false;
        }
        self.heartbeat.is_some_and(|(last, at)| {
            let is_fresh = at.elapsed() < LEARNER_HEARTBEAT;
            // Behind a new way may be a new process, which knows of no leader yet.
            last == heartbeat && is_fresh && self.network.transport.is_open_since(self.to, at)
        })
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot) -> Result<Vote, AskError> {
        let number = fastrand::u64(..);
        let file = *snapshot.snapshot;
        let mut offset = 0;
        loop {
            let part = file.clone();
            let read = tokio::task::spawn_blocking(move || part.read_at(offset, SNAPSHOT_PART_BYTES));
            let bytes = read.await.map_err(std::io::Error::other).and_then(|read| read);
            let bytes = bytes.map_err(|error| TransportError::NotSent(error.to_string()))?;
            if bytes.is_empty() {
                break;
            }
            let length = bytes.len() as u64;
            let part = SnapshotPart {
                snapshot: number,
                vote,
                offset,
                bytes,
            };
            let within = Deadline::within(SNAPSHOT_PART_WITHIN);
            let answer = self.ask(&Question::SnapshotPart(part), within).await?;
            let theirs = taken(answer)?;
            if theirs > vote {
                return Ok(theirs);
            }
            offset += length;
        }
        let end = Question::SnapshotEnd {
            snapshot: number,
            vote,
            meta: snapshot.meta,
        };
        let answer = self.ask(&end, Deadline::within(SNAPSHOT_INSTALL_WITHIN)).await?;
        taken(answer)
    }
}

impl Stretch {
    fn of(rpc: &AppendEntriesRequest<Types>) -> Self {
        Self {
            term: Term(rpc.vote.leader_id.term),
            previous: rpc.prev_log_id,
            last: rpc.entries.last().map(|entry| entry.log_id),
        }
    }

    /// Whether the other is this or its beginning, so that its answer says how far this has come.
    fn begins_with(&self, other: &Self) -> bool {
        let is_same = self.term == other.term && self.previous == other.previous;
        is_same && self.last >= other.last
    }

    /// The answer to this, when its beginning, or more, was answered so.
    fn answer(&self, sent: &Self, answer: AppendResponse) -> AppendResponse {
        match answer {
            AppendEntriesResponse::Success if sent.last < self.last => {
                AppendEntriesResponse::PartialSuccess(sent.last)
            }
            AppendEntriesResponse::PartialSuccess(upto) if upto >= self.last => {
                AppendEntriesResponse::Success
            }
            answer => answer,
        }
    }
}

fn taken(answer: SnapshotAnswer) -> Result<Vote, AskError> {
    match answer {
        SnapshotAnswer::Taken { vote } => Ok(vote),
        SnapshotAnswer::Restart { reason } => Err(TransportError::Refused(reason).into()),
    }
}

impl RaftNetwork<Types> for Connection {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendResponse, AppendError> {
        let stretch = Stretch::of(&rpc);
        let append = Append::pack(rpc, self.network.own);
        match append.heartbeat() {
            Some(heartbeat) => {
                self.beat(append, heartbeat, stretch.term, option.hard_ttl())
                    .await
            }
            None => self.replicate(append, stretch, option.hard_ttl()).await,
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<RaftNode>,
        option: RPCOption,
    ) -> Result<VoteResponse<RaftNode>, RPCError<RaftNode, EmptyNode, RaftError<RaftNode>>> {
        let deadline = Deadline::within(option.hard_ttl());
        // openraft has a leader that was deposed, or is back, stand sooner than that.
        tokio::time::sleep_until(self.network.quorum.free_at()).await;
        self.network.voice.stand(candidate_of(&rpc.vote)).await;
        let answer = self.ask(&Question::Vote(rpc), deadline).await;
        let VoteAnswer(answer) = answer.map_err(rpc_error)?;
        Ok(answer)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<RaftNode>, StreamingError<Types, Fatal<RaftNode>>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            },
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_UNREACHABLE))
    }
}

/// What takes too much room is tried again with fewer entries.
fn send_error(error: AskError, entries: usize) -> AppendError {
    match error {
        AskError::Question(wire::WireError::TooLarge { .. } | wire::WireError::Encode(_)) if entries > 1 => {
            PayloadTooLarge::new_entries_hint(entries as u64 / 2).into()
        }
        error => rpc_error(error),
    }
}

/// What could not be handed over is tried again a little later, the rest at once.
fn rpc_error(error: AskError) -> AppendError {
    match error {
        AskError::Transport(TransportError::NoAnswer(_)) => NetworkError::new(&error).into(),
        error => Unreachable::new(&error).into(),
    }
}
