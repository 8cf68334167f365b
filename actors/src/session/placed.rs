//! Sessions in the cluster: each has one node, the owner of its address `session/ID`; requests that reach another are
//! handed on there (by the edge), and when that node is gone the next owner goes on from the record.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use tokio::time::{Instant, timeout};
use troupe_protocol::cluster::{Address, EntityKind, Epoch};
use troupe_protocol::error::Code;
use troupe_protocol::id::NodeId;

use super::messages::{SessionMessage, SessionsHandle, SharedSessions};
use super::record::SessionRecord;
use super::session::Session;
use super::session_id::SessionId;
use crate::cluster::dispatcher::Owned;
use crate::cluster::{EntityContext, EntityHost, Nowhere, ServiceError, Whereabouts};
use crate::runtime::{Deadline, Mailbox};

/// How long a request waits while its session moves between nodes.
const MOVE_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a request waits for its node to follow a majority again: a little longer than another leader takes.
const LEASE_WAIT_MAX: Duration = Duration::from_secs(3);
/// How long writing a session's record may hold a request up.
const KEEP_TIME_MAX: Duration = Duration::from_secs(2);
/// How soon it is tried again when it could not be written, in milliseconds.
const KEEP_AGAIN_AFTER_MS: u64 = 5_000;
/// How often a name is drawn that this node owns. Enough for clusters many times larger than there are.
const DRAWS_MAX: usize = 1_024;
/// Records removed with one write.
const REMOVED_AT_ONCE_MAX: usize = 128;

/// Which node has a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionPlace {
    /// This one.
    Here,
    /// Another.
    At(NodeId),
    /// None can be asked now.
    Nowhere(Nowhere),
}

fn address_of(id: &str) -> Address {
    Address::new(EntityKind::Session, id)
}

impl SessionsHandle {
    /// Which node has the session of this name. Waits, for a while, when that is being settled.
    pub async fn place(&self, id: &str) -> SessionPlace {
        let address = address_of(id);
        let mut epochs = self.shared.cluster.epochs();
        let began = Instant::now();
        loop {
            epochs.mark_unchanged();
            match self.shared.cluster.whereabouts(&address) {
                Whereabouts::Here(_) => return SessionPlace::Here,
                Whereabouts::At(node, _) => return SessionPlace::At(node),
                Whereabouts::Nowhere(reason) => {
                    let wait_max = match reason {
                        Nowhere::Moving => MOVE_WAIT_MAX,
                        Nowhere::NoLease => LEASE_WAIT_MAX,
                        Nowhere::NobodyUp => Duration::ZERO,
                    };
                    let changed = tokio::time::timeout_at(began + wait_max, epochs.changed());
                    if changed.await.is_err() {
                        return SessionPlace::Nowhere(reason);
                    }
                }
            }
        }
    }

    /// The epoch that this node is at, for those who compare.
    pub fn epoch(&self) -> Epoch {
        self.shared.cluster.epochs().borrow().0
    }

    /// Waits until this node is at least at this epoch; whether it came to that within a moment.
    pub async fn reaches(&self, epoch: Epoch) -> bool {
        let mut epochs = self.shared.cluster.epochs();
        let reached = epochs.wait_for(|(now, _)| *now >= epoch);
        timeout(MOVE_WAIT_MAX, reached).await.is_ok()
    }

    /// A name that this node owns, if one can be had.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn draw_id(&self) -> Result<SessionId, getrandom::Error> {
        let mut id = SessionId::random()?;
        for _ in 0..DRAWS_MAX {
            match self.shared.cluster.whereabouts(&address_of(id.as_str())) {
                Whereabouts::At(..) => id = SessionId::random()?,
                Whereabouts::Here(_) | Whereabouts::Nowhere(_) => break,
            }
        }
        Ok(id)
    }

    /// Whether another node has the session of this name, as far as is known: without a lease it is not.
    pub fn is_elsewhere(&self, id: &str) -> bool {
        matches!(
            self.shared.cluster.whereabouts(&address_of(id)),
            Whereabouts::At(..)
        )
    }

    pub(super) fn is_here(&self, id: &str) -> bool {
        matches!(
            self.shared.cluster.whereabouts(&address_of(id)),
            Whereabouts::Here(_)
        )
    }

    /// Goes on with a session from its record, if there is one and this node may.
    pub(super) async fn resume(&self, id: &str, owner: &str) -> Option<Arc<Session>> {
        if !self.is_here(id) {
            return None;
        }
        // Its former node may have been faster in writing it, or what it changed last, than this one in reading.
        let linearized = self.shared.records.linearize(Deadline::within(KEEP_TIME_MAX));
        linearized.await.ok()?;
        let record = self.record_of(id).filter(|record| record.is_of(owner))?;
        let id = SessionId::known(id);
        let resumed = self.mailbox.ask(
            |reply| SessionMessage::Resume(vec![(id, record)], reply),
            Deadline::within(KEEP_TIME_MAX),
        );
        resumed.await.ok()?.pop()
    }

    fn record_of(&self, id: &str) -> Option<SessionRecord> {
        self.shared.records.get(id).unwrap_or_else(|error| {
            tracing::warn!(%error, "a session's record cannot be read");
            None
        })
    }

    /// Has all nodes know the session as it is now, so that it outlives this one. Does nothing if they do.
    ///
    /// It is done with the best effort: where no majority can be reached the session goes on, on this node.
    pub async fn keep(&self, session: &Session) {
        let now_ms = self.shared.now_ms();
        if session.is_bound() {
            return;
        }
        if session.is_kept() || now_ms < session.keep_again_from_ms() || !self.shared.cluster.holds_lease() {
            return;
        }
        let _one_after_the_other = session.keeping.lock().await;
        let revision = session.revision();
        if session.is_kept() {
            return;
        }
        let record = SessionRecord::of(session);
        session.will_be_kept();
        let written = timeout(
            KEEP_TIME_MAX,
            self.shared.records.put(session.id.as_str(), &record),
        );
        match written.await {
            Ok(Ok(())) => session.was_kept(revision),
            failed => {
                tracing::warn!(session = ?session.id, ?failed, "the session is known to this node alone");
                session.keep_again_from(now_ms + KEEP_AGAIN_AFTER_MS);
            }
        }
    }

    /// Removes the records of sessions that are over.
    pub(super) async fn forget(&self, ids: Vec<SessionId>) {
        for some in ids.chunks(REMOVED_AT_ONCE_MAX) {
            let removed = some
                .iter()
                .map(|id| crate::store::Change::Remove(id.as_str().to_owned()));
            if let Err(error) = self.shared.records.batch(removed.collect()).await {
                // Whoever owns them next ends them when they have been idle.
                tracing::debug!(%error, sessions = some.len(), "records of ended sessions stay");
            }
        }
        self.shared.table.write().forgotten(&ids);
    }

    /// The sessions that this node owns, by their records, and does not have: taken over, but not asked for yet.
    pub(super) fn unclaimed(&self) -> Vec<(SessionId, SessionRecord)> {
        let is_unclaimed = |id: &str| self.is_here(id) && !self.shared.table.read().contains(id);
        let ids: Vec<String> = self
            .shared
            .records
            .keys()
            .filter_map(Result::ok)
            .filter(|id| is_unclaimed(id))
            .collect();
        let with_record = |id: String| Some((SessionId::known(&id), self.shared.records.get(&id).ok()??));
        ids.into_iter().filter_map(with_record).collect()
    }

    /// Lets go of sessions that belong to other nodes now.
    async fn give_away(&self, owned: &Owned) {
        // Without a lease nothing new is answered here; who has the session is known when there is one again.
        let foreign: Vec<Arc<Session>> = {
            let table = self.shared.table.read();
            table
                .all()
                .filter(|session| !owned(session.id.as_str()) && self.is_elsewhere(session.id.as_str()))
                .cloned()
                .collect()
        };
        if foreign.is_empty() {
            return;
        }
        let confirmed = foreign.iter().filter(|session| session.is_confirmed());
        join_all(confirmed.map(|session| self.keep(session))).await;
        let ids = foreign.iter().map(|session| session.id.clone()).collect();
        let released = self.mailbox.ask(
            |reply| SessionMessage::Release(ids, reply),
            Deadline::within(KEEP_TIME_MAX),
        );
        if let Err(error) = released.await {
            tracing::warn!(%error, "the session table did not answer while sessions moved away");
        }
    }
}

/// This node's part in having the cluster's sessions.
pub(super) struct SessionsHost {
    mailbox: Mailbox<SessionMessage>,
    /// The cluster holds this, and the sessions hold the cluster.
    shared: Weak<SharedSessions>,
}

impl SessionsHost {
    /// Takes the part.
    pub fn register(handle: &SessionsHandle) {
        let host = Self {
            mailbox: handle.mailbox.clone(),
            shared: Arc::downgrade(&handle.shared),
        };
        handle.shared.cluster.host(EntityKind::Session, Arc::new(host));
    }

    fn handle(&self) -> Option<SessionsHandle> {
        Some(SessionsHandle {
            mailbox: self.mailbox.clone(),
            shared: self.shared.upgrade()?,
        })
    }
}

impl EntityHost for SessionsHost {
    /// Sessions are asked by HTTP, as their clients do.
    fn ask(
        &self,
        key: String,
        _: Bytes,
        _: EntityContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        let detail = format!(
            "session {}… answers requests of its client only",
            key.get(..6).unwrap_or_default()
        );
        Box::pin(async { Err(ServiceError::new(Code::Internal, detail)) })
    }

    fn settle(&self, _: Epoch, owned: Owned) -> BoxFuture<'static, ()> {
        let handle = self.handle();
        Box::pin(async move {
            if let Some(handle) = handle {
                handle.give_away(&owned).await;
                // A refusal is on record as a dead letter; clients that come back have their sessions all the same.
                let _ = handle.mailbox.tell(SessionMessage::TakeOver);
            }
        })
    }

    fn count(&self) -> usize {
        self.shared
            .upgrade()
            .map_or(0, |shared| shared.table.read().len())
    }
}
