//! How the rest of the node uses the log.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;
use troupe_protocol::cluster::{LogStatus, Membership};
use troupe_protocol::id::NodeId;
use troupe_protocol::time::Timestamp;

use super::backup::{self, BackupHeader, Restored, Spared};
use super::command::{Command, MemberCommand, Term, Written};
use super::core::{Core, Leader};
use super::error::LogError;
use super::raft::LogSettings;
use super::serve::Confirmation;
use super::state::{self, Exchange};
use super::transport::RaftTransport;
use super::{alive, forward, hand_over, propose, reconcile, serve, stand};
use crate::runtime::Deadline;
use crate::store::replicated::LogIndex;
use crate::store::{RecordBatch, ReplicatedWrites, Store, WriteError};

/// The log of this node. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    pub(super) core: Arc<Core>,
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogHandle({})", self.core.own)
    }
}

impl LogHandle {
    /// Opens the log in this store and starts to take part. Nothing is written before [`run`](Self::run) runs, which is what
    /// the log's actor does. A fresh log belongs to no cluster: [`initialize`](Self::initialize) makes one, or a leader of
    /// another takes it in once [`MemberCommand::Add`] was written there.
    ///
    /// # Errors
    /// When what is on the disk cannot be read.
    pub async fn open(
        own: NodeId,
        store: Store,
        transport: Arc<dyn RaftTransport>,
        settings: LogSettings,
    ) -> Result<Self, LogError> {
        let core = Core::open(own, store, transport, settings).await?;
        Ok(Self { core: Arc::new(core) })
    }

    /// Makes this node the only voter of a new log. Does nothing when the log has begun already.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn initialize(&self) -> Result<(), LogError> {
        self.core.initialize().await
    }

    /// Does the log's work, until cancelled; may be run again then.
    pub async fn run(&self) {
        let core = &self.core;
        tokio::join!(
            core.follow(),
            propose::run(core),
            reconcile::run(core),
            backup::run(core),
            stand::run(core),
            alive::run(core)
        );
    }

    /// Stops taking part.
    pub async fn shut_down(&self) {
        let _ = self.core.raft.shutdown().await; // only fails when its task was cancelled
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.core.own
    }

    /// Writes a command; at any node. When this returns, a majority of the voters has it on the disk and this node has
    /// applied it.
    ///
    /// # Errors
    /// [`LogError`] says whether it may have been written all the same.
    pub async fn write(&self, command: Command, deadline: Deadline) -> Result<Written, LogError> {
        forward::write(&self.core, command, deadline).await
    }

    /// Changes the membership; as [`write`](Self::write).
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn change(&self, command: MemberCommand, deadline: Deadline) -> Result<Written, LogError> {
        self.write(Command::Member(command), deadline).await
    }

    /// Afterwards reads on this node show everything that was acknowledged anywhere before this was called. Gives the
    /// number of the entry up to which this node has applied the log at least.
    ///
    /// # Errors
    /// When no majority can be reached.
    pub async fn linearize(&self, deadline: Deadline) -> Result<u64, LogError> {
        forward::linearize(&self.core, deadline).await
    }

    /// Returns once a majority of the voters has followed this node in something that it sent after this was called: so no
    /// other node led at that moment. Takes up to a heartbeat longer than a round trip, and costs no messages.
    ///
    /// # Errors
    /// When this node does not lead, or no majority answers.
    pub async fn confirm_leadership(&self, deadline: Deadline) -> Result<Confirmation, LogError> {
        serve::confirm_leadership(&self.core, deadline).await
    }

    /// As [`confirm_leadership`](Self::confirm_leadership), within a round trip, at the cost of a heartbeat.
    ///
    /// # Errors
    /// As there.
    pub async fn confirm_leadership_now(&self, deadline: Deadline) -> Result<Confirmation, LogError> {
        serve::speak(&self.core).await?;
        serve::confirm_leadership(&self.core, deadline).await
    }

    /// Whether the leader of this term was surely elected after a silence of `election_max_ms`: no round of a leader before it
    /// began later than that before its election.
    pub fn elected_after_silence(&self, term: Term) -> bool {
        self.core.elected_after_silence(term)
    }

    /// The link to a node has ended: if it leads, it may be gone, and another should be elected as soon as voters are free
    /// to vote.
    pub fn link_ended(&self, node: NodeId) {
        self.core.link_ended(node);
    }

    /// The membership, as far as this node has applied the log.
    pub fn membership(&self) -> watch::Receiver<Arc<Membership>> {
        self.core.views.membership.clone()
    }

    /// How many entries this node has applied.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.core.views.applied.clone()
    }

    /// Who leads, as far as this node knows.
    pub fn leader(&self) -> watch::Receiver<Leader> {
        self.core.leader.subscribe()
    }

    /// How far the log is.
    pub fn status(&self) -> LogStatus {
        self.core.status()
    }

    /// Why this node's log has stopped, if it has.
    ///
    /// # Errors
    /// [`LogError::Stopped`].
    pub fn check(&self) -> Result<(), LogError> {
        self.core.refuse_stopped()
    }

    /// Makes a learner a voter, in the place of another voter when there are as many as there should be.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub async fn promote(&self, id: NodeId, deadline: Deadline) -> Result<Written, LogError> {
        let membership = self.core.membership();
        let leader = self.core.leader_now().map(|(leader, _)| leader);
        let command = state::promotion(&membership, id, leader, self.core.settings.voters_max);
        self.change(command, deadline).await
    }

    /// Makes a voter a learner; the best learner takes its place, if there is one that is up.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`MajorityNeeded`](troupe_protocol::error::Code::MajorityNeeded) for the last voter.
    pub async fn demote(&self, id: NodeId, deadline: Deadline) -> Result<Written, LogError> {
        let command = match state::demotion(&self.core.membership(), id) {
            Exchange::For(learner) => MemberCommand::Exchange { voter: id, learner },
            Exchange::Nobody => MemberCommand::SetRole {
                id,
                role: troupe_protocol::cluster::Role::Learner,
            },
        };
        self.change(command, deadline).await
    }

    /// Waits until a member whose role is that of a learner votes no more: the log's own configuration follows the roles
    /// step by step, and only as far as a majority of those who remain is there.
    ///
    /// # Errors
    /// [`LogError::VoteNeeded`] when it has a vote still at the deadline.
    pub async fn is_done_without(&self, id: NodeId, deadline: Deadline) -> Result<(), LogError> {
        let mut voters = self.core.views.voters.clone();
        let without = voters.wait_for(|voters| !voters.contains(&id));
        match tokio::time::timeout_at(deadline.instant(), without).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.core.fatal(error)),
            Err(_) => Err(LogError::VoteNeeded(id)),
        }
    }

    /// Has another voter lead, before this node stops. Does nothing when this node does not lead, or nobody else can.
    ///
    /// # Errors
    /// When no other node was elected in time.
    pub async fn step_down(&self, deadline: Deadline) -> Result<(), LogError> {
        let leads = self
            .core
            .leader_now()
            .is_some_and(|(leader, _)| leader == self.core.own);
        let caught_up = reconcile::caught_up(&self.core.raft.metrics().borrow());
        let successor = state::successor(&self.core.membership(), Some(self.core.own), &caught_up);
        match successor.filter(|_| leads) {
            Some(successor) => hand_over::run(&self.core, successor, deadline).await,
            None => Ok(()),
        }
    }

    /// Writes all records as they are at one position of the log, while everything goes on. What this node has applied is
    /// what is written; [`linearize`](Self::linearize) first to have all that was acknowledged. `authority` names the cluster.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub async fn backup<W: Write + Send + 'static>(
        &self,
        out: W,
        authority: String,
        made_at: Timestamp,
    ) -> Result<BackupHeader, LogError> {
        backup::backup(&self.core, out, authority, made_at).await
    }

    /// Makes the records of the cluster those of a backup, except those that are spared; the members stay who they are. The
    /// backup is checked before anything is written. Not one write but many, which go on when this is no longer waited for.
    ///
    /// # Errors
    /// When it is no whole backup, or a write fails.
    pub async fn restore(
        &self,
        backup: File,
        spared: Spared,
        deadline: Deadline,
    ) -> Result<Restored, LogError> {
        self.core.restores.ask(backup, spared, deadline).await
    }

    /// Answers a question of another node's log.
    ///
    /// # Errors
    /// When it is no question to a log, or this log has stopped.
    pub async fn answer(&self, from: NodeId, question: Bytes) -> Result<Bytes, LogError> {
        serve::answer(&self.core, from, &question).await
    }
}

impl ReplicatedWrites for LogHandle {
    fn write(&self, batch: RecordBatch, deadline: Deadline) -> BoxFuture<'_, Result<LogIndex, WriteError>> {
        Box::pin(async move {
            let written = forward::write(&self.core, Command::Records(batch), deadline).await?;
            Ok(LogIndex(written.index))
        })
    }

    fn linearize(&self, deadline: Deadline) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(async move {
            forward::linearize(&self.core, deadline).await?;
            Ok(())
        })
    }
}
