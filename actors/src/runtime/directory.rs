//! Every actor of the node: reports, snapshots, commands.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::oneshot;
use tokio::time::Instant;
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::id::{ActorId, ActorPath};
use troupe_protocol::observe::{ActorCommand, ActorDetail, ActorReport, ActorTree, ExitReason, Snapshot};

use super::deadline::Deadline;
use super::mailbox::{Control, Gate};
use super::metrics::record::{Phase, Record};
use super::supervisor::SupervisorMessage;
use super::testkit::Crash;

/// Stopped actors that stay visible, so that one can see why they ended.
pub const GHOSTS_MAX: usize = 256;

/// An actor as the runtime sees it, whatever its messages are.
pub(super) trait Port: Send + Sync {
    fn record(&self) -> &Record;
    /// How many messages wait, and since when the oldest does.
    fn depth(&self) -> (u32, Option<Instant>);
    fn gate(&self) -> Gate;
    /// Tells the actor something ahead of all messages.
    fn control(&self, control: Control);
    fn set_suspended(&self, suspended: bool);
    fn drain(&self);
    fn kill(&self);
    /// The actor will not live again: refuse messages, and declare dead those that wait.
    fn close(&self);
    /// The actor will live again: let messages wait.
    fn pause_for_restart(&self);
}

impl dyn Port {
    fn report(&self) -> ActorReport {
        let (depth, oldest) = self.depth();
        self.record().report(depth, oldest, self.gate())
    }
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such actor.
    #[error("no actor {0} on this node")]
    NotFound(String),
    /// The actor has ended.
    #[error("{0} has stopped; only a restart can be asked of it, and only if its supervisor still knows it")]
    Stopped(ActorPath),
}

impl Coded for CommandError {
    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::ActorNotFound,
            Self::Stopped(_) => Code::ActorStopped,
        }
    }
}

#[derive(Default)]
struct Entries {
    ports: BTreeMap<ActorId, Arc<dyn Port>>,
    by_path: HashMap<ActorPath, ActorId>,
    ghosts: VecDeque<ActorId>,
}

/// Every actor of the node.
#[derive(Default)]
pub struct Directory {
    entries: RwLock<Entries>,
}

impl Directory {
    pub(super) fn enter(&self, port: Arc<dyn Port>) {
        let mut entries = self.entries.write();
        let (id, path) = (port.record().id, port.record().path.clone());
        let before = entries.by_path.insert(path, id);
        // A ghost makes way for a new actor at its path.
        if let Some(before) = before.filter(|before| entries.ghosts.contains(before)) {
            entries.ports.remove(&before);
            entries.ghosts.retain(|ghost| *ghost != before);
        }
        entries.ports.insert(id, port);
    }

    /// The actor has ended for good: it stays visible until enough others have ended after it.
    pub(super) fn bury(&self, id: ActorId) {
        let mut entries = self.entries.write();
        if entries.ghosts.contains(&id) {
            return;
        }
        entries.ghosts.push_back(id);
        if entries.ghosts.len() > GHOSTS_MAX
            && let Some(oldest) = entries.ghosts.pop_front()
            && let Some(port) = entries.ports.remove(&oldest)
        {
            let path = &port.record().path;
            if entries.by_path.get(path) == Some(&oldest) {
                entries.by_path.remove(path);
            }
        }
    }

    pub(super) fn revive(&self, id: ActorId) {
        self.entries.write().ghosts.retain(|ghost| *ghost != id);
    }

    fn port(&self, id: ActorId) -> Result<Arc<dyn Port>, CommandError> {
        self.entries
            .read()
            .ports
            .get(&id)
            .cloned()
            .ok_or_else(|| CommandError::NotFound(id.to_string()))
    }

    /// The actor at this path.
    pub fn find(&self, path: &ActorPath) -> Option<ActorId> {
        self.entries.read().by_path.get(path).copied()
    }

    /// How many actors there are, ghosts left out.
    pub fn len(&self) -> usize {
        let entries = self.entries.read();
        entries.ports.len() - entries.ghosts.len()
    }

    /// Whether there is no actor.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One actor's report.
    pub fn report(&self, id: ActorId) -> Option<ActorReport> {
        self.port(id).ok().map(|port| port.report())
    }

    /// Reports of all actors, by id.
    pub fn reports(&self) -> Vec<ActorReport> {
        let ports: Vec<Arc<dyn Port>> = self.entries.read().ports.values().cloned().collect();
        ports.iter().map(|port| port.report()).collect()
    }

    /// The supervision tree.
    pub fn tree(&self) -> Vec<ActorTree> {
        ActorTree::from_reports(self.reports())
    }

    /// Whether every actor below this path has rebuilt its state.
    pub fn all_started(&self) -> bool {
        let entries = self.entries.read();
        entries
            .ports
            .values()
            .all(|port| matches!(port.record().phase(), Phase::Running | Phase::Stopped))
    }

    /// Everything about one actor. Its state is asked for, but not waited for beyond the deadline.
    ///
    /// # Errors
    /// [`CommandError::NotFound`].
    pub async fn detail(&self, id: ActorId, deadline: Deadline) -> Result<ActorDetail, CommandError> {
        let port = self.port(id)?;
        let snapshot = snapshot(port.as_ref(), deadline).await;
        let record = port.record();
        let is_child = |path: &ActorPath| path.parent().as_ref() == Some(&record.path);
        let mut children: Vec<ActorPath> = self
            .entries
            .read()
            .by_path
            .keys()
            .filter(|path| is_child(path))
            .cloned()
            .collect();
        children.sort();
        Ok(ActorDetail {
            report: port.report(),
            snapshot,
            waiting_histogram: record.metrics.waiting.bars(),
            handling_histogram: record.metrics.handling.bars(),
            exits: record.exits(),
            recent: record.recent(),
            parent: record.path.parent(),
            children,
        })
    }

    /// Does something to an actor.
    ///
    /// # Errors
    /// [`CommandError`]; that the command was accepted does not mean that it has been carried out yet.
    pub fn command(&self, id: ActorId, command: ActorCommand) -> Result<(), CommandError> {
        let port = self.port(id)?;
        let record = port.record();
        tracing::info!(actor = %record.path, %command, "command");
        if record.phase() == Phase::Stopped {
            let supervisor = record
                .supervisor
                .get()
                .filter(|_| command == ActorCommand::Restart);
            let asked =
                supervisor.map(|mailbox| mailbox.tell(SupervisorMessage::StartAgain(record.path.clone())));
            return match asked {
                Some(Ok(())) => Ok(()),
                _ => Err(CommandError::Stopped(record.path.clone())),
            };
        }
        match command {
            ActorCommand::Restart => port.control(Control::Stop(ExitReason::RestartRequested)),
            ActorCommand::Suspend => port.set_suspended(true),
            ActorCommand::Resume => port.set_suspended(false),
            ActorCommand::Drain => port.drain(),
            ActorCommand::Kill => port.kill(),
        }
        Ok(())
    }

    /// Makes an actor crash as if its next handler had; for tests.
    pub(super) fn crash(&self, id: ActorId, crash: Crash) -> Result<(), CommandError> {
        self.port(id)?.control(Control::Crash(crash));
        Ok(())
    }
}

async fn snapshot(port: &dyn Port, deadline: Deadline) -> Snapshot {
    let last = || port.record().last_snapshot();
    if port.record().phase() == Phase::Stopped {
        return Snapshot::PostMortem { state: last() };
    }
    let (reply, answer) = oneshot::channel();
    port.control(Control::Snapshot(reply));
    match tokio::time::timeout_at(deadline.instant(), answer).await {
        Ok(Ok(state)) => Snapshot::Alive { state },
        Ok(Err(_)) => Snapshot::PostMortem { state: last() },
        Err(_) => Snapshot::Timeout { state: last() },
    }
}
