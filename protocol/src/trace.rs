//! Following one request through the actors.

use serde::{Deserialize, Serialize};
use ts_rs::TS;
use utoipa::ToSchema;

use crate::id::{ActorPath, CorrelationId, NodeId, SpanId};
use crate::time::Timestamp;

/// What a message carries so that the work it causes can be told apart from all other work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// The request that all this work belongs to.
    pub correlation_id: CorrelationId,
    /// The step that sent the message.
    pub span: SpanId,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[ts(export)]
pub enum Outcome {
    /// Still at it.
    Running,
    /// The handler returned.
    Done,
    /// The handler returned an error, or the step's own work failed.
    Failed {
        /// What went wrong.
        error: String,
    },
    /// The handler panicked.
    Panicked {
        /// The panic's message.
        error: String,
    },
    /// The actor was killed, or the step's task was dropped, before it ended.
    Cancelled,
    /// The deadline had passed before the handler began.
    Expired,
}

/// One step of a trace: a message waiting in a mailbox and then being handled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Span {
    /// This step.
    pub span: SpanId,
    /// The step that caused it; nothing for the first.
    pub parent: Option<SpanId>,
    /// Who did the work.
    pub actor: ActorPath,
    /// The node on which it happened; filled in where nodes are put together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub node: Option<NodeId>,
    /// The kind of actor, as `registry`.
    pub kind: String,
    /// The message, as `UserQueryReceived`.
    pub message: String,
    /// When the message was put into the mailbox.
    pub queued_at: Timestamp,
    /// How long it waited there, in microseconds.
    #[ts(type = "number")]
    pub waited_us: u64,
    /// How long it was handled, in microseconds; so far, while it runs.
    #[ts(type = "number")]
    pub handled_us: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// A step with the steps it caused, in the order in which they were queued.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct SpanTree {
    /// The step itself.
    #[serde(flatten)]
    pub span: Span,
    /// When its message was queued, in microseconds after the trace began.
    #[ts(type = "number")]
    pub offset_us: u64,
    /// What it caused.
    #[schema(no_recursion)]
    pub children: Vec<SpanTree>,
}

/// One request through all the actors it reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Trace {
    /// The request.
    pub correlation_id: CorrelationId,
    /// When it began.
    pub started_at: Timestamp,
    /// From its beginning to the end of its last step, in microseconds.
    #[ts(type = "number")]
    pub duration_us: u64,
    /// Its steps as a tree; more than one root where the first step's record is gone.
    pub roots: Vec<SpanTree>,
    /// Steps that were left out because the trace had too many.
    pub spans_dropped: u32,
    /// Nodes that were asked too and did not answer: their steps are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(optional, as = "Option<Vec<NodeId>>")]
    pub unanswered: Vec<NodeId>,
}

/// A line in the list of traces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct TraceSummary {
    /// The request.
    pub correlation_id: CorrelationId,
    /// Its first step's message, as `POST /api/v1/ask`.
    pub title: String,
    /// When it began.
    pub started_at: Timestamp,
    /// From its beginning to the end of its last step, in microseconds.
    #[ts(type = "number")]
    pub duration_us: u64,
    /// How many steps were recorded.
    pub spans: u32,
    /// Whether a step failed or panicked.
    pub failed: bool,
    /// The nodes that recorded steps; filled in where nodes are put together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(optional, as = "Option<Vec<NodeId>>")]
    pub nodes: Vec<NodeId>,
}

impl Trace {
    /// Arranges recorded steps as trees. Steps whose parent is not among them become roots.
    pub fn from_spans(correlation_id: CorrelationId, mut spans: Vec<Span>, spans_dropped: u32) -> Self {
        spans.sort_by_key(|span| span.queued_at);
        let started_at = spans
            .first()
            .map_or(Timestamp::from_unix_ms(0), |span| span.queued_at);
        let ended_us = |span: &Span| offset_us(span, started_at) + span.waited_us + span.handled_us;
        let duration_us = spans.iter().map(ended_us).max().unwrap_or(0);
        let known: std::collections::HashSet<SpanId> = spans.iter().map(|span| span.span).collect();
        let (roots, rest): (Vec<Span>, Vec<Span>) = spans
            .into_iter()
            .partition(|span| span.parent.is_none_or(|parent| !known.contains(&parent)));
        let mut children_of: std::collections::HashMap<SpanId, Vec<Span>> = std::collections::HashMap::new();
        for span in rest {
            if let Some(parent) = span.parent {
                children_of.entry(parent).or_default().push(span);
            }
        }
        let roots = roots
            .into_iter()
            .map(|span| SpanTree::grow(span, started_at, &mut children_of))
            .collect();
        Self {
            correlation_id,
            started_at,
            duration_us,
            roots,
            spans_dropped,
            unanswered: Vec::new(),
        }
    }

    /// Its steps, in no order.
    pub fn into_spans(self) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut branches = self.roots;
        while let Some(branch) = branches.pop() {
            spans.push(branch.span);
            branches.extend(branch.children);
        }
        spans
    }
}

impl SpanTree {
    fn grow(
        span: Span,
        started_at: Timestamp,
        children_of: &mut std::collections::HashMap<SpanId, Vec<Span>>,
    ) -> Self {
        let own = children_of.remove(&span.span).unwrap_or_default();
        let children = own
            .into_iter()
            .map(|child| Self::grow(child, started_at, children_of))
            .collect();
        let offset_us = offset_us(&span, started_at);
        Self {
            span,
            offset_us,
            children,
        }
    }
}

/// The wall clock travels in whole milliseconds, too coarse to order steps of microseconds; in memory it is finer.
fn offset_us(span: &Span, started_at: Timestamp) -> u64 {
    let offset_us = span.queued_at.as_jiff().as_microsecond() - started_at.as_jiff().as_microsecond();
    u64::try_from(offset_us).unwrap_or(0)
}
