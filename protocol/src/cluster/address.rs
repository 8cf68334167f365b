//! Where placed actors belong.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::member::Membership;
use crate::id::NodeId;

/// The kinds of actors of which there is one in the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityKind {
    /// The connection to a stdio server: its process.
    Upstream,
    /// The prober of a server's health.
    Prober,
    /// A conversation.
    Conversation,
    /// A legacy MCP client's session.
    Session,
}

impl EntityKind {
    /// As it is written in an address.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Prober => "prober",
            Self::Conversation => "conversation",
            Self::Session => "session",
        }
    }
}

/// Names a placed actor in the whole cluster, as `upstream/everything`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// What it is.
    pub kind: EntityKind,
    /// Which of its kind.
    pub key: String,
}

impl Address {
    /// The address of `key` among those of a kind.
    pub fn new(kind: EntityKind, key: impl Into<String>) -> Self {
        Self {
            kind,
            key: key.into(),
        }
    }

    /// The member that owns this address: the one with the highest weight (rendezvous hashing, Thaler and Ravishankar
    /// 1998), so that a member that comes or goes moves only its own share. Nothing when no member is up.
    pub fn owner(&self, membership: &Membership) -> Option<NodeId> {
        let up: Vec<NodeId> = membership.eligible().map(|member| member.id).collect();
        self.owner_among(&up)
    }

    /// As [`owner`](Self::owner), among these members, who are up.
    pub fn owner_among(&self, up: &[NodeId]) -> Option<NodeId> {
        let address = self.hash();
        up.iter().copied().max_by_key(|id| (weight(address, *id), *id))
    }

    /// FNV-1a over the address as text.
    fn hash(&self) -> u64 {
        let bytes = self.kind.as_str().bytes().chain([b'/']).chain(self.key.bytes());
        fnv(0xcbf2_9ce4_8422_2325, bytes)
    }
}

/// FNV-1a over address and node, then a finalizer (`splitmix64`), which FNV lacks: without it similar keys gather on one
/// node. Part of what all nodes of a cluster must agree on.
fn weight(address: u64, node: NodeId) -> u64 {
    let hash = fnv(address, node.as_ulid().0.to_be_bytes().into_iter());
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

fn fnv(start: u64, bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(start, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.key)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::super::member::{Epoch, Generation, Member, MemberState, Role};
    use super::*;
    use crate::time::Timestamp;

    fn membership(nodes: u128) -> Membership {
        let member = |number: u128| {
            let id = NodeId::from_ulid(ulid::Ulid(number));
            let member = Member {
                id,
                name: format!("node-{number}").parse().unwrap(),
                generation: Generation(1),
                role: Role::Voter,
                state: MemberState::Up,
                cluster_address: String::new(),
                edge_address: String::new(),
                version: String::new(),
                joined_at: Timestamp::from(jiff::Timestamp::UNIX_EPOCH),
            };
            (id, member)
        };
        Membership {
            epoch: Epoch(1),
            members: (1..=nodes).map(member).collect(),
            ..Membership::default()
        }
    }

    fn shares(membership: &Membership) -> BTreeMap<NodeId, usize> {
        let mut shares = BTreeMap::new();
        for number in 0..3_000 {
            let address = Address::new(EntityKind::Upstream, format!("server-{number}"));
            *shares.entry(address.owner(membership).unwrap()).or_default() += 1;
        }
        shares
    }

    #[test]
    fn each_member_has_about_its_share() {
        for (node, share) in shares(&membership(5)) {
            assert!((500..=700).contains(&share), "{node} has {share} of 3000");
        }
    }

    #[test]
    fn a_member_that_comes_moves_only_what_it_gets() {
        let (three, four) = (membership(3), membership(4));
        let newcomer = NodeId::from_ulid(ulid::Ulid(4));
        for number in 0..1_000 {
            let address = Address::new(EntityKind::Conversation, number.to_string());
            let (before, after) = (address.owner(&three), address.owner(&four));
            assert!(
                before == after || after == Some(newcomer),
                "{address} moved between old members"
            );
        }
    }

    #[test]
    fn nobody_owns_anything_where_nobody_is_up() {
        let mut membership = membership(1);
        for member in membership.members.values_mut() {
            member.state = MemberState::Draining;
        }
        assert_eq!(Address::new(EntityKind::Session, "a").owner(&membership), None);
    }
}
