//! Subscriptions to resources: what the clients of all nodes together want to hear of, made once at each server.
//!
//! A client that wants to hear of a resource holds a [`Watch`] on it. The first on a node has the server told, the last to
//! be dropped has it told otherwise: with `resources/subscribe` and `resources/unsubscribe` if it is a legacy server, with
//! another `subscriptions/listen` in place of the last one if it is a modern one. What has been made is lost with the
//! connection, and is made again over the next.
//!
//! A server that is a process runs on one node of the cluster. The others tell that node what their own clients want,
//! always all of it, so that it may be told twice and by whoever comes first; it forgets what a node wanted that is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use troupe_protocol::cluster::MemberState;
use troupe_protocol::id::NodeId;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::{Era, Profile, method};
use troupe_protocol::server::ServerName;

use crate::cluster::Whereabouts;
use crate::runtime::Deadline;

use super::connection::Connection;
use super::error::UpstreamError;
use super::messages::{CallOptions, UpstreamEvent};
use super::placed::{self, watch_remotely};
use super::shared::Shared;
use super::slot::Slot;

/// The most resources of one server that one node's clients may be subscribed to.
const RESOURCES_MAX: usize = 10_000;
/// Changes are gathered for so long before they are made: sessions end in crowds.
const GATHER_TIME: Duration = Duration::from_millis(50);
/// How long making them may take.
const MAKE_TIME_MAX: Duration = Duration::from_secs(30);
/// How long the server may take for one of many: it may answer for the others.
const ONE_TIME_MAX: Duration = Duration::from_secs(5);
/// How many are made at the same time.
const AT_ONCE_MAX: usize = 16;
/// After so long those that are left wait for the next time: whoever wants another one is not to wait for all.
const ROUND_TIME_MAX: Duration = Duration::from_secs(5);
/// The pauses before it is tried again to make what could not be made.
const AGAIN_AFTER_MIN: Duration = Duration::from_secs(2);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(120);

/// Servers' own words for what cannot be subscribed to, by resource: error objects.
pub(super) type Refused = BTreeMap<String, String>;

/// Why there is no subscription.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The server does not want it; its error object.
    #[error("the server refuses the subscription: {0}")]
    Refused(Box<str>),
    /// The server, a modern one, has not said that it will tell of this.
    #[error("server {0} does not tell of changes of this resource")]
    NotOffered(ServerName),
    /// So much is wanted already.
    #[error("{RESOURCES_MAX} resources of this server are subscribed to already")]
    TooMany,
    /// The server did not answer.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// A wish to hear of a resource, until it is dropped.
pub struct Watch {
    uri: String,
    lane: Arc<OfLane>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({})", self.uri)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.lane.wants.lock().release(&self.uri) {
            self.lane.make_soon();
        }
    }
}

/// The wishes of this node's clients and of other nodes, by server and by what the clients can do for it.
#[derive(Default)]
pub(super) struct Watches {
    lanes: Mutex<HashMap<(ServerName, Profile), Arc<OfLane>>>,
    changed: Arc<Notify>,
}

impl Watches {
    fn of(&self, name: &ServerName, profile: Profile) -> Arc<OfLane> {
        let mut lanes = self.lanes.lock();
        let lane = lanes.entry((name.clone(), profile)).or_insert_with(|| {
            Arc::new(OfLane {
                name: name.clone(),
                profile,
                wants: Mutex::default(),
                made: tokio::sync::Mutex::default(),
                has_changed: AtomicBool::new(false),
                failures: AtomicU32::new(0),
                changed: Arc::clone(&self.changed),
            })
        });
        Arc::clone(lane)
    }

    fn all(&self) -> Vec<Arc<OfLane>> {
        self.lanes.lock().values().cloned().collect()
    }
}

/// What is wanted of one server by clients of one kind, and what has been made of it.
pub(super) struct OfLane {
    name: ServerName,
    profile: Profile,
    wants: Mutex<Wants>,
    /// Held while it is being made, so that one change is made after the other.
    made: tokio::sync::Mutex<Made>,
    has_changed: AtomicBool,
    /// How often in a row not all could be made.
    failures: AtomicU32,
    changed: Arc<Notify>,
}

impl OfLane {
    /// Whether anybody wants anything.
    pub fn is_wanted(&self) -> bool {
        let wants = self.wants.lock();
        !wants.here.is_empty() || !wants.of_nodes.is_empty()
    }

    /// What is wanted, or the connection over which it was made, is not what it was.
    pub fn make_soon(&self) {
        self.has_changed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Notes whether all that is wanted has been made; if not, how long it is until it is tried again.
    fn tried(&self, is_all: bool) -> Option<Duration> {
        if is_all {
            self.failures.store(0, Ordering::Relaxed);
            return None;
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        Some((AGAIN_AFTER_MIN * (1 << failures.min(6))).min(AGAIN_AFTER_MAX))
    }
}

/// What is wanted of one server. Pure.
#[derive(Debug, Default)]
struct Wants {
    /// The wishes of this node's clients, counted.
    here: BTreeMap<String, usize>,
    /// Those of nodes that do not run the server, where this one does.
    of_nodes: HashMap<NodeId, BTreeSet<String>>,
}

impl Wants {
    /// One more wants it; false if there are too many.
    fn add(&mut self, uri: &str) -> bool {
        if self.here.len() >= RESOURCES_MAX && !self.here.contains_key(uri) {
            return false;
        }
        *self.here.entry(uri.to_owned()).or_default() += 1;
        true
    }

    /// One less wants it; true if it was the last.
    fn release(&mut self, uri: &str) -> bool {
        let Some(count) = self.here.get_mut(uri) else {
            return false;
        };
        *count -= 1;
        let was_last = *count == 0;
        if was_last {
            self.here.remove(uri);
        }
        was_last
    }

    /// A node wants these, and nothing else any more.
    fn set_of_node(&mut self, node: NodeId, uris: BTreeSet<String>) {
        if uris.is_empty() {
            self.of_nodes.remove(&node);
        } else {
            self.of_nodes.insert(node, uris);
        }
    }

    fn of_this_node(&self) -> BTreeSet<String> {
        self.here.keys().cloned().collect()
    }

    fn of_all(&self) -> BTreeSet<String> {
        let of_nodes = self.of_nodes.values().flatten().cloned();
        self.here.keys().cloned().chain(of_nodes).collect()
    }
}

/// Where subscriptions were made: they are lost when it is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    /// Over this connection, in its session of this number.
    Connection(u64, u64),
    /// At the node that runs the server.
    Node(NodeId),
}

/// What has been made.
#[derive(Debug, Default)]
struct Made {
    at: Option<Where>,
    uris: BTreeSet<String>,
    /// What the server has not taken of that.
    refused: Refused,
}

impl Made {
    /// What is to be made anew, and what to be taken back, to come to what is wanted.
    fn difference(&self, wanted: &BTreeSet<String>) -> (Vec<String>, Vec<String>) {
        let to_make = wanted.difference(&self.uris).cloned().collect();
        let to_take_back = self.uris.difference(wanted).cloned().collect();
        (to_make, to_take_back)
    }

    /// A legacy server has answered for one.
    fn answered(&mut self, uri: String, reply: &RawReply) {
        if let RawReply::Error(error) = reply {
            self.refused.insert(uri.clone(), error.get().to_owned());
        }
        self.uris.insert(uri);
    }

    /// A modern server has said what it takes of this, or nothing in time: then it is asked again.
    fn listened(&mut self, wanted: BTreeSet<String>, taken: Option<BTreeSet<String>>) -> Outcome {
        let is_answered = taken.is_some();
        let taken = taken.unwrap_or_default();
        let refused = wanted.difference(&taken).map(|uri| (uri.clone(), String::new()));
        self.refused = refused.collect();
        self.uris = if is_answered { wanted } else { BTreeSet::new() };
        let outcome = self.outcome(is_answered);
        if !is_answered {
            self.refused.clear();
        }
        outcome
    }

    fn outcome(&self, is_all: bool) -> Outcome {
        Outcome {
            refused: self.refused.clone(),
            is_all,
        }
    }

    fn begin_at(&mut self, at: Where) {
        if self.at != Some(at) {
            *self = Self {
                at: Some(at),
                ..Self::default()
            };
        }
    }
}

/// What became of what was to be made.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    refused: Refused,
    /// Whether nothing is left to be made.
    is_all: bool,
}

impl Outcome {
    /// Where there is no connection; what is wanted is made over the next.
    const NOTHING: Self = Self {
        refused: Refused::new(),
        is_all: true,
    };
}

/// Whether a server is started for the sake of subscriptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connect {
    IfNeedBe,
    /// What is taken back is not worth a start.
    Never,
}

impl Shared {
    /// Has the server tell of this resource's changes until the watch is dropped. They come as
    /// [`UpstreamEvent::ResourceUpdated`].
    pub(super) async fn watch(
        self: &Arc<Self>,
        server: &ServerName,
        profile: Profile,
        uri: &str,
        deadline: Deadline,
    ) -> Result<Watch, WatchError> {
        let lane = self.watches.of(server, profile);
        if !lane.wants.lock().add(uri) {
            return Err(WatchError::TooMany);
        }
        // From here on dropping it takes it back.
        let watch = Watch {
            uri: uri.to_owned(),
            lane: Arc::clone(&lane),
        };
        let Outcome { refused, is_all } = self.make(&lane, Connect::IfNeedBe, Some(uri), deadline).await?;
        if !is_all {
            lane.make_soon();
        }
        match refused.get(uri) {
            None => Ok(watch),
            Some(error) if error.is_empty() => Err(WatchError::NotOffered(server.clone())),
            Some(error) => Err(WatchError::Refused(error.as_str().into())),
        }
    }

    /// Another node's clients want to hear of these resources of a server that runs here. Answers what is refused.
    pub(super) async fn watch_for_node(
        self: &Arc<Self>,
        server: &ServerName,
        profile: Profile,
        node: NodeId,
        uris: BTreeSet<String>,
        deadline: Deadline,
    ) -> Result<Refused, UpstreamError> {
        let lane = self.watches.of(server, profile);
        let connect = if uris.is_empty() {
            Connect::Never
        } else {
            Connect::IfNeedBe
        };
        lane.wants.lock().set_of_node(node, uris);
        let Outcome { refused, is_all } = self.make(&lane, connect, None, deadline).await?;
        if !is_all {
            lane.make_soon();
        }
        Ok(refused)
    }

    /// Makes what is wanted of a server, or only this of it where each is asked for by itself.
    async fn make(
        self: &Arc<Self>,
        lane: &Arc<OfLane>,
        connect: Connect,
        only: Option<&str>,
        deadline: Deadline,
    ) -> Result<Outcome, UpstreamError> {
        let (name, profile) = (&lane.name, lane.profile);
        let mut made = tokio::time::timeout_at(deadline.instant(), lane.made.lock())
            .await
            .map_err(|_| UpstreamError::Overloaded {
                server: name.clone(),
                reason: "its subscriptions are being made".to_owned(),
            })?;
        let made = &mut *made;
        lane.has_changed.store(false, Ordering::Release);
        if self.is_placed(name)
            && let Whereabouts::At(node, _) = self.cluster.whereabouts(&placed::address_of(name))
        {
            lane.wants.lock().of_nodes.clear();
            made.begin_at(Where::Node(node));
            let wanted = lane.wants.lock().of_this_node();
            if wanted != made.uris {
                made.refused = watch_remotely(self, name, profile, &wanted, deadline).await?;
                made.uris = wanted;
            }
            return Ok(made.outcome(true));
        }
        let slot = match connect {
            Connect::IfNeedBe => Some(self.slot_for(name, profile, deadline).await?),
            Connect::Never => self.lane(name, profile),
        };
        let Some(slot) = slot else {
            return Ok(Outcome::NOTHING);
        };
        slot.watched_by(lane);
        let connection = match (slot.connection(), connect) {
            (Some(connection), _) => connection,
            (None, Connect::IfNeedBe) => slot.ready(deadline).await?,
            (None, Connect::Never) => return Ok(Outcome::NOTHING),
        };
        made.begin_at(Where::Connection(
            connection.wires.connection,
            slot.sessions_begun(),
        ));
        let wanted = lane.wants.lock().of_all();
        match connection.info.era {
            Era::Legacy => subscribe(&slot, made, &wanted, only, deadline).await,
            Era::Modern => Ok(listen(&connection, made, wanted, deadline).await),
        }
    }

    /// Forgets what nodes wanted that are gone.
    fn forget_nodes(&self, lane: &OfLane) {
        let membership = self.cluster.membership();
        let is_there = |node: &NodeId| {
            let member = membership.members.get(node);
            member.is_some_and(|member| member.state != MemberState::Down)
        };
        let mut wants = lane.wants.lock();
        let before = wants.of_nodes.len();
        wants.of_nodes.retain(|node, _| is_there(node));
        if wants.of_nodes.len() != before {
            lane.has_changed.store(true, Ordering::Release);
        }
    }
}

/// A legacy server, as it is told what is subscribed to.
trait Subscribes: Sync {
    fn ask<'a>(
        &'a self,
        method: &'static str,
        uri: &'a str,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<RawReply, UpstreamError>>;
}

impl Subscribes for Arc<Slot> {
    fn ask<'a>(
        &'a self,
        method: &'static str,
        uri: &'a str,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<RawReply, UpstreamError>> {
        Box::pin(async move {
            let params = to_raw_value(&serde_json::json!({ "uri": uri })).ok();
            let options = CallOptions::own(deadline);
            self.request(method, params.as_deref(), options).await
        })
    }
}

/// Brings the subscriptions at a legacy server to what is wanted, or makes only this one. What it does not answer in time is
/// left for the next time, and holds up nothing else.
async fn subscribe(
    server: &dyn Subscribes,
    made: &mut Made,
    wanted: &BTreeSet<String>,
    only: Option<&str>,
    deadline: Deadline,
) -> Result<Outcome, UpstreamError> {
    let (mut to_make, to_take_back) = made.difference(wanted);
    if let Some(uri) = only.filter(|only| to_make.iter().any(|uri| uri == only)) {
        let reply = server.ask(method::RESOURCES_SUBSCRIBE, uri, deadline).await?;
        made.answered(uri.to_owned(), &reply);
    }
    if only.is_some() {
        to_make.retain(|uri| Some(uri.as_str()) != only);
        return Ok(made.outcome(to_make.is_empty() && to_take_back.is_empty()));
    }
    let until = Instant::now() + ROUND_TIME_MAX.min(deadline.remaining());
    let making = to_make.into_iter().map(|uri| -> BoxFuture<'_, _> {
        Box::pin(async move {
            // Those that have not begun by then wait for the next time.
            if Instant::now() >= until {
                return (uri, None);
            }
            let one = Deadline::within(ONE_TIME_MAX.min(deadline.remaining()));
            let reply = server.ask(method::RESOURCES_SUBSCRIBE, &uri, one).await;
            (uri, reply.ok())
        })
    });
    let mut is_all = true;
    let mut making = futures::stream::iter(making).buffer_unordered(AT_ONCE_MAX);
    while let Some((uri, reply)) = making.next().await {
        match reply {
            Some(reply) => made.answered(uri, &reply),
            None => is_all = false,
        }
    }
    for uri in to_take_back {
        // A server that cannot take it back tells too much, which nobody hears.
        if made.refused.remove(&uri).is_none() {
            let one = Deadline::within(ONE_TIME_MAX.min(deadline.remaining()));
            let _ = server.ask(method::RESOURCES_UNSUBSCRIBE, &uri, one).await;
        }
        made.uris.remove(&uri);
    }
    Ok(made.outcome(is_all))
}

/// Has a modern server tell of what is wanted.
async fn listen(
    connection: &Connection,
    made: &mut Made,
    wanted: BTreeSet<String>,
    deadline: Deadline,
) -> Outcome {
    if wanted == made.uris {
        return made.outcome(true);
    }
    let taken = connection.listen_to_resources(&wanted, deadline).await;
    made.listened(wanted, taken)
}

/// The parameters that ask a modern server to tell of these resources.
pub(super) fn listen_params(uris: &BTreeSet<String>) -> Option<Box<RawValue>> {
    let wanted = serde_json::json!({ "notifications": { "resourceSubscriptions": uris } });
    to_raw_value(&wanted).ok()
}

/// Takes back what nobody wants any more, and makes again what was lost with a connection. Never ends.
pub(super) async fn keep_watches(shared: Arc<Shared>) {
    let mut events = shared.events.subscribe();
    let mut epochs = shared.cluster.epochs();
    let mut making = FuturesUnordered::new();
    loop {
        // Servers for which something is to be made whatever is thought to have been.
        let mut lost: Option<ServerName> = None;
        let mut are_all_lost = false;
        tokio::select! {
            () = shared.watches.changed.notified() => tokio::time::sleep(GATHER_TIME).await,
            event = events.recv() => match event {
                Ok(UpstreamEvent::Up { server, .. }) => lost = Some(server),
                Ok(_) => continue,
                Err(RecvError::Lagged(_)) => are_all_lost = true,
                Err(RecvError::Closed) => return,
            },
            changed = epochs.changed() => {
                if changed.is_err() {
                    return;
                }
                for lane in shared.watches.all() {
                    shared.forget_nodes(&lane);
                }
            }
            Some(()) = making.next(), if !making.is_empty() => continue,
        }
        for lane in shared.watches.all() {
            let is_lost = are_all_lost || lost.as_ref() == Some(&lane.name);
            if is_lost || lane.has_changed.load(Ordering::Acquire) {
                making.push(make_again(Arc::clone(&shared), lane, is_lost));
            }
        }
    }
}

async fn make_again(shared: Arc<Shared>, lane: Arc<OfLane>, is_lost: bool) {
    if is_lost {
        let mut made = lane.made.lock().await;
        // What was made over a connection of this node's own is known by that; another node's may be a new one.
        if matches!(made.at, Some(Where::Node(_))) {
            made.at = None;
        }
    }
    let deadline = Deadline::within(MAKE_TIME_MAX);
    let made = shared.make(&lane, Connect::Never, None, deadline).await;
    if let Err(error) = &made {
        tracing::debug!(server = %lane.name, %error, "subscriptions could not be made again");
    }
    let is_all = made.is_ok_and(|outcome| outcome.is_all);
    if let Some(pause) = lane.tried(is_all || !lane.is_wanted()) {
        tokio::time::sleep(pause).await;
        lane.make_soon();
    }
}

#[cfg(test)]
mod tests;
