//! One connection to a peer, from its hello to its end: what is asked over it, and what is answered.
//!
//! A link outlives its connections. Whatever waits on a connection hears of its end at once; nothing is sent again by
//! itself, because the peer may have done what it was asked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use troupe_protocol::cluster::Generation;
use troupe_protocol::cluster::frame::Frame;
use troupe_protocol::id::NodeId;
use troupe_protocol::wire::MESSAGE_BYTES_MAX;

use super::assembly::Assembly;
use super::error::LinkError;
use super::outbox::Outbox;
use super::pulse::Pulse;
use super::service::Service;
use super::serving::Serving;
use super::settings::{LinkSettings, PART_BYTES_MIN, PIECE_BYTES_MAX, SMALL_BYTES_MAX, STREAM_BYTES_MAX};
use super::shared::Services;
use super::stream::StreamItem;
use super::transport;
use crate::runtime::{Deadline, trace};

/// Questions with a later deadline are subscriptions: the peer's silence is noticed at leisure. Calls whose clients are
/// asked in between have an hour.
const CALL_WITHIN_MAX: Duration = Duration::from_secs(2 * 3_600);

/// What a session says that waits to be written, in bytes: far more than it ever has to say.
const SESSION_BYTES_MAX: usize = 1024 * 1024;

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerStart {
    pub node: NodeId,
    pub generation: Generation,
    pub instance: u64,
}

/// What both ends agreed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Agreement {
    pub peer: PeerStart,
    pub wire_version: u16,
    /// In the batches that come.
    pub own_key: u64,
    /// In the batches that go.
    pub peer_key: u64,
}

/// Bytes that went by.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl Traffic {
    pub(super) fn read(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn written(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    pub(super) fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }
}

/// Bytes that may be under way and not yet taken by the peer.
#[derive(Debug)]
pub(super) struct Window {
    bytes: usize,
    free: Semaphore,
}

impl Window {
    fn new(bytes: usize) -> Self {
        Self {
            bytes,
            free: Semaphore::new(bytes),
        }
    }

    fn try_take(&self, bytes: usize) -> bool {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.free
            .try_acquire_many(permits)
            .map(tokio::sync::SemaphorePermit::forget)
            .is_ok()
    }

    /// Waits for room; false when the connection has ended.
    async fn take(&self, bytes: usize) -> bool {
        if self.try_take(bytes) {
            return true;
        }
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let taken = self.free.acquire_many(permits).await;
        taken.map(tokio::sync::SemaphorePermit::forget).is_ok()
    }

    /// The peer has taken so many bytes; never more than are under way, whatever it says.
    fn give_back(&self, bytes: u32) {
        let bytes = (bytes as usize).min(self.in_flight());
        self.free.add_permits(bytes);
    }

    fn in_flight(&self) -> usize {
        self.bytes.saturating_sub(self.free.available_permits())
    }
}

/// Who waits for an answer.
pub(super) enum Waiting {
    Answer {
        reply: oneshot::Sender<Result<Bytes, LinkError>>,
        is_call: bool,
    },
    Stream {
        items: mpsc::Sender<StreamItem>,
        is_call: bool,
    },
}

impl Waiting {
    fn is_call(&self) -> bool {
        let (Self::Answer { is_call, .. } | Self::Stream { is_call, .. }) = self;
        *is_call
    }
}

/// One connection to a peer.
pub(super) struct Connection {
    agreement: Agreement,
    opened_at: Instant,
    /// The number of the peer's dispatcher; set when the session has begun.
    dispatcher: OnceLock<u64>,
    outbox: Mutex<Outbox>,
    /// Messages of the session that wait to be written.
    session_bytes: Mutex<Vec<u8>>,
    /// Something waits to be written.
    outgoing: Notify,
    small_window: Window,
    bulk_window: Window,
    next_number: AtomicU64,
    waiting: Mutex<HashMap<u64, Waiting>>,
    pub(super) serving: Mutex<Serving>,
    pub(super) assembly: Mutex<Assembly>,
    pub(super) services: Arc<Services>,
    traffic: Traffic,
    pulse: Pulse,
    is_watched: AtomicBool,
    expecting: Notify,
    ended: CancellationToken,
    end_reason: OnceLock<String>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connection({:?})", self.agreement.peer)
    }
}

impl Connection {
    pub(super) fn new(agreement: Agreement, settings: &LinkSettings, services: Arc<Services>) -> Arc<Self> {
        let window_bytes = settings.window_bytes as usize;
        let small_window_bytes = window_bytes / 4;
        let bulk_window_bytes = (window_bytes - small_window_bytes).max(MESSAGE_BYTES_MAX + SMALL_BYTES_MAX);
        Arc::new(Self {
            agreement,
            opened_at: Instant::now(),
            dispatcher: OnceLock::new(),
            outbox: Mutex::new(Outbox::new(agreement.peer_key)),
            session_bytes: Mutex::default(),
            outgoing: Notify::new(),
            small_window: Window::new(small_window_bytes.max(2 * SMALL_BYTES_MAX)),
            bulk_window: Window::new(bulk_window_bytes),
            next_number: AtomicU64::new(1),
            waiting: Mutex::default(),
            serving: Mutex::default(),
            assembly: Mutex::default(),
            services,
            traffic: Traffic::default(),
            pulse: Pulse::new(),
            is_watched: AtomicBool::new(false),
            expecting: Notify::new(),
            ended: CancellationToken::new(),
            end_reason: OnceLock::new(),
        })
    }

    /// The peer's session knows this dispatcher: batches can go to it from now on.
    pub(super) fn begin(&self, dispatcher: u64) {
        let _ = self.dispatcher.set(dispatcher); // a session begins once
        self.pump();
    }

    pub(super) fn peer(&self) -> NodeId {
        self.agreement.peer.node
    }

    pub(super) fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    pub(super) fn opened_at(&self) -> Instant {
        self.opened_at
    }

    pub(super) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    pub(super) fn in_flight_bytes(&self) -> usize {
        self.small_window.in_flight() + self.bulk_window.in_flight()
    }

    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    pub(super) fn end_reason(&self) -> &str {
        self.end_reason.get().map_or("", String::as_str)
    }

    /// Ends the connection, once: whoever waits on it is told, what is being answered is dropped.
    pub(super) fn end(&self, reason: &str) {
        if self.end_reason.set(reason.to_owned()).is_err() {
            return;
        }
        self.ended.cancel();
        self.small_window.free.close();
        self.bulk_window.free.close();
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for waiting in waiting.into_values() {
            let lost = Err(self.lost());
            match waiting {
                Waiting::Answer { reply, .. } => {
                    let _ = reply.send(lost);
                }
                Waiting::Stream { items, .. } => {
                    let _ = items.try_send(StreamItem::End(lost));
                }
            }
        }
        self.serving.lock().abort();
    }

    pub(super) fn lost(&self) -> LinkError {
        LinkError::Lost { node: self.peer() }
    }

    // ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    pub(super) async fn ask(
        self: &Arc<Self>,
        service: Service,
        request: Bytes,
        deadline: Deadline,
    ) -> Result<Bytes, LinkError> {
        let (reply, answer) = oneshot::channel();
        let is_call = deadline.remaining() < CALL_WITHIN_MAX;
        let question = self.expect(Waiting::Answer { reply, is_call })?;
        let exchange = async {
            self.send_question(&question, service, &request, deadline, false)
                .await?;
            answer.await.unwrap_or_else(|_| Err(self.lost()))
        };
        match tokio::time::timeout_at(deadline.instant(), exchange).await {
            Ok(answered) => answered,
            Err(_) => Err(LinkError::DeadlineExceeded { node: self.peer() }),
        }
    }

    pub(super) async fn open_stream(
        self: &Arc<Self>,
        service: Service,
        request: Bytes,
        deadline: Deadline,
    ) -> Result<(Question, mpsc::Receiver<StreamItem>), LinkError> {
        // Credit bounds the parts; one more for the end.
        let (items, received) = mpsc::channel(STREAM_BYTES_MAX / PART_BYTES_MIN + 1);
        let is_call = deadline.remaining() < CALL_WITHIN_MAX;
        let question = self.expect(Waiting::Stream { items, is_call })?;
        let sending = self.send_question(&question, service, &request, deadline, true);
        match tokio::time::timeout_at(deadline.instant(), sending).await {
            Ok(sent) => sent?,
            Err(_) => return Err(LinkError::DeadlineExceeded { node: self.peer() }),
        }
        Ok((question, received))
    }

    fn expect(self: &Arc<Self>, waiting: Waiting) -> Result<Question, LinkError> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().insert(number, waiting);
        let question = Question {
            connection: Arc::clone(self),
            number,
        };
        // Looked at after the insertion: the end takes either this entry or none.
        if self.has_ended() {
            return Err(LinkError::Unreachable { node: self.peer() });
        }
        if !self.is_watched.load(Ordering::Relaxed) {
            self.expecting.notify_one();
        }
        Ok(question)
    }

    async fn send_question(
        &self,
        question: &Question,
        service: Service,
        request: &Bytes,
        deadline: Deadline,
        wants_parts: bool,
    ) -> Result<(), LinkError> {
        let remaining_ms = deadline.remaining().as_millis().saturating_add(1);
        let frame = Frame::Ask {
            number: question.number,
            wants_parts,
            service: service as u8,
            deadline_ms: u32::try_from(remaining_ms).unwrap_or(u32::MAX),
            trace: trace::current(),
            payload: request,
        };
        self.send(&frame, request, Order::Free).await
    }

    pub(super) fn tell(&self, service: Service, message: &Bytes) -> Result<(), LinkError> {
        let frame = Frame::Tell {
            service: service as u8,
            trace: trace::current(),
            payload: message,
        };
        self.check_size(message)?;
        let is_small = frame.bytes() <= SMALL_BYTES_MAX;
        let window = if is_small {
            &self.small_window
        } else {
            &self.bulk_window
        };
        if !window.try_take(frame.bytes()) {
            return Err(match self.has_ended() {
                true => LinkError::Unreachable { node: self.peer() },
                false => LinkError::Overloaded { node: self.peer() },
            });
        }
        self.put(&frame, message, is_small);
        Ok(())
    }

    // ── sending ─────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Sends a frame that counts against the window; waits for room. `payload` is that of the frame.
    pub(super) async fn send(
        &self,
        frame: &Frame<'_>,
        payload: &Bytes,
        order: Order,
    ) -> Result<(), LinkError> {
        self.check_size(payload)?;
        let bytes = frame.bytes();
        let is_small = bytes <= SMALL_BYTES_MAX && order == Order::Free;
        let window = if is_small {
            &self.small_window
        } else {
            &self.bulk_window
        };
        if !window.take(bytes).await {
            return Err(LinkError::Unreachable { node: self.peer() });
        }
        self.put(frame, payload, is_small);
        Ok(())
    }

    fn check_size(&self, payload: &Bytes) -> Result<(), LinkError> {
        match payload.len() {
            bytes if bytes > MESSAGE_BYTES_MAX => Err(LinkError::TooLarge { bytes }),
            _ => Ok(()),
        }
    }

    fn put(&self, frame: &Frame<'_>, payload: &Bytes, is_small: bool) {
        {
            let mut outbox = self.outbox.lock();
            match is_small {
                true => outbox.push_small(frame),
                false => outbox.push_large(frame, payload.clone()),
            }
        }
        self.pump();
    }

    /// Sends a frame that counts against no window: short, and bounded in number by what it is about.
    pub(super) fn send_control(&self, frame: &Frame<'_>) {
        self.outbox.lock().push_small(frame);
        self.pump();
    }

    /// Has the writer look for what waits.
    fn pump(&self) {
        self.outgoing.notify_one();
    }

    /// Whole messages of the session. False when it sends more than is sensible.
    pub(super) fn session_says(&self, messages: &[u8]) -> bool {
        let mut waiting = self.session_bytes.lock();
        waiting.extend_from_slice(messages);
        let is_sensible = waiting.len() <= SESSION_BYTES_MAX;
        drop(waiting);
        self.pump();
        is_sensible
    }

    /// Waits until there is something to write, and puts it here: not much more than a piece of a large frame, so that
    /// what comes meanwhile does not wait long.
    pub(super) async fn next_outgoing(&self, buffer: &mut Vec<u8>) {
        loop {
            buffer.append(&mut self.session_bytes.lock());
            if let Some(dispatcher) = self.dispatcher.get() {
                let flight_max = self.pulse.bulk_flight_bytes_max();
                let mut outbox = self.outbox.lock();
                while buffer.len() < PIECE_BYTES_MAX {
                    let Some(batch) = outbox.next_batch(flight_max) else {
                        break;
                    };
                    transport::put_cast(*dispatcher, &batch, buffer);
                }
            }
            if !buffer.is_empty() {
                return;
            }
            self.outgoing.notified().await;
        }
    }

    pub(super) fn ping(&self) {
        self.send_control(&Frame::Ping {
            sent_us: self.pulse.now_us(),
        });
    }

    // ── what comes in ───────────────────────────────────────────────────────────────────────────────────────────────

    /// The peer has taken so many bytes of ours.
    pub(super) fn peer_took(&self, small_bytes: u32, bulk_bytes: u32) {
        if small_bytes > 0 {
            self.small_window.give_back(small_bytes);
        }
        if bulk_bytes > 0 {
            self.bulk_window.give_back(bulk_bytes);
            self.outbox.lock().peer_took_bulk(bulk_bytes);
        }
    }

    /// A batch of the peer is about to be taken; [`took`](Self::took) follows.
    pub(super) fn cork(&self) {
        self.outbox.lock().cork();
    }

    /// We have taken so many bytes of the peer's.
    pub(super) fn took(&self, small_bytes: usize, bulk_bytes: usize) {
        let count = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        self.outbox.lock().took(count(small_bytes), count(bulk_bytes));
        self.pump();
    }

    /// The answer to a question has come; nothing happens if nobody waits for it any more.
    pub(super) fn answered(&self, number: u64, answer: Result<Bytes, LinkError>) {
        let waiting = self.waiting.lock().remove(&number);
        match waiting {
            None => {}
            Some(Waiting::Answer { reply, .. }) => {
                let _ = reply.send(answer);
            }
            Some(Waiting::Stream { items, .. }) => {
                let _ = items.try_send(StreamItem::End(answer));
            }
        }
    }

    /// A part has come. False when the peer sends more than it may.
    pub(super) fn part_came(&self, number: u64, part: Bytes) -> bool {
        let waiting = self.waiting.lock();
        let Some(Waiting::Stream { items, .. }) = waiting.get(&number) else {
            return true;
        };
        let sent = items.try_send(StreamItem::Part(part));
        !matches!(sent, Err(mpsc::error::TrySendError::Full(_)))
    }

    // ── watching ────────────────────────────────────────────────────────────────────────────────────────────────────

    /// Whether the peer should be saying something now.
    pub(super) fn expects_something(&self) -> bool {
        self.waiting.lock().values().any(Waiting::is_call) || self.in_flight_bytes() > SMALL_BYTES_MAX
    }

    /// Completes when the peer is asked something.
    pub(super) async fn expecting(&self) {
        self.expecting.notified().await;
    }

    pub(super) fn watched(&self, is_watched: bool) {
        self.is_watched.store(is_watched, Ordering::Relaxed);
    }
}

/// Whether a small frame may overtake large ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Free,
    /// After the large ones of the same stream.
    AfterLarge,
}

/// A question under way. Dropped before its answer came, it tells the peer not to bother.
pub(super) struct Question {
    connection: Arc<Connection>,
    number: u64,
}

impl Question {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The reader has consumed so many bytes of parts: as many may follow.
    pub(super) fn consumed(&self, bytes: usize) {
        self.connection.send_control(&Frame::Credit {
            number: self.number,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        });
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let is_open = self.connection.waiting.lock().remove(&self.number).is_some();
        if is_open && !self.connection.has_ended() {
            self.connection
                .send_control(&Frame::Cancel { number: self.number });
        }
    }
}
