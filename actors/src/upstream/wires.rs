//! What a link and its connection share: the calls, the log, and how the connection's owner hears of things.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use troupe_protocol::jsonrpc::{Kind, Message, RawReply};
use troupe_protocol::mcp::{ListKind, Profile};
use troupe_protocol::upstream::LogSource;

use super::calls::CallTable;
use super::flood::{Flood, NOTIFICATIONS_PER_SECOND_MAX, Passage};
use super::incoming::{Incoming, decide};
use super::log::LogRing;
use super::questions::{AnswerTo, Question};

/// What a server lets its client know unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Lists have changed.
    ListChanged(&'static [ListKind]),
    /// A resource has changed.
    ResourceUpdated(String),
    /// The server has forgotten the session, and with it what was subscribed to; there is a new one.
    SessionRenewed,
    /// The connection has ended by itself.
    Gone {
        /// Which.
        connection: u64,
        /// Why.
        reason: String,
    },
}

/// Hears of notices. Must not block.
pub(crate) type OnNotice = Arc<dyn Fn(Notice) + Send + Sync>;

/// What is shared by all that serve one connection.
pub(super) struct Wires {
    /// Tells this connection from the others to the same server.
    pub connection: u64,
    pub calls: Arc<CallTable>,
    pub log: Arc<LogRing>,
    /// What the clients can do for whom the connection is.
    pub profile: Profile,
    on_notice: OnNotice,
    flood: Flood,
    /// Whether a word about changed lists was among what was dropped.
    has_missed_lists: AtomicBool,
    /// Who waits to hear to which resources the server agrees, by the request's id.
    acknowledgements: Mutex<HashMap<u64, oneshot::Sender<Vec<String>>>>,
    gone: CancellationToken,
    reason: OnceLock<String>,
    /// Whether the connection is being ended on purpose: then its end is no news.
    is_closing: AtomicBool,
}

impl Wires {
    pub fn new(calls: Arc<CallTable>, log: Arc<LogRing>, on_notice: OnNotice, profile: Profile) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let connection = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            connection,
            calls,
            log,
            profile,
            on_notice,
            flood: Flood::default(),
            has_missed_lists: AtomicBool::new(false),
            acknowledgements: Mutex::default(),
            gone: CancellationToken::new(),
            reason: OnceLock::new(),
            is_closing: AtomicBool::new(false),
        })
    }

    /// Handles a message: one that came with a call (over HTTP), or on the channel that all calls share. A returned line
    /// must be sent back to the server; `answer_to` sends one that comes later.
    pub fn received(
        &self,
        message: &Message<'_>,
        call: Option<u64>,
        answer_to: impl FnOnce() -> AnswerTo,
    ) -> Option<String> {
        if message.kind == Kind::Notification && self.drops_of_flood(message) {
            return None;
        }
        self.tell_missed_lists();
        match decide(message) {
            Incoming::Response(id) => {
                // Nobody may wait any more: answers cross with cancellations.
                if let Some(reply) = reply_of(message) {
                    self.calls.complete(id, Ok(reply));
                }
            }
            Incoming::Progress(id) => self.calls.progress(id, message),
            Incoming::Answer(line) => return Some(line),
            Incoming::Question => {
                let question = Question::read(message, answer_to());
                if let Some(Err(question)) = question.map(|question| self.calls.ask(call, question)) {
                    self.log
                        .note(&format!("nobody can answer its {}", question.method));
                    question.refuse();
                }
            }
            Incoming::ListChanged(kinds) => self.notice(Notice::ListChanged(kinds)),
            Incoming::ResourceUpdated(uri) => self.notice(Notice::ResourceUpdated(uri)),
            Incoming::Log { level, text } => {
                self.log.push(LogSource::Message, level, &text);
                self.calls.forward_to_only(message);
            }
            Incoming::Acknowledged { id, resources } => {
                if let Some(waiting) = self.acknowledgements.lock().remove(&id) {
                    // Who waited may have given up at this very moment.
                    let _ = waiting.send(resources);
                }
            }
            Incoming::Other => match call {
                Some(call) => self.calls.forward(call, message),
                None => self.calls.forward_to_only(message),
            },
            Incoming::SubscriptionEnded(_) | Incoming::Ignored => {}
        }
        None
    }

    /// Whether the server says so much unasked that this is dropped. That lists have changed is not forgotten.
    fn drops_of_flood(&self, message: &Message<'_>) -> bool {
        let passage = self.flood.count();
        if passage == Passage::Passes {
            return false;
        }
        if passage == Passage::Drops {
            let note = format!(
                "it sends more than {NOTIFICATIONS_PER_SECOND_MAX} notifications within a second: the rest is dropped"
            );
            self.log.note(&note);
        }
        match decide(message) {
            Incoming::Acknowledged { .. } => false,
            Incoming::ListChanged(_) => {
                self.has_missed_lists.store(true, Ordering::Release);
                true
            }
            _ => true,
        }
    }

    /// Once a flood is over, every list may have changed.
    fn tell_missed_lists(&self) {
        if self.has_missed_lists.load(Ordering::Relaxed)
            && !self.flood.is_on()
            && self.has_missed_lists.swap(false, Ordering::AcqRel)
        {
            use ListKind::{Prompts, ResourceTemplates, Resources, Tools};
            self.notice(Notice::ListChanged(&[
                Tools,
                Resources,
                ResourceTemplates,
                Prompts,
            ]));
        }
    }

    /// To which resources the server agrees in answer to `subscriptions/listen` with this id, once it says so.
    pub fn acknowledgement(&self, id: u64) -> oneshot::Receiver<Vec<String>> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.acknowledgements.lock();
        waiting.retain(|_, sender| !sender.is_closed());
        waiting.insert(id, sender);
        receiver
    }

    /// Tells the owner.
    pub fn notice(&self, notice: Notice) {
        (self.on_notice)(notice);
    }

    /// The connection is gone: whoever waits for an answer hears of it now. Only the first reason counts.
    pub fn lost(&self, reason: &str) {
        let reason = self.log.clean(reason);
        if self.reason.set(reason.clone()).is_err() {
            return;
        }
        self.log.note(&format!("connection ended: {reason}"));
        self.gone.cancel();
        self.calls.connection_lost(self.connection, &reason);
        if !self.is_closing.load(Ordering::Acquire) {
            let connection = self.connection;
            self.notice(Notice::Gone { connection, reason });
        }
    }

    /// The connection is about to be ended on purpose: its owner need not hear of it.
    pub fn closing(&self) {
        self.is_closing.store(true, Ordering::Release);
    }

    /// Why the connection is gone.
    pub fn reason(&self) -> String {
        self.reason
            .get()
            .cloned()
            .unwrap_or_else(|| "the connection was closed".to_owned())
    }

    /// Whether the connection is gone.
    pub fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }
}

/// The reply in a response; nothing in a message that is none.
pub(super) fn reply_of(message: &Message<'_>) -> Option<RawReply> {
    let result = message.result.map(|result| RawReply::Result(result.to_owned()));
    result.or_else(|| message.error.map(|error| RawReply::Error(error.to_owned())))
}
