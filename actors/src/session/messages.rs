//! What the session table is told, and the handle with which the edge does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::RwLock;
use serde_json::Value;
use tokio::time::Instant;
use troupe_protocol::error::{Code, Coded};

use super::refusal::Answer;
use super::session::{NewSession, Session};
use super::state::Sessions;
use crate::runtime::{AskError, Deadline, Mailbox, Message, Reply};

/// How long opening and closing a session may take.
const TABLE_TIME_MAX: Duration = Duration::from_secs(5);

/// What the table does.
#[derive(strum::IntoStaticStr)]
pub enum SessionMessage {
    /// A client has initialised.
    Open(NewSession, Reply<Result<Arc<Session>, SessionError>>),
    /// A client ends its session; the reply says whether there was one.
    Close(Box<str>, Arc<str>, Reply<bool>),
    /// Work that goes on though nobody waits for it any more.
    Finish(BoxFuture<'static, ()>),
    /// Sessions may have expired.
    Sweep,
}

impl Message for SessionMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// Why a session could not be opened or closed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SessionError {
    /// The table did not answer.
    #[error("the session table is not available: {0}")]
    Table(#[from] AskError),
    /// The operating system has no random numbers.
    #[error("no unguessable session name can be made: {0}")]
    NoRandomness(String),
}

impl Coded for SessionError {
    fn code(&self) -> Code {
        match self {
            Self::Table(error) => error.code(),
            Self::NoRandomness(_) => Code::Internal,
        }
    }
}

/// The table as the actor and its handles share it: the actor alone writes, everybody reads.
///
/// It lives outside the actor so that finding a session costs no hop through a mailbox, and so that the sessions of
/// clients outlive a restart of the actor.
#[derive(Debug)]
pub(super) struct SharedSessions {
    pub(super) table: RwLock<Sessions>,
    started: Instant,
}

impl SharedSessions {
    pub(super) fn new(table: Sessions) -> Arc<Self> {
        Arc::new(Self {
            table: RwLock::new(table),
            started: Instant::now(),
        })
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Opens, finds and closes sessions.
#[derive(Clone)]
pub struct SessionsHandle {
    pub(super) mailbox: Mailbox<SessionMessage>,
    pub(super) shared: Arc<SharedSessions>,
}

impl SessionsHandle {
    /// Opens a session.
    ///
    /// # Errors
    /// If the table does not answer.
    pub async fn open(&self, settled: NewSession) -> Result<Arc<Session>, SessionError> {
        let deadline = Deadline::within(TABLE_TIME_MAX);
        self.mailbox
            .ask(|reply| SessionMessage::Open(settled, reply), deadline)
            .await?
    }

    /// The session with this name, if it is this owner's; that its client is there is noted.
    pub fn find(&self, id: &str, owner: &str) -> Option<Arc<Session>> {
        let session = self.shared.table.read().find(id, owner).cloned()?;
        session.touch(self.shared.now_ms());
        Some(session)
    }

    /// Ends a session at its client's wish. Whether there was one.
    ///
    /// # Errors
    /// If the table does not answer.
    pub async fn close(&self, id: &str, owner: &str) -> Result<bool, SessionError> {
        let deadline = Deadline::within(TABLE_TIME_MAX);
        Ok(self
            .mailbox
            .ask(
                |reply| SessionMessage::Close(id.into(), owner.into(), reply),
                deadline,
            )
            .await?)
    }

    /// A call that goes on when nobody waits for it any more: dropped before its end, it is finished by the table.
    ///
    /// A legacy client that loses its connection has not cancelled its call.
    pub fn unhurried(&self, call: BoxFuture<'static, Answer>) -> Unhurried {
        Unhurried {
            call: Some(call),
            mailbox: self.mailbox.clone(),
        }
    }

    /// Finishes work for which nobody waits any more. If the table cannot take it, it ends here.
    pub(super) fn finish(&self, work: BoxFuture<'static, ()>) {
        // A refusal is on record as a dead letter.
        let _ = self.mailbox.tell(SessionMessage::Finish(work));
    }

    /// How many sessions are open.
    pub fn open_count(&self) -> usize {
        self.shared.table.read().len()
    }

    pub(super) fn snapshot(&self) -> Value {
        let table = self.shared.table.read();
        serde_json::json!({ "open": table.len(), "counts": table.counts() })
    }
}

/// See [`SessionsHandle::unhurried`].
pub struct Unhurried {
    call: Option<BoxFuture<'static, Answer>>,
    mailbox: Mailbox<SessionMessage>,
}

impl Future for Unhurried {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let Some(call) = &mut self.call else {
            return Poll::Pending;
        };
        let polled = call.as_mut().poll(context);
        if polled.is_ready() {
            self.call = None;
        }
        polled
    }
}

impl Drop for Unhurried {
    fn drop(&mut self) {
        // A call that panicked cannot go on.
        if let Some(call) = self.call.take().filter(|_| !std::thread::panicking()) {
            // If the table cannot take it, the call ends here, as it would with the node.
            let _ = self.mailbox.tell(SessionMessage::Finish(Box::pin(async {
                let _nobody_waits = call.await;
            })));
        }
    }
}
