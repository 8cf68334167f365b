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

use super::record::SessionRecord;
use super::refusal::Answer;
use super::session::{NewSession, Session};
use super::session_id::SessionId;
use super::state::Sessions;
use crate::cluster::ClusterHandle;
use crate::runtime::{AskError, Deadline, Mailbox, Message, Reply};
use crate::store::ReplicatedTree;

/// How long opening and closing a session may take.
const TABLE_TIME_MAX: Duration = Duration::from_secs(5);

/// What the table does.
#[derive(strum::IntoStaticStr)]
pub enum SessionMessage {
    /// A client has initialised; on a stream whose name its session is to have, if one is given.
    Open(
        Option<SessionId>,
        NewSession,
        Reply<Result<Arc<Session>, SessionError>>,
    ),
    /// A client ends its session; the reply says whether there was one.
    Close(Box<str>, Arc<str>, Reply<bool>),
    /// Work that goes on though nobody waits for it any more.
    Finish(BoxFuture<'static, ()>),
    /// Go on with sessions of which the records are known; answers those that are there now.
    Resume(Vec<(SessionId, SessionRecord)>, Reply<Vec<Arc<Session>>>),
    /// These sessions belong to other nodes now.
    Release(Vec<SessionId>, Reply<()>),
    /// Sessions may have come to this node.
    TakeOver,
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
pub(super) struct SharedSessions {
    pub(super) table: RwLock<Sessions>,
    /// The sessions as all nodes know them.
    pub(super) records: ReplicatedTree<SessionRecord>,
    pub(super) cluster: ClusterHandle,
    started: Instant,
}

impl std::fmt::Debug for SharedSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedSessions({} open)", self.table.read().len())
    }
}

impl SharedSessions {
    pub(super) fn new(
        table: Sessions,
        records: ReplicatedTree<SessionRecord>,
        cluster: ClusterHandle,
    ) -> Arc<Self> {
        Arc::new(Self {
            table: RwLock::new(table),
            records,
            cluster,
            started: Instant::now(),
        })
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A session that was found.
#[derive(Debug)]
pub struct Found {
    /// The session.
    pub session: Arc<Session>,
    /// Whether it was on another node until now: what it subscribed to there is to be subscribed to here.
    pub is_resumed: bool,
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
        let opened = self
            .mailbox
            .ask(|reply| SessionMessage::Open(None, settled, reply), deadline)
            .await;
        let session = opened??;
        if !self.is_here(session.id.as_str()) {
            // Another node has it from the next request on.
            self.keep(&session).await;
        }
        Ok(session)
    }

    /// Opens the session of a stream, and gives it the stream's name: it ends with the stream, and no other node knows of
    /// it. If there is one, that is it.
    ///
    /// # Errors
    /// If the table does not answer.
    pub async fn open_bound(&self, id: &str, settled: NewSession) -> Result<Arc<Session>, SessionError> {
        let id = SessionId::known(id);
        let deadline = Deadline::within(TABLE_TIME_MAX);
        let opened = self
            .mailbox
            .ask(|reply| SessionMessage::Open(Some(id), settled, reply), deadline);
        opened.await?
    }

    /// The session with this name, if it is this owner's and on this node; that its client is there is noted.
    ///
    /// It is taken up from its record when another node had it, and known to the other nodes when this returns.
    pub async fn find(&self, id: &str, owner: &str) -> Option<Found> {
        let known = self.shared.table.read().find(id, owner).cloned();
        let (session, is_resumed) = match known {
            Some(session) => (session, false),
            None => (self.resume(id, owner).await?, true),
        };
        session.touch(self.shared.now_ms());
        self.keep(&session).await;
        Some(Found { session, is_resumed })
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
    pub fn finish(&self, work: BoxFuture<'static, ()>) {
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
