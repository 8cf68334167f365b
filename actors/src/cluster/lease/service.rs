//! Leases over the links.

use bytes::Bytes;
use futures::future::BoxFuture;
use troupe_protocol::error::Code;
use troupe_protocol::id::NodeId;
use troupe_protocol::wire;

use super::messages::{LeaseHandle, LeaseMessage};
use super::wire::{Notice, Renewal};
use crate::cluster::link::{LinkContext, LinkService, ServiceError};

/// Answers other nodes about leases, and takes what they tell.
pub(in crate::cluster) struct LeaseService(pub LeaseHandle);

impl LinkService for LeaseService {
    fn ask(
        &self,
        from: NodeId,
        request: Bytes,
        context: LinkContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        let lease = self.0.clone();
        Box::pin(async move {
            let refuse = |error: String| ServiceError::new(Code::Internal, format!("lease: {error}"));
            let renewal: Renewal = wire::decode(&request).map_err(|error| refuse(error.to_string()))?;
            let verdict = lease.asked(from, renewal, context.deadline).await;
            let verdict = verdict.map_err(|error| ServiceError::from(&error))?;
            let answer = wire::encode(&verdict).map_err(|error| refuse(error.to_string()))?;
            Ok(answer.into())
        })
    }

    fn tell(&self, from: NodeId, message: Bytes) {
        match wire::decode(&message) {
            Ok(Notice::Cleared(epoch)) => self.0.tell(LeaseMessage::Cleared(epoch)),
            Ok(Notice::Leaving) => self.0.tell(LeaseMessage::Left(from)),
            Err(error) => tracing::debug!(%from, %error, "a notice about leases that is none"),
        }
    }
}
