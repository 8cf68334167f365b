//! The log over the links between nodes.

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::Instant;
use troupe_protocol::id::NodeId;

use super::messages::LogHandle;
use super::transport::{RaftTransport, TransportError};
use crate::cluster::link::{LinkContext, LinkError, LinkService, LinksHandle, Service, ServiceError};
use crate::runtime::Deadline;

impl RaftTransport for LinksHandle {
    fn ask(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Deadline,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let links = self.clone();
        Box::pin(async move {
            let answer = Self::ask(&links, to, Service::Log, request, deadline).await;
            answer.map_err(|error| match error {
                LinkError::Unreachable { .. } | LinkError::Overloaded { .. } | LinkError::TooLarge { .. } => {
                    TransportError::NotSent(error.to_string())
                }
                LinkError::Lost { .. } | LinkError::DeadlineExceeded { .. } => {
                    TransportError::NoAnswer(error.to_string())
                }
                LinkError::Remote { .. } => TransportError::Refused(error.to_string()),
            })
        })
    }

    fn is_open_since(&self, to: NodeId, then: Instant) -> bool {
        Self::open_since(self, to).is_some_and(|since| since <= then)
    }
}

impl LinkService for LogHandle {
    fn ask(
        &self,
        from: NodeId,
        request: Bytes,
        _context: LinkContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        let log = self.clone();
        Box::pin(async move {
            let answer = log.answer(from, request).await;
            answer.map_err(|error| ServiceError::from(&error))
        })
    }

    fn tell(&self, from: NodeId, _message: Bytes) {
        tracing::debug!(%from, "the log was told something; it is only ever asked");
    }
}
