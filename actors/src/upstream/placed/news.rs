//! What each node lets the others know of the servers it runs, and what it has heard of theirs. Cached: heard again.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::time::Instant;
use troupe_protocol::id::NodeId;
use troupe_protocol::mcp::ListKind;
use troupe_protocol::server::ServerName;
use troupe_protocol::upstream::{UpstreamInfo, UpstreamState};

use crate::cluster::ObserveTopic;
use crate::cluster::bulletin::{Bulletin, Page, Reader, read_all};
use crate::upstream::messages::UpstreamEvent;
use crate::upstream::shared::Shared;

/// Under which other nodes are asked for their news.
pub(super) const TOPIC: ObserveTopic = ObserveTopic::new("upstreams");
/// What a server says of itself goes to the other nodes if it is no longer than this, in bytes.
const INSTRUCTIONS_BYTES_MAX: usize = 16 * 1024;

/// Something about a server that runs on the node that tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::upstream) enum UpstreamNews {
    /// Where its connection stands, and what it said of itself.
    State(UpstreamState, Option<Arc<UpstreamInfo>>),
    /// A list is not what it was.
    ListChanged(ListKind),
    /// A resource has changed.
    ResourceUpdated(String),
}

impl UpstreamNews {
    /// Lets the other nodes know.
    pub fn publish(&self, server: &ServerName, bulletin: &Bulletin) {
        match self {
            Self::State(state, info) => {
                let is_long = |info: &Arc<UpstreamInfo>| {
                    let instructions = info.instructions.as_ref().map_or(0, String::len);
                    instructions > INSTRUCTIONS_BYTES_MAX
                };
                let info = info.clone().filter(|info| !is_long(info));
                bulletin.publish_json(server.as_str(), &(server, Self::State(state.clone(), info)));
            }
            Self::ListChanged(kind) => bulletin.publish_json(format!("{server} {kind}"), &(server, self)),
            Self::ResourceUpdated(uri) => bulletin.publish_json(format!("{server} {uri}"), &(server, self)),
        }
    }
}

/// What is known of servers on other nodes.
#[derive(Default)]
pub(in crate::upstream) struct Elsewhere {
    known: ArcSwap<HashMap<ServerName, Known>>,
}

/// A server on another node.
#[derive(Clone)]
struct Known {
    node: NodeId,
    state: UpstreamState,
    info: Option<Arc<UpstreamInfo>>,
    heard_at: Instant,
    /// Whether it was in use when it was last heard of: whoever gets it starts it.
    was_in_use: bool,
}

impl Elsewhere {
    /// Where the connection to a server stands, as its node last told.
    pub fn state(&self, name: &ServerName) -> Option<UpstreamState> {
        self.known.load().get(name).map(Known::state_now)
    }

    /// As [`state`](Self::state), if this node told it.
    pub fn state_at(&self, name: &ServerName, node: NodeId) -> Option<UpstreamState> {
        let known = self.known.load();
        known
            .get(name)
            .filter(|known| known.node == node)
            .map(Known::state_now)
    }

    /// What a server said of itself.
    pub fn info(&self, name: &ServerName) -> Option<Arc<UpstreamInfo>> {
        self.known.load().get(name).and_then(|known| known.info.clone())
    }

    /// As [`info`](Self::info), if the node told that calls to the server are answered.
    pub fn info_if_ready(&self, name: &ServerName, node: NodeId) -> Option<Arc<UpstreamInfo>> {
        let known = self.known.load();
        let known = known.get(name)?;
        let is_ready = known.node == node && known.state == UpstreamState::Ready;
        is_ready.then(|| known.info.clone()).flatten()
    }

    /// The servers that were in use on other nodes.
    pub fn in_use(&self) -> Vec<ServerName> {
        let known = self.known.load();
        let in_use = known.iter().filter(|(_, known)| known.was_in_use);
        in_use.map(|(name, _)| name.clone()).collect()
    }

    /// Forgets a server.
    pub fn forget(&self, name: &ServerName) {
        if self.known.load().contains_key(name) {
            self.change(|known| drop(known.remove(name)));
        }
    }

    fn change(&self, change: impl Fn(&mut HashMap<ServerName, Known>)) {
        self.known.rcu(|known| {
            let mut known = HashMap::clone(known);
            change(&mut known);
            known
        });
    }

    /// Takes in where a server's connection stands at a node; says what that means for those who listen here.
    fn take(
        known: &mut HashMap<ServerName, Known>,
        node: NodeId,
        server: &ServerName,
        state: UpstreamState,
        info: Option<Arc<UpstreamInfo>>,
    ) -> Option<UpstreamEvent> {
        let before = known.get(server);
        let is_resting = matches!(state, UpstreamState::Idle | UpstreamState::Stopped);
        // A node that has given the server away says so perhaps later than its new owner that it is up.
        if is_resting && before.is_some_and(|before| before.node != node) {
            return None;
        }
        let was_ready =
            before.is_some_and(|before| before.node == node && before.state == UpstreamState::Ready);
        let event = match &state {
            UpstreamState::Ready if !was_ready => info.as_ref().map(|info| UpstreamEvent::Up {
                server: server.clone(),
                era: info.era,
            }),
            UpstreamState::Waiting { reason, .. } => Some(UpstreamEvent::Down {
                server: server.clone(),
                reason: reason.clone(),
            }),
            _ => None,
        };
        let info = info.or_else(|| before.and_then(|before| before.info.clone()));
        let news = Known {
            node,
            was_in_use: !matches!(state, UpstreamState::Stopped)
                && (!is_resting || before.is_some_and(|before| before.was_in_use)),
            state,
            info,
            heard_at: Instant::now(),
        };
        known.insert(server.clone(), news);
        event
    }

    /// A node is gone, or began anew: what it told counts no longer.
    fn node_gone(known: &mut HashMap<ServerName, Known>, node: NodeId) -> Vec<ServerName> {
        let mut were_ready = Vec::new();
        for (server, known) in known.iter_mut().filter(|(_, known)| known.node == node) {
            if known.state == UpstreamState::Ready {
                were_ready.push(server.clone());
            }
            known.state = UpstreamState::Idle;
        }
        were_ready
    }
}

impl Known {
    /// The pause before the next attempt has become shorter since it was told.
    fn state_now(&self) -> UpstreamState {
        let mut state = self.state.clone();
        if let UpstreamState::Waiting { retry_in_ms, .. } = &mut state {
            let passed_ms = u64::try_from(self.heard_at.elapsed().as_millis()).unwrap_or(u64::MAX);
            *retry_in_ms = retry_in_ms.saturating_sub(passed_ms);
        }
        state
    }
}

/// Listens to all other nodes. Never ends.
pub(in crate::upstream) async fn read_others(shared: &Arc<Shared>) {
    let reader = NewsReader {
        shared: Arc::downgrade(shared),
        events: shared.events.clone(),
    };
    read_all(shared.cluster.clone(), TOPIC, Arc::new(reader)).await;
}

struct NewsReader {
    shared: Weak<Shared>,
    events: broadcast::Sender<UpstreamEvent>,
}

impl NewsReader {
    fn emit(&self, event: UpstreamEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }
}

impl Reader for NewsReader {
    fn heard(&self, node: NodeId, page: &Page) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let read = |(key, text): &(String, String)| match serde_json::from_str(text) {
            Ok(news) => Some(news),
            // Of a node with a newer program, perhaps.
            Err(error) => {
                tracing::debug!(%node, key, %error, "news that are not understood");
                None
            }
        };
        let news: Vec<(ServerName, UpstreamNews)> = page.entries.iter().filter_map(read).collect();
        let mut known = HashMap::clone(&shared.elsewhere.known.load());
        if page.is_beginning {
            Elsewhere::node_gone(&mut known, node);
        }
        let mut events = Vec::new();
        for (server, news) in news {
            match news {
                UpstreamNews::State(state, info) => {
                    events.extend(Elsewhere::take(&mut known, node, &server, state, info));
                }
                // What changed before this node listened, it has not kept.
                _ if page.is_beginning => {}
                UpstreamNews::ListChanged(kind) => events.push(UpstreamEvent::ListChanged { server, kind }),
                UpstreamNews::ResourceUpdated(uri) => {
                    events.push(UpstreamEvent::ResourceUpdated { server, uri })
                }
            }
        }
        // Only this task's reader changes it, and `forget`, which may well be repeated.
        shared.elsewhere.known.store(Arc::new(known));
        for event in events {
            shared.forget_lists(&event);
            self.emit(event);
        }
    }

    fn lost(&self, node: NodeId) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let mut known = HashMap::clone(&shared.elsewhere.known.load());
        let were_ready = Elsewhere::node_gone(&mut known, node);
        shared.elsewhere.known.store(Arc::new(known));
        for server in were_ready {
            let reason = format!("node {node}, which ran it, is gone");
            self.emit(UpstreamEvent::Down { server, reason });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn node(number: u128) -> NodeId {
        NodeId::from_ulid(ulid::Ulid(number))
    }

    fn info() -> Option<Arc<UpstreamInfo>> {
        Some(Arc::new(UpstreamInfo {
            era: troupe_protocol::mcp::Era::Legacy,
            protocol_version: "2025-11-25".to_owned(),
            server_info: troupe_protocol::upstream::ServerInfo::default(),
            capabilities: serde_json::json!({}),
            instructions: None,
        }))
    }

    #[test]
    fn a_server_that_moves_is_not_taken_for_one_that_rests() {
        let server = ServerName::new("time").unwrap();
        let mut known = HashMap::new();
        let take =
            |known: &mut _, number, state| Elsewhere::take(known, node(number), &server, state, info());
        assert!(matches!(
            take(&mut known, 1, UpstreamState::Ready),
            Some(UpstreamEvent::Up { .. })
        ));
        assert_eq!(
            take(&mut known, 1, UpstreamState::Ready),
            None,
            "it was up already"
        );
        assert!(matches!(
            take(&mut known, 2, UpstreamState::Ready),
            Some(UpstreamEvent::Up { .. })
        ));
        assert_eq!(take(&mut known, 1, UpstreamState::Stopped), None);
        assert_eq!(
            (known[&server].node, known[&server].state.clone()),
            (node(2), UpstreamState::Ready)
        );
    }

    #[test]
    fn the_servers_of_a_node_that_is_gone_are_down_and_were_in_use() {
        let server = ServerName::new("time").unwrap();
        let mut known = HashMap::new();
        Elsewhere::take(&mut known, node(1), &server, UpstreamState::Ready, info());
        assert_eq!(Elsewhere::node_gone(&mut known, node(2)), []);
        assert_eq!(
            Elsewhere::node_gone(&mut known, node(1)),
            std::slice::from_ref(&server)
        );
        assert!(known[&server].was_in_use);
        let elsewhere = Elsewhere {
            known: ArcSwap::from_pointee(known),
        };
        assert_eq!(elsewhere.in_use(), std::slice::from_ref(&server));
        assert_eq!(elsewhere.info_if_ready(&server, node(1)), None);
    }
}
