//! What can be seen of an actor from outside.

use serde::{Deserialize, Serialize};
use ts_rs::TS;
use utoipa::ToSchema;

use crate::id::{ActorId, ActorPath, CorrelationId, NodeId};
use crate::time::Timestamp;

/// What an actor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, TS, ToSchema, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum ActorStatus {
    /// Rebuilding its state; messages wait.
    Starting,
    /// Waiting for a message.
    Idle,
    /// Handling a message.
    Busy,
    /// Told to pause; messages wait.
    Suspended,
    /// Finishing what is queued; new messages are refused.
    Draining,
    /// Died and waiting for its supervisor to start it again; messages wait.
    Restarting,
    /// Ended and not coming back.
    Stopped,
}

/// Why an actor ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[ts(export)]
pub enum ExitReason {
    /// Its work was done.
    Normal,
    /// Its supervisor, or an operator, told it to stop.
    Shutdown,
    /// An operator had it finish what was queued and then end; it stays ended until told otherwise.
    Drained,
    /// An operator wants it to start anew.
    RestartRequested,
    /// It was ended in the middle of its work.
    Killed,
    /// A handler returned an error.
    Failed {
        /// What went wrong.
        error: String,
    },
    /// A handler panicked.
    Panicked {
        /// The panic's message.
        error: String,
    },
    /// It could not rebuild its state.
    StartFailed {
        /// What went wrong.
        error: String,
    },
    /// A supervisor gave up: a child died more often than its restart intensity allows.
    RestartIntensityExceeded {
        /// The child that died last.
        child: ActorPath,
        /// Why it died last.
        #[schema(no_recursion)]
        reason: Box<ExitReason>,
    },
}

impl ExitReason {
    /// Whether a transient child with this exit is left alone.
    pub fn is_clean(&self) -> bool {
        matches!(self, Self::Normal | Self::Shutdown | Self::Drained)
    }
}

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Normal => f.write_str("finished"),
            Self::Shutdown => f.write_str("told to stop"),
            Self::Drained => f.write_str("drained"),
            Self::RestartRequested => f.write_str("told to restart"),
            Self::Killed => f.write_str("killed"),
            Self::Failed { error } => write!(f, "failed: {error}"),
            Self::Panicked { error } => write!(f, "panicked: {error}"),
            Self::StartFailed { error } => write!(f, "could not start: {error}"),
            Self::RestartIntensityExceeded { child, reason } => {
                write!(f, "gave up on {child}, which died too often (last: {reason})")
            }
        }
    }
}

/// How long things took, in microseconds. Percentiles are upper bounds of histogram buckets (within 19 %).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Latency {
    /// How many were measured.
    #[ts(type = "number")]
    pub count: u64,
    /// Half took no longer.
    #[ts(type = "number")]
    pub p50_us: u64,
    /// 95 of 100 took no longer.
    #[ts(type = "number")]
    pub p95_us: u64,
    /// 99 of 100 took no longer.
    #[ts(type = "number")]
    pub p99_us: u64,
    /// The longest.
    #[ts(type = "number")]
    pub max_us: u64,
}

/// One bar of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct HistogramBar {
    /// The bar counts what took at most this long, in microseconds, and longer than the bar before.
    #[ts(type = "number")]
    pub up_to_us: u64,
    /// How many.
    #[ts(type = "number")]
    pub count: u64,
}

/// The message that an actor is handling right now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct CurrentMessage {
    /// The message's name.
    pub message: String,
    /// For how long, in milliseconds.
    #[ts(type = "number")]
    pub since_ms: u64,
}

/// What is known of an actor without asking it: cheap, and there while it is busy and after it died.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ActorReport {
    /// The actor on its node.
    pub id: ActorId,
    /// The node on which it runs; filled in where nodes are put together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub node: Option<NodeId>,
    /// Where it stands in the supervision tree.
    pub path: ActorPath,
    /// Its kind, as `registry`.
    pub kind: String,
    /// Whether it supervises others.
    pub supervisor: bool,
    /// What it is doing.
    pub status: ActorStatus,
    /// The message being handled.
    pub current: Option<CurrentMessage>,
    /// Messages waiting.
    pub mailbox_depth: u32,
    /// The most that may wait; one more is answered `overloaded`.
    pub mailbox_messages_max: u32,
    /// Age of the oldest waiting message, in milliseconds.
    #[ts(type = "number | null")]
    pub oldest_waiting_ms: Option<u64>,
    /// Messages handled since the node started.
    #[ts(type = "number")]
    pub handled: u64,
    /// Messages refused because the mailbox was full.
    #[ts(type = "number")]
    pub overloaded: u64,
    /// Handlers that ended in an error or a panic.
    #[ts(type = "number")]
    pub failed: u64,
    /// Time in the mailbox.
    pub waiting: Latency,
    /// Time in the handler.
    pub handling: Latency,
    /// How often it was restarted.
    pub restarts: u32,
    /// Its last error.
    pub last_error: Option<LastError>,
    /// Why it ended last, if ever.
    pub last_exit: Option<ExitReason>,
    /// When it was first started.
    pub started_at: Timestamp,
    /// Tasks that it owns and that still run.
    pub tasks: u32,
}

/// The last thing that went wrong in an actor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct LastError {
    /// When.
    pub at: Timestamp,
    /// While handling which message.
    pub message: String,
    /// What.
    pub error: String,
}

/// An actor's own account of its state, and how fresh it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[serde(tag = "answer", rename_all = "snake_case")]
#[ts(export)]
pub enum Snapshot {
    /// The actor answered.
    Alive {
        /// Its state.
        #[ts(type = "unknown")]
        state: serde_json::Value,
    },
    /// The actor is alive but did not answer in time; its last known state, if any.
    Timeout {
        /// Its state.
        #[ts(type = "unknown")]
        state: Option<serde_json::Value>,
    },
    /// The actor is dead; its last known state, if any.
    PostMortem {
        /// Its state.
        #[ts(type = "unknown")]
        state: Option<serde_json::Value>,
    },
}

/// Everything about one actor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ActorDetail {
    /// What is known without asking.
    pub report: ActorReport,
    /// What it says of itself.
    pub snapshot: Snapshot,
    /// Time in the mailbox, as bars.
    pub waiting_histogram: Vec<HistogramBar>,
    /// Time in the handler, as bars.
    pub handling_histogram: Vec<HistogramBar>,
    /// Its last exits, newest first, at most 16.
    pub exits: Vec<ActorExit>,
    /// The messages handled last, newest first, at most 32.
    pub recent: Vec<RecentMessage>,
    /// Its supervisor.
    pub parent: Option<ActorPath>,
    /// Those it supervises.
    pub children: Vec<ActorPath>,
}

/// An actor's end, as it stays in its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ActorExit {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: ExitReason,
}

/// A message that was handled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct RecentMessage {
    /// Its name.
    pub message: String,
    /// When its handling ended.
    pub at: Timestamp,
    /// Time in the mailbox, in microseconds.
    #[ts(type = "number")]
    pub waited_us: u64,
    /// Time in the handler, in microseconds.
    #[ts(type = "number")]
    pub handled_us: u64,
    /// The request it belonged to.
    pub correlation_id: Option<CorrelationId>,
}

/// An actor with those it supervises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ActorTree {
    /// The actor.
    #[serde(flatten)]
    pub report: ActorReport,
    /// Those it supervises, by path.
    #[schema(no_recursion)]
    pub children: Vec<ActorTree>,
}

impl ActorTree {
    /// Arranges reports by their paths. Actors whose supervisor is not among them become roots.
    pub fn from_reports(mut reports: Vec<ActorReport>) -> Vec<Self> {
        // Deepest first: by the time a parent is reached, all its children have been collected.
        reports.sort_by(|a, b| {
            let depth = |report: &ActorReport| report.path.as_str().matches('/').count();
            depth(b).cmp(&depth(a)).then_with(|| a.path.cmp(&b.path))
        });
        let known: std::collections::HashSet<ActorPath> =
            reports.iter().map(|report| report.path.clone()).collect();
        let mut children_of: std::collections::HashMap<ActorPath, Vec<Self>> =
            std::collections::HashMap::new();
        let mut roots = Vec::new();
        for report in reports {
            let children = children_of.remove(&report.path).unwrap_or_default();
            let parent = report.path.parent().filter(|parent| known.contains(parent));
            let tree = Self { report, children };
            match parent {
                Some(parent) => children_of.entry(parent).or_default().push(tree),
                None => roots.push(tree),
            }
        }
        roots
    }
}

/// What can be done to an actor from outside.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema, strum::Display, strum::EnumString,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum ActorCommand {
    /// Stop after the message in hand, then start again with state rebuilt.
    Restart,
    /// Handle nothing until resumed.
    Suspend,
    /// Go on.
    Resume,
    /// Finish what is queued, accept no more, then stop.
    Drain,
    /// End it now, in the middle of its work; its supervisor decides about a restart.
    Kill,
}

/// A message that reached nobody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct DeadLetter {
    /// When.
    pub at: Timestamp,
    /// The node on which it happened; filled in where nodes are put together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub node: Option<NodeId>,
    /// To whom.
    pub actor: ActorPath,
    /// What.
    pub message: String,
    /// Why it was not delivered.
    pub reason: DeadLetterReason,
    /// The request it belonged to.
    pub correlation_id: Option<CorrelationId>,
}

/// Why a message reached nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, TS, ToSchema, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum DeadLetterReason {
    /// The mailbox was full.
    Overloaded,
    /// The actor had ended, or was draining.
    Stopped,
    /// The deadline passed while the message waited.
    Expired,
    /// The actor ended with the message still in its mailbox.
    Unhandled,
}

/// Dead letters: how many there ever were, and the latest.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct DeadLetters {
    /// Since the node started.
    #[ts(type = "number")]
    pub total: u64,
    /// The latest, newest first, at most 1,000.
    pub items: Vec<DeadLetter>,
    /// Nodes that were asked too and did not answer: what they have is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(optional, as = "Option<Vec<NodeId>>")]
    pub unanswered: Vec<NodeId>,
}
