#![allow(clippy::unwrap_used)]

use troupe_protocol::cluster::{Epoch, Generation};
use troupe_protocol::time::Timestamp;

use super::super::members;
use super::*;

fn id(number: u128) -> NodeId {
    NodeId::from_ulid(ulid::Ulid(number))
}

fn ids(numbers: impl IntoIterator<Item = u128>) -> BTreeSet<NodeId> {
    numbers.into_iter().map(id).collect()
}

fn cluster(members: u128) -> Situation {
    let mut now = Situation {
        own: Some(id(1)),
        voters: vec![ids([1])],
        configured: ids([1]),
        caught_up: ids([1]),
        voters_max: 5,
        ..Situation::default()
    };
    now.membership.epoch = Epoch(1);
    for number in 1..=members {
        join(&mut now, number);
    }
    now
}

fn join(now: &mut Situation, number: u128) {
    let member = Member {
        id: id(number),
        name: format!("node-{number}").parse().unwrap(),
        generation: Generation(1),
        role: if number == 1 { Role::Voter } else { Role::Learner },
        state: MemberState::Up,
        cluster_address: String::new(),
        edge_address: String::new(),
        version: String::new(),
        joined_at: Timestamp::from_unix_ms(number as i64),
    };
    now.membership.members.insert(member.id, member);
    now.caught_up.insert(id(number));
}

fn set_state(now: &mut Situation, number: u128, state: MemberState) {
    now.membership.members.get_mut(&id(number)).unwrap().state = state;
    if state == MemberState::Down {
        now.caught_up.remove(&id(number));
    }
}

/// Carries out steps until none is needed; gives who votes then.
fn settle(now: &mut Situation) -> BTreeSet<NodeId> {
    for _ in 0..100 {
        match next_step(now) {
            None => {
                let voters = now.voters.first().cloned().unwrap();
                let roles: BTreeSet<NodeId> = voters_of(&now.membership).map(|member| member.id).collect();
                assert_eq!(voters, roles);
                return voters;
            }
            Some(Step::Write(command)) => {
                now.membership = members::after(&now.membership, &command).unwrap().unwrap();
            }
            Some(Step::AddLearners(newcomers)) => now.configured.extend(newcomers),
            Some(Step::SetVoters(voters)) => now.voters = vec![voters],
            Some(Step::HandOver(to)) => now.own = Some(to),
            Some(Step::Drop(gone)) => now.configured.retain(|id| !gone.contains(id)),
        }
    }
    panic!("never settles: {now:?}");
}

#[test]
fn voters_grow_with_the_cluster() {
    let mut now = cluster(1);
    let mut counts = vec![settle(&mut now).len()];
    for number in 2..=7 {
        join(&mut now, number);
        counts.push(settle(&mut now).len());
    }
    assert_eq!(counts, [1, 1, 3, 3, 5, 5, 5]);
    assert_eq!(now.configured.len(), 7);
}

#[test]
fn a_member_that_lacks_entries_does_not_vote_yet_and_nobody_votes_in_pairs() {
    let mut now = cluster(3);
    now.caught_up.remove(&id(3));
    assert_eq!(settle(&mut now), ids([1]));
    now.caught_up.insert(id(3));
    assert_eq!(settle(&mut now), ids([1, 2, 3]));
}

#[test]
fn a_voter_that_is_down_for_long_is_replaced_when_somebody_can() {
    let mut now = cluster(3);
    settle(&mut now);
    set_state(&mut now, 2, MemberState::Down);
    now.long_down = ids([2]);
    assert_eq!(settle(&mut now), ids([1, 2, 3]), "nobody can take its place");
    join(&mut now, 4);
    now.long_down.clear();
    assert_eq!(settle(&mut now), ids([1, 2, 3]), "it may come back");
    now.long_down = ids([2]);
    assert_eq!(settle(&mut now), ids([1, 3, 4]));
    set_state(&mut now, 2, MemberState::Up);
    now.long_down.clear();
    assert_eq!(settle(&mut now), ids([1, 3, 4]), "it comes back as learner");
}

#[test]
fn who_is_removed_votes_no_more_and_gets_no_more_entries() {
    let mut now = cluster(5);
    assert_eq!(settle(&mut now).len(), 5);
    now.membership.members.remove(&id(2));
    let voters = settle(&mut now);
    assert_eq!(voters.len(), 3);
    assert!(voters.contains(&id(1)), "the leader keeps its vote");
    assert_eq!(now.configured, ids([1, 3, 4, 5]));
    for number in [3, 4] {
        now.membership.members.remove(&id(number));
    }
    assert_eq!(settle(&mut now), ids([1]));
}

#[test]
fn a_step_that_would_cost_the_majority_waits() {
    let mut now = cluster(3);
    settle(&mut now);
    now.membership.members.get_mut(&id(3)).unwrap().role = Role::Learner;
    now.membership.members.get_mut(&id(1)).unwrap().role = Role::Learner;
    set_state(&mut now, 2, MemberState::Down);
    set_state(&mut now, 1, MemberState::Draining);
    set_state(&mut now, 3, MemberState::Draining);
    assert_eq!(next_step(&now), None, "the only voter would be one that is down");
    set_state(&mut now, 2, MemberState::Up);
    now.caught_up.insert(id(2));
    assert_eq!(next_step(&now), Some(Step::SetVoters(ids([2]))));
}

#[test]
fn when_those_who_should_vote_cannot_go_on_alone_others_come_to_their_help() {
    let mut now = cluster(3);
    settle(&mut now);
    set_state(&mut now, 3, MemberState::Down);
    set_state(&mut now, 2, MemberState::Draining);
    let demoted = learner(id(2));
    now.membership = members::after(&now.membership, &demoted).unwrap().unwrap();
    assert_eq!(next_step(&now), None, "1 and 3 would need both, and 3 is down");
    join(&mut now, 4);
    assert_eq!(settle(&mut now), ids([1, 3, 4]));
    set_state(&mut now, 2, MemberState::Up);
    assert_eq!(settle(&mut now), ids([1, 3, 4]));
}

#[test]
fn a_configuration_that_is_half_changed_is_completed() {
    let mut now = cluster(3);
    settle(&mut now);
    now.voters = vec![ids([1]), ids([1, 2, 3])];
    assert_eq!(next_step(&now), Some(Step::SetVoters(ids([1, 2, 3]))));
}

#[test]
fn an_operators_choice_stays() {
    let mut now = cluster(4);
    assert_eq!(settle(&mut now), ids([1, 2, 3]));
    let command = promotion(&now.membership, id(4), Some(id(1)), 5);
    now.membership = members::after(&now.membership, &command).unwrap().unwrap();
    assert_eq!(settle(&mut now), ids([1, 2, 4]));
    assert_eq!(demotion(&now.membership, id(1)), Exchange::For(id(3)));
    let command = MemberCommand::Exchange {
        voter: id(1),
        learner: id(3),
    };
    now.membership = members::after(&now.membership, &command).unwrap().unwrap();
    assert_eq!(settle(&mut now), ids([2, 3, 4]));
}

#[test]
fn members_are_down_since_they_were_first_seen_so() {
    let mut now = cluster(2);
    let mut down = DownSince::default();
    set_state(&mut now, 2, MemberState::Down);
    down.note(&now.membership, 10);
    down.note(&now.membership, 20);
    assert_eq!(down.of_which(|since| since <= 10), ids([2]));
    set_state(&mut now, 2, MemberState::Up);
    down.note(&now.membership, 30);
    set_state(&mut now, 2, MemberState::Down);
    down.note(&now.membership, 40);
    assert_eq!(down.of_which(|since| since <= 10), ids([]));
}

#[test]
fn a_leader_that_votes_no_more_hands_over_before_anything_else() {
    let mut now = cluster(4);
    settle(&mut now);
    now.membership.members.remove(&id(1));
    assert_eq!(settle(&mut now), ids([2, 3, 4]));
    assert_ne!(now.own, Some(id(1)));
    assert!(!now.configured.contains(&id(1)));
}
