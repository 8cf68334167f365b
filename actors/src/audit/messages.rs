//! What the audit actor can be told, and the handle with which others record and list.

use std::borrow::Cow;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use troupe_protocol::access::{AuditEvent, AuditId, AuditOutcome, AuditPage, AuditQuery, Principal};
use troupe_protocol::time::Timestamp;
use ulid::Ulid;

use super::{AuditError, query};
use crate::runtime::{Deadline, Mailbox, Message, Reply, trace};
use crate::store::{StoreError, TypedTree};

const SUBJECT_CHARS_MAX: usize = 300;
const DETAIL_CHARS_MAX: usize = 2_000;

/// What the audit actor can be told.
#[derive(strum::IntoStaticStr)]
pub enum AuditMessage {
    /// Keep an event; its id is given when it is taken in.
    Record(Box<AuditEvent>),
    /// A batch was written, or not; the actor's own.
    Written(Result<(), StoreError>),
    /// Answer once all that was recorded before is written.
    Flush(Reply<()>),
}

impl Message for AuditMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// An event to be recorded: `NewAuditEvent::new(&principal, "server.register", "time")`, and `.failed(&error)` when it did.
///
/// Subject and detail are shortened to 300 and 2,000 characters. Never put a key, a secret or a tool's arguments into them.
#[derive(Debug, Clone)]
pub struct NewAuditEvent {
    principal: Principal,
    action: Cow<'static, str>,
    subject: String,
    outcome: AuditOutcome,
    detail: Option<String>,
}

impl NewAuditEvent {
    /// The principal did something to a subject, and succeeded.
    pub fn new(principal: &Principal, action: impl Into<Cow<'static, str>>, subject: impl Display) -> Self {
        Self {
            principal: principal.clone(),
            action: action.into(),
            subject: shorten(&subject.to_string(), SUBJECT_CHARS_MAX),
            outcome: AuditOutcome::Succeeded,
            detail: None,
        }
    }

    /// It failed, and why.
    #[must_use]
    pub fn failed(self, error: impl Display) -> Self {
        Self {
            outcome: AuditOutcome::Failed,
            ..self.detail(error)
        }
    }

    /// The principal may not do it, and why.
    #[must_use]
    pub fn refused(self, reason: impl Display) -> Self {
        Self {
            outcome: AuditOutcome::Refused,
            ..self.detail(reason)
        }
    }

    /// It was begun, and how it ended is not known; why.
    #[must_use]
    pub fn unknown(self, reason: impl Display) -> Self {
        Self {
            outcome: AuditOutcome::Unknown,
            ..self.detail(reason)
        }
    }

    /// More for a reader.
    #[must_use]
    pub fn detail(self, detail: impl Display) -> Self {
        Self {
            detail: Some(shorten(&detail.to_string(), DETAIL_CHARS_MAX)),
            ..self
        }
    }

    pub(super) fn at(self, at: Timestamp) -> AuditEvent {
        AuditEvent {
            node: None,
            id: AuditId::from_ulid(Ulid::nil()), // given by the actor, in order
            at,
            principal: self.principal.name,
            role: self.principal.role,
            action: self.action.into_owned(),
            subject: self.subject,
            outcome: self.outcome,
            correlation_id: trace::current().map(|context| context.correlation_id),
            detail: self.detail,
        }
    }
}

fn shorten(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What handle and actor count together; outlives the actor's lives.
#[derive(Debug, Default)]
pub(super) struct Counters {
    kept: AtomicU64,
    lost: AtomicU64,
}

impl Counters {
    pub(super) fn set_kept(&self, kept: u64) {
        self.kept.store(kept, Ordering::Relaxed);
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn lose(&self, events: usize, reason: &str) {
        self.lost.fetch_add(events as u64, Ordering::Relaxed);
        tracing::error!(events, reason, "audit events were lost");
    }
}

/// The way to the audit log. Cheap to clone.
#[derive(Clone)]
pub struct AuditHandle {
    mailbox: Mailbox<AuditMessage>,
    tree: TypedTree<AuditEvent>,
    counters: Arc<Counters>,
}

impl AuditHandle {
    pub(super) fn new(
        mailbox: Mailbox<AuditMessage>,
        tree: TypedTree<AuditEvent>,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            mailbox,
            tree,
            counters,
        }
    }

    /// Records an event, with the present time and trace. Never waits and never fails: an event for which there is no room
    /// is counted ([`lost`](Self::lost)) and its loss is logged.
    pub fn record(&self, event: NewAuditEvent) {
        let event = event.at(jiff::Timestamp::now().into());
        if let Err(error) = self.mailbox.tell(AuditMessage::Record(Box::new(event))) {
            self.counters.lose(1, &error.to_string());
        }
    }

    /// The newest events first. What was recorded a moment ago may not be among them yet; [`flush`](Self::flush) waits.
    ///
    /// # Errors
    /// When the limit is out of range, or the store fails.
    pub async fn list(&self, query: AuditQuery) -> Result<AuditPage, AuditError> {
        let (tree, total) = (self.tree.clone(), self.counters.kept.load(Ordering::Relaxed));
        let look_up = tokio::task::spawn_blocking(move || query::list(&tree, &query, total));
        look_up.await.map_err(|failure| AuditError::LookUp {
            reason: failure.to_string(),
        })?
    }

    /// Waits until all that was recorded before is written.
    ///
    /// # Errors
    /// When it is not by the deadline.
    pub async fn flush(&self, deadline: Deadline) -> Result<(), AuditError> {
        Ok(self.mailbox.ask(AuditMessage::Flush, deadline).await?)
    }

    /// Events that were recorded and could not be kept, since the node started.
    pub fn lost(&self) -> u64 {
        self.counters.lost()
    }
}
