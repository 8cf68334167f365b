//! What is being answered for a peer.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use troupe_protocol::cluster::frame::Frame;
use troupe_protocol::error::Code;
use troupe_protocol::trace::TraceContext;

use super::connection::Connection;
use super::error::{LinkError, ServiceError};
use super::service::{LinkContext, LinkService};
use super::settings::{SERVING_BYTES_MAX, SERVING_MAX, STREAM_BYTES_MAX};
use super::stream::{PartSender, RemoteParts};
use crate::runtime::{Deadline, trace};

/// The longest text of an error that travels, in bytes.
const DETAIL_BYTES_MAX: usize = 2 * 1024;

/// A question as it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub number: u64,
    pub service: u8,
    pub wants_parts: bool,
    pub deadline_ms: u32,
    pub trace: Option<TraceContext>,
}

/// What is being answered. Its tasks end with the connection.
#[derive(Debug, Default)]
pub(super) struct Serving {
    tasks: JoinSet<()>,
    by_number: HashMap<u64, Served>,
    bytes: usize,
    has_ended: bool,
}

#[derive(Debug)]
struct Served {
    task: AbortHandle,
    credit: Option<Arc<Semaphore>>,
    request_bytes: usize,
}

impl Serving {
    /// Runs a task of the connection itself.
    pub(super) fn own(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        if !self.has_ended {
            self.tasks.spawn(task);
        }
    }

    /// The connection has ended: nobody waits any more.
    pub(super) fn abort(&mut self) {
        self.has_ended = true;
        self.tasks.abort_all();
        self.by_number.clear();
    }

    /// Nobody waits for this answer any more.
    pub(super) fn cancel(&mut self, number: u64) {
        if let Some(served) = self.done(number) {
            served.task.abort();
        }
    }

    /// The asker has consumed so many bytes of parts.
    pub(super) fn credit(&mut self, number: u64, bytes: u32) {
        let credit = self
            .by_number
            .get(&number)
            .and_then(|served| served.credit.as_ref());
        if let Some(credit) = credit {
            let used = STREAM_BYTES_MAX.saturating_sub(credit.available_permits());
            credit.add_permits(used.min(bytes as usize));
        }
    }

    fn done(&mut self, number: u64) -> Option<Served> {
        let served = self.by_number.remove(&number)?;
        self.bytes -= served.request_bytes;
        Some(served)
    }

    fn is_full(&self) -> bool {
        self.by_number.len() >= SERVING_MAX || self.bytes >= SERVING_BYTES_MAX
    }
}

impl Connection {
    /// Has a question answered: at once if the service can, else in a task of its own.
    pub(super) fn serve(self: &Arc<Self>, asked: Asked, request: Bytes) {
        let Some(handler) = self.services.get(asked.service) else {
            let detail = format!("this node has no service {} yet", asked.service);
            return self.refuse(asked.number, &ServiceError::new(Code::NodeUnreachable, detail));
        };
        if self.serving.lock().is_full() {
            let detail = format!("the node answers {SERVING_MAX} questions of this peer already");
            return self.refuse(asked.number, &ServiceError::new(Code::PeerOverloaded, detail));
        }
        let credit = asked
            .wants_parts
            .then(|| Arc::new(Semaphore::new(STREAM_BYTES_MAX)));
        let request_bytes = request.len();
        let answering = answer(Arc::clone(self), handler, asked, request, credit.clone());
        let mut answering = Box::pin(trace::within(asked.trace, answering));
        // Most answers need no waiting; a task for each would cost more than the answer. One that is not ready is polled
        // again by its task, which puts its own waker in the place of this one.
        let at_once = answering.poll_unpin(&mut Context::from_waker(Waker::noop()));
        if at_once.is_ready() {
            return;
        }
        let mut serving = self.serving.lock();
        if serving.has_ended {
            return;
        }
        while serving.tasks.try_join_next().is_some() {}
        let served = Served {
            task: serving.tasks.spawn(answering),
            credit,
            request_bytes,
        };
        serving.bytes += request_bytes;
        serving.by_number.insert(asked.number, served);
    }

    fn refuse(&self, number: u64, error: &ServiceError) {
        let mut end = error.detail.len().min(DETAIL_BYTES_MAX);
        while !error.detail.is_char_boundary(end) {
            end -= 1;
        }
        self.send_control(&Frame::Refusal {
            number,
            code: error.code as u16,
            detail: &error.detail[..end],
        });
    }
}

async fn answer(
    connection: Arc<Connection>,
    handler: Arc<dyn LinkService>,
    asked: Asked,
    request: Bytes,
    credit: Option<Arc<Semaphore>>,
) {
    let deadline = Deadline::within(Duration::from_millis(u64::from(asked.deadline_ms)));
    let parts = match credit {
        None => PartSender::unwanted(),
        Some(credit) => PartSender::remote(RemoteParts {
            connection: Arc::clone(&connection),
            number: asked.number,
            credit,
            has_sent_large: AtomicBool::new(false),
        }),
    };
    let context = LinkContext {
        deadline,
        trace: asked.trace,
        parts: parts.clone(),
    };
    let handling = async {
        let answering = async { handler.ask(connection.peer(), request, context).await };
        let answered = AssertUnwindSafe(answering).catch_unwind().await;
        let answered = answered.unwrap_or_else(|_| {
            let detail = "the service panicked while it answered".to_owned();
            Err(ServiceError::new(Code::ActorFailed, detail))
        });
        deliver(&connection, asked.number, answered, &parts).await;
    };
    // After the deadline nobody waits: the asker has given up by itself.
    let _ = tokio::time::timeout_at(deadline.instant(), handling).await;
    connection.serving.lock().done(asked.number);
}

async fn deliver(
    connection: &Connection,
    number: u64,
    answered: Result<Bytes, ServiceError>,
    parts: &PartSender,
) {
    let error = match answered {
        Err(error) => error,
        Ok(payload) => {
            let frame = Frame::Answer {
                number,
                payload: &payload,
            };
            match connection.send(&frame, &payload, parts.order()).await {
                Err(LinkError::TooLarge { bytes }) => {
                    let detail = format!("the answer has {bytes} bytes, more than a link carries");
                    ServiceError::new(Code::BodyTooLarge, detail)
                }
                _ => return,
            }
        }
    };
    if parts.order() == super::connection::Order::Free {
        return connection.refuse(number, &error);
    }
    // After large parts the error must not overtake them: it goes their way.
    let detail = Bytes::from(error.detail.clone());
    let frame = Frame::Refusal {
        number,
        code: error.code as u16,
        detail: &error.detail,
    };
    let _ = connection.send(&frame, &detail, parts.order()).await;
}
