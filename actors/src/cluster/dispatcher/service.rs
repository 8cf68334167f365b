//! Answering other nodes: questions to placed actors, and to this node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use troupe_protocol::error::Code;
use troupe_protocol::id::{ActorPath, NodeId};
use troupe_protocol::trace::{Outcome, TraceContext};

use super::host::{EntityContext, ObserveTopic, Parts};
use super::wire::{self, Head, Refusal};
use crate::cluster::handle::Shared;
use crate::cluster::link::{LinkContext, LinkService, ServiceError};
use crate::cluster::placement::{Nowhere, Whereabouts};
use crate::runtime::{Deadline, System, trace};
use troupe_protocol::cluster::Address;

/// How long another node's question waits for this node to come to its epoch, or to be allowed to act.
const PATIENCE: Duration = Duration::from_secs(2);

/// What answers on this node, and as whom it shows in traces.
#[derive(Clone)]
pub(in crate::cluster) struct Answerer {
    pub shared: Arc<Shared>,
    pub system: System,
    /// Under which name its steps are in traces.
    pub path: ActorPath,
}

/// Answers for this node's placed actors.
pub(in crate::cluster) struct EntityService(pub Answerer);

/// Answers what other nodes ask about this one.
pub(in crate::cluster) struct ObserveService(pub Answerer);

impl LinkService for EntityService {
    fn ask(
        &self,
        from: NodeId,
        request: Bytes,
        context: LinkContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        let answerer = self.0.clone();
        Box::pin(async move {
            let (head, question): (Head, Bytes) = wire::without_head(request).map_err(misunderstood)?;
            let title = format!("{}/{}", head.kind.as_str(), head.key);
            let trace = context.trace;
            let answer = serve(&answerer.shared, from, head, question, context);
            answerer.traced("entity", title, trace, answer).await
        })
    }

    fn tell(&self, from: NodeId, _message: Bytes) {
        tracing::debug!(%from, "placed actors are only ever asked");
    }
}

impl LinkService for ObserveService {
    fn ask(
        &self,
        from: NodeId,
        request: Bytes,
        context: LinkContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        let answerer = self.0.clone();
        Box::pin(async move {
            let (topic, question): (String, Bytes) = wire::without_head(request).map_err(misunderstood)?;
            let trace = context.trace;
            let context = entity_context(from, context);
            let title = topic.clone();
            let topic = ObserveTopic::from_wire(topic);
            let answer = answerer.shared.observe_here(&topic, question, context);
            answerer.traced("observe", title, trace, answer).await
        })
    }

    fn tell(&self, from: NodeId, _message: Bytes) {
        tracing::debug!(%from, "nodes are only ever asked about themselves");
    }
}

fn misunderstood(error: String) -> ServiceError {
    ServiceError::new(Code::WireVersionUnsupported, format!("not understood: {error}"))
}

fn entity_context(from: NodeId, context: LinkContext) -> EntityContext {
    EntityContext {
        from,
        deadline: context.deadline,
        trace: context.trace,
        parts: Parts::over_link(context.parts),
    }
}

impl Answerer {
    /// Shows the work for another node's request as a step of that request's trace here.
    async fn traced<T: Send>(
        &self,
        kind: &'static str,
        title: String,
        cause: Option<TraceContext>,
        work: impl Future<Output = Result<T, ServiceError>> + Send,
    ) -> Result<T, ServiceError> {
        let Some(cause) = cause else { return work.await };
        let outcome_of = |result: &Result<T, ServiceError>| match result {
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Failed {
                error: error.detail.clone(),
            },
        };
        let correlation_id = cause.correlation_id;
        let step = self
            .system
            .trace(&self.path, kind, title, correlation_id, work, outcome_of);
        trace::within(Some(cause), step).await
    }
}

async fn serve(
    shared: &Shared,
    from: NodeId,
    head: Head,
    question: Bytes,
    context: LinkContext,
) -> Result<Bytes, ServiceError> {
    let address = Address::new(head.kind, head.key);
    let patience = context.deadline.earlier(Deadline::within(PATIENCE));
    let mut epochs = shared.epochs.subscribe();
    let refusal = loop {
        epochs.mark_unchanged();
        let refusal = match shared.whereabouts(&address) {
            _ if shared.view.load().epoch() < head.epoch => Refusal::Behind,
            Whereabouts::Here(_) => match shared.hosts.get(address.kind) {
                Some(host) => {
                    let answer = host
                        .ask(address.key, question, entity_context(from, context))
                        .await?;
                    return Ok(wire::answered(&answer));
                }
                None => break Refusal::Starting,
            },
            Whereabouts::At(_, epoch) => break Refusal::Elsewhere(epoch),
            Whereabouts::Nowhere(Nowhere::NoLease | Nowhere::NobodyUp) => Refusal::NoLease,
            Whereabouts::Nowhere(Nowhere::Moving) => Refusal::Moving,
        };
        let changed = tokio::time::timeout_at(patience.instant(), epochs.changed()).await;
        if changed.is_err() {
            break refusal;
        }
    };
    wire::refused(refusal).map_err(|error| ServiceError::new(Code::Internal, error))
}
