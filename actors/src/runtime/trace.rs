//! Following one request through the actors: which step caused which, how long each waited and worked.
//!
//! The context travels by itself: [`Mailbox`](super::Mailbox) and [`Context::spawn`](super::Context::spawn) take it
//! from the task they are called in. Work without a context (timers, probes) is not recorded.

use std::collections::{HashMap, VecDeque};
use std::future::Future;

use futures::future::Either;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::Instrument;
use troupe_protocol::id::{ActorPath, CorrelationId, SpanId};
use troupe_protocol::time::Timestamp;
use troupe_protocol::trace::{Outcome, Span, Trace, TraceContext, TraceSummary};

/// Traces kept; the one begun first goes first.
pub const TRACES_MAX: usize = 1_000;
/// Steps kept of one trace; more are counted but not kept.
pub const SPANS_PER_TRACE_MAX: usize = 512;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// The step that the calling task is at, if it works for a traced request.
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(|context| *context).ok()
}

/// Runs a future as the given step, or as no step at all.
pub fn within<F: Future>(
    context: Option<TraceContext>,
    future: F,
) -> impl Future<Output = F::Output> + use<F> {
    match context {
        Some(context) => Either::Left(CURRENT.scope(context, future)),
        None => Either::Right(future),
    }
}

/// As [`within`], for what does not wait.
pub fn entered<T>(context: Option<TraceContext>, work: impl FnOnce() -> T) -> T {
    match context {
        Some(context) => CURRENT.sync_scope(context, work),
        None => work(),
    }
}

/// A correlation id that nobody has had before.
pub fn new_correlation_id() -> CorrelationId {
    CorrelationId(fastrand::u128(1..))
}

fn new_span_id() -> SpanId {
    SpanId(fastrand::u64(1..))
}

#[derive(Debug)]
struct Record {
    span: SpanId,
    parent: Option<SpanId>,
    actor: ActorPath,
    kind: &'static str,
    message: std::borrow::Cow<'static, str>,
    queued_at: Timestamp,
    waited_us: u64,
    began: Instant,
    ended: Option<(u64, Outcome)>,
}

#[derive(Debug, Default)]
struct Recorded {
    spans: Vec<Record>,
    dropped: u32,
}

#[derive(Debug, Default)]
struct Kept {
    traces: HashMap<CorrelationId, Recorded>,
    order: VecDeque<CorrelationId>,
}

/// The traces of a node.
#[derive(Debug, Default)]
pub struct TraceStore {
    kept: Mutex<Kept>,
}

/// A step that has begun. It is recorded as cancelled if it is dropped before it ended.
#[derive(Debug)]
pub struct OpenSpan<'a> {
    store: &'a TraceStore,
    context: TraceContext,
    began: Instant,
    ended: bool,
}

/// What a step is, when it begins.
pub(super) struct Step<'a> {
    pub actor: &'a ActorPath,
    pub kind: &'static str,
    pub message: std::borrow::Cow<'static, str>,
    pub waited: std::time::Duration,
}

impl TraceStore {
    /// Begins a step. `cause` is the step that sent the message.
    pub(super) fn begin(
        &self,
        correlation_id: CorrelationId,
        cause: Option<SpanId>,
        step: Step<'_>,
    ) -> OpenSpan<'_> {
        let began = Instant::now();
        let span = new_span_id();
        let waited_us = micros(step.waited);
        let queued_at =
            jiff::Timestamp::now() - jiff::SignedDuration::from_micros(waited_us.min(i64::MAX as u64) as i64);
        let record = Record {
            span,
            parent: cause,
            actor: step.actor.clone(),
            kind: step.kind,
            message: step.message,
            queued_at: queued_at.into(),
            waited_us,
            began,
            ended: None,
        };
        let mut kept = self.kept.lock();
        let Kept { traces, order } = &mut *kept;
        let recorded = traces.entry(correlation_id).or_insert_with(|| {
            order.push_back(correlation_id);
            Recorded::default()
        });
        if recorded.spans.len() < SPANS_PER_TRACE_MAX {
            recorded.spans.push(record);
        } else {
            recorded.dropped += 1;
        }
        if order.len() > TRACES_MAX
            && let Some(oldest) = order.pop_front()
        {
            traces.remove(&oldest);
        }
        drop(kept);
        OpenSpan {
            store: self,
            context: TraceContext { correlation_id, span },
            began,
            ended: false,
        }
    }

    fn end(&self, context: TraceContext, handled_us: u64, outcome: Outcome) {
        let mut kept = self.kept.lock();
        let recorded = kept.traces.get_mut(&context.correlation_id);
        let record =
            recorded.and_then(|trace| trace.spans.iter_mut().rfind(|record| record.span == context.span));
        if let Some(record) = record {
            record.ended = Some((handled_us, outcome));
        }
    }

    /// One trace, if it is still kept.
    pub fn get(&self, correlation_id: CorrelationId) -> Option<Trace> {
        let kept = self.kept.lock();
        let recorded = kept.traces.get(&correlation_id)?;
        let spans = recorded.spans.iter().map(Record::to_span).collect();
        Some(Trace::from_spans(correlation_id, spans, recorded.dropped))
    }

    /// The traces begun last, newest first.
    pub fn latest(&self, traces_max: usize) -> Vec<TraceSummary> {
        let kept = self.kept.lock();
        let newest_first = kept.order.iter().rev().take(traces_max);
        newest_first
            .filter_map(|id| kept.traces.get(id).map(|recorded| summary(*id, recorded)))
            .collect()
    }
}

fn summary(correlation_id: CorrelationId, recorded: &Recorded) -> TraceSummary {
    let first = recorded.spans.first();
    let began = first.map(|record| record.began);
    let end_us =
        |record: &Record| began.map_or(0, |began| micros(record.began - began)) + record.handled_us();
    TraceSummary {
        nodes: Vec::new(),
        correlation_id,
        title: first.map(|record| record.message.to_string()).unwrap_or_default(),
        started_at: first.map_or(Timestamp::from_unix_ms(0), |record| record.queued_at),
        duration_us: recorded.spans.iter().map(end_us).max().unwrap_or(0),
        spans: recorded.spans.len() as u32 + recorded.dropped,
        failed: recorded.spans.iter().any(Record::failed),
    }
}

impl Record {
    fn handled_us(&self) -> u64 {
        self.ended
            .as_ref()
            .map_or_else(|| micros(self.began.elapsed()), |(handled_us, _)| *handled_us)
    }

    fn failed(&self) -> bool {
        matches!(
            self.ended,
            Some((_, Outcome::Failed { .. } | Outcome::Panicked { .. }))
        )
    }

    fn to_span(&self) -> Span {
        Span {
            node: None,
            span: self.span,
            parent: self.parent,
            actor: self.actor.clone(),
            kind: self.kind.to_owned(),
            message: self.message.to_string(),
            queued_at: self.queued_at,
            waited_us: self.waited_us,
            handled_us: self.handled_us(),
            outcome: self
                .ended
                .as_ref()
                .map_or(Outcome::Running, |(_, outcome)| outcome.clone()),
        }
    }
}

impl OpenSpan<'_> {
    /// What messages sent during this step carry.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// Ends the step.
    pub fn end(mut self, outcome: Outcome) {
        self.ended = true;
        self.store
            .end(self.context, micros(self.began.elapsed()), outcome);
    }

    /// Runs a future as this step and ends the step with the outcome that the future's output has.
    pub(super) async fn run<F: Future>(
        self,
        future: F,
        outcome_of: impl FnOnce(&F::Output) -> Outcome,
    ) -> F::Output {
        let log_span = tracing::debug_span!("step", correlation_id = %self.context.correlation_id);
        let output = CURRENT.scope(self.context, future.instrument(log_span)).await;
        self.end(outcome_of(&output));
        output
    }
}

impl Drop for OpenSpan<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.store
                .end(self.context, micros(self.began.elapsed()), Outcome::Cancelled);
        }
    }
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    fn step(actor: &ActorPath) -> Step<'_> {
        Step {
            actor,
            kind: "test",
            message: "Hello".into(),
            waited: Duration::ZERO,
        }
    }

    #[test]
    fn only_the_latest_thousand_traces_are_kept() {
        let store = TraceStore::default();
        let actor = ActorPath::new("node/a");
        for id in 1..=TRACES_MAX as u128 + 1 {
            store
                .begin(CorrelationId(id), None, step(&actor))
                .end(Outcome::Done);
        }
        assert!(store.get(CorrelationId(1)).is_none());
        assert_eq!(store.latest(usize::MAX).len(), TRACES_MAX);
        assert_eq!(
            store.latest(1)[0].correlation_id,
            CorrelationId(TRACES_MAX as u128 + 1)
        );
    }

    #[test]
    fn a_dropped_step_is_cancelled_and_a_long_trace_is_cut() {
        let store = TraceStore::default();
        let actor = ActorPath::new("node/a");
        for _ in 0..SPANS_PER_TRACE_MAX + 7 {
            drop(store.begin(CorrelationId(1), None, step(&actor)));
        }
        let trace = store.get(CorrelationId(1)).unwrap();
        assert_eq!((trace.roots.len(), trace.spans_dropped), (SPANS_PER_TRACE_MAX, 7));
        assert!(
            trace
                .roots
                .iter()
                .all(|root| root.span.outcome == Outcome::Cancelled)
        );
    }
}
