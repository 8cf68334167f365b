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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
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

    fn begin_at(&mut self, at: Where) {
        if self.at != Some(at) {
            *self = Self {
                at: Some(at),
                ..Self::default()
            };
        }
    }
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
        let refused = self.make(&lane, Connect::IfNeedBe, deadline).await?;
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
        self.make(&lane, connect, deadline).await
    }

    /// Makes what is wanted of a server. Answers what is refused.
    async fn make(
        self: &Arc<Self>,
        lane: &Arc<OfLane>,
        connect: Connect,
        deadline: Deadline,
    ) -> Result<Refused, UpstreamError> {
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
            return Ok(made.refused.clone());
        }
        let slot = match connect {
            Connect::IfNeedBe => Some(self.slot_for(name, profile, deadline).await?),
            Connect::Never => self.lane(name, profile),
        };
        let Some(slot) = slot else {
            return Ok(Refused::new());
        };
        slot.watched_by(lane);
        let connection = match (slot.connection(), connect) {
            (Some(connection), _) => connection,
            (None, Connect::IfNeedBe) => slot.ready(deadline).await?,
            (None, Connect::Never) => return Ok(Refused::new()),
        };
        made.begin_at(Where::Connection(
            connection.wires.connection,
            slot.sessions_begun(),
        ));
        let wanted = lane.wants.lock().of_all();
        match connection.info.era {
            Era::Legacy => subscribe(&slot, made, &wanted, deadline).await?,
            Era::Modern => listen(&connection, made, wanted, deadline).await,
        }
        Ok(made.refused.clone())
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

/// Brings the subscriptions at a legacy server to what is wanted.
async fn subscribe(
    slot: &Arc<Slot>,
    made: &mut Made,
    wanted: &BTreeSet<String>,
    deadline: Deadline,
) -> Result<(), UpstreamError> {
    let ask = async |method: &str, uri: &str| {
        let params = to_raw_value(&serde_json::json!({ "uri": uri })).ok();
        slot.request(method, params.as_deref(), CallOptions::own(deadline))
            .await
    };
    let (to_make, to_take_back) = made.difference(wanted);
    for uri in to_make {
        match ask(method::RESOURCES_SUBSCRIBE, &uri).await? {
            RawReply::Result(_) => {}
            RawReply::Error(error) => drop(made.refused.insert(uri.clone(), error.get().to_owned())),
        }
        made.uris.insert(uri);
    }
    for uri in to_take_back {
        // A server that cannot take it back tells too much, which nobody hears.
        if made.refused.remove(&uri).is_none() {
            let _ = ask(method::RESOURCES_UNSUBSCRIBE, &uri).await;
        }
        made.uris.remove(&uri);
    }
    Ok(())
}

/// Has a modern server tell of what is wanted.
async fn listen(connection: &Connection, made: &mut Made, wanted: BTreeSet<String>, deadline: Deadline) {
    if wanted == made.uris {
        return;
    }
    let taken = connection.listen_to_resources(&wanted, deadline).await;
    made.refused = wanted
        .iter()
        .filter(|uri| !taken.contains(*uri))
        .map(|uri| (uri.clone(), String::new()))
        .collect();
    made.uris = wanted;
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
    let made = shared
        .make(&lane, Connect::Never, Deadline::within(MAKE_TIME_MAX))
        .await;
    if let Err(error) = made {
        tracing::debug!(server = %lane.name, %error, "subscriptions could not be made again");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn set(uris: &[&str]) -> BTreeSet<String> {
        uris.iter().map(|uri| (*uri).to_owned()).collect()
    }

    #[test]
    fn a_resource_is_wanted_as_long_as_anybody_wants_it() {
        let mut wants = Wants::default();
        assert!(wants.add("a://1") && wants.add("a://1") && wants.add("a://2"));
        assert!(!wants.release("a://1"), "somebody else wants it");
        assert!(wants.release("a://1"));
        assert!(!wants.release("a://1"), "nobody wants it");
        assert_eq!(wants.of_all(), set(&["a://2"]));

        let node = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse::<NodeId>().unwrap();
        wants.set_of_node(node, set(&["a://2", "a://3"]));
        assert_eq!(wants.of_all(), set(&["a://2", "a://3"]));
        assert_eq!(wants.of_this_node(), set(&["a://2"]));
        wants.set_of_node(node, BTreeSet::new());
        assert_eq!(wants.of_all(), set(&["a://2"]));
        assert!(wants.of_nodes.is_empty());
    }

    #[test]
    fn what_one_node_may_want_is_bounded() {
        let mut wants = Wants::default();
        for number in 0..RESOURCES_MAX {
            assert!(wants.add(&number.to_string()));
        }
        assert!(!wants.add("one more"));
        assert!(wants.add("7"), "it is wanted already");
    }

    #[test]
    fn only_the_difference_is_made_and_everything_over_another_connection() {
        let mut made = Made::default();
        made.begin_at(Where::Connection(1, 0));
        made.uris = set(&["a", "b"]);
        made.begin_at(Where::Connection(1, 0));
        assert_eq!(
            made.difference(&set(&["b", "c"])),
            (vec!["c".to_owned()], vec!["a".to_owned()])
        );
        made.begin_at(Where::Connection(1, 1));
        assert_eq!(
            made.difference(&set(&["b"])),
            (vec!["b".to_owned()], Vec::new()),
            "a new session of the same connection knows of nothing"
        );
    }
}
