//! What logs say to each other.
//!
//! Heartbeats go to every member several times a second, so they are kept small: in what a leader sends, its own id, which
//! the receiver knows from the link, stands as one byte. New kinds of questions are added at the end.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::{CommittedLeaderId, LeaderId};
use serde::{Deserialize, Serialize};
use troupe_protocol::id::NodeId;

use super::command::{Outcome, Request};
use super::raft::{LogId, RaftEntry, RaftNode, SnapshotMeta, Types, Vote};

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// The leader's entries, or none: it lives.
    Append(Append),
    /// A candidate's.
    Vote(VoteRequest<RaftNode>),
    /// A part of a snapshot's file.
    SnapshotPart(SnapshotPart),
    /// All parts were sent.
    SnapshotEnd {
        /// Which snapshot.
        snapshot: u64,
        /// The leader's.
        vote: Vote,
        /// What the file holds.
        meta: SnapshotMeta,
    },
    /// Writes for the leader.
    Propose {
        /// They share an entry if they can.
        requests: Vec<Request>,
        /// How long the other side waits for the answer.
        within_ms: u64,
    },
    /// Up to which entry one must have applied, to see everything that was acknowledged before.
    ReadIndex {
        /// How long the other side waits for the answer.
        within_ms: u64,
    },
    /// The leader wants to lead no more. Answered with nothing.
    StandForElection,
    /// The leader asks whether it is still followed. Answered with nothing, by whoever follows it.
    Follow {
        /// The leader's.
        term: u64,
    },
}

/// Entries from the leader.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Append {
    term: u64,
    /// The entry before the first; nothing before the very first.
    previous: Option<ShortLogId>,
    committed: Option<ShortLogId>,
    entries: Vec<RaftEntry>,
}

/// An entry's id, as its leader writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct ShortLogId {
    term: u64,
    /// Who led; nothing for the leader that sends this.
    leader: Option<RaftNode>,
    index: u64,
}

/// Bytes of a snapshot's file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SnapshotPart {
    /// Which snapshot: a number the leader has chosen.
    pub(super) snapshot: u64,
    /// The leader's.
    pub(super) vote: Vote,
    /// Where in the file the bytes belong.
    pub(super) offset: u64,
    #[serde(with = "bytes_as_bytes")]
    pub(super) bytes: Vec<u8>,
}

/// Answers to [`Question::Append`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct AppendAnswer(pub(super) AppendEntriesResponse<RaftNode>);

/// Answers to [`Question::Vote`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct VoteAnswer(pub(super) VoteResponse<RaftNode>);

/// Answers to [`Question::SnapshotPart`] and [`Question::SnapshotEnd`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum SnapshotAnswer {
    /// Taken, or the whole is installed.
    Taken {
        /// The receiver's.
        vote: Vote,
    },
    /// The parts do not fit together, or the file is damaged: begin again.
    Restart {
        /// Why.
        reason: String,
    },
}

/// Answers to [`Question::Propose`] and [`Question::ReadIndex`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LeaderAnswer {
    /// What became of the requests, in their order, and the number of the entry that each was in.
    Done(Vec<(u64, Outcome)>),
    /// The number of the entry.
    ReadIndex(u64),
    /// Nothing was done: this node does not lead.
    NotLeader {
        /// Who does, as far as it knows.
        leader: Option<NodeId>,
    },
    /// Nothing was done: this node leads, but hears of no majority.
    NoQuorum {
        /// What is in the way.
        reason: String,
    },
    /// Nothing was done: too much waits already.
    Overloaded {
        /// How many requests.
        waiting: u64,
    },
    /// It may have happened, or may still happen.
    Unknown {
        /// What is known.
        reason: String,
    },
    /// Nothing was done: this node's log has stopped.
    Stopped {
        /// Why.
        reason: String,
    },
}

impl Append {
    /// What openraft wants sent. `leader` is this node.
    pub(super) fn pack(request: AppendEntriesRequest<Types>, leader: NodeId) -> Self {
        let short = |log_id: LogId| ShortLogId::pack(log_id, leader);
        Self {
            term: request.vote.leader_id.term,
            previous: request.prev_log_id.map(short),
            committed: request.leader_commit.map(short),
            entries: request.entries,
        }
    }

    /// What openraft wants to receive. `leader` is who sent it.
    pub(super) fn unpack(self, leader: NodeId) -> AppendEntriesRequest<Types> {
        let long = |log_id: ShortLogId| log_id.unpack(leader);
        AppendEntriesRequest {
            vote: Vote::new_committed(self.term, RaftNode(leader)),
            prev_log_id: self.previous.map(long),
            leader_commit: self.committed.map(long),
            entries: self.entries,
        }
    }

    /// What is the same in heartbeats that say nothing new.
    pub(super) fn heartbeat(&self) -> Option<Heartbeat> {
        self.entries
            .is_empty()
            .then_some(Heartbeat(self.term, self.previous, self.committed))
    }

    pub(super) fn entries(&self) -> usize {
        self.entries.len()
    }
}

/// A heartbeat's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heartbeat(u64, Option<ShortLogId>, Option<ShortLogId>);

impl ShortLogId {
    fn pack(log_id: LogId, leader: NodeId) -> Self {
        let LeaderId { term, node_id } = log_id.leader_id;
        Self {
            term,
            leader: (node_id.0 != leader).then_some(node_id),
            index: log_id.index,
        }
    }

    fn unpack(self, leader: NodeId) -> LogId {
        let node = self.leader.unwrap_or(RaftNode(leader));
        LogId::new(CommittedLeaderId::new(self.term, node), self.index)
    }
}

/// Bytes as bytes, not as a list of numbers.
mod bytes_as_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        <&[u8]>::deserialize(deserializer).map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use openraft::EntryPayload;
    use troupe_protocol::wire;

    use super::*;

    fn id(number: u128) -> NodeId {
        NodeId::from_ulid(ulid::Ulid(u128::MAX - number))
    }

    fn log_id(term: u64, node: u128, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, RaftNode(id(node))), index)
    }

    #[test]
    fn what_the_leader_sends_arrives_as_it_was_and_a_heartbeat_is_small() {
        for (previous, committed) in [
            (None, None),
            (Some(log_id(2, 2, 7)), Some(log_id(3, 1, 8))),
            (Some(log_id(300, 1, 1_000_000)), Some(log_id(300, 1, 1_000_000))),
        ] {
            let request = AppendEntriesRequest::<Types> {
                vote: Vote::new_committed(300, RaftNode(id(1))),
                prev_log_id: previous,
                leader_commit: committed,
                entries: vec![],
            };
            let bytes = wire::encode(&Question::Append(Append::pack(request.clone(), id(1)))).unwrap();
            let Question::Append(append) = wire::decode(&bytes).unwrap() else {
                panic!("another question")
            };
            let received = append.unpack(id(1));
            assert_eq!(format!("{received:?}"), format!("{request:?}"));
            assert!(
                bytes.len() <= 40,
                "a heartbeat takes {} bytes: {bytes:?}",
                bytes.len()
            );
        }
    }

    #[test]
    fn entries_keep_their_payloads() {
        let membership = openraft::Membership::new(
            vec![[RaftNode(id(1))].into_iter().collect()],
            [RaftNode(id(2))]
                .into_iter()
                .collect::<std::collections::BTreeSet<_>>(),
        );
        for payload in [EntryPayload::Blank, EntryPayload::Membership(membership)] {
            let entry = RaftEntry {
                log_id: log_id(1, 1, 1),
                payload,
            };
            let read: RaftEntry = wire::decode(&wire::encode(&entry).unwrap()).unwrap();
            assert_eq!(read, entry);
        }
    }
}
