//! Questions with parts before the answer.
//!
//! Who reads slowly slows down who sends: parts are sent against a credit of bytes that the reader gives back as it
//! consumes them. So a stream that nobody reads holds up neither the link nor other streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};
use troupe_protocol::cluster::frame::Frame;
use troupe_protocol::id::NodeId;

use super::connection::{Connection, Order, Question};
use super::error::{LinkError, ServiceError};
use super::settings::{PART_BYTES_MIN, SMALL_BYTES_MAX, STREAM_BYTES_MAX};
use crate::runtime::Deadline;

/// Bytes consumed that are given back at once.
const CREDIT_BYTES: usize = STREAM_BYTES_MAX / 4;
/// Parts of a stream within this node that wait to be read.
const LOCAL_PARTS_MAX: usize = 64;

/// What comes of a stream.
#[derive(Debug)]
pub enum StreamItem {
    /// A part; more follows.
    Part(Bytes),
    /// The answer, or why there is none; nothing follows.
    End(Result<Bytes, LinkError>),
}

/// Parts and the answer to a question, in the order in which they were sent. Dropping it cancels at the other side.
pub struct LinkStream {
    node: NodeId,
    deadline: Deadline,
    source: Source,
    has_ended: bool,
}

enum Source {
    Remote {
        items: mpsc::Receiver<StreamItem>,
        consumed_bytes: usize,
        question: Question,
    },
    Local {
        parts: mpsc::Receiver<Bytes>,
        answer: BoxFuture<'static, Result<Bytes, ServiceError>>,
        outcome: Option<Result<Bytes, ServiceError>>,
    },
}

impl std::fmt::Debug for LinkStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LinkStream(from {})", self.node)
    }
}

/// What a part counts for.
fn weight(part: &Bytes) -> usize {
    part.len().max(PART_BYTES_MIN)
}

impl LinkStream {
    pub(super) fn remote(
        node: NodeId,
        deadline: Deadline,
        question: Question,
        items: mpsc::Receiver<StreamItem>,
    ) -> Self {
        let source = Source::Remote {
            items,
            consumed_bytes: 0,
            question,
        };
        Self {
            node,
            deadline,
            source,
            has_ended: false,
        }
    }

    /// A stream from this node itself. The service works while the stream is read.
    pub(super) fn local(
        node: NodeId,
        deadline: Deadline,
        begin: impl FnOnce(PartSender) -> BoxFuture<'static, Result<Bytes, ServiceError>>,
    ) -> Self {
        let (sender, parts) = mpsc::channel(LOCAL_PARTS_MAX);
        let source = Source::Local {
            parts,
            answer: begin(PartSender(Kind::Local(sender))),
            outcome: None,
        };
        Self {
            node,
            deadline,
            source,
            has_ended: false,
        }
    }

    /// The next part, or the end. After the end it says that the stream was lost.
    pub async fn next(&mut self) -> StreamItem {
        if self.has_ended {
            return StreamItem::End(Err(LinkError::Lost { node: self.node }));
        }
        let node = self.node;
        let next = self.source.next(node);
        let item = tokio::time::timeout_at(self.deadline.instant(), next).await;
        let item = item.unwrap_or(StreamItem::End(Err(LinkError::DeadlineExceeded { node })));
        self.has_ended = matches!(item, StreamItem::End(_));
        item
    }
}

impl Source {
    async fn next(&mut self, node: NodeId) -> StreamItem {
        match self {
            Self::Remote {
                items,
                consumed_bytes,
                question,
            } => {
                let item = items.recv().await;
                let Some(StreamItem::Part(part)) = item else {
                    return item.unwrap_or_else(|| StreamItem::End(Err(question.connection().lost())));
                };
                *consumed_bytes += weight(&part);
                if *consumed_bytes >= CREDIT_BYTES {
                    question.consumed(std::mem::take(consumed_bytes));
                }
                StreamItem::Part(part)
            }
            Self::Local {
                parts,
                answer,
                outcome,
            } => {
                while outcome.is_none() {
                    tokio::select! {
                        biased;
                        Some(part) = parts.recv() => return StreamItem::Part(part),
                        answered = &mut *answer => *outcome = Some(answered),
                    }
                }
                // What was sent before the answer comes before it.
                if let Ok(part) = parts.try_recv() {
                    return StreamItem::Part(part);
                }
                let answered = outcome.take().unwrap_or_else(|| Ok(Bytes::new()));
                let _ = node;
                StreamItem::End(answered.map_err(remote_error))
            }
        }
    }
}

/// A service's error as the asker sees it.
pub(super) fn remote_error(error: ServiceError) -> LinkError {
    LinkError::Remote {
        code: error.code,
        detail: error.detail,
    }
}

/// Where the one who answers puts parts.
#[derive(Debug, Clone)]
pub struct PartSender(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Unwanted,
    Local(mpsc::Sender<Bytes>),
    Remote(Arc<RemoteParts>),
}

/// Parts for a peer.
#[derive(Debug)]
pub(super) struct RemoteParts {
    pub connection: Arc<Connection>,
    pub number: u64,
    pub credit: Arc<Semaphore>,
    /// From the first large part on, small ones must not overtake.
    pub has_sent_large: AtomicBool,
}

impl PartSender {
    /// For an asker who takes no parts; and for tests of services.
    pub fn unwanted() -> Self {
        Self(Kind::Unwanted)
    }

    pub(super) fn remote(parts: RemoteParts) -> Self {
        Self(Kind::Remote(Arc::new(parts)))
    }

    /// Whether the asker takes parts.
    pub fn is_wanted(&self) -> bool {
        !matches!(self.0, Kind::Unwanted)
    }

    /// Sends a part; waits while the asker reads more slowly. Dropped in silence when no parts are wanted.
    ///
    /// # Errors
    /// [`LinkError::TooLarge`]; [`LinkError::Unreachable`] when the link has ended.
    pub async fn send(&self, part: Bytes) -> Result<(), LinkError> {
        match &self.0 {
            Kind::Unwanted => Ok(()),
            Kind::Local(sender) => {
                let _ = sender.send(part).await; // the reader is gone: the service is about to be dropped
                Ok(())
            }
            Kind::Remote(parts) => parts.send(part).await,
        }
    }

    /// Whether what follows may overtake the parts sent so far.
    pub(super) fn order(&self) -> Order {
        match &self.0 {
            Kind::Remote(parts) if parts.has_sent_large.load(Ordering::Acquire) => Order::AfterLarge,
            _ => Order::Free,
        }
    }
}

impl RemoteParts {
    async fn send(&self, part: Bytes) -> Result<(), LinkError> {
        let bytes = weight(&part).min(STREAM_BYTES_MAX);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        match self.credit.acquire_many(permits).await {
            Ok(taken) => taken.forget(),
            Err(_) => return Err(self.connection.lost()),
        }
        let frame = Frame::Part {
            number: self.number,
            payload: &part,
        };
        if frame.bytes() > SMALL_BYTES_MAX {
            self.has_sent_large.store(true, Ordering::Release);
        }
        let is_large = self.has_sent_large.load(Ordering::Acquire);
        let order = if is_large { Order::AfterLarge } else { Order::Free };
        self.connection.send(&frame, &part, order).await
    }
}
