//! Members that come and go.

use std::time::Duration;

use troupe_protocol::cluster::{MemberState, Role};

use super::super::*;
use super::world::{World, eventually, id, unhurried, within};
use crate::runtime::Deadline;

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_possible_at_every_node_and_seen_at_all() {
    let world = World::of(4, unhurried()).await;
    for (number, node) in &world.nodes {
        node.put(&format!("from-{number}"), "value").await.unwrap();
        assert_eq!(node.get(&format!("from-{number}")).as_deref(), Some("value"));
    }
    assert_eq!(world.same_everywhere().await.len(), 4);
    let voters = world.nodes[&4].log.membership().borrow().clone();
    let voters = voters
        .members
        .values()
        .filter(|member| member.role == Role::Voter)
        .count();
    assert_eq!(voters, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_far_behind_gets_a_snapshot() {
    let settings = LogSettings {
        snapshot_every_entries: 100,
        keep_entries: 20,
        ..unhurried()
    };
    let mut world = World::of(1, settings).await;
    let large = "x".repeat(40_000);
    for number in 0..260 {
        world.nodes[&1]
            .put(&format!("key-{number:03}"), &large)
            .await
            .unwrap();
    }
    eventually("a snapshot is there", || {
        world.nodes[&1].log.status().snapshot > 100
    })
    .await;
    world.join(2).await;
    world.settled().await;
    assert_eq!(world.same_everywhere().await.len(), 260);
    assert!(
        world.nodes[&2].log.status().snapshot > 100,
        "it came by entries, not by a snapshot"
    );
    // What it got is its own: it starts from it.
    world.stop(2).await;
    world.nodes[&1].put("meanwhile", "value").await.unwrap();
    world.start(2).await;
    world.nodes[&2].log.linearize(within(60)).await.unwrap();
    assert_eq!(world.same_everywhere().await.len(), 261);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_the_others_cannot_do_without_keeps_its_vote_until_they_can() {
    let mut world = World::of(3, unhurried()).await;
    let leader = world.leader().await;
    let mut others = (1..=3).filter(|number| *number != leader);
    let (unwanted, lost) = (others.next().unwrap(), others.next().unwrap());
    world.stop(lost).await;
    let log = world.nodes[&leader].log.clone();
    let set_state = |number, from, state| MemberCommand::SetState {
        id: id(number),
        from,
        state,
    };
    for (number, state) in [(lost, MemberState::Down), (unwanted, MemberState::Draining)] {
        let command = set_state(number, MemberState::Up, state);
        log.change(command, within(60)).await.unwrap();
    }
    log.demote(id(unwanted), within(60)).await.unwrap();
    let soon = Deadline::within(Duration::from_millis(500));
    let needed = log.is_done_without(id(unwanted), soon).await.unwrap_err();
    assert_eq!(needed, LogError::VoteNeeded(id(unwanted)));
    world.nodes[&leader].put("meanwhile", "value").await.unwrap();
    world.start(lost).await;
    let up = set_state(lost, MemberState::Down, MemberState::Up);
    log.change(up, within(60)).await.unwrap();
    log.is_done_without(id(unwanted), within(60)).await.unwrap();
    let remove = MemberCommand::Remove { id: id(unwanted) };
    log.change(remove, within(60)).await.unwrap();
    world.stop(unwanted).await;
    world.nodes[&leader].put("afterwards", "value").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_stays_down_is_replaced_and_one_that_is_removed_is_gone() {
    let settings = LogSettings {
        replace_voter_after: Duration::from_millis(500),
        ..unhurried()
    };
    let mut world = World::of(4, settings).await;
    let leader = world.leader().await;
    let voters = || {
        let membership = world.nodes[&leader].log.membership().borrow().clone();
        let voters = membership
            .members
            .values()
            .filter(|member| member.role == Role::Voter);
        voters
            .map(|member| member.id)
            .collect::<std::collections::BTreeSet<_>>()
    };
    let lost = voters().into_iter().find(|voter| *voter != id(leader)).unwrap();
    let lost = lost.as_ulid().0;
    world.stop(lost).await;
    let log = &world.nodes[&leader].log;
    let down = MemberCommand::SetState {
        id: id(lost),
        from: MemberState::Up,
        state: MemberState::Down,
    };
    log.change(down, within(60)).await.unwrap();
    let voters = || {
        let membership = world.nodes[&leader].log.membership().borrow().clone();
        let is_voter = |member: &&troupe_protocol::cluster::Member| member.role == Role::Voter;
        let voters = membership.members.values().filter(is_voter);
        voters
            .map(|member| member.id)
            .collect::<std::collections::BTreeSet<_>>()
    };
    eventually("another votes in its place", || {
        voters().len() == 3 && !voters().contains(&id(lost))
    })
    .await;
    let remove = MemberCommand::Remove { id: id(lost) };
    log.change(remove, within(60)).await.unwrap();
    eventually("it is in the log's configuration no more", || {
        let metrics = log.core.raft.metrics();
        let metrics = metrics.borrow();
        !metrics
            .membership_config
            .nodes()
            .any(|(node, _)| node.0 == id(lost))
    })
    .await;
    world.nodes[&leader].put("key", "value").await.unwrap();
    world.same_everywhere().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_can_be_demoted_and_removed() {
    let mut world = World::of(4, unhurried()).await;
    let leader = world.leader().await;
    world.nodes[&leader]
        .log
        .demote(id(leader), within(60))
        .await
        .unwrap();
    let other = *world.nodes.keys().find(|number| **number != leader).unwrap();
    eventually("another leads", || {
        let known = *world.nodes[&other].log.leader().borrow();
        known.is_some_and(|(now, _)| now != id(leader))
    })
    .await;
    world.nodes[&leader]
        .put("from-the-former", "value")
        .await
        .unwrap();
    let remove = MemberCommand::Remove { id: id(leader) };
    world.nodes[&other].log.change(remove, within(60)).await.unwrap();
    eventually("it knows that it is gone", || {
        let membership = world.nodes[&leader].log.membership().borrow().clone();
        !membership.members.contains_key(&id(leader))
    })
    .await;
    world.stop(leader).await;
    world.nodes[&other].put("key", "value").await.unwrap();
    world.settled().await;
    assert_eq!(world.same_everywhere().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cluster_says_little() {
    let world = World::of(10, LogSettings::default()).await;
    let before = {
        let network = world.network.lock();
        (network.questions, network.bytes)
    };
    let seconds = 4;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = {
        let network = world.network.lock();
        (network.questions, network.bytes)
    };
    let messages = (after.0 - before.0) / seconds;
    let bytes = (after.1 - before.1) / seconds;
    println!("10 idle nodes: {messages} messages/s, {bytes} B/s in all (each counted once)");
    assert!(messages < 100, "{messages} messages/s");
    assert!(bytes < 4_000, "{bytes} B/s");
    let leader = world.leader().await;
    let confirmed = world.nodes[&leader].log.confirm_leadership(within(60));
    confirmed.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_steps_down_is_followed_within_a_second_and_no_write_fails() {
    let world = World::of(3, unhurried()).await;
    let leader = world.leader().await;
    let other = *world.nodes.keys().find(|number| **number != leader).unwrap();
    let began = std::time::Instant::now();
    let stepped = world.nodes[&leader].log.step_down(within(5));
    let writes = async {
        for number in 0..20 {
            for node in [leader, other] {
                world.nodes[&node]
                    .put(&format!("{node}-{number}"), "value")
                    .await
                    .unwrap();
            }
        }
    };
    let (stepped, ()) = tokio::join!(stepped, writes);
    stepped.unwrap();
    println!("stepped down and 40 writes: {:?}", began.elapsed());
    assert_ne!(world.leader().await, leader);
    assert_eq!(world.same_everywhere().await.len(), 40);
}
