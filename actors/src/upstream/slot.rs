//! One server as its callers see it: the connection of the moment, the calls in flight, the lists, the log.
//!
//! The slot is shared by callers and the server's actor. The actor alone changes the state; callers read it without a
//! hop, and wait on it when there is no connection. So a call costs no message, and an actor that crashes takes no
//! connection with it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::time::Instant;
use troupe_protocol::id::ActorPath;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::{Era, ListKind, Profile, method};
use troupe_protocol::server::{ServerName, Transport};
use troupe_protocol::trace::Outcome;
use troupe_protocol::upstream::{UpstreamInfo, UpstreamState};

use crate::cluster::bulletin::Bulletin;
use crate::cluster::{ClusterHandle, Whereabouts};
use crate::runtime::{Deadline, Mailbox, System, trace};

use super::calls::{CallTable, NewCall, ProgressTo};
use super::circuit::{Circuit, Sign, Turn};
use super::connection::{Call, Connection};
use super::endpoint::UpstreamSettings;
use super::error::{Failure, UpstreamError};
use super::frame;
use super::http::{self, Mirror, ParamHeaders};
use super::lists::Lists;
use super::log::LogRing;
use super::messages::{CallOptions, UpstreamMessage};
use super::placed::{self, UpstreamNews};
use super::retry::{self, RETRIES_MAX, RetryBudget};
use super::shared::Shared;
use super::watch::OfLane;

/// The connection of the moment.
#[derive(Clone)]
pub(super) enum SlotState {
    Idle,
    Connecting,
    Ready(Arc<Connection>),
    Waiting(Pause),
    Stopped,
}

/// Why there is no connection, and until when there will be none.
#[derive(Clone)]
pub(super) struct Pause {
    pub error: UpstreamError,
    pub failures: u32,
    pub retry_at: Instant,
    /// Until then calls wait: the server was up a moment ago.
    pub hopeful_until: Option<Instant>,
}

/// One server as its callers see it.
pub(super) struct Slot {
    pub name: ServerName,
    /// What the clients can do for whom this is: a legacy server is told when the connection is made.
    pub profile: Profile,
    pub system: System,
    pub mailbox: Mailbox<UpstreamMessage>,
    pub settings: Arc<UpstreamSettings>,
    pub calls: Arc<CallTable>,
    pub log: Arc<LogRing>,
    pub lists: Lists,
    /// As registered now.
    pub transport: Mutex<Transport>,
    /// The era that the server spoke last time.
    pub era: Mutex<Option<Era>>,
    /// What the server last said of itself.
    pub info: ArcSwapOption<UpstreamInfo>,
    state: watch::Sender<SlotState>,
    is_demanded: AtomicBool,
    cluster: ClusterHandle,
    news: Arc<Bulletin>,
    /// Whether it is given away to another node: nothing new begins here.
    is_moving: AtomicBool,
    /// Whether its process stands still, since this node holds no lease.
    is_suspended: AtomicBool,
    pub circuit: Circuit,
    retries: RetryBudget,
    made: Instant,
    last_used_ms: AtomicU64,
    /// How often the server had to be given a new session over one connection.
    sessions_begun: AtomicU64,
    /// What is wanted to be heard of over its connections, if anything ever was.
    watches: OnceLock<Arc<OfLane>>,
}

impl Slot {
    pub fn new(
        shared: &Shared,
        name: ServerName,
        profile: Profile,
        mailbox: Mailbox<UpstreamMessage>,
        transport: Transport,
    ) -> Self {
        let settings = Arc::clone(&shared.settings);
        // One log of all that belongs to the server.
        let log = shared.slot(&name).map(|slot| Arc::clone(&slot.log));
        Self {
            calls: Arc::new(CallTable::new(name.clone(), settings.calls_in_flight_max)),
            name,
            profile,
            system: shared.system.clone(),
            mailbox,
            settings,
            log: log.unwrap_or_default(),
            lists: Lists::default(),
            transport: Mutex::new(transport),
            era: Mutex::new(None),
            info: ArcSwapOption::empty(),
            state: watch::Sender::new(SlotState::Idle),
            is_demanded: AtomicBool::new(false),
            cluster: shared.cluster.clone(),
            news: Arc::clone(&shared.news),
            is_moving: AtomicBool::new(false),
            is_suspended: AtomicBool::new(false),
            circuit: Circuit::default(),
            retries: RetryBudget::default(),
            made: Instant::now(),
            last_used_ms: AtomicU64::new(0),
            sessions_begun: AtomicU64::new(0),
            watches: OnceLock::new(),
        }
    }

    /// The state of the moment.
    pub fn state(&self) -> SlotState {
        self.state.borrow().clone()
    }

    /// Changes the state. Only the server's actor does.
    pub fn publish(&self, state: SlotState) {
        self.is_demanded.store(false, Ordering::Release);
        self.state.send_replace(state);
        let state = match self.state_for_people() {
            UpstreamState::Stopped if self.is_moving() => UpstreamState::Idle,
            state => state,
        };
        self.tell_others(&UpstreamNews::State(state, self.info.load_full()));
    }

    /// Lets the other nodes know, if they have no connection of their own.
    pub fn tell_others(&self, news: &UpstreamNews) {
        // Where the server is and what it lists is told by the connection that is everybody's.
        if self.profile.is_none() && self.is_placed() {
            news.publish(&self.name, &self.news);
        }
    }

    /// Whether there is one connection to the server in the whole cluster.
    pub fn is_placed(&self) -> bool {
        placed::is_placed(&self.transport.lock())
    }

    /// Whether this node may run the server.
    pub fn may_run(&self) -> bool {
        !self.is_placed()
            || (!self.is_moving()
                && matches!(
                    self.cluster.whereabouts(&placed::address_of(&self.name)),
                    Whereabouts::Here(_)
                ))
    }

    /// Has the process stand still, or go on. Whether it does.
    pub fn suspend(&self, is_suspended: bool) -> bool {
        let done = self
            .connection()
            .is_some_and(|connection| connection.suspend(is_suspended));
        self.is_suspended.store(is_suspended && done, Ordering::Release);
        done
    }

    /// Whether its process stands still.
    pub fn is_suspended(&self) -> bool {
        self.is_suspended.load(Ordering::Acquire)
    }

    /// The server is given away to another node.
    pub fn move_away(&self) {
        self.is_moving.store(true, Ordering::Release);
    }

    /// Whether the server is given away to another node.
    pub fn is_moving(&self) -> bool {
        self.is_moving.load(Ordering::Acquire)
    }

    /// How long nobody has called the server here.
    pub fn idle_for(&self) -> Duration {
        let is_watched = self.watches.get().is_some_and(|watches| watches.is_wanted());
        if self.calls.len() > 0 || is_watched {
            return Duration::ZERO;
        }
        let last_used = Duration::from_millis(self.last_used_ms.load(Ordering::Relaxed));
        self.made.elapsed().saturating_sub(last_used)
    }

    /// This is wanted to be heard of over the slot's connections.
    pub fn watched_by(&self, watches: &Arc<OfLane>) {
        self.watches.get_or_init(|| Arc::clone(watches));
    }

    /// What was subscribed to is to be subscribed to again: there is another connection, or another session.
    pub fn subscriptions_lost(&self) {
        if let Some(watches) = self.watches.get() {
            watches.make_soon();
        }
    }

    /// The server has another session over the same connection.
    pub fn session_begun(&self) {
        self.sessions_begun.fetch_add(1, Ordering::AcqRel);
        self.subscriptions_lost();
    }

    /// How many sessions the server had over its connections besides the first of each.
    pub fn sessions_begun(&self) -> u64 {
        self.sessions_begun.load(Ordering::Acquire)
    }

    /// The connection of the moment, if there is one that lives.
    pub fn connection(&self) -> Option<Arc<Connection>> {
        match &*self.state.borrow() {
            SlotState::Ready(connection) if !connection.wires.is_gone() => Some(Arc::clone(connection)),
            _ => None,
        }
    }

    /// The state for people.
    pub fn state_for_people(&self) -> UpstreamState {
        match &*self.state.borrow() {
            SlotState::Idle => UpstreamState::Idle,
            SlotState::Connecting => UpstreamState::Connecting,
            SlotState::Ready(_) => UpstreamState::Ready,
            SlotState::Waiting(pause) => UpstreamState::Waiting {
                reason: pause.error.to_string(),
                attempts: pause.failures,
                retry_in_ms: millis(pause.retry_at.saturating_duration_since(Instant::now())),
            },
            SlotState::Stopped => UpstreamState::Stopped,
        }
    }

    /// A connection, made if need be.
    ///
    /// Who comes while there is none waits for one attempt that begins after it came, and, if the server was up a
    /// moment ago, for further ones.
    pub async fn ready(&self, deadline: Deadline) -> Result<Arc<Connection>, UpstreamError> {
        if let Some(connection) = self.connection() {
            return Ok(connection);
        }
        let mut states = self.state.subscribe();
        loop {
            let state = states.borrow_and_update().clone();
            let until = match state {
                SlotState::Ready(connection) if !connection.wires.is_gone() => return Ok(connection),
                SlotState::Stopped => return Err(UpstreamError::Stopped(self.name.clone())),
                SlotState::Ready(_) | SlotState::Connecting => deadline.instant(),
                SlotState::Idle => {
                    self.demand();
                    deadline.instant()
                }
                SlotState::Waiting(pause) => {
                    let now = Instant::now();
                    let hopeful_until = pause.hopeful_until.filter(|until| *until > now);
                    if pause.retry_at <= now {
                        self.demand();
                        deadline.instant()
                    } else if let Some(until) = hopeful_until {
                        until.min(deadline.instant())
                    } else {
                        return Err(pause.error);
                    }
                }
            };
            // The actor is at work; whoever waits until the deadline learns what it was at.
            if tokio::time::timeout_at(until, states.changed()).await.is_err() && deadline.is_over() {
                return Err(self.not_ready());
            }
        }
    }

    fn not_ready(&self) -> UpstreamError {
        let reason = match self.state() {
            SlotState::Waiting(pause) => return pause.error,
            SlotState::Connecting => "it was still starting when the deadline passed",
            SlotState::Idle | SlotState::Ready(_) | SlotState::Stopped => {
                "it was not ready before the deadline"
            }
        };
        UpstreamError::Unreachable {
            server: self.name.clone(),
            reason: reason.to_owned(),
        }
    }

    /// Lets the actor know that somebody waits, once for all who do.
    pub fn demand(&self) {
        if !self.is_demanded.swap(true, Ordering::AcqRel)
            && self.mailbox.tell(UpstreamMessage::Demanded).is_err()
        {
            self.is_demanded.store(false, Ordering::Release);
        }
    }

    /// Makes a request; it shows as a step of the caller's trace.
    pub async fn request(
        self: &Arc<Self>,
        method: &str,
        params: Option<&RawValue>,
        options: CallOptions,
    ) -> Result<RawReply, UpstreamError> {
        self.last_used_ms
            .store(millis(self.made.elapsed()), Ordering::Relaxed);
        let correlation_id = trace::current().map(|context| context.correlation_id);
        let name = frame::name_of(method, params);
        let call = NewCall {
            method: method.to_owned(),
            name: name.clone(),
            principal: options.principal.map(|principal| principal.name),
            correlation_id,
            progress: options.progress.map(|sender| ProgressTo {
                token: params.and_then(frame::progress_token),
                sender,
            }),
            questions: options.questions,
        };
        let wants_progress = call
            .progress
            .as_ref()
            .is_some_and(|progress| progress.token.is_some());
        let outgoing = Unsent {
            method,
            name: name.as_deref(),
            params,
            client: &options.client,
            wants_progress,
        };
        // By reference: what is passed on by value is there twice, in who passes and in who takes.
        let work = pin!(self.call(call, outgoing, options.deadline));
        traced(&self.system, self.mailbox.path(), method, name.as_deref(), work).await
    }

    /// Makes a call, and makes it again when it is lost and may be repeated.
    async fn call(
        self: &Arc<Self>,
        call: NewCall,
        outgoing: Unsent<'_>,
        deadline: Deadline,
    ) -> Result<RawReply, UpstreamError> {
        self.retries.earn();
        let again = self.is_repeatable(&outgoing).then(|| call.clone());
        let (mut call, mut retries) = (call, 0);
        loop {
            let (sign, reply) = self.call_once(call, outgoing, deadline).await;
            let again = again
                .as_ref()
                .filter(|_| sign == Sign::Fails && retries < RETRIES_MAX);
            let Some(again) = again else {
                return reply;
            };
            let pause = retry::pause(retries, fastrand::f64());
            if deadline.remaining() <= pause || !self.retries.take() {
                return reply;
            }
            tokio::time::sleep(pause).await;
            retries += 1;
            call = again.clone();
        }
    }

    /// Whether what is lost on the way may be sent once more. What asks whether the server works shall hear of each loss.
    fn is_repeatable(&self, outgoing: &Unsent<'_>) -> bool {
        match outgoing.method {
            method::PING | method::DISCOVER => false,
            method::TOOLS_CALL => outgoing.name.is_some_and(|tool| self.lists.is_repeatable(tool)),
            other => retry::is_harmless(other),
        }
    }

    async fn call_once(
        self: &Arc<Self>,
        call: NewCall,
        outgoing: Unsent<'_>,
        deadline: Deadline,
    ) -> (Sign, Result<RawReply, UpstreamError>) {
        let method = outgoing.method;
        let silent = |error| (Sign::Nothing, Err(error));
        let leave = match self.circuit.enter(self.made.elapsed()) {
            Ok(leave) => leave,
            Err(wait) => {
                return silent(UpstreamError::CircuitOpen {
                    server: self.name.clone(),
                    retry_in_ms: millis(wait),
                });
            }
        };
        let mut open = match self.calls.begin(call) {
            Ok(open) => open,
            Err(failure) => return silent(failure.into_error(&self.name, method)),
        };
        // Whoever gives the server away looks at the table after it has said so: either it waits for this call, or this
        // call sees that it is late and goes to the new owner.
        if self.is_moving() {
            return silent(UpstreamError::Stopped(self.name.clone()));
        }
        let (id, began) = (open.id, open.began);
        let (sign, reply) = tokio::select! {
            biased;
            answered = self.send_until_sent(id, &outgoing, deadline) => answered,
            Ok(()) = &mut open.cancelled => silent(UpstreamError::Cancelled {
                server: self.name.clone(),
                method: method.to_owned(),
            }),
            () = tokio::time::sleep_until(deadline.instant()) => silent(UpstreamError::DeadlineExceeded {
                server: self.name.clone(),
                method: method.to_owned(),
                waited_ms: millis(began.elapsed()),
            }),
        };
        if let Some(turn) = leave.tell(sign, self.made.elapsed()) {
            self.turned(turn);
        }
        (sign, reply)
    }

    /// People, and whoever watches the server's health, hear that it is left alone, or called again.
    fn turned(&self, turn: Turn) {
        self.log.note(match turn {
            Turn::Opened => "every call of late was lost: it is left alone for a moment, then tried again",
            Turn::Closed => "its calls are answered again",
        });
        // An actor that has more to do than it can hear of learns of it by its next probe.
        let _ = self.mailbox.tell(UpstreamMessage::Turned(turn));
    }

    /// Sends a request over the connection of the moment, and again over the next one as long as it is certain that
    /// it has not reached the server.
    async fn send_until_sent(
        self: &Arc<Self>,
        id: u64,
        outgoing: &Unsent<'_>,
        deadline: Deadline,
    ) -> (Sign, Result<RawReply, UpstreamError>) {
        let Unsent {
            method,
            name,
            params,
            client,
            wants_progress,
        } = *outgoing;
        loop {
            let connection = match self.ready(deadline).await {
                Ok(connection) => connection,
                Err(error) => return (Sign::Nothing, Err(error)),
            };
            let mirrors = self.mirrors(&connection, method, deadline).await;
            let mirrors = mirrors
                .as_ref()
                .zip(name)
                .and_then(|(of_tools, tool)| of_tools.get(tool));
            let abandon = AbandonOnDrop {
                connection: Some(&connection),
                id,
            };
            let mirrors = mirrors.map(Vec::as_slice);
            let call = Call {
                id,
                method,
                name,
                params,
                client,
                wants_progress,
                mirrors,
            };
            let answered = connection.call(&call).await;
            abandon.disarm();
            match answered {
                Ok(reply) => return (Sign::Works, Ok(reply)),
                Err(Failure::NotSent(_)) if connection.wires.is_gone() => {}
                Err(failure) => {
                    let sign = Sign::of(&failure);
                    return (sign, Err(failure.into_error(&self.name, method)));
                }
            }
        }
    }

    /// The arguments that are mirrored into headers. To know them, the tools of a modern HTTP server must have been
    /// read once.
    async fn mirrors(
        self: &Arc<Self>,
        connection: &Connection,
        method: &str,
        deadline: Deadline,
    ) -> Option<Arc<HashMap<String, Vec<Mirror>>>> {
        if method != method::TOOLS_CALL || !connection.mirrors_arguments() {
            return None;
        }
        if self.lists.mirrors().is_none() {
            // If they cannot be read, the server will say what is missing.
            let _ = Box::pin(self.list(ListKind::Tools, deadline)).await;
        }
        self.lists.mirrors()
    }

    /// Sees to it that a client which calls a tool says in headers what it says in the arguments. Tools that are not
    /// known are not checked: to call one that needs it, they have been read.
    pub async fn check_params(
        self: &Arc<Self>,
        params: Option<&RawValue>,
        given: &ParamHeaders,
        deadline: Deadline,
    ) -> Result<(), String> {
        let of_tools = match (self.lists.mirrors(), self.connection()) {
            (None, Some(connection)) => self.mirrors(&connection, method::TOOLS_CALL, deadline).await,
            (known, _) => known,
        };
        // Of most servers no tool has any: then the parameters are not read for it.
        let Some(of_tools) = of_tools.filter(|of_tools| !of_tools.is_empty()) else {
            return Ok(());
        };
        let tool = frame::name_of(method::TOOLS_CALL, params);
        let mirrors = tool.and_then(|tool| of_tools.get(&tool));
        mirrors.map_or(Ok(()), |mirrors| http::check(mirrors, params, given))
    }

    /// Sends a notification over the connection of the moment.
    pub async fn notify(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Deadline,
    ) -> Result<(), UpstreamError> {
        let connection = self.ready(deadline).await?;
        let sent = tokio::time::timeout_at(deadline.instant(), connection.notify(method, params)).await;
        let in_time = sent.unwrap_or_else(|_| {
            Err(Failure::NotSent(
                "it did not take the notification in time".into(),
            ))
        });
        in_time.map_err(|failure| match failure {
            Failure::NotSent(_) if self.is_moving() => UpstreamError::Stopped(self.name.clone()),
            failure => failure.into_error(&self.name, method),
        })
    }
}

/// Makes a request as a step of the caller's trace, if there is one.
pub(super) async fn traced(
    system: &System,
    path: &ActorPath,
    method: &str,
    name: Option<&str>,
    work: impl Future<Output = Result<RawReply, UpstreamError>>,
) -> Result<RawReply, UpstreamError> {
    let Some(context) = trace::current() else {
        return work.await;
    };
    let title: Cow<'static, str> = match name {
        Some(name) => format!("{method} {name}").into(),
        None => method.to_owned().into(),
    };
    system
        .trace(path, "upstream", title, context.correlation_id, work, outcome_of)
        .await
}

/// A request before it has an id.
#[derive(Clone, Copy)]
struct Unsent<'a> {
    method: &'a str,
    name: Option<&'a str>,
    params: Option<&'a RawValue>,
    client: &'a troupe_protocol::mcp::ClientCapabilities,
    wants_progress: bool,
}

/// Tells the server that nobody waits any more when the caller goes away: by deadline, cancellation or drop.
struct AbandonOnDrop<'a> {
    connection: Option<&'a Arc<Connection>>,
    id: u64,
}

impl AbandonOnDrop<'_> {
    fn disarm(mut self) {
        self.connection = None;
    }
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection {
            connection.abandon(self.id, "nobody waits for the answer any more");
        }
    }
}

fn outcome_of(reply: &Result<RawReply, UpstreamError>) -> Outcome {
    match reply {
        Ok(RawReply::Result(_)) => Outcome::Done,
        Ok(RawReply::Error(error)) => Outcome::Failed {
            error: error.get().chars().take(300).collect(),
        },
        Err(UpstreamError::Cancelled { .. }) => Outcome::Cancelled,
        Err(error) => Outcome::Failed {
            error: error.to_string(),
        },
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
