//! Which links there should be and who may have one, without I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use troupe_protocol::cluster::frame::{ClusterTiming, Hello, common_version};
use troupe_protocol::error::Code;
use troupe_protocol::id::NodeId;

use super::connection::PeerStart;
use super::error::ServiceError;
use super::messages::Peer;
use super::settings::{HIGHER_ID_DIALS_AFTER, PROVEN_AFTER, REDIAL_MS_MIN};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Dial a peer, now or after a pause.
    Dial {
        peer: Peer,
        attempt: u64,
        after: Duration,
    },
    /// End the connection to a node.
    Close { node: NodeId, reason: &'static str },
}

/// The links of a node.
#[derive(Debug)]
pub(super) struct LinksState {
    own: NodeId,
    redial_ms_max: u64,
    peers: BTreeMap<NodeId, Wanted>,
    /// Were among the peers in this life of the actor. (Who was removed from the cluster is known from its membership.)
    removed: BTreeSet<NodeId>,
    open: BTreeMap<NodeId, Open>,
    attempts: u64,
}

/// A link that there should be.
#[derive(Debug)]
struct Wanted {
    address: String,
    failures: u32,
    /// The attempt to dial that is under way or waits for its time.
    attempt: Option<u64>,
}

/// A connection that there is.
#[derive(Debug)]
struct Open {
    start: PeerStart,
    key: u64,
}

impl LinksState {
    pub(super) fn new(own: NodeId, redial_ms_max: u64) -> Self {
        Self {
            own,
            redial_ms_max,
            peers: BTreeMap::new(),
            removed: BTreeSet::new(),
            open: BTreeMap::new(),
            attempts: 0,
        }
    }

    /// These are the nodes.
    pub(super) fn connect_to(&mut self, peers: Vec<Peer>) -> Vec<Effect> {
        let peers: BTreeMap<NodeId, Peer> = peers
            .into_iter()
            .filter(|peer| peer.id != self.own)
            .map(|peer| (peer.id, peer))
            .collect();
        let mut effects = Vec::new();
        let gone: Vec<NodeId> = self
            .peers
            .keys()
            .copied()
            .filter(|id| !peers.contains_key(id))
            .collect();
        for node in gone {
            self.peers.remove(&node);
            self.removed.insert(node);
            if self.open.contains_key(&node) {
                effects.push(Effect::Close {
                    node,
                    reason: "the node is no member any more",
                });
            }
        }
        for (id, peer) in peers {
            self.removed.remove(&id);
            let is_open = self.open.contains_key(&id);
            let wanted = self.peers.entry(id).or_insert_with(|| Wanted {
                address: String::new(),
                failures: 0,
                attempt: None,
            });
            let has_moved = wanted.address != peer.address;
            wanted.address = peer.address;
            if !is_open && (has_moved || wanted.attempt.is_none()) {
                wanted.failures = 0;
                effects.extend(self.dial(id, Duration::ZERO));
            }
        }
        effects
    }

    /// Of two nodes the one with the lower id dials at once, the other when no link has come of that: the address that the
    /// first one knows may be wrong.
    fn dial(&mut self, node: NodeId, after: Duration) -> Option<Effect> {
        let after = match self.own > node {
            true => after + HIGHER_ID_DIALS_AFTER,
            false => after,
        };
        let wanted = self.peers.get_mut(&node)?;
        self.attempts += 1;
        wanted.attempt = Some(self.attempts);
        Some(Effect::Dial {
            peer: Peer {
                id: node,
                address: wanted.address.clone(),
            },
            attempt: self.attempts,
            after,
        })
    }

    /// Whether an attempt whose time has come is still wanted.
    pub(super) fn is_due(&self, node: NodeId, attempt: u64) -> bool {
        let wanted = self.peers.get(&node).and_then(|wanted| wanted.attempt);
        wanted == Some(attempt) && !self.open.contains_key(&node)
    }

    /// An attempt failed; another follows.
    pub(super) fn dial_failed(&mut self, node: NodeId, attempt: u64) -> Option<Effect> {
        if !self.is_due(node, attempt) {
            return None;
        }
        let wanted = self.peers.get_mut(&node)?;
        wanted.failures = wanted.failures.saturating_add(1);
        let pause = pause(wanted.failures, self.redial_ms_max);
        self.dial(node, pause)
    }

    /// Whether a peer that introduces itself may have a link; what it replaces is to be ended first.
    ///
    /// # Errors
    /// Why it may not.
    pub(super) fn admit(&self, hello: &Hello) -> Result<Option<Effect>, ServiceError> {
        let node = hello.node;
        if node == self.own {
            let detail =
                format!("node {node} is this node itself: two nodes run with copies of one data folder");
            return Err(ServiceError::new(Code::NodeNameTaken, detail));
        }
        if self.removed.contains(&node) {
            let detail = format!("node {node} was removed from the cluster");
            return Err(ServiceError::new(Code::JoinRefused, detail));
        }
        let Some(open) = self.open.get(&node) else {
            return Ok(None);
        };
        let taken = |detail: String| Err(ServiceError::new(Code::NodeNameTaken, detail));
        if hello.generation < open.start.generation {
            return taken(format!(
                "node {node} runs already with start {}, this is its earlier start {}",
                open.start.generation, hello.generation
            ));
        }
        if hello.generation == open.start.generation && hello.instance != open.start.instance {
            return taken(format!(
                "node {node} runs already with start {}: two nodes run with copies of one data folder",
                hello.generation
            ));
        }
        // It has started anew, or has lost a connection whose end was not noticed here yet.
        Ok(Some(Effect::Close {
            node,
            reason: "the peer opened another connection",
        }))
    }

    /// A connection is open.
    pub(super) fn opened(&mut self, start: PeerStart, key: u64) {
        self.open.insert(start.node, Open { start, key });
        if let Some(wanted) = self.peers.get_mut(&start.node) {
            wanted.attempt = None;
        }
    }

    /// A connection has ended after so long. False if another has taken its place.
    pub(super) fn ended(&mut self, node: NodeId, key: u64, lived: Duration) -> (bool, Option<Effect>) {
        let is_current = self.open.get(&node).is_some_and(|open| open.key == key);
        if !is_current {
            return (false, None);
        }
        self.open.remove(&node);
        let Some(wanted) = self.peers.get_mut(&node) else {
            return (true, None);
        };
        wanted.failures = match lived >= PROVEN_AFTER {
            true => 0,
            false => wanted.failures.saturating_add(1),
        };
        let pause = pause(wanted.failures, self.redial_ms_max);
        (true, self.dial(node, pause))
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = (NodeId, &str)> {
        self.peers
            .iter()
            .map(|(id, wanted)| (*id, wanted.address.as_str()))
    }
}

/// The version of the wire for a peer.
///
/// # Errors
/// When there is none.
pub(super) fn negotiate(ours: (u16, u16), hello: &Hello) -> Result<u16, ServiceError> {
    let theirs = (hello.wire_min, hello.wire_max);
    common_version(ours, theirs).ok_or_else(|| {
        let detail = format!(
            "node {} speaks versions {} to {} of the wire, this node {} to {}: update the older one; versions that follow \
             each other can run together",
            hello.node, theirs.0, theirs.1, ours.0, ours.1
        );
        ServiceError::new(Code::WireVersionUnsupported, detail)
    })
}

/// Refuses a peer whose times differ: neither could tell when a lease that the other gave is over.
///
/// # Errors
/// When they differ.
pub(super) fn compare_timing(ours: Option<ClusterTiming>, hello: &Hello) -> Result<(), ServiceError> {
    match (ours, hello.timing) {
        (Some(ours), Some(theirs)) if ours != theirs => {
            let detail = format!(
                "node {} has {theirs}, this node {ours}: all nodes need the same, and a change needs all of them stopped",
                hello.node
            );
            Err(ServiceError::new(Code::ClusterSettingsDiffer, detail))
        }
        _ => Ok(()),
    }
}

/// Doubling from [`REDIAL_MS_MIN`], with up to half of it left to chance so that nodes do not dial in step.
fn pause(failures: u32, ms_max: u64) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let doubled = REDIAL_MS_MIN.saturating_mul(1 << (failures - 1).min(16));
    let ms = doubled.min(ms_max);
    Duration::from_millis(ms - fastrand::u64(0..=ms / 2))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_protocol::cluster::Generation;
    use ulid::Ulid;

    use super::*;

    fn node(number: u128) -> NodeId {
        NodeId::from_ulid(Ulid(number))
    }

    fn peer(number: u128) -> Peer {
        Peer {
            id: node(number),
            address: format!("127.0.0.1:{number}"),
        }
    }

    fn start(number: u128, generation: u64, instance: u64) -> PeerStart {
        PeerStart {
            node: node(number),
            generation: Generation(generation),
            instance,
        }
    }

    fn hello(number: u128, generation: u64, instance: u64) -> Hello {
        Hello {
            wire_min: 1,
            wire_max: 2,
            node: node(number),
            generation: Generation(generation),
            instance,
            dispatcher: 1,
            key: 1,
            timing: None,
        }
    }

    fn state() -> LinksState {
        LinksState::new(node(5), 2_000)
    }

    fn dialled(effects: &[Effect]) -> Vec<(NodeId, u64, Duration)> {
        let dials = effects.iter().filter_map(|effect| match effect {
            Effect::Dial { peer, attempt, after } => Some((peer.id, *attempt, *after)),
            Effect::Close { .. } => None,
        });
        dials.collect()
    }

    #[test]
    fn nodes_with_higher_ids_are_dialled_at_once_and_others_when_they_have_not_dialled() {
        let mut state = state();
        let effects = state.connect_to(vec![peer(4), peer(5), peer(6)]);
        assert_eq!(
            dialled(&effects),
            [(node(4), 1, HIGHER_ID_DIALS_AFTER), (node(6), 2, Duration::ZERO)]
        );
        assert!(state.is_due(node(4), 1), "nothing has come");
        state.opened(start(4, 1, 1), 10);
        assert!(!state.is_due(node(4), 1), "it has dialled");
        let (_, effect) = state.ended(node(4), 10, Duration::from_secs(60));
        assert_eq!(dialled(&[effect.unwrap()])[0].2, HIGHER_ID_DIALS_AFTER);
        assert_eq!(
            state.connect_to(vec![peer(4), peer(6)]),
            [],
            "the attempts are under way"
        );
    }

    #[test]
    fn a_peer_is_dialled_again_and_again_with_growing_pauses() {
        let mut state = state();
        state.connect_to(vec![peer(6)]);
        let mut longest = Duration::ZERO;
        for attempt in 1..20 {
            let effect = state.dial_failed(node(6), attempt).unwrap();
            let (_, next, pause) = dialled(&[effect])[0];
            assert_eq!(next, attempt + 1);
            assert!(pause <= Duration::from_millis(2_000) && pause >= Duration::from_millis(25));
            longest = longest.max(pause);
            assert!(state.is_due(node(6), next));
            assert_eq!(state.dial_failed(node(6), attempt), None, "an attempt fails once");
        }
        assert!(longest >= Duration::from_millis(1_000));
    }

    #[test]
    fn a_connection_that_lived_is_replaced_at_once_and_one_that_did_not_after_a_pause() {
        let mut state = state();
        state.connect_to(vec![peer(6)]);
        state.opened(start(6, 1, 1), 10);
        assert!(!state.is_due(node(6), 1));
        let (was_current, effect) = state.ended(node(6), 10, Duration::from_secs(60));
        assert!(was_current);
        assert_eq!(dialled(&[effect.unwrap()])[0].2, Duration::ZERO);
        state.opened(start(6, 1, 1), 11);
        assert_eq!(
            state.ended(node(6), 10, Duration::ZERO),
            (false, None),
            "that was the one before"
        );
        let (_, effect) = state.ended(node(6), 11, Duration::ZERO);
        assert!(dialled(&[effect.unwrap()])[0].2 > Duration::ZERO);
    }

    #[test]
    fn a_restarted_node_takes_its_place_and_a_copy_of_it_does_not() {
        let mut state = state();
        assert_eq!(state.admit(&hello(4, 3, 1)).unwrap(), None);
        state.opened(start(4, 3, 1), 10);
        assert!(
            matches!(state.admit(&hello(4, 4, 2)), Ok(Some(Effect::Close { .. }))),
            "a later start"
        );
        assert!(
            matches!(state.admit(&hello(4, 3, 1)), Ok(Some(Effect::Close { .. }))),
            "the same process"
        );
        for (copy, says) in [(hello(4, 3, 2), "copies"), (hello(4, 2, 9), "earlier")] {
            let refused = state.admit(&copy).unwrap_err();
            assert_eq!(refused.code, Code::NodeNameTaken);
            assert!(refused.detail.contains(says), "{refused}");
        }
        assert_eq!(
            state.admit(&hello(5, 1, 1)).unwrap_err().code,
            Code::NodeNameTaken
        );
    }

    #[test]
    fn a_removed_node_is_closed_and_not_admitted_until_it_is_a_member_again() {
        let mut state = state();
        assert!(
            state.admit(&hello(4, 1, 1)).is_ok(),
            "one that joins may be heard of before the log says so"
        );
        state.connect_to(vec![peer(4), peer(6)]);
        state.opened(start(4, 1, 1), 10);
        let effects = state.connect_to(vec![peer(6)]);
        assert!(matches!(effects[..], [Effect::Close { .. }]));
        assert_eq!(
            state.ended(node(4), 10, Duration::ZERO),
            (true, None),
            "not dialled again"
        );
        assert_eq!(state.admit(&hello(4, 1, 1)).unwrap_err().code, Code::JoinRefused);
        state.connect_to(vec![peer(4), peer(6)]);
        assert!(state.admit(&hello(4, 1, 1)).is_ok());
    }

    #[test]
    fn versions_that_do_not_meet_are_refused_clearly() {
        assert_eq!(negotiate((1, 1), &hello(4, 1, 1)).unwrap(), 1);
        let refused = negotiate((3, 4), &hello(4, 1, 1)).unwrap_err();
        assert_eq!(refused.code, Code::WireVersionUnsupported);
        assert!(
            refused.detail.contains("1 to 2") && refused.detail.contains("3 to 4"),
            "{refused}"
        );
    }
}
