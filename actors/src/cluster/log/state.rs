//! Who should vote, pure.
//!
//! One voter for one or two members, three for three or four, five for more. With two members one votes: two would need
//! both, so that the loss of either would stop the cluster, and with one voter only the loss of that one does. What the
//! learner lacks at that moment is on the voter's disk; whoever wants no single disk to matter runs three nodes.
//!
//! The roles in the membership say who votes; here is decided how they change, and what brings the log's own
//! configuration after them. Each decision is one step; after it was carried out, all is looked at again.

use std::collections::{BTreeMap, BTreeSet};

use troupe_protocol::cluster::{Member, MemberState, Membership, Role};
use troupe_protocol::id::NodeId;

use super::command::MemberCommand;

/// What the leader sees.
#[derive(Debug, Clone, Default)]
pub(super) struct Situation {
    /// The leader: this node.
    pub(super) own: Option<NodeId>,
    pub(super) membership: Membership,
    /// Who votes in the log's configuration; two groups while one configuration gives way to another.
    pub(super) voters: Vec<BTreeSet<NodeId>>,
    /// Everyone in the log's configuration.
    pub(super) configured: BTreeSet<NodeId>,
    /// Members that have nearly all entries.
    pub(super) caught_up: BTreeSet<NodeId>,
    /// Members that are down for so long that others take their place.
    pub(super) long_down: BTreeSet<NodeId>,
    pub(super) voters_max: usize,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Write this.
    Write(MemberCommand),
    /// Have these get the entries.
    AddLearners(BTreeSet<NodeId>),
    /// Have these vote, and nobody else.
    SetVoters(BTreeSet<NodeId>),
    /// Send these no more entries.
    Drop(BTreeSet<NodeId>),
    /// Have this one lead: the leader votes no more.
    HandOver(NodeId),
}

/// How many of so many members should vote: an odd number, that bears the loss of less than half.
pub(in crate::cluster) fn voters_wanted(members: usize, voters_max: usize) -> usize {
    let wanted = match members {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    };
    wanted.min(voters_max.max(1))
}

/// The next step, if any is needed.
pub(super) fn next_step(now: &Situation) -> Option<Step> {
    let members: BTreeSet<NodeId> = now.membership.members.keys().copied().collect();
    let newcomers: BTreeSet<NodeId> = members.difference(&now.configured).copied().collect();
    if !newcomers.is_empty() {
        return Some(Step::AddLearners(newcomers));
    }
    let wanted: BTreeSet<NodeId> = voters_of(&now.membership).map(|member| member.id).collect();
    let is_settled = now.voters.len() == 1 && now.voters.first() == Some(&wanted);
    if !is_settled {
        // Those who should vote cannot go on without those who should not any more: perhaps others can.
        return match may_vote(now, &wanted) {
            true => Some(Step::SetVoters(wanted)),
            false => next_role(now).map(Step::Write),
        };
    }
    if now.own.is_some_and(|own| !wanted.contains(&own)) {
        return successor(&now.membership, now.own, &now.caught_up).map(Step::HandOver);
    }
    let gone: BTreeSet<NodeId> = now.configured.difference(&members).copied().collect();
    if !gone.is_empty() {
        return Some(Step::Drop(gone));
    }
    next_role(now).map(Step::Write)
}

/// Whether these voters could go on at once: a majority of them is up and has the entries.
fn may_vote(now: &Situation, voters: &BTreeSet<NodeId>) -> bool {
    let is_ready = |id: &&NodeId| {
        let is_up = now.membership.members.get(*id).is_some_and(is_alive);
        is_up && (now.caught_up.contains(*id) || now.own == Some(**id))
    };
    !voters.is_empty() && voters.iter().filter(is_ready).count() > voters.len() / 2
}

/// Who can lead at once in the place of another.
pub(super) fn successor(
    membership: &Membership,
    leader: Option<NodeId>,
    caught_up: &BTreeSet<NodeId>,
) -> Option<NodeId> {
    let others = voters_of(membership).filter(|voter| Some(voter.id) != leader);
    let able = others.filter(|voter| voter.state == MemberState::Up && caught_up.contains(&voter.id));
    able.map(|voter| voter.id).next()
}

fn next_role(now: &Situation) -> Option<MemberCommand> {
    let wanted = voters_wanted(now.membership.members.len(), now.voters_max);
    let voters: Vec<&Member> = voters_of(&now.membership).collect();
    let mut candidates: Vec<&Member> = now.membership.members.values().collect();
    candidates.retain(|member| {
        member.role == Role::Learner && member.state == MemberState::Up && now.caught_up.contains(&member.id)
    });
    candidates.sort_by_key(|member| (member.joined_at, member.id));
    if voters.len() > wanted {
        return worst(&voters, now.own).map(learner);
    }
    // An even number of voters bears no more losses than the odd one below: so they come in pairs, except to an odd number.
    let missing = wanted.saturating_sub(voters.len());
    let can_complete = missing == 1 || candidates.len() >= 2 || voters.len().is_multiple_of(2);
    if missing > 0 {
        let next = candidates.first().filter(|_| can_complete)?;
        return Some(MemberCommand::SetRole {
            id: next.id,
            role: Role::Voter,
        });
    }
    let lost = voters.iter().find(|voter| now.long_down.contains(&voter.id))?;
    let next = candidates.first()?;
    Some(MemberCommand::Exchange {
        voter: lost.id,
        learner: next.id,
    })
}

fn learner(voter: NodeId) -> MemberCommand {
    MemberCommand::SetRole {
        id: voter,
        role: Role::Learner,
    }
}

/// The voter that can best be done without: one that is down, then one that is about to go, then the latest that joined;
/// the leader last.
fn worst(voters: &[&Member], leader: Option<NodeId>) -> Option<NodeId> {
    let rank = |member: &&&Member| {
        let state = match member.state {
            MemberState::Down => 2,
            MemberState::Draining => 1,
            MemberState::Up => 0,
        };
        (Some(member.id) != leader, state, member.joined_at, member.id)
    };
    voters.iter().max_by_key(rank).map(|member| member.id)
}

fn voters_of(membership: &Membership) -> impl Iterator<Item = &Member> {
    let members = membership.members.values();
    members.filter(|member| member.role == Role::Voter)
}

fn is_alive(member: &Member) -> bool {
    member.state != MemberState::Down
}

/// How an operator's wish that a member votes is written.
pub(super) fn promotion(
    membership: &Membership,
    id: NodeId,
    leader: Option<NodeId>,
    voters_max: usize,
) -> MemberCommand {
    let voters: Vec<&Member> = voters_of(membership).collect();
    let wanted = voters_wanted(membership.members.len(), voters_max);
    let is_voter = voters.iter().any(|voter| voter.id == id);
    match worst(&voters, leader) {
        Some(voter) if voters.len() >= wanted && !is_voter => MemberCommand::Exchange { voter, learner: id },
        _ => MemberCommand::SetRole {
            id,
            role: Role::Voter,
        },
    }
}

/// Who takes a voter's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exchange {
    For(NodeId),
    Nobody,
}

/// Who takes the place of a voter that an operator wants to vote no more.
pub(super) fn demotion(membership: &Membership, id: NodeId) -> Exchange {
    let learners = membership
        .members
        .values()
        .filter(|member| member.id != id && member.role == Role::Learner && member.state == MemberState::Up);
    match learners.min_by_key(|member| (member.joined_at, member.id)) {
        Some(learner) => Exchange::For(learner.id),
        None => Exchange::Nobody,
    }
}

/// Since when members are down, as seen from here.
#[derive(Debug)]
pub(super) struct DownSince<T>(BTreeMap<NodeId, T>);

impl<T> Default for DownSince<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Copy> DownSince<T> {
    /// Notes who is down at this moment.
    pub(super) fn note(&mut self, membership: &Membership, now: T) {
        let is_down = |id: &NodeId| {
            let member = membership.members.get(id);
            member.is_some_and(|member| member.state == MemberState::Down)
        };
        self.0.retain(|id, _| is_down(id));
        for id in membership.members.keys().filter(|id| is_down(id)) {
            self.0.entry(*id).or_insert(now);
        }
    }

    /// Those of which this holds since they are down.
    pub(super) fn of_which(&self, holds: impl Fn(T) -> bool) -> BTreeSet<NodeId> {
        let longer = self.0.iter().filter(|(_, since)| holds(**since));
        longer.map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
