//! Nodes as the replicated log knows them.

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ts_rs::TS;
use utoipa::ToSchema;

use crate::id::{InvalidId, NodeId, travels_as_string};
use crate::time::Timestamp;

/// Declares a counter that only grows.
macro_rules! counter {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, TS, ToSchema,
        )]
        #[serde(transparent)]
        #[ts(as = "u32")]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter!(
    /// A state of the membership: each committed change of it makes the next one. Fences what belongs to an earlier.
    Epoch
);
counter!(
    /// How often a node has started with its data folder, from 1. Tells a restarted node from its former self.
    Generation
);

/// What people call a node: unique in its cluster, `a`–`z`, `0`–`9` and `-`, 1 to 40 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

/// The longest name, in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 40;

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeName {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_well_formed = !text.is_empty()
            && text.len() <= NODE_NAME_BYTES_MAX
            && !text.starts_with('-')
            && text.bytes().all(allowed);
        if is_well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId::new(
                "node name",
                text,
                "1 to 40 characters of a-z, 0-9 and -, not beginning with -",
            ))
        }
    }
}

travels_as_string!(NodeName);

/// What a member does for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
#[ts(export, rename = "MemberRole")] // a principal has a role, too
#[schema(as = MemberRole)]
pub enum Role {
    /// Counts for the majority.
    Voter,
    /// Has every entry and no vote.
    Learner,
}

/// How the cluster sees a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
#[ts(export)]
pub enum MemberState {
    /// Alive: owns its share of the placed actors.
    Up,
    /// Alive, and gives its placed actors away: about to be stopped or removed.
    Draining,
    /// Not heard of.
    Down,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Member {
    /// Which node.
    pub id: NodeId,
    /// What people call it.
    pub name: NodeName,
    /// Its latest start.
    pub generation: Generation,
    /// What it does for the log.
    pub role: Role,
    /// How the cluster sees it.
    pub state: MemberState,
    /// Where other nodes reach it, as `host:port`.
    pub cluster_address: String,
    /// Where people and clients reach it, as `host:port`; as the node itself says.
    pub edge_address: String,
    /// The version of its program.
    pub version: String,
    /// When it joined.
    pub joined_at: Timestamp,
}

/// The members at an epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// Which state of the membership this is.
    pub epoch: Epoch,
    /// The members by their id.
    pub members: BTreeMap<NodeId, Member>,
    /// Who was a member until this epoch and was removed: nobody speaks with them any more.
    #[serde(default)]
    pub removed: BTreeMap<NodeId, Epoch>,
    /// Members that went down while they were draining: when they are heard again, they go on with it.
    #[serde(default)]
    pub drain_when_back: BTreeSet<NodeId>,
}

impl Membership {
    /// The members among which placed actors are shared out.
    pub fn eligible(&self) -> impl Iterator<Item = &Member> {
        self.members
            .values()
            .filter(|member| member.state == MemberState::Up)
    }
}

/// Whether an address (`host:port`) leads to nobody but the machine that it is used on: a loopback address, or none at
/// all.
pub fn is_local_only(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_local = |ip: IpAddr| ip.to_canonical().is_loopback() || ip.is_unspecified();
    host.parse().map_or(host == "localhost", is_local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_only_their_own_machine_reaches_are_told() {
        for local in [
            "127.0.0.1:7501",
            "127.9.9.9:1",
            "[::1]:7501",
            "0.0.0.0:7501",
            "[::]:1",
            "localhost:7501",
        ] {
            assert!(is_local_only(local), "{local}");
        }
        for reached in [
            "192.0.2.7:7501",
            "[2001:db8::1]:7501",
            "node-a.example:7501",
            "10.0.0.1:1",
        ] {
            assert!(!is_local_only(reached), "{reached}");
        }
    }
}
