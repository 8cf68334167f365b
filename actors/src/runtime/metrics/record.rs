//! What the runtime keeps of one actor through all its lives.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use troupe_protocol::id::{ActorId, ActorPath, CorrelationId};
use troupe_protocol::observe::{
    ActorExit, ActorReport, ActorStatus, CurrentMessage, ExitReason, LastError, RecentMessage,
};
use troupe_protocol::time::Timestamp;

use super::Metrics;
use crate::runtime::mailbox::{Gate, Mailbox};
use crate::runtime::supervisor::SupervisorMessage;

/// Exits kept of an actor.
const EXITS_MAX: usize = 16;
/// Handled messages kept of an actor.
const RECENT_MAX: usize = 32;

/// Where an actor is between its first start and its last end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Running,
    Restarting,
    Stopped,
}

#[derive(Debug, Clone, Copy)]
struct Recent {
    message: &'static str,
    ended: Instant,
    waited: Duration,
    handled: Duration,
    correlation_id: Option<CorrelationId>,
}

/// What changes with every message, behind one lock that only the actor and rare onlookers take.
#[derive(Debug, Default)]
struct Work {
    current: Option<(&'static str, Instant)>,
    recent: VecDeque<Recent>,
}

/// What changes rarely.
#[derive(Debug)]
struct Life {
    phase: Phase,
    pending_exit: Option<ExitReason>,
    exits: VecDeque<ActorExit>,
    last_error: Option<LastError>,
    last_snapshot: Option<serde_json::Value>,
}

/// What the runtime keeps of one actor.
#[derive(Debug)]
pub struct Record {
    pub id: ActorId,
    pub path: ActorPath,
    pub messages_max: u32,
    pub metrics: Metrics,
    pub tasks: AtomicU32,
    /// Kind and whether it supervises; known once it has been started.
    pub kind: OnceLock<(&'static str, bool)>,
    pub supervisor: OnceLock<Mailbox<SupervisorMessage>>,
    suspended: AtomicBool,
    started_at: Timestamp,
    work: Mutex<Work>,
    life: Mutex<Life>,
}

impl Record {
    pub fn new(id: ActorId, path: ActorPath, messages_max: u32) -> Self {
        let life = Life {
            phase: Phase::Starting,
            pending_exit: None,
            exits: VecDeque::new(),
            last_error: None,
            last_snapshot: None,
        };
        Self {
            id,
            path,
            messages_max,
            metrics: Metrics::default(),
            tasks: AtomicU32::new(0),
            kind: OnceLock::new(),
            supervisor: OnceLock::new(),
            suspended: AtomicBool::new(false),
            started_at: jiff::Timestamp::now().into(),
            work: Mutex::new(Work::default()),
            life: Mutex::new(life),
        }
    }

    pub fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    pub fn set_suspended(&self, suspended: bool) {
        self.suspended.store(suspended, Ordering::Release);
    }

    pub fn phase(&self) -> Phase {
        self.life.lock().phase
    }

    pub fn set_phase(&self, phase: Phase) {
        self.life.lock().phase = phase;
        if phase != Phase::Running {
            self.work.lock().current = None;
        }
    }

    pub fn begin_message(&self, message: &'static str, began: Instant) {
        self.work.lock().current = Some((message, began));
    }

    pub fn end_message(
        &self,
        message: &'static str,
        began: Instant,
        waited: Duration,
        correlation_id: Option<CorrelationId>,
    ) {
        let ended = Instant::now();
        let handled = ended - began;
        self.metrics.handled.fetch_add(1, Ordering::Relaxed);
        self.metrics.waiting.record(waited);
        self.metrics.handling.record(handled);
        let mut work = self.work.lock();
        work.current = None;
        if work.recent.len() == RECENT_MAX {
            work.recent.pop_back();
        }
        work.recent.push_front(Recent {
            message,
            ended,
            waited,
            handled,
            correlation_id,
        });
    }

    pub fn failed(&self, message: &'static str, error: String) {
        self.metrics.failed.fetch_add(1, Ordering::Relaxed);
        tracing::error!(actor = %self.path, message, error, "handler failed");
        let at = jiff::Timestamp::now().into();
        self.life.lock().last_error = Some(LastError {
            at,
            message: message.to_owned(),
            error,
        });
    }

    /// States why the life that is about to end does so.
    pub fn will_exit(&self, reason: ExitReason) {
        self.life.lock().pending_exit.get_or_insert(reason);
    }

    pub fn pending_exit(&self) -> Option<ExitReason> {
        self.life.lock().pending_exit.clone()
    }

    /// Notes that a life has ended and says why. A life that left no reason was killed.
    pub fn exited(&self) -> ExitReason {
        let mut life = self.life.lock();
        let reason = life.pending_exit.take().unwrap_or(ExitReason::Killed);
        if life.exits.len() == EXITS_MAX {
            life.exits.pop_back();
        }
        life.exits.push_front(ActorExit {
            at: jiff::Timestamp::now().into(),
            reason: reason.clone(),
        });
        reason
    }

    pub fn keep_snapshot(&self, snapshot: serde_json::Value) {
        self.life.lock().last_snapshot = Some(snapshot);
    }

    pub fn last_snapshot(&self) -> Option<serde_json::Value> {
        self.life.lock().last_snapshot.clone()
    }

    pub fn exits(&self) -> Vec<ActorExit> {
        self.life.lock().exits.iter().cloned().collect()
    }

    pub fn recent(&self) -> Vec<RecentMessage> {
        let now = jiff::Timestamp::now();
        let to_message = |recent: &Recent| {
            let ago = jiff::SignedDuration::try_from(recent.ended.elapsed()).unwrap_or_default();
            RecentMessage {
                message: recent.message.to_owned(),
                at: (now - ago).into(),
                waited_us: recent.waited.as_micros() as u64,
                handled_us: recent.handled.as_micros() as u64,
                correlation_id: recent.correlation_id,
            }
        };
        self.work.lock().recent.iter().map(to_message).collect()
    }

    pub fn report(&self, depth: u32, oldest: Option<Instant>, gate: Gate) -> ActorReport {
        let current = self.work.lock().current;
        let life = self.life.lock();
        let (kind, supervisor) = self.kind.get().copied().unwrap_or(("unstarted", false));
        let status = match life.phase {
            Phase::Starting => ActorStatus::Starting,
            Phase::Restarting => ActorStatus::Restarting,
            Phase::Stopped => ActorStatus::Stopped,
            Phase::Running if self.is_suspended() => ActorStatus::Suspended,
            Phase::Running if gate == Gate::Draining => ActorStatus::Draining,
            Phase::Running if current.is_some() => ActorStatus::Busy,
            Phase::Running => ActorStatus::Idle,
        };
        ActorReport {
            node: None,
            id: self.id,
            path: self.path.clone(),
            kind: kind.to_owned(),
            supervisor,
            status,
            current: current.map(|(message, since)| CurrentMessage {
                message: message.to_owned(),
                since_ms: since.elapsed().as_millis() as u64,
            }),
            mailbox_depth: depth,
            mailbox_messages_max: self.messages_max,
            oldest_waiting_ms: oldest.map(|queued_at| queued_at.elapsed().as_millis() as u64),
            handled: self.metrics.handled.load(Ordering::Relaxed),
            overloaded: self.metrics.overloaded.load(Ordering::Relaxed),
            failed: self.metrics.failed.load(Ordering::Relaxed),
            waiting: self.metrics.waiting.latency(),
            handling: self.metrics.handling.latency(),
            restarts: self.metrics.restarts.load(Ordering::Relaxed),
            last_error: life.last_error.clone(),
            last_exit: life.exits.front().map(|exit| exit.reason.clone()),
            started_at: self.started_at,
            tasks: self.tasks.load(Ordering::Relaxed),
        }
    }
}
