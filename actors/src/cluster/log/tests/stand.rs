//! When voters vote and stand for election.

use std::time::{Duration, Instant};

use openraft::raft::VoteRequest;
use openraft::storage::RaftLogStorage;
use troupe_protocol::wire as encoding;

use super::super::raft::{RaftNode, Vote};
use super::super::wire::{Question, VoteAnswer};
use super::super::*;
use super::world::{World, eventually, id};

/// Voters are free to vote after 2 s; openraft lets as much pass again before anybody stands.
const FREE_AFTER: Duration = Duration::from_secs(2);

fn patient() -> LogSettings {
    LogSettings {
        election_min_ms: 1_900,
        election_max_ms: 2_000,
        ..LogSettings::default()
    }
}

fn others_than(world: &World, one: u128) -> Vec<u128> {
    world
        .nodes
        .keys()
        .copied()
        .filter(|other| *other != one)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_link_to_the_leader_ends_another_is_elected_as_soon_as_voters_are_free() {
    let mut world = World::of(3, patient()).await;
    let dead = world.leader().await;
    world.stop(dead).await;
    let died = Instant::now();
    for node in world.nodes.values() {
        node.log.link_ended(id(dead));
    }
    eventually("another leads", || world.nodes.values().any(|node| node.leads())).await;
    let heartbeat = Duration::from_millis(300);
    let elected_after = died.elapsed();
    assert!(
        elected_after + heartbeat > FREE_AFTER,
        "too soon: {elected_after:?}"
    );
    assert!(
        elected_after < FREE_AFTER + Duration::from_millis(1_500),
        "{elected_after:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_link_alone_makes_nobody_stand() {
    let world = World::of(3, patient()).await;
    let leader = world.leader().await;
    let term = world.nodes[&leader].log.status().term;
    for other in others_than(&world, leader) {
        world.nodes[&other].log.link_ended(id(leader));
    }
    tokio::time::sleep(FREE_AFTER + Duration::from_millis(500)).await;
    assert_eq!(world.nodes[&leader].log.status().term, term);
    assert!(world.nodes[&leader].leads());
}

/// A voter that follows a leader is no use to another that believes it leads, and wants to hand over.
#[tokio::test(flavor = "multi_thread")]
async fn who_hears_a_leader_does_not_stand_even_when_asked() {
    let world = World::of(3, patient()).await;
    let leader = world.leader().await;
    let others = others_than(&world, leader);
    let before = world.nodes[&leader].log.status().term;
    let question = encoding::encode(&Question::StandForElection).unwrap();
    let asked = world.nodes[&others[0]].log.answer(id(others[1]), question.into());
    let refused = asked.await.unwrap_err();
    assert!(matches!(refused, LogError::NotLeader { .. }), "{refused}");
    assert_eq!(world.nodes[&others[0]].log.status().term, before);
}

/// It may have confirmed the leader's last round a moment before it ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_has_just_started_grants_nobody_its_vote() {
    let mut world = World::of(3, patient()).await;
    let leader = world.leader().await;
    let others = others_than(&world, leader);
    let (voter, candidate) = (others[0], others[1]);
    let mut entries = world.nodes[&leader].log.core.entries.clone();
    let last = entries.get_log_state().await.unwrap().last_log_id;
    let term = world.nodes[&leader].log.status().term;
    world.stop(voter).await;
    world.cut(&[voter], &[leader, candidate]);
    world.start(voter).await;
    let ask = async |term: u64| {
        let vote = Vote::new(term, RaftNode(id(candidate)));
        let question = Question::Vote(VoteRequest::new(vote, last));
        let question = encoding::encode(&question).unwrap();
        let answer = world.nodes[&voter]
            .log
            .answer(id(candidate), question.into())
            .await;
        let VoteAnswer(answer) = encoding::decode(&answer.unwrap()).unwrap();
        answer.vote_granted
    };
    assert!(!ask(term + 1).await, "it has voted at once");
    tokio::time::sleep(FREE_AFTER + Duration::from_millis(200)).await;
    assert!(ask(term + 9).await, "it is free by now");
}

/// It may give leases on the strength of a round in which it was heard a moment before.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_deposed_grants_nobody_its_vote_for_a_while() {
    let world = World::of(3, patient()).await;
    let leader = world.leader().await;
    let others = others_than(&world, leader);
    let (deposer, follower) = (others[0], others[1]);
    let mut entries = world.nodes[&leader].log.core.entries.clone();
    let last = entries.get_log_state().await.unwrap().last_log_id;
    let term = world.nodes[&leader].log.status().term;
    world.cut(&[deposer], &[leader, follower]);
    eventually("the one that hears nothing stands", || {
        world.nodes[&deposer].log.status().term > term
    })
    .await;
    let followed_at = Instant::now();
    world.heal();
    world.cut(&[follower], &[leader, deposer]);
    eventually("the leader is deposed", || !world.nodes[&leader].leads()).await;
    assert!(followed_at.elapsed() < FREE_AFTER / 2, "too late to see anything");
    let vote = Vote::new(term + 9, RaftNode(id(deposer)));
    let question = encoding::encode(&Question::Vote(VoteRequest::new(vote, last))).unwrap();
    let answer = world.nodes[&leader]
        .log
        .answer(id(deposer), question.into())
        .await;
    let VoteAnswer(answer) = encoding::decode(&answer.unwrap()).unwrap();
    assert!(!answer.vote_granted, "it has voted at once");
}
