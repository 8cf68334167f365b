//! Snapshots that are being installed when the node is killed, or when nobody waits for them any more.

use openraft::storage::RaftLogStorage;

use super::super::entries::LogEntries;
use super::super::machine::Machine;
use super::super::raft::{LogId, RaftNode, Snapshot, SnapshotMeta};
use super::super::receive::Receiver;
use super::super::snapshot::Snapshots;
use super::super::wire::{SnapshotAnswer, SnapshotPart};
use super::super::*;
use super::world::{World, eventually, id, open_when_free, unhurried};
use crate::store::replicated::LogIndex;
use crate::store::{Store, StoreError};

const PART_BYTES: usize = 128 * 1024;

/// A node with a snapshot of many megabytes, and with few entries before it.
async fn world_with_a_snapshot() -> (World, Snapshot) {
    let settings = LogSettings {
        snapshot_every_entries: 100,
        keep_entries: 20,
        ..unhurried()
    };
    let world = World::of(1, settings).await;
    let large = "x".repeat(40_000);
    for number in 0..150 {
        let key = format!("key-{number:03}");
        world.nodes[&1].put(&key, &large).await.unwrap();
    }
    let snapshots = world.nodes[&1].log.core.machine.snapshots().clone();
    eventually("a snapshot is there", || snapshots.current().is_some()).await;
    let snapshot = snapshots.current().unwrap();
    (world, snapshot)
}

/// The file's bytes, as they are sent.
fn parts(snapshot: &Snapshot) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut offset = 0;
    loop {
        let part = snapshot.snapshot.read_at(offset, PART_BYTES).unwrap();
        if part.is_empty() {
            return parts;
        }
        offset += part.len() as u64;
        parts.push(part);
    }
}

/// What is on the disk of a node that was killed when its log was purged and its state not yet replaced.
async fn leave_half_installed(world: &World, number: u128, snapshot: &Snapshot) {
    let store = open_when_free(world.folder(number)).await;
    let mut entries = LogEntries::open(&store).unwrap();
    let snapshots = Snapshots::open(store.folder(), None).unwrap();
    let received = snapshots.begin().unwrap();
    for part in parts(snapshot) {
        received.append(&part).unwrap();
    }
    snapshots.keep_to_install(&received).unwrap();
    entries.purge(snapshot.meta.last_log_id.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_while_it_installs_a_snapshot_has_all_of_it_after_the_next_start() {
    let (mut world, snapshot) = world_with_a_snapshot().await;
    world.start(2).await;
    world.stop(2).await;
    leave_half_installed(&world, 2, &snapshot).await;
    world.start(2).await;
    let log = &world.nodes[&2].log;
    let position = snapshot.meta.last_log_id.unwrap().index + 1;
    assert_eq!(log.status().applied, position);
    let adopted = log.core.machine.snapshots().current().unwrap();
    assert_eq!(adopted.meta, snapshot.meta);
    let add = MemberCommand::Add(super::world::member(2));
    world.nodes[&1]
        .log
        .change(add, super::world::within(10))
        .await
        .unwrap();
    world.settled().await;
    assert_eq!(world.same_everywhere().await.len(), 150);
    let left = Snapshots::open(world.folder(2), None).unwrap();
    assert!(left.to_install().is_none());
}

async fn send(node: &LogHandle, receiver: &Receiver, snapshot: &Snapshot) -> u64 {
    let vote = leaders_vote(snapshot);
    let mut offset = 0;
    for bytes in parts(snapshot) {
        let length = bytes.len() as u64;
        let part = SnapshotPart {
            snapshot: 7,
            vote,
            offset,
            bytes,
        };
        let taken = receiver.part(&node.core, id(1), part).await.unwrap();
        assert_eq!(taken, SnapshotAnswer::Taken { vote });
        offset += length;
    }
    7
}

/// That of the leader whose entries the snapshot holds.
fn leaders_vote(snapshot: &Snapshot) -> super::super::raft::Vote {
    let SnapshotMeta { last_log_id, .. } = &snapshot.meta;
    let leader = last_log_id.unwrap().leader_id;
    super::super::raft::Vote::new_committed(leader.term, leader.node_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_installed_to_the_end_when_its_sender_is_gone() {
    let (mut world, snapshot) = world_with_a_snapshot().await;
    world.start(2).await;
    let node = world.nodes[&2].log.clone();
    let receiver = &node.core.receiver;
    let number = send(&node, receiver, &snapshot).await;
    let folder = world.folder(2).join("cluster").join("log");
    let meta = snapshot.meta.clone();
    {
        let end = receiver.end(&node.core, id(1), number, leaders_vote(&snapshot), meta);
        tokio::pin!(end);
        while !folder.join("installing").exists() {
            assert!(
                futures::poll!(end.as_mut()).is_pending(),
                "it is installed before it is kept"
            );
            tokio::task::yield_now().await;
        }
    } // whoever sent it waits no more
    eventually("it is installed", || {
        node.core.machine.snapshots().current().is_some()
    })
    .await;
    node.check().unwrap();
    let (installed, all) = (world.nodes[&2].all(), world.nodes[&1].all());
    assert!(installed.len() >= 90, "{} records", installed.len());
    assert!(installed.iter().all(|(key, value)| all[key] == *value));
    assert!(!folder.join("installing").exists());
}

fn log_id(index: u64) -> LogId {
    LogId::new(openraft::CommittedLeaderId::new(1, RaftNode(id(1))), index)
}

#[tokio::test]
async fn no_snapshot_is_begun_of_a_state_whose_position_is_not_known_yet() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (machine, _views) = Machine::open(&store).unwrap();
    assert!(machine.behold().1.is_ok());
    let installation = store.replicated_state().install().unwrap();
    let position = troupe_protocol::wire::encode(&Some(log_id(41))).unwrap();
    installation.finish(LogIndex(42), position).await.unwrap();
    let (meta, state) = machine.behold();
    assert_eq!(meta.last_log_id, None);
    assert!(matches!(state.map(drop), Err(StoreError::Overtaken { .. })));
    let (machine, _views) = Machine::open(&store).unwrap();
    let (meta, state) = machine.behold();
    assert!(state.is_ok());
    assert_eq!(meta.last_log_id, Some(log_id(41)));
}

#[test]
fn a_snapshot_does_not_take_the_place_of_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(folder.path(), None).unwrap();
    let adopt = |index| {
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(index)),
            ..SnapshotMeta::default()
        };
        let file = snapshots.begin().unwrap();
        let current = snapshots.adopt(meta, file).unwrap();
        assert_eq!(snapshots.current().unwrap().meta, current.meta);
        current.meta.last_log_id.unwrap().index
    };
    assert_eq!([adopt(5), adopt(9), adopt(7), adopt(10)], [5, 9, 9, 10]);
    let files = std::fs::read_dir(folder.path().join("cluster").join("log")).unwrap();
    assert_eq!(files.count(), 1);
}
