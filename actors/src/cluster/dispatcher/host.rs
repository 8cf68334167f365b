//! What answers for the placed actors of a kind on a node, and for what other nodes may look at.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use troupe_protocol::cluster::Epoch;
use troupe_protocol::error::Code;
use troupe_protocol::id::NodeId;
use troupe_protocol::trace::TraceContext;
use troupe_protocol::wire;

use crate::cluster::link::{PartSender, ServiceError};
use crate::runtime::Deadline;

/// Runs the placed actors of one kind on this node. There is one for each [`EntityKind`](troupe_protocol::cluster::EntityKind).
pub trait EntityHost: Send + Sync + 'static {
    /// Answers a question to the actor with this key, which this node may act for; starts the actor if need be.
    fn ask(
        &self,
        key: String,
        question: Bytes,
        context: EntityContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>>;

    /// Membership or lease have changed. Stops what is not `owned` (drained and kept, where that is possible in a short
    /// time) and begins to start what is and must run without being asked. Ends when nothing acts any more that is not
    /// owned; it does not wait for what it starts. When things change again meanwhile, the future is dropped and another
    /// call follows. After the end of a lease everything must have stopped within 150 ms.
    fn settle(&self, epoch: Epoch, owned: Owned) -> BoxFuture<'static, ()>;

    /// How many actors of the kind run here.
    fn count(&self) -> usize;
}

/// Tells of a key whether this node may act for it.
pub type Owned = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What a question comes with.
#[derive(Debug)]
pub struct EntityContext {
    /// The node where it was asked.
    pub from: NodeId,
    /// Until when the answer is of use.
    pub deadline: Deadline,
    /// The step that asked. The task that answers is within it already.
    pub trace: Option<TraceContext>,
    /// Takes what is to be told before the answer.
    pub parts: Parts,
}

/// Nobody listens to the parts of an answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody listens to the parts of the answer any more")]
pub struct NobodyListens;

/// Where the parts of an answer go: what is told before it is complete. A plain ask ignores them.
#[derive(Debug)]
pub struct Parts(Way);

#[derive(Debug)]
enum Way {
    Nowhere,
    Here(mpsc::Sender<Bytes>),
    Link(PartSender),
}

/// How many parts may wait for a listener on the same node.
pub(in crate::cluster) const PARTS_WAITING_MAX: usize = 64;

impl Parts {
    /// Parts that nobody wants.
    pub fn ignored() -> Self {
        Self(Way::Nowhere)
    }

    /// Parts for a listener in this process; for tests of hosts.
    pub fn channel() -> (Self, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(PARTS_WAITING_MAX);
        (Self(Way::Here(sender)), receiver)
    }

    pub(in crate::cluster) fn here(parts: mpsc::Sender<Bytes>) -> Self {
        Self(Way::Here(parts))
    }

    pub(super) fn over_link(parts: PartSender) -> Self {
        Self(Way::Link(parts))
    }

    /// Sends a part; waits while too many are on their way.
    ///
    /// # Errors
    /// When nobody listens any more.
    pub async fn send_bytes(&self, part: Bytes) -> Result<(), NobodyListens> {
        match &self.0 {
            Way::Nowhere => Ok(()),
            Way::Here(sender) => sender.send(part).await.map_err(|_| NobodyListens),
            Way::Link(sender) => sender.send(part).await.map_err(|_| NobodyListens),
        }
    }

    /// Encodes and sends a part; waits while too many are on their way. A part that is too large is left out.
    ///
    /// # Errors
    /// When nobody listens any more.
    pub async fn send<P: Serialize + Sync>(&self, part: &P) -> Result<(), NobodyListens> {
        match wire::encode(part) {
            Ok(part) => self.send_bytes(part.into()).await,
            Err(error) => {
                tracing::warn!(%error, "a part of an answer is left out");
                Ok(())
            }
        }
    }
}

/// Reads a question as its host expects it.
///
/// # Errors
/// A [`ServiceError`] when the bytes are no such question.
pub fn decode<Q: DeserializeOwned>(question: &[u8]) -> Result<Q, ServiceError> {
    wire::decode(question).map_err(|error| ServiceError::new(Code::Internal, format!("question: {error}")))
}

/// The bytes of an answer.
///
/// # Errors
/// A [`ServiceError`] when the answer cannot travel.
pub fn encode<A: Serialize>(answer: &A) -> Result<Bytes, ServiceError> {
    let encoded = wire::encode(answer);
    encoded
        .map(Bytes::from)
        .map_err(|error| ServiceError::new(Code::Internal, format!("answer: {error}")))
}

/// What other nodes may look at here: the supervision tree, traces, status. One for each [`ObserveTopic`].
pub trait ObserveHost: Send + Sync + 'static {
    /// Answers another node, or this one.
    fn ask(&self, question: Bytes, context: EntityContext)
    -> BoxFuture<'static, Result<Bytes, ServiceError>>;
}

impl<F> ObserveHost for F
where
    F: Fn(Bytes, EntityContext) -> BoxFuture<'static, Result<Bytes, ServiceError>> + Send + Sync + 'static,
{
    fn ask(
        &self,
        question: Bytes,
        context: EntityContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        self(question, context)
    }
}

/// Something that a node can be asked about: one word, as `tree`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObserveTopic(Cow<'static, str>);

impl ObserveTopic {
    /// How many placed actors a node runs, a [`PlacedCounts`](crate::cluster::placement::PlacedCounts).
    pub const PLACED: Self = Self::new("placed");

    /// The topic of this name.
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    pub(super) fn from_wire(name: String) -> Self {
        Self(Cow::Owned(name))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
