//! When a majority last answered the leader: measured from before it was asked, so that it is never too late.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use troupe_protocol::id::NodeId;

use super::command::Term;

/// Notes who has answered.
pub(super) struct QuorumClock {
    answers: Mutex<HashMap<NodeId, (Term, Instant)>>,
    changes: watch::Sender<u64>,
    opened_at: Instant,
    /// How long whoever took part in a round votes for nobody else.
    silence: Duration,
}

impl QuorumClock {
    /// Of a node that was opened just now.
    pub(super) fn new(silence: Duration) -> Self {
        Self {
            answers: Mutex::default(),
            changes: watch::Sender::new(0),
            opened_at: Instant::now(),
            silence,
        }
    }

    /// From when on this node, in case it has led, is free to vote and to stand: each round that made it grant leases had
    /// its own voice too. That holds after it was deposed; and after a restart, which it may have led until.
    pub(super) fn free_at(&self) -> Instant {
        let answers = self.answers.lock();
        let last_led = answers.values().max();
        last_led.map_or(self.opened_at, |(_, followed_at)| *followed_at) + self.silence
    }

    /// A node has answered what the leader of this term sent to it at that moment.
    pub(super) fn answered(&self, node: NodeId, term: Term, sent_at: Instant) {
        let mut answers = self.answers.lock();
        let answer = answers.entry(node).or_insert((term, sent_at));
        *answer = (*answer).max((term, sent_at));
        drop(answers);
        self.changes
            .send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Whether a node has answered what the leader of this term sent then or later.
    pub(super) fn has_answered(&self, node: NodeId, term: Term, since: Instant) -> bool {
        let answers = self.answers.lock();
        let answer = answers.get(&node);
        answer.is_some_and(|(answered_in, at)| *answered_in == term && *at >= since)
    }

    /// Changes with each answer.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The latest moment such that a majority of each of the groups of voters answered what the leader of this term sent
    /// then or later. The leader itself counts as answering `now`.
    pub(super) fn quorum_at(
        &self,
        leader: NodeId,
        term: Term,
        voters: &[BTreeSet<NodeId>],
        now: Instant,
    ) -> Option<Instant> {
        let answers = self.answers.lock();
        let answered_at = |node: &NodeId| {
            if *node == leader {
                return Some(now);
            }
            let (answered_in, at) = answers.get(node)?;
            (*answered_in == term).then_some(*at)
        };
        let of_group = |group: &BTreeSet<NodeId>| {
            let mut times: Vec<Option<Instant>> = group.iter().map(answered_at).collect();
            times.sort_unstable_by(|a, b| b.cmp(a)); // the latest first, those who never answered last
            times.get(group.len() / 2).copied().flatten()
        };
        voters.iter().map(of_group).min().flatten()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn id(number: u128) -> NodeId {
        NodeId::from_ulid(ulid::Ulid(number))
    }

    fn group(ids: impl IntoIterator<Item = u128>) -> BTreeSet<NodeId> {
        ids.into_iter().map(id).collect()
    }

    #[test]
    fn who_has_led_votes_for_nobody_else_for_a_while() {
        let silence = Duration::from_millis(600);
        let clock = QuorumClock::new(silence);
        let opened_at = clock.opened_at;
        let at = |ms| opened_at + Duration::from_millis(ms);
        assert_eq!(clock.free_at(), at(600), "it may have led until it was restarted");
        clock.answered(id(2), Term(1), at(900));
        clock.answered(id(3), Term(1), at(800));
        assert_eq!(clock.free_at(), at(1_500));
        clock.answered(id(3), Term(3), at(1_600));
        assert_eq!(clock.free_at(), at(2_200));
    }

    #[test]
    fn a_majority_of_every_group_counts() {
        let clock = QuorumClock::new(Duration::ZERO);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let quorum = |groups: &[BTreeSet<NodeId>]| clock.quorum_at(id(1), Term(2), groups, at(100));
        assert_eq!(quorum(&[group([1])]), Some(at(100)));
        assert_eq!(quorum(&[group([1, 2, 3])]), None);
        clock.answered(id(2), Term(1), at(90));
        assert_eq!(
            quorum(&[group([1, 2, 3])]),
            None,
            "an answer of an earlier term counts"
        );
        clock.answered(id(2), Term(2), at(40));
        clock.answered(id(2), Term(2), at(30));
        assert_eq!(quorum(&[group([1, 2, 3])]), Some(at(40)));
        assert_eq!(
            quorum(&[group([1, 2])]),
            Some(at(40)),
            "of two, both are a majority"
        );
        assert_eq!(quorum(&[group([1, 2, 3, 4, 5])]), None);
        clock.answered(id(4), Term(2), at(20));
        assert_eq!(quorum(&[group([1, 2, 3, 4, 5])]), Some(at(20)));
        assert_eq!(quorum(&[group([1, 2, 3]), group([1, 4, 5])]), Some(at(20)));
        assert_eq!(
            quorum(&[group([2, 4, 5])]),
            Some(at(20)),
            "a leader without a vote does not count"
        );
    }
}
