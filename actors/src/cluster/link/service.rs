//! Who is meant at the other end of a link, and what it implements.

use bytes::Bytes;
use futures::future::BoxFuture;
use troupe_protocol::id::NodeId;
use troupe_protocol::trace::TraceContext;

use super::error::ServiceError;
use super::stream::PartSender;
use crate::runtime::Deadline;

/// Who is meant at the other end. The numbers are part of the wire and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Service {
    /// The replicated log.
    Log = 1,
    /// Leases of the right to own placed actors.
    Lease = 2,
    /// Placed actors.
    Entity = 3,
    /// What can be seen of a node.
    Observe = 4,
    /// Measurements.
    Bench = 5,
}

/// One more than the largest number of a service.
pub(super) const SERVICES_MAX: usize = 6;

/// Under which circumstances something is asked.
#[derive(Debug)]
pub struct LinkContext {
    /// Until when the answer is of use. The handler's future is dropped then.
    pub deadline: Deadline,
    /// The request for which it is asked. What the handler sends carries it by itself.
    pub trace: Option<TraceContext>,
    /// Where to put parts before the answer.
    pub parts: PartSender,
}

/// What answers at the other end.
///
/// The future of an ask is dropped when nobody waits for its answer any more: the asker gave up, the deadline passed or
/// the link ended. Who must finish what it began hands the work to an actor.
pub trait LinkService: Send + Sync + 'static {
    /// Answers a question of another node. Must not block; long work belongs into the future.
    fn ask(
        &self,
        from: NodeId,
        request: Bytes,
        context: LinkContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>>;

    /// Takes a message of another node. Must not block: the link waits for it.
    fn tell(&self, from: NodeId, message: Bytes);
}
