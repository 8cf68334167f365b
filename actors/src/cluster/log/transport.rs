//! How logs reach each other.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use thiserror::Error;
use tokio::time::Instant;
use troupe_protocol::id::NodeId;

use crate::runtime::Deadline;

/// Why nothing was answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TransportError {
    /// It was not handed over: there is no way to the node now, or too much is on its way already.
    #[error("cannot be reached: {0}")]
    NotSent(String),
    /// It was handed over, and nothing came back: the node may have acted on it.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// The node answered that it cannot.
    #[error("refused: {0}")]
    Refused(String),
}

/// Asks the log of another node. Between nodes these are the links; in tests a network in memory with faults.
pub trait RaftTransport: Send + Sync + 'static {
    /// Hands the request to [`LogHandle::answer`](super::LogHandle::answer) of the other node, and its answer back.
    fn ask(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Deadline,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>>;

    /// Whether the way to a node has been open without interruption since then, so that the same process answers.
    fn is_open_since(&self, to: NodeId, then: Instant) -> bool {
        let _ = to;
        then.elapsed() < UNKNOWN_WAY_TRUSTED_FOR
    }
}

/// How long a transport that does not know better takes a way for uninterrupted.
const UNKNOWN_WAY_TRUSTED_FOR: Duration = Duration::from_secs(1);

/// Reaches nobody: for a node that is alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nowhere;

impl RaftTransport for Nowhere {
    fn ask(
        &self,
        to: NodeId,
        _request: Bytes,
        _deadline: Deadline,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        Box::pin(async move {
            Err(TransportError::NotSent(format!(
                "node {to}: this node has no links"
            )))
        })
    }
}
