//! One server as its callers see it: the connection of the moment, the calls in flight, the lists, the log.
//!
//! The slot is shared by callers and the server's actor. The actor alone changes the state; callers read it without a
//! hop, and wait on it when there is no connection. So a call costs no message, and an actor that crashes takes no
//! connection with it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use troupe_protocol::mcp::{Era, Profile};
use troupe_protocol::server::{ServerName, Transport};
use troupe_protocol::upstream::{UpstreamInfo, UpstreamState};

use crate::cluster::bulletin::Bulletin;
use crate::cluster::{ClusterHandle, Whereabouts};
use crate::runtime::{Deadline, Mailbox, System};

use super::calls::CallTable;
use super::circuit::Circuit;
use super::connection::Connection;
use super::endpoint::UpstreamSettings;
use super::error::UpstreamError;
use super::lists::Lists;
use super::log::LogRing;
use super::messages::UpstreamMessage;
use super::placed::{self, UpstreamNews};
use super::retry::RetryBudget;
use super::shared::Shared;
use super::watch::OfLane;

mod requests;

pub(super) use requests::traced;

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
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
