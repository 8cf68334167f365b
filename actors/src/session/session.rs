//! One client's legacy session, from `initialize` to DELETE, expiry or eviction.
//!
//! It is shared: the table keeps it, and each request and stream that belongs to it holds it while it runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::{ClientCapabilities, LogLevel, Profile, ProtocolVersion};

use super::endpoint::Endpoint;
use super::notices::{NoticeFeed, Notices};
use super::record::SessionRecord;
use super::replay::{EventId, NotKept, Replay, ReplayBudget, Replayed, StreamNumber};
use super::session_id::SessionId;
use crate::upstream::Watch;

/// The most questions of servers that one client may have before it at the same time.
const QUESTIONS_MAX: usize = 64;
/// How long the former stream of a session may take to give its notices back.
const FEED_WAIT_MAX: Duration = Duration::from_secs(1);
/// The most resources that one session may be subscribed to.
pub const SUBSCRIPTIONS_MAX: usize = 1_024;
/// The longest address of one of them.
pub const SUBSCRIPTION_URI_BYTES_MAX: usize = 8 * 1_024;
/// The most calls that one session may have in flight.
pub const CALLS_IN_FLIGHT_MAX: usize = 1_024;

/// What `initialize` settled.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Whose session it is: the id of the caller's key. Nobody else can use it.
    pub owner: Arc<str>,
    /// Where it was opened. It is unknown everywhere else.
    pub endpoint: Endpoint,
    /// The revision both sides speak.
    pub protocol_version: ProtocolVersion,
    /// The client's capabilities, as it wrote them.
    pub client_capabilities: ClientCapabilities,
    /// The client's name and version, for the console; at most 200 characters.
    pub client: Arc<str>,
}

/// An open session.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// What `initialize` settled.
    pub settled: NewSession,
    /// What the client can do for servers, in short.
    pub(super) profile: Profile,
    /// Whether it is one with its stream: no other node could go on with it.
    is_bound: bool,
    last_used_ms: AtomicU64,
    is_confirmed: AtomicBool,
    streams_open: AtomicU32,
    stream: Mutex<CancellationToken>,
    calls: Mutex<Calls>,
    /// The addresses of the resources whose changes the client wants to hear of.
    subscriptions: Mutex<HashMap<String, Option<Watch>>>,
    questions: Mutex<Questions>,
    /// A part of the questions' ids: while the session moves, two nodes ask.
    asking_node: u32,
    /// From which level on the client wants log messages, if it has said so.
    log_level: Mutex<Option<LogLevel>>,
    /// What its streams carried.
    replay: Mutex<Replay>,
    /// Tells those who read a stream again that there is more.
    kept_more: Notify,
    /// The notices for its stream, held by whoever writes that.
    feed: Mutex<Option<Arc<tokio::sync::Mutex<Option<Notices>>>>>,
    ended: CancellationToken,
    /// Counts what other nodes should know of.
    revision: AtomicU64,
    /// The revision that they know of.
    kept: AtomicU64,
    /// Whether they may know of any.
    has_record: AtomicBool,
    keep_again_from_ms: AtomicU64,
    /// Held while they are being told.
    pub(super) keeping: tokio::sync::Mutex<()>,
}

/// What the client was asked and has not answered, by the id of the request (as JSON text).
#[derive(Debug, Default)]
struct Questions {
    open: HashMap<Box<str>, oneshot::Sender<RawReply>>,
    next_number: u64,
}

/// The calls in flight, by the id that the client gave them (as JSON text).
#[derive(Debug, Default)]
struct Calls {
    cancels: HashMap<Box<str>, (u64, CancellationToken)>,
    next_number: u64,
}

impl Session {
    pub(super) fn new(id: SessionId, settled: NewSession, now_ms: u64) -> Self {
        Self {
            id,
            profile: Profile::of(&settled.client_capabilities),
            settled,
            is_bound: false,
            last_used_ms: now_ms.into(),
            is_confirmed: false.into(),
            streams_open: 0.into(),
            stream: Mutex::default(),
            calls: Mutex::default(),
            subscriptions: Mutex::default(),
            questions: Mutex::default(),
            asking_node: fastrand::u32(..),
            log_level: Mutex::default(),
            replay: Mutex::new(Replay::new(fastrand::u32(..), Arc::default())),
            kept_more: Notify::new(),
            feed: Mutex::default(),
            ended: CancellationToken::new(),
            revision: 1.into(),
            kept: 0.into(),
            has_record: false.into(),
            keep_again_from_ms: 0.into(),
            keeping: tokio::sync::Mutex::default(),
        }
    }

    /// A session that another node had, from its record.
    pub(super) fn resumed(id: SessionId, record: SessionRecord, now_ms: u64) -> Self {
        let (settled, subscriptions) = record.into_parts();
        let session = Self::new(id, settled, now_ms);
        *session.subscriptions.lock() = subscriptions.into_iter().map(|uri| (uri, None)).collect();
        session.touch(now_ms);
        session.will_be_kept();
        session.was_kept(1);
        session
    }

    /// The same, keeping events within what all sessions may keep together.
    pub(super) fn within(mut self, budget: &Arc<ReplayBudget>) -> Self {
        self.replay = Mutex::new(Replay::new(fastrand::u32(..), Arc::clone(budget)));
        self
    }

    /// The same, one with its stream.
    pub(super) fn bound(self) -> Self {
        Self {
            is_bound: true,
            ..self
        }
    }

    /// Whether it is one with its stream.
    pub(super) fn is_bound(&self) -> bool {
        self.is_bound
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Whether all nodes know the session as it is.
    pub(super) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Acquire) >= self.revision()
    }

    /// Whether other nodes may know of the session, if not as it is.
    pub(super) fn has_record(&self) -> bool {
        self.has_record.load(Ordering::Acquire)
    }

    /// Other nodes are about to be told, which may succeed though nothing is heard of it.
    pub(super) fn will_be_kept(&self) {
        self.has_record.store(true, Ordering::Release);
    }

    pub(super) fn was_kept(&self, revision: u64) {
        self.kept.fetch_max(revision, Ordering::AcqRel);
    }

    pub(super) fn keep_again_from_ms(&self) -> u64 {
        self.keep_again_from_ms.load(Ordering::Relaxed)
    }

    pub(super) fn keep_again_from(&self, at_ms: u64) {
        self.keep_again_from_ms.store(at_ms, Ordering::Relaxed);
    }

    /// Notes that the client is there.
    pub(super) fn touch(&self, now_ms: u64) {
        self.last_used_ms.fetch_max(now_ms, Ordering::Relaxed);
        self.is_confirmed.store(true, Ordering::Relaxed);
    }

    pub(super) fn last_used_ms(&self) -> u64 {
        self.last_used_ms.load(Ordering::Relaxed)
    }

    /// Whether the client came back after `initialize`.
    pub(super) fn is_confirmed(&self) -> bool {
        self.is_confirmed.load(Ordering::Relaxed)
    }

    /// Whether a stream is open or a call in flight: then the session is not idle, however long it says nothing.
    pub(super) fn is_busy(&self) -> bool {
        self.streams_open.load(Ordering::Relaxed) > 0 || !self.calls.lock().cancels.is_empty()
    }

    /// Ends it: its streams close and its calls are cancelled.
    pub(super) fn end(&self) {
        self.ended.cancel();
        for (_, (_, cancel)) in self.calls.lock().cancels.drain() {
            cancel.cancel();
        }
        self.questions.lock().open.clear();
        self.subscriptions.lock().clear();
    }

    /// Another node has it from now on: its stream closes, so that the client opens another there. Calls in flight are
    /// finished here.
    pub(super) fn release(&self) {
        self.stream.lock().cancel();
        self.subscriptions.lock().clear();
        // Their answers go to the other node, which knows of no question.
        self.questions.lock().open.clear();
    }

    /// Notes from which level on the client wants log messages; false if there is no such level.
    pub(super) fn set_log_level(&self, level: &str) -> bool {
        let known = LogLevel::of(level);
        if known.is_some() {
            *self.log_level.lock() = known;
        }
        known.is_some()
    }

    /// From which level on the client wants log messages. One that has not said so leaves it to the server.
    pub(super) fn log_level(&self) -> LogLevel {
        self.log_level.lock().unwrap_or(LogLevel::Info)
    }

    /// Prepares a request to the client; nothing if it has too many before it.
    pub(super) fn ask(&self) -> Option<Question<'_>> {
        let (sender, answer) = oneshot::channel();
        let mut questions = self.questions.lock();
        if questions.open.len() >= QUESTIONS_MAX || self.ended.is_cancelled() {
            return None;
        }
        questions.next_number += 1;
        let (node, number) = (self.asking_node, questions.next_number);
        let id: Box<str> = format!("\"troupe-{node:08x}-{number}\"").into();
        questions.open.insert(id.clone(), sender);
        Some(Question {
            session: self,
            id,
            answer,
        })
    }

    /// Hands over the client's response to a request with this id (as JSON text). One that nobody waits for is passed
    /// over.
    pub fn deliver(&self, id: &str, reply: RawReply) {
        let waiting = self.questions.lock().open.remove(id);
        if let Some(waiting) = waiting {
            // Whoever asked may have given up at this very moment.
            let _ = waiting.send(reply);
        }
    }

    /// Notes a call in flight until the guard is dropped; nothing if there are [`CALLS_IN_FLIGHT_MAX`] already.
    ///
    /// A client that gives two calls the same id can only cancel the later one.
    pub fn begin_call(self: &Arc<Self>, request_id: &str) -> Option<CallInSession> {
        let cancel = CancellationToken::new();
        let mut calls = self.calls.lock();
        if calls.cancels.len() >= CALLS_IN_FLIGHT_MAX || self.ended.is_cancelled() {
            return None;
        }
        let number = calls.next_number;
        calls.next_number += 1;
        calls.cancels.insert(request_id.into(), (number, cancel.clone()));
        Some(CallInSession {
            session: Arc::clone(self),
            request_id: request_id.into(),
            number,
            cancel,
        })
    }

    /// Cancels the call with this id; a call that is unknown or over is none of our business (the specification
    /// asks to ignore such notifications).
    pub fn cancel_call(&self, request_id: &str) {
        if let Some((_, cancel)) = self.calls.lock().cancels.get(request_id) {
            cancel.cancel();
        }
    }

    /// Whether the client may want to hear of changes of this resource: not if it has [`SUBSCRIPTIONS_MAX`] already, or its
    /// address is longer than any.
    pub fn may_subscribe(&self, uri: &str) -> bool {
        if uri.len() > SUBSCRIPTION_URI_BYTES_MAX {
            return false;
        }
        let subscriptions = self.subscriptions.lock();
        subscriptions.len() < SUBSCRIPTIONS_MAX || subscriptions.contains_key(uri)
    }

    /// Notes that the client wants to hear of changes of this resource, which are watched for it. Whether it may and the
    /// session goes on.
    pub fn subscribe(&self, uri: &str, watch: impl Into<Option<Watch>>) -> bool {
        if !self.may_subscribe(uri) || self.ended.is_cancelled() {
            return false;
        }
        let known = self.subscriptions.lock().insert(uri.to_owned(), watch.into());
        if known.is_none() {
            self.revision.fetch_add(1, Ordering::AcqRel);
        }
        true
    }

    /// What was subscribed to at another node is watched from here now, unless it has been given up meanwhile.
    pub(super) fn watched_again(&self, uri: &str, watch: Watch) {
        if let Some(of_uri) = self.subscriptions.lock().get_mut(uri) {
            *of_uri = Some(watch);
        }
    }

    /// Forgets a subscription.
    pub fn unsubscribe(&self, uri: &str) {
        let removed = self.subscriptions.lock().remove(uri);
        if removed.is_some() {
            self.revision.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The addresses of the resources whose changes the client wants to hear of.
    pub fn subscriptions(&self) -> Vec<String> {
        let mut subscriptions: Vec<String> = self.subscriptions.lock().keys().cloned().collect();
        subscriptions.sort();
        subscriptions
    }

    /// Whether the client wants to hear of changes of this resource.
    pub fn is_subscribed(&self, uri: &str) -> bool {
        self.subscriptions.lock().contains_key(uri)
    }

    /// Whether the client can take streams up again: the first revision had no way to (2025-03-26, changelog).
    pub fn can_resume(&self) -> bool {
        self.settled.protocol_version >= ProtocolVersion::V2025_03_26
    }

    /// Whether streams begin with an event that carries nothing but its id, so that they can be taken up from the very
    /// beginning. Clients of earlier revisions would look for a message in it.
    pub fn wants_priming(&self) -> bool {
        self.settled.protocol_version >= ProtocolVersion::V2025_11_25
    }

    /// A call's stream begins, with this event.
    pub fn begin_stream(&self) -> EventId {
        self.replay.lock().begin()
    }

    /// The last event of the stream.
    pub fn last_event(&self, stream: StreamNumber) -> EventId {
        self.replay.lock().last(stream)
    }

    /// Keeps the stream's next event; `write` writes it as it is sent.
    pub fn record(&self, stream: StreamNumber, write: impl FnOnce(&EventId) -> Bytes) -> Bytes {
        let mut replay = self.replay.lock();
        let id = replay.next(stream);
        let frame = write(&id);
        replay.keep(id, frame.clone(), Instant::now());
        drop(replay);
        self.kept_more.notify_waiters();
        frame
    }

    /// Nothing more comes on the stream.
    pub fn end_stream(&self, stream: StreamNumber) {
        self.replay.lock().end(stream);
        self.kept_more.notify_waiters();
    }

    /// What came after this event.
    ///
    /// # Errors
    /// [`NotKept`].
    pub fn replay(&self, id: EventId) -> Result<Replayed, NotKept> {
        self.replay.lock().after(id, Instant::now())
    }

    /// Resolves when there is more to be replayed than when this was called.
    pub fn kept_more(&self) -> Notified<'_> {
        self.kept_more.notified()
    }

    pub(super) fn forget_old_events(&self) {
        self.replay.lock().forget_old(Instant::now());
    }

    /// The notices for the session's stream: those that its former stream was about to tell if there are such and this one
    /// goes on with it, else fresh ones. Whether it goes on.
    pub async fn feed(&self, fresh: Notices, goes_on: bool) -> (NoticeFeed, bool) {
        let feed = Arc::clone(self.feed.lock().get_or_insert_default());
        // The former stream has been told to end. One whose client takes nothing does not hear of it.
        let mut feed = match timeout(FEED_WAIT_MAX, feed.lock_owned()).await {
            Ok(feed) => feed,
            Err(_) => {
                let another = Arc::default();
                *self.feed.lock() = Some(Arc::clone(&another));
                another.lock_owned().await
            }
        };
        let goes_on = goes_on && feed.is_some();
        if !goes_on {
            *feed = Some(fresh);
        }
        (NoticeFeed::OfSession(feed), goes_on)
    }

    /// Opens the session's stream. There is one at a time: the client that lost its connection before we noticed
    /// opens another, and the older one ends.
    pub fn open_stream(self: &Arc<Self>) -> StreamInSession {
        let replaced = CancellationToken::new();
        std::mem::replace(&mut *self.stream.lock(), replaced.clone()).cancel();
        self.streams_open.fetch_add(1, Ordering::Relaxed);
        StreamInSession {
            session: Arc::clone(self),
            replaced,
        }
    }

    /// Takes a call's stream up again, beside all others.
    pub fn resume_stream(self: &Arc<Self>) -> StreamInSession {
        self.streams_open.fetch_add(1, Ordering::Relaxed);
        StreamInSession {
            session: Arc::clone(self),
            replaced: CancellationToken::new(),
        }
    }
}

/// A call in flight; dropping it ends the note of it.
#[derive(Debug)]
pub struct CallInSession {
    session: Arc<Session>,
    request_id: Box<str>,
    number: u64,
    cancel: CancellationToken,
}

impl CallInSession {
    /// Resolves when the client cancels the call or the session ends.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }
}

impl Drop for CallInSession {
    fn drop(&mut self) {
        let mut calls = self.session.calls.lock();
        if calls
            .cancels
            .get(&self.request_id)
            .is_some_and(|(number, _)| *number == self.number)
        {
            calls.cancels.remove(&self.request_id);
        }
    }
}

/// A request to the client; dropping it gives up the wait for the response.
#[derive(Debug)]
pub(super) struct Question<'a> {
    session: &'a Session,
    id: Box<str>,
    answer: oneshot::Receiver<RawReply>,
}

impl Question<'_> {
    /// The id of the request, as JSON text.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits for the response; nothing if the session ends before.
    pub async fn answer(mut self) -> Option<RawReply> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.session.questions.lock().open.remove(&self.id);
    }
}

/// An open stream; dropping it closes it.
#[derive(Debug)]
pub struct StreamInSession {
    session: Arc<Session>,
    replaced: CancellationToken,
}

impl StreamInSession {
    /// Resolves when the stream must end: the session is over or another stream took its place.
    pub fn must_end(&self) -> impl Future<Output = ()> + Send + use<> {
        let (replaced, ended) = (self.replaced.clone(), self.session.ended.clone());
        async move {
            tokio::select! {
                () = replaced.cancelled() => {}
                () = ended.cancelled() => {}
            }
        }
    }
}

impl Drop for StreamInSession {
    fn drop(&mut self) {
        self.session.streams_open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub(super) use tests::settled as settled_for_test;

#[cfg(test)]
mod tests;
