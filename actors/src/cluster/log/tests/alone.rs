//! A log of one node.

use std::time::{Duration, Instant};

use troupe_protocol::cluster::{Epoch, Role};
use troupe_protocol::error::Coded;

use super::super::command::{Outcome, Request, RequestId};
use super::super::propose::Proposed;
use super::super::requests::REMEMBERED_ENTRIES;
use super::super::*;
use super::world::{World, id, member, unhurried, within};
use crate::store::RecordBatch;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_there_at_once_and_after_a_restart() {
    let mut world = World::of(1, unhurried()).await;
    for number in 0..20 {
        let written = world.nodes[&1]
            .put(&format!("key-{number}"), "value")
            .await
            .unwrap();
        assert!(world.nodes[&1].log.status().applied >= written.index);
        assert_eq!(
            world.nodes[&1].get(&format!("key-{number}")).as_deref(),
            Some("value")
        );
    }
    let before = world.nodes[&1].log.status();
    assert_eq!(before.leader, Some(id(1)));
    assert_eq!(before.last, before.applied);
    for _ in 0..3 {
        world.stop(1).await;
        world.start(1).await;
        let node = &world.nodes[&1];
        node.log.linearize(within(60)).await.unwrap();
        assert_eq!(node.all().len(), 20);
        let membership = node.log.membership().borrow().clone();
        assert_eq!(membership.epoch, Epoch(1));
        assert_eq!(membership.members[&id(1)].role, Role::Voter);
        assert!(node.log.status().last >= before.last);
        assert!(node.log.confirm_leadership(within(60)).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_never_begun_takes_no_writes_and_says_so_soon() {
    let mut world = World::new(LogSettings {
        leaderless_ms_max: 300,
        ..unhurried()
    });
    world.start(1).await;
    let begun = Instant::now();
    let error = world.nodes[&1].put("a", "b").await.unwrap_err();
    assert_eq!(error.code(), troupe_protocol::error::Code::NoQuorum, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_does_not_hold_is_a_conflict_and_nothing_is_written() {
    let world = World::of(1, unhurried()).await;
    let node = &world.nodes[&1];
    let values = node.values();
    let once = |value: &str| {
        let mut batch = RecordBatch::default();
        values.guard_into(&mut batch, "token", None);
        values.put_into(&mut batch, "token", &value.to_owned()).unwrap();
        node.log.write(Command::Records(batch), within(60))
    };
    once("first").await.unwrap();
    let error = once("second").await.unwrap_err();
    assert!(
        matches!(&error, LogError::Conflict(conflict) if conflict.key == "token"),
        "{error}"
    );
    assert_eq!(node.get("token").as_deref(), Some("first"));
    let same_name = MemberCommand::Add(troupe_protocol::cluster::Member {
        id: id(9),
        ..member(1)
    });
    let error = node.log.change(same_name, within(60)).await.unwrap_err();
    assert_eq!(error.code(), troupe_protocol::error::Code::NodeNameTaken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_handed_over_again_happens_once_also_after_a_restart() {
    let mut world = World::of(1, unhurried()).await;
    let request = |world: &World, value: &str| {
        let mut batch = RecordBatch::default();
        let values = world.nodes[&1].values();
        values.put_into(&mut batch, "key", &value.to_owned()).unwrap();
        Request {
            id: RequestId(42),
            made_after: 1,
            command: Command::Records(batch),
        }
    };
    let propose = |world: &World, request: Request| {
        let log = world.nodes[&1].log.clone();
        async move {
            match log.core.proposals.propose(request).await {
                Proposed::Done(_, outcome) => outcome,
                other => panic!("{other:?}"),
            }
        }
    };
    let first = request(&world, "first");
    assert_eq!(propose(&world, first.clone()).await, Outcome::Applied);
    world.nodes[&1].put("key", "second").await.unwrap();
    assert_eq!(propose(&world, first.clone()).await, Outcome::Applied);
    assert_eq!(world.nodes[&1].get("key").as_deref(), Some("second"));
    world.stop(1).await;
    world.start(1).await;
    world.nodes[&1].log.linearize(within(60)).await.unwrap();
    assert_eq!(propose(&world, first.clone()).await, Outcome::Applied);
    assert_eq!(world.nodes[&1].get("key").as_deref(), Some("second"));
    // Two of the same in one entry.
    let (one, two) = tokio::join!(
        propose(
            &world,
            Request {
                id: RequestId(7),
                ..first.clone()
            }
        ),
        propose(
            &world,
            Request {
                id: RequestId(7),
                ..first.clone()
            }
        )
    );
    assert_eq!((one, two), (Outcome::Applied, Outcome::Applied));
    // One that is not remembered any more is refused, not repeated.
    let ahead = REMEMBERED_ENTRIES + 10;
    for number in 0..ahead / 2 {
        let node = &world.nodes[&1];
        let key = number.to_string();
        let _ = tokio::join!(node.put(&key, "x"), node.put(&key, "y"));
    }
    while world.nodes[&1].log.status().applied < ahead {
        world.nodes[&1].put("more", "x").await.unwrap();
    }
    assert_eq!(propose(&world, first).await, Outcome::TooOld);
}
