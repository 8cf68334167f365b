//! The log of this node: openraft, what it stores to, and what the parts of this folder share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use openraft::ServerState;
use openraft::storage::RaftLogStorage;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use troupe_protocol::cluster::{LogStatus, Membership};
use troupe_protocol::id::NodeId;

use super::alive::Alive;
use super::backup::Restores;
use super::command::Term;
use super::entries::LogEntries;
use super::error::LogError;
use super::machine::{Machine, MachineViews, number};
use super::network::Network;
use super::propose::Proposals;
use super::quorum::QuorumClock;
use super::raft::{LogSettings, Metrics, Raft, RaftNode};
use super::receive::Receiver;
use super::transport::RaftTransport;
use super::voice::{Voice, candidate_of};
use crate::store::Store;

/// Who leads, if anybody does.
pub type Leader = Option<(NodeId, Term)>;

/// What the parts of the log share.
pub(super) struct Core {
    pub(super) own: NodeId,
    pub(super) settings: LogSettings,
    pub(super) store: Store,
    pub(super) raft: Raft,
    pub(super) network: Network,
    pub(super) entries: LogEntries,
    pub(super) machine: Machine,
    pub(super) views: MachineViews,
    pub(super) proposals: Proposals,
    pub(super) restores: Restores,
    pub(super) receiver: Receiver,
    pub(super) leader: watch::Sender<Leader>,
    pub(super) reach: Mutex<Reach>,
    /// When this was opened.
    pub(super) opened_at: Instant,
    /// The leader to which the link has ended last.
    pub(super) lost_leader: watch::Sender<Option<NodeId>>,
    /// Whether this node, which leads, wants to lead no more.
    pub(super) hands_over: AtomicBool,
    pub(super) alive: Alive,
    resumed: Option<Resumed>,
}

/// A leader that was restarted before another was elected goes on in its old term. What it had committed is all in its log,
/// but up to where, is not on the disk.
#[derive(Debug, Clone, Copy)]
struct Resumed {
    term: Term,
    /// The number of the last entry that it had then.
    last: u64,
}

/// Since when there is no way to a leader.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Since when none is known.
    leaderless_since: Option<Instant>,
    /// Since when the one that is known cannot be reached from here.
    unreachable_since: Option<(NodeId, Instant)>,
    /// Since when this node leads.
    leads_since: Option<Instant>,
    /// When the leader was last heard of.
    heard_at: Option<Instant>,
}

impl Core {
    /// Opens what is on the disk and starts openraft on it. A voter that confirmed a leader before it ended has that in its
    /// vote on the disk, and openraft grants nobody the vote for `election_max_ms` from here on, as if it had just heard of
    /// that leader.
    pub(super) async fn open(
        own: NodeId,
        store: Store,
        transport: Arc<dyn RaftTransport>,
        settings: LogSettings,
    ) -> Result<Self, LogError> {
        let stopped = |error: &dyn std::error::Error| LogError::Stopped {
            reason: error.to_string(),
        };
        let opening = store.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let entries = LogEntries::open(&opening)?;
            Machine::open(&opening).map(|(machine, views)| (entries, machine, views))
        });
        let opened = opened.await.map_err(|error| stopped(&error))?;
        let (mut entries, machine, views) = opened.map_err(|error| stopped(&error))?;
        let finished = machine.finish_installing(&entries).await;
        finished.map_err(|error| stopped(&error))?;
        let vote = entries.read_vote().await.map_err(|error| stopped(&error))?;
        let state = entries.get_log_state().await.map_err(|error| stopped(&error))?;
        let led = vote.filter(|vote| vote.is_committed() && vote.leader_id.node_id.0 == own);
        let resumed = led.map(|vote| Resumed {
            term: Term(vote.leader_id.term),
            last: number(state.last_log_id.as_ref()),
        });
        let voted = vote.as_ref().map(candidate_of);
        let network = Network {
            own,
            transport,
            quorum: Arc::new(QuorumClock::new(settings.silence_before_election())),
            voters: Arc::new(ArcSwap::default()),
            voice: Arc::new(Voice::new(settings.silence_before_election(), voted)),
        };
        let config = settings.raft().map_err(|error| stopped(&error))?;
        let raft = Raft::new(
            RaftNode(own),
            config,
            network.clone(),
            entries.clone(),
            machine.clone(),
        );
        let raft = raft.await.map_err(|error| stopped(&error))?;
        Ok(Self {
            own,
            settings,
            store,
            raft,
            network,
            entries,
            machine,
            views,
            proposals: Proposals::default(),
            restores: Restores::default(),
            receiver: Receiver::default(),
            leader: watch::Sender::new(None),
            reach: Mutex::default(),
            opened_at: Instant::now(),
            lost_leader: watch::Sender::new(None),
            hands_over: AtomicBool::new(false),
            alive: Alive::default(),
            resumed,
        })
    }

    /// Makes this node, which must be fresh, the only voter of a new log.
    pub(super) async fn initialize(&self) -> Result<(), LogError> {
        let voters: BTreeSet<RaftNode> = [RaftNode(self.own)].into();
        let initialized = self
            .raft
            .is_initialized()
            .await
            .map_err(|error| self.fatal(error))?;
        if initialized {
            return Ok(());
        }
        let done = self.raft.initialize(voters).await;
        done.map_err(|error| LogError::Stopped {
            reason: error.to_string(),
        })
    }

    pub(super) fn fatal(&self, error: impl std::fmt::Display) -> LogError {
        LogError::Stopped {
            reason: error.to_string(),
        }
    }

    /// Follows openraft and publishes who leads; runs until the log stops.
    pub(super) async fn follow(&self) {
        let mut metrics = self.raft.metrics();
        loop {
            let leader = {
                let seen = metrics.borrow_and_update();
                let voters = seen.membership_config.voter_ids().map(|voter| voter.0);
                self.note_voters(voters.collect());
                self.leader_in(&seen)
            };
            self.reach.lock().note_leader(leader, self.own);
            self.leader.send_if_modified(|known| {
                let is_new = *known != leader;
                *known = leader;
                is_new
            });
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    fn note_voters(&self, voters: BTreeSet<NodeId>) {
        if **self.network.voters.load() != voters {
            self.network.voters.store(Arc::new(voters));
        }
    }

    fn leader_in(&self, metrics: &Metrics) -> Leader {
        if metrics.running_state.is_err() {
            return None;
        }
        let leader = metrics.current_leader?.0;
        let is_own_and_over = leader == self.own && metrics.state != ServerState::Leader;
        (!is_own_and_over).then_some((leader, Term(metrics.current_term)))
    }

    /// Who leads, as far as this node knows.
    pub(super) fn leader_now(&self) -> Leader {
        self.leader_in(&self.raft.metrics().borrow())
    }

    /// Up to where the log was committed at least, if this node has gone on leading since before its start.
    pub(super) fn committed_before_start(&self) -> u64 {
        let term = self.leader_now().map(|(_, term)| term);
        let resumed = self.resumed.filter(|resumed| Some(resumed.term) == term);
        resumed.map_or(0, |resumed| resumed.last)
    }

    /// Fails once this node's log has stopped.
    pub(super) fn refuse_stopped(&self) -> Result<(), LogError> {
        match &self.raft.metrics().borrow().running_state {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fatal(error)),
        }
    }

    /// When a majority last followed this node, if it leads.
    pub(super) fn quorum_at(&self) -> Option<Instant> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let groups = metrics.membership_config.membership().get_joint_config();
        let voters: Vec<BTreeSet<NodeId>> = groups
            .iter()
            .map(|group| group.iter().map(|voter| voter.0).collect())
            .collect();
        let term = Term(metrics.current_term);
        self.network
            .quorum
            .quorum_at(self.own, term, &voters, Instant::now())
    }

    /// Whether this node leads but has not heard of a majority for a while.
    pub(super) fn has_lost_quorum(&self) -> bool {
        let limit = self.settings.quorum_lost_after();
        match self.quorum_at() {
            Some(at) => at.elapsed() > limit,
            // Just elected: openraft counts the votes, the clock has seen no answer yet.
            None => self
                .reach
                .lock()
                .leads_since()
                .is_some_and(|since| since.elapsed() > limit),
        }
    }

    /// A leader that a majority follows grants nobody its vote, nor does it for a while when it has been deposed. openraft has
    /// followers refuse while they hear of a leader, and has nothing of the kind for the leader itself; with both, whoever is
    /// elected knows that no round of its predecessor began later than `election_max_ms` before.
    pub(super) fn may_vote(&self) -> bool {
        let leads = self.leader_now().is_some_and(|(leader, _)| leader == self.own);
        if leads {
            let silence = self.settings.silence_before_election();
            self.quorum_at().is_none_or(|at| at.elapsed() >= silence)
        } else {
            self.network.quorum.free_at() <= Instant::now()
        }
    }

    /// The answer to a candidate that does not get this node's vote.
    pub(super) fn refusal(&self) -> openraft::raft::VoteResponse<RaftNode> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        openraft::raft::VoteResponse::new(metrics.vote, metrics.last_applied, false)
    }

    /// Whether the leader of this term was elected by voters that had heard of no leader for a while. A voter which is the only
    /// one elects itself at once.
    pub(super) fn elected_after_silence(&self, term: Term) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let configured = &metrics.membership_config;
        let is_as_at_election = configured.log_id().is_none_or(|at| at.leader_id.term < term.0);
        is_as_at_election && configured.voter_ids().count() > 1
    }

    /// The link to a node has ended; when that node leads, another may have to.
    pub(super) fn link_ended(&self, node: NodeId) {
        if self.leader_now().is_some_and(|(leader, _)| leader == node) {
            self.lost_leader.send_replace(Some(node));
        }
    }

    pub(super) fn status(&self) -> LogStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow().clone();
        let leader = self.leader_in(&metrics);
        let leads = leader.is_some_and(|(leader, _)| leader == self.own);
        let word = if leads {
            self.quorum_at()
        } else {
            self.reach.lock().heard_at
        };
        let age = word.map_or(u64::MAX >> 11, |at| {
            u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX >> 11)
        });
        let groups = metrics.membership_config.membership().get_joint_config().iter();
        let voters = groups.map(BTreeSet::len).min().unwrap_or_default();
        LogStatus {
            term: metrics.current_term,
            leader: leader.map(|(leader, _)| leader),
            last: metrics.last_log_index.map_or(0, |index| index + 1),
            applied: *self.views.applied.borrow(),
            snapshot: number(metrics.snapshot.as_ref()),
            quorum_age_ms: age,
            voters: u32::try_from(voters).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.views.membership.borrow())
    }
}

impl Reach {
    fn note_leader(&mut self, leader: Leader, own: NodeId) {
        if leader.is_some_and(|(leader, _)| leader == own) {
            self.leads_since.get_or_insert_with(Instant::now);
        } else {
            self.leads_since = None;
        }
        match leader {
            Some((leader, _)) => {
                self.leaderless_since = None;
                if self.unreachable_since.is_some_and(|(node, _)| node != leader) {
                    self.unreachable_since = None;
                }
            }
            None => {
                self.leaderless_since.get_or_insert_with(Instant::now);
            }
        }
    }

    fn leads_since(&self) -> Option<Instant> {
        self.leads_since
    }

    /// When the leader was last heard of.
    pub(super) fn heard_at(&self) -> Option<Instant> {
        self.heard_at
    }

    /// The leader sent something.
    pub(super) fn heard(&mut self) {
        self.heard_at = Some(Instant::now());
    }

    /// The leader took or answered something.
    pub(super) fn reached(&mut self) {
        self.unreachable_since = None;
    }

    /// The leader could not be reached.
    pub(super) fn missed(&mut self, leader: NodeId) {
        match self.unreachable_since {
            Some((node, _)) if node == leader => {}
            _ => self.unreachable_since = Some((leader, Instant::now())),
        }
    }

    /// When to give up waiting for a leader that can be reached.
    pub(super) fn give_up_at(&self, wait: Duration) -> Option<Instant> {
        let unreachable = self.unreachable_since.map(|(_, since)| since);
        let since = [self.leaderless_since, unreachable].into_iter().flatten().min()?;
        Some(since + wait)
    }
}
